//! The table beside a naive map, under random traffic.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::super::ids::{MemberId, VipId};
use super::tests::count;
use super::*;

const TICK: u64 = 1 << 29;
const SECOND: u64 = 1_000_000_000;
const SIGNALS: [Signal; 5] = [Signal::Syn, Signal::Segment, Signal::Fin, Signal::Rst, Signal::Datagram];

#[derive(Debug, Clone)]
enum Step {
    /// A packet of one of few flows; VIP 1 is on any port, VIP 2 is UDP's.
    Packet { client: u8, vip: u16, port: u16, signal: usize },
    /// So many nanoseconds pass.
    Wait(u64),
    /// The hand moves on.
    Sweep(usize),
    /// The flow's member is gone.
    Rebind { client: u8, to: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..24u8, 0..3u16, 1..3u16, 0..4usize)
            .prop_map(|(client, vip, port, signal)| Step::Packet { client, vip, port, signal }),
        3 => (0..2 * SECOND).prop_map(Step::Wait),
        1 => (0..60 * SECOND).prop_map(Step::Wait),
        1 => (0..2000 * SECOND).prop_map(Step::Wait),
        2 => (1..20usize).prop_map(Step::Sweep),
        1 => (0..24u8, 0..1000u32).prop_map(|(client, to)| Step::Rebind { client, to }),
    ]
}

trait Sample: Key + std::hash::Hash {
    fn sample(client: u8, vip: VipId, port: u16) -> Self;
}

impl Sample for KeyV4 {
    fn sample(client: u8, vip: VipId, port: u16) -> Self {
        Self::new(Ipv4Addr::new(192, 0, 2, client), 1024, vip, port)
    }
}

impl Sample for KeyV6 {
    fn sample(client: u8, vip: VipId, port: u16) -> Self {
        Self::new(Ipv6Addr::from_bits(u128::from(client) << 64), 1024, vip, port)
    }
}

/// Timeouts in seconds: embryonic, established, closing, UDP.
const SECONDS: [[u64; 4]; 3] = [[30, 900, 10, 120], [5, 60, 1, 120], [30, 900, 10, 20]];

struct AllTimeouts([Timeouts; 3]);

impl TimeoutsOf for AllTimeouts {
    fn timeouts_of(&self, vip: VipId) -> &Timeouts {
        &self.0[usize::from(vip.0)]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    member: u32,
    state: FlowState,
    /// The tick that the table has for it.
    seen: u64,
}

impl Known {
    /// Ticks that it lives without a packet, written down again from the documentation of `Timeouts`.
    fn limit(&self, vip: VipId) -> u64 {
        let [embryonic, established, closing, udp] = SECONDS[usize::from(vip.0)];
        let seconds = match self.state {
            FlowState::Embryonic => embryonic,
            FlowState::Established => established,
            FlowState::Closing => closing,
            FlowState::Single | FlowState::Stream => udp,
        };
        (seconds * SECOND).div_ceil(TICK) + 1
    }

    fn is_expired(&self, vip: VipId, now: u64) -> bool {
        now - self.seen > self.limit(vip) + self.limit(vip) / 32
    }

    fn may_give_way(&self, vip: VipId, now: u64) -> bool {
        self.is_expired(vip, now) || (self.state.is_evictable() && now > self.seen)
    }

