//! The frames of the cases. Flow `n` is always the same client's; checksums are left out, since nobody reads them.

use std::net::Ipv4Addr;

/// The balancer's MAC, and everybody else's.
pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// The service: TCP, port 80.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(super) const PORT: u16 = 80;

pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// Clients of the flows that are in a table before the packets of the case come.
pub(super) const OTHERS: u64 = 1 << 32;

const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A flow's client: 50 000 ports of each address.
pub(super) fn client(flow: u64) -> (Ipv4Addr, u16) {
    let network = if flow >= OTHERS { 0x6440_0000 } else { 0x0a00_0000 };
    let flow = flow % OTHERS;
    (Ipv4Addr::from_bits(network + (flow / 50_000) as u32), 1024 + (flow % 50_000) as u16)
}

/// A TCP segment to the VIP, without data.
pub(super) fn tcp(flow: u64, flags: u8) -> Vec<u8> {
    tcp_to(VIP, flow, flags)
}

/// The same to any VIP.
pub(super) fn tcp_to(vip: Ipv4Addr, flow: u64, flags: u8) -> Vec<u8> {
    let (address, port) = client(flow);
    let packet = ipv4(TCP, address, vip, &segment(port, PORT, flags));
    [&ethernet()[..], &ETHERTYPE_IPV4, &packet].concat()
}

/// The same with a VLAN tag (IEEE 802.1Q).
pub(super) fn vlan_tcp(flow: u64) -> Vec<u8> {
    let mut frame = tcp(flow, ACK);
    frame.splice(12..12, [0x81, 0, 0, 7]);
    frame
}

/// A UDP datagram to the VIP, with 8 bytes of data.
pub(super) fn udp(flow: u64) -> Vec<u8> {
    let (address, port) = client(flow);
    let datagram = [&ports(port, PORT)[..], &[0, 16, 0, 0], &[0; 8]].concat();
    [&ethernet()[..], &ETHERTYPE_IPV4, &ipv4(UDP, address, VIP, &datagram)].concat()
}

/// Time exceeded (RFC 792) about a member's segment to the client, with the least that it must carry: the IPv4 header
/// and eight bytes more.
pub(super) fn icmp_error(flow: u64) -> Vec<u8> {
    let (address, port) = client(flow);
    let mut about = ipv4(TCP, VIP, address, &segment(PORT, port, ACK));
    about.truncate(28);
    let message = [&[11, 0, 0, 0, 0, 0, 0, 0][..], &about].concat();
    [&ethernet()[..], &ETHERTYPE_IPV4, &ipv4(ICMP, ROUTER, VIP, &message)].concat()
}

/// Destination and source.
fn ethernet() -> [u8; 12] {
    let mut macs = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1];
    macs[..6].copy_from_slice(&MAC);
    macs
}

fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 61, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

fn ports(source: u16, destination: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    [a, b, c, d]
}

fn segment(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut segment = ports(source, destination).to_vec();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}
