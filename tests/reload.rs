//! SIGHUP: the difference between two configurations is made while real connections pass, and nothing else.
//!
//! Topology of every test: see `pointsman::lab`. The real binary is told to read its file again.

#[path = "support/api.rs"]
mod api;
#[path = "support/lab.rs"]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use api::request;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman::lab::{Lab, Layout, Load, LoadReport, Process, Service, Topology, wait_until};
use support::{assert_clean, assert_frames_accounted_for, assert_logs, build, statistic, topology};

const PATIENCE: Duration = Duration::from_secs(20);

/// Has the balancer read this configuration, which it calls by this name; waits until it rules.
fn reload(lab: &Lab, balancer: &Process, config: &str, name: &str) {
    let config = config.replacen("name = \"lab\"", &format!("name = \"{name}\""), 1);
    lab.write_config(&config).expect("written");
    balancer.signal(Signal::SIGHUP).expect("signal");
    assert_logs(balancer, &format!("→ \"{name}\""));
}

/// The same where it is refused; waits until the log says this.
fn refused(lab: &Lab, balancer: &Process, config: &str, words: &str) {
    lab.write_config(config).expect("written");
    balancer.signal(Signal::SIGHUP).expect("signal");
    assert_logs(balancer, words);
}

fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

fn service(name: &str, last: u8, weights: &[u16]) -> Service {
    Service { name: name.into(), address: vip(last), ..Service::http(weights) }
}

/// A VIP with these members of the lab, by index, and their weights.
fn service_of(lab: &Lab, name: &str, last: u8, members: &[(usize, u16)]) -> String {
    let mut text = format!(
        "\n[[vip]]\nname = \"{name}\"\naddress = \"{}\"\nprotocol = \"tcp\"\nport = 80\npool = \"{name}\"\n\
         announce = \"arp\"\n[[pool]]\nname = \"{name}\"\n",
        vip(last)
    );
    for &(index, weight) in members {
        let address = lab.topology().member_address(index);
        // Writing to a String cannot fail.
        let _ = write!(text, "[[pool.member]]\nname = \"member{index}\"\naddress = \"{address}\"\nweight = {weight}\n");
    }
    text
}

fn load(lab: &Lab, last: u8, connections: u64) -> LoadReport {
    let target = SocketAddrV4::new(vip(last), 80);
    lab.client_load(&Load { target, connections, ..lab.get() }).expect("load")
}

/// Loads the VIP until it is told to stop; all that came of it.
fn load_until(lab: &Lab, last: u8, stop: &AtomicBool) -> (u64, Vec<String>) {
    let (mut requests, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let report = load(lab, last, 500);
        requests += report.requests;
        if report.failures > 0 {
            failures.push(format!("{:?} {:?}", report.failure_counts, report.first_failures));
        }
    }
    (requests, failures)
}

