//! The decapsulation program as a table, run by the kernel (`BPF_PROG_TEST_RUN`; root, but no interface).
//!
//! Frames are built byte by byte, and checksums from scratch: the program's incremental ones must agree.

mod support;

use std::net::Ipv4Addr;

use pointsman::realserver::decapsulate::{Cause, DecapsulateError, Decapsulator, Prefix};
use support::*;

const ENDPOINT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 101);
const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const IPIP: u8 = 4;

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

fn decapsulator(sources: &[Prefix]) -> Option<Decapsulator> {
    match Decapsulator::load(&[ENDPOINT, Ipv4Addr::new(198, 51, 100, 201)], sources) {
        Err(DecapsulateError::Permission) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: {}", DecapsulateError::Permission);
            None
        }
        decapsulator => Some(decapsulator.expect("the program loads")),
    }
}

/// What a client sends.
fn inner() -> Frame {
    Frame::tcp(40_000, 80, 11)
}

/// A balancer's packet around these bytes.
fn tunnel(payload: Vec<u8>) -> Frame {
    Frame { ttl: 64, source: BALANCER, destination: ENDPOINT, ..Frame::ipv4(IPIP, payload) }
}

/// A packet with another traffic class, and the checksum that goes with it.
fn with_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
    packet[1] = class;
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 0x0f) * 4;
    let sum = checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A frame whose IPv4 packet has another traffic class.
fn frame_with_class(frame: &Frame, class: u8) -> Vec<u8> {
    on_the_wire(&with_class(frame.packet(), class))
}

/// A packet behind the Ethernet header that [`tunnel`] has.
fn on_the_wire(packet: &[u8]) -> Vec<u8> {
    let mut bytes = tunnel(Vec::new()).bytes()[..14].to_vec();
    bytes.extend(packet);
    bytes
}

/// With `octets` options before the payload: IHL 5 and a quarter of them.
fn with_options(frame: Frame, octets: u8) -> Frame {
    // No operation (RFC 791 §3.1).
    Frame { header_words: 5 + octets / 4, options: vec![1; octets.into()], ..frame }
}

/// Description, frame, cause, and what the host receives.
type Row = (String, Vec<u8>, Cause, Option<Vec<u8>>);

fn check(decapsulator: &mut Decapsulator, rows: Vec<Row>) {
    for (description, frame, cause, received) in rows {
        let trial = decapsulator.trial(&frame).expect("BPF_PROG_TEST_RUN");
        assert_eq!(trial.cause, cause, "{description}");
        assert_eq!(trial.received, received, "{description}");
    }
}

fn decapsulated(description: &str, frame: Vec<u8>, packet: &[u8]) -> Row {
    (description.to_owned(), frame, Cause::Decapsulated, Some(on_the_wire(packet)))
}

fn untouched(description: &str, frame: Vec<u8>, cause: Cause) -> Row {
    (description.to_owned(), frame.clone(), cause, Some(frame))
}

fn dropped(description: &str, frame: Vec<u8>, cause: Cause) -> Row {
    (description.to_owned(), frame, cause, None)
}

