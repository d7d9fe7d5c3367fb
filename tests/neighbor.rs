//! The watcher against the real kernel: each test has two network namespaces of its own, joined by a veth pair.
//!
//! ```text
//!   here: lb0 02:00:00:00:00:01 10.0.0.1/24  ────  m0 02:00:00:00:00:02 10.0.0.2/24 :there
//! ```
//!
//! Needs root and iproute2. Nothing outside the namespaces is touched; they vanish with the test.

use std::cell::RefCell;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use pointsman::control::neighbor::{Network, NextHop, Unresolved, Watcher, xdp_programs};

/// No step takes longer than a few seconds on an idle machine; a busy one may need several times that.
const DEADLINE: Duration = Duration::from_secs(30);

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// On the link, and nobody's unless a test gives it to the peer.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[test]
fn a_target_on_the_link_resolves() {
    run(async |world| {
        let watcher = world.watch(&[PEER]).await;
        let network = until(&watcher, "resolved", |network| network.next_hops[&PEER].is_ok()).await;
        assert_eq!(network.next_hops[&PEER], Ok(on_link(PEER_MAC)));
        let link = &network.links["lb0"];
        assert_eq!((link.mac, link.mtu, link.up), (OWN_MAC, 1500, true));
        assert_eq!((link.rx_queues, link.tx_queues), (2, 3));
        assert_eq!(Vec::from_iter(network.addresses.clone()), [OWN, Ipv4Addr::LOCALHOST]);
        assert_eq!(network.table_overflows, 0);
        assert_eq!(xdp_programs("lb0"), Some(vec![]));
        assert_eq!(xdp_programs("nosuch"), None);
    });
}

#[test]
fn a_target_behind_a_gateway_has_the_gateways_address() {
    run(async |world| {
        world.here.ip("route add 10.9.0.0/16 via 10.0.0.2 mtu 1400");
        let watcher = world.watch(&[BEHIND]).await;
        let network = until(&watcher, "resolved", |network| network.next_hops[&BEHIND].is_ok()).await;
        let expected = NextHop { gateway: Some(PEER), mtu: Some(1400), ..on_link(PEER_MAC) };
        assert_eq!(network.next_hops[&BEHIND], Ok(expected));
    });
}

#[test]
fn reasons_are_named() {
    run(async |world| {
        world.here.ip("link add eth1 type veth peer name eth2");
        world.here.ip("link set eth2 up");
        world.here.ip("address add 10.1.0.1/24 dev eth1");
        world.here.ip("link set eth1 up");
        world.here.ip("route add unreachable 10.2.0.0/24");
        world.here.ip("route add prohibit 10.3.0.0/24");
        world.here.ip("route add blackhole 10.4.0.0/24");
        let table = [
            ("10.250.0.1", "no route to host"),
            ("10.1.0.9", "route leaves by eth1, which is not listed"),
            ("10.2.0.1", "its route is of type unreachable"),
            ("10.3.0.1", "its route is of type prohibit"),
            ("10.4.0.1", "its route is of type blackhole"),
            ("10.0.0.1", "10.0.0.1 is this host's own address"),
            ("10.0.0.255", "10.0.0.255 is a broadcast or multicast address"),
        ];
        let targets: Vec<Ipv4Addr> = table.iter().map(|(target, _)| target.parse().unwrap()).collect();
        // None of these needs an answer from the network: the first snapshot has them.
        let network = world.watch(&targets).await.network();
        for (target, (_, reason)) in targets.iter().zip(table) {
            assert_eq!(network.next_hops[target].as_ref().unwrap_err().to_string(), reason);
        }
    });
}

