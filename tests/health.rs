//! Health checks of the real binary against real servers, while real traffic flows.
//!
//! Topology of every test: see `pointsman::lab`, members on the balancer's LAN. Times are printed; what is asserted of
//! them is what the configuration promises. Needs nginx, openssl and dnsmasq.

#[path = "support/lab.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pointsman::control::health::{Checker, Condition};
use pointsman::control::model::Model;
use pointsman::lab::{Lab, Load, Namespace, Process, Service, Topology, wait_until};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use support::{assert_clean, assert_shows, build, topology};

/// A service, keys of its pool, and the pool's monitors.
struct Watched {
    service: Service,
    keys: String,
    monitors: String,
}

fn watched(service: Service, keys: &str, monitors: &str) -> Watched {
    Watched { service, keys: keys.to_owned(), monitors: monitors.to_owned() }
}

fn config(lab: &Lab, all: &[Watched]) -> String {
    let services: Vec<Service> = all.iter().map(|one| one.service.clone()).collect();
    let mut text = lab.config(&services);
    for Watched { service: Service { name, forward, scheduler, .. }, keys, monitors } in all {
        let head = format!("[[pool]]\nname = \"{name}\"\nforward = \"{forward}\"\nscheduler = \"{scheduler}\"\n");
        text = text.replace(&head, &format!("{head}{keys}\n{monitors}\n"));
    }
    text
}

/// Waits until what was said last of a member begins so.
#[track_caller]
fn assert_becomes(balancer: &Process, member: &str, state: &str) {
    let word = format!("member {member} ");
    let last = || balancer.log().iter().rev().find_map(|line| Some(line.split_once(&word)?.1.to_owned()));
    let is_so = || last().is_some_and(|last| last.starts_with(state));
    assert!(
        wait_until(Duration::from_secs(10), is_so),
        "{member}: {:?}, expected {state}: {:#?}",
        last(),
        balancer.log()
    );
}

