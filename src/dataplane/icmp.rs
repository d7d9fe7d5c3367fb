//! ICMP to a VIP: echo is answered here; an error about a flow follows that flow to its member.

use super::parse::{ETHERNET_LENGTH, FlowKey, Icmp, embedded_flow};
use super::tables::Tables;
use super::verdict::{Answer, DropReason, Verdict};

// Types (RFC 792).
const DESTINATION_UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// The TTL of packets that start here (RFC 1700's recommended default).
const TTL: u8 = 64;

/// Whom an ICMP message concerns.
pub(super) enum Concern {
    /// It is an error about this flow, and goes the flow's way.
    Flow(FlowKey),
    /// It is about no flow, and this becomes of it.
    Nobody(Verdict),
}

/// Reads an ICMP message.
pub(super) fn concern(tables: &Tables, frame: &[u8], icmp: &Icmp) -> Concern {
    if tables.vip_address(icmp.destination).is_none() {
        return Concern::Nobody(Verdict::Drop(DropReason::NoVip));
    }
    match (icmp.kind, icmp.code) {
        (ECHO, 0) => Concern::Nobody(Verdict::Answer(Answer::EchoReply)),
        (DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM, _) => {
            let message = &frame[icmp.offset..icmp.offset + icmp.length];
            // The error goes to whom the embedded packet came from; anything else is somebody's invention.
            match embedded_flow(message).filter(|flow| flow.destination == icmp.destination) {
                Some(flow) => Concern::Flow(flow),
                None => Concern::Nobody(Verdict::Drop(DropReason::IcmpUnrelated)),
            }
        }
        _ => Concern::Nobody(Verdict::Drop(DropReason::IcmpUnhandled)),
    }
}

/// Turns an echo request, in place, into its reply from `mac`. `parse` has seen both headers whole.
pub(super) fn echo_reply(frame: &mut [u8], mac: [u8; 6]) {
    let Some((ethernet, packet)) = frame.split_at_mut_checked(ETHERNET_LENGTH) else { return };
    ethernet.copy_within(6..12, 0);
    ethernet[6..12].copy_from_slice(&mac);

    let header_length = usize::from(packet[0] & 0x0f) * 4;
    let Some((header, message)) = packet.split_at_mut_checked(header_length) else { return };
    // Swapping the addresses leaves the header's sum as it is; the TTL does not.
    let (source, destination) = header[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    replace_word(header, 8, u16::from_be_bytes([TTL, header[9]]), 10);
    replace_word(message, 0, 0, 2);
}

/// Writes a 16-bit word and mends the checksum over it: RFC 1624 eqn 3, HC' = ~(~HC + ~m + m').
fn replace_word(bytes: &mut [u8], offset: usize, new: u16, checksum: usize) {
    let read = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut sum = u32::from(!read(checksum)) + u32::from(!read(offset)) + u32::from(new);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    bytes[offset..offset + 2].copy_from_slice(&new.to_be_bytes());
    bytes[checksum..checksum + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_of_rfc_1624() {
        // RFC 1624 §4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, where eqn 4 of RFC 1141 gives 0xFFFF.
        let mut bytes = [0x55, 0x55, 0xdd, 0x2f];
        replace_word(&mut bytes, 0, 0x3285, 2);
        assert_eq!(bytes, [0x32, 0x85, 0x00, 0x00]);
    }
}