#[test]
fn a_silent_target_is_named_and_noticed_when_it_appears() {
    run(async |world| {
        let log = Log::capture();
        let watcher = world.watch(&[PEER, NOBODY]).await;
        let start = Instant::now();
        let network = watcher.first_resolution(DEADLINE).await;
        println!("silence was certain after {:?}", start.elapsed());
        assert_eq!(network.next_hops[&PEER], Ok(on_link(PEER_MAC)));
        assert_eq!(network.next_hops[&NOBODY], Err(Unresolved::NoAnswer { gateway: None }));

        // It is asked for again and again, and that is not said again and again.
        let asked = world.there.received("m0");
        wait_for("three more ARP requests", || world.there.received("m0") >= asked + 3).await;
        assert_eq!(watcher.network().next_hops[&NOBODY], Err(Unresolved::NoAnswer { gateway: None }));
        assert_eq!(log.lines("10.0.0.3").len(), 1, "{:?}", log.lines(""));

        world.there.ip("address add 10.0.0.3/24 dev m0");
        let start = Instant::now();
        until(&watcher, "appeared", |network| network.next_hops[&NOBODY] == Ok(on_link(PEER_MAC))).await;
        println!("an appearing host was noticed after {:?}", start.elapsed());
    });
}

#[test]
fn an_announced_new_address_is_followed_at_once() {
    run(async |world| {
        let log = Log::capture();
        world.there.sysctl("net/ipv4/conf/m0/arp_notify", "1");
        let watcher = world.watch(&[PEER]).await;
        until(&watcher, "resolved", |network| network.next_hops[&PEER].is_ok()).await;
        // An announcement within a second of the last change is ignored (`locktime`): the kernel takes it for a
        // duplicate answer.
        world.here.sysctl("net/ipv4/neigh/lb0/locktime", "0");
        world.there.ip("link set m0 address 02:00:00:00:00:09");
        let start = Instant::now();
        until(&watcher, "moved", |network| network.next_hops[&PEER] == Ok(on_link([2, 0, 0, 0, 0, 9]))).await;
        println!("an announced address was followed after {:?}", start.elapsed());
        assert_eq!(
            log.lines("10.0.0.2"),
            [
                "10.0.0.2: next hop 02:00:00:00:00:02 on lb0",
                "10.0.0.2: next hop 02:00:00:00:00:09 on lb0, was 02:00:00:00:00:02",
            ]
        );
    });
}

#[test]
fn a_silent_change_is_noticed_because_stale_entries_are_verified() {
    run(async |world| {
        // The kernel's own times, shortened: reachable for 30 s, a pause of 5 s, three questions in 3 s.
        world.here.sysctl("net/ipv4/neigh/lb0/base_reachable_time_ms", "500");
        world.here.sysctl("net/ipv4/neigh/lb0/delay_first_probe_time", "1");
        world.here.sysctl("net/ipv4/neigh/lb0/retrans_time_ms", "100");
        let watcher = world.watch(&[PEER]).await;
        until(&watcher, "resolved", |network| network.next_hops[&PEER].is_ok()).await;
        world.there.ip("link set m0 address 02:00:00:00:00:09");
        until(&watcher, "moved", |network| network.next_hops[&PEER] == Ok(on_link([2, 0, 0, 0, 0, 9]))).await;
        world.there.ip("address del 10.0.0.2/24 dev m0");
        until(&watcher, "vanished", |network| network.next_hops[&PEER] == Err(Unresolved::NoAnswer { gateway: None }))
            .await;
    });
}

#[test]
fn a_link_goes_down_and_up() {
    run(async |world| {
        let log = Log::capture();
        world.here.ip("route add 10.9.0.0/16 via 10.0.0.2");
        let watcher = world.watch(&[PEER, BEHIND]).await;
        let both_resolved = |network: &Network| network.next_hops.values().all(Result::is_ok);
        let both_down = |network: &Network| {
            let down = Err(Unresolved::LinkDown { interface: "lb0".to_owned() });
            !network.links["lb0"].up && network.next_hops.values().all(|next_hop| *next_hop == down)
        };
        until(&watcher, "resolved", both_resolved).await;
        // Without carrier the routes stay; without the interface they go.
        for (down, up) in [(&world.there, "m0"), (&world.here, "lb0")] {
            let start = Instant::now();
            down.ip(&format!("link set {up} down"));
            until(&watcher, "down", both_down).await;
            println!("{up} down was followed after {:?}", start.elapsed());
            down.ip(&format!("link set {up} up"));
            if up == "lb0" {
                world.here.ip("route add 10.9.0.0/16 via 10.0.0.2");
            }
            until(&watcher, "up again", both_resolved).await;
        }
        assert_eq!(log.lines("lb0 is down").iter().filter(|line| *line == "lb0 is down").count(), 2);
        assert_eq!(log.lines("lb0 is up").len(), 2);
    });
}

