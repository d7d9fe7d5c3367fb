//! The lab itself: that it is built, that its client and members work without a balancer, and that nothing of it stays.
//!
//! Topology: the lab's own, in every layout (client – gateway – balancer and members); where no balancer runs, the
//! gateway is told the way to a member for the VIP, or a tunnel stands in for the balancer. `cargo test --test lab`,
//! as root, with iproute2 and iputils-ping.

mod support;
#[path = "support/tunnel.rs"]
mod tunnel;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, panic, thread};

use pointsman::dataplane::port::steering::XdpMode;
use pointsman::lab::{
    Decapsulating, Decapsulation, Lab, LabError, Layout, Load, LoadReport, Namespace, Topology, wait_until,
};
use pointsman::realserver::decapsulate::Cause;
use tunnel::Tunnel;

/// Time for the kernel to take namespaces down: it does so in the background, one after the other.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// All of them.
const LAYOUTS: [Layout; 3] = [Layout::Stick, Layout::Routed, Layout::TwoArmed];

#[test]
fn every_host_reaches_every_other() {
    for layout in LAYOUTS {
        let Some(lab) = lab(&Topology { layout, ..topology() }) else { return };
        let member = lab.topology().member_address(2).to_string();
        let hosts = [(lab.client(), "192.0.2.10"), (lab.balancer(), "198.51.100.10"), (lab.member(2), &member)];
        for (from, _) in hosts {
            for (_, to) in hosts {
                ping(from, to).unwrap();
            }
        }
        // The VIP is on every member's lo, and none of them answers for it.
        let vip = lab.client().run(["ping", "-n", "-c", "1", "-W", "1", "198.51.100.50"]);
        assert!(matches!(vip, Err(LabError::Command { .. })), "{layout:?}: {vip:?}");
    }
}

#[test]
fn topology_is_what_was_asked_for() {
    let topology = Topology { queues: 2, mtu: 3000, members: 1, client_addresses: 7, ..topology() };
    let Some(lab) = lab(&topology) else { return };
    for (namespace, interface) in [(lab.balancer(), "eth0"), (lab.gateway(), "balancer")] {
        let link = namespace.run(["ip", "-d", "link", "show", interface]).unwrap();
        for expected in ["mtu 3000", "numtxqueues 2", "numrxqueues 2"] {
            assert!(link.contains(expected), "{expected}: {link}");
        }
    }
    let addresses = lab.client().run(["ip", "-4", "-o", "address", "show", "eth0"]).unwrap();
    assert_eq!(addresses.lines().count(), 7, "{addresses}");
    assert_eq!(lab.member(0).read_sysctl("net.ipv4.conf.all.arp_ignore").unwrap(), "1");
    assert_eq!(lab.gateway().read_sysctl("net.ipv4.ip_forward").unwrap(), "1");
}

#[test]
fn two_arms_are_two_interfaces() {
    let topology = Topology { layout: Layout::TwoArmed, queues: 2, members: 1, ..topology() };
    let Some(lab) = lab(&topology) else { return };
    let ends = [
        (lab.balancer(), "eth0", "02:00:00:00:00:10"),
        (lab.balancer(), "eth1", "02:00:00:00:00:20"),
        (lab.gateway(), "balancer", "master lan"),
        (lab.gateway(), "balancer-back", "master back"),
    ];
    for (namespace, interface, own) in ends {
        let link = namespace.run(["ip", "-d", "link", "show", interface]).unwrap();
        for expected in [own, "numtxqueues 2", "numrxqueues 2"] {
            assert!(link.contains(expected), "{expected}: {link}");
        }
    }
    ping(lab.balancer(), "203.0.113.101").unwrap();
    ping(lab.member(0), "203.0.113.10").unwrap();
    let way = |namespace: &Namespace, to: &str| namespace.run(["ip", "route", "get", to]).unwrap();
    assert!(way(lab.balancer(), "203.0.113.101").contains("dev eth1"));
    assert!(way(lab.balancer(), "192.0.2.10").contains("via 198.51.100.1 dev eth0"));
    assert!(way(lab.member(0), "192.0.2.10").contains("via 203.0.113.1 dev eth0"));
}

#[test]
fn members_behind_a_router_have_no_other_way() {
    let Some(lab) = lab(&Topology { layout: Layout::Routed, members: 1, ..topology() }) else { return };
    let way = lab.balancer().run(["ip", "route", "get", "203.0.113.101"]).unwrap();
    assert!(way.contains("via 198.51.100.1 dev eth0"), "{way}");
}

