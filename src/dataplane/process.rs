//! The packet's walk, stage by stage, on one screen.
//!
//! A burst goes through it in two steps: [`prepare`] reads every packet and asks for the cache line that its flow lies
//! in, then [`decide`] decides about each. Both only read: everything that is decided about a packet is decided there.
//! What follows is a value ([`Decision`]); [`apply`] and [`carry_out`] make it happen. No syscall, no clock, no
//! allocation, no lock.

#![expect(clippy::inline_always, reason = "the stages are one loop over a burst: what passes by memory stalls it")]

use std::net::Ipv4Addr;

use super::counters::Counters;
use super::encap::{self, OUTER_LENGTH};
use super::flow::{FlowTable, Insertion, Key as _, KeyV4, Lookup, NewFlowBudget, Now, Place, Signal};
use super::parse::{ETHERNET_LENGTH, FlowKey, Parsed, parse};
use super::port::Port;
use super::service::Destination;
use super::tables::{InterfaceId, Member, MemberId, Tables, Vip, Way};
use super::verdict::{Answer, Decision, DropReason, Effects, FlowEffect, Verdict};
use super::{arp, icmp, rewrite, select};

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// What control published.
    pub tables: &'a Tables,
    /// What earlier packets left behind.
    pub flows: &'a FlowTable,
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
    key: KeyV4,
    place: Place,
    /// Length of the IPv4 packet, header included, bytes.
    length: u16,
    /// What it says about the flow; `None`: it is an ICMP error, and says nothing.
    signal: Option<Signal>,
}

/// Reads one packet, and asks for what deciding about it will look at. (The result is written where it is to be: by
/// value, it would be put together twice.)
#[inline(always)]
pub fn prepare(state: &State<'_>, packet: &Packet<'_>, prepared: &mut Prepared) {
    let tables = state.tables;
    match parse(packet.frame) {
        Ok(Parsed::Flow { key, length, flags }) if is_for_us(tables, packet) => {
            let signal = match i32::from(key.protocol) {
                libc::IPPROTO_TCP => Signal::from_tcp_flags(flags),
                _ => Signal::Datagram,
            };
            to_vip(state, &key, (Some(signal), length), prepared);
        }
        other => prepare_rest(state, packet, other, prepared),
    }
}

/// What is seldom: everything that is no flow of ours.
#[cold]
fn prepare_rest(state: &State<'_>, packet: &Packet<'_>, parsed: Result<Parsed, DropReason>, prepared: &mut Prepared) {
    let tables = state.tables;
    *prepared = Prepared::Decided(match parsed {
        Ok(Parsed::Arp(arp)) => arp::decide(tables, packet.ingress, &arp),
        Err(reason) => Verdict::Drop(reason),
        // A flow that is for us is none of the rest.
        Ok(Parsed::Flow { .. }) => Verdict::Drop(DropReason::OtherHost),
        Ok(_) if !is_for_us(tables, packet) => Verdict::Drop(DropReason::OtherHost),
        Ok(Parsed::Icmp(icmp)) => match icmp::concern(tables, packet.frame, &icmp) {
            icmp::Concern::Flow(flow) => return to_vip(state, &flow, (None, icmp.packet_length), prepared),
            icmp::Concern::Nobody(verdict) => verdict,
        },
    });
}

/// Which VIP, and where its flow would be found.
#[inline(always)]
fn to_vip(state: &State<'_>, flow: &FlowKey, (signal, length): (Option<Signal>, u16), prepared: &mut Prepared) {
    let tables = state.tables;
    let Some((vip, any_port)) = tables.services.lookup(flow) else {
        let known = tables.vip_address(flow.destination).is_some();
        let reason = if known { DropReason::NoService } else { DropReason::NoVip };
        *prepared = Prepared::Decided(Verdict::Drop(reason));
        return;
    };
    let destination_port = if any_port { flow.destination_port } else { 0 };
    let key = KeyV4::new(Ipv4Addr::from_bits(flow.source), flow.source_port, vip, destination_port);
    let place = state.flows.v4.place(&key);
    state.flows.v4.prefetch(place);
    *prepared = Prepared::ToMember(Passenger { key, place, length, signal });
}