#[test]
fn mtu_and_own_address_are_followed() {
    run(async |world| {
        let watcher = world.watch(&[PEER]).await;
        world.here.ip("link set lb0 mtu 1400");
        until(&watcher, "smaller", |network| network.links["lb0"].mtu == 1400).await;
        world.here.ip("link set lb0 address 02:00:00:00:00:aa");
        until(&watcher, "renumbered", |network| network.links["lb0"].mac == [2, 0, 0, 0, 0, 0xaa]).await;
        until(&watcher, "still resolved", |network| network.next_hops[&PEER].is_ok()).await;
    });
}

#[test]
fn an_interface_is_deleted_and_created_again() {
    run(async |world| {
        let log = Log::capture();
        let watcher = world.watch(&[PEER]).await;
        let network = until(&watcher, "resolved", |network| network.next_hops[&PEER].is_ok()).await;
        let index = network.links["lb0"].index;

        world.here.ip("link del lb0");
        let missing = Err(Unresolved::LinkMissing { interface: "lb0".to_owned() });
        let network = until(&watcher, "gone", |network| network.next_hops[&PEER] == missing).await;
        assert!(network.links.is_empty());
        assert_eq!(log.lines("lb0 is gone").len(), 1);

        world.join();
        let network = until(&watcher, "resolved again", |network| network.next_hops[&PEER].is_ok()).await;
        assert_ne!(network.links["lb0"].index, index);
        assert_eq!(network.next_hops[&PEER], Ok(on_link(PEER_MAC)));
    });
}

#[test]
fn own_addresses_are_followed() {
    run(async |world| {
        let added = Ipv4Addr::new(10, 0, 0, 77);
        let watcher = world.watch(&[added]).await;
        until(&watcher, "silent", |network| network.next_hops[&added] == Err(Unresolved::NoAnswer { gateway: None }))
            .await;
        world.here.ip("address add 10.0.0.77/32 dev lo");
        let own = Err(Unresolved::LocalAddress { address: added });
        until(&watcher, "own", |network| network.addresses.contains(&added) && network.next_hops[&added] == own).await;
        world.here.ip("address del 10.0.0.77/32 dev lo");
        until(&watcher, "not own any more", |network| {
            !network.addresses.contains(&added) && network.next_hops[&added] != own
        })
        .await;
    });
}

#[test]
fn routes_and_rules_are_followed() {
    run(async |world| {
        let watcher = world.watch(&[BEHIND, PEER]).await;
        assert_eq!(watcher.network().next_hops[&BEHIND], Err(Unresolved::NoRoute));
        let is =
            |expected: Result<NextHop, Unresolved>| move |network: &Network| network.next_hops[&BEHIND] == expected;
        let by_gateway = || NextHop { gateway: Some(PEER), ..on_link(PEER_MAC) };

        world.here.ip("route add default via 10.0.0.2");
        until(&watcher, "a default route", is(Ok(by_gateway()))).await;
        world.here.ip("route add 10.9.0.0/24 via 10.0.0.2 mtu 1300");
        until(&watcher, "a closer route", is(Ok(NextHop { mtu: Some(1300), ..by_gateway() }))).await;
        world.here.ip("route add 10.9.0.1/32 via 10.0.0.3");
        until(&watcher, "a silent gateway", is(Err(Unresolved::NoAnswer { gateway: Some(NOBODY) }))).await;
        world.here.ip("rule add to 10.9.0.1 blackhole");
        until(&watcher, "a rule", is(Err(Unresolved::Blackhole))).await;
        world.here.ip("rule del to 10.9.0.1 blackhole");
        world.here.ip("route del 10.9.0.1/32");
        world.here.ip("route del 10.9.0.0/24");
        until(&watcher, "the default route", is(Ok(by_gateway()))).await;
    });
}

