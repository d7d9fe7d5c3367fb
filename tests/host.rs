//! The balancer and the host it runs on: what stays the host's, what changes under it, and what it refuses.
//!
//! Topology of every test: see `pointsman::lab`. Things are changed in the balancer's or a member's namespace while
//! the real binary runs, and its log and traffic are watched.

#[path = "support/lab.rs"]
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman::lab::{Lab, LabError, Layout, Load, Service, Topology, wait_until};
use support::{assert_logs, assert_logs_times, build, statistic, topology};

const PATIENCE: Duration = Duration::from_secs(10);

fn ip(lab: &Lab, arguments: &str) {
    lab.balancer().run(std::iter::once("ip").chain(arguments.split(' '))).expect(arguments);
}

#[track_caller]
fn assert_forwards(lab: &Lab) {
    let report = lab.client_load(&Load { connections: 50, concurrency: 8, ..lab.get() }).expect("load");
    assert_eq!(report.failures, 0, "{:?}", report.failure_counts);
}

fn ping(lab: &Lab, address: Ipv4Addr) -> bool {
    lab.gateway().run(["ping", "-c", "1", "-W", "1", &address.to_string()]).is_ok()
}

/// What `run` says when it does not start.
fn refusal(lab: &Lab, config: &str) -> (String, String) {
    match lab.spawn_balancer(config) {
        Err(LabError::NotReady { log, status, .. }) => (status, log),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it started"),
    }
}

/// The configuration with a line added to a table that is made for it.
fn with(config: &str, table: &str) -> String {
    format!("{table}\n{config}")
}

#[test]
fn sigterm_leaves_nothing_behind() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_forwards(&lab);
    assert!(balancer.stop().expect("stop").success());
    assert!(!lab.balancer().run(["ip", "link", "show", "eth0"]).expect("ip").contains("xdp"));
    assert_eq!(balancer.output(), ["ready"], "stdout carries one line");
    assert_logs(&balancer, "attached eth0 native copy queue 0");
    assert!(ping(&lab, Topology::BALANCER));
}

#[test]
fn a_vip_answers_ping_and_the_host_keeps_its_own() {
    let Some(lab) = build(&topology()) else { return };
    let _balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert!(ping(&lab, Topology::VIP));
    assert!(ping(&lab, Topology::BALANCER));
    let client = lab.client().run(["ping", "-c", "3", "-i", "0.2", "-s", "1400", &Topology::VIP.to_string()]);
    assert!(client.expect("ping").contains(" 0% packet loss"));
}

#[test]
fn a_vip_on_the_hosts_own_address_takes_its_ports_only() {
    let own = Ipv4Addr::new(198, 51, 100, 60);
    let Some(lab) = build(&Topology { vips: vec![own], ..topology() }) else { return };
    // A second address: the host asks for its members' MACs in the name of its first one.
    ip(&lab, "addr add 198.51.100.60/24 dev eth0");
    let _members = lab.spawn_member_servers().expect("members");
    let service = Service { address: own, ..Service::http(&[1, 1, 1]) };
    // The host's own server, on a port that no VIP has.
    let mut server = lab.balancer().command(env!("CARGO_BIN_EXE_pointsman"));
    server.args(["lab", "member", "--name", "host", "--listen", "0.0.0.0:2222"]);
    server.stdout(std::process::Stdio::null());
    let mut server = lab.spawn(server).expect("the host's server");
    let mut balancer = lab.spawn_balancer(&lab.config(&[service])).expect("balancer");
    assert!(ping(&lab, own), "the kernel answers for its own address");
    let load = |port| Load { target: SocketAddrV4::new(own, port), connections: 100, ..lab.get() };
    let vip = lab.client_load(&load(80)).expect("load");
    assert_eq!(vip.failures, 0, "{:?}", vip.failure_counts);
    assert_eq!(vip.connections_by_member.len(), 3);
    assert_logs(&balancer, "198.51.100.60 is a VIP's and also one of this host's own addresses");
    let host = lab.client_load(&load(2222)).expect("load");
    assert_eq!(host.connections_by_member.keys().collect::<Vec<_>>(), ["host"]);
    balancer.stop().expect("stop");
    assert_eq!(statistic(&balancer, "xdp.unserved"), 0);
    server.kill().expect("kill");
    server.wait().expect("wait");
}

