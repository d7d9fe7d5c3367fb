//! Tables that are published under traffic cost no packet, and no flow its member.
//!
//! The worker runs over the in-memory port. Packets arrive by its thread's CPU time, so that what a busy machine takes
//! away from the thread is no loss of ours, and a worker that is held up by a publication is.

mod support;

#[path = "support/fleet.rs"]
mod fleet;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fleet::{ACK, Packets, SYN};
use nix::time::{ClockId, clock_gettime};
use pointsman::control::compile::Plan;
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::flow::FlowTable;
use pointsman::dataplane::port::memory::{MemoryPort, frames};
use pointsman::dataplane::tables::Tables;
use pointsman::dataplane::worker::{BURST, Idle, Mailbox, Order, Parts, Worker};

const VIPS: u32 = 100;
const MEMBERS: u32 = 20;
const FLOWS: u32 = 20_000;
/// Packets that wait for a worker which is held up: as many as a real ring holds by default.
const RING: usize = 2048;
const FRAMES: usize = 4 * RING;
/// The longest that an attempt may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// In one attempt.
const PUBLICATIONS: u64 = 100;
/// A virtual machine may be taken from its CPU without its clock knowing, for longer than a ring lasts: so most of so
/// many attempts are to lose nothing. What a worker does at every publication would cost packets in each.
const ATTEMPTS: usize = 9;
const MOST: usize = ATTEMPTS / 2 + 1;
/// Packets are timed in so many stretches of one for each flow.
const STRETCHES: usize = 20;

/// What the thread has used of its CPU, ns.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
    Duration::from(time).as_nanos() as u64
}

struct Rig {
    worker: Worker<MemoryPort>,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    packets: Packets,
    /// Packets so far: one of each flow, over and over.
    sent: u64,
    lost: u64,
    collected: u64,
    /// The MAC that each flow's last packet went to.
    went_to: Vec<[u8; 6]>,
    /// The members that flows have left, and how many times.
    left: HashMap<[u8; 6], u64>,
}

impl Rig {
    fn new() -> Self {
        let flows = FlowTable::new(2 * FLOWS as usize, (VIPS * MEMBERS) as usize).expect("memory").0;
        let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
        let counters = Arc::new(Counters::new());
        let worker = Worker::new(Parts {
            ports: vec![MemoryPort::new(RING)],
            frames: frames(FRAMES, 512),
            mailbox: Arc::clone(&mailbox),
            counters: Arc::clone(&counters),
            flows: Arc::new(flows),
            new_flows: u64::MAX,
            idle: Idle::Spin,
        });
        let went_to = vec![[0; 6]; FLOWS as usize];
        let packets = Packets::new(VIPS);
        Self { worker, mailbox, counters, packets, sent: 0, lost: 0, collected: 0, went_to, left: HashMap::new() }
    }

    /// So many packets arrive, and the worker has a round.
    fn round(&mut self, arriving: u64, flags: u8) {
        for _ in 0..arriving {
            let number = (self.sent % u64::from(FLOWS)) as u32;
            let is_taken = self.worker.ports()[0].deliver(self.packets.of(number, flags));
            self.sent += 1;
            self.lost += u64::from(!is_taken);
        }
        self.worker.round();
        let Self { worker, went_to, left, collected, .. } = self;
        *collected += worker.ports()[0].collect(usize::MAX, |frame| {
            let (number, mac) = (Packets::number(frame), *frame.first_chunk().expect("a MAC"));
            let before = std::mem::replace(&mut went_to[number as usize], mac);
            if before != [0; 6] && before != mac {
                *left.entry(before).or_default() += 1;
            }
        }) as u64;
    }

    /// CPU time of a packet when there is always another, ns: the most that it was in a few stretches.
    fn cost(&mut self) -> u64 {
        let stretch = |_| {
            let (before, packets) = (cpu_time(), u64::from(FLOWS));
            for _ in 0..packets / BURST as u64 {
                self.round(BURST as u64, ACK);
            }
            (cpu_time() - before) / packets
        };
        (0..STRETCHES).map(stretch).max().unwrap_or(1)
    }
}

/// What control does.
const COMPILES_ONLY: u8 = 0;
const PUBLISHES: u8 = 1;
const ENDS: u8 = 2;