#[test]
fn targets_may_change() {
    run(async |world| {
        world.there.ip("address add 10.0.0.3/24 dev m0");
        let mut watcher = world.watch(&[PEER]).await;
        until(&watcher, "the first", |network| network.next_hops[&PEER].is_ok()).await;
        watcher.watch([PEER, NOBODY]);
        let network = until(&watcher, "both", |network| {
            network.next_hops.len() == 2 && network.next_hops.values().all(Result::is_ok)
        })
        .await;
        // `changed` has not returned anything so far: it does now, and only once.
        assert_eq!(watcher.changed().await, network);
        assert!(tokio::time::timeout(Duration::from_millis(50), watcher.changed()).await.is_err());
        watcher.watch([NOBODY]);
        assert_eq!(watcher.changed().await.next_hops.keys().collect::<Vec<_>>(), [&NOBODY]);
    });
}

#[test]
fn a_permanent_entry_stays_permanent() {
    run(async |world| {
        world.here.ip("neighbor add 10.0.0.3 lladdr 02:00:00:00:00:33 nud permanent dev lb0");
        // Both kinds: there from the start, and come while its address was being asked for.
        let late = Ipv4Addr::new(10, 0, 0, 4);
        let watcher = world.watch(&[NOBODY, late]).await;
        assert_eq!(watcher.network().next_hops[&NOBODY], Ok(on_link([2, 0, 0, 0, 0, 0x33])));
        until(&watcher, "silent", |network| network.next_hops[&late].is_err()).await;
        world.here.ip("neighbor replace 10.0.0.4 lladdr 02:00:00:00:00:44 nud permanent dev lb0");
        until(&watcher, "pinned", |network| network.next_hops[&late] == Ok(on_link([2, 0, 0, 0, 0, 0x44]))).await;
        let table = world.here.ip("neighbor show");
        assert_eq!(table.matches("PERMANENT").count(), 2, "{table}");
    });
}

#[test]
fn lost_events_cause_a_full_reading() {
    run(async |world| {
        let log = Log::capture();
        let watcher = world.watch(&[PEER]).await;
        until(&watcher, "resolved", |network| network.next_hops[&PEER].is_ok()).await;
        // This thread's runtime stands still meanwhile, so nobody takes the events; the last ones do not fit any more.
        let routes: Vec<String> = (0..30_000)
            .map(|n| format!("route add 172.{}.{}.{}/32 via 10.0.0.2", 16 + n / 65536, n / 256 % 256, n % 256))
            .collect();
        world.here.ip_batch(&routes.join("\n"));
        world.here.ip("link set lb0 mtu 1300");
        world.here.ip("address add 10.0.0.77/32 dev lo");
        until(&watcher, "up to date", |network| {
            network.links["lb0"].mtu == 1300
                && network.addresses.contains(&Ipv4Addr::new(10, 0, 0, 77))
                && network.next_hops[&PEER].is_ok()
        })
        .await;
        assert_eq!(log.lines("missed some").len(), 1, "{:?}", log.lines(""));
    });
}

#[test]
fn thousands_of_silent_targets_do_not_flood_the_link() {
    run(async |world| {
        // At most 256 are being asked for at a time, each once a second.
        const WAITING: u64 = 256;
        world.here.ip("address add 10.50.0.1/16 dev lb0");
        let targets: Vec<Ipv4Addr> = (0..2000).map(|n| Ipv4Addr::from_bits(0x0a32_1000 + n)).collect();
        let before = world.there.received("m0");
        let start = Instant::now();
        let watcher = world.watch(&targets).await;
        println!("started with 2000 targets in {:?}", start.elapsed());
        wait_for("some thousand ARP requests", || world.there.received("m0") >= before + 1000).await;
        let (requests, seconds) = (world.there.received("m0") - before, start.elapsed().as_secs_f64());
        println!("{requests} ARP requests in {seconds:.1} s");
        let allowed = (WAITING as f64) * (seconds + 1.0);
        assert!((requests as f64) <= allowed, "{requests} requests in {seconds:.1} s are more than {allowed:.0}");

        // One that is there is found among them all the same.
        world.there.ip("address add 10.50.0.2/16 dev m0");
        world.there.ip("address del 10.0.0.2/24 dev m0");
        let present = Ipv4Addr::new(10, 50, 0, 2);
        watcher.watch(targets.iter().copied().chain([present]));
        let start = Instant::now();
        until(&watcher, "found", |network| network.next_hops.get(&present).is_some_and(Result::is_ok)).await;
        println!("a live one among them was found after {:?}", start.elapsed());
    });
}