#[test]
fn any_port_on_the_hosts_own_address_is_refused() {
    let Some(lab) = build(&topology()) else { return };
    let service = Service { address: Topology::BALANCER, port: None, ..Service::http(&[1]) };
    let (status, log) = refusal(&lab, &lab.config(&[service]));
    assert!(status.contains("exit status: 3"), "{status}");
    assert!(
        log.contains(
            "pointsman: VIP web: port \"any\" on 198.51.100.10, which is also this host's own address: it would cut \
             the host off, so it is not served; name the ports, or take the address off the host"
        ),
        "{log}"
    );
}

#[test]
fn somebody_elses_program_is_named() {
    let Some(lab) = build(&topology()) else { return };
    let config = lab.config(&[Service::http(&[1])]);
    let _first = lab.spawn_balancer(&config).expect("the first");
    let elsewhere = config.replace("api.sock", "other.sock").replace("/state\"", "/other\"");
    let (status, log) = refusal(&lab, &elsewhere);
    assert!(status.contains("exit status: 3"), "{status}");
    let words = log.split_once("pointsman: eth0: another pointsman is at work here: program ").expect(&log).1;
    let (_, words) = words.split_once(' ').expect("its number");
    let rest = "\"pointsman_steer\" (see: ip -d link show dev eth0; it is attached by a BPF link, and goes when its \
                process ends)";
    assert!(words.starts_with(rest), "{log}");
    // It is waited for, and that is said before the wait and not only after it.
    let (before, after) = log.split_once("; waiting up to 5 s for it to go").expect(&log);
    let said = before.lines().last().unwrap_or_default();
    assert!(said.contains(" WARN eth0: another pointsman is at work here: program "), "{log}");
    let seconds = |line: &str| -> f64 {
        let time = line.split_once('T').and_then(|(_, time)| time.split('Z').next()).expect(line);
        time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect(line))
    };
    let first = log.lines().find(|line| line.contains(" INFO pointsman ")).expect(&log);
    assert!((seconds(said) - seconds(first)).rem_euclid(86_400.0) < 2.0, "{log}");
    assert!(after.contains("pointsman: eth0: another pointsman is at work here"), "{log}");
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let Some(lab) = build(&topology()) else { return };
    let config = lab.config(&[Service::http(&[1])]).replace("\"eth0\"", "\"eth7\"");
    let (status, log) = refusal(&lab, &config);
    assert!(status.contains("exit status: 3"), "{status}");
    assert!(log.contains("pointsman: interface eth7: does not exist on this host (see: ip link)"), "{log}");
    assert!(!log.contains(" WARN "), "nothing that follows from it comes before it: {log}");
}

#[test]
fn an_interface_without_ethernet_is_refused_by_name() {
    let Some(lab) = build(&topology()) else { return };
    ip(&lab, "tuntap add tun9 mode tun");
    ip(&lab, "link set tun9 up");
    let config = lab.config(&[Service::http(&[1])]).replace("\"eth0\"", "\"tun9\"");
    let (status, log) = refusal(&lab, &config);
    assert!(status.contains("exit status: 3"), "{status}");
    assert!(log.contains("pointsman: tun9 (driver tun): it has no Ethernet address, "), "{log}");
}

#[test]
fn native_where_the_driver_cannot_is_an_error_and_auto_says_that_it_falls_back() {
    let Some(lab) = build(&topology()) else { return };
    // A bridge has no XDP of its own.
    ip(&lab, "link add br9 type bridge");
    ip(&lab, "link set br9 up");
    let config = lab.config(&[Service::http(&[1])]).replace("\"eth0\"", "\"br9\"");
    let (status, log) = refusal(&lab, &with(&config, "[dataplane]\nxdp_mode = \"native\""));
    assert!(status.contains("exit status: 3"), "{status}");
    assert!(log.contains("pointsman: br9 (driver bridge): no native XDP: the driver does not support it"), "{log}");
    let balancer = lab.spawn_balancer(&config).expect("generic");
    assert_logs(&balancer, "falling back to generic");
    assert_logs(&balancer, "attached br9 generic copy queue 0");
}

