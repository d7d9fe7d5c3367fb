//! The packet's walk as a table: what comes in, what becomes of it, byte for byte.

mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;

use pointsman::dataplane::encap::{Source, Template};
use pointsman::dataplane::flow::{FlowTable, Now};
use pointsman::dataplane::process::{Ingress, NOTHING, Packet, State, decide, prepare};
use pointsman::dataplane::tables::{Interface, InterfaceId, MemberId, Tables, VipId, Way};
use pointsman::dataplane::verdict::{Answer, Conflict, Decision, DropReason, Verdict};
use support::*;

const NOW: Now = Now(0);
const INGRESS: InterfaceId = InterfaceId(0);

fn walk(tables: &Tables, bytes: &[u8]) -> (Decision, Option<Vec<u8>>) {
    walk_with(tables, &flows(), bytes, NOW)
}

fn decide_alone(tables: &Tables, packet: &Packet<'_>) -> Verdict {
    let flows = flows();
    let state = State { tables, flows: &flows, may_enter: true };
    let mut prepared = NOTHING;
    prepare(&state, packet.frame, Ingress::by(packet.ingress, tables), &mut prepared);
    decide(&state, packet, &prepared, NOW).verdict
}

fn assert_drop(description: &str, frame: &[u8], reason: DropReason) {
    let (decision, output) = walk(&tables(1, 1500), frame);
    assert_eq!(decision.verdict, Verdict::Drop(reason), "{description}");
    assert_eq!(output, None, "{description}");
}

