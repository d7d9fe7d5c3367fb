//! What must become of packets, as naively as it can be said.

#![allow(missing_docs, unreachable_pub, reason = "test code")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use pointsman::dataplane::encap::{Source, Template};
use pointsman::dataplane::flow::{FlowState, KeyV4, Signal, Timeouts};
use pointsman::dataplane::parse::FlowKey;
use pointsman::dataplane::select::{Seed, select};
use pointsman::dataplane::tables::{InterfaceId, Member, MemberId, Tables, VipId, Way};
use pointsman::dataplane::verdict::{DropReason, FlowEffect, Verdict};

use super::support::{self, LB_MAC, TCP, TUNNEL_SOURCE, UDP, tunnel_end};

pub const TICK: u64 = 1 << 29;
pub const SECOND: u64 = 1_000_000_000;

/// Members of either pool: ids below this are reached directly, as many above it in tunnels.
pub const DIRECT: u32 = 5;

/// A VIP of `support::tables`.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    pub address: Ipv4Addr,
    pub protocol: u8,
    /// 0: any.
    pub port: u16,
    /// The first of its members' ids; `None`: it has none.
    pub members: Option<u32>,
    /// Seconds: embryonic, established, closing, UDP.
    pub timeouts: [u64; 4],
}

const fn service(last: u8, protocol: u8, port: u16, members: Option<u32>, timeouts: [u64; 4]) -> Service {
    Service { address: Ipv4Addr::new(203, 0, 113, last), protocol, port, members, timeouts }
}

/// Indexed by id.
pub const VIPS: [Service; 5] = [
    service(2, TCP, 80, Some(0), [30, 900, 10, 120]),
    service(2, UDP, 53, Some(0), [30, 900, 10, 20]),
    service(3, TCP, 0, Some(0), [5, 60, 1, 120]),
    service(4, TCP, 80, None, [30, 900, 10, 120]),
    service(6, TCP, 80, Some(DIRECT), [2, 30, 5, 9]),
];

/// What control knows of the members.
#[derive(Debug, Clone)]
pub struct Config {
    /// By id: which of its MACs it has, and the MTU on the way to it; `None`: it cannot be reached. Ids beyond the end
    /// are not there at all.
    pub members: Vec<Option<(u8, u16)>>,
    /// By id: whether new flows are for it too.
    pub takes_new: Vec<bool>,
}

pub fn mac(member: u32, variant: u8) -> [u8; 6] {
    [0x02, 0, 0, variant, 2, member as u8]
}

impl Config {
    pub fn member(&self, id: u32) -> Option<(u8, u16)> {
        self.members.get(id as usize).copied().flatten()
    }

    fn slots(&self, service: &Service) -> Arc<[MemberId]> {
        let Some(first) = service.members else { return Arc::new([]) };
        let takes = |id: &u32| self.member(*id).is_some() && self.takes_new[*id as usize];
        let usable: Vec<u32> = (first..first + DIRECT).filter(takes).collect();
        // Not in order, so that a slot's number does not tell its member.
        (0..usable.len() * 11).map(|slot| MemberId(usable[slot * 7 % usable.len()])).collect()
    }

    pub fn tables(&self) -> Tables {
        let mut tables = support::tables(1, 1500);
        for (vip, service) in tables.vips.iter_mut().zip(&VIPS) {
            let [embryonic, established, closing, udp] = service.timeouts.map(Duration::from_secs);
            vip.timeouts = Timeouts::new(embryonic, established, closing, udp);
            vip.slots = self.slots(service);
        }
        let member = |(id, hop): (u32, &Option<(u8, u16)>)| {
            let (way, largest) = match *hop {
                None => (Way::None, 0),
                Some((variant, mtu)) => {
                    let mut macs = [0; 12];
                    macs[..6].copy_from_slice(&mac(id, variant));
                    macs[6..].copy_from_slice(&LB_MAC);
                    let source = Source { address: TUNNEL_SOURCE.into(), varying: 0 };
                    let template = || Template::new(source, tunnel_end(id as u8).into());
                    if id < DIRECT { (Way::Direct(macs), mtu) } else { (Way::Ipip(macs, template()), mtu - 20) }
                }
            };
            Member { way, egress: InterfaceId(0), largest }
        };
        tables.members = (0..).zip(&self.members).map(member).collect();
        tables
    }
}