#[test]
fn connections_outlive_what_others_come_and_go() {
    let topology = Topology { members: 5, vips: (50..53).map(vip).collect(), ..topology() };
    let Some(lab) = build(&topology) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let base = lab.config(&[]);
    let web = |members: &[(usize, u16)]| format!("{base}{}", service_of(&lab, "web", 50, members));
    let mut balancer = lab.spawn_balancer(&web(&[(0, 1), (1, 1), (2, 1)])).expect("balancer");
    // All of them are open before the first change, and until after the last.
    let long = Load {
        connections: 60,
        concurrency: 60,
        requests: 2500,
        patience_seconds: 110,
        limit_seconds: 120,
        ..lab.get()
    };
    let report = thread::scope(|scope| {
        let running = scope.spawn(|| lab.client_load(&long));
        let reaches = |received| {
            wait_until(PATIENCE, || {
                lab.gateway().interface_counters("balancer").is_ok_and(|port| port.tx_packets > received)
            })
        };
        assert!(reaches(2000), "the load has begun");
        let three = [(0, 1), (1, 1), (2, 1)];
        // A member comes, weights change, it drains, it goes.
        reload(&lab, &balancer, &web(&[(0, 1), (1, 1), (2, 1), (3, 1)]), "a");
        assert_eq!(load(&lab, 50, 200).connections_by_member.len(), 4);
        reload(&lab, &balancer, &web(&[(3, 0), (0, 9), (1, 1), (2, 5)]), "b");
        assert_eq!(load(&lab, 50, 200).connections_by_member.len(), 3);
        reload(&lab, &balancer, &web(&three), "c");
        // VIPs come and go, on their own address and beside ours; pools and names change.
        let others = format!("{}{}", service_of(&lab, "other", 51, &three), service_of(&lab, "more", 52, &[(4, 1)]));
        reload(&lab, &balancer, &(web(&three) + &others), "d");
        assert_clean(&load(&lab, 51, 200), 200);
        assert_clean(&load(&lab, 52, 200), 200);
        let renamed = (web(&three) + &others).replace("name = \"web\"\naddress", "name = \"site\"\naddress");
        reload(&lab, &balancer, &renamed, "e");
        let scheduled = web(&three).replace("name = \"web\"\n[[pool", "name = \"web\"\nscheduler = \"wlc\"\n[[pool");
        reload(&lab, &balancer, &scheduled, "f");
        assert_clean(&load(&lab, 50, 200), 200);
        assert!(!running.is_finished(), "the load has outlived the changes");
        running.join().expect("a thread").expect("load")
    });
    println!("{} requests on {} connections", report.requests, report.connections);
    assert_clean(&report, 60);
    assert_eq!(report.concurrent_max, 60, "all were open at the same time");
    assert!(balancer.stop().expect("stop").success());
    assert_eq!(statistic(&balancer, "flows.rebound"), 0, "no flow has changed its member");
    assert_eq!(statistic(&balancer, "flows.forgotten"), 0);
    assert_frames_accounted_for(&balancer);
    for words in [
        "1 member added: web/member3 (198.51.100.104)",
        "web/member0 (198.51.100.101): weight 1 → 9",
        "1 member removed: web/member3 (198.51.100.104)",
        "2 VIPs added: other (198.51.100.51 tcp 80), more (198.51.100.52 tcp 80)",
        "2 VIPs removed: other (198.51.100.51 tcp 80), more (198.51.100.52 tcp 80)",
        "pool web: scheduler",
    ] {
        let words = words.replace("pool web", "pool changed: web");
        assert!(balancer.log().iter().any(|line| line.contains(&words)), "{words}: {}", balancer.log().join("\n"));
    }
}

/// What a process takes: KiB in memory, and open files.
fn taken(balancer: &Process) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{}/status", balancer.pid())).expect("a running process");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kibibytes = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    (kibibytes, fs::read_dir(format!("/proc/{}/fd", balancer.pid())).expect("its files").count())
}

#[test]
fn a_thousand_reloads_under_load_cost_an_unrelated_vip_nothing() {
    a_thousand_under_load(reload);
}

#[test]
fn a_thousand_applies_under_load_cost_an_unrelated_vip_nothing() {
    a_thousand_under_load(|lab, _, config, name| {
        let config = config.replacen("name = \"lab\"", &format!("name = \"{name}\""), 1);
        let answer = request(lab, "POST", "/v1/apply", "", &config);
        assert_eq!(answer.status, 200, "{}", answer.body);
    });
}

