//! Outer headers: IP in IP (RFC 2003), written in front of the packet from a template that control made per member.
//!
//! Fixed by configuration and route: both addresses, TTL 64, "don't fragment", identification 0 (an atomic datagram
//! may have any, RFC 6864 §4.1). Copied from the packet: its DSCP (the uniform model, RFC 2983 §4.1) and its ECN field
//! (RFC 6040 §4.1, normal mode). The packet itself is not touched, its TTL included: RFC 2003 §3.1 has it decremented
//! only "if the tunneling is being done as part of forwarding the datagram", and a VIP's balancer does not route the
//! packet on, it receives it in the VIP's name: the client counts one hop to the VIP, as with direct routing.
//!
//! IPVS does decrement it, in every method (`decrement_ttl`, `net/netfilter/ipvs/ip_vs_xmit.c`). Without that, a member
//! that lacks the VIP's address and routes the packet back to it still ends the loop, since as a router it decrements
//! once per round; but nothing ends one through a device that takes the outer header off and passes the packet on with
//! its TTL as it was (a bridge, an XDP program, another balancer like this one), and the outer TTL is new every round.

#![expect(clippy::inline_always, reason = "part of one loop over a burst")]

use super::parse::{ETHERNET_LENGTH, FlowKey};

/// Length of the outer header, bytes: IPv4 without options.
pub const OUTER_LENGTH: usize = 20;

/// What an Ethernet header ends with in front of IPv4.
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// RFC 1700's recommended default; IPVS and Linux's own ipip use it too.
const TTL: u8 = 64;
/// Protocol number "IPv4 encapsulation" (RFC 2003 §3.1).
const PROTOCOL: u8 = 4;
/// The "don't fragment" flag in the upper byte of flags and fragment offset.
const DONT_FRAGMENT: u8 = 0x40;

// Offsets in an IPv4 header (RFC 791 §3.1).
const TOS: usize = 1;
const LENGTH: usize = 2;
const CHECKSUM: usize = 10;
const SOURCE: usize = 12;

/// Where outer headers come from: one address, or a block of which each flow gets one, so that the members' NICs,
/// which hash over outer addresses, spread the flows over their queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The address, or the block's first.
    pub address: u32,
    /// The bits in which the block's addresses differ: 0 for a single one.
    pub varying: u32,
}

/// One member's outer header, complete but for length, DSCP/ECN, the varying part of the source, and the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    header: [u8; OUTER_LENGTH],
    /// The one's complement sum of the header's words as they stand here.
    sum: u32,
    varying: u32,
}

impl Template {
    /// The template of a tunnel to `destination`.
    pub fn new(source: Source, destination: u32) -> Self {
        let mut header = [0; OUTER_LENGTH];
        header[0] = 0x45;
        header[6] = DONT_FRAGMENT;
        header[8] = TTL;
        header[9] = PROTOCOL;
        header[SOURCE..SOURCE + 4].copy_from_slice(&(source.address & !source.varying).to_be_bytes());
        header[16..20].copy_from_slice(&destination.to_be_bytes());
        let sum = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        Self { header, sum, varying: source.varying }
    }

    /// Whether flows differ in the outer source.
    #[inline]
    pub(super) fn varies(&self) -> bool {
        self.varying != 0
    }

    /// Whether the address is one of the tunnel's ends, ours or the member's: no packet from there may be sent into it
    /// (RFC 2003 §3.2).
    #[inline]
    pub(super) fn ends_at(&self, address: u32) -> bool {
        let [source, destination] = self.ends();
        destination == address || source == address & !self.varying
    }