/// A packet.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub client: u8,
    pub vip: u16,
    pub port: u16,
    /// `None`: it is an ICMP error about the flow.
    pub signal: Option<Signal>,
    /// Longer than some members' MTU.
    pub is_long: bool,
}

impl Probe {
    pub const CLIENT_PORT: u16 = 1024;

    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.client)
    }

    fn service(self) -> &'static Service {
        &VIPS[usize::from(self.vip)]
    }

    fn key(self) -> KeyV4 {
        let port = if self.service().port == 0 { self.port } else { 0 };
        KeyV4::new(self.address(), Self::CLIENT_PORT, VipId(self.vip), port)
    }

    fn on_the_wire(self) -> FlowKey {
        let service = self.service();
        FlowKey {
            source: self.address().into(),
            destination: service.address.into(),
            source_port: Self::CLIENT_PORT,
            destination_port: self.port,
            protocol: service.protocol,
        }
    }
}

/// What the map remembers of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub member: u32,
    pub state: FlowState,
    /// The tick that the table has for it.
    pub seen: u64,
}

impl Known {
    /// Ticks that it lives without a packet: the documentation of `Timeouts`.
    fn limit(&self, vip: u16) -> u64 {
        let [embryonic, established, closing, udp] = VIPS[usize::from(vip)].timeouts;
        let seconds = match self.state {
            FlowState::Embryonic => embryonic,
            FlowState::Established => established,
            FlowState::Closing => closing,
            FlowState::Single | FlowState::Stream => udp,
        };
        (seconds * SECOND).div_ceil(TICK) + 1
    }

    fn is_expired(&self, vip: u16, tick: u64) -> bool {
        tick - self.seen > self.limit(vip) + self.limit(vip) / 32
    }

    fn may_give_way(&self, vip: u16, tick: u64) -> bool {
        self.is_expired(vip, tick) || (self.state.is_evictable() && tick > self.seen)
    }

    /// What a packet makes of it; `None`: it is over and another begins.
    fn after(&self, signal: Signal, vip: u16, tick: u64) -> Option<Self> {
        use FlowState::{Closing, Embryonic, Established, Single, Stream};
        let state = match (self.state, signal) {
            (Closing, Signal::Syn) => return None,
            (_, Signal::Syn | Signal::Datagram) if self.is_expired(vip, tick) => return None,
            (Embryonic, Signal::Segment) => Established,
            (Embryonic | Established, Signal::Fin | Signal::Rst) => Closing,
            (Single, Signal::Datagram) => Stream,
            (state, _) => state,
        };
        let is_written = state != self.state || tick - self.seen > self.limit(vip) / 32;
        Some(Self { state, seen: if is_written { tick } else { self.seen }, ..*self })
    }
}

/// New flows that may still be entered: the documentation of `NewFlowBudget`, in billionths.
#[derive(Debug)]
pub struct Budget {
    per_second: i128,
    tokens: i128,
    at: u64,
}

impl Budget {
    pub fn new(per_second: u64, at: u64) -> Self {
        let per_second = i128::from(per_second);
        Self { per_second, tokens: Self::most(per_second), at }
    }

    fn most(per_second: i128) -> i128 {
        per_second * 100_000_000 + 1_000_000_000
    }

    pub fn refill(&mut self, now: u64) {
        self.tokens += i128::from(now - self.at) * self.per_second;
        self.tokens = self.tokens.min(Self::most(self.per_second));
        self.at = now;
    }