/// When a SYN for the VIP last reached a namespace.
struct Arrivals {
    last: Arc<Mutex<Option<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Arrivals {
    fn watch(namespace: &Namespace, vip: Ipv4Addr) -> Self {
        let open = || {
            // `ETH_P_IP`, in network order: what the kernel's stack would get, dead server or not.
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(0x0800_u16.to_be()))))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            std::io::Result::Ok(socket)
        };
        let socket = namespace.enter(open).expect("enter").expect("a packet socket");
        let last = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped) = (Arc::clone(&last), Arc::clone(&stop));
        let listen = move || {
            use std::io::Read as _;
            let mut frame = [0; 2048];
            let mut socket = &socket;
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = socket.read(&mut frame) else { continue };
                // Ethernet, IPv4 without options, TCP: destination, and SYN without ACK.
                let is_syn =
                    length >= 54 && frame[30..34] == vip.octets() && frame[23] == 6 && frame[47] & 0x12 == 0x02;
                if is_syn {
                    *seen.lock().expect("no panic") = Some(Instant::now());
                }
            }
        };
        Self { last, stop, thread: Some(thread::spawn(listen)) }
    }

    fn last(&self) -> Option<Instant> {
        *self.last.lock().expect("no panic")
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const HTTP: &str = "[[pool.monitor]]\ntype = \"http\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 2\n";

/// A new connection to the VIP every millisecond, answered or not.
struct Callers {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Callers {
    fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let client = lab.client().path();
        let call = move || {
            let inside = fs::File::open(client).expect("the client's namespace");
            nix::sched::setns(inside, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            let target = std::net::SocketAddrV4::new(Topology::VIP, 80).into();
            let mut open = std::collections::VecDeque::new();
            while !stopped.load(Ordering::Relaxed) {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_nonblocking(true).expect("nonblocking");
                // It is under way, which is all that is wanted.
                let _ = socket.connect(&target);
                open.push_back(socket);
                if open.len() > 500 {
                    open.pop_front();
                }
                thread::sleep(Duration::from_millis(1));
            }
        };
        Self { stop, thread: Some(thread::spawn(call)) }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// From the failure to the last new flow sent to the member: interval × fall + timeout + 50 ms at most. One that is dead
/// refuses connections; one that hangs accepts them and does not answer.
#[test]
fn a_failed_server_gets_no_new_flow_after_the_time_that_was_promised() {
    let Some(lab) = build(&topology()) else { return };
    let mut members = lab.spawn_member_servers().expect("members");
    let balancer =
        lab.spawn_balancer(&config(&lab, &[watched(Service::http(&[1, 1, 1]), "", HTTP)])).expect("balancer");
    let promised = Duration::from_millis(200 * 2 + 200 + 50);
    let arrivals = Arrivals::watch(lab.member(1), Topology::VIP);
    let _callers = Callers::start(&lab);
    let is_called = || arrivals.last().is_some_and(|last| last.elapsed() < Duration::from_millis(100));
    for round in 0..6 {
        assert!(wait_until(Duration::from_secs(5), is_called), "traffic");
        thread::sleep(Duration::from_millis(300 + 37 * round));
        let is_killed = round % 2 == 0;
        let failed = Instant::now();
        if is_killed {
            members[1].kill().expect("kill");
        } else {
            members[1].signal(Signal::SIGSTOP).expect("stop");
        }
        let (words, reason) = if is_killed {
            ("killed", "down: http: connection refused")
        } else {
            ("stopped", "down: http: timed out after 200ms waiting for the response")
        };
        assert_becomes(&balancer, "web/member2", reason);
        let said = failed.elapsed();
        // Long enough for one that should not come.
        thread::sleep(Duration::from_secs(1));
        let last = arrivals.last().expect("there was one").saturating_duration_since(failed);
        println!(
            "round {round}, {words}: last new flow {last:?} after that (promised: {promised:?}); said after {said:?}"
        );
        assert!(last <= said, "{last:?}: it was said to be down after {said:?}");
        let back = Instant::now();
        if is_killed {
            members[1] = lab.spawn_member_server(1).expect("member");
        } else {
            members[1].signal(Signal::SIGCONT).expect("continue");
        }
        assert!(wait_until(Duration::from_secs(5), is_called), "it takes traffic again");
        println!("round {round}, {words}: a new flow {:?} after it came back", back.elapsed());
        assert_becomes(&balancer, "web/member2", "up");
    }
}

#[test]
fn members_that_are_not_concerned_lose_no_connection() {
    let Some(lab) = build(&topology()) else { return };
    let mut members = lab.spawn_member_servers().expect("members");
    let balancer =
        lab.spawn_balancer(&config(&lab, &[watched(Service::http(&[1, 1, 1]), "", HTTP)])).expect("balancer");
    let load = Load { connections: 90, concurrency: 90, requests: 600, patience_seconds: 50, ..lab.get() };
    let mut killed = false;
    let report = lab.client_load_with(&load, |progress| {
        if !killed && progress.requests > 2000 {
            assert_eq!(progress.connections, 0, "all are under way");
            members[1].kill().expect("kill");
            killed = true;
        }
    });
    let report = report.expect("load");
    assert_becomes(&balancer, "web/member2", "down: http: ");
    let theirs = report.connections_by_member.get("member2").copied().unwrap_or(0);
    println!("{:?}, failed: {} {:?}", report.connections_by_member, report.failures, report.failure_counts);
    assert!(killed && theirs > 0);
    assert_eq!((report.failures, report.connections), (theirs, 90 - theirs), "those of the dead member, and no others");
}

/// Fast, so that tests are.
const PACE: &str = "interval = \"200ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 2\n";
const SLOW_PACE: &str = "interval = \"1s\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\n";

/// A VIP and pool of this name with the first member, looked at by one monitor.
fn pool(number: u16, name: &str, monitor: &str) -> Watched {
    let service = Service { name: name.to_owned(), port: Some(1000 + number), ..Service::http(&[1]) };
    // A busy machine takes its time to start a program.
    let pace = if monitor.contains("\"script\"") { SLOW_PACE } else { PACE };
    watched(service, "", &format!("[[pool.monitor]]\n{pace}{monitor}\n"))
}

/// A file that others may execute.
fn write_script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("write");
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("mode");
}

/// An authority, and a certificate by it for `www.lab.example`.
fn make_certificates(directory: &Path) {
    fs::write(directory.join("req.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n").expect("write");
    let request = |words: &str| {
        let command = format!(
            "req -x509 -config req.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 {words}"
        );
        let output = Command::new("openssl").args(command.split(' ')).current_dir(directory).output().expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    request("-subj /CN=lab -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem");
    request(
        "-subj /CN=www -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:www.lab.example \
         -CA ca.pem -CAkey ca.key -keyout www.key -out www.pem",
    );
}

/// Ends with its owner. (That it lives at most as long as the lab does not hold for a process that changes its own
/// credentials, as dnsmasq does: prctl(2), `PR_SET_PDEATHSIG`.)
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nginx on 8080 and, with TLS, on 8443; with a file `down` there it answers 503.
fn start_nginx(lab: &Lab, directory: &Path) -> Server {
    let here = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {here}/{kind};\n"))
        .concat();
    let server = "if (-f $document_root/down) { return 503; }\nlocation /healthz { return 200 \"all is well\"; }\n\
                  location /teapot { return 418; }";
    let text = format!(
        "daemon off;\nmaster_process off;\npid {here}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{temporary}\
         access_log off;\nroot {here};\nserver {{ listen 8080;\n{server}\n}}\n\
         server {{ listen 8443 ssl;\nssl_certificate {here}/www.pem;\nssl_certificate_key {here}/www.key;\n{server}\n}}\n}}\n"
    );
    fs::write(directory.join("nginx.conf"), text).expect("write");
    let mut command = lab.member(0).command("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf"));
    Server(lab.spawn(command).expect("nginx"))
}

/// Whoever serves a name is asked for it; nobody else is asked.
fn start_dnsmasq(lab: &Lab) -> Server {
    let mut command = lab.member(0).command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file",
    ]);
    command.args(["--address=/www.lab.example/192.0.2.80", "--port=5353", "--log-facility=-"]);
    Server(lab.spawn(command).expect("dnsmasq"))
}

#[test]
fn every_type_sees_its_server_fail_and_come_back() {
    let Some(lab) = build(&Topology { udp_ports: vec![5300], ..topology() }) else { return };
    let place = tempfile::tempdir().expect("a directory");
    let here = place.path();
    make_certificates(here);
    let ca = here.join("ca.pem").display().to_string();
    let (nginx, dns) = (start_nginx(&lab, here), start_dnsmasq(&lab));
    let mut server = lab.spawn_member_server(0).expect("member");
    write_script(
        &here.join("check"),
        &format!("[ \"$1:$2\" = 198.51.100.101:81 ] || exit 9; test -e {}/well && echo OK", here.display()),
    );
    fs::write(here.join("well"), "").expect("write");
    let script = here.join("check").display().to_string();
    let pools = [
        pool(1, "tcp", "type = \"tcp\"\nport = 8080"),
        pool(2, "tls", "type = \"tls\"\nport = 8443\nverify = false"),
        pool(3, "http", "type = \"http\"\nport = 8080\npath = \"/healthz\"\nexpect_body = \"all .* well\""),
        pool(
            4,
            "https",
            &format!("type = \"https\"\nport = 8443\npath = \"/healthz\"\nsni = \"www.lab.example\"\nca = \"{ca}\""),
        ),
        pool(5, "teapot", "type = \"http\"\nport = 8080\npath = \"/teapot\"\nexpect_status = [200, 418]"),
        pool(6, "ping", "type = \"ping\""),
        pool(7, "udp", "type = \"udp\"\nport = 5300"),
        pool(8, "dns", "type = \"dns\"\nport = 5353\nquery = \"www.lab.example\"\nexpect_answer = \"192.0.2.80\""),
        pool(9, "refused", "type = \"dns\"\nport = 5353\nquery = \"elsewhere.example\"\nexpect_rcode = \"REFUSED\""),
        pool(
            10,
            "script",
            &format!(
                "type = \"script\"\nport = 81\ncommand = \"{script}\"\nargs = [\"%h\", \"%p\"]\nexpect = \"^OK$\""
            ),
        ),
        pool(11, "name", &format!("type = \"https\"\nport = 8443\nsni = \"other.example\"\nca = \"{ca}\"")),
        pool(12, "authority", "type = \"tls\"\nport = 8443\nsni = \"www.lab.example\""),
        pool(15, "plain", "type = \"tls\"\nport = 8080\nverify = false"),
        pool(13, "body", "type = \"http\"\nport = 8080\npath = \"/healthz\"\nexpect_body = \"ill\""),
        pool(14, "answer", "type = \"dns\"\nport = 5353\nquery = \"www.lab.example\"\nexpect_answer = \"192.0.2.81\""),
    ];
    let mut balancer = lab.spawn_balancer(&config(&lab, &pools)).expect("balancer");
    let becomes = |pool: &str, state: &str| assert_becomes(&balancer, &format!("{pool}/member1"), state);
    let well = ["tcp", "tls", "http", "https", "teapot", "ping", "udp", "dns", "refused", "script"];
    for pool in well {
        becomes(pool, "up");
    }
    becomes(
        "name",
        "down: https: TLS handshake: certificate is for www.lab.example, not for other.example (sni says for which name \
         it must be)",
    );
    becomes("plain", "down: tls: TLS handshake: not TLS: the server answered with something else");
    becomes(
        "authority",
        "down: tls: TLS handshake: certificate not trusted: issued by an unknown authority (verify = false turns this off)",
    );
    becomes("body", "down: http: 200 with the body \"all is well\", expected a match of \"ill\"");
    becomes("answer", "down: dns: answered 192.0.2.80, expected 192.0.2.81");

    fs::write(here.join("down"), "").expect("write");
    for (pool, kind) in [("http", "http"), ("https", "https")] {
        becomes(pool, &format!("down: {kind}: 503, expected 200-299"));
    }
    becomes("teapot", "down: http: 503, expected 200, 418");
    fs::remove_file(here.join("down")).expect("remove");
    for pool in ["http", "https", "teapot"] {
        becomes(pool, "up");
    }

    fs::remove_file(here.join("well")).expect("remove");
    becomes("script", "down: script: exit status 1");
    lab.member(0).write_sysctl("net.ipv4.icmp_echo_ignore_all", "1").expect("sysctl");
    becomes("ping", "down: ping: timed out after 200ms waiting for the echo");
    drop(nginx);
    for pool in ["tcp", "tls", "http", "https"] {
        becomes(pool, &format!("down: {pool}: connection refused"));
    }
    // Before the DNS server: a host sends about one "port unreachable" a second, and there is one to be heard.
    server.kill().expect("kill");
    becomes("udp", "down: udp: port unreachable");
    drop(dns);
    becomes("dns", "down: dns: ");
    becomes("refused", "down: dns: ");

    let (_nginx, _dns, _server) =
        (start_nginx(&lab, here), start_dnsmasq(&lab), lab.spawn_member_server(0).expect("member"));
    fs::write(here.join("well"), "").expect("write");
    lab.member(0).write_sysctl("net.ipv4.icmp_echo_ignore_all", "0").expect("sysctl");
    for pool in well {
        becomes(pool, "up");
    }
    assert!(balancer.stop().expect("stop").success());
}

/// Processes whose command line has this word.
fn processes_with(word: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let lines = entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(word)).count()
}

#[test]
fn a_script_cannot_hang_flood_or_outlive_its_check() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name).display().to_string();
    // No other process on the machine sleeps for so long.
    let long = format!("{}", 900_000_000 + std::process::id());
    write_script(&place.path().join("hang"), &format!("sleep {long} &\nsetsid sleep {long} &\nsleep {long}"));
    write_script(&place.path().join("flood"), "while :; do echo flood flood flood flood; done");
    write_script(&place.path().join("leave"), &format!("sleep {long} &\nexit 0"));
    write_script(
        &place.path().join("files"),
        &format!("ls -l /proc/self/fd >{}; grep Cap /proc/self/status >{}", path("list"), path("caps")),
    );
    write_script(&place.path().join("complain"), "echo the disk is full >&2; exit 4");
    let script = |number, name: &str| pool(number, name, &format!("type = \"script\"\ncommand = \"{}\"", path(name)));
    let pools = ["hang", "flood", "leave", "files", "complain"];
    let mut all: Vec<Watched> = (1..).zip(pools).map(|(number, name)| script(number, name)).collect();
    all.push(pool(9, "none", "type = \"script\"\ncommand = \"/does/not/exist\""));
    let mut balancer = lab.spawn_balancer(&config(&lab, &all)).expect("balancer");
    let becomes = |pool: &str, state: &str| assert_becomes(&balancer, &format!("{pool}/member1"), state);
    becomes("hang", "down: script: timed out after 1s in running");
    becomes("flood", "down: script: printed more than 64 KiB");
    becomes("leave", "up");
    becomes("files", "up");
    becomes("complain", "down: script: exit status 4: the disk is full");
    becomes("none", "down: script: /does/not/exist: no such file or directory");
    // Some checks later there is no more left of them than one check at a time leaves.
    assert_shows(&lab, &["monitor", "list"], "each has been checked some times", |monitors| {
        monitors.as_array().is_some_and(|all| all.iter().all(|one| one["checks"].as_u64() > Some(5)))
    });
    let left = processes_with(&long);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", balancer.pid())).expect("children");
    let children = children.split_whitespace().count();
    println!("processes left after some checks: {left}; children of the daemon: {children}");
    assert!(left <= 16 && children <= 16, "{left} {children}");
    let open = fs::read_to_string(path("list")).expect("a list");
    println!("{open}");
    // What whoever started the tests has left open is none of the daemon's.
    let own = fs::read_dir("/proc/self/fd").expect("own").flatten();
    let own: Vec<PathBuf> = own.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    let strange = open.lines().filter_map(|line| Some(line.split_once(" -> ")?.1)).filter(|target| {
        let is_known = ["/dev/null", "pipe:", "/proc/"].iter().any(|known| target.starts_with(known));
        !is_known && *target != path("list") && !own.contains(&PathBuf::from(target))
    });
    assert_eq!(strange.collect::<Vec<_>>(), Vec::<&str>::new(), "{own:?}");
    let capabilities = fs::read_to_string(path("caps")).expect("capabilities");
    for line in capabilities.lines().filter(|line| !line.starts_with("CapBnd")) {
        assert!(line.ends_with("0000000000000000"), "{capabilities}");
    }
    assert!(balancer.stop().expect("stop").success());
    assert_eq!(processes_with(&long), 0, "nothing outlives the daemon");
}

