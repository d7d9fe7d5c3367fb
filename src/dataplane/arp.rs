//! ARP (RFC 826) for the VIPs that this node announces, and the eye on others who claim them (RFC 5227 §2.4).

use super::parse::{ARP_LENGTH, Arp, ETHERNET_LENGTH, Parsed, parse};
use super::tables::{InterfaceId, Tables};
use super::verdict::{Answer, Conflict, DropReason, Verdict};

const REQUEST: u16 = 1;
const REPLY: [u8; 2] = [0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];

/// What to do with an ARP packet.
pub(super) fn decide(tables: &Tables, ingress: InterfaceId, arp: &Arp) -> Verdict {
    let announced = |address| tables.vip_address(address).is_some_and(|vip| vip.announced.contains(ingress));
    if announced(arp.sender) {
        // Our own announcement, come back through a loop in the network or by another of our interfaces on the same
        // wire, is no claim of another host.
        if tables.interfaces.iter().any(|interface| interface.mac == arp.sender_mac) {
            return Verdict::Drop(DropReason::ArpNotOurs);
        }
        return Verdict::Drop(DropReason::ArpConflict);
    }
    if arp.operation == REQUEST && announced(arp.target) {
        Verdict::Answer(Answer::ArpReply)
    } else {
        Verdict::Drop(DropReason::ArpNotOurs)
    }
}

/// Whose claim it is, of an ARP packet that was found to be one.
pub(super) fn conflict(frame: &[u8]) -> Option<Conflict> {
    match parse(frame) {
        Ok(Parsed::Arp(arp)) => Some(Conflict { address: arp.sender, mac: arp.sender_mac }),
        _ => None,
    }
}

/// Turns a request, in place, into the reply "the target is at `mac`".
pub(super) fn reply(frame: &mut [u8], mac: [u8; 6]) {
    let Some((ethernet, arp)) = frame.split_at_mut_checked(ETHERNET_LENGTH) else { return };
    let Some(arp) = arp.first_chunk_mut::<ARP_LENGTH>() else { return };
    let asker: [u8; 10] = arp[8..18].try_into().unwrap_or_default();
    let address: [u8; 4] = arp[24..28].try_into().unwrap_or_default();
    ethernet[..6].copy_from_slice(&asker[..6]);
    ethernet[6..12].copy_from_slice(&mac);
    arp[6..8].copy_from_slice(&REPLY);
    arp[8..14].copy_from_slice(&mac);
    arp[14..18].copy_from_slice(&address);
    arp[18..28].copy_from_slice(&asker);
}

/// An announcement as RFC 5227 §3 wants it: a broadcast request in which sender and target address are both the VIP.
/// Padded to the shortest Ethernet frame (60 bytes without the frame check sequence).
pub fn announcement(address: u32, mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.to_be_bytes());
    frame[38..42].copy_from_slice(&address.to_be_bytes());
    frame
}