    fn has_left(&self) -> bool {
        self.tokens >= 1_000_000_000
    }

    /// What was decided before may run it into debt.
    fn take(&mut self) {
        self.tokens -= 1_000_000_000;
    }
}

/// What should have been counted. Traffic is packets and bytes.
#[derive(Debug, Default)]
pub struct Counted {
    pub vips: [(u64, u64); VIPS.len()],
    pub drops: HashMap<DropReason, u64>,
    pub begun: u64,
    pub over_budget: u64,
    pub without_room: u64,
    pub rebound: u64,
    members: HashMap<u32, (u64, u64)>,
}

impl Counted {
    pub fn member(&self, id: u32) -> (u64, u64) {
        self.members.get(&id).copied().unwrap_or_default()
    }
}

/// How often the runs came where they should.
#[derive(Debug, Default)]
pub struct Seen {
    pub effects: HashMap<u8, u64>,
    pub evicted: u64,
    pub without_room: u64,
    pub over_budget: u64,
    pub existing: u64,
    pub dropped: u64,
    pub swept: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        for (effect, number) in &other.effects {
            *self.effects.entry(*effect).or_default() += number;
        }
        self.evicted += other.evicted;
        self.without_room += other.without_room;
        self.over_budget += other.over_budget;
        self.existing += other.existing;
        self.dropped += other.dropped;
        self.swept += other.swept;
    }
}

/// What the walk says it has done.
pub struct Told {
    /// Flows entered, and flows for which there was no room: by its counters, for this packet.
    pub begun: u64,
    pub without_room: u64,
    /// What the table holds afterwards.
    pub there: HashMap<KeyV4, Known>,
    /// The frame's length, bytes.
    pub length: u64,
}

/// A map of flows, and what was published.
pub struct Model {
    pub flows: HashMap<KeyV4, Known>,
    pub budget: Budget,
    pub counted: Counted,
    pub seen: Seen,
    config: Config,
    config_before: Config,
    /// The last tick in which slots of the table were given back, and how many: nobody may have them within it.
    given_back: (u64, usize),
}

impl Model {
    pub fn new(config: Config, budget: Budget) -> Self {
        Self {
            flows: HashMap::new(),
            budget,
            counted: Counted::default(),
            seen: Seen::default(),
            config_before: config.clone(),
            config,
            given_back: (0, 0),
        }
    }

    pub fn swap(&mut self, config: Config) {
        self.config_before = std::mem::replace(&mut self.config, config);
    }

    pub fn config(&self, is_stale: bool) -> &Config {
        if is_stale { &self.config_before } else { &self.config }
    }

    /// Active and inactive flows of a member.
    pub fn load(&self, id: u32) -> (u32, u32) {
        let of_member = self.flows.values().filter(|known| known.member == id);
        of_member.fold((0, 0), |(active, inactive), known| match known.state {
            FlowState::Closing => (active, inactive + 1),
            _ => (active + 1, inactive),
        })
    }

