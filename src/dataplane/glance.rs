//! The layout that nearly every packet has, read at fixed offsets: an Ethernet frame with IPv4 without options, not
//! a fragment, and TCP or UDP. Everything else is left to [`parse`](super::parse::parse), and so is the last word: a
//! test holds every answer from here against it.
//!
//! Through etherparse's header slices, inlined at the same place, the same takes 84 instructions per packet, a quarter
//! of the walk; this takes 40 (callgrind with `--dump-instr=yes` over `benches/process`, one flow).

#![expect(clippy::inline_always, reason = "a burst's packets are read in one loop: what passes by memory stalls it")]

use super::flow::{ClientV4, Signal};
use super::parse::FlowKey;
use super::service::ServiceKey;

/// Ethernet, IPv4 and TCP header without options, bytes. A UDP datagram's frame is as long by Ethernet's padding.
const LENGTH: usize = 54;

// Offsets in the frame: IEEE 802.3 §3.1.1, RFC 791 §3.1, RFC 9293 §3.1, RFC 768.
const ETHER_TYPE: usize = 12;
const TOTAL_LENGTH: usize = 16;
const FRAGMENT: usize = 20;
const PROTOCOL: usize = 23;
const SOURCE: usize = 26;
const DESTINATION_AND_PORTS: usize = 30;
const SOURCE_PORT: usize = 34;
const UDP_LENGTH: usize = 38;
const DATA_OFFSET: usize = 46;
const FLAGS: usize = 47;

/// "More fragments" and the fragment offset, as they lie in memory; "don't fragment" may be set.
const FRAGMENT_BITS: u16 = u16::from_le_bytes([0x3f, 0xff]);

const IPV4: u16 = 20;
const TCP: u16 = 20;
const UDP: u16 = 8;
const ETHERNET: usize = 14;

/// A packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Who sent it.
    pub client: ClientV4,
    /// To whom.
    pub destination: ServiceKey,
    /// Length of the IPv4 packet, header included, bytes.
    pub length: u16,
    /// What it says about its flow.
    pub signal: Signal,
}

impl Glance {
    /// What careful reading found, in the same words: `length` as here, `flags` those of a TCP header.
    pub fn careful(key: &FlowKey, length: u16, flags: u8) -> Self {
        let signal = match i32::from(key.protocol) {
            libc::IPPROTO_TCP => Signal::from_tcp_flags(flags),
            _ => Signal::Datagram,
        };
        Self {
            client: ClientV4::new(key.source.into(), key.source_port),
            destination: ServiceKey::new(key.destination, key.protocol, key.destination_port),
            length,
            signal,
        }
    }
}

/// Reads a frame of that layout; `None`: it is another, or something is wrong with it.
#[inline(always)]
pub fn glance(frame: &[u8]) -> Option<Glance> {
    let head: &[u8; LENGTH] = frame.first_chunk()?;
    // EtherType IPv4, version 4, header length 5 words; the type of service may be any.
    if u32::from_le_bytes(at::<ETHER_TYPE, 4>(head)) & 0x00ff_ffff != u32::from_le_bytes([0x08, 0x00, 0x45, 0]) {
        return None;
    }
    let length = u16::from_be_bytes(at::<TOTAL_LENGTH, 2>(head));
    let payload = length.checked_sub(IPV4)?;
    let fragment = u16::from_le_bytes(at::<FRAGMENT, 2>(head)) & FRAGMENT_BITS;
    if usize::from(length) > frame.len() - ETHERNET || fragment != 0 {
        return None;
    }
    let signal = match i32::from(head[PROTOCOL]) {
        libc::IPPROTO_TCP => {
            let header = u16::from(head[DATA_OFFSET] >> 4) * 4;
            if header < TCP || header > payload {
                return None;
            }
            Signal::from_tcp_flags(head[FLAGS])
        }
        libc::IPPROTO_UDP => {
            let datagram = u16::from_be_bytes(at::<UDP_LENGTH, 2>(head));
            if datagram < UDP || datagram > payload {
                return None;
            }
            Signal::Datagram
        }
        _ => return None,
    };
    let client = ClientV4::from_wire(at::<SOURCE, 4>(head), at::<SOURCE_PORT, 2>(head));
    let destination = ServiceKey::from_wire(at::<DESTINATION_AND_PORTS, 8>(head), head[PROTOCOL]);
    Some(Glance { client, destination, length, signal })
}

