//! What an independent decoder says of the frames that the walk sends: tshark, with every checksum verified.

mod support;

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use pointsman::dataplane::encap::{Source, Template};
use pointsman::dataplane::flow::Now;
use pointsman::dataplane::tables::{Tables, Way};
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

#[test]
fn tshark_finds_nothing_wrong_with_what_is_sent() {
    if Command::new("tshark").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "tshark is missing (on Debian: apt-get install tshark)");
        eprintln!("SKIPPED: tshark is missing");
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
    if let Way::Ipip(_, template) = &mut tables.members[1].way {
        *template = Template::new(block, tunnel_end(0).into());
    }
    output.extend((100..116).map(|data| sent(&tables, &tunnel(0, data))));
    output.push(sent(&tables, &Frame::echo(7, b"ping").bytes()));
    output.push(sent(&tables, &ArpFrame::request(CLIENT, VIP).bytes()));

    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&capture(&output)).expect("write");
    let checked = ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"];
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file.path());
    for option in checked {
        command.arg("-o").arg(option);
    }
    let fields = [
        "_ws.expert",
        "_ws.malformed",
        "ip.checksum.status",
        "tcp.checksum.status",
        "ip.src",
        "ip.dst",
        "ip.ttl",
        "ip.dsfield",
    ];
    command.args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.arg("-e").arg(field);
    }
    let run = command.output().expect("tshark");
    let text = String::from_utf8(run.stdout).expect("text");
    println!("{text}");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').collect()).collect();
    assert_eq!(lines.len(), output.len(), "{}", String::from_utf8_lossy(&run.stderr));
    for line in &lines {
        assert_eq!(line[..2], ["", ""], "a complaint: {line:?}");
    }
    for (line, tos) in lines[..4].iter().zip(["0x00", "0x02", "0x03", "0xb8"]) {
        // 1: the checksum is good. Outer header, then inner.
        assert_eq!(line[2..4], ["1,1", "1"], "{line:?}");
        assert_eq!(line[4], format!("{TUNNEL_SOURCE},{CLIENT}"));
        assert_eq!(line[5], format!("{},{TUNNEL_VIP}", tunnel_end(0)));
        assert_eq!(line[6], "64,61");
        assert_eq!(line[7], format!("{tos},{tos}"));
    }
    assert!(lines[4..20].iter().all(|line| line[2] == "1,1" && line[4].starts_with("198.51.100.2")), "{text}");
}
