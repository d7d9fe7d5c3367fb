//! Two interfaces: in by one and out by the other, both ways at once, and what happens when one of them changes.
//!
//! Topology of every test: see `pointsman::lab`, `Layout::TwoArmed`.

#[path = "support/lab.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use pointsman::lab::{Decapsulation, Lab, LabError, Layout, Load, Namespace, Process, Service, Topology, wait_until};
use support::{assert_clean, assert_frames_accounted_for, assert_logs, assert_logs_times, build, statistic, topology};

const PATIENCE: Duration = Duration::from_secs(10);

fn two_armed() -> Topology {
    Topology { layout: Layout::TwoArmed, ..topology() }
}

fn sent_by(lab: &Lab, port: &str) -> u64 {
    lab.gateway().interface_counters(port).expect("counters").rx_packets
}

/// Frames that the gateway has sent out of this port of the LAN's bridge.
fn sent_to(lab: &Lab, port: &str) -> u64 {
    lab.gateway().interface_counters(port).expect("counters").tx_packets
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

/// Waits until so many more packets were counted than at first.
#[track_caller]
fn assert_more(device: &str, what: &str, packets: u64, counted: impl Fn() -> u64) {
    let before = counted();
    assert!(wait_until(PATIENCE, || counted() >= before + packets), "{device}: no {packets} packets {what}");
}

/// Waits until members get packets.
#[track_caller]
fn assert_flows(lab: &Lab, device: &str) {
    assert_more(device, "came through it", 200, || sent_by(lab, "balancer-back"));
}

/// Takes the link of the balancer's `interface` down and up again under load, by `device` of `namespace`. Says how many
/// packets the balancer had no way for.
fn dropped_while_down(lab: &Lab, namespace: &Namespace, (device, interface): (&str, &str), gateway: &str) -> u64 {
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    let load = Load { connections: 100_000, patience_seconds: 1, limit_seconds: 1, ..lab.get() };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Should this thread fail, the load ends by itself.
        scope
            .spawn(|| (0..60).take_while(|_| !is_over.load(Ordering::Relaxed)).all(|_| lab.client_load(&load).is_ok()));
        for time in 1..=3 {
            assert_flows(lab, device);
            namespace.run(["ip", "link", "set", device, "down"]).expect("ip");
            assert_logs_times(&balancer, time, &format!("WARN {interface} is down"));
            if interface == "eth1" {
                assert_more(device, "came for it while it was down", 20, || sent_to(lab, "balancer"));
            }
            namespace.run(["ip", "link", "set", device, "up"]).expect("ip");
            assert_logs_times(&balancer, time, &format!("INFO {interface} is up"));
        }
        assert_flows(lab, device);
        is_over.store(true, Ordering::Relaxed);
    });
    // Taking one of the balancer's own links down took its routes along.
    ip(lab, &format!("route replace default via {gateway}"));
    assert_forwards_soon(lab);
    assert!(balancer.stop().expect("stop").success());
    assert_frames_accounted_for(&balancer);
    let dropped = ["drop.no_member", "drop.tx_ring_full"].map(|reason| statistic(&balancer, reason));
    println!("{device}: dropped for want of a member and of room: {dropped:?}");
    dropped.iter().sum()
}

#[test]
fn a_link_that_goes_down_and_up_under_load_loses_no_frame_for_good() {
    let (front, back) = ("198.51.100.1 dev eth0", "203.0.113.1 dev eth1 metric 9");
    // The link itself, with its routes; or its far end: the routes stay, the carrier goes.
    for (own, device, interface, gateway) in [
        (true, "eth0", "eth0", front),
        (true, "eth1", "eth1", back),
        (false, "balancer", "eth0", front),
        (false, "balancer-back", "eth1", back),
    ] {
        let Some(lab) = build(&two_armed()) else { return };
        let namespace = if own { lab.balancer() } else { lab.gateway() };
        let dropped = dropped_while_down(&lab, namespace, (device, interface), gateway);
        // Without eth0 nothing comes in.
        assert!(interface == "eth0" || dropped > 0, "{device}: nothing met the link while it was down");
    }
}