#[test]
fn generic_mode_forwards_too() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = with(&lab.config(&[Service::http(&[1, 1, 1])]), "[dataplane]\nxdp_mode = \"generic\"");
    let balancer = lab.spawn_balancer(&config).expect("balancer");
    assert_logs(&balancer, "attached eth0 generic copy queue 0");
    assert_forwards(&lab);
}

#[test]
fn busy_polling_forwards_too() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = with(&lab.config(&[Service::http(&[1, 1, 1])]), "[dataplane]\nbusy_poll = true");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    assert_forwards(&lab);
    balancer.stop().expect("stop");
    assert_eq!(statistic(&balancer, "worker.0.sleeps"), 0);
}

#[test]
fn zero_copy_on_a_driver_without_it_is_an_error() {
    let Some(lab) = build(&topology()) else { return };
    let config = with(&lab.config(&[Service::http(&[1])]), "[dataplane]\nzero_copy = \"on\"");
    let (status, log) = refusal(&lab, &config);
    assert!(status.contains("exit status: 3"), "{status}");
    let words = "pointsman: eth0 (driver veth): dataplane.zero_copy = \"on\", and it does not take queue 0 in zero-copy \
                 mode: ";
    assert!(log.contains(words), "{log}");
}

#[test]
fn fewer_cores_than_queues_is_an_error_that_names_the_command() {
    let Some(lab) = build(&Topology { queues: 2, ..topology() }) else { return };
    let config = with(&lab.config(&[Service::http(&[1])]), "[dataplane]\ncores = [0]");
    let (status, log) = refusal(&lab, &config);
    assert!(status.contains("exit status: 3"), "{status}");
    assert!(log.contains("dataplane.cores names 1 cores, and eth0 has 2 queues"), "{log}");
    assert!(log.contains("ethtool -L eth0 rx 1 tx 1"), "{log}");
}

#[test]
fn a_member_whose_mac_changes_is_followed() {
    let Some(lab) = build(&Topology { members: 1, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1])])).expect("balancer");
    assert_forwards(&lab);
    lab.member(0).run(["ip", "link", "set", "eth0", "address", "02:00:00:00:77:77"]).expect("ip");
    // A host says so when its MAC changes (net.ipv4.conf.*.arp_notify does it by itself).
    let address = lab.topology().member_address(0).to_string();
    lab.member(0)
        .run(["ip", "route", "replace", "default", "via", &Topology::GATEWAY_LAN_SIDE.to_string()])
        .expect("ip");
    lab.member(0).run(["ping", "-c", "1", "-W", "1", &Topology::BALANCER.to_string()]).expect("ping");
    assert_logs(&balancer, "02:00:00:00:77:77");
    assert!(balancer.log().iter().any(|line| line.contains(&address)));
    assert_forwards(&lab);
}

#[test]
fn a_member_that_does_not_answer_gets_nothing_and_is_said() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    lab.member(1).run(["ip", "link", "set", "eth0", "down"]).expect("ip");
    let balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_logs(&balancer, "member web/member2 unresolved: ");
    let report = lab.client_load(&Load { connections: 300, ..lab.get() }).expect("load");
    assert_eq!(report.failures, 0, "{:?}", report.failure_counts);
    assert!(!report.connections_by_member.contains_key("member2"));
    lab.member(1).run(["ip", "link", "set", "eth0", "up"]).expect("ip");
    lab.member(1).run(["ip", "route", "replace", "default", "via", "198.51.100.1"]).expect("ip");
    assert_logs(&balancer, "member web/member2 up");
    let report = lab.client_load(&Load { connections: 300, ..lab.get() }).expect("load");
    assert_eq!(report.failures, 0, "{:?}", report.failure_counts);
    assert!(report.connections_by_member.contains_key("member2"));
}

