//! Two interfaces: in by one and out by the other, both ways at once, and what happens when one of them changes.
//!
//! Topology of every test: see `pointsman::lab`, `Layout::TwoArmed`.

#[path = "support/lab.rs"]
mod support;

use std::time::Duration;

use pointsman::lab::{Decapsulation, Lab, LabError, Layout, Load, Process, Service, Topology, wait_until};
use support::{assert_clean, assert_frames_accounted_for, build, statistic, topology};

const PATIENCE: Duration = Duration::from_secs(10);

fn two_armed() -> Topology {
    Topology { layout: Layout::TwoArmed, ..topology() }
}

fn sent_by(lab: &Lab, port: &str) -> u64 {
    lab.gateway().interface_counters(port).expect("counters").rx_packets
}

fn assert_logs(balancer: &Process, words: &str) {
    assert!(
        balancer.wait_for_log(PATIENCE, |line| line.contains(words)),
        "{words:?} is not in the log:\n{}",
        balancer.log().join("\n")
    );
}

fn ip(lab: &Lab, arguments: &str) {
    lab.balancer().run(std::iter::once("ip").chain(arguments.split(' '))).expect(arguments);
}

fn assert_forwards_soon(lab: &Lab) {
    let one = Load { connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
    assert!(wait_until(PATIENCE, || lab.client_load(&one).is_ok_and(|report| report.failures == 0)));
    let report = lab.client_load(&Load { connections: 200, ..lab.get() }).expect("load");
    assert_clean(&report, 200);
}

#[test]
fn in_by_one_and_out_by_the_other() {
    let Some(lab) = build(&two_armed()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service::http(&[1, 1, 1]), Service::dns(&[1, 1, 1])]);
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    let [front, back] = ["balancer", "balancer-back"].map(|port| sent_by(&lab, port));
    assert_clean(&lab.client_load(&Load { connections: 2000, ..lab.get() }).expect("load"), 2000);
    assert_clean(&lab.client_load(&Load { connections: 2000, ..lab.udp() }).expect("load"), 2000);
    let [front, back] = [sent_by(&lab, "balancer") - front, sent_by(&lab, "balancer-back") - back];
    assert!(balancer.stop().expect("stop").success());
    println!("sent by eth0: {front} frames, by eth1: {back}");
    assert!(back >= statistic(&balancer, "transmitted") - 10, "requests leave by eth1");
    assert!(front < 100, "nothing but ARP leaves by eth0");
    assert_frames_accounted_for(&balancer);
}

#[test]
fn both_ways_at_once_on_two_queues() {
    // The second VIP's clients are on the members' side: the gateway asks for it there.
    let other = Service { name: "other".into(), address: [203, 0, 113, 50].into(), ..Service::http(&[1, 1, 1]) };
    let topology = Topology { queues: 2, vips: vec![Topology::VIP, other.address], ..two_armed() };
    let Some(lab) = build(&topology) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1]), other.clone()])).expect("balancer");
    let target = std::net::SocketAddrV4::new(other.address, 80);
    let over_there = Load { target, connections: 3000, ..lab.get() };
    std::thread::scope(|scope| {
        let there = scope.spawn(|| lab.client_load(&over_there));
        let here = lab.client_load(&Load { connections: 3000, ..lab.get() });
        assert_clean(&here.expect("load"), 3000);
        assert_clean(&there.join().expect("a thread").expect("load"), 3000);
    });
    assert!(balancer.stop().expect("stop").success());
    let shares = [0, 1].map(|worker| statistic(&balancer, &format!("worker.{worker}")));
    assert!(shares.iter().all(|&share| share * 4 >= shares.iter().sum()), "{shares:?}");
    assert_frames_accounted_for(&balancer);
}

#[test]
fn a_link_that_goes_down_and_up_under_load_loses_no_frame_for_good() {
    for down in ["eth0", "eth1"] {
        let Some(lab) = build(&two_armed()) else { return };
        let _members = lab.spawn_member_servers().expect("members");
        let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
        let load = Load { connections: 100_000, patience_seconds: 1, limit_seconds: 5, ..lab.get() };
        std::thread::scope(|scope| {
            let running = scope.spawn(|| lab.client_load(&load));
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(400));
                ip(&lab, &format!("link set {down} down"));
                std::thread::sleep(Duration::from_millis(400));
                ip(&lab, &format!("link set {down} up"));
            }
            drop(running.join());
        });
        // Taking a link down took its routes along.
        let gateway = if down == "eth0" { "198.51.100.1 dev eth0" } else { "203.0.113.1 dev eth1 metric 9" };
        ip(&lab, &format!("route replace default via {gateway}"));
        assert_forwards_soon(&lab);
        assert!(balancer.stop().expect("stop").success());
        assert_frames_accounted_for(&balancer);
    }
}

#[test]
fn an_interface_that_vanishes_is_done_without_until_it_is_back() {
    let Some(lab) = build(&two_armed()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_forwards_soon(&lab);
    ip(&lab, "link del eth1");
    assert_logs(&balancer, "eth1: it is gone");
    assert_logs(&balancer, "eth0: served again");
    assert_logs(&balancer, "member web/member1 unresolved");
    let gateway = lab.gateway().path();
    ip(&lab, &format!("link add eth1 type veth peer name balancer-back netns {}", gateway.display()));
    lab.gateway().run(["ip", "link", "set", "balancer-back", "master", "back", "up"]).expect("ip");
    ip(&lab, "link set eth1 address 02:00:00:00:00:20 up");
    ip(&lab, "addr add 203.0.113.10/24 dev eth1");
    assert_logs(&balancer, "eth0, eth1: served again");
    assert_forwards_soon(&lab);
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn unequal_queue_counts_are_an_error_that_names_the_command() {
    let Some(lab) = build(&Topology { queues: 2, ..two_armed() }) else { return };
    lab.balancer().run(["ethtool", "-L", "eth1", "rx", "1", "tx", "1"]).expect("ethtool");
    match lab.spawn_balancer(&lab.config(&[Service::http(&[1])])) {
        Err(LabError::NotReady { log, exit_code, .. }) => {
            assert_eq!(exit_code, Some(3));
            let words = "eth1 has 1 queues and eth0 has 2; a worker has one queue of each interface, so they need the \
                         same number (set it with: ethtool -L eth0 rx 1 tx 1)";
            assert!(log.contains(words), "{log}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_methods_leave_by_the_second_interface() {
    let topology = Topology { decapsulation: Decapsulation::Any, tcp_ports: vec![80, 81], ..two_armed() };
    let Some(lab) = build(&topology) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let tunnel = Service { forward: "ipip", ..Service::http(&[1, 1, 1]) };
    let direct = Service { name: "direct".into(), port: Some(81), ..Service::http(&[1, 1, 1]) };
    let mut balancer = lab.spawn_balancer(&lab.config(&[tunnel, direct])).expect("balancer");
    for port in [80, 81] {
        let target = std::net::SocketAddrV4::new(Topology::VIP, port);
        assert_clean(&lab.client_load(&Load { target, connections: 500, ..lab.get() }).expect("load"), 500);
    }
    assert!(balancer.stop().expect("stop").success());
    assert_frames_accounted_for(&balancer);
}