#[test]
fn replies_go_around_the_balancer() {
    for layout in LAYOUTS {
        let Some(lab) = lab(&Topology { layout, ..topology() }) else { return };
        let _servers = lab.spawn_member_servers().unwrap();
        lab.bypass_balancer(Topology::VIP, 1).unwrap();
        // Until a bridge has heard a member it floods what is for it, to the balancer too.
        ping(lab.member(1), &lab.topology().member_gateway().to_string()).unwrap();
        let load = Load { connections: 200, ..lab.get() };
        let report = lab.client_load(&load).unwrap();
        assert_all_well(&report, &load);
        assert_eq!(report.connections_by_member, BTreeMap::from([("member2".to_owned(), 200)]), "{layout:?}");
        for port in layout.balancer_ports() {
            // Broadcasts are a handful; 200 connections are thousands.
            let counters = lab.gateway().interface_counters(port).unwrap();
            assert!(counters.rx_packets + counters.tx_packets < 100, "{layout:?}, {port}: {counters:?}");
        }
    }
}

/// Whoever decapsulates here: real connections, with packets as large as just fits.
#[test]
fn members_are_the_end_of_a_tunnel() {
    for layout in LAYOUTS {
        let topology = Topology { layout, members: 2, decapsulation: Decapsulation::Any, ..topology() };
        let Some(lab) = lab(&topology) else { return };
        assert_tunnelled(&lab, 1500);
    }
}

