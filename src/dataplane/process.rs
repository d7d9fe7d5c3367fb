//! The packet's walk, stage by stage, on one screen.
//!
//! A burst goes through it in two steps: [`prepare`] reads every packet and asks for the cache line that its flow lies
//! in, then [`decide`] decides about each. Both only read. (What another worker did since can give the packet's flow
//! another member, and a table without room sends it where its later packets will go: then [`apply`] says so.) What
//! follows is a value ([`Decision`]); [`apply`] and [`carry_out`] make it happen. [`conclude_known`] and
//! [`conclude_rest`] are these three, one after the other. No syscall, no clock, no allocation, no lock.
//!
//! Nearly every packet belongs to a flow that the connection table knows and says nothing new of it: `known` decides
//! about these, and what is left is out of their way.

#![expect(clippy::inline_always, reason = "the stages are one loop over a burst: what passes by memory stalls it")]

use std::net::Ipv4Addr;

use crossbeam::queue::ArrayQueue;

use super::counters::Counters;
use super::encap::{self, OUTER_LENGTH};
use super::flow::{ClientV4, FlowTable, Key as _, KeyV4, Lookup, NewFlowBudget, Now, Place, Signal};
use super::glance::{Glance, glance};
use super::parse::{ETHERNET_LENGTH, FlowKey, Parsed, parse};
use super::port::Port;
use super::service::{Destination, ServiceKey};
use super::tables::{Egress, Interface, InterfaceId, Member, MemberId, Tables, Vip, VipId, Way};
use super::verdict::{Answer, Conflict, Decision, DropReason, Effects, FlowEffect, Verdict};
use super::{arp, begin, icmp, rewrite};

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// What control published.
    pub tables: &'a Tables,
    /// What earlier packets left behind.
    pub flows: &'a FlowTable,
    /// Whether the budget for new flows has anything left: asked once in a burst.
    pub may_enter: bool,
}

/// A received frame.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// From the first byte of its Ethernet header; no frame check sequence.
    pub frame: &'a [u8],
    /// The interface it came in by.
    pub ingress: InterfaceId,
    /// Bytes that it can grow by in front.
    pub headroom: usize,
}

/// Where packets come in: what is the same for all of a burst.
#[derive(Debug, Clone, Copy)]
pub struct Ingress {
    interface: InterfaceId,
    /// The interface's MAC, which is who is addressed, in the upper 48 bits; all bits set if it has none: nobody is.
    mac: u64,
}

impl Ingress {
    /// By this interface.
    pub fn by(interface: InterfaceId, tables: &Tables) -> Self {
        let mac = tables.interfaces.get(usize::from(interface.0)).map(|interface| {
            let mut word = [0; 8];
            word[2..].copy_from_slice(&interface.mac);
            u64::from_le_bytes(word)
        });
        Self { interface, mac: mac.unwrap_or(u64::MAX) }
    }

    /// Whether a frame's destination MAC is the receiving interface's. A switch that has forgotten a member's port
    /// floods frames for it to everyone, and whoever forwarded those would duplicate them.
    #[inline(always)]
    fn is_destination_of(self, frame: &[u8]) -> bool {
        // Eight bytes at once, and the two of the source's MAC shifted out.
        frame.first_chunk().is_some_and(|head| u64::from_le_bytes(*head) << 16 == self.mac)
    }
}

/// A packet that has been read: as little as deciding about it needs, since a burst of them is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// It concerns no flow of a VIP's, and this becomes of it.
    Decided(Verdict),
    /// It goes to the member of a VIP's flow.
    ToMember(Passenger),
}

/// What stands where no packet has been read yet.
pub const NOTHING: Prepared = Prepared::Decided(Verdict::Drop(DropReason::EthernetTruncated));

/// A packet on its way to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passenger {
    /// The flow whose member it goes to, as the connection table knows it, and where that looks for it.
    pub(super) key: KeyV4,
    pub(super) place: Place,
    /// Length of the IPv4 packet, header included, bytes.
    length: u16,
    /// What it says about the flow.
    pub(super) signal: Signal,
    /// Length of the frame, bytes.
    frame_length: u32,
}

/// Reads one packet, and asks for what deciding about it will look at. (The result is written where it is to be: by
/// value, it would be put together twice.)
#[inline(always)]
pub fn prepare(state: &State<'_>, frame: &[u8], ingress: Ingress, prepared: &mut Prepared) {
    match glance(frame) {
        Some(Glance { client, destination, length, signal }) if ingress.is_destination_of(frame) => {
            to_vip(state, frame, (client, destination), (signal, length), prepared);
        }
        _ => prepare_rest(state, frame, ingress, prepared),
    }
}

