//! What control's work costs: Maglev tables, the sweep, and new tables for a worker.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::control::maglev::{Candidate, Layout};
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::flow::{FlowTable, Hands, KeyV4, Signal, Timeouts};
use pointsman::dataplane::limits::Limits;
use pointsman::dataplane::select::Seed;
use pointsman::dataplane::service::{Destination, ServiceTable};
use pointsman::dataplane::tables::{Interface, InterfaceId, Member, MemberId, Tables, Vip, VipAddress, VipId};

use super::cases::{Dice, cpu_time};
use super::generator::Loop;
use super::packet::{ACK, MAC, PORT, client, tcp_to};
use super::statistics::{Median, median};
use super::walk::{Forward, Walk, member, pool};

const FLOWS: u64 = 1_000_000;

/// For 1000 members of weight 1 and 65 537 slots.
pub(super) fn candidates() -> Vec<Candidate> {
    (0..1000)
        .map(|index| Candidate { address: (0x0a00_0001 + index).into(), port: 80, weight: 1, id: MemberId(index) })
        .collect()
}

/// Milliseconds for a pool's whole table, and for its slots after one member, or all but one, went down.
pub(super) fn maglev() -> Vec<(String, Median)> {
    let candidates = candidates();
    let layout = Layout::with_size(&candidates, 65_537);
    let milliseconds = |work: &dyn Fn()| {
        let times: Vec<f64> = (0..31).map(|_| timed(work).as_secs_f64() * 1e3).collect();
        median(&times).expect("values")
    };
    let build = || drop(black_box(Layout::with_size(black_box(&candidates), 65_537)));
    let one_down = || drop(black_box(layout.slots(|member| member.0 != 7)));
    let one_up = || drop(black_box(layout.slots(|member| member.0 == 7)));
    vec![
        ("maglev/build/65537x1000".to_owned(), milliseconds(&build)),
        ("maglev/one-down/65537x1000".to_owned(), milliseconds(&one_down)),
        ("maglev/one-up/65537x1000".to_owned(), milliseconds(&one_up)),
    ]
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = cpu_time();
    work();
    cpu_time().saturating_sub(start)
}

/// Steps of a round of the sweep, as the daemon takes them.
const STEPS: usize = 100;

/// A table that is full of embryonic flows, and what sweeps it.
pub(super) struct Sweep {
    flows: FlowTable,
    hands: Hands,
    tables: Tables,
}

impl Sweep {
    pub(super) fn new() -> Self {
        let (flows, hands) = FlowTable::new(FLOWS as usize, 1).expect("memory");
        let now = flows.now();
        for flow in 0..FLOWS {
            let (address, port) = client(flow);
            let key = KeyV4::new(address, port, VipId(0), 0);
            let place = flows.v4.place(&key);
            flows.v4.insert((place, &key), MemberId(0), (Signal::Syn, now), &Timeouts::default(), |_| {});
        }
        Self { flows, hands, tables: Tables::empty() }
    }

    /// CPU time of once round, and how many lines there are. Nothing expires: that is what nearly all rounds find.
    pub(super) fn round(&mut self) -> (Duration, u64) {
        let Self { flows, hands, tables } = self;
        let now = flows.now();
        let round = || (0..STEPS).for_each(|_| flows.sweep(hands, now, STEPS, tables));
        (timed(round), flows.v4.lines() as u64)
    }
}

/// Nanoseconds per line of four flows.
pub(super) fn sweep() -> (String, Median) {
    let mut sweep = Sweep::new();
    let per_line = |(time, lines): (Duration, u64)| time.as_nanos() as f64 / lines as f64;
    let times: Vec<f64> = (0..31).map(|_| per_line(sweep.round())).collect();
    ("sweep/line/1m".to_owned(), median(&times).expect("values"))
}

const VIPS: u32 = 1000;
const MEMBERS_EACH: u32 = 100;
const SLOTS: u32 = 65_537;

/// Rounds between making tables and publishing them: the worker is at home in its own again, and the new ones are in the
/// last-level cache at best, as when another core has just written them.
const BETWEEN: usize = 32;

