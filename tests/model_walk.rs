//! The walk beside a naive model of it: random traffic, time that passes, members that come, go and change, an
//! exhausted budget and a connection table that is too small. Every difference is a bug.
//!
//! The model knows flows as a map and says of every packet what must become of it. The one thing that it does not know
//! is which of the table's lines a flow lies in: whether there was room it takes from the walk's own counters, and
//! checks that nothing else had to give way than what may.

mod support;

#[path = "model_walk/model.rs"]
mod model;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::Ipv4Addr;

use crossbeam::queue::ArrayQueue;
use model::{Budget, Config, DIRECT, Known, Model, Probe, SECOND, Seen, Told, VIPS};
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::flow::{FlowTable, Hands, KeyV4, NewFlowBudget, Now, Secret, Signal};
use pointsman::dataplane::port::Port;
use pointsman::dataplane::port::memory::{self, MemoryPort};
use pointsman::dataplane::process::{
    Ingress, Ledger, NOTHING, Packet, Prepared, State, apply, carry_out, conclude_known, conclude_rest, decide, prepare,
};
use pointsman::dataplane::tables::{InterfaceId, MemberId, Tables};
use pointsman::dataplane::verdict::{Decision, DropReason, FlowEffect, Verdict};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::{Frame, LB_MAC, TCP, UDP, tunnel_end};

const INGRESS: InterfaceId = InterfaceId(0);

/// The TCP flags that a client sends, and what they signal.
const SIGNALS: [(u8, Signal); 4] =
    [(0x02, Signal::Syn), (0x10, Signal::Segment), (0x11, Signal::Fin), (0x04, Signal::Rst)];

#[derive(Debug, Clone)]
enum Step {
    /// Packets that a worker takes at one moment.
    Burst(Vec<Probe>),
    /// Two packets of one flow, about which two workers decide before either has carried its decision out; the first
    /// may still work by the tables before these.
    Race { probe: Probe, second: Option<Signal>, is_stale: bool },
    /// So many nanoseconds pass.
    Wait(u64),
    /// The hand moves on.
    Sweep(usize),
    /// Control publishes.
    Swap(Config),
}

fn probe() -> impl Strategy<Value = Probe> {
    let signal = prop_oneof![9 => (0..4usize).prop_map(|index| Some(SIGNALS[index].1)), 1 => Just(None)];
    (0..48u8, 0..5u16, 1..3u16, signal, prop::bool::weighted(0.1)).prop_map(|(client, vip, port, signal, is_long)| {
        // VIP 2 is on any port, and only UDP on VIP 1.
        let port = [80, 53, port, 80, 80][usize::from(vip)];
        let signal = if vip == 1 { signal.map(|_| Signal::Datagram) } else { signal };
        Probe { client, vip, port, signal, is_long: is_long && signal.is_some() }
    })
}

fn config() -> impl Strategy<Value = Config> {
    let hop = prop_oneof![
        3 => (0..3u8, prop_oneof![4 => Just(1500), 1 => Just(500)]).prop_map(Some),
        1 => Just(None),
    ];
    let members = prop::collection::vec(hop, DIRECT as usize..=2 * DIRECT as usize);
    (members, prop::collection::vec(prop::bool::weighted(0.8), 2 * DIRECT as usize))
        .prop_map(|(members, takes_new)| Config { members, takes_new })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => prop::collection::vec(probe(), 1..12).prop_map(Step::Burst),
        3 => (probe(), 0..4usize, any::<bool>()).prop_map(|(probe, second, is_stale)| {
            let second = if probe.vip == 1 { Signal::Datagram } else { SIGNALS[second].1 };
            Step::Race { probe, second: Some(second), is_stale }
        }),
        4 => (0..SECOND).prop_map(Step::Wait),
        1 => (0..60 * SECOND).prop_map(Step::Wait),
        1 => (0..2000 * SECOND).prop_map(Step::Wait),
        2 => (1..20usize).prop_map(Step::Sweep),
        3 => config().prop_map(Step::Swap),
    ]
}

