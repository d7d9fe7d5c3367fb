//! The packet's walk, stage by stage, on one screen.
//!
//! [`decide`] only reads: everything that is decided about a packet is decided there. What follows from it is a value
//! ([`Effects`]) and a [`Verdict`]; [`apply`] and [`carry_out`] make them happen. No syscall, no clock, no allocation,
//! no lock.

use super::counters::Counters;
use super::encap::{self, OUTER_LENGTH};
use super::flow::{FlowTable, Now};
use super::parse::{ETHERNET_LENGTH, FlowKey, Parsed, parse};
use super::port::Port;
use super::tables::{InterfaceId, Member, Tables, Way};
use super::verdict::{Answer, Decision, DropReason, Effects, Verdict};
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

/// Decides about one packet; changes nothing.
#[inline]
pub fn decide(state: &State<'_>, packet: &Packet<'_>, now: Now) -> Decision {
    match parse(packet.frame) {
        Ok(Parsed::Arp(arp)) => arp::decide(state.tables, packet.ingress, &arp),
        Err(reason) => Decision::plain(Verdict::Drop(reason)),
        Ok(_) if !is_for_us(state.tables, packet) => Decision::plain(Verdict::Drop(DropReason::OtherHost)),
        Ok(Parsed::Flow { key, length }) => {
            to_member(state, packet, &Passenger { flow: key, source: key.source, length }, now)
        }
        Ok(Parsed::Icmp(icmp)) => match icmp::concern(state.tables, packet.frame, &icmp) {
            icmp::Concern::Flow(flow) => {
                let (source, length) = (icmp.source, icmp.packet_length);
                to_member(state, packet, &Passenger { flow, source, length }, now)
            }
            icmp::Concern::Nobody(verdict) => Decision::plain(verdict),
        },
    }
}

/// A packet on its way to a member.
struct Passenger {
    /// The flow whose member it goes to.
    flow: FlowKey,
    /// Its own source address: an ICMP error does not come from the flow's client.
    source: u32,
    /// Length of the IPv4 packet, header included, bytes.
    length: u16,
}

/// From the flow to its member: which VIP, seen before, which member, does it get there?
#[inline]
fn to_member(state: &State<'_>, packet: &Packet<'_>, passenger: &Passenger, now: Now) -> Decision {
    let key = &passenger.flow;
    let tables = state.tables;
    let Some(vip_id) = tables.services.lookup(key) else {
        let known = tables.vip_address(key.destination).is_some();
        return Decision::plain(Verdict::Drop(if known { DropReason::NoService } else { DropReason::NoVip }));
    };
    let chosen = state.flows.find(vip_id, key, now).or_else(|| {
        let vip = tables.vips.get(usize::from(vip_id.0))?;
        select::select(tables.seed, &vip.slots, key)
    });
    let member = chosen.and_then(|id| Some((id, tables.members.get(id.0 as usize)?)));
    let verdict = match member.map(|(id, member)| (id, obstacle(tables, packet, passenger, member))) {
        None => Verdict::Drop(DropReason::NoMember),
        Some((_, Some(reason))) => Verdict::Drop(reason),
        Some((id, None)) => Verdict::Transmit(id),
    };
    let effects = Effects { vip: Some(vip_id), conflict: None };
    Decision { verdict, effects, entropy: encap::entropy(key) }
}

/// What keeps this packet from getting to this member.
#[inline]
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
        Way::Ipip(_, template) => template.ends_at(passenger.source).then_some(DropReason::TunnelLoop),
    }
}

/// Makes a decision's effects happen. `length` is the frame's, in bytes.
#[inline]
pub fn apply(decision: &Decision, length: usize, counters: &Counters) {
    if let Some(vip) = decision.effects.vip {
        counters.vip(vip).add_packet(length);
    }
    match decision.verdict {
        Verdict::Transmit(member) => counters.member(member).add_packet(length),
        Verdict::Answer(Answer::ArpReply) => counters.arp_replies.add(1),
        Verdict::Answer(Answer::EchoReply) => counters.echo_replies.add(1),
        Verdict::Drop(reason) => counters.dropped_for(reason).add(1),
    }
}

/// Makes the frame what was decided, and names the interface it leaves by; `None`: it does not leave. `port` is where
/// it came in, which is `ingress`.
#[inline]
pub fn carry_out<P: Port>(
    decision: &Decision,
    port: &P,
    frame: &mut P::Frame,
    tables: &Tables,
    ingress: InterfaceId,
) -> Option<InterfaceId> {
    match decision.verdict {
        Verdict::Transmit(id) => {
            let member = tables.members.get(id.0 as usize)?;
            cut_trailer(port, frame);
            match &member.way {
                Way::None => return None,
                Way::Direct(macs) => rewrite::direct_route(port.bytes_mut(frame), macs),
                Way::Ipip(macs, template) => {
                    // `decide` has seen the headroom.
                    port.grow(frame, OUTER_LENGTH).then_some(())?;
                    encap::ipip(port.bytes_mut(frame), macs, template, decision.entropy);
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

/// Cuts off what follows the packet beyond Ethernet's own padding: a frame longer than the egress interface's MTU
/// would vanish in the kernel without being counted.
#[inline]
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
#[inline]
fn is_for_us(tables: &Tables, packet: &Packet<'_>) -> bool {
    let interface = tables.interfaces.get(usize::from(packet.ingress.0));
    interface.is_some_and(|interface| packet.frame.first_chunk() == Some(&interface.mac))
}
