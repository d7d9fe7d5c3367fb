//! The packet's walk, stage by stage, on one screen.
//!
//! [`decide`] only reads: everything that is decided about a packet is decided there. What follows from it is a value
//! ([`Effects`]) and a [`Verdict`]; [`apply`] and [`carry_out`] make them happen. No syscall, no clock, no allocation,
//! no lock.

use super::counters::Counters;
use super::flow::{FlowTable, Now};
use super::parse::{FlowKey, Parsed, parse};
use super::tables::{InterfaceId, Member, MemberId, Tables};
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
}

/// Decides about one packet; changes nothing.
#[inline]
pub fn decide(state: &State<'_>, packet: &Packet<'_>, now: Now) -> Decision {
    match parse(packet.frame) {
        Ok(Parsed::Arp(arp)) => arp::decide(state.tables, packet.ingress, &arp),
        Err(reason) => Decision::plain(Verdict::Drop(reason)),
        Ok(_) if !is_for_us(state.tables, packet) => Decision::plain(Verdict::Drop(DropReason::OtherHost)),
        Ok(Parsed::Flow { key, length }) => to_member(state, &key, length, now),
        Ok(Parsed::Icmp(icmp)) => match icmp::concern(state.tables, packet.frame, &icmp) {
            icmp::Concern::Flow(key) => to_member(state, &key, icmp.packet_length, now),
            icmp::Concern::Nobody(verdict) => Decision::plain(verdict),
        },
    }
}

/// From the flow to its member: which VIP, seen before, which member, does it fit?
#[inline]
fn to_member(state: &State<'_>, key: &FlowKey, length: u16, now: Now) -> Decision {
    let tables = state.tables;
    let Some(vip_id) = tables.services.lookup(key) else {
        let known = tables.vip_address(key.destination).is_some();
        return Decision::plain(Verdict::Drop(if known { DropReason::NoService } else { DropReason::NoVip }));
    };
    let chosen = state.flows.find(vip_id, key, now).or_else(|| {
        let vip = tables.vips.get(usize::from(vip_id.0))?;
        select::select(tables.seed, &vip.slots, key)
    });
    let verdict = match chosen.and_then(|id| Some((id, reachable(tables, id)?))) {
        None => Verdict::Drop(DropReason::NoMember),
        Some((_, member)) if usize::from(member.egress.0) >= tables.interfaces.len() => {
            Verdict::Drop(DropReason::NoEgress)
        }
        Some((_, member)) if u32::from(length) > member.mtu => Verdict::Drop(DropReason::Oversize),
        Some((id, _)) => Verdict::Transmit(id),
    };
    Decision { verdict, effects: Effects { vip: Some(vip_id), conflict: None } }
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

/// Makes the frame what the verdict says, and names the interface it leaves by; `None`: it does not leave.
#[inline]
pub fn carry_out(verdict: Verdict, frame: &mut [u8], tables: &Tables, ingress: InterfaceId) -> Option<InterfaceId> {
    match verdict {
        Verdict::Transmit(id) => {
            let member = tables.members.get(id.0 as usize)?;
            rewrite::direct_route(frame, member.macs.as_ref()?);
            Some(member.egress)
        }
        Verdict::Answer(answer) => {
            let mac = tables.interfaces.get(usize::from(ingress.0))?.mac;
            match answer {
                Answer::ArpReply => arp::reply(frame, mac),
                Answer::EchoReply => icmp::echo_reply(frame, mac),
            }
            Some(ingress)
        }
        Verdict::Drop(_) => None,
    }
}

/// Whether the destination MAC is the receiving interface's. A switch that has forgotten a member's port floods
/// frames for it to everyone, and whoever forwarded those would duplicate them.
#[inline]
fn is_for_us(tables: &Tables, packet: &Packet<'_>) -> bool {
    let interface = tables.interfaces.get(usize::from(packet.ingress.0));
    interface.is_some_and(|interface| packet.frame.first_chunk() == Some(&interface.mac))
}

#[inline]
fn reachable(tables: &Tables, id: MemberId) -> Option<&Member> {
    tables.members.get(id.0 as usize).filter(|member| member.macs.is_some())
}