/// So many bytes from there on.
#[inline(always)]
fn at<const AT: usize, const N: usize>(head: &[u8; LENGTH]) -> [u8; N] {
    const { assert!(AT + N <= LENGTH) };
    std::array::from_fn(|index| head[AT + index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::{Parsed, parse};
    use super::*;

    /// A frame that `glance` reads, with `changes` of single bytes.
    fn frame(protocol: u8, payload: usize, changes: &[(usize, u8)]) -> Vec<u8> {
        let mut frame =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0];
        frame.extend([192, 0, 2, 1, 203, 0, 113, 2, 0x9c, 0x40, 0, 80]);
        match protocol {
            6 => frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0]),
            _ => frame.extend([((8 + payload) >> 8) as u8, (8 + payload) as u8, 0, 0]),
        }
        frame.resize(frame.len() + payload, 0x5a);
        let length = (frame.len() - ETHERNET) as u16;
        frame[TOTAL_LENGTH..TOTAL_LENGTH + 2].copy_from_slice(&length.to_be_bytes());
        frame.resize(frame.len().max(60), 0);
        for &(at, value) in changes {
            let at = at % frame.len();
            frame[at] = value;
        }
        frame
    }

    /// Whatever is read here, etherparse reads too.
    fn assert_agreement(frame: &[u8]) -> bool {
        let Some(seen) = glance(frame) else { return false };
        let Ok(Parsed::Flow { key, length, flags }) = parse(frame) else {
            panic!("a flow at a glance, and {:?} by careful reading: {frame:02x?}", parse(frame));
        };
        assert_eq!(seen, Glance::careful(&key, length, flags), "{frame:02x?}");
        true
    }

    #[test]
    fn usual_packets_are_read() {
        for payload in [0, 1, 12, 13, 1446] {
            assert!(assert_agreement(&frame(6, payload, &[])), "TCP, {payload}");
            assert!(assert_agreement(&frame(17, payload, &[])), "UDP, {payload}");
        }
        for flags in 0..=u8::MAX {
            assert!(assert_agreement(&frame(6, 5, &[(FLAGS, flags)])), "{flags:#04x}");
        }
        assert!(assert_agreement(&frame(6, 24, &[(DATA_OFFSET, 11 << 4)])), "TCP options");
        assert!(assert_agreement(&frame(6, 0, &[(FRAGMENT, 0x80)])), "the reserved bit means nothing");
    }

    #[test]
    fn everything_else_is_left() {
        for (what, changes) in [
            ("ARP", [(ETHER_TYPE + 1, 6)]),
            ("a VLAN tag", [(ETHER_TYPE, 0x81)]),
            ("IPv6", [(14, 0x65)]),
            ("IPv4 options", [(14, 0x46)]),
            ("the first fragment", [(FRAGMENT, 0x20)]),
            ("another fragment", [(FRAGMENT + 1, 1)]),
            ("ICMP", [(PROTOCOL, 1)]),
            ("a total length beyond the frame", [(TOTAL_LENGTH, 1)]),
            ("a total length below the headers", [(TOTAL_LENGTH + 1, 39)]),
            ("a data offset below the header", [(DATA_OFFSET, 4 << 4)]),
            ("a data offset beyond the packet", [(DATA_OFFSET, 15 << 4)]),
        ] {
            assert_eq!(glance(&frame(6, 0, &changes)), None, "{what}");
        }
        assert_eq!(glance(&frame(17, 4, &[(UDP_LENGTH + 1, 7)])), None, "UDP length below the header");
        assert_eq!(glance(&frame(17, 4, &[(UDP_LENGTH + 1, 13)])), None, "UDP length beyond the packet");
        assert_eq!(glance(&frame(6, 0, &[])[..53]), None, "too short");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn careful_reading_agrees(
            protocol in prop_oneof![Just(6u8), Just(17)],
            payload in 0usize..80,
            changes in prop::collection::vec((12usize..60, any::<u8>()), 0..4),
            cut in prop::option::weighted(0.2, 0usize..130),
        ) {
            let mut frame = frame(protocol, payload, &changes);
            frame.truncate(cut.unwrap_or(usize::MAX));
            assert_agreement(&frame);
        }
    }
}