/// Exit statuses of 2 and more are weights, less two, as keepalived's `misc_dynamic` has it.
#[test]
fn a_script_gives_weights() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let place = tempfile::tempdir().expect("a directory");
    let script = place.path().join("weigh");
    // Member 1: 3, member 2: 1, member 3: 0.
    write_script(&script, "case $1 in *.101) exit 5;; *.102) exit 3;; *) exit 2;; esac");
    let monitor = format!(
        "[[pool.monitor]]\n{SLOW_PACE}type = \"script\"\ncommand = \"{}\"\nargs = [\"%h\"]\ndynamic_weight = true\n",
        script.display()
    );
    let balancer =
        lab.spawn_balancer(&config(&lab, &[watched(Service::http(&[7, 7, 7]), "", &monitor)])).expect("balancer");
    assert_becomes(&balancer, "web/member3", "drain");
    // A weight is in force when the check that found it has been counted.
    assert_shows(&lab, &["monitor", "list"], "all have been weighed", |monitors| {
        monitors.as_array().is_some_and(|all| all.len() == 3 && all.iter().all(|one| one["state"] == "up"))
    });
    let report = lab.client_load(&Load { connections: 4000, ..lab.get() }).expect("load");
    assert_clean(&report, 4000);
    println!("{:?}", report.connections_by_member);
    let share = |member: &str| report.connections_by_member.get(member).copied().unwrap_or(0);
    assert!(share("member1").abs_diff(3000) < 150 && share("member2").abs_diff(1000) < 150 && share("member3") == 0);
}

