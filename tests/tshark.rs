//! What an independent decoder says of the frames that the walk sends, and of those that the real binary puts on the
//! wire: tshark, with every checksum verified.
//!
//! The wire is the gateway's port of `member1`; topology: see `pointsman::lab`, `Layout::Stick`.

mod support;

#[path = "support/lab.rs"]
mod in_lab;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pointsman::dataplane::encap::{Source, Template};
use pointsman::dataplane::flow::Now;
use pointsman::dataplane::tables::{Tables, Way};
use pointsman::lab::{Decapsulation, Load, Service, Topology, wait_until};
use support::*;

fn sent(tables: &Tables, bytes: &[u8]) -> Vec<u8> {
    walk_with(tables, &flows(), bytes, Now(0)).1.expect("forwarded")
}

/// A capture file (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>) of Ethernet frames.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0xffff, 1] {
        file.extend(u32::to_le_bytes(word));
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

fn is_missing(program: &str) -> bool {
    let missing = Command::new(program).arg("--version").output().is_err();
    if missing {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing (on Debian: apt-get install {program})");
        eprintln!("SKIPPED: {program} is missing");
    }
    missing
}

/// What tshark says of a packet. Where there is an outer header, its value comes first: `outer,inner`.
const FIELDS: [&str; 9] = [
    "_ws.expert.severity",
    "_ws.malformed",
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "ip.src",
    "ip.dst",
    "ip.ttl",
    "ip.dsfield",
];