fn assert_forwarded(description: &str, frame: &Frame) {
    let before = frame.bytes();
    let (decision, output) = walk(&tables(1, 1500), &before);
    assert_eq!(decision.verdict, Verdict::Transmit(MemberId(0)), "{description}");
    let mut expected = before;
    expected[..6].copy_from_slice(&member_mac(0));
    expected[6..12].copy_from_slice(&LB_MAC);
    assert_eq!(output, Some(expected), "{description}: only the MACs change");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_dropped_and_why() {
    let tcp = Frame::tcp(40_000, 80, 100);
    let cut = |bytes: usize| tcp.bytes()[..bytes].to_vec();
    let udp_with_length = |length: u16| {
        let mut frame = Frame::udp(40_000, 53, 20);
        frame.payload[4..6].copy_from_slice(&length.to_be_bytes());
        frame.bytes()
    };
    let to = |last: u8, frame: Frame| Frame { destination: Ipv4Addr::new(203, 0, 113, last), ..frame }.bytes();
    let mut short_offset = tcp.clone();
    short_offset.payload[12] = 4 << 4;
    let mut long_offset = Frame::tcp(40_000, 80, 0);
    long_offset.payload[12] = 6 << 4;
    let mut odd_arp = ArpFrame::request(CLIENT, VIP).bytes();
    odd_arp[15] = 6; // IEEE 802 instead of Ethernet
    let short_arp = ArpFrame::request(CLIENT, VIP).bytes()[..14 + 27].to_vec();
    let rows: Vec<(&str, Vec<u8>, DropReason)> = vec![
        ("empty", vec![], DropReason::EthernetTruncated),
        ("13 bytes", cut(13), DropReason::EthernetTruncated),
        ("Ethernet header alone", cut(14), DropReason::Ipv4Truncated),
        ("19 bytes of IPv4 header", cut(14 + 19), DropReason::Ipv4Truncated),
        ("VLAN tag", Frame { vlan: Some(5), ..tcp.clone() }.bytes(), DropReason::VlanTagged),
        ("IPv6", Frame { ether_type: 0x86dd, ..tcp.clone() }.bytes(), DropReason::EtherTypeUnknown),
        ("other MAC", Frame { destination_mac: member_mac(1), ..tcp.clone() }.bytes(), DropReason::OtherHost),
        ("broadcast MAC", Frame { destination_mac: [0xff; 6], ..tcp.clone() }.bytes(), DropReason::OtherHost),
        ("version 6", Frame { version: 6, ..tcp.clone() }.bytes(), DropReason::Ipv4Version),
        ("version 0", Frame { version: 0, ..tcp.clone() }.bytes(), DropReason::Ipv4Version),
        ("IHL 4", Frame { header_words: 4, ..tcp.clone() }.bytes(), DropReason::Ipv4HeaderLength),
        ("IHL 0", Frame { header_words: 0, ..tcp.clone() }.bytes(), DropReason::Ipv4HeaderLength),
        (
            "IHL 15 in a short packet",
            Frame { header_words: 15, ..Frame::tcp(1, 80, 0) }.bytes(),
            DropReason::Ipv4Truncated,
        ),
        (
            "IHL beyond the total length",
            Frame { header_words: 15, total_length: Some(40), ..tcp.clone() }.bytes(),
            DropReason::Ipv4TotalLength,
        ),
        ("total length 0", Frame { total_length: Some(0), ..tcp.clone() }.bytes(), DropReason::Ipv4TotalLength),
        ("total length 19", Frame { total_length: Some(19), ..tcp.clone() }.bytes(), DropReason::Ipv4TotalLength),
        (
            "total length one too many",
            Frame { total_length: Some(141), ..tcp.clone() }.bytes(),
            DropReason::Ipv4TotalLength,
        ),
        ("first fragment", Frame { fragment: 0x2000, ..tcp.clone() }.bytes(), DropReason::Ipv4Fragment),
        ("last fragment", Frame { fragment: 0x00b9, ..tcp.clone() }.bytes(), DropReason::Ipv4Fragment),
        ("GRE", Frame { protocol: 47, ..tcp.clone() }.bytes(), DropReason::ProtocolUnknown),
        (
            "total length ends inside the TCP header",
            Frame { total_length: Some(39), ..tcp.clone() }.bytes(),
            DropReason::TcpTruncated,
        ),
        ("no TCP at all", Frame { total_length: Some(20), ..tcp.clone() }.bytes(), DropReason::TcpTruncated),
        ("TCP data offset 4", short_offset.bytes(), DropReason::TcpDataOffset),
        ("TCP data offset beyond the packet", long_offset.bytes(), DropReason::TcpTruncated),
        (
            "total length ends inside the UDP header",
            Frame { total_length: Some(27), ..Frame::udp(1, 53, 9) }.bytes(),
            DropReason::UdpTruncated,
        ),
        ("UDP length 7", udp_with_length(7), DropReason::UdpLength),
        ("UDP length 0", udp_with_length(0), DropReason::UdpLength),
        ("UDP length one too many", udp_with_length(29), DropReason::UdpLength),
        (
            "total length ends inside the ICMP header",
            Frame { total_length: Some(27), ..Frame::echo(1, b"x") }.bytes(),
            DropReason::IcmpTruncated,
        ),
        ("address without VIPs", to(9, tcp.clone()), DropReason::NoVip),
        ("port that nobody serves", Frame::tcp(40_000, 81, 0).bytes(), DropReason::NoService),
        ("port 0", Frame::tcp(40_000, 0, 0).bytes(), DropReason::NoService),
        ("UDP to a TCP service", Frame::udp(40_000, 80, 0).bytes(), DropReason::NoService),
        ("no usable member", to(4, tcp.clone()), DropReason::NoMember),
        ("echo to an address without VIPs", to(9, Frame::echo(1, b"")), DropReason::NoVip),
        ("ICMP timestamp request", Frame::ipv4(ICMP, vec![13; 20]).bytes(), DropReason::IcmpUnhandled),
        ("ICMP echo reply", Frame::ipv4(ICMP, vec![0; 8]).bytes(), DropReason::IcmpUnhandled),
        ("ICMP error without a packet in it", Frame::icmp_error(3, 4, &[]).bytes(), DropReason::IcmpUnrelated),
        (
            "ICMP error about somebody else's packet",
            Frame::icmp_error(3, 4, &Frame::tcp(40_000, 80, 0).packet()).bytes(),
            DropReason::IcmpUnrelated,
        ),
        ("ARP for Ethernet's cousin", odd_arp, DropReason::ArpMalformed),
        ("short ARP", short_arp, DropReason::ArpMalformed),
        (
            "ARP for another host",
            ArpFrame::request(CLIENT, Ipv4Addr::new(203, 0, 113, 9)).bytes(),
            DropReason::ArpNotOurs,
        ),
        (
            "ARP for a VIP that is not announced",
            ArpFrame::request(CLIENT, Ipv4Addr::new(203, 0, 113, 4)).bytes(),
            DropReason::ArpNotOurs,
        ),
        (
            "ARP reply to somebody",
            ArpFrame { operation: 2, ..ArpFrame::request(CLIENT, VIP) }.bytes(),
            DropReason::ArpNotOurs,
        ),
        (
            "our own announcement, come back",
            ArpFrame { sender_mac: LB_MAC, ..ArpFrame::request(VIP, VIP) }.bytes(),
            DropReason::ArpNotOurs,
        ),
    ];
    for (description, frame, reason) in &rows {
        assert_drop(description, frame, *reason);
    }
}

#[test]
fn what_is_forwarded_keeps_every_byte_but_the_macs() {
    let with_options = Frame { header_words: 7, options: vec![1; 8], ..Frame::tcp(40_000, 80, 10) };
    let to_any = Frame { destination: Ipv4Addr::new(203, 0, 113, 3), ..Frame::tcp(40_000, 12_345, 10) };
    let rows = [
        ("TCP", Frame::tcp(40_000, 80, 100)),
        ("TCP without data, padded to the shortest frame", Frame { padding: 6, ..Frame::tcp(40_000, 80, 0) }),
        ("TCP from port 0", Frame::tcp(0, 80, 0)),
        ("IPv4 options", with_options),
        ("UDP", Frame::udp(40_000, 53, 100)),
        ("UDP without data", Frame::udp(40_000, 53, 0)),
        ("any port", to_any),
        ("TTL 1: direct routing is no hop", Frame { ttl: 1, ..Frame::tcp(40_000, 80, 1) }),
        ("a packet of exactly the MTU", Frame::tcp(40_000, 80, 1460)),
        ("don't-fragment clear", Frame { fragment: 0, ..Frame::tcp(40_000, 80, 1) }),
    ];
    for (description, frame) in &rows {
        assert_forwarded(description, frame);
    }
}

#[test]
fn a_packet_above_the_mtu_is_oversize_and_counted_for_its_vip() {
    let (decision, output) = walk(&tables(1, 1500), &Frame::tcp(40_000, 80, 1461).bytes());
    assert_eq!(decision.verdict, Verdict::Drop(DropReason::Oversize));
    assert_eq!(decision.effects.vip, Some(VipId(0)));
    assert_eq!(output, None);
    // The MTU limits the IPv4 packet, not the frame: padding does not count.
    // It is left behind, though: with it the frame would be too long for the egress interface.
    let full = Frame::tcp(40_000, 80, 1460);
    let (decision, output) = walk(&tables(1, 1500), &Frame { padding: 200, ..full.clone() }.bytes());
    assert_eq!(decision.verdict, Verdict::Transmit(MemberId(0)));
    assert_eq!(output.expect("forwarded")[12..], full.bytes()[12..]);
}

#[test]
fn a_member_without_a_mac_takes_nothing() {
    let mut tables = tables(1, 1500);
    Arc::make_mut(&mut tables.members)[0].way = Way::None;
    let (decision, _) = walk(&tables, &Frame::tcp(40_000, 80, 0).bytes());
    assert_eq!(decision.verdict, Verdict::Drop(DropReason::NoMember));
}

#[test]
fn a_flow_stays_and_flows_spread() {
    let (tables, flows) = (tables(3, 1500), flows());
    let walk = |frame: &[u8]| walk_with(&tables, &flows, frame, NOW);
    let mut seen = [0; 3];
    for port in 1024..11_024 {
        let first = walk(&Frame::tcp(port, 80, 0).bytes()).0;
        let second = walk(&Frame::tcp(port, 80, 900).bytes()).0;
        assert_eq!(first.verdict, second.verdict, "port {port}");
        let Verdict::Transmit(member) = first.verdict else { panic!("port {port}: {first:?}") };
        seen[member.0 as usize] += 1;
    }
    for count in seen {
        assert!((3100..3570).contains(&count), "{seen:?}");
    }
}

#[test]
fn an_icmp_error_follows_the_flow_it_is_about() {
    let (tables, flows) = (tables(7, 1500), flows());
    let walk = |frame: &[u8]| walk_with(&tables, &flows, frame, NOW);
    for port in 1024..2024 {
        let forward = walk(&Frame::tcp(port, 80, 0).bytes()).0.verdict;
        // The member's packet to the client, of which an error need quote no more than eight bytes past the header.
        let reply = Frame { source: VIP, destination: CLIENT, ..Frame::tcp(80, port, 1400) }.packet();
        for (kind, code) in [(3, 4), (3, 1), (11, 0), (12, 0)] {
            let error = Frame::icmp_error(kind, code, &reply[..28]);
            let (decision, output) = walk(&error.bytes());
            assert_eq!(decision.verdict, forward, "port {port}, type {kind}");
            assert_eq!(output.expect("forwarded")[12..], error.bytes()[12..], "only the MACs change");
        }
        let short = Frame::icmp_error(3, 4, &reply[..27]);
        assert_eq!(walk(&short.bytes()).0.verdict, Verdict::Drop(DropReason::IcmpUnrelated));
    }
}

#[test]
fn an_echo_request_becomes_its_reply() {
    for data in [&b""[..], b"x", b"odd", b"the quick brown fox jumps over the lazy dog"] {
        let request = Frame::echo(0xabcd, data);
        let (decision, output) = walk(&tables(1, 1500), &request.bytes());
        assert_eq!(decision.verdict, Verdict::Answer(Answer::EchoReply));
        let mut expected = Frame { ttl: 64, source: VIP, destination: CLIENT, ..request.clone() };
        expected.destination_mac = ROUTER_MAC;
        expected.source_mac = LB_MAC;
        expected.payload[0] = 0;
        expected.payload[2..4].fill(0);
        let sum = checksum(&expected.payload);
        expected.payload[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(output, Some(expected.bytes()), "{data:?}");
    }
}

#[test]
fn an_arp_request_for_a_vip_becomes_its_reply() {
    let request = ArpFrame::request(CLIENT, VIP);
    let (decision, output) = walk(&tables(1, 1500), &request.bytes());
    assert_eq!(decision.verdict, Verdict::Answer(Answer::ArpReply));
    let mut expected =
        ArpFrame { destination_mac: ROUTER_MAC, operation: 2, sender_mac: LB_MAC, sender: VIP, target: CLIENT }.bytes();
    expected[32..38].copy_from_slice(&ROUTER_MAC);
    assert_eq!(output, Some(expected));
}

#[test]
fn a_probe_for_a_vip_is_answered_so_that_nobody_takes_it() {
    // RFC 5227 §2.1.1: a probe's sender address is zero.
    let probe = ArpFrame::request(Ipv4Addr::UNSPECIFIED, VIP);
    assert_eq!(walk(&tables(1, 1500), &probe.bytes()).0.verdict, Verdict::Answer(Answer::ArpReply));
}

#[test]
fn another_hosts_claim_to_a_vip_is_a_conflict() {
    let claim = Some(Conflict { address: VIP.into(), mac: ROUTER_MAC });
    for frame in [
        ArpFrame::request(VIP, VIP),
        ArpFrame::request(VIP, CLIENT),
        ArpFrame { operation: 2, ..ArpFrame::request(VIP, CLIENT) },
    ] {
        let (decision, output) = walk(&tables(1, 1500), &frame.bytes());
        assert_eq!(decision.verdict, Verdict::Drop(DropReason::ArpConflict));
        assert_eq!(decision.effects.conflict, claim);
        assert_eq!(output, None);
    }
}

#[test]
fn what_is_sent_into_a_tunnel_keeps_every_byte_behind_an_outer_header() {
    let with_options = Frame { header_words: 7, options: vec![1; 8], ..Frame::tcp(40_000, 80, 10) };
    let rows = [
        ("TCP", Frame::tcp(40_000, 80, 100)),
        ("without data, padded to the shortest frame", Frame { padding: 6, ..Frame::tcp(40_000, 80, 0) }),
        ("IPv4 options", with_options),
        ("TTL 1: a VIP's balancer is no router (RFC 2003 §3.1)", Frame { ttl: 1, ..Frame::tcp(40_000, 80, 1) }),
        ("a packet that just fits", Frame::tcp(40_000, 80, 1440)),
        (
            "don't-fragment clear: the outer header has it set all the same",
            Frame { fragment: 0, ..Frame::tcp(1, 80, 1) },
        ),
        ("DSCP EF", Frame { tos: 46 << 2, ..Frame::tcp(40_000, 80, 1) }),
        ("ECT(1)", Frame { tos: 0b01, ..Frame::tcp(40_000, 80, 1) }),
        ("ECT(0)", Frame { tos: 0b10, ..Frame::tcp(40_000, 80, 1) }),
        ("CE is copied, not cleared (RFC 6040 §4.1)", Frame { tos: 0b11, ..Frame::tcp(40_000, 80, 1) }),
    ];
    for (description, frame) in rows {
        let before = to_tunnel(frame);
        let (decision, output) = walk(&tables(1, 1500), &before.bytes());
        assert_eq!(decision.verdict, Verdict::Transmit(MemberId(1)), "{description}");
        // Written field by field, and summed, by the tests' own packet builder.
        let mut inner = before.packet();
        inner.extend(std::iter::repeat_n(0xee, before.padding));
        let outer = Frame {
            destination_mac: member_mac(0),
            source_mac: LB_MAC,
            tos: before.tos,
            total_length: Some(20 + before.packet().len() as u16),
            identification: 0,
            fragment: 0x4000,
            ttl: 64,
            source: TUNNEL_SOURCE,
            destination: tunnel_end(0),
            ..Frame::ipv4(4, inner)
        };
        assert_eq!(output, Some(outer.bytes()), "{description}");
    }
}

#[test]
fn what_may_not_be_sent_into_a_tunnel() {
    let from = |source| Frame { source, ..Frame::tcp(40_000, 80, 0) };
    let rows = [
        ("one byte more than fits", Frame::tcp(40_000, 80, 1441), DropReason::TunnelOversize),
        ("TTL 0", Frame { ttl: 0, ..Frame::tcp(40_000, 80, 0) }, DropReason::TunnelTtlZero),
        ("from the tunnel's far end", from(tunnel_end(0)), DropReason::TunnelLoop),
        ("from the tunnel's near end", from(TUNNEL_SOURCE), DropReason::TunnelLoop),
    ];
    for (description, frame, reason) in rows {
        let (decision, output) = walk(&tables(1, 1500), &to_tunnel(frame).bytes());
        assert_eq!(decision.verdict, Verdict::Drop(reason), "{description}");
        assert_eq!(decision.effects.vip, Some(VipId(4)), "{description}");
        assert_eq!(output, None, "{description}");
    }
    let frame = to_tunnel(Frame::tcp(40_000, 80, 0)).bytes();
    let packet = Packet { frame: &frame, ingress: INGRESS, headroom: 19 };
    assert_eq!(decide_alone(&tables(1, 1500), &packet), Verdict::Drop(DropReason::NoHeadroom));
}

#[test]
fn a_flow_and_the_errors_about_it_share_an_outer_source() {
    let mut tables = tables(3, 1500);
    let source = Source { address: Ipv4Addr::new(198, 51, 100, 240).into(), varying: 0xf };
    for member in 0..3 {
        let Way::Ipip(_, template) = &mut Arc::make_mut(&mut tables.members)[3 + member].way else {
            panic!("a tunnel")
        };
        *template = Template::new(source, tunnel_end(member as u8).into());
    }
    let outer_source = |frame: &Frame| walk(&tables, &frame.bytes()).1.expect("forwarded")[26..30].to_vec();
    let mut seen = std::collections::BTreeSet::new();
    for port in 1024..1124 {
        let source = outer_source(&to_tunnel(Frame::tcp(port, 80, 0)));
        assert_eq!(source, outer_source(&to_tunnel(Frame::tcp(port, 80, 700))));
        let reply = Frame { source: TUNNEL_VIP, destination: CLIENT, ..Frame::tcp(80, port, 1400) }.packet();
        assert_eq!(source, outer_source(&to_tunnel(Frame::icmp_error(3, 4, &reply[..28]))));
        seen.insert(source);
    }
    assert_eq!(seen.len(), 16, "a hundred flows use the whole block");
}

#[test]
fn arp_is_answered_and_claims_are_heard_where_a_vip_is_announced() {
    let mut tables = tables(1, 1500);
    let second = InterfaceId(1);
    tables.interfaces = [tables.interfaces[0], Interface { mac: SECOND_MAC }].into();
    let at = |ingress, frame: &[u8]| decide_alone(&tables, &Packet { frame, ingress, headroom: 256 });
    let request = ArpFrame::request(CLIENT, VIP).bytes();
    assert_eq!(at(INGRESS, &request), Verdict::Answer(Answer::ArpReply));
    assert_eq!(at(second, &request), Verdict::Drop(DropReason::ArpNotOurs), "not announced there");
    // Our second interface is on the same wire.
    let own = ArpFrame { sender_mac: SECOND_MAC, ..ArpFrame::request(VIP, VIP) }.bytes();
    assert_eq!(at(INGRESS, &own), Verdict::Drop(DropReason::ArpNotOurs), "our own announcement");
}

/// Frames of one flow, in this order, and the members they went to.
fn members_of(steps: &[(&Tables, Frame)], flows: &FlowTable) -> Vec<Option<MemberId>> {
    let member = |(tables, frame): &(&Tables, Frame)| match walk_with(tables, flows, &frame.bytes(), NOW).0.verdict {
        Verdict::Transmit(member) => Some(member),
        _ => None,
    };
    steps.iter().map(member).collect()
}

fn with_flags(port: u16, flags: u8) -> Frame {
    let mut frame = Frame::tcp(port, 80, 0);
    frame.payload[13] = flags;
    frame
}

#[test]
fn a_known_flow_stays_with_its_member_when_the_slots_change() {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let (before, mut after) = (tables(3, 1500), tables(3, 1500));
    // Control gives all slots to the third member: new flows go there, known ones stay.
    for vip in &mut after.vips {
        vip.slots = vip.slots.iter().map(|_| MemberId(2)).collect();
    }
    let flows = flows();
    for port in 1024..1324 {
        let known = members_of(&[(&before, with_flags(port, SYN)), (&after, with_flags(port, ACK))], &flows);
        assert_eq!(known[0], known[1], "port {port}");
        let new = members_of(&[(&after, with_flags(port + 1000, SYN))], &flows);
        assert_eq!(new, [Some(MemberId(2))], "port {port}");
    }
}

#[test]
fn a_flow_whose_member_cannot_be_reached_is_given_another_for_good() {
    let (before, mut after, mut again) = (tables(2, 1500), tables(2, 1500), tables(2, 1500));
    Arc::make_mut(&mut after.members)[0].way = Way::None;
    for tables in [&mut after, &mut again] {
        for vip in &mut tables.vips {
            vip.slots = vip.slots.iter().map(|_| MemberId(1)).collect();
        }
    }
    let flows = flows();
    for port in 1024..1224 {
        let frame = || Frame::tcp(port, 80, 0);
        let members = members_of(&[(&before, frame()), (&after, frame()), (&again, frame())], &flows);
        assert_eq!(members[1..], [Some(MemberId(1)), Some(MemberId(1))], "port {port}: {members:?}");
    }
}

#[test]
fn a_reset_begins_no_flow_and_an_error_about_one_changes_nothing() {
    let (tables, flows) = (tables(3, 1500), flows());
    walk_with(&tables, &flows, &with_flags(4000, 0x04).bytes(), NOW);
    let reply = Frame { source: VIP, destination: CLIENT, ..Frame::tcp(80, 4000, 1400) }.packet();
    walk_with(&tables, &flows, &Frame::icmp_error(3, 4, &reply[..28]).bytes(), NOW);
    assert_eq!(flows.v4.iter(NOW).count(), 0);
    walk_with(&tables, &flows, &with_flags(4000, 0x02).bytes(), NOW);
    assert_eq!(flows.v4.iter(NOW).count(), 1);
    let loads: Vec<_> =
        (0..3).map(|id| flows.loads.of(MemberId(id))).map(|load| (load.active(), load.inactive())).collect();
    assert_eq!(loads.iter().fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1)), (1, 0), "{loads:?}");
}
