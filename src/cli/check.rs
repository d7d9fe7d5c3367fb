//! `pointsman check FILE`: validates a configuration and shows what it would do.
//!
//! Needs neither root nor the machine that the configuration is for.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::output::print;
use crate::control::model::{
    ConfigError, Forward, Member, Model, OnMemberDown, Pool, Protocol, Scheduler, Vip, VipPort, spelt,
};

mod monitors;

/// What `check` is asked.
#[derive(clap::Args)]
pub struct CheckArguments {
    #[command(flatten)]
    config: super::ConfigArgument,
    /// Print JSON with stable keys instead of text
    #[arg(long)]
    json: bool,
}

/// Prints a summary and succeeds, or prints every error and fails.
pub fn check(arguments: &CheckArguments) -> ExitCode {
    let result = Model::load(arguments.config.path());
    match &result {
        Ok(model) if arguments.json => print(&json(&Report::of_model(model))),
        Ok(model) => print(&format!("{}: valid\n\n{}", arguments.config.path().display(), summary(model))),
        Err(errors) => {
            if arguments.json {
                print(&json(&Report::of_errors(errors)));
            }
            print_errors(errors);
            ExitCode::from(super::EXIT_NOT_SO)
        }
    }
}

/// Prints every error on a line of its own, and their number.
fn print_errors(errors: &[ConfigError]) {
    let mut text = String::new();
    for error in errors {
        let _ = writeln!(text, "{error}");
    }
    let _ = writeln!(text, "{}", counted(errors.len(), "error"));
    // Nothing is left to be done when nobody reads it: the exit code still says it.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn json(report: &Report<'_>) -> String {
    serde_json::to_string_pretty(report).map_or_else(|error| format!("{error}\n"), |text| text + "\n")
}

/// The configuration in the order of a packet's walk: in by an interface, to a VIP, to a member.
fn summary(model: &Model) -> String {
    let mut text = String::new();
    let node = &model.node;
    let dataplane = &model.dataplane;
    let cores = dataplane.cores.as_ref().map_or_else(
        || "spread over the allowed ones".to_owned(),
        |cores| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    );
    let idle = if dataplane.busy_poll { "polls without sleeping" } else { "sleeps when idle" };
    let interfaces: Vec<&str> = model.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let _ = writeln!(text, "node       {}", node.name.as_deref().unwrap_or("named after the host"));
    let _ = writeln!(text, "state      {}", node.state_dir.display());
    let _ = writeln!(text, "interface  {}", interfaces.join(", "));
    let _ = writeln!(text, "xdp        mode {}, zero-copy {}, {idle}", dataplane.xdp_mode, dataplane.zero_copy);
    let _ = writeln!(text, "cores      {cores}");
    if model.pools.iter().any(|pool| pool.forward == Forward::Ipip) {
        let source = dataplane
            .tunnel_source
            .map_or_else(|| "the address that the route to each member has".to_owned(), |source| source.to_string());
        let _ = writeln!(text, "tunnels    from {source}");
    }
    let _ = writeln!(text);

    let width = model.vips.iter().map(|vip| vip.name.len()).max().unwrap_or(0);
    for vip in &model.vips {
        let _ = writeln!(text, "VIP {:width$}  {}", vip.name, vip_line(vip, &model.pools[vip.pool]));
    }
    for (index, pool) in model.pools.iter().enumerate() {
        let users: Vec<&str> = model.vips.iter().filter(|vip| vip.pool == index).map(|vip| vip.name.as_str()).collect();
        let users = if users.is_empty() { "used by no VIP".to_owned() } else { format!("for {}", users.join(", ")) };
        let lost = match pool.on_member_down {
            OnMemberDown::Reselect => "",
            OnMemberDown::Keep => ", keeps flows of members that are down",
            OnMemberDown::Drop => ", drops flows of members that are down",
        };
        let _ = writeln!(text, "\npool {}: {}, {users}{lost}", pool.name, counted(pool.members.len(), "member"));
        text.push_str(&member_lines(pool));
        text.push_str(&monitors::lines(model, &pool.policy));
    }
    text
}

fn vip_line(vip: &Vip, pool: &Pool) -> String {
    format!(
        "{} {} port {} -> pool {} by {}, scheduler {}, announce {}{}{}",
        vip.address,
        vip.protocol,
        vip.port,
        pool.name,
        pool.forward,
        pool.scheduler,
        vip.announce,
        limits(vip),
        if vip.enabled { "" } else { ", disabled" },
    )
}