#[test]
fn a_link_that_goes_down_and_up_is_survived() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_forwards(&lab);
    for round in 1..=3 {
        ip(&lab, "link set eth0 down");
        assert_logs_times(&balancer, round, "3 members unresolved: eth0 is down");
        ip(&lab, "link set eth0 up");
        assert!(wait_until(PATIENCE, || ping(&lab, Topology::VIP)), "{}", balancer.log().join("\n"));
        let one = Load { connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
        assert!(wait_until(PATIENCE, || lab.client_load(&one).is_ok_and(|report| report.failures == 0)));
        assert_forwards(&lab);
    }
}

#[test]
fn a_smaller_mtu_is_followed() {
    let Some(lab) = build(&Topology { members: 1, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1])])).expect("balancer");
    ip(&lab, "link set eth0 mtu 1400");
    assert_logs(&balancer, "1400");
    ip(&lab, "link set eth0 mtu 1500");
    // The interface takes 1500 bytes, the way to the member does not. Nobody has told the client: what it sends is
    // too large to go on, and the reason is counted.
    ip(&lab, "route add 198.51.100.101/32 dev eth0 mtu 1300");
    let upload = Load { connections: 2, bytes: 100_000, patience_seconds: 1, limit_seconds: 3, ..lab.transfer() };
    let fails = || lab.client_load(&upload).is_ok_and(|report| report.failures == 2);
    assert!(wait_until(PATIENCE, fails), "{}", balancer.log().join("\n"));
    balancer.stop().expect("stop");
    assert!(statistic(&balancer, "drop.oversize") > 0);
}