#[test]
fn backups_and_the_sorry_pool_step_in_and_a_returned_member_grows() {
    let Some(lab) = build(&Topology { members: 4, ..topology() }) else { return };
    let mut members = lab.spawn_member_servers().expect("members");
    let keys = "sorry_pool = \"sorry\"\nslow_start = \"8s\"";
    let text = config(&lab, &[watched(Service::http(&[1, 1, 1]), keys, HTTP)]);
    let text = text.replace("name = \"member3\"", "name = \"member3\"\nbackup = true")
        + "\n[[pool]]\nname = \"sorry\"\n[[pool.member]]\nname = \"member4\"\naddress = \"198.51.100.104\"\n";
    let balancer = lab.spawn_balancer(&text).expect("balancer");
    let shares = |words: &str| {
        let report = lab.client_load(&Load { connections: 1500, ..lab.get() }).expect("load");
        assert_clean(&report, 1500);
        println!("{words}: {:?}", report.connections_by_member);
        report.connections_by_member
    };
    let who = |words: &str| shares(words).into_keys().collect::<Vec<_>>();
    assert_eq!(who("all are up"), ["member1", "member2"]);
    members[0].kill().expect("kill");
    assert_becomes(&balancer, "web/member1", "down");
    assert_eq!(who("one is down"), ["member2"]);
    members[1].kill().expect("kill");
    assert_becomes(&balancer, "web/member2", "down");
    assert_eq!(who("no primary is left"), ["member3"]);
    members[2].kill().expect("kill");
    assert_becomes(&balancer, "web/member3", "down");
    assert_eq!(who("nobody is left"), ["member4"]);
    members[1] = lab.spawn_member_server(1).expect("member");
    assert_becomes(&balancer, "web/member2", "up");
    assert_eq!(who("alone a member does not start slowly"), ["member2"]);
    let has_all = |member: &Value| member["share"] == 1.0;
    assert_shows(&lab, &["member", "show", "web/member2"], "it has all of its share", has_all);
    members[0] = lab.spawn_member_server(0).expect("member");
    assert_becomes(&balancer, "web/member1", "up");
    let returned = |words: &str| shares(words).get("member1").copied().unwrap_or(0);
    let first = returned("just returned");
    assert_shows(&lab, &["member", "show", "web/member1"], "its share grows", |member| {
        member["share"].as_f64().is_some_and(|share| 0.3 < share && share < 0.9)
    });
    assert_shows(&lab, &["member", "show", "web/member1"], "it has all of its share", has_all);
    let later = returned("when it has all of its share");
    assert!(first < 300 && later.abs_diff(750) < 120, "{first}, {later}");
}

