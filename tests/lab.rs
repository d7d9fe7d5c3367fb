//! The lab itself: that it is built, that its client and members work without a balancer, and that nothing of it stays.
//!
//! Topology: the lab's own (client – gateway – LAN with balancer and members); where no balancer runs, the gateway is
//! told the MAC of a member for the VIP. `cargo test --test lab`, as root, with iproute2 and iputils-ping.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, panic, thread};

use pointsman::lab::{Lab, LabError, Load, LoadReport, Namespace, Topology, wait_until};

/// Time for the kernel to take namespaces down: it does so in the background, one after the other.
const GONE_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn every_host_reaches_every_other() {
    let Some(lab) = lab(&topology()) else { return };
    let hosts = [(lab.client(), "192.0.2.10"), (lab.balancer(), "198.51.100.10"), (lab.member(2), "198.51.100.103")];
    for (from, _) in hosts {
        for (_, to) in hosts {
            from.run(["ping", "-n", "-c", "1", "-W", "2", to]).unwrap();
        }
    }
    // The VIP is on every member's lo, and none of them answers for it.
    let ping = lab.client().run(["ping", "-n", "-c", "1", "-W", "1", "198.51.100.50"]);
    assert!(matches!(ping, Err(LabError::Command { .. })), "{ping:?}");
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
    let Some(lab) = lab(&topology()) else { return };
    let servers = lab.spawn_member_servers().unwrap();
    let pids: Vec<u32> = servers.iter().map(pointsman::lab::Process::pid).collect();
    let witness = Witness::beside(&lab.balancer().path());
    let directory = lab.directory();
    assert!(directory.is_dir());
    // The servers' handles outlive the lab: the servers do not.
    drop(lab);
    assert!(!directory.exists());
    witness.assert_gone();
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
        .args(["lab", "hold"])
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