#[test]
fn a_larger_mtu_gets_larger_frames() {
    let Some(lab) = build(&topology()) else { return };
    let balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1])])).expect("balancer");
    for (namespace, interface) in [(lab.balancer(), "eth0"), (lab.gateway(), "balancer"), (lab.gateway(), "lan")] {
        namespace.run(["ip", "link", "set", interface, "mtu", "3000"]).expect("ip");
    }
    assert_logs(&balancer, "its MTU is now 3000, and frames were made for 1778");
    assert_logs(&balancer, "eth0: served on, by new sockets");
    let vip = Topology::VIP.to_string();
    let large = || lab.gateway().run(["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "2900", &vip]).is_ok();
    assert!(wait_until(PATIENCE, large), "{}", balancer.log().join("\n"));
}

#[test]
fn more_or_fewer_queues_are_followed() {
    let Some(lab) = build(&Topology { queues: 2, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    lab.balancer().run(["ethtool", "-L", "eth0", "rx", "1"]).ok();
    lab.gateway().run(["ethtool", "-L", "balancer", "tx", "1"]).expect("ethtool");
    lab.balancer().run(["ethtool", "-L", "eth0", "rx", "1"]).expect("ethtool");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_forwards(&lab);
    lab.balancer().run(["ethtool", "-L", "eth0", "rx", "2"]).expect("ethtool");
    assert_logs(&balancer, "eth0: it has 2 queues now, and had 1");
    assert_logs(&balancer, "eth0: served on, by new sockets");
    assert_logs(&balancer, "queue 1 worker 1");
    lab.gateway().run(["ethtool", "-L", "balancer", "tx", "2"]).expect("ethtool");
    assert_forwards(&lab);
    balancer.stop().expect("stop");
    assert!(statistic(&balancer, "worker.1") > 0);
}

#[test]
fn an_interface_that_gets_another_mac_announces_its_vips_anew() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    lab.gateway().write_sysctl("net.ipv4.conf.lan.arp_accept", "1").expect("sysctl");
    let _balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_forwards(&lab);
    ip(&lab, "link set eth0 address 02:00:00:00:77:10");
    let learned = || lab.gateway().run(["ip", "neighbour", "show", &Topology::VIP.to_string()]).expect("ip");
    assert!(wait_until(PATIENCE, || learned().contains("02:00:00:00:77:10")), "{}", learned());
    assert_forwards(&lab);
}

#[test]
fn hundreds_of_addresses_are_announced() {
    let Some(lab) = build(&Topology { layout: Layout::TwoArmed, ..topology() }) else { return };
    lab.gateway().write_sysctl("net.ipv4.conf.lan.arp_accept", "1").expect("sysctl");
    let addresses: Vec<Ipv4Addr> = (1..=400).map(|index| Ipv4Addr::from_bits(0x0a09_0800 + index)).collect();
    let services: Vec<Service> = addresses
        .iter()
        .map(|&address| Service { name: format!("v{}", address.to_bits()), address, ..Service::http(&[1]) })
        .collect();
    // The LAN's router has an address among them, so that it believes their announcements.
    lab.gateway().run(["ip", "addr", "add", "10.9.9.254/23", "dev", "lan"]).expect("ip");
    let received = || lab.gateway().interface_counters("balancer-back").expect("counters").rx_packets;
    let before = received();
    let mut balancer = lab.spawn_balancer(&lab.config(&services)).expect("balancer");
    let start = Instant::now();
    let learned = || lab.gateway().run(["ip", "neighbour", "show", "dev", "lan"]).expect("ip");
    let all = || {
        let learned = learned();
        addresses.iter().all(|address| learned.contains(&format!("{address} lladdr 02:00:00:00:00:10")))
    };
    // They are in no subnet of the balancer's: both interfaces announce them.
    assert!(wait_until(PATIENCE, all), "{}", learned());
    assert!(wait_until(PATIENCE, || received() >= before + 400), "{}", received() - before);
    println!("400 addresses on two interfaces: announced {} ms after ready", start.elapsed().as_millis());
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn an_address_that_moves_to_another_interface_is_announced_there() {
    let Some(lab) = build(&Topology { layout: Layout::TwoArmed, ..topology() }) else { return };
    let vip = Ipv4Addr::new(10, 9, 8, 50);
    ip(&lab, "addr add 10.9.8.10/24 dev eth0");
    lab.gateway().write_sysctl("net.ipv4.conf.all.arp_accept", "1").expect("sysctl");
    lab.gateway().run(["ip", "addr", "add", "10.9.8.1/24", "dev", "lan"]).expect("ip");
    let service = Service { address: vip, ..Service::http(&[1]) };
    let mut balancer = lab.spawn_balancer(&lab.config(&[service])).expect("balancer");
    let on =
        |bridge: &str| lab.gateway().run(["ip", "neighbour", "show", &vip.to_string(), "dev", bridge]).expect("ip");
    assert!(wait_until(PATIENCE, || on("lan").contains("02:00:00:00:00:10")), "{}", on("lan"));
    // The router's end first: it must be there to hear of it.
    lab.gateway().run(["ip", "addr", "del", "10.9.8.1/24", "dev", "lan"]).expect("ip");
    lab.gateway().run(["ip", "addr", "add", "10.9.8.1/24", "dev", "back"]).expect("ip");
    ip(&lab, "addr del 10.9.8.10/24 dev eth0");
    ip(&lab, "addr add 10.9.8.10/24 dev eth1");
    assert!(wait_until(PATIENCE, || on("back").contains("02:00:00:00:00:20")), "{}", on("back"));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn an_address_that_becomes_the_hosts_own_is_not_taken_from_it() {
    let any = Service { port: None, ..Service::http(&[1, 1, 1]) };
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let balancer = lab.spawn_balancer(&lab.config(&[any])).expect("balancer");
    assert_forwards(&lab);
    ip(&lab, "addr add 198.51.100.50/32 dev eth0");
    assert_logs(&balancer, "it would cut the host off, so it is not served");
    // The host refuses what nobody listens for; had a member been asked, it would have answered.
    let load = Load { connections: 20, patience_seconds: 2, limit_seconds: 5, ..lab.get() };
    let refused = || lab.client_load(&load).is_ok_and(|report| report.failures == 20);
    assert!(wait_until(PATIENCE, refused), "{}", balancer.log().join("\n"));
    ip(&lab, "addr del 198.51.100.50/32 dev eth0");
    let served = || lab.client_load(&load).is_ok_and(|report| report.failures == 0);
    assert!(wait_until(PATIENCE, served), "{}", balancer.log().join("\n"));
}

#[test]
fn a_disabled_vip_is_dropped_and_not_routed() {
    let Some(lab) = build(&topology()) else { return };
    let config = lab.config(&[Service::http(&[1])]).replace("announce = \"arp\"", "enabled = false");
    lab.balancer().write_sysctl("net.ipv4.ip_forward", "1").expect("sysctl");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    lab.gateway()
        .run(["ip", "neighbour", "replace", "198.51.100.50", "lladdr", "02:00:00:00:00:10", "dev", "lan"])
        .expect("ip");
    let load = Load { connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
    assert_eq!(lab.client_load(&load).expect("load").failures, 1);
    balancer.stop().expect("stop");
    assert!(statistic(&balancer, "xdp.unserved") > 0);
}

#[test]
fn an_interface_that_vanishes_and_comes_back_is_served_again() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    assert_forwards(&lab);
    for round in 1..=3 {
        ip(&lab, "link del eth0");
        // "it does not exist", or, if it was quick, "it is another interface now".
        assert_logs_times(&balancer, round, "eth0: it ");
        let gateway = lab.gateway().path();
        let create = format!("link add eth0 type veth peer name balancer netns {}", gateway.display());
        ip(&lab, &create);
        for line in [
            "link set eth0 address 02:00:00:00:00:10 up",
            "addr add 198.51.100.10/24 dev eth0",
            "route replace default via 198.51.100.1",
        ] {
            ip(&lab, line);
        }
        lab.gateway().run(["ip", "link", "set", "balancer", "master", "lan", "up"]).expect("ip");
        assert_logs_times(&balancer, round, "eth0: served again");
        let one = Load { connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
        assert!(wait_until(PATIENCE, || lab.client_load(&one).is_ok_and(|report| report.failures == 0)));
    }
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn vips_are_announced_and_a_rival_raises_the_alarm() {
    let Some(lab) = build(&topology()) else { return };
    // The gateway has never heard of the VIP, and may learn it from the announcement alone.
    lab.gateway().write_sysctl("net.ipv4.conf.lan.arp_accept", "1").expect("sysctl");
    let balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])])).expect("balancer");
    let learned = || lab.gateway().run(["ip", "neighbour", "show", &Topology::VIP.to_string()]).expect("ip");
    assert!(wait_until(PATIENCE, || learned().contains("02:00:00:00:00:10")), "{}", learned());

    // A member that speaks in the VIP's name asks for the balancer's MAC.
    let member = lab.member(0);
    member.write_sysctl("net.ipv4.conf.all.arp_announce", "0").expect("sysctl");
    member.run(["ip", "neighbour", "flush", "dev", "eth0"]).expect("ip");
    let vip = Topology::VIP.to_string();
    let unanswered = member.run(["ping", "-c", "1", "-W", "1", "-I", &vip, &Topology::BALANCER.to_string()]);
    assert!(unanswered.is_err());
    assert_logs(
        &balancer,
        "address conflict: 198.51.100.50 is a VIP of this node, and 02:00:00:00:01:01 claims it too",
    );
}

/// Whoever reads the log may go, or have no room for it.
#[test]
fn a_log_that_nobody_takes_is_no_reason_to_stop() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.write_config(&lab.config(&[Service::http(&[1, 1, 1])])).expect("written");
    let full = || fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    for is_gone in [true, false] {
        let mut command = lab.balancer().command(&lab.topology().program);
        command.args(["run", "--config"]).arg(&config).stdout(Stdio::piped());
        command.stderr(if is_gone { Stdio::piped() } else { full().into() });
        let mut balancer = lab.spawn(command).expect("spawn");
        let mut line = String::new();
        BufReader::new(balancer.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        drop(balancer.stderr.take());
        // Each has something to say, and says it to nobody.
        for command in ["drain", "enable"] {
            let mut edit = Command::new(&lab.topology().program);
            edit.args(["member", command, "web/member1"]).env("POINTSMAN_SOCKET", lab.directory().join("api.sock"));
            let output = edit.output().expect("run");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_forwards(&lab);
        kill(Pid::from_raw(balancer.id().cast_signed()), Signal::SIGTERM).expect("SIGTERM");
        assert!(balancer.wait().expect("wait").success());
    }
}
