//! What it costs a worker to take new tables, and control to make them: 1000 VIPs, each with a pool of 100 members.
//!
//! `cargo bench --bench swap`
//!
//! The worker runs over the in-memory port, a burst a round, with packets of many flows to all VIPs. Control compiles
//! on a thread of its own, so that the tables come out of another core's cache as they do in the daemon. Freeing is
//! control's work, and is not in the worker's time. Each number is the median over all publications, beside the
//! quartiles.

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "../tests/support/fleet.rs"]
mod fleet;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use fleet::{ACK, Packets, SYN};
use pointsman::control::compile::Plan;
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::flow::FlowTable;
use pointsman::dataplane::port::memory::{MemoryPort, frames};
use pointsman::dataplane::tables::Tables;
use pointsman::dataplane::worker::{BURST, Idle, Mailbox, Order, Parts, Worker};

const VIPS: u32 = 1000;
const MEMBERS: u32 = 100;
const FLOWS: u32 = 100_000;
const PUBLICATIONS: usize = 200;
/// Bursts before each publication, at the least: the worker's caches are what they are in steady work.
const USUAL: usize = 200;
/// Bursts after it that are looked at.
const AFTER: usize = 16;

struct Rig {
    worker: Worker<MemoryPort>,
    mailbox: Arc<Mailbox>,
    packets: Packets,
    next: u32,
}

impl Rig {
    fn new() -> Self {
        let members = (VIPS * MEMBERS) as usize;
        let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
        let worker = Worker::new(Parts {
            ports: vec![MemoryPort::new(4 * BURST)],
            frames: frames(8 * BURST, 2048),
            mailbox: Arc::clone(&mailbox),
            counters: Arc::new(Counters::new()),
            flows: Arc::new(FlowTable::new(2 * FLOWS as usize, members).expect("memory").0),
            new_flows: u64::MAX,
            idle: Idle::Spin,
        });
        Self { worker, mailbox, packets: Packets::new(VIPS), next: 0 }
    }

    fn publish(&self, tables: Arc<Tables>) {
        self.mailbox.order(Order::Publish(tables)).expect("room");
    }

    /// How long a round takes in which so many packets wait: each of another flow and VIP than the one before.
    fn round(&mut self, packets: usize, flags: u8) -> Duration {
        for _ in 0..packets {
            let packet = self.packets.of(self.next, flags);
            assert!(self.worker.ports()[0].deliver(packet));
            // Coprime to the number of flows: all of them take turns.
            self.next = (self.next + 37_501) % FLOWS;
        }
        let started = Instant::now();
        black_box(self.worker.round());
        let took = started.elapsed();
        self.worker.ports()[0].collect(usize::MAX, |frame| {
            black_box(frame);
        });
        took
    }
}

/// Control: lets one member's MAC be forgotten and learned again, compiles each time, and hands over when asked.
fn compile_on_and_on(mut plan: Plan, tables: &SyncSender<(Arc<Tables>, Duration)>) {
    let mut network = fleet::network(&plan.model);
    let interfaces = [fleet::INTERFACE.to_owned()];
    for generation in 1.. {
        let started = Instant::now();
        let compiled = Arc::new(plan.compile(&network, &interfaces, generation).tables);
        if tables.send((compiled, started.elapsed())).is_err() {
            return;
        }
        let round = generation as u32;
        fleet::set_known(&mut network, fleet::member(round / 2 % VIPS, 7), round.is_multiple_of(2));
    }
}

/// Medians and quartiles of what was measured at each publication.
#[derive(Default)]
struct Measured {
    compile: Vec<Duration>,
    idle_round: Vec<Duration>,
    idle_swap: Vec<Duration>,
    usual: Vec<Duration>,
    first: Vec<Duration>,
    after: Vec<Duration>,
}

fn measure(rig: &mut Rig, tables: &Receiver<(Arc<Tables>, Duration)>) -> Measured {
    let mut measured = Measured::default();
    for publication in 0..PUBLICATIONS {
        let mut usual = (0..USUAL).map(|_| rig.round(BURST, ACK)).collect::<Vec<_>>();
        let (new, compile) = loop {
            match tables.try_recv() {
                Ok(received) => break received,
                Err(_) => usual.push(rig.round(BURST, ACK)),
            }
        };
        measured.compile.push(compile);
        if publication.is_multiple_of(2) {
            // Taking the tables alone. The round before takes back the frames of the last burst.
            rig.round(0, ACK);
            measured.idle_round.push(rig.round(0, ACK));
            rig.publish(new);
            measured.idle_swap.push(rig.round(0, ACK));
        } else {
            measured.usual.extend(usual.split_off(usual.len() - AFTER));
            rig.publish(new);
            measured.first.push(rig.round(BURST, ACK));
            let after: Duration = (1..AFTER).map(|_| rig.round(BURST, ACK)).sum();
            measured.after.push(after / (AFTER as u32 - 1));
        }
        rig.mailbox.collect_retired();
    }
    measured
}

/// Lower quartile, median, upper quartile, µs.
fn quartiles(times: &mut [Duration]) -> [f64; 3] {
    times.sort();
    [1, 2, 3].map(|quarter| times[times.len() * quarter / 4].as_secs_f64() * 1e6)
}

fn print(what: &str, times: &mut [Duration]) -> f64 {
    let [lower, median, upper] = quartiles(times);
    println!("{what:<44} {median:>9.2} µs   ({lower:.2} … {upper:.2})");
    median
}

fn main() {
    // `cargo test --benches` asks whether it runs at all.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let started = Instant::now();
    let model = fleet::model(VIPS, MEMBERS);
    println!("{VIPS} VIPs with {MEMBERS} members each: configuration read in {:?}", started.elapsed());
    let started = Instant::now();
    let plan = Plan::new(model);
    println!("pools laid out (once, at start) in {:?}", started.elapsed());

    let mut rig = Rig::new();
    let (sender, receiver) = sync_channel(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let sender = sender;
            compile_on_and_on(plan, &sender);
        });
        // Here, so that its end ends control.
        let receiver = receiver;
        let (first, compile) = receiver.recv().expect("control compiles");
        println!("all tables compiled for the first time in {compile:?}");
        rig.publish(first);
        rig.round(0, SYN);
        for flags in [SYN, ACK] {
            for _ in 0..=FLOWS as usize / BURST {
                rig.round(BURST, flags);
            }
        }
        let mut measured = measure(&mut rig, &receiver);
        print("control: compiling after one member's change", &mut measured.compile);
        let empty = print("worker: an empty round", &mut measured.idle_round);
        let swap = print("worker: an empty round that takes new tables", &mut measured.idle_swap);
        let usual = print("worker: a usual burst of 64", &mut measured.usual);
        let first = print("worker: the burst that takes new tables", &mut measured.first);
        let after = print("worker: each of the 15 after it", &mut measured.after);
        println!("taking new tables: {:.2} µs", swap - empty);
        println!("taking new tables, and a burst by them: {:.2} µs more than a usual burst", first - usual);
        println!("each of the 15 bursts after it: {:.2} µs more", after - usual);
    });
}
