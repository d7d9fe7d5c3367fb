//! What control does beside packets: how long packets stay with their worker while thousands of checks are made, the
//! configuration changes and the API is asked, and while nothing of that happens. Turn by turn.
//!
//! The worker is alone on its CPU, and everything else shares the other one. So packets are sent by a thread that nothing
//! there gets in the way of (`SCHED_FIFO`), a few every millisecond: they arrive alike in all turns. In a third kind of turn
//! nothing but a stranger's program is busy on that other CPU: what it costs a worker that its neighbour works at all
//! (two threads of one core share it, all cores share caches and memory) is not control's doing.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use pointsman::lab::{Namespace, wait_until};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::contender::{Contender, Running, Site};
use crate::frame;
use crate::statistics::median;
use crate::wire::Wire;

/// Packets a millisecond, and how many flows they are of.
const PACKETS: u16 = 50;
const FLOWS: u16 = 5000;

/// Members that are looked at by TCP, each once a second.
const CHECKED: u32 = 5000;

/// Between two changes of a member by the API, and between two questions.
const EDIT_EVERY: Duration = Duration::from_millis(100);

/// Statistics come every ten seconds, and tell of those.
const LINE_WITHIN: Duration = Duration::from_secs(15);

/// What packets' stay came to in one turn, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Stay {
    p50: f64,
    p99: f64,
    p999: f64,
    pps: f64,
}

type Figure = fn(&Stay) -> f64;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Turns in which nothing else happened, those in which a stranger was busy, and those in which all of it happened.
    alone: Vec<Stay>,
    stranger: Vec<Stay>,
    beside: Vec<Stay>,
    edits: u64,
    checks_per_second: f64,
}

/// So many turns of each kind, of twenty seconds.
pub(crate) fn run(wire: &Wire, site: &Site, generator_cpu: usize, turns: usize) -> Result<Outcome> {
    let _side = Side::build(wire, generator_cpu)?;
    let running = Running::start(Contender::Pointsman, wire, site)?;
    // What measures is not to be in the worker's way.
    stay_on(generator_cpu)?;
    let api = Api { directory: &site.directory };
    let base = std::fs::read_to_string(site.directory.join("pointsman.toml"))?;
    let quiet = api.file("quiet.toml", &base)?;
    let checked = api.file("checked.toml", &(base + &checks()))?;
    let mut outcome = Outcome::default();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(wire, generator_cpu, &over));
        let measured = (0..turns).try_for_each(|_| {
            api.ask(&["apply", &quiet])?;
            outcome.alone.push(next_stay(&running)?);
            outcome.stranger.push(beside_a_stranger(&running)?);
            api.ask(&["apply", &checked])?;
            turn_beside(&api, &running, &mut outcome)
        });
        over.store(true, Ordering::Relaxed);
        match sender.join() {
            Ok(sent) => sent.and(measured),
            Err(_) => bail!("the sender panicked"),
        }
    })?;
    running.stop()?;
    Ok(outcome)
}

/// Somebody goes through memory that no cache holds.
fn beside_a_stranger(running: &Running<'_>) -> Result<Stay> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut words = vec![1_u64; 8 << 20];
            while !stop.load(Ordering::Relaxed) {
                // Not all of it at once: so that the end is seen.
                for part in words.chunks_mut(1 << 16) {
                    for word in part {
                        *word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            std::hint::black_box(&words);
        });
        let stay = next_stay(running);
        stop.store(true, Ordering::Relaxed);
        stay
    })
}