#[test]
fn an_interface_that_vanishes_is_done_without_until_it_is_back() {
    let Some(lab) = build(&two_armed()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_forwards_soon(&lab);
    ip(&lab, "link del eth1");
    assert_logs(&balancer, "eth1: it does not exist");
    assert_logs(&balancer, "eth0: served on, by new sockets");
    // Their route leaves by eth0 now.
    assert_logs(&balancer, "3 members unresolved: behind gateway 198.51.100.1; ");
    recreate_eth1(&lab, 1, 1500);
    assert_logs(&balancer, "eth1: served again");
    assert_forwards_soon(&lab);
    assert!(balancer.stop().expect("stop").success());
    assert_warnings(
        &balancer,
        &[
            "eth1: it does not exist; nothing is served by it until it does",
            "3 members unresolved: behind gateway 198.51.100.1; forward = \"dr\" needs the member on-link (web/member1, \
             web/member2, web/member3)",
            "pool web down: no usable member, nobody serves (0 of 3 members usable, quorum 1); VIP web",
        ],
    );
}

/// A warning for each fact, in whatever order, and no more. Whether an interface that vanishes is seen to go down first
/// is chance, and so is whether its members are seen without it before they are seen behind the other one.
#[track_caller]
fn assert_warnings(balancer: &Process, expected: &[&str]) {
    let log = balancer.log();
    let warnings = log.iter().filter_map(|line| Some(line.split_once(" WARN ")?.1.trim()));
    let mut found: Vec<String> = warnings
        .filter(|words| !matches!(*words, "eth0 is down" | "eth1 is down") && !words.contains("unresolved: eth1"))
        .map(|words| words.replace(": eth0 is down", ": eth0 does not exist"))
        .collect();
    found.sort_by_key(|words| expected.iter().position(|one| one == words));
    assert_eq!(found, expected, "{}", log.join("\n"));
}

#[test]
fn the_only_interface_is_replaced_with_a_line_for_each_fact() {
    let Some(lab) = build(&Topology { members: 8, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1; 8])])).expect("balancer");
    assert_forwards_soon(&lab);
    ip(&lab, "link del eth0");
    assert_logs(&balancer, "eth0: it does not exist");
    let queues = "numrxqueues 1 numtxqueues 1";
    let peer = format!("peer name balancer {queues} netns {}", lab.gateway().path().display());
    ip(&lab, &format!("link add eth0 {queues} type veth {peer}"));
    lab.gateway().run(["ip", "link", "set", "balancer", "master", "lan", "up"]).expect("ip");
    ip(&lab, "link set eth0 address 02:00:00:00:00:10 up");
    ip(&lab, "addr add 198.51.100.10/24 dev eth0");
    ip(&lab, "route add default via 198.51.100.1");
    assert_logs(&balancer, "eth0: served again");
    assert_forwards_soon(&lab);
    assert!(balancer.stop().expect("stop").success());
    assert_warnings(
        &balancer,
        &[
            "eth0: it does not exist; nothing is served by it until it does",
            "8 members unresolved: eth0 does not exist (web/member1, web/member2, web/member3, web/member4, web/member5 \
             and 3 more)",
            "pool web down: no usable member, nobody serves (0 of 8 members usable, quorum 1); VIP web",
        ],
    );
}

