//! The wires: namespaces around the forwarder, and what it finds there.
//!
//! ```text
//!   outside ──peer0────────in-PID── forwarder ──out-PID────────peer1── beyond
//!   generator; sink, where there is one interface                      sink, where there are two
//! ```
//! No bridge, no stack: between generator and sink there is nothing but the forwarder. Nothing resolves anything:
//! the members are permanent neighbours.

use std::fs;
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use pointsman::lab::{Namespace, wait_until};

use crate::frame;

/// Which way packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Out of the interface that they came in by, their MACs rewritten.
    Stick,
    /// The same, encapsulated.
    Ipip,
    /// Out of a second interface.
    Two,
}

impl Way {
    /// The interface that packets leave by: the first (0) or the second.
    pub(crate) fn egress(self) -> usize {
        usize::from(self == Self::Two)
    }

    /// Whether an outer header is put before packets.
    pub(crate) fn encapsulates(self) -> bool {
        self == Self::Ipip
    }
}

/// Who runs the receive side (NAPI) of the forwarder's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Placement {
    /// A kernel thread on the forwarder's CPU: all that a packet costs is on that CPU, and counted.
    Shared,
    /// A soft interrupt on the generator's CPU, as veth has it: its time is not counted.
    Apart,
    /// The forwarder itself: busy polling (`SO_PREFER_BUSY_POLL`), with interrupts put off.
    Polled,
}

/// Namespaces and interfaces for one [`Way`].
#[derive(Debug)]
pub(crate) struct Wire {
    way: Way,
    outside: Namespace,
    forwarder: Namespace,
    beyond: Option<Namespace>,
    interfaces: Vec<String>,
}

impl Wire {
    /// Joins the namespaces.
    pub(crate) fn build(way: Way) -> Result<Self> {
        // Kernel threads carry their interface's name, and other namespaces have an `eth0` too.
        let names = [format!("in-{}", process::id()), format!("out-{}", process::id())];
        let wire = Self {
            way,
            outside: Namespace::create("outside")?,
            forwarder: Namespace::create("forwarder")?,
            beyond: if way == Way::Two { Some(Namespace::create("beyond")?) } else { None },
            interfaces: names[..=way.egress()].to_vec(),
        };
        let others = [Some(&wire.outside), wire.beyond.as_ref()];
        for (index, (other, interface)) in others.into_iter().flatten().zip(&wire.interfaces).enumerate() {
            wire.join(index, other, interface)?;
        }
        for index in 0..frame::MEMBERS {
            let (address, mac) = (frame::member(way.egress(), index).to_string(), mac_text(frame::member_mac(index)));
            let device = &wire.interfaces[way.egress()];
            wire.forwarder.run(["ip", "neighbour", "add", &address, "lladdr", &mac, "dev", device])?;
        }
        Ok(wire)
    }

    /// One veth pair: `peerN` in the other namespace, `interface` in the forwarder's.
    fn join(&self, index: usize, other: &Namespace, interface: &str) -> Result<()> {
        for namespace in [other, &self.forwarder] {
            // Router solicitations are nobody's traffic. Without IPv6 in the kernel there are none.
            let _ = namespace.write_sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        }
        let (peer, mac) = (format!("peer{index}"), mac_text(frame::FORWARDER_MACS[index]));
        let far = self.forwarder.path().display().to_string();
        let link = ["ip", "link", "add", &peer, "type", "veth", "peer", "name", interface, "netns", &far];
        other.run(link.into_iter().chain(["address", &mac]))?;
        other.run(["ip", "link", "set", &peer, "up"])?;
        self.forwarder.run(["ip", "link", "set", interface, "up"])?;
        let address = format!("{}/24", frame::FORWARDER[index]);
        self.forwarder.run(["ip", "address", "add", &address, "dev", interface])?;
        Ok(())
    }

    /// Which way packets take here.
    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// Where the forwarder runs.
    pub(crate) fn forwarder(&self) -> &Namespace {
        &self.forwarder
    }

    /// The forwarder's interfaces; the first one is where traffic comes in.
    pub(crate) fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Where frames are sent from.
    pub(crate) fn source(&self) -> (&Namespace, &str) {
        (&self.outside, "peer0")
    }

    /// Where frames arrive in the end.
    pub(crate) fn sink(&self) -> (&Namespace, &str) {
        self.beyond.as_ref().map_or((&self.outside, "peer0"), |beyond| (beyond, "peer1"))
    }

    /// Puts NAPI of the forwarder's interfaces where it shall run, and returns its kernel threads. A veth has NAPI
    /// only while a program is attached: to be called when the forwarder is ready.
    pub(crate) fn place_napi(&self, placement: Placement, cpu: usize) -> Result<Vec<Pid>> {
        let threaded = u8::from(placement == Placement::Shared);
        // As the documentation of DPDK's AF_XDP driver advises, and ours (Documentation/networking/napi.rst).
        let (deferred, flush) = if placement == Placement::Polled { (2, 200_000) } else { (0, 0) };
        for (index, interface) in self.interfaces.iter().enumerate() {
            // A process of this namespace sees its interfaces only in a /sys that was mounted there.
            let script = format!(
                "mount -t sysfs none /sys && cd /sys/class/net/{interface} && echo {deferred} > napi_defer_hard_irqs && \
                 echo {flush} > gro_flush_timeout && echo {threaded} > threaded"
            );
            let written = self.forwarder.run(["unshare", "--mount", "sh", "-c", &script]);
            // An interface that is only sent by has no NAPI where the forwarder attached nothing to it.
            if index == 0 {
                written?;
            }
        }
        if placement != Placement::Shared {
            return Ok(Vec::new());
        }
        let mut threads = Vec::new();
        wait_until(Duration::from_secs(1), || {
            threads = napi_threads(&self.interfaces);
            !threads.is_empty()
        });
        if threads.is_empty() {
            bail!("{}: no kernel thread runs its NAPI", self.interfaces[0]);
        }
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        for &thread in &threads {
            sched_setaffinity(thread, &cpus).with_context(|| format!("NAPI thread {thread} to CPU {cpu}"))?;
        }
        Ok(threads)
    }
}

/// Kernel threads are called `napi/INTERFACE-ID`.
fn napi_threads(interfaces: &[String]) -> Vec<Pid> {
    let is_ours = |name: &str| {
        let interface = name.strip_prefix("napi/").and_then(|rest| rest.rsplit_once('-'));
        interface.is_some_and(|(interface, _)| interfaces.iter().any(|ours| ours == interface))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours =
        pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| is_ours(name.trim_end())));
    ours.map(Pid::from_raw).collect()
}

/// A MAC as people write it.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