/// Members change all the time, and are asked for.
fn turn_beside(api: &Api<'_>, running: &Running<'_>, outcome: &mut Outcome) -> Result<()> {
    let (before, began) = (api.checks_made()?, Instant::now());
    let (stop, edits) = (AtomicBool::new(false), AtomicU64::new(0));
    let stay = thread::scope(|scope| {
        let editor = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let weight = (2 + edits.fetch_add(1, Ordering::Relaxed) % 5).to_string();
                api.ask(&["member", "weight", "bench/member1", &weight])?;
                api.ask(&["member", "list", "bench"])?;
                thread::sleep(EDIT_EVERY);
            }
            Ok(())
        });
        let stay = next_stay(running);
        stop.store(true, Ordering::Relaxed);
        match editor.join() {
            Ok(edited) => edited.and(stay),
            Err(_) => bail!("the editor panicked"),
        }
    })?;
    outcome.beside.push(stay);
    outcome.edits += edits.into_inner();
    outcome.checks_per_second = (api.checks_made()? - before) as f64 / began.elapsed().as_secs_f64();
    Ok(())
}

/// Sends until it is over.
fn send(wire: &Wire, cpu: usize, over: &AtomicBool) -> Result<()> {
    let (namespace, interface) = wire.source();
    let socket = namespace.enter(|| -> Result<Socket> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.bind(&link_address(if_nametoindex(interface)?)?)?;
        Ok(socket)
    })??;
    stay_on(cpu)?;
    let thread = gettid().to_string();
    let status =
        Command::new("chrt").args(["--fifo", "--pid", "10", &thread]).status().context("chrt of util-linux")?;
    if !status.success() {
        bail!("chrt: {status}");
    }
    let (mut frame, mut flow, mut next) = (frame::template(), 0_u16, Instant::now());
    while !over.load(Ordering::Relaxed) {
        for _ in 0..PACKETS {
            flow = (flow + 1) % FLOWS;
            frame[34..36].copy_from_slice(&(1024 + flow).to_be_bytes());
            // One that finds no room is not missed.
            let _ = socket.send(&frame);
        }
        next += Duration::from_millis(1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Has the calling thread stay there, and those that it will start.
fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// An interface, for `AF_PACKET` (packet(7)).
#[expect(unsafe_code, reason = "nobody wraps the making of a sockaddr_ll")]
fn link_address(index: u32) -> Result<SockAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let init = |storage: *mut SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: the storage is as large and as aligned as any socket address is.
        unsafe { storage.cast::<libc::sockaddr_ll>().write(address) };
        // SAFETY: it is `try_init`'s own variable.
        unsafe { length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        Ok(())
    };
    // SAFETY: `init` has filled in an address of this family, and its length.
    let ((), address) = unsafe { SockAddr::try_init(init) }?;
    Ok(address)
}

/// The daemon's, by its commands.
struct Api<'a> {
    directory: &'a Path,
}

impl Api<'_> {
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        let output = command.args(arguments).env("POINTSMAN_SOCKET", self.directory.join("api.sock")).output()?;
        if !output.status.success() {
            bail!("pointsman {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn checks_made(&self) -> Result<u64> {
        let monitors: Vec<Value> = serde_json::from_str(&self.ask(&["monitor", "list", "--json"])?)?;
        Ok(monitors.iter().filter_map(|monitor| monitor["checks"].as_u64()).sum())
    }
}

/// A pool of thousands that are looked at: each is the same server.
fn checks() -> String {
    let mut text = format!(
        "\n[[vip]]\nname = \"checked\"\naddress = \"{}\"\nprotocol = \"tcp\"\nport = 80\npool = \"checked\"\n\n[[pool]]\n\
         name = \"checked\"\nforward = \"ipip\"\n\n[[pool.monitor]]\ntype = \"tcp\"\ninterval = \"1s\"\n",
        frame::VIP
    );
    for index in 0..CHECKED {
        let address = Ipv4Addr::from(u32::from(Side::FIRST) + index);
        // Writing to a String cannot fail.
        let _ = write!(text, "\n[[pool.member]]\nname = \"m{index}\"\naddress = \"{address}\"\n");
    }
    text
}