/// What few VIPs ask for.
fn limits(vip: &Vip) -> String {
    let mut text = String::new();
    if let Some(persistence) = vip.persistence {
        let _ = write!(text, ", persistent /{} for {}s", persistence.netmask, persistence.timeout.as_secs());
    }
    if let Some(limit) = vip.connection_limit {
        let _ = write!(text, ", at most {limit} connections");
    }
    if vip.one_packet {
        text.push_str(", one packet");
    }
    text
}

fn member_lines(pool: &Pool) -> String {
    let mut text = String::new();
    let names = pool.members.iter().map(|member| member.name.len()).max().unwrap_or(0);
    let whole = total_weight(pool);
    for member in &pool.members {
        let port = member.port.map_or_else(|| "VIP's port".to_owned(), |port| format!("port {port}"));
        let _ = writeln!(
            text,
            "  {:names$}  {:15}  {port:10}  weight {:5}  {:5.1} %{}",
            member.name,
            member.address.to_string(),
            member.weight,
            share_percent(member, pool.scheduler, whole),
            match (member.enabled, member.backup) {
                (false, _) => "  disabled",
                (true, true) => "  backup",
                (true, false) => "",
            },
        );
    }
    if whole == 0 {
        text.push_str("  no member is enabled with a weight above 0: this pool gets no traffic\n");
    }
    text
}

/// The sum of the weights that count.
fn total_weight(pool: &Pool) -> u64 {
    pool.members.iter().map(|member| effective_weight(member, pool.scheduler)).sum()
}

fn effective_weight(member: &Member, scheduler: Scheduler) -> u64 {
    match scheduler {
        _ if !member.enabled || member.backup => 0,
        // They look no further than whether it is 0.
        Scheduler::RoundRobin | Scheduler::LeastConnections => u64::from(member.weight.min(1)),
        _ => u64::from(member.weight),
    }
}

/// What part of new flows the member can expect while all enabled members are up; where flows are counted, if all last
/// equally long.
fn share_percent(member: &Member, scheduler: Scheduler, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { effective_weight(member, scheduler) as f64 * 100.0 / whole as f64 }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'m> {
    valid: bool,
    errors: Vec<ErrorReport<'m>>,
    #[serde(flatten)]
    configuration: Option<ConfigurationReport<'m>>,
}

#[derive(Serialize)]
struct ErrorReport<'m> {
    file: &'m str,
    line: Option<usize>,
    column: Option<usize>,
    key: &'m str,
    message: &'m str,
}

#[derive(Serialize)]
struct ConfigurationReport<'m> {
    node: NodeReport<'m>,
    dataplane: DataplaneReport<'m>,
    interfaces: Vec<InterfaceReport<'m>>,
    vips: Vec<VipReport<'m>>,
    pools: Vec<PoolReport<'m>>,
}

#[derive(Serialize)]
struct NodeReport<'m> {
    name: Option<&'m str>,
    state_dir: String,
    hash_seed: &'m str,
}

#[derive(Serialize)]
struct DataplaneReport<'m> {
    cores: Option<&'m [usize]>,
    xdp_mode: String,
    zero_copy: String,
    busy_poll: bool,
    tunnel_source: Option<String>,
    flows_v4: usize,
    persistence_v4: usize,
}

#[derive(Serialize)]
struct InterfaceReport<'m> {
    name: &'m str,
}

#[derive(Serialize)]
struct VipReport<'m> {
    name: &'m str,
    address: String,
    protocol: String,
    /// A number, or `"any"`.
    port: serde_json::Value,
    pool: &'m str,
    forward: String,
    scheduler: String,
    announce: String,
    persistence: Option<PersistenceReport>,
    connection_limit: Option<u32>,
    one_packet: bool,
    timeouts: TimeoutsReport,
    enabled: bool,
}

#[derive(Serialize)]
struct PersistenceReport {
    timeout: String,
    netmask: u8,
}

/// Those that the VIP's protocol has.
#[derive(Serialize)]
#[serde(untagged)]
enum TimeoutsReport {
    Tcp { tcp_established: String, tcp_syn: String, tcp_closing: String },
    Udp { udp: String },
}

impl TimeoutsReport {
    fn new(vip: &Vip) -> Self {
        let timeouts = &vip.timeouts;
        match vip.protocol {
            Protocol::Tcp => Self::Tcp {
                tcp_established: seconds(timeouts.tcp_established),
                tcp_syn: seconds(timeouts.tcp_syn),
                tcp_closing: seconds(timeouts.tcp_closing),
            },
            Protocol::Udp => Self::Udp { udp: seconds(timeouts.udp) },
        }
    }
}

/// As a configuration may have it.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

