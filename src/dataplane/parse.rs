//! Bytes → offsets and flow key, or why not.
//!
//! This is the door: after [`parse`] accepts a frame, every offset and length in [`Parsed`] lies inside it, and no
//! later stage checks again. etherparse reads the individual headers; the lengths between them (is the total length
//! inside the frame, is the UDP length inside the packet) and fragments are checked here.

#![expect(
    clippy::inline_always,
    reason = "a burst's packets are read in one loop: what is returned by memory stalls it"
)]

use etherparse::err::{ipv4, tcp as tcp_error};
use etherparse::{EtherType, Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};

use super::verdict::DropReason;

/// Length of an Ethernet II header, bytes.
pub const ETHERNET_LENGTH: usize = 14;
/// Length of an ARP packet for IPv4 over Ethernet, bytes (RFC 826).
pub const ARP_LENGTH: usize = 28;
/// Length of the part of an ICMP header that every type has, plus its four type-specific bytes (RFC 792).
pub const ICMP_LENGTH: usize = 8;

/// Who talks to whom: one direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The client's address.
    pub source: u32,
    /// The VIP's address.
    pub destination: u32,
    /// The client's port.
    pub source_port: u16,
    /// The VIP's port.
    pub destination_port: u16,
    /// TCP or UDP, as in the IPv4 header.
    pub protocol: u8,
}

/// A frame that passed the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// TCP or UDP over IPv4, not a fragment.
    Flow {
        /// Whose packet it is.
        key: FlowKey,
        /// Length of the IPv4 packet, header included, bytes.
        length: u16,
        /// The TCP header's flags, its fourteenth byte (RFC 9293 §3.1); 0 for UDP.
        flags: u8,
    },
    /// ICMP over IPv4, not a fragment.
    Icmp(Icmp),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
}

/// An ICMP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// IPv4 source address.
    pub source: u32,
    /// IPv4 destination address.
    pub destination: u32,
    /// Where the ICMP header starts, counted from the frame's first byte.
    pub offset: usize,
    /// Length of the ICMP message, header included, bytes; at least [`ICMP_LENGTH`].
    pub length: usize,
    /// Length of the IPv4 packet, header included, bytes.
    pub packet_length: u16,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
}

/// An ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Who sends it.
    pub sender_mac: [u8; 6],
    /// The address that the sender claims; 0 in a probe (RFC 5227).
    pub sender: u32,
    /// The address that is asked for.
    pub target: u32,
}

/// Reads one Ethernet frame.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| DropReason::EthernetTruncated)?;
    match ethernet.ether_type() {
        EtherType::IPV4 => parse_ipv4(frame),
        EtherType::ARP => parse_arp(&frame[ETHERNET_LENGTH..]),
        EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING | EtherType::VLAN_DOUBLE_TAGGED_FRAME => {
            Err(DropReason::VlanTagged)
        }
        _ => Err(DropReason::EtherTypeUnknown),
    }
}

#[inline(always)]
fn parse_ipv4(frame: &[u8]) -> Result<Parsed, DropReason> {
    let (header, payload) = ipv4_packet(&frame[ETHERNET_LENGTH..])?;
    if header.is_fragmenting_payload() {
        return Err(DropReason::Ipv4Fragment);
    }
    let source = u32::from_be_bytes(header.source());
    let destination = u32::from_be_bytes(header.destination());
    let length = header.total_len();
    let (source_port, destination_port, flags) = match header.protocol() {
        IpNumber::TCP => tcp(payload)?,
        IpNumber::UDP => udp(payload)?,
        IpNumber::ICMP => {
            if payload.len() < ICMP_LENGTH {
                return Err(DropReason::IcmpTruncated);
            }
            return Ok(Parsed::Icmp(Icmp {
                source,
                destination,
                offset: ETHERNET_LENGTH + header.slice().len(),
                length: payload.len(),
                packet_length: length,
                kind: payload[0],
                code: payload[1],
            }));
        }
        _ => return Err(DropReason::ProtocolUnknown),
    };
    let protocol = header.protocol().0;
    Ok(Parsed::Flow { key: FlowKey { source, destination, source_port, destination_port, protocol }, length, flags })
}

