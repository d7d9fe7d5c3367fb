//! The steering program as a table, run by the kernel (`BPF_PROG_TEST_RUN`; root, but no interface), and held against
//! what the workers decide about the same frames.

mod support;

use std::net::Ipv4Addr;

use pointsman::dataplane::flow::Now;
use pointsman::dataplane::port::steering::{AddressFlags, Steered, Steering, SteeringError};
use pointsman::dataplane::process::{Ingress, NOTHING, Packet, State, decide, prepare};
use pointsman::dataplane::service::Destination;
use pointsman::dataplane::tables::InterfaceId;
use pointsman::dataplane::verdict::Verdict;
use support::*;

const ANNOUNCED: AddressFlags = AddressFlags { announced: true, host: false };
const HOST: AddressFlags = AddressFlags { announced: true, host: true };
const ROUTED: AddressFlags = AddressFlags { announced: false, host: false };

/// The same VIPs as in `support::tables`, and 203.0.113.5: tcp/80, the host's own address.
fn steering() -> Option<Steering> {
    let mut steering = match Steering::load() {
        Err(SteeringError::Permission) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: {}", SteeringError::Permission);
            return None;
        }
        steering => steering.expect("the program loads"),
    };
    let service = |last: u8, protocol, port| Destination { address: address(last), protocol, port };
    steering.set_mac(LB_MAC).expect("map");
    steering
        .serve(
            [service(2, TCP, 80), service(2, UDP, 53), service(3, TCP, 0), service(4, TCP, 80), service(5, TCP, 80)],
            [(address(2), ANNOUNCED), (address(3), ANNOUNCED), (address(4), ROUTED), (address(5), HOST)],
        )
        .expect("maps");
    Some(steering)
}

fn address(last: u8) -> u32 {
    Ipv4Addr::new(203, 0, 113, last).into()
}

fn to(last: u8, frame: Frame) -> Frame {
    Frame { destination: Ipv4Addr::from(address(last)), ..frame }
}

#[test]
fn who_gets_what() {
    use Steered::{Host, Unserved, Worker};
    let Some(mut steering) = steering() else { return };
    let tcp = |port| Frame::tcp(40_000, port, 10);
    let with_options = Frame { header_words: 6, options: vec![1; 4], ..tcp(80) };
    let gre = Frame::ipv4(47, vec![0; 20]);
    let fragment = Frame { fragment: 0x2000, ..tcp(80) };
    let later_fragment = Frame { fragment: 0x0010, ..tcp(80) };
    let cut_ports = Frame { payload: vec![1, 2, 3], ..tcp(80) };
    let rows: Vec<(&str, Vec<u8>, Steered)> = vec![
        ("a service", tcp(80).bytes(), Worker),
        ("a UDP service", Frame::udp(40_000, 53, 10).bytes(), Worker),
        ("IPv4 options before the ports", with_options.bytes(), Worker),
        ("another port", tcp(81).bytes(), Unserved),
        ("the other protocol", Frame::udp(40_000, 80, 10).bytes(), Unserved),
        ("any port", to(3, tcp(12_345)).bytes(), Worker),
        ("any TCP port is no UDP port", to(3, Frame::udp(1, 53, 0)).bytes(), Unserved),
        ("GRE", gre.bytes(), Unserved),
        ("echo", Frame::echo(1, b"x").bytes(), Worker),
        ("first fragment", fragment.bytes(), Worker),
        ("later fragment", later_fragment.bytes(), Worker),
        ("no room for ports", cut_ports.bytes(), Worker),
        ("IHL below 5", Frame { header_words: 4, ..tcp(80) }.bytes(), Worker),
        ("another host's MAC", Frame { destination_mac: member_mac(1), ..tcp(80) }.bytes(), Host),
        ("another host's MAC, another port", Frame { destination_mac: member_mac(1), ..tcp(81) }.bytes(), Host),
        ("another address", to(9, tcp(80)).bytes(), Host),
        ("a VLAN tag", Frame { vlan: Some(7), ..tcp(80) }.bytes(), Host),
        ("IPv6", Frame { ether_type: 0x86dd, ..tcp(80) }.bytes(), Host),
        ("a short IPv4 packet", tcp(80).bytes()[..30].to_vec(), Host),
        ("the host's own address: a service", to(5, tcp(80)).bytes(), Worker),
        ("the host's own address: another port", to(5, tcp(22)).bytes(), Host),
        ("the host's own address: UDP", to(5, Frame::udp(1, 80, 0)).bytes(), Host),
        ("the host's own address: echo", to(5, Frame::echo(1, b"x")).bytes(), Host),
        ("the host's own address: fragment", to(5, fragment).bytes(), Host),
        ("the host's own address: GRE", to(5, gre).bytes(), Host),
        ("ARP for an announced VIP", ArpFrame::request(CLIENT, VIP).bytes(), Worker),
        ("ARP in the name of an announced VIP", ArpFrame::request(VIP, CLIENT).bytes(), Worker),
        ("ARP for a routed VIP", ArpFrame::request(CLIENT, address(4).into()).bytes(), Host),
        ("ARP for a VIP that is the host's own address", ArpFrame::request(CLIENT, address(5).into()).bytes(), Host),
        ("ARP for somebody else", ArpFrame::request(CLIENT, address(9).into()).bytes(), Host),
        ("a short ARP packet", ArpFrame::request(CLIENT, VIP).bytes()[..40].to_vec(), Host),
    ];
    let (tables, flows) = (tables(3, 1500), flows());
    for (description, frame, expected) in rows {
        let steered = steering.trial(&frame).expect("BPF_PROG_TEST_RUN");
        assert_eq!(steered, expected, "{description}");
        // What a worker would forward or answer must reach it, unless the host has the address, of which only
        // steering knows.
        let state = State { tables: &tables, flows: &flows, may_enter: true };
        let packet = Packet { frame: &frame, ingress: InterfaceId(0), headroom: 256 };
        let mut prepared = NOTHING;
        prepare(&state, packet.frame, Ingress::by(packet.ingress, &tables), &mut prepared);
        let decision = decide(&state, &packet, &prepared, Now(0));
        if !matches!(decision.verdict, Verdict::Drop(_)) {
            assert_eq!(steered, Worker, "{description}: a worker would say {:?}", decision.verdict);
        }
    }
}

#[test]
fn what_is_no_longer_served_is_the_hosts_again() {
    let Some(mut steering) = steering() else { return };
    let frame = Frame::tcp(40_000, 80, 0).bytes();
    assert_eq!(steering.trial(&frame).expect("run"), Steered::Worker);
    let only_udp = [Destination { address: address(2), protocol: UDP, port: 53 }];
    steering.serve(only_udp, [(address(2), ANNOUNCED)]).expect("maps");
    assert_eq!(steering.trial(&frame).expect("run"), Steered::Unserved);
    steering.serve([], []).expect("maps");
    assert_eq!(steering.trial(&frame).expect("run"), Steered::Host);
    assert_eq!(steering.trial(&Frame::udp(1, 53, 0).bytes()).expect("run"), Steered::Host);
}