/// The next ten seconds that begin from now on, as the statistics tell them.
fn next_stay(running: &Running<'_>) -> Result<Stay> {
    let lines = || -> Result<Vec<String>> {
        Ok(running.log()?.lines().filter(|line| line.contains(" statistics ")).map(str::to_owned).collect())
    };
    let wait_for = |count| {
        let came = wait_until(2 * LINE_WITHIN, || lines().is_ok_and(|lines| lines.len() >= count));
        if came { Ok(()) } else { bail!("no statistics in the log") }
    };
    // The one that is under way has begun before now.
    let before = lines()?.len();
    wait_for(before + 2)?;
    let line = lines()?.swap_remove(before + 1);
    let value = |key: &str| -> Result<f64> {
        let found = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        found.with_context(|| format!("{key} is not in {line}"))?.parse().context("a number")
    };
    Ok(Stay {
        p50: value("residence_ns.p50")?,
        p99: value("residence_ns.p99")?,
        p999: value("residence_ns.p99.9")?,
        pps: value("pps")?,
    })
}

/// Those that are looked at, behind an interface of their own: none of their packets comes to the workers.
struct Side {
    _namespace: Namespace,
    server: std::process::Child,
}

impl Side {
    /// Of 10.99.0.0/16, all of which is the server's own.
    const FIRST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    fn build(wire: &Wire, cpu: usize) -> Result<Self> {
        let namespace = Namespace::create("side")?;
        let far = wire.forwarder().path().display().to_string();
        let run = |inside: &Namespace, line: &str| inside.run(line.split(' ')).map(drop);
        run(&namespace, &format!("ip link add side0 type veth peer name side netns {far}"))?;
        for line in [
            "ip link set side0 up",
            "ip address add 10.98.0.2/24 dev side0",
            "ip link set lo up",
            "ip route add local 10.99.0.0/16 dev lo",
        ] {
            run(&namespace, line)?;
        }
        for line in
            ["ip link set side up", "ip address add 10.98.0.1/24 dev side", "ip route add 10.99.0.0/16 via 10.98.0.2"]
        {
            run(wire.forwarder(), line)?;
        }
        let mut server = namespace.command("taskset");
        server.args([
            "--cpu-list",
            &cpu.to_string(),
            env!("CARGO_BIN_EXE_pointsman"),
            "lab",
            "member",
            "--name",
            "side",
            "--listen",
            "0.0.0.0:80",
        ]);
        let server = server.stdout(std::process::Stdio::null()).spawn()?;
        Ok(Self { _namespace: namespace, server })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Outcome {
    /// For people.
    pub(crate) fn print(&self) {
        println!("beside");
        println!(
            "  {} turns each; control: {:.0} checks a second, {} changes by the API, as many questions",
            self.alone.len(),
            self.checks_per_second,
            self.edits
        );
        println!("  packets stay, ns (medians)        alone   beside a stranger       beside control");
        let rows: [(&str, Figure); 3] =
            [("p50", |stay| stay.p50), ("p99", |stay| stay.p99), ("p99.9", |stay| stay.p999)];
        for (name, figure) in rows {
            let [alone, stranger, beside] = [&self.alone, &self.stranger, &self.beside].map(|one| middle(one, figure));
            println!(
                "    {name:<22} {alone:>12.0} {stranger:>12.0} ({:>4.2}) {beside:>12.0} ({:>4.2})",
                stranger / alone,
                beside / alone
            );
        }
        let [alone, stranger, beside] =
            [&self.alone, &self.stranger, &self.beside].map(|one| middle(one, |stay| stay.pps));
        println!("    packets a second       {alone:>12.0} {stranger:>12.0}        {beside:>12.0}");
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let told = |stays: &[Stay]| -> Vec<Value> {
            let one = |stay: &Stay| json!({ "p50": stay.p50, "p99": stay.p99, "p999": stay.p999, "pps": stay.pps });
            stays.iter().map(one).collect()
        };
        json!({
            "alone": told(&self.alone),
            "stranger": told(&self.stranger),
            "beside": told(&self.beside),
            "checks_per_second": self.checks_per_second,
            "edits": self.edits,
        })
    }
}

fn middle(stays: &[Stay], figure: impl Fn(&Stay) -> f64) -> f64 {
    let values: Vec<f64> = stays.iter().map(figure).collect();
    median(&values).map_or(f64::NAN, |median| median.value)
}