/// A worker under traffic to 1000 VIPs of 100 members each.
pub(super) struct Swap {
    walk: Walk,
    slots: Vec<Arc<[MemberId]>>,
    services: ServiceTable,
    members: Arc<[Member]>,
    generation: u64,
}

fn vip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc612_0000 + index)
}

fn destination(index: u32) -> Destination {
    Destination { address: vip(index).into(), protocol: 6, port: PORT }
}

/// Tables as they are compiled after a member's health has changed: services and members stay in the memory where they
/// are, VIPs and their pools are new.
fn many(generation: u64, slots: &[Arc<[MemberId]>], services: &ServiceTable, members: &Arc<[Member]>) -> Tables {
    let announced = || [InterfaceId(0)].into_iter().collect();
    Tables {
        generation,
        services: services.clone(),
        vips: (0..VIPS)
            .zip(slots)
            .map(|(index, slots)| Vip {
                slots: Arc::clone(slots),
                timeouts: Timeouts::default(),
                destination: destination(index),
                pool: pool(index * MEMBERS_EACH..(index + 1) * MEMBERS_EACH),
            })
            .collect(),
        members: Arc::clone(members),
        interfaces: [Interface { mac: MAC }].into(),
        addresses: (0..VIPS).map(|index| VipAddress { address: vip(index).into(), announced: announced() }).collect(),
        seed: Seed::from_text("bench"),
        timeouts: Timeouts::default(),
        limits: Limits::default(),
    }
}

impl Swap {
    pub(super) fn new() -> Self {
        // Pools that did not change keep their slots from tables to tables.
        let pool = |index| (0..SLOTS).map(|slot| MemberId(index * MEMBERS_EACH + slot % MEMBERS_EACH)).collect();
        let slots: Vec<Arc<[MemberId]>> = (0..VIPS).map(pool).collect();
        let mut dice = Dice(11);
        let frames = (0..65_536_u32).map(|flow| tcp_to(vip(dice.roll(u64::from(VIPS)) as u32), flow.into(), ACK));
        let members = (VIPS * MEMBERS_EACH) as usize;
        let flows = FlowTable::new(1 << 17, members).expect("memory").0;
        let counters = Arc::new(Counters::new());
        let services: Vec<_> = (0..VIPS).map(|index| (destination(index), VipId(index as u16))).collect();
        let services = ServiceTable::new(&services);
        let all: Arc<[Member]> = (0..VIPS * MEMBERS_EACH).map(|id| member(Forward::Direct, id)).collect();
        let first = many(0, &slots, &services, &all);
        let mut walk = Walk::with(Loop::new(frames), (flows, counters), first, 1 << 32);
        for _ in 0..3 * 65_536 / 64 {
            walk.round();
        }
        let counted = walk.counted();
        assert!(counted.received == counted.transmitted && counted.begun > 65_000, "not under traffic: {counted:?}");
        Self { walk, slots, services, members: all, generation: 0 }
    }

    /// How much longer the round in which new tables are taken is than the one before it, in nanoseconds. (Not CPU
    /// time: asking the kernel would disturb rounds of a few microseconds. Medians leave out the interrupted ones.)
    pub(super) fn difference(&mut self) -> f64 {
        self.generation += 1;
        let tables = Arc::new(many(self.generation, &self.slots, &self.services, &self.members));
        for _ in 0..BETWEEN {
            self.walk.round();
        }
        let before = self.round();
        self.walk.publish(tables);
        let swapped = self.round();
        swapped - before
    }

    fn round(&mut self) -> f64 {
        let start = Instant::now();
        self.walk.round();
        start.elapsed().as_nanos() as f64
    }
}

/// Nanoseconds that new tables cost a worker.
pub(super) fn swap() -> (String, Median) {
    let mut swap = Swap::new();
    let differences: Vec<f64> = (0..301).map(|_| swap.difference()).collect();
    ("tables/swap/1000x100".to_owned(), median(&differences).expect("values"))
}