/// [`FIELDS`] of every packet of a capture, once tshark has nothing to complain of in any.
#[track_caller]
fn decode(capture: &Path) -> Vec<[String; FIELDS.len()]> {
    /// `PI_WARN` (Wireshark, epan/proto.h). Below it are remarks: a connection begins.
    const WARNING: u32 = 0x60_0000;
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture);
    // Replies take another way: it cannot judge what they acknowledge.
    let judge = ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"];
    for option in judge.into_iter().chain(["tcp.analyze_sequence_numbers:FALSE"]) {
        command.args(["-o", option]);
    }
    // What is on port 53 here is no DNS.
    command.args(["--disable-protocol", "dns", "-T", "fields", "-E", "separator=|"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let run = command.output().expect("tshark");
    let text = String::from_utf8(run.stdout).expect("text");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let fields = |line: &str| {
        let fields: Vec<String> = line.split('|').map(str::to_owned).collect();
        <[String; FIELDS.len()]>::try_from(fields).unwrap_or_else(|fields| panic!("{fields:?}"))
    };
    let lines: Vec<_> = text.lines().map(fields).collect();
    for line in &lines {
        let [severities, malformed, ..] = line;
        let mut severities = severities.split(',').filter(|one| !one.is_empty());
        let is_complaint = |one: &str| one.parse::<u32>().expect("a number") >= WARNING;
        assert!(!severities.any(is_complaint) && malformed.is_empty(), "a complaint: {line:?}");
    }
    lines
}

#[test]
fn tshark_finds_nothing_wrong_with_what_is_sent() {
    if is_missing("tshark") {
        return;
    }
    let mut tables = tables(1, 1500);
    let block = Source { address: Ipv4Addr::new(198, 51, 100, 240).into(), varying: 0xf };
    let tunnel = |tos, data| {
        let mut frame = to_tunnel(Frame { tos, ..Frame::udp(40_000 + data as u16, 80, data) });
        // The inner checksums are the client's business; tshark verifies these as well.
        frame.protocol = TCP;
        frame.payload = tcp_segment(40_000 + data as u16, 80, data);
        let mut pseudo = frame.source.octets().to_vec();
        pseudo.extend(frame.destination.octets());
        pseudo.extend([0, TCP]);
        pseudo.extend((frame.payload.len() as u16).to_be_bytes());
        pseudo.extend(&frame.payload);
        let sum = checksum(&pseudo);
        frame.payload[16..18].copy_from_slice(&sum.to_be_bytes());
        frame.bytes()
    };
    let mut output: Vec<Vec<u8>> =
        [(0, 0), (0b10, 1), (0b11, 700), (46 << 2, 1440)].map(|(tos, data)| sent(&tables, &tunnel(tos, data))).into();
    if let Way::Ipip(_, template) = &mut Arc::make_mut(&mut tables.members)[1].way {
        *template = Template::new(block, tunnel_end(0).into());
    }
    output.extend((100..116).map(|data| sent(&tables, &tunnel(0, data))));
    output.push(sent(&tables, &Frame::echo(7, b"ping").bytes()));
    output.push(sent(&tables, &ArpFrame::request(CLIENT, VIP).bytes()));

    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&capture(&output)).expect("write");
    let lines = decode(file.path());
    assert_eq!(lines.len(), output.len());
    for (line, tos) in lines[..4].iter().zip(["0x00", "0x02", "0x03", "0xb8"]) {
        // 1: the checksum is good. Outer header, then inner.
        let expected = [
            "1,1",
            "1",
            "",
            &format!("{TUNNEL_SOURCE},{CLIENT}"),
            &format!("{},{TUNNEL_VIP}", tunnel_end(0)),
            "64,61",
            &format!("{tos},{tos}"),
        ];
        assert_eq!(line[2..], expected, "{line:?}");
    }
    for line in &lines[4..20] {
        assert_eq!(line[2], "1,1", "{line:?}");
        assert!(line[5].starts_with("198.51.100.2"), "{line:?}");
    }
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn tshark_finds_nothing_wrong_with_what_is_on_the_wire() {
    const PACKETS: usize = 1000;
    /// From the last packet to the end of the one who has seen it.
    const PATIENCE: Duration = Duration::from_secs(10);
    let topology = Topology { decapsulation: Decapsulation::Any, ..in_lab::topology() };
    let Some(lab) = in_lab::build(&topology) else { return };
    if is_missing("tshark") || is_missing("tcpdump") {
        return;
    }
    let _members = lab.spawn_member_servers().expect("members");
    let tunnels = [Service::http(&[1]), Service::dns(&[1])].map(|service| Service { forward: "ipip", ..service });
    let block = "tunnel_source = \"198.51.100.24/30\"";
    let mut balancer = lab.spawn_balancer(&lab.config_with(&[block], &tunnels)).expect("balancer");

    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut tcpdump = lab.gateway().command("tcpdump");
    tcpdump.args(["-Z", "root", "-n", "-i", "member1", "-c", &PACKETS.to_string(), "-w"]).arg(file.path());
    tcpdump.args(["ip", "proto", "4"]).stderr(Stdio::piped());
    let mut tcpdump = Killed(lab.spawn(tcpdump).expect("tcpdump"));
    let mut said = BufReader::new(tcpdump.0.stderr.take().expect("a pipe")).lines();
    assert!(said.any(|line| line.expect("a line").contains("listening on")));
    for load in [Load { connections: 200, ..lab.udp() }, Load { connections: 300, ..lab.get() }] {
        in_lab::assert_clean(&lab.client_load(&load).expect("load"), load.connections);
    }
    let mut ended = None;
    let has_ended = || {
        ended = tcpdump.0.try_wait().expect("tcpdump");
        ended.is_some()
    };
    assert!(wait_until(PATIENCE, has_ended), "it has not seen {PACKETS} packets");
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert!(balancer.stop().expect("stop").success());

    let lines = decode(file.path());
    assert_eq!(lines.len(), PACKETS);
    let member = lab.topology().member_address(0);
    let is_client =
        |address: &str| lab.topology().client_addresses().iter().any(|client| client.to_string() == address);
    let mut sources = std::collections::BTreeSet::new();
    for line in &lines {
        let [_, _, ip, tcp, udp, source, destination, ttl, _] = line;
        assert!(ip == "1,1" && [tcp.as_str(), udp] != ["", ""], "{line:?}");
        assert!([tcp, udp].iter().all(|status| status.is_empty() || *status == "1"), "{line:?}");
        assert_eq!(*destination, format!("{member},{}", Topology::VIP));
        assert_eq!(ttl, "64,63", "the gateway's hop alone");
        let (outer, inner) = source.split_once(',').expect("two headers");
        assert!(is_client(inner), "{line:?}");
        sources.insert(outer.to_owned());
    }
    for (protocol, status) in [("TCP", 3), ("UDP", 4)] {
        assert!(lines.iter().any(|line| !line[status].is_empty()), "no {protocol}");
    }
    assert_eq!(sources, ["24", "25", "26", "27"].map(|host| format!("198.51.100.{host}")).into());
}