#[test]
fn an_interface_that_is_missing_at_start_is_served_when_it_comes() {
    let Some(lab) = build(&two_armed()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    ip(&lab, "link del eth1");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_logs(&balancer, "eth1: it does not exist; nothing is served by it until it does");
    recreate_eth1(&lab, 1, 1500);
    assert_logs(&balancer, "eth1: served");
    assert_forwards_soon(&lab);
    assert!(balancer.stop().expect("stop").success());
}

/// Beside the members behind `eth1` (port 81), one that is reached by `eth0` alone (port 80): in a tunnel, by way of the
/// gateway. What happens to `eth1` is none of its business.
fn with_a_survivor(queues: usize) -> Option<(Lab, String)> {
    let (decapsulation, tcp_ports) = (Decapsulation::Any, vec![80, 81]);
    let lab = build(&Topology { decapsulation, tcp_ports, queues, members: 2, ..two_armed() })?;
    ip(&lab, "route add 203.0.113.101/32 via 198.51.100.1 dev eth0");
    for (interface, port) in [("eth0", "balancer"), ("eth1", "balancer-back")] {
        if queues > 1 {
            set_queues(&lab, interface, port, 1);
        }
    }
    let survivor = Service { forward: "ipip", ..Service::http(&[1]) };
    let other = Service { name: "other".into(), port: Some(81), ..Service::http(&[0, 1]) };
    let config = lab.config(&[survivor, other]);
    Some((lab, config))
}

/// Sets both ends, in whichever order the kernel takes: a veth that runs XDP has no fewer receive queues than its peer
/// has transmit queues.
fn set_queues(lab: &Lab, interface: &str, port: &str, queues: usize) {
    let queues = queues.to_string();
    let here = || lab.balancer().run(["ethtool", "-L", interface, "rx", &queues, "tx", &queues]).is_ok();
    let there = || lab.gateway().run(["ethtool", "-L", port, "rx", &queues, "tx", &queues]).is_ok();
    assert!((here() && there()) || (there() && here()), "{interface}: {queues} queues");
}

fn recreate_eth1(lab: &Lab, queues: usize, mtu: u32) {
    let queues = format!("mtu {mtu} numrxqueues {queues} numtxqueues {queues}");
    let peer = format!("peer name balancer-back {queues} netns {}", lab.gateway().path().display());
    ip(lab, &format!("link add eth1 {queues} type veth {peer}"));
    lab.gateway().run(["ip", "link", "set", "balancer-back", "master", "back", "up"]).expect("ip");
    ip(lab, "link set eth1 address 02:00:00:00:00:20 up");
    ip(lab, "addr add 203.0.113.10/24 dev eth1");
}

fn forwards_on(lab: &Lab, port: u16) -> bool {
    let target = std::net::SocketAddrV4::new(Topology::VIP, port);
    let one = Load { target, connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
    lab.client_load(&one).is_ok_and(|report| report.failures == 0)
}

/// For how long the VIP on `eth0` does not answer around a change: as many of four seconds' pings as are lost, and it is
/// to be less than three of ten.
#[track_caller]
fn assert_interrupted_shortly(lab: &Lab, what: &str, change: impl FnOnce()) {
    let vip = Topology::VIP.to_string();
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| lab.gateway().run(["ping", "-nqi", "0.01", "-w", "4", &vip]).expect("ping"));
        assert_more(what, "came to it", 20, || sent_to(lab, "balancer"));
        change();
        let report = ping.join().expect("a thread");
        let (sent, received) = report
            .lines()
            .find_map(|line| line.split_once(" packets transmitted, "))
            .and_then(|(sent, rest)| Some((sent.parse().ok()?, rest.split(' ').next()?.parse().ok()?)))
            .unwrap_or_else(|| panic!("{report}"));
        let lost: u64 = u64::saturating_sub(sent, received);
        println!("{what}: eth0 was interrupted for about {} ms", lost * 4000 / u64::max(sent, 1));
        // A busy machine sends fewer, and loses fewer.
        assert!(sent > 40 && lost * 10 < sent * 3, "{what}: {report}");
    });
    assert!(forwards_on(lab, 80), "{what}");
}