    /// What must become of a packet.
    pub fn decide(&mut self, probe: Probe, is_stale: bool, now: u64) -> (Verdict, FlowEffect) {
        let config = self.config(is_stale);
        let known = self.flows.get(&probe.key()).copied();
        let asked = probe.signal.unwrap_or(Signal::Segment);
        let after = known.map(|known| known.after(asked, probe.vip, now / TICK));
        let can_be_reached = |known: &Known| config.member(known.member).is_some();
        let (member, effect) = match (known, after, probe.signal) {
            (Some(known), Some(Some(after)), signal) if can_be_reached(&known) => {
                let is_news = signal.is_some() && after != known;
                (Some(known.member), if is_news { FlowEffect::Advance } else { FlowEffect::None })
            }
            (_, after, signal) => {
                let slots = config.slots(probe.service());
                let chosen = select(Seed::from_text("test"), &slots, &probe.on_the_wire()).map(|member| member.0);
                let effect = match (after, signal) {
                    (_, None) => FlowEffect::None,
                    (Some(Some(_)), _) => FlowEffect::Rebind,
                    (_, Some(Signal::Rst)) => FlowEffect::None,
                    (Some(None), _) => FlowEffect::TakeOver,
                    (None, _) if !self.budget.has_left() => FlowEffect::Hashed,
                    (None, _) => FlowEffect::Insert,
                };
                (chosen, effect)
            }
        };
        let drop = |reason| (Verdict::Drop(reason), FlowEffect::None);
        let decision = match member.map(|member| self.sent_to(member, probe, is_stale)) {
            Some(verdict @ Verdict::Transmit(_)) => (verdict, effect),
            Some(Verdict::Drop(reason)) => drop(reason),
            _ => drop(DropReason::NoMember),
        };
        *self.seen.effects.entry(decision.1 as u8).or_default() += 1;
        decision
    }

    /// What must become of a packet to this member.
    fn sent_to(&self, member: u32, probe: Probe, is_stale: bool) -> Verdict {
        let Some((_, mtu)) = self.config(is_stale).member(member) else { return Verdict::Drop(DropReason::NoMember) };
        let header = if probe.signal == Some(Signal::Datagram) { 20 + 8 } else { 20 + 20 };
        let (is_tunnel, length) = (member >= DIRECT, if probe.is_long { header + 600 } else { 0 });
        match is_tunnel {
            true if length + 20 > mtu => Verdict::Drop(DropReason::TunnelOversize),
            false if length > mtu => Verdict::Drop(DropReason::Oversize),
            _ => Verdict::Transmit(MemberId(member)),
        }
    }

    /// What must follow from a decision, given whether there was room; returns the verdict that must come of it.
    pub fn apply(
        &mut self,
        probe: Probe,
        (verdict, effect): (Verdict, FlowEffect),
        told: &Told,
        is_stale: bool,
        now: u64,
    ) -> Verdict {
        let vip = &mut self.counted.vips[usize::from(probe.vip)];
        *vip = (vip.0 + 1, vip.1 + told.length);
        match verdict {
            Verdict::Transmit(MemberId(decided)) => {
                // The flow may have another member by now, and the packet may not fit on the way to that one.
                let member = self.remember(probe, (decided, effect), told, is_stale, now);
                let verdict = if member == decided { verdict } else { self.sent_to(member, probe, is_stale) };
                if let Verdict::Drop(reason) = verdict {
                    *self.counted.drops.entry(reason).or_default() += 1;
                } else {
                    let counted = self.counted.members.entry(member).or_default();
                    *counted = (counted.0 + 1, counted.1 + told.length);
                }
                verdict
            }
            Verdict::Drop(reason) => {
                assert_eq!((told.begun, told.without_room), (0, 0));
                *self.counted.drops.entry(reason).or_default() += 1;
                self.seen.dropped += 1;
                verdict
            }
            Verdict::Answer(_) => panic!("no packet here asks for an answer"),
        }
    }

