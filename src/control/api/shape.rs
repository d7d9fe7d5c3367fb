//! The JSON that the API answers with, and its clients read. Keys are stable: more may come, none goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::change::Change;
use crate::control::state::Edits;
use crate::control::time::rfc3339;

/// `GET /v1/status`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's.
    pub version: String,
    /// `[node] name`.
    pub node: Option<String>,
    /// Counts changes of the configuration, across restarts.
    pub revision: u64,
    /// Whole seconds since the daemon was ready.
    pub uptime_seconds: u64,
    /// Those that are served.
    pub interfaces: Vec<Interface>,
    /// The connection table.
    pub flows: Flows,
    /// One per queue.
    pub workers: Vec<Worker>,
    /// How many VIPs there are, and how many of them are up.
    pub vips: UpOf,
    /// How many pools there are, and how many of them are up.
    pub pools: UpOf,
    /// How many members there are, and how many of them are up.
    pub members: UpOf,
    /// What is wrong, in words; the gravest first.
    pub problems: Vec<String>,
    /// What is not wrong, but not as usual: members that get nothing on purpose, changes that the startup file does not
    /// have.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How many of something are up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpOf {
    /// So many.
    pub up: usize,
    /// Of so many.
    pub total: usize,
}

/// An interface that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// `zero-copy` or `copy`.
    pub copy_mode: String,
    /// How many it has.
    pub queues: u32,
}

/// How full the connection table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Over IPv4.
    pub v4: u64,
    /// Over IPv6.
    pub v6: u64,
    /// So many fit.
    pub capacity_v4: u64,
    /// So many fit.
    pub capacity_v6: u64,
}

/// `GET /v1/workers`: an array of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// From 0.
    pub id: usize,
    /// The core that it is pinned to.
    pub core: usize,
    /// The queues that it serves.
    pub ports: Vec<Port>,
    /// Packets received.
    pub packets: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Packets sent.
    pub transmitted: u64,
    /// Packets dropped, by reason (docs/drops.md); reasons that have not occurred are left out.
    pub drops: BTreeMap<String, u64>,
    /// Times that it went to sleep.
    pub sleeps: u64,
}

/// A queue of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub interface: String,
    /// From 0.
    pub queue: u32,
}

/// `GET /v1/vips`: an array of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its port, or `"any"`.
    pub port: PortOrAny,
    /// Its pool's name.
    pub pool: String,
    /// The pool's: how packets get to members.
    pub forward: String,
    /// The pool's: how members are chosen.
    pub scheduler: String,
    /// As configured.
    pub enabled: bool,
    /// `up`; `down`: nobody serves it; `disabled`.
    pub state: String,
    /// Why it is not up, or what is wrong with its pool although it is; null if nothing is.
    pub reason: Option<String>,
    /// Flows in the connection table.
    pub active_flows: u64,
    /// Flows that began since the start.
    pub new_flows: u64,
    /// Packets received for it since the start.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A port, or any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortOrAny {
    /// This one.
    Port(u16),
    /// `"any"`.
    Any(String),
}

/// `GET /v1/pools`: an array of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How packets get to members.
    pub forward: String,
    /// How members are chosen.
    pub scheduler: String,
    /// What becomes of flows whose member is lost.
    pub on_member_down: String,
    /// The VIPs that use it.
    pub vips: Vec<String>,
    /// Its members, as in `GET /v1/members`.
    pub members: Vec<Member>,
    /// How many monitors it has.
    pub monitors: usize,
    /// `up`; `backup`: its backups serve, too; `below_quorum`: those that are left serve; `sorry`: its sorry pool serves;
    /// `down`: nobody serves.
    pub state: String,
    /// Why it is not up; null if it is.
    pub reason: Option<String>,
    /// When it came to be so (RFC 3339, UTC).
    pub since: String,
    /// How many members are up.
    pub up: usize,
    /// How many members may get new flows: those that are up, and those that start and count as that.
    pub usable: u32,
    /// So many must be usable.
    pub quorum: u32,
    /// The pool that serves when this one has lost its quorum.
    pub sorry_pool: Option<String>,
    /// Flows of its members together.
    pub active_flows: u64,
}

