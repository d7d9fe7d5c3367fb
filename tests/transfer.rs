//! A thousand connections at once, a megabyte each way, every byte compared: by direct routing and in tunnels.
//!
//! Topology of every test: see `pointsman::lab`.

#[path = "support/lab.rs"]
mod support;

use std::sync::{Mutex, PoisonError};

use pointsman::lab::{Decapsulation, Lab, Layout, Load, Service, Topology};
use support::{assert_clean, assert_frames_accounted_for, build, statistic, topology};

/// Frames that came from this port of the LAN's bridge.
fn sent_by(lab: &Lab, port: &str) -> u64 {
    lab.gateway().interface_counters(port).expect("counters").rx_packets
}

/// A thousand connections at a time carry a megabyte each way, and no reply passes the balancer.
fn assert_transfers(topology: &Topology, forward: &'static str) {
    // One at a time, each alone has work for both of a small machine's cores.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = build(topology) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let service = Service { forward, ..Service::http(&[1, 1, 1]) };
    let mut balancer = lab.spawn_balancer(&lab.config(&[service])).expect("balancer");
    // A thousand senders at memory speed would only show that two cores are not enough for client, network, balancer
    // and members at once, so the client has a network card: 400 megabit a second, and a queue that a thousand send
    // buffers fit into.
    lab.client().write_sysctl("net/ipv4/tcp_wmem", "4096 16384 32768").expect("send buffers");
    let card =
        ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "400mbit", "burst", "64kb", "limit", "64mb"];
    lab.client().run(card).expect("a network card (tc, and the kernel's sch_tbf)");
    let ports = topology.layout.balancer_ports();
    let sent_by_balancer = || ports.iter().map(|port| sent_by(&lab, port)).sum::<u64>();
    let before = sent_by_balancer();
    let load =
        Load { connections: 1000, concurrency: 1000, patience_seconds: 100, limit_seconds: 110, ..lab.transfer() };
    let report = lab.client_load(&load).expect("load");
    println!("{report:?}");
    assert_clean(&report, 1000);
    assert!(report.concurrent_max >= 900, "{} at a time", report.concurrent_max);
    assert_eq!(report.bytes, 2 * 1000 * 1_000_000, "uploaded and downloaded, every byte compared");

    // Downloads are as large as uploads. Had replies passed the balancer, its port would have sent at least as many
    // frames as the members' ports; it sends the clients' direction only.
    let from_balancer = sent_by_balancer() - before;
    let from_members: u64 = (0..3).map(|index| sent_by(&lab, &Topology::member_name(index))).sum();
    balancer.stop().expect("stop");
    let transmitted = statistic(&balancer, "transmitted");
    println!("balancer sent {from_balancer} frames ({transmitted} by its workers), members {from_members}");
    assert!(from_balancer <= transmitted + 100, "all that came from the balancer came from its workers");
    let (received, dropped) = (statistic(&balancer, "received"), statistic(&balancer, "dropped"));
    assert_eq!(received + 5, transmitted + dropped, "requests in, requests out, and five announcements");
    assert_frames_accounted_for(&balancer);
}

#[test]
fn a_thousand_connections_by_direct_routing() {
    assert_transfers(&topology(), "dr");
}

#[test]
fn a_thousand_connections_in_tunnels_on_one_interface() {
    let topology = Topology { layout: Layout::Routed, decapsulation: Decapsulation::Any, ..topology() };
    assert_transfers(&topology, "ipip");
}

#[test]
fn a_thousand_connections_in_tunnels_on_two_interfaces() {
    let topology = Topology { layout: Layout::TwoArmed, decapsulation: Decapsulation::Any, ..topology() };
    assert_transfers(&topology, "ipip");
}