fn a_thousand_under_load(change: impl Fn(&Lab, &Process, &str, &str)) {
    const RELOADS: usize = 1000;
    const WARM: usize = 300;
    let vips = (50..90).map(vip).collect();
    let Some(lab) = build(&Topology { members: 4, vips, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let web = lab.config(&[Service::http(&[1, 1, 1]), service("steady", 51, &[1, 2])]);
    // Members toggled, weights changed, VIPs added and removed: every round is another configuration.
    let config = |round: usize| {
        let set = 1 + round * 7 % 15;
        let members: Vec<(usize, u16)> = (0..4)
            .filter(|index| set >> index & 1 == 1)
            .map(|index| (index, (1 + (round + index) % 5) as u16))
            .collect();
        let mut text = web.clone() + &service_of(&lab, "busy", 52, &members);
        for other in 0..6 {
            if !(round + other).is_multiple_of(3) {
                let last = 53 + ((round / 3 * 6 + other) % 35) as u8;
                text += &service_of(&lab, &format!("v{last}"), last, &[(other % 4, 1), ((other + 1) % 4, 1)]);
            }
        }
        text
    };
    let mut balancer = lab.spawn_balancer(&config(0)).expect("balancer");
    let stop = AtomicBool::new(false);
    let (mut warm, started) = ((0, 0), Instant::now());
    let (steady, busy) = thread::scope(|scope| {
        let steady = scope.spawn(|| load_until(&lab, 50, &stop));
        let busy = scope.spawn(|| load_until(&lab, 52, &stop));
        for round in 1..=RELOADS {
            change(&lab, &balancer, &config(round), &format!("r{round}"));
            if round == WARM {
                warm = taken(&balancer);
            }
        }
        stop.store(true, Ordering::Relaxed);
        (steady.join().expect("a thread"), busy.join().expect("a thread"))
    });
    let (seconds, end) = (started.elapsed().as_secs_f64(), taken(&balancer));
    println!("{RELOADS} changes in {seconds:.1} s, {:.1} ms each", 1000.0 * seconds / RELOADS as f64);
    println!("unrelated VIP: {} requests, failures: {:?}", steady.0, steady.1);
    println!("VIP whose members come and go: {} requests, {} rounds with failures", busy.0, busy.1.len());
    println!("after {WARM}: {} KiB, {} files; after {RELOADS}: {} KiB, {} files", warm.0, warm.1, end.0, end.1);
    assert_eq!(steady.1, Vec::<String>::new());
    assert!(steady.0 > 1000, "there was a load");
    assert!(end.0 < warm.0 + 8 * 1024, "memory grows");
    assert_eq!(end.1, warm.1, "files");
    assert!(balancer.stop().expect("stop").success());
    assert_frames_accounted_for(&balancer);
    // What came in went out, was answered, or was dropped for a reason; and the kernel dropped nothing on the way.
    let count = |key| statistic(&balancer, key);
    // The program's counts are read just before the workers stop: a few frames may come between.
    let (redirected, received) = (count("xdp.redirected"), count("received"));
    assert!((redirected..redirected + 100).contains(&received), "{redirected} redirected, {received} received");
    for kernel in ["xdp.no_socket", "ring.rx_dropped", "ring.rx_ring_full", "ring.fill_ring_empty", "drop.tx_ring_full"]
    {
        assert_eq!(count(kernel), 0, "{kernel}");
    }
    assert_eq!(count("dropped"), count("drop.no_vip") + count("drop.no_service"), "to VIPs that were gone");
}

#[test]
fn a_bad_file_changes_nothing_and_the_next_good_one_is_taken() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let good = lab.config(&[Service::http(&[1, 1])]);
    let mut balancer = lab.spawn_balancer(&good).expect("balancer");
    let bad = good.replace("port = 80", "port = 70000").replace("weight = 1", "weight = -1");
    refused(&lab, &balancer, &bad, "not reloaded: 3 errors in the file; nothing has changed");
    for words in ["vip[0].port: 70000 is more than 65535", "pool[0].member[0].weight: ", "pool[0].member[1].weight: "] {
        assert!(balancer.log().iter().any(|line| line.contains(words)), "{words}: {}", balancer.log().join("\n"));
    }
    refused(&lab, &balancer, "no = [toml", "not reloaded: ");
    let restart =
        format!("[dataplane]\nflows_v4 = 2048\nbusy_poll = true\n{}", good.replace("weight = 1", "weight = 7"));
    let words = "not reloaded: dataplane.busy_poll false → true, dataplane.flows_v4 1048576 → 2048 need a restart (the \
                 rest does not); nothing has changed";
    refused(&lab, &balancer, &restart, words);
    let elsewhere = good.replace("\"eth0\"", "\"eth7\"");
    refused(&lab, &balancer, &elsewhere, "not reloaded: interface eth7: does not exist on this host");
    let own = good.replace("port = 80", "port = \"any\"").replace("198.51.100.50", "198.51.100.10");
    refused(&lab, &balancer, &own, "it would cut the host off");
    fs::remove_file(lab.write_config("").expect("written")).expect("removed");
    balancer.signal(Signal::SIGHUP).expect("signal");
    assert_logs(&balancer, "cannot be read: No such file");
    let report = load(&lab, 50, 200);
    assert_clean(&report, 200);
    assert_eq!(report.connections_by_member.len(), 2);
    reload(&lab, &balancer, &lab.config(&[Service::http(&[1, 1, 1])]), "good");
    assert_eq!(load(&lab, 50, 200).connections_by_member.len(), 3);
    lab.write_config(&lab.config(&[Service::http(&[1, 1, 1])]).replacen("\"lab\"", "\"good\"", 1)).expect("written");
    balancer.signal(Signal::SIGHUP).expect("signal");
    assert_logs(&balancer, "reloaded: nothing changes");
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn a_member_that_nobody_answers_for_gets_nothing() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service::http(&[1, 1, 1])]);
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    let absent = "\n[[pool.member]]\nname = \"absent\"\naddress = \"198.51.100.199\"\nweight = 60000\n";
    let stop = AtomicBool::new(false);
    let (requests, failures) = thread::scope(|scope| {
        let loading = scope.spawn(|| load_until(&lab, 50, &stop));
        reload(&lab, &balancer, &format!("{config}{absent}"), "a");
        assert_logs(&balancer, "web/absent unresolved: no answer to ARP");
        stop.store(true, Ordering::Relaxed);
        loading.join().expect("a thread")
    });
    assert_eq!((requests > 0, failures), (true, vec![]));
    // All members at once: the new one is asked for before the old ones go.
    let only = |index| format!("{}{}", lab.config(&[]), service_of(&lab, "web", 50, &[(index, 1)]));
    reload(&lab, &balancer, &only(0), "b");
    assert!(balancer.stop().expect("stop").success());
    assert_eq!(statistic(&balancer, "drop.no_member"), 0);
}