/// Decides about one packet; changes nothing.
#[inline(always)]
pub fn decide(state: &State<'_>, packet: &Packet<'_>, prepared: &Prepared, now: Now) -> Decision {
    let passenger = match prepared {
        Prepared::ToMember(passenger) => passenger,
        Prepared::Decided(verdict) => return decide_rest(packet, *verdict),
    };
    let tables = state.tables;
    let vip_id = passenger.key.vip();
    let effects = Effects { vip: Some(vip_id), ..Effects::default() };
    let drop = |reason| Decision { verdict: Verdict::Drop(reason), effects };
    let Some(vip) = tables.vips.get(usize::from(vip_id.0)) else { return drop(DropReason::NoService) };
    let (chosen, flow) = choose(state, vip, passenger, now);
    let Some((id, member)) = chosen.and_then(|id| Some((id, tables.members.get(id.0 as usize)?))) else {
        return drop(DropReason::NoMember);
    };
    match obstacle(tables, packet, passenger, member) {
        Some(reason) => drop(reason),
        None => Decision { verdict: Verdict::Transmit(id), effects: Effects { flow, ..effects } },
    }
}

#[cold]
fn decide_rest(packet: &Packet<'_>, verdict: Verdict) -> Decision {
    let mut decision = Decision::plain(verdict);
    if verdict == Verdict::Drop(DropReason::ArpConflict) {
        decision.effects.conflict = arp::conflict(packet.frame);
    }
    decision
}

/// Seen before? If so its member, as long as that can be reached; else one that the flow is hashed to.
#[inline(always)]
fn choose(state: &State<'_>, vip: &Vip, passenger: &Passenger, now: Now) -> (Option<MemberId>, FlowEffect) {
    let Passenger { key, place, signal, .. } = passenger;
    // An error says nothing about its flow's state, and what a segment would is not carried out.
    let asked = signal.unwrap_or(Signal::Segment);
    match state.flows.v4.lookup(*place, key, (asked, now, &vip.timeouts)) {
        Lookup::Hit(hit) if state.tables.is_reachable(hit.member) => {
            let is_news = hit.is_news && signal.is_some();
            (Some(hit.member), if is_news { FlowEffect::Advance } else { FlowEffect::None })
        }
        lookup => choose_anew(state.tables, vip, passenger, lookup),
    }
}

#[inline(never)]
fn choose_anew(tables: &Tables, vip: &Vip, passenger: &Passenger, lookup: Lookup) -> (Option<MemberId>, FlowEffect) {
    let member = select::select(tables.seed, &vip.slots, &passenger.flow(vip));
    let begins = passenger.signal.is_some_and(|signal| signal.begins_as().is_some());
    let effect = match lookup {
        Lookup::Hit(_) if passenger.signal.is_some() => FlowEffect::Rebind,
        Lookup::Miss if begins => FlowEffect::Insert,
        Lookup::Over if begins => FlowEffect::TakeOver,
        _ => FlowEffect::None,
    };
    (member, effect)
}

