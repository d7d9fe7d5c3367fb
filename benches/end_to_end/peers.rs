//! Peers from elsewhere: DPDK's testpmd on its `AF_XDP` driver, and nftables. Neither is needed; who has them installed
//! can compare.
//!
//! Both forward frames as pointsman does, and balance less: testpmd sends all of them to one MAC (`--forward-mode=mac`),
//! nftables chooses the MAC by a hash of source address and port (`jhash`), without a connection table.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::contender::Site;
use crate::frame;
use crate::wire::{Placement, Way, Wire, mac_text};

/// Huge pages of 2 MiB that testpmd takes for its packets, where so many are free: the 64 MiB of `TESTPMD_MEMORY` and
/// the room that the allocator needs beside them.
const TESTPMD_HUGE_PAGES: u64 = 64;
/// MiB that testpmd gets of ordinary pages otherwise.
const TESTPMD_MEMORY: &str = "256";
/// Buffers of 2 KiB: rings of 2048 entries in two directions, doubled for two interfaces, and as many again in caches.
const TESTPMD_BUFFERS: u32 = 16_384;

/// Whether testpmd works in huge pages here.
pub(crate) fn has_huge_pages() -> bool {
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    free.ok().and_then(|text| text.trim().parse().ok()).is_some_and(|free: u64| free >= TESTPMD_HUGE_PAGES)
}

/// testpmd on this wire. It forwards when it has said [`TESTPMD_READY`], and ends when its standard input does.
pub(crate) fn testpmd(wire: &Wire, site: &Site) -> Result<Command> {
    ensure!(!wire.way().encapsulates(), "testpmd cannot encapsulate");
    // Its output would stay in a buffer until it ends.
    let mut command = wire.forwarder().command("stdbuf");
    command.args(["-oL", "dpdk-testpmd"]);
    // The main thread sleeps; both are where the forwarder's CPU time is counted.
    command.args(["--lcores", &format!("0@{cpu},1@{cpu}", cpu = site.cpu), "--main-lcore", "0"]);
    command.args(["--no-pci", "--no-telemetry", "--log-level=5"]);
    if has_huge_pages() {
        command.arg("--in-memory");
    } else {
        command.args(["--no-huge", "--no-shconf", "-m", TESTPMD_MEMORY]);
    }
    for (index, interface) in wire.interfaces().iter().enumerate() {
        // 64 is the driver's default budget for polling NAPI by itself; 0 leaves that to interrupts.
        let budget = if site.placement == Placement::Polled { 64 } else { 0 };
        let device = format!("net_af_xdp{index},iface={interface},busy_budget={budget},force_copy=1");
        command.args(["--vdev", &device]);
    }
    command.args(["--", "--forward-mode=mac", "--auto-start", "--burst=64"]);
    command.arg(format!("--total-num-mbufs={TESTPMD_BUFFERS}"));
    command.arg(format!("--eth-peer={},{}", wire.way().egress(), mac_text(frame::member_mac(0))));
    if wire.way() == Way::Stick {
        command.arg("--port-topology=loop");
    }
    Ok(command)
}

/// What testpmd prints once it forwards.
pub(crate) const TESTPMD_READY: &str = "Press enter to exit";

/// testpmd leaves its XDP program where it was.
pub(crate) fn detach_programs(wire: &Wire) {
    for interface in wire.interfaces() {
        // There may be none.
        let _ = wire.forwarder().run(["ip", "link", "set", interface, "xdp", "off"]);
    }
}

/// Has nftables forward on this wire until [`stop_nftables`].
pub(crate) fn start_nftables(wire: &Wire, site: &Site) -> Result<()> {
    if wire.way().encapsulates() {
        bail!("nftables cannot encapsulate");
    }
    if site.placement != Placement::Shared {
        bail!("nftables works where NAPI does: with --napi other than shared none of its time would be counted");
    }
    let [way_in, ..] = wire.interfaces() else { bail!("there is no interface") };
    // A veth has NAPI only with a program attached, or with GRO.
    wire.forwarder().run(["ethtool", "-K", way_in, "gro", "on"])?;
    let rules = site.directory.join("peers.nft");
    fs::write(&rules, ruleset(wire))?;
    wire.forwarder().run([std::ffi::OsStr::new("nft"), "-f".as_ref(), rules.as_os_str()])?;
    Ok(())
}

fn ruleset(wire: &Wire) -> String {
    let egress = wire.way().egress();
    let mut members = String::new();
    for index in 0..frame::MEMBERS {
        // Writing to a String cannot fail.
        let _ = write!(members, "{index} : {}, ", mac_text(frame::member_mac(index)));
    }
    format!(
        "table netdev peers {{\n  chain in {{\n    type filter hook ingress device \"{}\" priority 0;\n    \
         ip daddr {} udp dport {} ether saddr set {} ether daddr set \
         jhash ip saddr . udp sport mod {} map {{ {members}}} fwd to \"{}\"\n  }}\n}}\n",
        wire.interfaces()[0],
        frame::VIP,
        frame::PORT,
        mac_text(frame::FORWARDER_MACS[egress]),
        frame::MEMBERS,
        wire.interfaces()[egress],
    )
}

/// Takes nftables' rules away, and GRO.
pub(crate) fn stop_nftables(wire: &Wire) {
    // Whatever of it is left goes with the namespace.
    let _ = wire.forwarder().run(["nft", "flush", "ruleset"]);
    let _ = wire.forwarder().run(["ethtool", "-K", &wire.interfaces()[0], "gro", "off"]);
}