#[test]
fn what_is_ours_loses_its_outer_header() {
    let Some(mut decapsulator) = decapsulator(&[]) else { return };
    let packet = inner().packet();
    let tunnelled = tunnel(packet.clone());
    let padded = Frame { padding: 9, ..tunnelled.clone() };
    let mut with_padding = packet.clone();
    with_padding.extend([0xee; 9]);
    let mut long = packet.clone();
    long.extend([7; 5]);
    let inner_options = with_options(inner(), 40).packet();
    let least = Frame::ipv4(253, Vec::new()).packet();
    let largest = Frame::tcp(1, 2, 1440).packet();
    let nested = tunnel(tunnelled.packet());
    let second = Frame { destination: Ipv4Addr::new(198, 51, 100, 201), ..tunnelled.clone() };
    let inner_fragment = Frame { fragment: 0x2010, ..inner() }.packet();
    let rows = vec![
        decapsulated("a TCP segment", tunnelled.bytes(), &packet),
        decapsulated("another endpoint", second.bytes(), &packet),
        decapsulated("outer IHL 6", with_options(tunnelled.clone(), 4).bytes(), &packet),
        decapsulated("outer IHL 10", with_options(tunnelled.clone(), 20).bytes(), &packet),
        decapsulated("outer IHL 15", with_options(tunnelled.clone(), 40).bytes(), &packet),
        decapsulated("inner IHL 15", tunnel(inner_options.clone()).bytes(), &inner_options),
        decapsulated("an inner header alone", tunnel(least.clone()).bytes(), &least),
        decapsulated("as large as Ethernet carries", tunnel(largest.clone()).bytes(), &largest),
        decapsulated("Ethernet padding stays behind the packet", padded.bytes(), &with_padding),
        decapsulated("bytes behind the inner packet", tunnel(long.clone()).bytes(), &long),
        decapsulated("one layer, not two", nested.bytes(), &tunnelled.packet()),
        decapsulated("an inner fragment", tunnel(inner_fragment.clone()).bytes(), &inner_fragment),
        decapsulated("don't fragment is clear", Frame { fragment: 0, ..tunnelled.clone() }.bytes(), &packet),
    ];
    check(&mut decapsulator, rows);
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let Some(mut decapsulator) = decapsulator(&[]) else { return };
    let tunnelled = tunnel(inner().packet());
    let foreign = Frame { destination: Ipv4Addr::new(198, 51, 100, 102), ..tunnelled.clone() };
    let foreign_broken = Frame { total_length: Some(9), ..foreign.clone() };
    let rows = vec![
        untouched("TCP", inner().bytes(), Cause::Passed),
        untouched("TCP to the endpoint", Frame { destination: ENDPOINT, ..inner() }.bytes(), Cause::Passed),
        untouched("IPv6 in IPv4", Frame { protocol: 41, ..tunnelled.clone() }.bytes(), Cause::Passed),
        untouched("GRE", Frame { protocol: 47, ..tunnelled.clone() }.bytes(), Cause::Passed),
        untouched("a foreign destination", foreign.bytes(), Cause::Passed),
        untouched("a foreign destination, broken", foreign_broken.bytes(), Cause::Passed),
        untouched("a VLAN tag", Frame { vlan: Some(7), ..tunnelled.clone() }.bytes(), Cause::Passed),
        untouched("IPv6", Frame { ether_type: 0x86dd, ..tunnelled.clone() }.bytes(), Cause::Passed),
        untouched("no version 4", Frame { version: 6, ..tunnelled.clone() }.bytes(), Cause::Passed),
        untouched("ARP", ArpFrame::request(CLIENT, ENDPOINT).bytes(), Cause::Passed),
        untouched("an Ethernet header alone", tunnelled.bytes()[..14].to_vec(), Cause::Passed),
        untouched("no room for an outer header", tunnelled.bytes()[..33].to_vec(), Cause::Passed),
        untouched("a first fragment", Frame { fragment: 0x2000, ..tunnelled.clone() }.bytes(), Cause::Fragment),
        untouched("a later fragment", Frame { fragment: 0x0001, ..tunnelled.clone() }.bytes(), Cause::Fragment),
    ];
    check(&mut decapsulator, rows);
}

#[test]
fn what_cannot_be_read_is_dropped() {
    let Some(mut decapsulator) = decapsulator(&[]) else { return };
    let packet = inner().packet();
    let tunnelled = tunnel(packet.clone());
    let of = |inner: Frame| tunnel(inner.packet()).bytes();
    let mut bad_sum = tunnelled.bytes();
    bad_sum[24] ^= 1;
    let mut bad_option = with_options(tunnelled.clone(), 40).bytes();
    bad_option[14 + 59] ^= 1;
    let shortened = Frame { total_length: Some(39), ..tunnelled.clone() };
    let cut_inner = Frame { total_length: Some(packet.len() as u16 + 1), ..inner() };
    let long_outer = Frame { total_length: Some(packet.len() as u16 + 21), ..tunnelled.clone() };
    let rows = vec![
        dropped("an outer header alone", tunnel(Vec::new()).bytes(), Cause::Malformed),
        dropped("outer IHL 4", Frame { header_words: 4, ..tunnelled.clone() }.bytes(), Cause::Malformed),
        dropped("outer IHL 15, and the frame ends before", tunnel_of_ihl_15_cut(), Cause::Malformed),
        dropped("the outer checksum is wrong", bad_sum, Cause::Malformed),
        dropped("an option's bit is wrong", bad_option, Cause::Malformed),
        dropped("the frame was cut", tunnelled.bytes()[..tunnelled.bytes().len() - 1].to_vec(), Cause::Malformed),
        dropped("the outer length is one more than there is", long_outer.bytes(), Cause::Malformed),
        dropped("the outer length leaves no inner header", shortened.bytes(), Cause::Malformed),
        dropped("half an inner header", tunnel(packet[..19].to_vec()).bytes(), Cause::Malformed),
        dropped("inner IHL 4", of(Frame { header_words: 4, ..inner() }), Cause::Malformed),
        dropped("inner length below its header", of(Frame { total_length: Some(19), ..inner() }), Cause::Malformed),
        dropped("inner length beyond the outer", of(cut_inner), Cause::Malformed),
        dropped("IPv6 inside", of(Frame { version: 6, ..inner() }), Cause::InnerNotIpv4),
        dropped("zeros inside", tunnel(vec![0; 40]).bytes(), Cause::InnerNotIpv4),
    ];
    check(&mut decapsulator, rows);
}