/// Members `m0` … of a pool, so many, all of them the lab's first one: every address of the block is its own, so that one
/// server is thousands.
fn crowd(lab: &Lab, members: u32) -> String {
    let run = |line: &str| lab.member(0).run(line.split(' ')).expect("ip");
    run("ip route add local 10.99.0.0/16 dev lo");
    let route = lab.balancer().run("ip route add 10.99.0.0/16 via 198.51.100.101".split(' ')).expect("ip");
    assert_eq!(route, "");
    let mut text = String::new();
    for index in 0..members {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 1)) + index);
        // Writing to a String cannot fail.
        let _ = write!(text, "[[pool.member]]\nname = \"m{index}\"\naddress = \"{address}\"\n");
    }
    text
}

/// How long this thread has run, and waited for a core to run on (kernel, Documentation/scheduler/sched-stats.rst).
fn ran_and_waited() -> (Duration, Duration) {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    let mut numbers = text.split_whitespace().map(|word| word.parse().map(Duration::from_nanos).expect("ns"));
    (numbers.next().expect("ran"), numbers.next().expect("waited"))
}

/// Those that measure how checks keep to their schedule do so one after the other.
static ALONE: Mutex<()> = Mutex::new(());

fn milliseconds(time: Option<Duration>) -> f64 {
    time.unwrap_or_default().as_secs_f64() * 1000.0
}