/// `GET /v1/members`: an array of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its pool's name.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its port, else that of its VIPs if they have one in common; null on any port.
    pub port: Option<u16>,
    /// Its configured weight; while it drains it counts as 0.
    pub weight: u16,
    /// Whether it may get new flows.
    pub enabled: bool,
    /// Whether it was told to drain; its weight is remembered meanwhile.
    pub drain: bool,
    /// `up`, `down`, `drain`, `disabled`, `unresolved`, or `starting` until its monitors know.
    pub state: String,
    /// Why it is not up; null if it is.
    pub reason: Option<String>,
    /// When it came to be so (RFC 3339, UTC).
    pub since: String,
    /// How much it takes of its share of new flows: 1; less in slow start; 0 if it gets none.
    pub share: f64,
    /// Flows in the connection table that are not closing.
    pub active_flows: u64,
    /// Flows that are closing.
    pub inactive_flows: u64,
    /// Flows that began since the start.
    pub new_flows: u64,
    /// Packets sent to it since the start.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// `GET /v1/config`: the configuration that rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Which change of it this is.
    pub revision: u64,
    /// `file`: the startup file, as it was when it last ruled; `applied`: what was applied at run time.
    pub source: String,
    /// The startup file.
    pub file: String,
    /// The text (TOML), without the edits.
    pub text: String,
    /// What was edited of it, by `POOL/MEMBER`; what was not is left out.
    pub edits: Edits,
}

/// What a change came to, or would.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Applied {
    /// The revision that rules now.
    pub revision: u64,
    /// In one line.
    pub summary: String,
    /// As a table.
    pub plan: String,
    /// Every difference.
    pub change: Change,
}

/// `PATCH /v1/members/{pool}/{name}`: what is to be another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberPatch {
    /// 0 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Whether it may get new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether it drains: gets nothing new, and has its weight again afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
}

/// `GET /v1/flows`: a line for each of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// The client's address.
    pub client: String,
    /// The client's port.
    pub client_port: u16,
    /// The VIP's name; empty if it has been removed.
    pub vip: String,
    /// The VIP's port, or the one that the client chose on a VIP on any port.
    pub port: Option<u16>,
    /// `POOL/MEMBER`; empty if it has been removed.
    pub member: String,
    /// `embryonic`, `established` or `closing` (TCP); `single` or `stream` (UDP).
    pub state: String,
    /// Since the flow was last written down: up to 1/32 of its timeout more than since its last packet.
    pub idle_seconds: f64,
}

/// `GET /v1/events`: a line for each of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts events, from the milliseconds from 1970 to the daemon's start on: a later one's is always above. 0 for a line
    /// that stands for events that were lost.
    pub id: u64,
    /// When (RFC 3339, UTC).
    pub time: String,
    /// `daemon`, `config`, `vip`, `pool`, `member`, `interface`, `problem`; `lost`: the reader was too slow.
    pub kind: String,
    /// What it happened to.
    pub subject: String,
    /// What it was before, if it was something.
    pub from: Option<String>,
    /// What it is now.
    pub to: Option<String>,
    /// Why, in words.
    pub reason: String,
}

impl Event {
    /// Stands for so many.
    pub fn lost(count: u64) -> Self {
        let time = rfc3339(std::time::SystemTime::now());
        let reason = format!("{count} events came faster than they were read");
        Self { id: 0, time, kind: "lost".into(), subject: String::new(), from: None, to: None, reason }
    }
}

/// `GET /v1/monitors`: an array of these, one for each member that a monitor looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Monitor {
    /// The pool's name.
    pub pool: String,
    /// The member's name.
    pub member: String,
    /// `ping`, `tcp`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is called; no two of a pool have the same name: `tcp :8080`, `http /health`.
    pub name: String,
    /// The port that it looks at, if it is one.
    pub port: Option<u16>,
    /// `up`, `down`, or `unknown` before the first result.
    pub state: String,
    /// What the last check found.
    pub reason: String,
    /// Since when it has been in this state (RFC 3339, UTC).
    pub since: String,
    /// How long the last check took.
    pub last_milliseconds: Option<f64>,
    /// Half of the checks took no longer.
    pub p50_milliseconds: Option<f64>,
    /// 99 of 100 checks took no longer.
    pub p99_milliseconds: Option<f64>,
    /// Checks that counted.
    pub checks: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that this host could not make.
    pub skipped: u64,
}