/// Its total length and its frame end where an IHL of 5 would have an inner header.
fn tunnel_of_ihl_15_cut() -> Vec<u8> {
    Frame { header_words: 15, ..tunnel(Frame::ipv4(253, Vec::new()).packet()) }.bytes()
}

/// RFC 6040 figure 4, all sixteen fields of it, under every inner DSCP that a bit can spoil.
#[test]
fn congestion_is_told_to_those_who_understand_it() {
    let Some(mut decapsulator) = decapsulator(&[]) else { return };
    let figure = [
        // Arriving inner; becomes under outer Not-ECT, ECT(0), ECT(1), CE.
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];
    let mut rows = Vec::new();
    for (inner_ecn, becomes) in figure {
        for (outer_ecn, becomes) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(becomes) {
            for dscp in [0, 0b1011_1000, 0xfc] {
                let description = format!("outer {outer_ecn:02b}, inner {inner_ecn:02b}, DSCP {dscp:#04x}");
                let inside = with_class(inner().packet(), dscp | inner_ecn);
                // The outer DSCP is the tunnel's and ends with it (RFC 2983 §4.1, the pipe model).
                let frame = frame_with_class(&tunnel(inside), 0x28 | outer_ecn);
                rows.push(match becomes {
                    Some(ecn) => decapsulated(&description, frame, &with_class(inner().packet(), dscp | ecn)),
                    None => dropped(&description, frame, Cause::EcnDropped),
                });
            }
        }
    }
    check(&mut decapsulator, rows);
}

/// The incremental checksum has a corner at 0x0000 and 0xffff (RFC 1624 §3): every value that the field can have.
#[test]
fn every_checksum_is_updated_well() {
    let Some(mut decapsulator) = decapsulator(&[]) else { return };
    for identification in 0..=u16::MAX {
        let inside = |ecn| {
            let mut packet = inner().packet();
            packet[4..6].copy_from_slice(&identification.to_be_bytes());
            with_class(packet, ecn)
        };
        let frame = frame_with_class(&tunnel(inside(ECT_0)), CE);
        let trial = decapsulator.trial(&frame).expect("BPF_PROG_TEST_RUN");
        assert_eq!(trial.received, Some(on_the_wire(&inside(CE))), "identification {identification:#06x}");
    }
}

#[test]
fn who_may_send() {
    let rack = Prefix::new(Ipv4Addr::new(198, 51, 100, 8), 30).expect("a prefix");
    assert_eq!(Prefix::new(BALANCER, 33), None);
    let Some(mut decapsulator) = decapsulator(&[rack, Ipv4Addr::new(203, 0, 113, 10).into()]) else { return };
    let packet = inner().packet();
    let from = |a, b, c, d| Frame { source: Ipv4Addr::new(a, b, c, d), ..tunnel(packet.clone()) };
    let refused_fragment = Frame { fragment: 0x2000, ..from(192, 0, 2, 1) };
    let rows = vec![
        decapsulated("first of the prefix", from(198, 51, 100, 8).bytes(), &packet),
        decapsulated("last of the prefix", from(198, 51, 100, 11).bytes(), &packet),
        decapsulated("the host", from(203, 0, 113, 10).bytes(), &packet),
        dropped("before the prefix", from(198, 51, 100, 7).bytes(), Cause::BadSource),
        dropped("behind the prefix", from(198, 51, 100, 12).bytes(), Cause::BadSource),
        dropped("the host's neighbour", from(203, 0, 113, 11).bytes(), Cause::BadSource),
        dropped("a fragment from elsewhere", refused_fragment.bytes(), Cause::BadSource),
        untouched("no tunnel's packet from elsewhere", inner().bytes(), Cause::Passed),
    ];
    check(&mut decapsulator, rows);
}

#[test]
fn every_cause_is_counted() {
    let Some(mut decapsulator) = decapsulator(&[]) else { return };
    for _ in 0..3 {
        decapsulator.trial(&tunnel(inner().packet()).bytes()).expect("BPF_PROG_TEST_RUN");
    }
    decapsulator.trial(&inner().bytes()).expect("BPF_PROG_TEST_RUN");
    let counters = decapsulator.counters().expect("counters");
    let found = Cause::ALL.map(|cause| (cause.name(), counters.of(cause)));
    let expected = [
        ("decapsulated", 3),
        ("passed", 1),
        ("fragment", 0),
        ("bad_source", 0),
        ("malformed", 0),
        ("inner_not_ipv4", 0),
        ("ecn_dropped", 0),
    ];
    assert_eq!(found, expected);
}