impl Passenger {
    /// The flow as it is on the wire.
    fn flow(&self, vip: &Vip) -> FlowKey {
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
fn obstacle(tables: &Tables, packet: &Packet<'_>, passenger: &Passenger, member: &Member) -> Option<DropReason> {
    /// Where an IPv4 header has its TTL (RFC 791 §3.1); `parse` has seen the header whole.
    const TTL: usize = ETHERNET_LENGTH + 8;
    let is_too_long = passenger.length > member.largest;
    let is_listed = usize::from(member.egress.0) < tables.interfaces.len();
    match &member.way {
        Way::None => Some(DropReason::NoMember),
        _ if !is_listed => Some(DropReason::NoEgress),
        Way::Direct(_) => is_too_long.then_some(DropReason::Oversize),
        Way::Ipip(..) if is_too_long => Some(DropReason::TunnelOversize),
        Way::Ipip(..) if packet.headroom < OUTER_LENGTH => Some(DropReason::NoHeadroom),
        Way::Ipip(..) if packet.frame.get(TTL) == Some(&0) => Some(DropReason::TunnelTtlZero),
        Way::Ipip(_, template) => template.ends_at(source(packet.frame)).then_some(DropReason::TunnelLoop),
    }
}

/// The packet's own source address (an ICMP error does not come from its flow's client); `parse` has seen the header.
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
}

/// Makes a decision's effects happen: enters the flow, and counts. `length` is the frame's, in bytes. The verdict is
/// the decision's, unless another worker has entered the same flow meanwhile: then that one's member holds.
#[inline(always)]
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
    let verdict = match (decision.verdict, prepared) {
        (Verdict::Transmit(member), Prepared::ToMember(passenger)) if decision.effects.flow != FlowEffect::None => {
            Verdict::Transmit(remember(decision.effects.flow, member, passenger, state, ledger, now))
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

/// Brings the connection table up to date; returns the member that the flow has.
#[inline(never)]
fn remember(
    effect: FlowEffect,
    member: MemberId,
    passenger: &Passenger,
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> MemberId {
    let State { tables, flows } = state;
    let Some(signal) = passenger.signal else { return member };
    let (at, counters) = ((passenger.place, &passenger.key), ledger.counters);
    let record = |event| flows.loads.record(event);
    match effect {
        FlowEffect::None => member,
        FlowEffect::Advance => {
            let timeouts = tables.timeouts_of_vip(passenger.key.vip());
            flows.v4.advance(passenger.place, &passenger.key, (signal, now, timeouts), record);
            member
        }
        FlowEffect::Insert if !ledger.budget.take() => {
            counters.flows_over_budget.add(1);
            member
        }
        FlowEffect::Insert | FlowEffect::TakeOver => {
            match flows.v4.insert(at, member, (signal, now), *tables, record) {
                Insertion::Inserted => {
                    counters.flows_begun.add(1);
                    member
                }
                Insertion::Existing(theirs) if tables.is_reachable(theirs) => theirs,
                Insertion::Existing(_) => member,
                Insertion::NotInserted => {
                    counters.flows_without_room.add(1);
                    member
                }
            }
        }
        FlowEffect::Rebind => {
            // Another worker may have been quicker, and another member may have had it before.
            let asked = (signal, now, tables.timeouts_of_vip(passenger.key.vip()));
            let Lookup::Hit(hit) = flows.v4.lookup(passenger.place, &passenger.key, asked) else { return member };
            let now_has = if tables.is_reachable(hit.member) {
                hit.member
            } else {
                counters.flows_rebound.add(1);
                flows.v4.rebind(at, hit.member, member, record)
            };
            // It is a packet of its flow like any other.
            flows.v4.advance(passenger.place, &passenger.key, asked, record);
            if tables.is_reachable(now_has) { now_has } else { member }
        }
    }
}

/// Makes the frame what the verdict says, and names the interface it leaves by; `None`: it does not leave. `port` is
/// where it came in, which is `ingress`.
#[inline(always)]
pub fn carry_out<P: Port>(
    (verdict, prepared): (Verdict, &Prepared),
    (port, frame): (&P, &mut P::Frame),
    tables: &Tables,
    ingress: InterfaceId,
) -> Option<InterfaceId> {
    match verdict {
        Verdict::Transmit(id) => {
            let member = tables.members.get(id.0 as usize)?;
            cut_trailer(port, frame);
            match &member.way {
                Way::None => return None,
                Way::Direct(macs) => rewrite::direct_route(port.bytes_mut(frame), macs),
                Way::Ipip(macs, template) => {
                    // `decide` has seen the headroom.
                    port.grow(frame, OUTER_LENGTH).then_some(())?;
                    encap::ipip(port.bytes_mut(frame), macs, template, entropy(tables, prepared));
                }
            }
            Some(member.egress)
        }
        Verdict::Answer(answer) => {
            let mac = tables.interfaces.get(usize::from(ingress.0))?.mac;
            match answer {
                Answer::ArpReply => arp::reply(port.bytes_mut(frame), mac),
                Answer::EchoReply => icmp::echo_reply(port.bytes_mut(frame), mac),
            }
            Some(ingress)
        }
        Verdict::Drop(_) => None,
    }
}

/// What tells the packet's flow from others, for those on the way that spread flows by the outer header.
#[inline]
fn entropy(tables: &Tables, prepared: &Prepared) -> u32 {
    match prepared {
        Prepared::ToMember(passenger) => {
            let vip = tables.vips.get(usize::from(passenger.key.vip().0));
            vip.map_or(0, |vip| encap::entropy(&passenger.flow(vip)))
        }
        Prepared::Decided(_) => 0,
    }
}

/// Cuts off what follows the packet beyond Ethernet's own padding: a frame longer than the egress interface's MTU
/// would vanish in the kernel without being counted.
#[inline(always)]
fn cut_trailer<P: Port>(port: &P, frame: &mut P::Frame) {
    /// The shortest Ethernet frame, without its frame check sequence (IEEE 802.3 §3.2.7).
    const SHORTEST: usize = 60;
    let bytes = port.bytes(frame);
    let Some(&[high, low]) = bytes.get(ETHERNET_LENGTH + 2..).and_then(<[u8]>::first_chunk) else { return };
    let end = ETHERNET_LENGTH + usize::from(u16::from_be_bytes([high, low]));
    if bytes.len() > end.max(SHORTEST) {
        port.truncate(frame, end.max(SHORTEST));
    }
}

/// Whether the destination MAC is the receiving interface's. A switch that has forgotten a member's port floods
/// frames for it to everyone, and whoever forwarded those would duplicate them.
#[inline(always)]
fn is_for_us(tables: &Tables, packet: &Packet<'_>) -> bool {
    let interface = tables.interfaces.get(usize::from(packet.ingress.0));
    interface.is_some_and(|interface| packet.frame.first_chunk() == Some(&interface.mac))
}