#[test]
fn the_program_decapsulates_as_the_kernel_does() {
    for decapsulation in [Decapsulation::Kernel, Decapsulation::Program] {
        if !may_build() {
            return;
        }
        let topology = Topology { members: 2, decapsulation, ..topology() };
        match Lab::build(&topology) {
            Ok(lab) => assert_tunnelled(&lab, 1500),
            Err(error) if decapsulation == Decapsulation::Kernel => eprintln!("SKIPPED: no ipip device: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_driver_that_cannot_is_reported() {
    // A veth's native XDP has room for one page.
    for (mtu, mode) in [(1500, XdpMode::Native), (9000, XdpMode::Generic)] {
        let topology = Topology { mtu, members: 2, decapsulation: Decapsulation::Program, ..topology() };
        let Some(lab) = lab(&topology) else { return };
        let Some(Decapsulating::Program { attached, .. }) = lab.decapsulating(0) else { panic!("no program") };
        assert_eq!((attached.mode, attached.fallback.is_some()), (mode, mode == XdpMode::Generic), "{attached:?}");
        assert_tunnelled(&lab, mtu as usize);
    }
}

/// Tunnels the VIP's TCP and UDP to the second member, and looks that packets were as large as the MTU allows.
fn assert_tunnelled(lab: &Lab, mtu: usize) {
    let _servers = lab.spawn_member_servers().unwrap();
    let tunnel = Tunnel::start(lab, 1);
    let transfer = Load { connections: 20, concurrency: 5, bytes: 200_001, ..lab.transfer() };
    let datagrams = Load { connections: 100, ..lab.udp() };
    for load in [&transfer, &datagrams] {
        let report = lab.client_load(load).unwrap();
        assert_all_well(&report, load);
        assert_eq!(report.connections_by_member, BTreeMap::from([("member2".to_owned(), load.connections)]));
    }
    let sent = tunnel.stop();
    assert_eq!(sent.largest, mtu, "segments fill the tunnel and do not overflow it");
    if let Some(Decapsulating::Program { program, .. }) = lab.decapsulating(1) {
        // The last packet may still be on its way.
        let decapsulated = || program.counters().unwrap().of(Cause::Decapsulated);
        let all = wait_until(Duration::from_secs(2), || decapsulated() == sent.packets);
        assert!(all, "{} of {} packets were decapsulated", decapsulated(), sent.packets);
    }
    // What is not in a tunnel is as before: checksums left to "hardware", replies in super-packets.
    let own = SocketAddrV4::new(lab.topology().member_address(1), 80);
    let direct = Load { target: own, connections: 20, bytes: 100_001, ..lab.transfer() };
    assert_all_well(&lab.client_load(&direct).unwrap(), &direct);
}

#[test]
fn a_topology_without_room_is_refused() {
    let refused = Lab::build(&Topology { members: 151, ..topology() }).map(drop).unwrap_err();
    assert_eq!(refused.to_string(), "members: 151 is outside 1 to 150");
}

#[test]
fn requests_are_answered_counted_and_checked() {
    let Some(lab) = lab(&topology()) else { return };
    let _servers = lab.spawn_member_servers().unwrap();
    lab.bypass_balancer(Topology::VIP, 1).unwrap();
    let before = lab.gateway().interface_counters("member2").unwrap();
    let load = Load { connections: 2000, requests: 2, ..lab.get() };
    let report = lab.client_load(&load).unwrap();
    assert_all_well(&report, &load);
    assert_eq!(report.requests_by_member, BTreeMap::from([("member2".to_owned(), 4000)]));
    let per_client = topology().client_addresses().iter().map(|client| (client.to_string(), 1000)).collect();
    assert_eq!(report.requests_by_client, per_client);
    // Two answers, one SYN and one FIN per connection at least; counters count packets, not super-packets.
    let after = lab.gateway().interface_counters("member2").unwrap();
    assert!(after.rx_packets - before.rx_packets >= 8000, "{before:?} {after:?}");
}

#[test]
fn transfers_compare_every_byte() {
    let Some(lab) = lab(&topology()) else { return };
    let _servers = lab.spawn_member_servers().unwrap();
    lab.bypass_balancer(Topology::VIP, 0).unwrap();
    let load = Load { connections: 100, concurrency: 100, bytes: 200_001, ..lab.transfer() };
    let report = lab.client_load(&load).unwrap();
    assert_all_well(&report, &load);
    assert_eq!(report.bytes, 2 * 100 * 200_001);
    assert_eq!(report.concurrent_max, 100);
}

#[test]
fn datagrams_are_answered_from_the_vip() {
    let Some(lab) = lab(&topology()) else { return };
    let _servers = lab.spawn_member_servers().unwrap();
    lab.bypass_balancer(Topology::VIP, 2).unwrap();
    let load = Load { connections: 1000, ..lab.udp() };
    let report = lab.client_load(&load).unwrap();
    assert_all_well(&report, &load);
    assert_eq!(report.connections_by_member, BTreeMap::from([("member3".to_owned(), 1000)]));
}

#[test]
fn failures_are_counted_by_kind() {
    let Some(lab) = lab(&topology()) else { return };
    // Nobody serves: the member's kernel refuses.
    lab.bypass_balancer(Topology::VIP, 0).unwrap();
    let report = lab.client_load(&Load { connections: 20, ..lab.get() }).unwrap();
    assert_eq!((report.failures, report.connections), (20, 0));
    let refused = "connecting: Connection refused (os error 111)".to_owned();
    assert_eq!(report.failure_counts, BTreeMap::from([(refused, 20)]));
    assert_eq!(report.first_failures.len(), 5);
}

#[test]
fn a_balancer_that_does_not_start_says_why() {
    let Some(lab) = lab(&topology()) else { return };
    let refused = lab.spawn_balancer("this is no configuration").map(drop).unwrap_err();
    assert!(matches!(&refused, LabError::NotReady { status, .. } if status.starts_with("exit status")), "{refused}");
}

#[test]
fn labs_side_by_side_do_not_meet() {
    let one = Topology { members: 1, ..topology() };
    let two = Topology { members: 2, ..topology() };
    let Some((first, second)) = lab(&one).zip(lab(&two)) else { return };
    let send = |lab: &Lab, member: usize| {
        let _servers = lab.spawn_member_servers().unwrap();
        lab.bypass_balancer(Topology::VIP, member).unwrap();
        let load = Load { connections: 500, ..lab.get() };
        let report = lab.client_load(&load).unwrap();
        assert_all_well(&report, &load);
        report.connections_by_member
    };
    let (by_first, by_second) = thread::scope(|scope| {
        let first = scope.spawn(|| send(&first, 0));
        let second = scope.spawn(|| send(&second, 1));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!(by_first, BTreeMap::from([("member1".to_owned(), 500)]));
    assert_eq!(by_second, BTreeMap::from([("member2".to_owned(), 500)]));
}

#[test]
fn nothing_is_left_after_drop() {
    let tunnelled = Topology { layout: Layout::TwoArmed, decapsulation: Decapsulation::Any, ..topology() };
    let Some(lab) = lab(&tunnelled) else { return };
    let servers = lab.spawn_member_servers().unwrap();
    let pids: Vec<u32> = servers.iter().map(pointsman::lab::Process::pid).collect();
    let witnesses = [lab.balancer(), lab.member(0)].map(|namespace| Witness::beside(&namespace.path()));
    let directory = lab.directory();
    assert!(directory.is_dir());
    // The servers' handles outlive the lab: the servers do not.
    drop(lab);
    assert!(!directory.exists());
    witnesses.iter().for_each(Witness::assert_gone);
    drop(servers);
    assert_ended(&pids);
}

#[test]
fn nothing_is_left_after_a_panic() {
    if !may_build() {
        return;
    }
    let (send, receive) = std::sync::mpsc::channel();
    let panicking = thread::spawn(move || {
        let lab = Lab::build(&topology()).unwrap();
        let servers = lab.spawn_member_servers().unwrap();
        send.send((Witness::beside(&lab.client().path()), servers[0].pid())).unwrap();
        panic::resume_unwind(Box::new("as if a test had failed"));
    });
    let (witness, pid) = receive.recv().unwrap();
    assert!(panicking.join().is_err());
    witness.assert_gone();
    assert_ended(&[pid]);
}

#[test]
fn nothing_is_left_after_sigkill() {
    if !may_build() {
        return;
    }
    let mut holder = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["lab", "hold", "--layout", "two-armed", "--decapsulation", "any"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut witnesses, mut pids, mut directory) = (Vec::new(), Vec::new(), None);
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    for line in lines.take_while(|line| line != "ready") {
        match line.split_once(' ').unwrap() {
            ("server", pid) => pids.push(pid.parse().unwrap()),
            ("directory", path) => directory = Some(path.to_owned()),
            (_, path) => witnesses.push(Witness::beside(Path::new(path))),
        }
    }
    assert_eq!((witnesses.len(), pids.len(), directory.is_some()), (6, 3, true));
    holder.kill().unwrap();
    holder.wait().unwrap();
    for witness in witnesses {
        witness.assert_gone();
    }
    assert_ended(&pids);
}

fn ping(from: &Namespace, to: &str) -> Result<String, LabError> {
    from.run(["ping", "-n", "-c", "1", "-W", "2", to])
}

/// A veth between a namespace of the test's and one of a lab's. When the kernel takes the lab's namespace down, it
/// takes that end of the veth with it, and so the other: nothing else proves from outside that a namespace without
/// name and process is gone.
struct Witness(Namespace);

impl Witness {
    fn beside(lab: &Path) -> Self {
        let own = Namespace::create("witness").unwrap();
        let lab = lab.to_str().unwrap();
        own.run(["ip", "link", "add", "witness", "type", "veth", "peer", "name", "watched", "netns", lab]).unwrap();
        assert!(own.interface_counters("witness").is_ok());
        Self(own)
    }

    fn assert_gone(&self) {
        let gone = wait_until(GONE_WITHIN, || self.0.interface_counters("witness").is_err());
        assert!(gone, "the lab's namespace is still there after {GONE_WITHIN:?}");
    }
}

fn assert_ended(pids: &[u32]) {
    for pid in pids {
        // Of a killed parent's child, init may not have taken leave yet: a zombie holds nothing.
        let ended = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        assert!(wait_until(GONE_WITHIN, ended), "process {pid} is still there after {GONE_WITHIN:?}");
    }
}

fn assert_all_well(report: &LoadReport, load: &Load) {
    assert_eq!(report.failures, 0, "{report:?}");
    assert_eq!(report.connections, load.connections, "{report:?}");
    assert!(report.wrong_clients.is_empty(), "{report:?}");
    assert!(report.latency.p50_us > 0 && report.latency.p50_us <= report.latency.max_us, "{report:?}");
}

fn topology() -> Topology {
    Topology { program: env!("CARGO_BIN_EXE_pointsman").into(), ..Topology::default() }
}

fn lab(topology: &Topology) -> Option<Lab> {
    may_build().then(|| Lab::build(topology).unwrap())
}

/// Whether this user may build labs. Under CI a missing right is a failure, never a silent skip.
fn may_build() -> bool {
    let Err(refused) = Namespace::create("probe") else { return true };
    assert!(std::env::var_os("CI").is_none(), "{refused}");
    eprintln!("SKIPPED: {refused}");
    false
}