/// What is seldom.
#[cold]
#[inline(never)]
fn prepare_rest(state: &State<'_>, frame: &[u8], ingress: Ingress, prepared: &mut Prepared) {
    let tables = state.tables;
    *prepared = Prepared::Decided(match parse(frame) {
        Ok(Parsed::Arp(arp)) => arp::decide(tables, ingress.interface, &arp),
        Err(reason) => Verdict::Drop(reason),
        Ok(_) if !ingress.is_destination_of(frame) => Verdict::Drop(DropReason::OtherHost),
        Ok(Parsed::Flow { key, length, flags }) => {
            let Glance { client, destination, length, signal } = Glance::careful(&key, length, flags);
            return to_vip(state, frame, (client, destination), (signal, length), prepared);
        }
        Ok(Parsed::Icmp(icmp)) => match icmp::concern(tables, frame, &icmp) {
            icmp::Concern::Flow(flow) => {
                return to_vip(state, frame, ends(&flow), (Signal::Error, icmp.packet_length), prepared);
            }
            icmp::Concern::Nobody(verdict) => verdict,
        },
    });
}

/// A flow's client and destination.
fn ends(flow: &FlowKey) -> (ClientV4, ServiceKey) {
    let client = ClientV4::new(Ipv4Addr::from_bits(flow.source), flow.source_port);
    (client, ServiceKey::new(flow.destination, flow.protocol, flow.destination_port))
}

/// Which VIP, and where its flow would be found.
#[inline(always)]
fn to_vip(
    state: &State<'_>,
    frame: &[u8],
    (client, destination): (ClientV4, ServiceKey),
    (signal, length): (Signal, u16),
    prepared: &mut Prepared,
) {
    let tables = state.tables;
    let Some((vip, any_port)) = tables.services.lookup(destination) else {
        let known = tables.vip_address(destination.address()).is_some();
        let reason = if known { DropReason::NoService } else { DropReason::NoVip };
        *prepared = Prepared::Decided(Verdict::Drop(reason));
        return;
    };
    let destination_port = if any_port { destination.port() } else { 0 };
    let key = KeyV4::of(client, vip, destination_port);
    let place = state.flows.v4.place(&key);
    state.flows.v4.prefetch(place);
    let frame_length = frame.len() as u32;
    *prepared = Prepared::ToMember(Passenger { key, place, length, signal, frame_length });
}

/// Decides about one packet; changes nothing.
#[inline(always)]
pub fn decide(state: &State<'_>, packet: &Packet<'_>, prepared: &Prepared, now: Now) -> Decision {
    let transmit = |passenger: &Passenger, id, flow| Decision {
        verdict: Verdict::Transmit(id),
        effects: Effects { vip: Some(passenger.key.vip()), flow, ..Effects::default() },
    };
    if let Some((passenger, id, _)) = known(state, || *packet, prepared, now) {
        transmit(passenger, id, FlowEffect::None)
    } else if let Some((passenger, id, _)) = above_budget(state, || *packet, prepared) {
        transmit(passenger, id, FlowEffect::Hashed)
    } else {
        decide_anew(state, packet, prepared, now)
    }
}

/// A packet that says nothing new of a flow that the connection table knows, and whose member it gets to.
#[inline(always)]
fn known<'a, 'p>(
    state: &State<'a>,
    packet: impl Fn() -> Packet<'p>,
    prepared: &'a Prepared,
    now: Now,
) -> Option<(&'a Passenger, MemberId, &'a Member)> {
    let Prepared::ToMember(passenger) = prepared else { return None };
    if passenger.signal == Signal::Syn {
        // Its flow is seldom known.
        return None;
    }
    let tables = state.tables;
    let vip = tables.vips.get(usize::from(passenger.key.vip().0))?;
    let asked = (passenger.signal, now, &vip.timeouts);
    let id = state.flows.v4.known(passenger.place, &passenger.key, asked)?;
    let member = tables.members.get(id.0 as usize)?;
    obstacle(tables, packet, passenger, member).is_none().then_some((passenger, id, member))
}