    fn remember(
        &mut self,
        probe: Probe,
        (member, effect): (u32, FlowEffect),
        told: &Told,
        is_stale: bool,
        now: u64,
    ) -> u32 {
        let (key, tick) = (probe.key(), now / TICK);
        // Another packet of the same flow may have been quicker.
        let known = self.flows.get(&key).copied();
        let Some(signal) = probe.signal.filter(|_| effect != FlowEffect::None) else {
            assert_eq!((told.begun, told.without_room), (0, 0));
            return member;
        };
        let after = known.and_then(|known| known.after(signal, probe.vip, tick));
        let can_be_reached = after.is_some_and(|after| self.config(is_stale).member(after.member).is_some());
        if effect == FlowEffect::Insert {
            self.budget.take();
        }
        match (effect, after) {
            (FlowEffect::Hashed, _) => {
                self.counted.over_budget += 1;
                self.seen.over_budget += 1;
                assert_eq!((told.begun, told.without_room), (0, 0));
                member
            }
            (FlowEffect::Insert | FlowEffect::TakeOver, Some(after)) => {
                self.seen.existing += 1;
                assert_eq!((told.begun, told.without_room), (0, 0));
                if can_be_reached { after.member } else { member }
            }
            (FlowEffect::Insert | FlowEffect::TakeOver, None) => {
                self.enter(probe, member, told, known.is_some(), tick);
                member
            }
            (FlowEffect::Rebind, Some(after)) if can_be_reached => {
                self.flows.insert(key, after);
                after.member
            }
            (FlowEffect::Rebind, Some(_)) => {
                self.counted.rebound += 1;
                // Its new member does not know the connection, and resets it; but a SYN begins one.
                let state = match (known.map(|known| known.state), signal) {
                    (Some(FlowState::Single | FlowState::Stream), _) => FlowState::Stream,
                    (_, Signal::Syn) => FlowState::Embryonic,
                    _ => FlowState::Closing,
                };
                self.flows.insert(key, Known { member, state, seen: tick });
                member
            }
            (FlowEffect::Advance, Some(after)) => {
                self.flows.insert(key, after);
                member
            }
            (_, _) => member,
        }
    }

    /// The flow is in, and at most one made room for it that may; or it is not, and none could.
    fn enter(&mut self, probe: Probe, member: u32, told: &Told, was_there: bool, tick: u64) {
        let state = match probe.signal {
            Some(Signal::Datagram) => FlowState::Single,
            Some(Signal::Fin) => FlowState::Closing,
            _ => FlowState::Embryonic,
        };
        match (told.begun, told.without_room) {
            (1, 0) => {
                let gone: Vec<KeyV4> =
                    self.flows.keys().filter(|known| !told.there.contains_key(known)).copied().collect();
                assert!(gone.len() <= usize::from(!was_there), "{gone:?} made room for one");
                for gone in gone {
                    let known = self.flows.remove(&gone).expect("it was known");
                    assert!(known.may_give_way(vip_of(&gone), tick), "{known:?} gave way");
                    self.seen.evicted += 1;
                }
                self.flows.insert(probe.key(), Known { member, state, seen: tick });
                self.counted.begun += 1;
            }
            (0, 1) => {
                assert!(!was_there, "its own entry is room enough");
                let stay = self.flows.iter().filter(|(key, known)| !known.may_give_way(vip_of(key), tick)).count();
                let given_back = if self.given_back.0 == tick { self.given_back.1 } else { 0 };
                // Two lines of four entries.
                assert!(stay + given_back >= 8, "{stay} entries that stay fill no two lines");
                self.counted.without_room += 1;
                self.seen.without_room += 1;
            }
            more => panic!("{probe:?} begins a flow: {more:?} entered and refused"),
        }
    }

    /// The hand has moved on: what is gone was expired, and after a whole round nothing expired is left.
    pub fn swept(&mut self, there: &HashMap<KeyV4, Known>, is_whole: bool, now: u64) {
        let (tick, before) = (now / TICK, self.flows.len());
        self.flows.retain(|key, known| {
            let (is_there, is_expired) = (there.contains_key(key), known.is_expired(vip_of(key), tick));
            assert!(is_there || is_expired, "{known:?} was ended");
            assert!(!is_there || !is_whole || !is_expired, "{known:?} was not");
            is_there
        });
        let ended = before - self.flows.len();
        let earlier = if self.given_back.0 == tick { self.given_back.1 } else { 0 };
        self.given_back = (tick, earlier + ended);
        self.seen.swept += ended as u64;
    }
}

fn vip_of(key: &KeyV4) -> u16 {
    use pointsman::dataplane::flow::Key as _;
    key.vip().0
}
