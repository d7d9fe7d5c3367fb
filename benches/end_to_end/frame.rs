//! Who is who on the wires, and the frame that is sent: the smallest that Ethernet carries, UDP to the VIP.

use std::net::Ipv4Addr;

/// The service's address and port.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 50);
pub(crate) const PORT: u16 = 53;

/// Where clients' addresses begin; the generator counts them up.
pub(crate) const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);

/// The forwarder's own addresses, on the interface that traffic comes in by and on the second one.
pub(crate) const FORWARDER: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 10), Ipv4Addr::new(203, 0, 113, 10)];
pub(crate) const FORWARDER_MACS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 0, 0x10], [0x02, 0, 0, 0, 0, 0x11]];

/// Members: enough of them that every packet's choice is one.
pub(crate) const MEMBERS: u8 = 4;

/// The address of a member's, from 0: on the first interface's network or on the second's.
pub(crate) fn member(interface: usize, index: u8) -> Ipv4Addr {
    let [a, b, c, _] = FORWARDER[interface].octets();
    Ipv4Addr::new(a, b, c, 101 + index)
}

/// The MAC of a member's; the sink knows it too.
pub(crate) const fn member_mac(index: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 1, 1 + index]
}

/// Without the FCS, which makes it 64 bytes on a wire.
const LENGTH: usize = 60;
const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// What the generator makes its frames of: client's address, port and header checksum are filled in by it. No UDP
/// checksum, as IPv4 allows.
pub(crate) fn template() -> [u8; LENGTH] {
    const PACKET: u16 = (LENGTH - ETHERNET) as u16;
    const DATAGRAM: u16 = PACKET - IPV4 as u16;
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&FORWARDER_MACS[0]);
    frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 0xfe]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..34].copy_from_slice(&ipv4(17, PACKET, FIRST_CLIENT, VIP));
    frame[36..38].copy_from_slice(&PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&DATAGRAM.to_be_bytes());
    frame
}

/// What stands before the inner packet once a frame of this length is encapsulated for the first member.
pub(crate) fn outer_header() -> [u8; IPV4] {
    const PACKET: u16 = (LENGTH - ETHERNET + IPV4) as u16;
    ipv4(4, PACKET, FORWARDER[0], member(0, 0))
}

fn ipv4(protocol: u8, length: u16, source: Ipv4Addr, destination: Ipv4Addr) -> [u8; IPV4] {
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[6] = 0x40; // Don't fragment.
    header[8] = 64;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}