/// The frame that a client, or for an error somebody on the way, sends.
fn frame(probe: Probe) -> Vec<u8> {
    let (vip, data) = (VIPS[usize::from(probe.vip)], if probe.is_long { 600 } else { 0 });
    let (client, port) = (probe.address(), Probe::CLIENT_PORT);
    let Some(signal) = probe.signal else {
        let protocol = if vip.protocol == UDP { UDP } else { TCP };
        let reply = support::tcp_segment(probe.port, port, 400);
        let reply = Frame { source: vip.address, destination: client, ..Frame::ipv4(protocol, reply) }.packet();
        return Frame { destination: vip.address, ..Frame::icmp_error(3, 4, &reply[..28]) }.bytes();
    };
    let mut frame = match signal {
        Signal::Datagram => Frame::udp(port, probe.port, data),
        _ => Frame::tcp(port, probe.port, data),
    };
    if let Some((flags, _)) = SIGNALS.iter().find(|(_, one)| *one == signal) {
        frame.payload[13] = *flags;
    }
    Frame { source: client, destination: vip.address, ..frame }.bytes()
}

/// The walk, the model, and the moment.
struct Run {
    flows: FlowTable,
    hand: Hands,
    counters: Counters,
    budget: NewFlowBudget,
    /// What is published, and what was before.
    tables: Tables,
    tables_before: Tables,
    model: Model,
    now: u64,
}

/// A packet between the two halves of its walk.
struct Decided {
    prepared: Prepared,
    decision: Decision,
    port: MemoryPort,
    frame: memory::MemoryFrame,
}

