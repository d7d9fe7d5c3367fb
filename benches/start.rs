//! How long `pointsman run` takes from its start to `ready` with 1000 VIPs of 10 members each.
//!
//! `cargo bench --bench start` (needs root; everything happens in network namespaces of its own)
//!
//! All 10 000 members have addresses of their own on the balancer's link. Three cases: the kernel knows all of their MAC
//! addresses (fixed entries, which do not count against the kernel's limit of neighbours); it knows none and nobody
//! answers its ARP requests, so that `ready` comes when they have been waited for; all are behind one gateway, in tunnels.
//! Each number is the median over all rounds, beside the longest; a round in which a member is in another state than
//! its case says ends the bench.

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "../tests/support/fleet.rs"]
mod fleet;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pointsman::lab::{Lab, Topology};

const VIPS: u32 = 1000;
const MEMBERS: u32 = 10;
const ROUNDS: usize = 5;

/// A way to all members.
struct Case {
    name: &'static str,
    /// How the balancer's host reaches [`NETWORK`].
    route: &'static str,
    forward: &'static str,
    neighbors_known: bool,
    /// What all members are after the start.
    state: &'static str,
}

/// All members' addresses. Not a link's subnet: the first of them would be its broadcast address.
const NETWORK: &str = "10.0.0.0/14";

const CASES: [Case; 3] = [
    Case { name: "dr, MACs known", route: "dev eth0", forward: "dr", neighbors_known: true, state: "up" },
    Case { name: "dr, all silent", route: "dev eth0", forward: "dr", neighbors_known: false, state: "unresolved" },
    Case {
        name: "ipip, one gateway",
        route: "via 198.51.100.1 dev eth0",
        forward: "ipip",
        neighbors_known: false,
        state: "up",
    },
];

/// `ip -batch` in the balancer's namespace.
fn ip(lab: &Lab, lines: &str) {
    let mut command = lab.balancer().command("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("ip");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("written");
    assert!(child.wait().expect("ip ends").success());
}

fn fixed_neighbors() -> String {
    let members = (0..VIPS).flat_map(|vip| (0..MEMBERS).map(move |index| fleet::member(vip, index)));
    let line = |member| {
        let mac = fleet::mac_of(member).map(|byte| format!("{byte:02x}")).join(":");
        format!("neighbor add {member} lladdr {mac} dev eth0 nud permanent\n")
    };
    members.map(line).collect()
}

fn config(lab: &Lab, forward: &str, round: usize) -> String {
    let directory = lab.directory();
    let head = format!(
        "[api]\nsocket = \"{}\"\n[node]\nstate_dir = \"{}\"\n",
        directory.join("api.sock").display(),
        // A round starts from nothing.
        directory.join(format!("state-{round}")).display()
    );
    fleet::text(VIPS, MEMBERS).replacen("[node]\n", &head, 1).replace("\"dr\"", &format!("\"{forward}\""))
}

/// How many members are in each state.
fn states(lab: &Lab) -> BTreeMap<String, usize> {
    let mut command = lab.balancer().command(&lab.topology().program);
    command.args(["member", "list", "--json", "--socket"]).arg(lab.directory().join("api.sock"));
    let output = command.output().expect("member list");
    let members: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut states = BTreeMap::new();
    for member in members {
        *states.entry(member["state"].as_str().expect("a state").to_owned()).or_default() += 1;
    }
    states
}

fn measure(case: &Case) -> Vec<Duration> {
    let topology = Topology { program: env!("CARGO_BIN_EXE_pointsman").into(), members: 1, ..Topology::default() };
    let lab = Lab::build(&topology).expect("a lab");
    ip(&lab, &format!("route add {NETWORK} {}\n", case.route));
    if case.neighbors_known {
        ip(&lab, &fixed_neighbors());
    }
    let round = |number| {
        let config = config(&lab, case.forward, number);
        let started = Instant::now();
        let mut balancer = lab.spawn_balancer(&config).expect("ready");
        let took = started.elapsed();
        let expected = BTreeMap::from([(case.state.to_owned(), (VIPS * MEMBERS) as usize)]);
        assert_eq!(states(&lab), expected, "{}", case.name);
        assert!(balancer.stop().expect("stopped").success());
        took
    };
    (0..ROUNDS).map(round).collect()
}

fn main() {
    println!("{VIPS} VIPs × {MEMBERS} members, from the start to `ready`");
    for case in &CASES {
        let mut took = measure(case);
        took.sort();
        println!("{:22} {:8.2?}  longest {:8.2?}", case.name, took[ROUNDS / 2], took[ROUNDS - 1]);
    }
}