    /// What a packet makes of it; `None`: it is over and another begins.
    fn after(&self, signal: Signal, vip: VipId, now: u64) -> Option<Self> {
        use FlowState::{Closing, Embryonic, Established, Single, Stream};
        let state = match (self.state, signal) {
            (Closing, Signal::Syn) => return None,
            (_, Signal::Syn | Signal::Datagram) if self.is_expired(vip, now) => return None,
            (Embryonic, Signal::Segment) => Established,
            (Embryonic | Established, Signal::Fin | Signal::Rst) => Closing,
            (Single, Signal::Datagram) => Stream,
            (state, _) => state,
        };
        let is_written = state != self.state || now - self.seen > self.limit(vip) / 32;
        Some(Self { state, seen: if is_written { now } else { self.seen }, ..*self })
    }
}

struct Run<K: Sample> {
    table: Table<K>,
    hand: Hand,
    timeouts: AllTimeouts,
    known: HashMap<K, Known>,
    counts: HashMap<(MemberId, FlowState), i64>,
    now: u64,
    next_member: u32,
}

impl<K: Sample> Run<K> {
    fn new(lines: usize) -> Self {
        let secret = Secret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        let (_, hand) = Table::<K>::new(1, false, secret).expect("memory");
        let timeouts = SECONDS.map(|seconds| {
            let [embryonic, established, closing, udp] = seconds.map(Duration::from_secs);
            Timeouts::new(embryonic, established, closing, udp)
        });
        Self {
            table: Table::with_lines(lines, false, secret).expect("memory"),
            hand,
            timeouts: AllTimeouts(timeouts),
            known: HashMap::new(),
            counts: HashMap::new(),
            // Before the clock's first wrap, so that long runs cross it.
            now: (TICK << 23) - 300 * SECOND,
            next_member: 0,
        }
    }

    fn tick(&self) -> u64 {
        self.now / TICK
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(nanoseconds) => self.now += nanoseconds,
            Step::Packet { client, vip, port, signal } => {
                let signal = if vip == 2 { Signal::Datagram } else { SIGNALS[signal] };
                let key = K::sample(client, VipId(vip), if vip == 1 { port } else { 0 });
                self.packet(key, signal);
            }
            Step::Sweep(lines) => self.sweep(lines),
            Step::Rebind { client, to } => self.rebind(K::sample(client, VipId(0), 0), to),
        }
        self.compare();
    }

    fn packet(&mut self, key: K, signal: Signal) {
        let (place, now, tick) = (self.table.place(&key), Now(self.now), self.tick());
        let timeouts = *self.timeouts.timeouts_of(key.vip());
        let lookup = self.table.lookup(place, &key, (signal, now, &timeouts));
        let known = self.known.get(&key).copied();
        let after = known.and_then(|known| known.after(signal, key.vip(), tick));
        let counts = &mut self.counts;
        match (lookup, known, after) {
            (Lookup::Hit(hit), Some(known), Some(after)) => {
                assert_eq!((hit.member.0, hit.state), (after.member, after.state));
                assert_eq!(hit.is_news, known != after);
                self.table.advance(place, &key, (signal, now, &timeouts), |event| count(counts, event));
                self.known.insert(key, after);
            }
            (Lookup::Over, Some(_), None) | (Lookup::Miss, None, _) => {
                let member = self.next_member;
                self.next_member = (member + 1) % MEMBERS;
                let events = |event| count(counts, event);
                let insertion =
                    self.table.insert((place, &key), MemberId(member), (signal, now), &self.timeouts, events);
                match insertion {
                    Insertion::Inserted => self.inserted(key, known.is_some(), member, signal),
                    Insertion::NotInserted => self.refused(&key, signal),
                    Insertion::Existing(member) => panic!("nobody else inserts: {member:?}"),
                }
            }
            unlike => panic!("{signal:?} at tick {tick}: {unlike:?}"),
        }
    }

    /// The flow is in; at most one made room for it, and that one was allowed to.
    fn inserted(&mut self, key: K, was_there: bool, member: u32, signal: Signal) {
        let tick = self.tick();
        let there = self.snapshot();
        let gone: Vec<K> = self.known.keys().filter(|known| !there.contains_key(known)).copied().collect();
        assert!(gone.len() <= usize::from(!was_there), "{gone:?} made room for one");
        for gone in gone {
            let known = self.known.remove(&gone).expect("it was known");
            assert!(known.may_give_way(gone.vip(), tick), "{known:?} gave way");
            if !known.is_expired(gone.vip(), tick) {
                // An evictable one gives way only if nothing in either line is free or expired.
                let place = self.table.place(&key);
                for (other, other_known) in &self.known {
                    let (_, line) = self.whereabouts(other);
                    let is_near = line == place.primary || line == self.table.secondary(place);
                    assert!(!is_near || !other_known.is_expired(other.vip(), tick), "{other:?} was expired");
                    if is_near && other_known.state.is_evictable() {
                        assert!(other_known.seen >= known.seen, "{other:?} was older");
                    }
                }
            }
        }
        let state = signal.begins_as().expect("a reset is not inserted");
        self.known.insert(key, Known { member, state, seen: tick });
    }