impl Run {
    fn new(new_flows: u64) -> Self {
        let secret = Secret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03]);
        let (flows, hand) = FlowTable::with_secret(1, 2 * DIRECT as usize, secret).expect("memory");
        // Before the clock's first wrap, so that long runs cross it.
        let now = (model::TICK << 23) - 300 * SECOND;
        let config = Config { members: vec![Some((0, 1500)); 10], takes_new: vec![true; 10] };
        Self {
            flows,
            hand,
            counters: Counters::new(),
            budget: NewFlowBudget::new(new_flows, Now(now)),
            tables: config.tables(),
            tables_before: config.tables(),
            model: Model::new(config, Budget::new(new_flows, now)),
            now,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(nanoseconds) => self.now += nanoseconds,
            Step::Burst(probes) => self.burst(probes),
            Step::Race { probe, second, is_stale } => self.race(*probe, *second, *is_stale),
            Step::Sweep(lines) => {
                let steps = self.flows.v4.lines().div_ceil(*lines);
                self.flows.sweep(&mut self.hand, Now(self.now), steps, &self.tables);
                let is_whole = steps == 1;
                self.model.swept(&self.snapshot(), is_whole, self.now);
            }
            Step::Swap(config) => {
                self.tables_before = std::mem::replace(&mut self.tables, config.tables());
                self.model.swap(config.clone());
            }
        }
        self.compare();
    }

    fn burst(&mut self, probes: &[Probe]) {
        self.refill();
        // All are read before the first is decided about, as a worker does.
        let prepared: Vec<_> = probes.iter().map(|probe| self.prepare(*probe, false)).collect();
        for (&probe, prepared) in probes.iter().zip(prepared) {
            let decided = self.decide(probe, prepared, false);
            self.carry_out(probe, decided, (false, true));
        }
    }

    fn race(&mut self, probe: Probe, second: Option<Signal>, is_stale: bool) {
        self.refill();
        let other = Probe { signal: second, ..probe };
        let first = self.prepare(probe, is_stale);
        let first = self.decide(probe, first, is_stale);
        let second = self.prepare(other, false);
        let second = self.decide(other, second, false);
        self.carry_out(probe, first, (is_stale, false));
        self.carry_out(other, second, (false, false));
    }

    fn refill(&mut self) {
        self.budget.refill(Now(self.now));
        self.model.budget.refill(self.now);
    }

    fn tables(&self, is_stale: bool) -> &Tables {
        if is_stale { &self.tables_before } else { &self.tables }
    }

    fn prepare(&self, probe: Probe, is_stale: bool) -> (Prepared, MemoryPort, memory::MemoryFrame) {
        let port = MemoryPort::new(1);
        let mut slot = memory::frames(1, 2048).remove(0);
        assert!(port.write(&mut slot, &frame(probe)));
        let may_enter = self.budget.has_left();
        let state = State { tables: self.tables(is_stale), flows: &self.flows, may_enter };
        let mut prepared = NOTHING;
        prepare(&state, port.bytes(&slot), Ingress::by(INGRESS, state.tables), &mut prepared);
        (prepared, port, slot)
    }

    /// What the walk decides is what the model says.
    fn decide(
        &mut self,
        probe: Probe,
        (prepared, port, frame): (Prepared, MemoryPort, memory::MemoryFrame),
        is_stale: bool,
    ) -> Decided {
        let may_enter = self.budget.has_left();
        let state = State { tables: self.tables(is_stale), flows: &self.flows, may_enter };
        let packet = Packet { frame: port.bytes(&frame), ingress: INGRESS, headroom: port.headroom(&frame) };
        let decision = decide(&state, &packet, &prepared, Now(self.now));
        let expected = self.model.decide(probe, is_stale, self.now);
        assert_eq!((decision.verdict, decision.effects.flow), expected, "{probe:?}");
        assert_eq!(decision.effects.vip.map(|vip| vip.0), Some(probe.vip));
        Decided { prepared, decision, port, frame }
    }

    /// What the walk does is what the model says, to the frame's bytes: in one go, as a worker does it, or after what
    /// was decided earlier.
    fn carry_out(&mut self, probe: Probe, decided: Decided, (is_stale, in_one_go): (bool, bool)) {
        let Decided { prepared, decision, port, mut frame } = decided;
        let length = port.bytes(&frame).len();
        let (begun, refused) = (self.counters.flows_begun.get(), self.counters.flows_without_room.get());
        let tables = if is_stale { &self.tables_before } else { &self.tables };
        let state = State { tables, flows: &self.flows, may_enter: self.budget.has_left() };
        let (conflicts, now) = (ArrayQueue::new(1), Now(self.now));
        let mut ledger = Ledger { counters: &self.counters, budget: &mut self.budget, conflicts: &conflicts };
        let (egress, verdict) = if in_one_go {
            let known = conclude_known(&state, (&prepared, INGRESS), (&port, &mut frame), &ledger, now);
            let rest = || conclude_rest(&state, (&prepared, INGRESS), (&port, &mut frame), &mut ledger, now);
            (known.unwrap_or_else(rest), None)
        } else {
            let verdict = apply(&decision, (&prepared, length), &state, &mut ledger, now);
            (carry_out((verdict, &prepared), (&port, &mut frame), tables, INGRESS), Some(verdict))
        };
        let told = Told {
            begun: self.counters.flows_begun.get() - begun,
            without_room: self.counters.flows_without_room.get() - refused,
            there: self.snapshot(),
            length: length as u64,
        };
        let effect = (decision.verdict, decision.effects.flow);
        let expected = self.model.apply(probe, effect, &told, is_stale, self.now);
        assert!(verdict.is_none_or(|verdict| verdict == expected), "{probe:?}: {verdict:?}, not {expected:?}");
        match expected {
            Verdict::Transmit(member) => {
                assert_eq!(egress.interface(), Some(InterfaceId(0)));
                let config = self.model.config(is_stale);
                assert_went_to(config, member, port.bytes(&frame), length);
            }
            _ => assert_eq!(egress.interface(), None),
        }
    }

    fn snapshot(&self) -> HashMap<KeyV4, Known> {
        let mut there = HashMap::new();
        for flow in self.flows.v4.iter(Now(self.now)) {
            let seen = self.now / model::TICK - flow.idle / model::TICK;
            let before = there.insert(flow.key, Known { member: flow.member.0, state: flow.state, seen });
            assert_eq!(before, None, "{:?} is there twice", flow.key);
        }
        there
    }

    /// The table holds what the map holds; members' flows and all that is counted add up to it.
    fn compare(&self) {
        let (there, known) = (self.snapshot(), &self.model.flows);
        let differing: Vec<_> =
            there.keys().chain(known.keys()).filter(|key| there.get(key) != known.get(key)).collect();
        for key in &differing {
            println!("{key:?}: the table has {:?}, the model {:?}", there.get(key), known.get(key));
        }
        assert!(differing.is_empty(), "{} flows differ", differing.len());
        let counted = &self.model.counted;
        for id in 0..2 * DIRECT {
            let load = self.flows.loads.of(MemberId(id));
            assert_eq!((load.active(), load.inactive()), self.model.load(id), "member {id}");
            let traffic = self.counters.member(MemberId(id));
            assert_eq!((traffic.packets.get(), traffic.bytes.get()), counted.member(id), "member {id}");
        }
        for (id, vip) in (0..).zip(&counted.vips) {
            let traffic = self.counters.vip(pointsman::dataplane::tables::VipId(id));
            assert_eq!((traffic.packets.get(), traffic.bytes.get()), *vip, "VIP {id}");
        }
        for reason in DropReason::ALL {
            let expected = counted.drops.get(reason).copied().unwrap_or(0);
            assert_eq!(self.counters.dropped_for(*reason).get(), expected, "{reason:?}");
        }
        assert_eq!(self.counters.flows_begun.get(), counted.begun);
        assert_eq!(self.counters.flows_over_budget.get(), counted.over_budget);
        assert_eq!(self.counters.flows_without_room.get(), counted.without_room);
        assert_eq!(self.counters.flows_rebound.get(), counted.rebound);
    }
}