fn on_link(mac: [u8; 6]) -> NextHop {
    NextHop { interface: "lb0".to_owned(), mac, gateway: None, source: OWN, mtu: None }
}

/// Waits for a snapshot of which `condition` holds.
async fn until(watcher: &Watcher, what: &str, condition: impl Fn(&Network) -> bool) -> Arc<Network> {
    let start = Instant::now();
    loop {
        let network = watcher.network();
        if condition(&network) {
            return network;
        }
        assert!(start.elapsed() < DEADLINE, "not {what} within {DEADLINE:?}: {network:#?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "no {what} within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs a test in fresh namespaces, on a thread and a runtime of its own.
fn run<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "needs root, to make network namespaces");
        println!("skipped: needs root, to make network namespaces");
        return;
    }
    let test = thread::spawn(|| {
        let world = World::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(world));
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

struct World {
    here: Namespace,
    there: Namespace,
}

impl World {
    /// Moves the calling thread into a new namespace.
    fn new() -> Self {
        let there = thread::spawn(Namespace::enter_new).join().unwrap();
        let world = Self { here: Namespace::enter_new(), there };
        for namespace in [&world.here, &world.there] {
            // Router solicitations and the like would be counted as ARP requests.
            namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
            namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
            namespace.ip("link set lo up");
        }
        world.join();
        world
    }

    fn join(&self) {
        self.here.ip(&format!(
            "link add lb0 address 02:00:00:00:00:01 numrxqueues 2 numtxqueues 3 type veth \
             peer name m0 address 02:00:00:00:00:02 netns {}",
            self.there.path()
        ));
        self.there.ip("address add 10.0.0.2/24 dev m0");
        self.there.ip("link set m0 up");
        self.here.ip("address add 10.0.0.1/24 dev lb0");
        self.here.ip("link set lb0 up");
    }

    async fn watch(&self, targets: &[Ipv4Addr]) -> Watcher {
        Watcher::start(vec!["lb0".to_owned()], targets.to_vec()).await.unwrap()
    }
}

/// A network namespace that lives as long as this does.
struct Namespace(File);

impl Namespace {
    fn enter_new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        Self(File::open("/proc/thread-self/ns/net").unwrap())
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            inside.join().unwrap()
        })
    }

    /// Runs `ip` and returns what it prints.
    fn ip(&self, arguments: &str) -> String {
        let output = self.inside(|| Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2"));
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn ip_batch(&self, commands: &str) {
        self.inside(|| {
            let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2");
            ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success());
        });
    }

    fn sysctl(&self, key: &str, value: &str) {
        self.inside(|| fs::write(format!("/proc/sys/{key}"), value).unwrap());
    }

    /// Packets that an interface received.
    fn received(&self, interface: &str) -> u64 {
        let table = self.inside(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let prefix = format!("{interface}:");
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&prefix)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// What this thread logs, without times and levels. (The tests share one subscriber: those set for a single thread miss
/// lines when others come and go.)
struct Log;

impl Log {
    fn capture() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .without_time()
                .with_level(false)
                .with_target(false)
                .with_ansi(false)
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(|| ThreadLog)
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        Self
    }

    /// The lines that contain `part`.
    #[expect(clippy::unused_self, reason = "nothing is captured without it")]
    fn lines(&self, part: &str) -> Vec<String> {
        let text = THREAD_LOG.with_borrow(|bytes| String::from_utf8(bytes.clone()).unwrap());
        text.lines().map(|line| line.trim().to_owned()).filter(|line| line.contains(part)).collect()
    }
}

thread_local! {
    static THREAD_LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct ThreadLog;

impl Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        THREAD_LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
