//! Source-address affinity and a limit of connections with real TCP, through the real binary.
//!
//! Topology of every test: see `pointsman::lab`. `cargo test --test persistence`, as root.

#[path = "support/lab.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use pointsman::lab::{Lab, Load, Process, Service, Topology};
use support::{assert_clean, build, statistic, topology};

/// The statistics line comes every ten seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// Round robin over three members; these keys in the VIP.
fn config(lab: &Lab, keys: &str) -> String {
    let config = lab.config(&[Service::http(&[1, 1, 1])]);
    let config = config.replace("scheduler = \"maglev\"", "scheduler = \"rr\"");
    let with_keys = config.replace("announce = \"arp\"\n", &format!("announce = \"arp\"\n{keys}\n"));
    assert!(with_keys.contains("\"rr\"") && with_keys.contains(keys));
    with_keys
}

/// The members that a client's 50 connections go to, from one of its addresses. The first comes alone: of several that
/// begin on two workers at once each takes a turn, before one of them is found to have been quicker.
fn members(lab: &Lab, address: usize) -> Vec<String> {
    let sources = vec![lab.topology().client_addresses()[address]];
    let load = |connections| {
        let report = lab.client_load(&Load { connections, sources: sources.clone(), ..lab.get() }).expect("load");
        assert_clean(&report, connections);
        report.connections_by_member.into_keys()
    };
    load(1).chain(load(49)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// So many clients were remembered, and none is any more.
fn are_forgotten(balancer: &Process, clients: u64) -> bool {
    let (none, begun) = ("persistence.clients=0 ", format!("persistence.begun={clients} "));
    balancer.wait_for_log(PATIENCE, |line| line.contains(none) && line.contains(&begun))
}

#[test]
fn a_clients_connections_go_to_one_member_until_it_is_forgotten() {
    // Two queues: the client's connections come to both workers.
    let Some(lab) = build(&Topology { client_addresses: 2, queues: 2, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let keys = "persistence = { timeout = \"5s\" }\ntimeouts = { tcp_syn = \"1s\", tcp_closing = \"1s\" }";
    let mut balancer = lab.spawn_balancer(&config(&lab, keys)).expect("balancer");
    assert_eq!(members(&lab, 0), ["member1"]);
    assert_eq!(members(&lab, 1), ["member2"]);
    assert_eq!(members(&lab, 0), ["member1"]);
    assert!(are_forgotten(&balancer, 2), "{:?}", balancer.log());
    // Round robin goes on with the third member, then the first.
    assert_eq!(members(&lab, 0), ["member3"]);
    assert_eq!(members(&lab, 1), ["member1"]);
    balancer.stop().expect("stop");
    let counted =
        ["begun", "followed", "moved", "without_room"].map(|what| statistic(&balancer, &format!("persistence.{what}")));
    println!("begun, followed, moved, without room: {counted:?}");
    assert_eq!(counted, [4, 250 - 4, 0, 0]);
}

#[test]
fn without_persistence_a_clients_connections_spread() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let _balancer = lab.spawn_balancer(&config(&lab, "enabled = true")).expect("balancer");
    assert_eq!(members(&lab, 0), ["member1", "member2", "member3"]);
}

#[test]
fn connections_beyond_a_limit_are_refused() {
    let keys = "connection_limit = 20\ntimeouts = { tcp_closing = \"1h\" }";
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&config(&lab, keys)).expect("balancer");
    // All at once; each that has ended is closing for an hour, and counts.
    let load = Load { connections: 30, concurrency: 30, patience_seconds: 1, limit_seconds: 20, ..lab.get() };
    let report = lab.client_load(&load).expect("load");
    assert_eq!((report.connections, report.failures), (20, 10), "{:?}", report.failure_counts);
    balancer.stop().expect("stop");
    assert!(statistic(&balancer, "drop.connection_limit") >= 10);
    assert_eq!(statistic(&balancer, "vip_flows.web"), 20);
}