/// The IPv4 header and exactly the payload that its total length announces: Ethernet's padding is left behind.
#[inline(always)]
fn ipv4_packet(bytes: &[u8]) -> Result<(Ipv4HeaderSlice<'_>, &[u8]), DropReason> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|error| match error {
        ipv4::HeaderSliceError::Len(_) => DropReason::Ipv4Truncated,
        ipv4::HeaderSliceError::Content(ipv4::HeaderError::UnexpectedVersion { .. }) => DropReason::Ipv4Version,
        ipv4::HeaderSliceError::Content(ipv4::HeaderError::HeaderLengthSmallerThanHeader { .. }) => {
            DropReason::Ipv4HeaderLength
        }
    })?;
    let payload =
        bytes.get(header.slice().len()..usize::from(header.total_len())).ok_or(DropReason::Ipv4TotalLength)?;
    Ok((header, payload))
}

#[inline(always)]
fn tcp(segment: &[u8]) -> Result<(u16, u16, u8), DropReason> {
    let header = TcpHeaderSlice::from_slice(segment).map_err(|error| match error {
        tcp_error::HeaderSliceError::Len(_) => DropReason::TcpTruncated,
        tcp_error::HeaderSliceError::Content(tcp_error::HeaderError::DataOffsetTooSmall { .. }) => {
            DropReason::TcpDataOffset
        }
    })?;
    // etherparse has a function per flag; the header is at least 20 bytes long.
    Ok((header.source_port(), header.destination_port(), segment[13]))
}

#[inline(always)]
fn udp(datagram: &[u8]) -> Result<(u16, u16, u8), DropReason> {
    let header = UdpHeaderSlice::from_slice(datagram).map_err(|_| DropReason::UdpTruncated)?;
    let length = usize::from(header.length());
    // RFC 768: the length counts the header too, so 8 is the least. (0 means "jumbogram" in IPv6 only, RFC 2675.)
    if length < UdpHeaderSlice::slice(&header).len() || length > datagram.len() {
        return Err(DropReason::UdpLength);
    }
    Ok((header.source_port(), header.destination_port(), 0))
}

fn parse_arp(bytes: &[u8]) -> Result<Parsed, DropReason> {
    // Hardware type Ethernet, protocol type IPv4, their address lengths (RFC 826).
    const IPV4_OVER_ETHERNET: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
    let bytes: &[u8; ARP_LENGTH] = bytes.first_chunk().ok_or(DropReason::ArpMalformed)?;
    if bytes[..6] != IPV4_OVER_ETHERNET {
        return Err(DropReason::ArpMalformed);
    }
    Ok(Parsed::Arp(Arp {
        operation: u16::from_be_bytes([bytes[6], bytes[7]]),
        sender_mac: [bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13]],
        sender: u32::from_be_bytes([bytes[14], bytes[15], bytes[16], bytes[17]]),
        target: u32::from_be_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]),
    }))
}

/// The flow that an ICMP error's embedded packet belongs to, turned round so that its key is the client's direction:
/// the embedded packet is one that a member sent to the client in the VIP's name.
///
/// An error needs to carry no more than the IPv4 header and eight bytes (RFC 792), so the transport header is read
/// only that far: both ports.
pub(super) fn embedded_flow(message: &[u8]) -> Option<FlowKey> {
    let packet = message.get(ICMP_LENGTH..)?;
    let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
    // Later fragments carry no ports.
    if header.fragments_offset().value() != 0 {
        return None;
    }
    let protocol = header.protocol();
    if protocol != IpNumber::TCP && protocol != IpNumber::UDP {
        return None;
    }
    let ports: &[u8; 8] = packet.get(header.slice().len()..)?.first_chunk()?;
    Some(FlowKey {
        source: u32::from_be_bytes(header.destination()),
        destination: u32::from_be_bytes(header.source()),
        source_port: u16::from_be_bytes([ports[2], ports[3]]),
        destination_port: u16::from_be_bytes([ports[0], ports[1]]),
        protocol: protocol.0,
    })
}