#[test]
fn an_interface_that_comes_back_with_other_queues_is_left_out_until_they_fit() {
    let Some((lab, config)) = with_a_survivor(1) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    assert!(forwards_on(&lab, 80) && forwards_on(&lab, 81));
    assert_interrupted_shortly(&lab, "eth1 is recreated with 2 queues", || {
        ip(&lab, "link del eth1");
        recreate_eth1(&lab, 2, 1500);
        assert_logs(
            &balancer,
            "eth1: not served: it has 2 queues, and the workers have 1 of each interface (set it with: ethtool -L eth1 \
             rx 1 tx 1)",
        );
    });
    assert_logs(&balancer, "member other/member2 unresolved: route leaves by eth1, which is not served now");
    assert_interrupted_shortly(&lab, "eth1 fits again", || {
        set_queues(&lab, "eth1", "balancer-back", 1);
        assert!(
            balancer.wait_for_log(Duration::from_secs(3), |line| line.contains("eth1: served again")),
            "{}",
            balancer.log().join("\n")
        );
    });
    assert!(wait_until(PATIENCE, || forwards_on(&lab, 81)), "{}", balancer.log().join("\n"));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn an_interface_whose_queues_change_is_left_out_until_they_fit() {
    let Some((lab, config)) = with_a_survivor(2) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    assert!(forwards_on(&lab, 80) && forwards_on(&lab, 81));
    assert_interrupted_shortly(&lab, "eth1 gets a second queue", || {
        set_queues(&lab, "eth1", "balancer-back", 2);
        assert_logs(&balancer, "eth1: not served: it has 2 queues, and the workers have 1 of each interface");
    });
    assert_interrupted_shortly(&lab, "eth1 fits again", || {
        set_queues(&lab, "eth1", "balancer-back", 1);
        assert_logs(&balancer, "eth1: served again");
    });
    assert!(wait_until(PATIENCE, || forwards_on(&lab, 81)), "{}", balancer.log().join("\n"));
    // Both, one after the other: the first is left out until the second has followed.
    for (interface, port) in [("eth0", "balancer"), ("eth1", "balancer-back")] {
        set_queues(&lab, interface, port, 2);
    }
    assert_logs(&balancer, "queue 1 worker 1");
    assert!(wait_until(PATIENCE, || forwards_on(&lab, 80) && forwards_on(&lab, 81)));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn an_interface_whose_mtu_is_too_large_is_left_out_until_it_fits() {
    let Some((lab, config)) = with_a_survivor(1) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    assert!(forwards_on(&lab, 80) && forwards_on(&lab, 81));
    assert_interrupted_shortly(&lab, "eth1's MTU is too large", || {
        ip(&lab, "link set eth1 mtu 3900");
        assert_logs(&balancer, "eth1: not served: its MTU 3900 is more than 3826 (set it with: ip link set eth1 mtu");
    });
    assert_interrupted_shortly(&lab, "eth1 fits again", || {
        ip(&lab, "link set eth1 mtu 1500");
        assert_logs(&balancer, "eth1: served again");
    });
    assert!(wait_until(PATIENCE, || forwards_on(&lab, 81)), "{}", balancer.log().join("\n"));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn an_interface_with_somebody_elses_program_is_left_out_until_it_is_free() {
    let Some((lab, config)) = with_a_survivor(1) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    assert!(forwards_on(&lab, 80) && forwards_on(&lab, 81));
    ip(&lab, "link del eth1");
    assert_logs(&balancer, "eth0: served on, by new sockets");
    // Another one's program, whose owner does not see what becomes of its interface.
    ip(&lab, "link add eth9 type veth peer name peer9");
    ip(&lab, "link set eth9 up");
    let elsewhere = config.replace("[[interface]]\nname = \"eth1\"", "").replace("\"eth0\"", "\"eth9\"");
    let elsewhere = elsewhere.replace("api.sock", "other.sock").replace("/state\"", "/other\"");
    let mut other = lab.spawn_balancer(&elsewhere).expect("another one");
    other.signal(Signal::SIGSTOP).expect("stop");
    assert_interrupted_shortly(&lab, "eth1 comes with another program", || {
        for line in ["eth9 down", "eth9 name eth1", "eth1 up"] {
            ip(&lab, &format!("link set {line}"));
        }
        assert_logs(&balancer, "eth1: not served: another XDP program is attached: program ");
        assert_logs(&balancer, "(see: ip -d link show dev eth1; ");
    });
    assert_interrupted_shortly(&lab, "eth1 is free", || {
        other.kill().expect("kill");
        assert_logs(&balancer, "eth1: served again");
    });
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn an_interface_that_refuses_is_left_out_and_tried_without_harm_to_the_others() {
    let Some((lab, config)) = with_a_survivor(1) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let native = config.replacen("[[interface]]", "[dataplane]\nxdp_mode = \"native\"\n\n[[interface]]", 1);
    let mut balancer = lab.spawn_balancer(&native).expect("balancer");
    assert!(forwards_on(&lab, 80) && forwards_on(&lab, 81));
    ip(&lab, "link del eth1");
    assert_logs(&balancer, "eth0: served on, by new sockets");
    // More than veth takes natively, and less than our frames do: only attaching shows it.
    assert_interrupted_shortly(&lab, "eth1 refuses", || {
        recreate_eth1(&lab, 1, 3600);
        assert_logs(&balancer, "eth1: not served: eth1 (driver veth): no native XDP: ");
    });
    lab.gateway().run(["ip", "link", "set", "balancer-back", "mtu", "1500"]).expect("ip");
    assert_interrupted_shortly(&lab, "eth1 fits again", || {
        ip(&lab, "link set eth1 mtu 1500");
        assert_logs(&balancer, "eth1: served again");
    });
    assert!(wait_until(PATIENCE, || forwards_on(&lab, 81)), "{}", balancer.log().join("\n"));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn unequal_queue_counts_are_an_error_that_names_the_command() {
    let Some(lab) = build(&Topology { queues: 2, ..two_armed() }) else { return };
    lab.balancer().run(["ethtool", "-L", "eth1", "rx", "1", "tx", "1"]).expect("ethtool");
    match lab.spawn_balancer(&lab.config(&[Service::http(&[1])])) {
        Err(LabError::NotReady { log, exit_code, .. }) => {
            assert_eq!(exit_code, Some(3));
            let words = "eth1 has 1 queue and eth0 has 2; a worker has one queue of each interface, so they need the \
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