#[derive(Serialize)]
struct PoolReport<'m> {
    name: &'m str,
    forward: String,
    scheduler: String,
    on_member_down: String,
    monitors: String,
    monitor: Vec<serde_json::Value>,
    start: String,
    damping: serde_json::Value,
    quorum: u32,
    quorum_hysteresis: u32,
    sorry_pool: Option<&'m str>,
    slow_start: Option<String>,
    members: Vec<MemberReport<'m>>,
}

#[derive(Serialize)]
struct MemberReport<'m> {
    name: &'m str,
    address: String,
    port: Option<u16>,
    weight: u16,
    upper_threshold: Option<u32>,
    lower_threshold: Option<u32>,
    backup: bool,
    enabled: bool,
    share_percent: f64,
}

impl<'m> Report<'m> {
    fn of_errors(errors: &'m [ConfigError]) -> Report<'m> {
        let errors = errors
            .iter()
            .map(|error| ErrorReport {
                file: &error.file,
                line: error.position.map(|(line, _)| line),
                column: error.position.map(|(_, column)| column),
                key: &error.key,
                message: &error.message,
            })
            .collect();
        Report { valid: false, errors, configuration: None }
    }

    fn of_model(model: &'m Model) -> Report<'m> {
        let configuration = ConfigurationReport {
            node: NodeReport {
                name: model.node.name.as_deref(),
                state_dir: model.node.state_dir.display().to_string(),
                hash_seed: &model.node.hash_seed,
            },
            dataplane: DataplaneReport {
                cores: model.dataplane.cores.as_deref(),
                xdp_mode: model.dataplane.xdp_mode.to_string(),
                zero_copy: model.dataplane.zero_copy.to_string(),
                busy_poll: model.dataplane.busy_poll,
                tunnel_source: model.dataplane.tunnel_source.map(|source| source.to_string()),
                flows_v4: model.dataplane.flows_v4,
                persistence_v4: model.dataplane.persistence_v4,
            },
            interfaces: model.interfaces.iter().map(|interface| InterfaceReport { name: &interface.name }).collect(),
            vips: model.vips.iter().map(|vip| VipReport::new(vip, &model.pools[vip.pool])).collect(),
            pools: model.pools.iter().map(|pool| PoolReport::new(model, pool)).collect(),
        };
        Report { valid: true, errors: Vec::new(), configuration: Some(configuration) }
    }
}

impl<'m> VipReport<'m> {
    fn new(vip: &'m Vip, pool: &'m Pool) -> VipReport<'m> {
        VipReport {
            name: &vip.name,
            address: vip.address.to_string(),
            protocol: vip.protocol.to_string(),
            port: match vip.port {
                VipPort::Exact(port) => port.into(),
                VipPort::Any => "any".into(),
            },
            pool: &pool.name,
            forward: pool.forward.to_string(),
            scheduler: pool.scheduler.to_string(),
            announce: vip.announce.to_string(),
            persistence: vip.persistence.map(|persistence| PersistenceReport {
                timeout: seconds(persistence.timeout),
                netmask: persistence.netmask,
            }),
            connection_limit: vip.connection_limit,
            one_packet: vip.one_packet,
            timeouts: TimeoutsReport::new(vip),
            enabled: vip.enabled,
        }
    }
}

impl<'m> PoolReport<'m> {
    fn new(model: &'m Model, pool: &'m Pool) -> PoolReport<'m> {
        let whole = total_weight(pool);
        let policy = &pool.policy;
        PoolReport {
            name: &pool.name,
            forward: pool.forward.to_string(),
            scheduler: pool.scheduler.to_string(),
            on_member_down: pool.on_member_down.to_string(),
            monitors: policy.combine.to_string(),
            monitor: monitors::json(policy),
            start: policy.start.to_string(),
            damping: monitors::damping_json(policy),
            quorum: policy.quorum,
            quorum_hysteresis: policy.quorum_hysteresis,
            sorry_pool: policy.sorry_pool.map(|sorry| model.pools[sorry].name.as_str()),
            slow_start: policy.slow_start.map(spelt),
            members: pool
                .members
                .iter()
                .map(|member| MemberReport {
                    name: &member.name,
                    address: member.address.to_string(),
                    port: member.port,
                    weight: member.weight,
                    upper_threshold: member.thresholds.map(|thresholds| thresholds.upper),
                    lower_threshold: member.thresholds.and_then(|thresholds| thresholds.lower),
                    backup: member.backup,
                    enabled: member.enabled,
                    share_percent: share_percent(member, pool.scheduler, whole),
                })
                .collect(),
        }
    }
}
