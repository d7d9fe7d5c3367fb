//! Real TCP and UDP through the real binary: client → gateway → AF_XDP worker → member → client.
//!
//! Topology of every test: see `pointsman::lab`. The balancer's interface is a veth; members run HTTP on the kernel's
//! stack with the VIP on `lo`.

#[path = "support/lab.rs"]
mod support;

use std::time::Duration;

use pointsman::lab::{Lab, Load, Service, Topology, wait_until};
use support::{assert_clean, build, statistic, topology};

/// Frames that came from this port of the LAN's bridge.
fn sent_by(lab: &Lab, port: &str) -> u64 {
    lab.gateway().interface_counters(port).expect("counters").rx_packets
}

#[test]
fn udp_requests_are_answered() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::dns(&[1, 1, 1])])).expect("balancer");
    let report = lab.client_load(&Load { connections: 3000, ..lab.udp() }).expect("load");
    assert_clean(&report, 3000);
    assert_eq!(report.connections_by_member.len(), 3, "{:?}", report.connections_by_member);
    balancer.stop().expect("stop");
    assert!(statistic(&balancer, "transmitted") >= 3000);
}

/// 30 000 connections over these weights; every share within 5 % of what the weights promise.
fn assert_distribution(weights: &[u16]) {
    const CONNECTIONS: u64 = 30_000;
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let _balancer = lab.spawn_balancer(&lab.config(&[Service::http(weights)])).expect("balancer");
    let load = Load { connections: CONNECTIONS, concurrency: 128, limit_seconds: 110, ..lab.get() };
    let report = lab.client_load(&load).expect("load");
    assert_clean(&report, CONNECTIONS);
    let sum: u16 = weights.iter().sum();
    for (index, &weight) in weights.iter().enumerate() {
        let expected = CONNECTIONS as f64 * f64::from(weight) / f64::from(sum);
        let name = Topology::member_name(index);
        let got = report.connections_by_member.get(&name).copied().unwrap_or(0) as f64;
        println!("{name}, weight {weight}: {got} connections of {expected}");
        assert!((got - expected).abs() <= 0.05 * expected, "{name}: {got} of {expected}");
    }
}

#[test]
fn equal_members_get_equal_shares() {
    assert_distribution(&[1, 1, 1]);
}

#[test]
fn shares_follow_weights() {
    assert_distribution(&[1, 2, 3]);
}

#[test]
fn a_member_of_weight_zero_gets_nothing() {
    assert_distribution(&[1, 0, 1]);
}