    /// Source, its varying bits 0, and destination.
    #[inline]
    fn ends(&self) -> [u32; 2] {
        let at = |offset| self.header[offset..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        [at(SOURCE), at(SOURCE + 4)]
    }

    /// Writes the header for a packet of `length` bytes whose second byte is `tos`. (Into its place, and patched
    /// there: patched elsewhere and then copied, the copy waits for the patches.)
    #[inline(always)]
    fn write(&self, header: &mut [u8; OUTER_LENGTH], tos: u8, length: u16, entropy: u32) {
        *header = self.header;
        let total = length.wrapping_add(OUTER_LENGTH as u16);
        let varied = entropy & self.varying;
        header[TOS] = tos;
        header[LENGTH..LENGTH + 2].copy_from_slice(&total.to_be_bytes());
        if varied != 0 {
            let [source, _] = self.ends();
            header[SOURCE..SOURCE + 4].copy_from_slice(&(source | varied).to_be_bytes());
        }
        // RFC 1624 eqn 3, with m = 0 in each of these places: what is there now is added to the sum. It cannot
        // overflow: at most fourteen 16-bit words.
        let mut sum = self.sum + u32::from(tos) + u32::from(total) + (varied >> 16) + (varied & 0xffff);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}

/// What varies a flow's outer source: the same for all of a flow's packets, and well spread over flows in its low bits,
/// which are those that a block varies in. It need not be secret: whoever steers flows onto one queue of a member has
/// only his own flows there.
#[inline]
pub(super) fn entropy(key: &FlowKey) -> u32 {
    let mut flow = u64::from(key.source) << 32 | u64::from(key.source_port) << 16 | u64::from(key.destination_port);
    // SplitMix64's finalizer (Steele, Lea and Flood 2014; Stafford's "Mix13"): every bit depends on every bit. One
    // multiplication does not do: no bit of its product depends on an input bit above it.
    flow = (flow ^ flow >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    flow = (flow ^ flow >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (flow ^ flow >> 31) as u32
}

/// Writes Ethernet and outer header into a frame that has been grown by [`OUTER_LENGTH`] in front. `decide` has seen a
/// whole IPv4 header in it.
#[inline(always)]
pub(super) fn ipip(frame: &mut [u8], macs: &[u8; 12], template: &Template, entropy: u32) {
    let Some((ethernet, rest)) = frame.split_first_chunk_mut::<ETHERNET_LENGTH>() else { return };
    let Some((outer, inner)) = rest.split_first_chunk_mut::<OUTER_LENGTH>() else { return };
    let Some(&[_, tos, high, low]) = inner.first_chunk() else { return };
    ethernet[..12].copy_from_slice(macs);
    ethernet[12..].copy_from_slice(&ETHER_TYPE_IPV4);
    template.write(outer, tos, u16::from_be_bytes([high, low]), entropy);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(template: &Template, tos: u8, length: u16, entropy: u32) -> [u8; OUTER_LENGTH] {
        let mut header = [0xff; OUTER_LENGTH];
        template.write(&mut header, tos, length, entropy);
        header
    }

    /// RFC 1071 §4.1, the long way.
    fn checksum(bytes: &[u8]) -> u16 {
        let mut sum: u32 = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_worked_header() {
        // Written by hand after RFC 791 §3.1; the checksum summed with pencil and paper: the words 4500 0050 0000 4000
        // 4004 c633 640a c633 6465 add up to 3 1a29 → 1a2c, complement e5d3.
        let template = Template::new(Source { address: 0xc633_640a, varying: 0 }, 0xc633_6465);
        #[rustfmt::skip]
        let expected = [
            0x45, 0x00, 0x00, 0x50, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0xe5, 0xd3,
            198, 51, 100, 10, 198, 51, 100, 101,
        ];
        assert_eq!(header(&template, 0, 60, 0), expected);
        assert_eq!(template.ends(), [0xc633_640a, 0xc633_6465]);
    }

    #[test]
    fn the_incremental_checksum_is_the_checksum() {
        // Every carry: lengths, ToS bytes and sources at both ends of their ranges, and many between.
        for source in [Source { address: 0, varying: 0 }, Source { address: 0xffff_fff0, varying: 0xf }] {
            for destination in [0, 1, 0xffff_ffff, 0xcb00_7104] {
                let template = Template::new(source, destination);
                for length in (0..=65_515u16).step_by(97).chain([65_515]) {
                    for (tos, entropy) in [(0, 0), (0xff, 0xffff_ffff), (0x03, 0x8), (0xb8, 0x7)] {
                        let header = header(&template, tos, length, entropy);
                        assert_eq!(checksum(&header), 0, "{source:?} {destination:x} {length} {tos}");
                    }
                }
            }
        }
    }

    /// From a number to a flow.
    type Flow<'a> = &'a dyn Fn(u32) -> FlowKey;

    #[test]
    fn a_block_of_sources_is_used_evenly_and_left_never() {
        let template = Template::new(Source { address: 0xcb00_71f0, varying: 0xf }, 1);
        let key = |source, source_port, destination_port| FlowKey {
            source,
            destination: 1,
            source_port,
            destination_port,
            protocol: 17,
        };
        #[rustfmt::skip]
        let rows: [(&str, u32, Flow<'_>); 7] = [
            ("only the upper address bits differ", 16_384, &|flow| key(flow << 18 | 0x0207, 500, 4500)),
            ("only the low address bits differ", 16_384, &|flow| key(0x0a00_0000 | flow, 500, 4500)),
            ("one client in each of many networks", 13_312, &|flow| key(0x0a00_0001 | flow << 8, 500, 4500)),
            ("the client's port is a constant", 16_384, &|flow| key(flow.wrapping_mul(0x01e3_a5d7), 4789, 4789)),
            ("only the source port differs", 16_384, &|flow| key(0xc000_0207, flow as u16, 80)),
            ("only even source ports, as Linux connects", 16_384, &|flow| key(0xc000_0207, (flow << 1) as u16, 80)),
            ("only the destination port differs", 16_384, &|flow| key(0xc000_0207, 40_000, flow as u16)),
        ];
        for (description, flows, flow) in rows {
            let mut seen = [0u32; 16];
            for number in 0..flows {
                let header = header(&template, 0, 40, entropy(&flow(number)));
                assert_eq!(header[12..15], [203, 0, 113]);
                seen[usize::from(header[15] - 0xf0)] += 1;
            }
            let share = flows / 16;
            let even = share * 4 / 5..=share * 6 / 5;
            assert!(seen.iter().all(|count| even.contains(count)), "{description}: {seen:?}");
        }
    }

    #[test]
    fn every_bit_of_a_flow_moves_the_low_bits() {
        // In the smallest block there is, over many flows, about every second flip of any one bit is seen.
        const FLOWS: u32 = 4096;
        for bit in 0..64 {
            let moved = (0..FLOWS).filter(|&number| {
                let flow = u64::from(number).wrapping_mul(0xd134_2543_de82_ef95);
                let of = |flow: u64| {
                    let (source, source_port, destination_port) =
                        ((flow >> 32) as u32, (flow >> 16) as u16, flow as u16);
                    entropy(&FlowKey { source, destination: 1, source_port, destination_port, protocol: 6 })
                };
                (of(flow) ^ of(flow ^ 1 << bit)) & 0b11 != 0
            });
            assert!(moved.count() > FLOWS as usize / 2, "bit {bit}");
        }
    }
}