/// A packet of a flow that is not entered, the budget being spent, to whose member hashing alone leads: nearly every
/// packet of a flood.
#[inline(always)]
fn above_budget<'a, 'p>(
    state: &State<'a>,
    packet: impl Fn() -> Packet<'p>,
    prepared: &'a Prepared,
) -> Option<(&'a Passenger, MemberId, &'a Member)> {
    let Prepared::ToMember(passenger) = prepared else { return None };
    if state.may_enter {
        return None;
    }
    let tables = state.tables;
    let vip = tables.vips.get(usize::from(passenger.key.vip().0))?;
    if !state.flows.v4.is_absent(passenger.place, &passenger.key) {
        return None;
    }
    let id = begin::plainly_hashed(state, vip, passenger)?;
    let member = tables.members.get(id.0 as usize)?;
    obstacle(tables, packet, passenger, member).is_none().then_some((passenger, id, member))
}

#[inline(always)]
fn decide_anew(state: &State<'_>, packet: &Packet<'_>, prepared: &Prepared, now: Now) -> Decision {
    let passenger = match prepared {
        Prepared::ToMember(passenger) => passenger,
        Prepared::Decided(verdict) => return decide_rest(packet, *verdict),
    };
    let tables = state.tables;
    let vip_id = passenger.key.vip();
    let effects = Effects { vip: Some(vip_id), ..Effects::default() };
    let drop = |reason, flow| Decision { verdict: Verdict::Drop(reason), effects: Effects { flow, ..effects } };
    let Some(vip) = tables.vips.get(usize::from(vip_id.0)) else {
        return drop(DropReason::NoService, FlowEffect::None);
    };
    let (chosen, flow) = choose(state, vip, passenger, now);
    let member = |id: MemberId| Ok((id, tables.members.get(id.0 as usize).ok_or(DropReason::NoMember)?));
    let (id, member) = match chosen.and_then(member) {
        Ok(found) => found,
        Err(reason) => return drop(reason, flow),
    };
    match obstacle(tables, || *packet, passenger, member) {
        Some(reason) => drop(reason, FlowEffect::None),
        None => Decision { verdict: Verdict::Transmit(id), effects: Effects { flow, ..effects } },
    }
}

#[cold]
#[inline(never)]
fn decide_rest(packet: &Packet<'_>, verdict: Verdict) -> Decision {
    let mut decision = Decision::plain(verdict);
    if verdict == Verdict::Drop(DropReason::ArpConflict) {
        decision.effects.conflict = arp::conflict(packet.frame);
    }
    decision
}

/// Seen before? If so its member, as long as that can be reached.
#[inline(always)]
fn choose(state: &State<'_>, vip: &Vip, passenger: &Passenger, now: Now) -> begin::Choice {
    let Passenger { key, place, signal, .. } = passenger;
    let flows = &state.flows.v4;
    if flows.is_absent(*place, key) {
        return begin::choose(state, vip, passenger, Lookup::Miss, now);
    }
    match flows.lookup(*place, key, (*signal, now, &vip.timeouts)) {
        Lookup::Hit(hit) if state.tables.is_reachable(hit.member) => {
            (Ok(hit.member), if hit.is_news { FlowEffect::Advance } else { FlowEffect::None })
        }
        lookup => begin::choose(state, vip, passenger, lookup, now),
    }
}

impl Passenger {
    /// Its flow's VIP.
    pub(super) fn vip(&self) -> VipId {
        self.key.vip()
    }

    /// Whether it is the first packet of its flow, if that is unknown: not one in mid-stream.
    pub(super) fn opens(&self) -> bool {
        matches!(self.signal, Signal::Syn | Signal::Datagram)
    }

    /// The flow as it is on the wire.
    pub(super) fn flow(&self, vip: &Vip) -> FlowKey {
        let Destination { address, protocol, port } = vip.destination;
        FlowKey {
            source: self.key.client().to_bits(),
            destination: address,
            source_port: self.key.client_port(),
            destination_port: if port == 0 { self.key.destination_port() } else { port },
            protocol,
        }
    }
}

