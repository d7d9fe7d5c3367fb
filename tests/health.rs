//! Health checks of the real binary against real servers, while real traffic flows.
//!
//! Topology of every test: see `pointsman::lab`, members on the balancer's LAN. Times are printed; what is asserted of
//! them is what the configuration promises.

#[path = "support/lab.rs"]
mod support;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pointsman::lab::{Lab, Load, Namespace, Process, Service, Topology};
use socket2::{Domain, Protocol, Socket, Type};
use support::{assert_clean, build, topology};

/// One VIP with a pool of these weights, keys of the pool, and its monitors.
fn config(lab: &Lab, service: &Service, pool: &str, monitors: &str) -> String {
    let scheduler = format!("scheduler = \"{}\"\n", service.scheduler);
    lab.config(std::slice::from_ref(service)).replace(&scheduler, &format!("{scheduler}{pool}\n")) + "\n" + monitors
}

/// Waits for a line of the log that has all of these words.
#[track_caller]
fn assert_said(balancer: &Process, words: &[&str]) {
    let has_all = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(balancer.wait_for_log(Duration::from_secs(10), has_all), "{words:?}: {:#?}", balancer.log());
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

/// From the kill to the last new flow sent to the dead member: interval × fall + timeout + 50 ms at most.
#[test]
fn a_killed_server_gets_no_new_flow_after_the_time_that_was_promised() {
    let Some(lab) = build(&topology()) else { return };
    let mut members = lab.spawn_member_servers().expect("members");
    let text = config(&lab, &Service::http(&[1, 1, 1]), "", HTTP);
    let balancer = lab.spawn_balancer(&text).expect("balancer");
    let promised = Duration::from_millis(200 * 2 + 200 + 50);
    for round in 0..3 {
        let arrivals = Arrivals::watch(lab.member(1), Topology::VIP);
        let (report, silent) = thread::scope(|scope| {
            // Few at a time: refused connections are tried anew at once, and are to be flows like others.
            let load = Load { connections: 1_000_000, concurrency: 8, limit_seconds: 3, ..lab.get() };
            let lab = &lab;
            let running = scope.spawn(move || lab.client_load(&load).expect("load"));
            thread::sleep(Duration::from_millis(1000));
            assert!(arrivals.last().is_some_and(|last| last.elapsed() < Duration::from_millis(300)), "traffic");
            let killed = Instant::now();
            members[1].kill().expect("kill");
            thread::sleep(Duration::from_millis(1500));
            let last = arrivals.last().expect("there was one");
            (running.join().expect("no panic"), last.saturating_duration_since(killed))
        });
        println!(
            "round {round}: last new flow {silent:?} after the kill (promised: {promised:?}), {} failed",
            report.failures
        );
        assert!(silent <= promised, "{silent:?}");
        assert_said(&balancer, &["member web/member2 down: http: connection refused"]);
        assert!(report.connections > 1000, "{report:?}");
        // Back again: it takes its share after `rise` checks.
        let started = Instant::now();
        members[1] = lab.spawn_member_server(1).expect("member");
        let arrivals = Arrivals::watch(lab.member(1), Topology::VIP);
        let load = Load { connections: 1_000_000, concurrency: 8, limit_seconds: 1, ..lab.get() };
        lab.client_load(&load).expect("load");
        let last = arrivals.last().expect("it gets flows again");
        println!(
            "round {round}: takes traffic again, last flow {:?} after the start",
            last.saturating_duration_since(started)
        );
    }
    let healthy = lab.client_load(&Load { connections: 3000, ..lab.get() }).expect("load");
    assert_clean(&healthy, 3000);
    assert_eq!(healthy.connections_by_member.len(), 3);
}