#[test]
fn two_queues_are_two_workers_that_share_the_load() {
    let Some(lab) = build(&Topology { queues: 2, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    let report = lab.client_load(&Load { connections: 5000, ..lab.get() }).expect("load");
    assert_clean(&report, 5000);
    balancer.stop().expect("stop");
    let shares = [0, 1].map(|worker| statistic(&balancer, &format!("worker.{worker}")));
    println!("packets per worker: {shares:?}");
    let sum: u64 = shares.iter().sum();
    assert!(shares.iter().all(|&share| share * 4 >= sum), "each worker takes at least a quarter: {shares:?}");
}

/// Turns are the workers' common property: each connection takes one, whichever worker it comes to.
#[test]
fn weighted_round_robin_is_exact_on_two_workers() {
    let Some(lab) = build(&Topology { queues: 2, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let service = Service { scheduler: "wrr", ..Service::http(&[1, 2, 3]) };
    let mut balancer = lab.spawn_balancer(&lab.config(&[service])).expect("balancer");
    let report = lab.client_load(&Load { connections: 6000, ..lab.get() }).expect("load");
    assert_clean(&report, 6000);
    balancer.stop().expect("stop");
    println!("{:?}", report.connections_by_member);
    for (index, share) in [1000, 2000, 3000].into_iter().enumerate() {
        let name = Topology::member_name(index);
        let got = report.connections_by_member.get(&name).copied().unwrap_or(0);
        assert_eq!(got, share, "{name}");
    }
    let shares = [0, 1].map(|worker| statistic(&balancer, &format!("worker.{worker}")));
    assert!(shares.iter().all(|&packets| packets > 0), "both took part: {shares:?}");
}

/// One connection after the other: each finds the earlier ones closing, and the member that has the fewest for its weight.
#[test]
fn weighted_least_connections_evens_out_what_members_have() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let service = Service { scheduler: "wlc", ..Service::http(&[1, 1, 2]) };
    let mut balancer = lab.spawn_balancer(&lab.config(&[service])).expect("balancer");
    let report = lab.client_load(&Load { connections: 400, concurrency: 1, ..lab.get() }).expect("load");
    assert_clean(&report, 400);
    balancer.stop().expect("stop");
    let names = [0, 1, 2].map(Topology::member_name);
    let flows =
        |name: &String| ["active", "inactive"].map(|state| statistic(&balancer, &format!("{state}.web/{name}")));
    for (name, share) in names.iter().zip([100, 100, 200]) {
        let got = report.connections_by_member.get(name).copied().unwrap_or(0);
        println!("{name}: {got} connections of {share}; active and inactive flows left: {:?}", flows(name));
        assert!(got.abs_diff(share) <= 2, "{name}: {got} of {share}");
    }
}

#[test]
fn several_vips_and_any_port() {
    let any = Service { name: "any".into(), address: [198, 51, 100, 51].into(), port: None, ..Service::http(&[1, 1]) };
    let topology = Topology { vips: vec![Topology::VIP, any.address], tcp_ports: vec![80, 8080, 9999], ..topology() };
    let Some(lab) = build(&topology) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service::http(&[1, 1, 1]), Service::dns(&[1]), any.clone()]);
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    for port in [8080, 9999] {
        let target = std::net::SocketAddrV4::new(any.address, port);
        assert_clean(&lab.client_load(&Load { target, connections: 200, ..lab.get() }).expect("load"), 200);
    }
    assert_clean(&lab.client_load(&Load { connections: 200, ..lab.get() }).expect("load"), 200);
    let udp = lab.client_load(&Load { connections: 200, ..lab.udp() }).expect("load");
    assert_clean(&udp, 200);
    assert_eq!(udp.connections_by_member.keys().collect::<Vec<_>>(), ["member1"], "its pool has one member");

    // A port of the first VIP that nobody serves is dropped by steering, and the host does not answer for it.
    let refused = Load {
        target: std::net::SocketAddrV4::new(Topology::VIP, 8080),
        connections: 1,
        patience_seconds: 1,
        limit_seconds: 5,
        ..lab.get()
    };
    assert_eq!(lab.client_load(&refused).expect("load").failures, 1);
    balancer.stop().expect("stop");
    assert!(statistic(&balancer, "xdp.unserved") > 0);
}

#[test]
fn after_kill_9_nothing_is_attached_and_a_restart_forwards() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service::http(&[1, 1, 1])]);
    let attached = || lab.balancer().run(["ip", "link", "show", "eth0"]).expect("ip link").contains("xdp");
    for round in 0..20 {
        let started = std::time::Instant::now();
        let mut balancer = lab.spawn_balancer(&config).expect("balancer");
        let ready = started.elapsed();
        assert!(attached());
        let first = lab.client_load(&Load { connections: 20, concurrency: 4, ..lab.get() }).expect("load");
        println!("round {round}: ready after {ready:?}, 20 connections after {:?}", started.elapsed());
        assert_clean(&first, 20);
        // In mid-traffic: a load is running when the process dies.
        std::thread::scope(|scope| {
            let load = Load { connections: 100_000, patience_seconds: 1, limit_seconds: 1, ..lab.get() };
            let (lab, load) = (&lab, load);
            let running = scope.spawn(move || lab.client_load(&load));
            let port = || sent_by(lab, "balancer");
            let before = port();
            assert!(wait_until(Duration::from_secs(10), || port() > before + 1000), "traffic");
            balancer.kill().expect("kill");
            assert!(wait_until(Duration::from_secs(2), || !attached()), "the program outlived its owner");
            // The host's own network is alive.
            lab.gateway().run(["ping", "-c", "1", "-W", "2", &Topology::BALANCER.to_string()]).expect("ping");
            drop(running.join());
        });
    }
}