#[test]
fn a_vip_that_goes_is_nobodys_and_one_that_comes_serves_at_once() {
    let topology = Topology { vips: vec![vip(50), vip(51)], ..topology() };
    let Some(lab) = build(&topology) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let one = lab.config(&[Service::http(&[1, 1, 1])]);
    let two = lab.config(&[Service::http(&[1, 1, 1]), service("other", 51, &[1, 1])]);
    let mut balancer = lab.spawn_balancer(&two).expect("balancer");
    let ping = |last: u8| {
        let mut command = lab.client().command("ping");
        command.args(["-c", "1", "-W", "1", &vip(last).to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        lab.spawn(command).expect("ping").wait().expect("ping").success()
    };
    assert!(ping(50) && ping(51));
    for round in 0..3 {
        reload(&lab, &balancer, &one, &format!("one{round}"));
        assert!(ping(50) && !ping(51), "nobody answers for an address that no VIP has");
        assert_clean(&load(&lab, 50, 100), 100);
        reload(&lab, &balancer, &two, &format!("two{round}"));
        assert!(ping(51));
        assert_clean(&load(&lab, 51, 100), 100);
    }
    // Another port of an address that stays: as any port that is not served.
    let moved = two.replacen("port = 80", "port = 81", 1);
    reload(&lab, &balancer, &moved, "moved");
    let refused = Load { connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
    assert_eq!(lab.client_load(&refused).expect("load").failures, 1);
    assert!(balancer.stop().expect("stop").success());
    assert!(statistic(&balancer, "xdp.unserved") > 0);
}

#[test]
fn an_interface_comes_and_goes() {
    let Some(lab) = build(&Topology { layout: Layout::TwoArmed, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let both = lab.config(&[Service::http(&[1, 1, 1])]);
    let front = both.replace("\n[[interface]]\nname = \"eth1\"\n", "");
    assert_ne!(front, both);
    let mut balancer = lab.spawn_balancer(&front).expect("balancer");
    assert_logs(&balancer, "unresolved: route leaves by eth1, which is not listed");
    for round in 0..2 {
        reload(&lab, &balancer, &both, &format!("both{round}"));
        assert_logs(&balancer, "eth1: served");
        assert_clean(&load(&lab, 50, 200), 200);
        reload(&lab, &balancer, &front, &format!("front{round}"));
        let eth1 = lab.balancer().run(["ip", "link", "show", "eth1"]).expect("ip");
        assert!(!eth1.contains("xdp"), "{eth1}");
    }
    // It is there and cannot be served: as at the start, an error.
    lab.balancer().run(["ip", "tuntap", "add", "tun9", "mode", "tun"]).expect("a device");
    let tun = both.replace("\"eth1\"", "\"tun9\"");
    refused(&lab, &balancer, &tun, "not reloaded: tun9: not served: it has no Ethernet address");
    reload(&lab, &balancer, &both, "again");
    assert_clean(&load(&lab, 50, 200), 200);
    assert!(balancer.stop().expect("stop").success());
    assert_frames_accounted_for(&balancer);
}

#[test]
fn persistence_may_be_asked_for_while_it_runs() {
    let Some(lab) = build(&Topology { client_addresses: 1, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service::http(&[1, 1, 1])]);
    let balancer = lab.spawn_balancer(&config).expect("balancer");
    assert_eq!(load(&lab, 50, 200).connections_by_member.len(), 3);
    let persistent = config.replacen("announce = \"arp\"", "announce = \"arp\"\npersistence = { timeout = \"1m\" }", 1);
    reload(&lab, &balancer, &persistent, "a");
    assert_eq!(load(&lab, 50, 200).connections_by_member.len(), 1, "one client, one member");
    let resized = format!("[dataplane]\npersistence_v4 = 2048\n{persistent}");
    refused(&lab, &balancer, &resized, "dataplane.persistence_v4 262144 → 2048 needs a restart");
    reload(&lab, &balancer, &config, "b");
    assert_eq!(load(&lab, 50, 200).connections_by_member.len(), 3);
}

/// The signals that a process blocks or catches, by the masks of proc(5).
fn heeds_hangups(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |key| {
        let hexadecimal = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
        u64::from_str_radix(hexadecimal.trim(), 16).unwrap_or(0)
    };
    (mask("SigBlk:") | mask("SigCgt:")) & 1 == 1
}

#[test]
fn hangups_before_it_is_ready_are_no_death() {
    let Some(lab) = build(&topology()) else { return };
    // A file that takes its time.
    let mut config = lab.config(&[Service::http(&[1, 1, 1])]) + "[[pool]]\nname = \"large\"\n";
    for index in 0..20_000 {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + index);
        let _ = write!(config, "[[pool.member]]\nname = \"m{index}\"\naddress = \"{address}\"\nenabled = false\n");
    }
    // Its members' next hops are asked for by the kernel; there is no way to them.
    lab.balancer().run(["ip", "route", "add", "unreachable", "10.0.0.0/8"]).expect("ip");
    let file = lab.write_config(&config).expect("written");
    let log = fs::File::create(lab.directory().join("hangups.log")).expect("a file");
    let mut command = lab.balancer().command(&lab.topology().program);
    command
        .args(["run", "--config"])
        .args(file.file_name())
        .current_dir(lab.directory())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut balancer = lab.spawn(command).expect("the balancer");
    let log = || fs::read_to_string(lab.directory().join("hangups.log")).expect("the log");
    assert!(wait_until(PATIENCE, || heeds_hangups(balancer.id())), "it listens");
    let mut signals = 0;
    let is_up = wait_until(Duration::from_mins(1), || {
        kill(Pid::from_raw(balancer.id().cast_signed()), Signal::SIGHUP).expect("it lives");
        signals += 1;
        assert_eq!(balancer.try_wait().expect("it is ours"), None, "it has died:\n{}", log());
        log().contains("reloaded: nothing changes")
    });
    println!("{signals} signals");
    assert!(is_up && signals > 1, "{}", log());
    balancer.kill().expect("killed");
    balancer.wait().expect("waited");
}

/// Its checks go on as they were: no member is up or down for a moment because a file was read.
#[test]
fn what_monitors_found_outlives_reloads() {
    const MONITOR: &str = "[[pool.monitor]]\ntype = \"http\"\ninterval = \"100ms\"\nrise = 2\nfall = 2\n";
    let topology = Topology { vips: vec![vip(50), vip(51)], ..topology() };
    let Some(lab) = build(&topology) else { return };
    let mut members = lab.spawn_member_servers().expect("members");
    let web = lab.config(&[Service::http(&[1, 1, 1])]) + MONITOR;
    let mut balancer = lab.spawn_balancer(&web).expect("balancer");
    members[2].kill().expect("killed");
    assert_logs(&balancer, "member web/member3 down");
    let said = |balancer: &Process| balancer.log().iter().filter(|line| line.contains("web/member3")).count();
    let before = said(&balancer);
    for round in 0..10 {
        let other = service_of(&lab, "other", 51, &[(0, 1 + round), (1, 2)]);
        reload(&lab, &balancer, &if round % 2 == 0 { web.clone() + &other } else { web.clone() }, &format!("r{round}"));
        let report = load(&lab, 50, 100);
        assert_clean(&report, 100);
        assert_eq!(report.connections_by_member.len(), 2);
    }
    assert_eq!(said(&balancer), before, "{}", balancer.log().join("\n"));
    // A member that is new is judged before it gets anything, and so is one whose checks change.
    reload(&lab, &balancer, &web.replace("rise = 2", "rise = 3"), "rise");
    assert_clean(&load(&lab, 50, 100), 100);
    members[2] = lab.spawn_member_server(2).expect("a server");
    let is_up = || load(&lab, 50, 100).connections_by_member.len() == 3;
    assert!(wait_until(PATIENCE, is_up), "{}", balancer.log().join("\n"));
    assert!(balancer.stop().expect("stop").success());
}