/// What keeps this packet from getting to this member.
#[inline(always)]
fn obstacle<'p>(
    tables: &Tables,
    packet: impl Fn() -> Packet<'p>,
    passenger: &Passenger,
    member: &Member,
) -> Option<DropReason> {
    /// Where an IPv4 header has its TTL (RFC 791 §3.1); its reader has seen the header whole.
    const TTL: usize = ETHERNET_LENGTH + 8;
    let on_the_way = obstacle_on_the_way(tables, passenger, member);
    match &member.way {
        Way::Ipip(_, template) if on_the_way.is_none() => match packet() {
            packet if packet.headroom < OUTER_LENGTH => Some(DropReason::NoHeadroom),
            packet if packet.frame.get(TTL) == Some(&0) => Some(DropReason::TunnelTtlZero),
            packet => template.ends_at(source(packet.frame)).then_some(DropReason::TunnelLoop),
        },
        _ => on_the_way,
    }
}

/// What of that does not depend on what is in the packet.
#[inline(always)]
fn obstacle_on_the_way(tables: &Tables, passenger: &Passenger, member: &Member) -> Option<DropReason> {
    let is_too_long = passenger.length > member.largest;
    let is_listed = usize::from(member.egress.0) < tables.interfaces.len();
    match &member.way {
        Way::None => Some(DropReason::NoMember),
        _ if !is_listed => Some(DropReason::NoEgress),
        Way::Direct(_) => is_too_long.then_some(DropReason::Oversize),
        Way::Ipip(..) => is_too_long.then_some(DropReason::TunnelOversize),
    }
}

/// The packet's own source address (an ICMP error does not come from its flow's client); its reader has seen the header.
#[inline(always)]
fn source(frame: &[u8]) -> u32 {
    const SOURCE: usize = ETHERNET_LENGTH + 12;
    frame.get(SOURCE..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Where a worker writes down what it did.
#[derive(Debug)]
pub struct Ledger<'a> {
    /// What it counts.
    pub counters: &'a Counters,
    /// How many new flows it may enter.
    pub budget: &'a mut NewFlowBudget,
    /// Other hosts' claims to VIPs' addresses, for control.
    pub conflicts: &'a ArrayQueue<Conflict>,
}

impl Ledger<'_> {
    /// A packet that goes to its flow's member.
    #[inline(always)]
    fn count(&self, passenger: &Passenger, member: MemberId) {
        let length = passenger.frame_length as usize;
        self.counters.vip(passenger.key.vip()).add_packet(length);
        self.counters.member(member).add_packet(length);
    }
}

/// [`decide`], [`apply`] and [`carry_out`] for one packet, if it says nothing new of a flow that the connection table
/// knows; names the interface that the frame leaves by, if it does. `port` is where it came in, which is `ingress`.
/// `None`: nothing is done yet.
#[inline(always)]
pub fn conclude_known<P: Port>(
    state: &State<'_>,
    (prepared, ingress): (&Prepared, InterfaceId),
    (port, frame): (&P, &mut P::Frame),
    ledger: &Ledger<'_>,
    now: Now,
) -> Option<Egress> {
    let packet = || Packet { frame: port.bytes(frame), ingress, headroom: port.headroom(frame) };
    let (passenger, id, member) = known(state, packet, prepared, now)?;
    let egress = to_member(member, passenger, (port, frame), state.tables);
    ledger.count(passenger, id);
    Some(egress)
}

/// Asks for what [`conclude_rest`] will look at.
#[inline]
pub fn postpone(state: &State<'_>, prepared: &Prepared) {
    if let Prepared::ToMember(passenger) = prepared {
        state.flows.v4.prefetch_second(passenger.place);
    }
}

/// The same for all other packets. They may come after those of the burst that are known: a flow's packets stay in
/// order all the same, but for those behind one that ends its connection.
#[inline]
pub fn conclude_rest<P: Port>(
    state: &State<'_>,
    (prepared, ingress): (&Prepared, InterfaceId),
    (port, frame): (&P, &mut P::Frame),
    ledger: &mut Ledger<'_>,
    now: Now,
) -> Egress {
    if state.may_enter {
        conclude_anew(state, (prepared, ingress), (port, frame), ledger, now)
    } else {
        conclude_above_budget(state, (prepared, ingress), (port, frame), ledger, now)
    }
}

/// In the midst of a flood: a function of its own, which needs few registers.
#[inline(never)]
fn conclude_above_budget<P: Port>(
    state: &State<'_>,
    (prepared, ingress): (&Prepared, InterfaceId),
    (port, frame): (&P, &mut P::Frame),
    ledger: &mut Ledger<'_>,
    now: Now,
) -> Egress {
    let packet = || Packet { frame: port.bytes(frame), ingress, headroom: port.headroom(frame) };
    match above_budget(state, packet, prepared) {
        Some((passenger, id, member)) => {
            ledger.counters.flows_over_budget.add(1);
            ledger.count(passenger, id);
            to_member(member, passenger, (port, frame), state.tables)
        }
        None => conclude_anew(state, (prepared, ingress), (port, frame), ledger, now),
    }
}