    fn whereabouts(&self, key: &K) -> (Place, u32) {
        let place = self.table.place(key);
        let (slot, _) = self.table.find(place, key).expect("it is known");
        (place, slot.line)
    }

    /// The flow is not in: a reset, or nothing in its lines could make room.
    fn refused(&self, key: &K, signal: Signal) {
        if signal == Signal::Rst {
            return;
        }
        let place = self.table.place(key);
        for line in [place.primary, self.table.secondary(place)] {
            let entries = self.table.entries(line);
            for entry in 0..K::ENTRIES {
                let (other, word) = entries.read_any(entry);
                assert!(!word.is_never_used());
                match self.known.get(&other).filter(|_| !word.is_free()) {
                    Some(known) => assert!(!known.may_give_way(other.vip(), self.tick()), "{other:?} could make room"),
                    None => assert_eq!(u64::from(word.tick().get()), self.tick() & 0x7f_ffff, "the slot was free"),
                }
            }
        }
    }

    fn sweep(&mut self, lines: usize) {
        let mut ended = Vec::new();
        let counts = &mut self.counts;
        self.table.sweep(&mut self.hand, Now(self.now), lines, &self.timeouts, |event| {
            count(counts, event);
            ended.push(event);
        });
        let (there, tick) = (self.snapshot(), self.tick());
        let before = self.known.len();
        self.known.retain(|key, known| {
            let is_there = there.contains_key(key);
            assert!(is_there || known.is_expired(key.vip(), tick), "{known:?} was ended");
            assert!(!is_there || lines < self.table.lines() || !known.is_expired(key.vip(), tick), "{known:?} was not");
            is_there
        });
        assert_eq!(before - self.known.len(), ended.len());
    }

    fn rebind(&mut self, key: K, to: u32) {
        let tick = self.tick();
        let Some(known) = self.known.get_mut(&key) else { return };
        let (place, counts) = (self.table.place(&key), &mut self.counts);
        let from = MemberId(known.member);
        let becomes = |state| Signal::Segment.goes_on_elsewhere_as(state);
        let events = |event| count(counts, event);
        let bound = self.table.rebind((place, &key), (from, MemberId(to)), Now(self.now), becomes, events);
        assert_eq!(bound, MemberId(to));
        if known.member != to {
            *known = Known { member: to, state: becomes(known.state), seen: tick };
        }
    }

    fn snapshot(&self) -> HashMap<K, (u32, FlowState)> {
        let mut there = HashMap::new();
        for flow in self.table.iter(Now(self.now)) {
            let before = there.insert(flow.key, (flow.member.0, flow.state));
            assert_eq!(before, None, "{:?} is there twice", flow.key);
        }
        there
    }

    /// The table holds what the map holds, and the events add up to it.
    fn compare(&mut self) {
        let known = self.known.iter().map(|(key, known)| (*key, (known.member, known.state))).collect();
        assert_eq!(self.snapshot(), known);
        let mut expected = HashMap::new();
        for known in self.known.values() {
            *expected.entry((MemberId(known.member), known.state)).or_insert(0) += 1;
        }
        self.counts.retain(|_, number| *number != 0);
        assert_eq!(self.counts, expected);
        for key in self.known.keys() {
            assert!(self.table.find(self.table.place(key), key).is_some(), "{key:?} is not found");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_a_map_v4(lines in 2..12usize, steps in prop::collection::vec(step(), 1..400)) {
        let mut run = Run::<KeyV4>::new(lines);
        for step in &steps {
            run.step(step);
        }
    }

    #[test]
    fn the_table_is_a_map_v6(lines in 2..12usize, steps in prop::collection::vec(step(), 1..400)) {
        let mut run = Run::<KeyV6>::new(lines);
        for step in &steps {
            run.step(step);
        }
    }
}