/// 5000 members, each with a TCP check a second, on one thread: how they keep to their schedule. Numbers are printed.
#[test]
fn thousands_of_checks_are_all_made_and_none_bunches() {
    const SECONDS: u64 = 6;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = build(&Topology { members: 1, ..topology() }) else { return };
    let members = crowd(&lab, 5000);
    let _server = lab.spawn_member_server(0).expect("member");
    let text = format!(
        "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"198.51.100.50\"\nprotocol = \"tcp\"\n\
         port = 80\npool = \"p\"\n[[pool]]\nname = \"p\"\nforward = \"ipip\"\n[[pool.monitor]]\ntype = \"tcp\"\n\
         interval = \"1s\"\n{members}"
    );
    let model = Model::parse("many.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let (before, after, monitors, (ran, waited)) = lab
        .balancer()
        .enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut checker = Checker::new();
                checker.follow(&model);
                let mut watch = async |seconds| {
                    let ends = tokio::time::sleep(Duration::from_secs(seconds));
                    tokio::pin!(ends);
                    loop {
                        tokio::select! {
                            () = checker.changed() => {}
                            () = &mut ends => return checker.pace().clone(),
                        }
                    }
                };
                let before = watch(2).await;
                let began = ran_and_waited();
                let after = watch(SECONDS).await;
                let ended = ran_and_waited();
                (
                    before,
                    after,
                    checker.monitors(true).collect::<Vec<_>>(),
                    (ended.0.saturating_sub(began.0), ended.1.saturating_sub(began.1)),
                )
            })
        })
        .expect("enter");
    let rate = (after.checks - before.checks) as f64 / SECONDS as f64;
    let busy = ran.as_secs_f64() * 100.0 / SECONDS as f64;
    println!("5000 members every second: {rate:.0} checks/s, {busy:.0} % of one core; waited {waited:.1?} for it");
    for (when, lateness) in [("first two seconds", &before.lateness), ("then", &after.lateness.since(&before.lateness))]
    {
        let late = |part: f64| milliseconds(lateness.quantile(part));
        println!(
            "began later than due, ms ({when}): p50 {:.1}, p99 {:.1}, p99.9 {:.1}, most {:.1}",
            late(0.5),
            late(0.99),
            late(0.999),
            late(1.0)
        );
    }
    let late = after.lateness.since(&before.lateness).quantile(0.99);
    assert!(late <= Some(Duration::from_millis(100)), "{late:?}: 99 of 100 within a tenth of the interval");
    let counts: Vec<u64> = monitors.iter().map(|one| one.checks).collect();
    println!("checks per member: {:?} to {:?}; skipped {}", counts.iter().min(), counts.iter().max(), after.skipped);
    assert_eq!((monitors.len(), after.skipped), (5000, 0));
    assert!(monitors.iter().all(|one| one.state == Condition::Up && one.failures == 0), "all were well");
    // Each was looked at about as often as any other: nobody is starved by the rest.
    assert!(counts.iter().max() <= counts.iter().min().map(|least| least + 2).as_ref(), "{counts:?}");
}