#[inline(never)]
fn conclude_anew<P: Port>(
    state: &State<'_>,
    (prepared, ingress): (&Prepared, InterfaceId),
    (port, frame): (&P, &mut P::Frame),
    ledger: &mut Ledger<'_>,
    now: Now,
) -> Egress {
    let bytes = port.bytes(frame);
    let packet = Packet { frame: bytes, ingress, headroom: port.headroom(frame) };
    let decision = decide_anew(state, &packet, prepared, now);
    let verdict = apply(&decision, (prepared, bytes.len()), state, ledger, now);
    carry_out((verdict, prepared), (port, frame), state.tables, ingress)
}

/// Makes a decision's effects happen: enters the flow, and counts. `length` is the frame's, in bytes. The verdict is
/// the decision's, unless another worker has entered the same flow meanwhile: then that one's member holds.
#[inline]
pub fn apply(
    decision: &Decision,
    (prepared, length): (&Prepared, usize),
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> Verdict {
    let counters = ledger.counters;
    if let Some(vip) = decision.effects.vip {
        counters.vip(vip).add_packet(length);
    }
    if let Some(conflict) = decision.effects.conflict {
        // Full: the alarm has long been raised.
        let _ = ledger.conflicts.push(conflict);
    }
    let verdict = match (decision.verdict, prepared) {
        // A flood ends here.
        (Verdict::Transmit(_), _) if decision.effects.flow == FlowEffect::Hashed => {
            counters.flows_over_budget.add(1);
            decision.verdict
        }
        (Verdict::Transmit(member), Prepared::ToMember(passenger)) if decision.effects.flow != FlowEffect::None => {
            remember(decision.effects.flow, member, passenger, state, ledger, now)
        }
        (Verdict::Drop(_), Prepared::ToMember(passenger)) if decision.effects.flow == FlowEffect::Forget => {
            begin::forget(passenger, state, ledger, now);
            decision.verdict
        }
        (verdict, _) => verdict,
    };
    match verdict {
        Verdict::Transmit(member) => counters.member(member).add_packet(length),
        Verdict::Answer(Answer::ArpReply) => counters.arp_replies.add(1),
        Verdict::Answer(Answer::EchoReply) => counters.echo_replies.add(1),
        Verdict::Drop(reason) => counters.dropped_for(reason).add(1),
    }
    verdict
}

/// Brings the connection table up to date. The verdict stands, unless the flow turns out to have another member than
/// was decided: then what becomes of a packet to that one.
#[inline(never)]
fn remember(
    effect: FlowEffect,
    member: MemberId,
    passenger: &Passenger,
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> Verdict {
    match member_of(effect, member, passenger, state, ledger, now) {
        same if same == member => Verdict::Transmit(member),
        other => transmit_to(other, passenger, state.tables),
    }
}

fn member_of(
    effect: FlowEffect,
    member: MemberId,
    passenger: &Passenger,
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> MemberId {
    let State { tables, flows, .. } = state;
    let signal = passenger.signal;
    let (at, counters) = ((passenger.place, &passenger.key), ledger.counters);
    let record = |event| flows.loads.record(event, &tables.limits);
    let asked = (signal, now, tables.timeouts_of_vip(passenger.key.vip()));
    let advance = || {
        flows.v4.advance(at.0, at.1, asked, |event| {
            record(event);
            begin::confirm(event, passenger, state, now);
        });
    };
    match effect {
        FlowEffect::None | FlowEffect::Hashed | FlowEffect::Forget => member,
        FlowEffect::Advance => {
            advance();
            member
        }
        FlowEffect::Insert
        | FlowEffect::InsertScheduled
        | FlowEffect::InsertInTurn
        | FlowEffect::TakeOver
        | FlowEffect::TakeOverInTurn => begin::enter((effect, member), (passenger, signal), state, ledger, now),
        FlowEffect::Pass | FlowEffect::PassInTurn => begin::pass((effect, member), passenger, state, ledger, now),
        FlowEffect::Rebind => {
            // Another worker may have been quicker, and another member may have had it before.
            let Lookup::Hit(hit) = flows.v4.lookup(at.0, at.1, asked) else { return member };
            let now_has = if tables.is_reachable(hit.member) {
                hit.member
            } else {
                let member = begin::remember_client(member, passenger, state, ledger, now);
                let mut is_ours = false;
                let becomes = |state| signal.goes_on_elsewhere_as(state);
                let now_has = flows.v4.rebind(at, (hit.member, member), now, becomes, |event| {
                    is_ours = true;
                    record(event);
                });
                counters.flows_rebound.add(u64::from(is_ours));
                now_has
            };
            // It is a packet of its flow like any other.
            advance();
            if tables.is_reachable(now_has) { now_has } else { member }
        }
    }
}

/// What becomes of a packet whose flow has another member of the pool than was decided. Of what [`obstacle`] asks, the
/// packet's own TTL and headroom are in nobody's way: a pool's members are reached alike.
fn transmit_to(id: MemberId, passenger: &Passenger, tables: &Tables) -> Verdict {
    let Some(member) = tables.members.get(id.0 as usize) else { return Verdict::Drop(DropReason::NoMember) };
    // A packet that says something about its flow comes from that flow's client.
    let comes_from_an_end =
        matches!(&member.way, Way::Ipip(_, template) if template.ends_at(passenger.key.client().to_bits()));
    match obstacle_on_the_way(tables, passenger, member) {
        Some(reason) => Verdict::Drop(reason),
        None if comes_from_an_end => Verdict::Drop(DropReason::TunnelLoop),
        None => Verdict::Transmit(id),
    }
}

/// Makes the frame what the verdict says, and names the interface it leaves by, if it does. `port` is
/// where it came in, which is `ingress`.
pub fn carry_out<P: Port>(
    (verdict, prepared): (Verdict, &Prepared),
    (port, frame): (&P, &mut P::Frame),
    tables: &Tables,
    ingress: InterfaceId,
) -> Egress {
    match verdict {
        Verdict::Transmit(id) => {
            let Prepared::ToMember(passenger) = prepared else { return Egress::NONE };
            let member = tables.members.get(id.0 as usize);
            member.map_or(Egress::NONE, |member| to_member(member, passenger, (port, frame), tables))
        }
        Verdict::Answer(answer) => {
            let Some(Interface { mac }) = tables.interfaces.get(usize::from(ingress.0)).copied() else {
                return Egress::NONE;
            };
            match answer {
                Answer::ArpReply => arp::reply(port.bytes_mut(frame), mac),
                Answer::EchoReply => icmp::echo_reply(port.bytes_mut(frame), mac),
            }
            ingress.into()
        }
        Verdict::Drop(_) => Egress::NONE,
    }
}

/// Makes the frame one for this member.
#[inline(always)]
fn to_member<P: Port>(
    member: &Member,
    passenger: &Passenger,
    (port, frame): (&P, &mut P::Frame),
    tables: &Tables,
) -> Egress {
    cut_trailer(passenger, (port, frame));
    match &member.way {
        Way::None => return Egress::NONE,
        Way::Direct(macs) => rewrite::direct_route(port.bytes_mut(frame), macs),
        Way::Ipip(macs, template) => {
            // `decide` has seen the headroom.
            if !port.grow(frame, OUTER_LENGTH) {
                return Egress::NONE;
            }
            let entropy = if template.varies() { entropy(tables, passenger) } else { 0 };
            encap::ipip(port.bytes_mut(frame), macs, template, entropy);
        }
    }
    member.egress.into()
}

/// What tells the packet's flow from others, for those on the way that spread flows by the outer header.
#[inline(never)]
fn entropy(tables: &Tables, passenger: &Passenger) -> u32 {
    let vip = tables.vips.get(usize::from(passenger.key.vip().0));
    vip.map_or(0, |vip| encap::entropy(&passenger.flow(vip)))
}

/// Cuts off what follows the packet beyond Ethernet's own padding: a frame longer than the egress interface's MTU
/// would vanish in the kernel without being counted.
#[inline(always)]
fn cut_trailer<P: Port>(passenger: &Passenger, (port, frame): (&P, &mut P::Frame)) {
    /// The shortest Ethernet frame, without its frame check sequence (IEEE 802.3 §3.2.7).
    const SHORTEST: usize = 60;
    let end = (ETHERNET_LENGTH + usize::from(passenger.length)).max(SHORTEST);
    if passenger.frame_length as usize > end {
        port.truncate(frame, end);
    }
}