/// The frame has the MACs of its member's way, and for a tunnel the outer destination.
fn assert_went_to(config: &Config, member: MemberId, bytes: &[u8], length_before: usize) {
    let (variant, _) = config.member(member.0).expect("it can be reached");
    assert_eq!(bytes[..6], model::mac(member.0, variant));
    assert_eq!(bytes[6..12], LB_MAC);
    let is_tunnel = member.0 >= DIRECT;
    assert_eq!(bytes.len(), length_before + if is_tunnel { 20 } else { 0 });
    if is_tunnel {
        let outer: [u8; 4] = bytes[30..34].try_into().expect("four bytes");
        assert_eq!(Ipv4Addr::from(outer), tunnel_end(member.0 as u8));
    }
}

#[test]
fn the_walk_does_what_a_naive_map_says() {
    let config =
        ProptestConfig { cases: 400, source_file: Some(file!()), max_shrink_iters: 4000, ..ProptestConfig::default() };
    let strategy = (prop_oneof![Just(2u64), Just(40), Just(1_000_000)], prop::collection::vec(step(), 1..200));
    let seen = RefCell::new(Seen::default());
    let run = TestRunner::new(config).run(&strategy, |(new_flows, steps)| {
        let mut run = Run::new(new_flows);
        for step in &steps {
            run.step(step);
        }
        seen.borrow_mut().add(&run.model.seen);
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
    // A model that never gets where it hurts proves nothing.
    let seen = seen.into_inner();
    println!("{seen:?}");
    for effect in [FlowEffect::None, FlowEffect::Advance, FlowEffect::Insert, FlowEffect::TakeOver, FlowEffect::Rebind]
    {
        assert!(seen.effects.contains_key(&(effect as u8)), "no packet's effect was {effect:?}");
    }
    for (what, number) in [
        ("evicted", seen.evicted),
        ("without room", seen.without_room),
        ("over budget", seen.over_budget),
        ("existing", seen.existing),
        ("dropped", seen.dropped),
        ("swept", seen.swept),
    ] {
        assert!(number > 0, "nothing was {what}");
    }
}