/// The same in the real daemon, which has tables to compile and everything else to do: when all members are new, when
/// all fail at once, and when all return. Numbers are printed.
#[test]
fn thousands_of_checks_keep_their_pace_in_the_daemon() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = build(&Topology { members: 1, ..topology() }) else { return };
    let service = Service { forward: "ipip", ..Service::http(&[1]) };
    let monitor = "[[pool.monitor]]\ntype = \"tcp\"\ninterval = \"1s\"\nrise = 1\nfall = 1\n";
    let text = config(&lab, &[watched(service, "", monitor)]) + &crowd(&lab, 5000);
    let mut server = lab.spawn_member_server(0).expect("member");
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    let mut last = BTreeMap::new();
    let mut print = |when: &str| {
        let now = lateness(&lab);
        let later = |least: &str| {
            let up_to = |counts: &BTreeMap<String, u64>| counts.get(least).copied().unwrap_or(0);
            let all = |counts: &BTreeMap<String, u64>| counts.get("+Inf").copied().unwrap_or(0);
            (all(&now) - all(&last)) - (up_to(&now) - up_to(&last))
        };
        let bounds = ["0.0", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0"].map(|bound| (bound, later(bound)));
        println!("{when}: checks that began later than so many seconds: {bounds:?}");
        let (all, late) = (later("0.0"), later("0.1"));
        last = now;
        (all, late)
    };
    let usable = |count: u64| {
        assert_shows(&lab, &["pool", "show", "web"], "all of them", |pool| pool["usable"] == count);
    };
    usable(5001);
    assert_shows(&lab, &["pool", "show", "web"], "all are up", |pool| pool["up"] == 5001);
    print("all were new");
    thread::sleep(Duration::from_secs(3));
    let (all, late) = print("three seconds later");
    assert!(all > 10_000 && late * 100 <= all, "{late} of {all} began a tenth of the interval late");
    server.kill().expect("kill");
    usable(0);
    thread::sleep(Duration::from_secs(1));
    print("all failed");
    server = lab.spawn_member_server(0).expect("member");
    usable(5001);
    thread::sleep(Duration::from_secs(1));
    print("all returned");
    drop(server);
    assert!(balancer.stop().expect("stop").success());
}

/// Checks that began no later than so many seconds after they were due, by that bound.
fn lateness(lab: &Lab) -> BTreeMap<String, u64> {
    let mut stream = std::os::unix::net::UnixStream::connect(lab.directory().join("api.sock")).expect("connected");
    let mut text = String::new();
    std::io::Write::write_all(&mut stream, b"GET /v1/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("written");
    std::io::Read::read_to_string(&mut stream, &mut text).expect("an answer");
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix("pointsman_check_lateness_seconds_bucket{le=\"")?.split_once("\"} ")?;
        Some((bound.to_owned(), count.trim().parse().ok()?))
    };
    text.lines().filter_map(bucket).collect()
}