/// Control: lets one member's MAC be forgotten and learned again, and publishes each time, when the worker has taken
/// what was before. Members 7 of pools are those that come and go.
fn publish_on_and_on(
    (mailbox, counters): (&Mailbox, &Counters),
    plan: &mut Plan,
    does: &AtomicU8,
) -> Vec<Weak<Tables>> {
    let mut network = fleet::network(&plan.model);
    let interfaces = [fleet::INTERFACE.to_owned()];
    let first = counters.generation.get() + 1;
    let mut published = Vec::new();
    for round in 0.. {
        fleet::set_known(&mut network, fleet::member(round / 2 % VIPS, 7), !round.is_multiple_of(2));
        let generation = first + published.len() as u64;
        let tables = Arc::new(plan.compile(&network, &interfaces, generation).tables);
        while counters.generation.get() + 1 < generation && does.load(Ordering::Relaxed) == PUBLISHES {
            std::thread::yield_now();
        }
        match does.load(Ordering::Relaxed) {
            COMPILES_ONLY => {}
            PUBLISHES => {
                published.push(Arc::downgrade(&tables));
                mailbox.order(Order::Publish(tables)).expect("there is room");
            }
            _ => break,
        }
    }
    published
}

/// So many publications under half load, in which packets may be lost to full rings and to nothing else; says how many
/// were.
fn publish_under_load(rig: &mut Rig, plan: &mut Plan) -> u64 {
    let (mailbox, counters) = (Arc::clone(&rig.mailbox), Arc::clone(&rig.counters));
    let (does, started) = (AtomicU8::new(COMPILES_ONLY), Instant::now());
    let (generation, lost) = (rig.counters.generation.get(), rig.lost);
    rig.left.clear();
    let (published, cost, before) = std::thread::scope(|scope| {
        let control = scope.spawn(|| publish_on_and_on((&mailbox, &counters), plan, &does));
        // What a packet costs beside a control thread that is as busy as it will be.
        let cost = rig.cost();
        does.store(PUBLISHES, Ordering::Relaxed);
        let (began, before) = (cpu_time(), rig.sent);
        let mut is_last = false;
        while !is_last {
            // What came while the last tables were taken, too.
            is_last = rig.counters.generation.get() >= generation + PUBLICATIONS || started.elapsed() > PATIENCE;
            // Half load: a packet for every two that there is time for.
            let due = (cpu_time() - began) / (2 * cost);
            rig.round(due - (rig.sent - before), ACK);
        }
        does.store(ENDS, Ordering::Relaxed);
        (control.join().expect("control does not panic"), cost, before)
    });
    // What is left in the rings, and with control's last orders.
    for _ in 0..=RING / BURST {
        rig.round(0, ACK);
    }

    let (packets, number, lost) = (rig.sent - before, published.len(), rig.lost - lost);
    let moves: u64 = rig.left.values().sum();
    println!("{packets} packets, one per {} ns, {number} publications: {lost} lost, {moves} moves", 2 * cost);
    assert!(rig.counters.generation.get() >= generation + PUBLICATIONS, "the worker has taken them");
    assert_eq!((rig.collected + rig.lost, rig.counters.dropped()), (rig.sent, 0));
    assert_eq!(rig.worker.frames(), FRAMES);
    assert!(!rig.left.is_empty(), "members came and went");
    let flapping: HashSet<[u8; 6]> = (0..VIPS).map(|vip| fleet::mac_of(fleet::member(vip, 7))).collect();
    assert!(rig.left.keys().all(|mac| flapping.contains(mac)), "no other member's flows moved: {:?}", rig.left);
    rig.mailbox.collect_retired();
    let alive = published.iter().filter(|tables| tables.strong_count() > 0).count();
    assert_eq!(alive, 1, "control frees all but those that the worker works by");
    lost
}

#[test]
fn publishing_at_half_load_loses_no_packet_and_moves_no_flow() {
    let mut plan = Plan::new(fleet::model(VIPS, MEMBERS));
    let network = fleet::network(&plan.model);
    let first = plan.compile(&network, &[fleet::INTERFACE.to_owned()], 1);
    assert_eq!(first.problems, Vec::<String>::new());
    let mut rig = Rig::new();
    rig.mailbox.order(Order::Publish(Arc::new(first.tables))).expect("room");
    rig.round(0, SYN);
    for flags in [SYN, ACK] {
        for _ in 0..FLOWS / 50 {
            rig.round(50, flags);
        }
    }
    let lossless = (0..ATTEMPTS).filter(|_| publish_under_load(&mut rig, &mut plan) == 0);
    assert_eq!(lossless.take(MOST).count(), MOST, "of {ATTEMPTS} attempts most lost packets");
}
