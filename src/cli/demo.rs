//! `pointsman demo`: a lab of network namespaces, real HTTP traffic through a VIP for each method of forwarding, and a verdict.
//!
//! - `plan`: the VIPs, and how many requests each gets
//! - `served`: what was measured at one VIP
//! - `incident`: what is done to the balancer and its members meanwhile
//! - `outcome`: everything together, for people and for programs
//! - `check`: one thing that must hold

mod check;
mod incident;
mod outcome;
mod plan;
mod served;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::RangedU64ValueParser;
use tokio::signal::unix::{SignalKind, signal};

use self::incident::{can_spare, happen};
use self::outcome::Outcome;
use self::plan::{Forward, Method, Part};
use self::served::{Packets, Served};
use super::{EXIT_CANNOT_RUN, EXIT_NOT_SO};
use crate::lab::{
    Decapsulation, Lab, LabError, Layout, Load, MEMBERS_MAX, Process, Progress, Service, Topology, wait_until,
};

/// Wrong usage, as clap's own errors exit.
const EXIT_USAGE: u8 = 2;
/// The bound in seconds of all that is sent: the demo is to end within a minute, building and stopping included.
const LIMIT_SECONDS: u64 = 45;
/// Connections per second that any machine should manage, also when more are asked for than fit into a minute.
const SLOWEST_RATE: u64 = 750;
/// A line that has been written is read at once, unless this machine is very busy.
const LOG_WITHIN: Duration = Duration::from_secs(2);
/// Connections at a time: keeps every member busy, and no accept queue long.
const CONCURRENCY: u64 = 64;

/// Options of `demo`.
#[derive(clap::Args)]
pub struct DemoArguments {
    /// HTTP requests to send, 1000 to 1000000, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = RangedU64ValueParser::<u64>::new().range(1000..=1_000_000))]
    requests: u64,
    /// How requests reach the members; with both, a third of them goes by IPIP
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = Forward::Both)]
    forward: Forward,
    /// Members behind each VIP [default: as many as there are weights, else 3]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MEMBERS_MAX as u64))]
    members: Option<usize>,
    /// The members' weights [default: 1 each]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Vec<u16>,
    /// Queues of each of the balancer's two interfaces, each pair with a worker of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=16))]
    queues: usize,
    /// Keep the lab until Ctrl-C, and say how to look around in it
    #[arg(long)]
    keep: bool,
    /// Print nothing but the outcome, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the demo: 0 if all went as it should, 1 if not, 3 if this machine cannot run it.
pub fn demo(arguments: &DemoArguments) -> ExitCode {
    let weights = match weights(arguments) {
        Ok(weights) => weights,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(arguments, &weights) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NOT_SO),
        Err(error) => {
            eprintln!("pointsman demo: {error:#}");
            let cannot_run = error.downcast_ref::<LabError>().is_some_and(cannot_run_here);
            ExitCode::from(if cannot_run { EXIT_CANNOT_RUN } else { EXIT_NOT_SO })
        }
    }
}

fn cannot_run_here(error: &LabError) -> bool {
    let balancer_cannot =
        matches!(error, LabError::NotReady { exit_code: Some(code), .. } if *code == i32::from(EXIT_CANNOT_RUN));
    balancer_cannot || error.cannot_run_here()
}

fn weights(arguments: &DemoArguments) -> Result<Vec<u16>, String> {
    let DemoArguments { members, weights, .. } = arguments;
    if weights.is_empty() {
        return Ok(vec![1; members.unwrap_or(3)]);
    }
    if weights.len() > MEMBERS_MAX {
        return Err(format!("--weights: {} members, at most {MEMBERS_MAX} fit", weights.len()));
    }
    if weights.iter().all(|weight| *weight == 0) {
        return Err("--weights: all are 0, nobody would serve".to_owned());
    }
    match members {
        Some(members) if *members != weights.len() => {
            Err(format!("--members {members} with {} weights: say as many weights as members", weights.len()))
        }
        _ => Ok(weights.clone()),
    }
}

/// Builds, sends, measures, tells; `Ok(false)` if something was not as it should be.
fn run(arguments: &DemoArguments, weights: &[u16]) -> anyhow::Result<bool> {
    let mut screen = Screen::new(arguments.json);
    let parts = arguments.forward.parts(arguments.requests);
    let topology = topology(&parts, weights.len(), arguments.queues);
    screen.line("Building a lab of network namespaces; all of it vanishes with this command.");
    let lab = Lab::build(&topology)?;
    let mut servers = lab.spawn_member_servers()?;
    screen.line(&picture(&lab, &parts, weights));
    let services: Vec<Service> = parts.iter().map(|part| part.service(weights)).collect();
    let mut balancer = lab.spawn_balancer(&lab.config(&services))?;
    // What it logged before it said `ready` comes through another pipe, perhaps a moment later.
    let sockets = arguments.queues * topology.layout.balancer_interfaces().len();
    wait_until(LOG_WITHIN, || attached(&balancer).len() >= sockets);
    let attached = attached(&balancer);
    screen.line("The balancer says:");
    for line in &attached {
        screen.line(&format!("  {line}"));
    }

    screen.line("");
    let mut served = Vec::new();
    for part in &parts {
        let limit_seconds = limit_seconds(*part, arguments.requests);
        served.push(send(&lab, *part, limit_seconds, weights, &mut screen)?);
    }
    screen.line("");
    let incident = if let Some(members) = can_spare(weights) {
        Some(happen(&lab, (parts[0], &services), members, &mut servers, &screen)?)
    } else {
        screen.line("Nobody is killed or drained: that takes two members that get requests.");
        None
    };
    screen.line("");

    let kept_ok = arguments.keep.then(|| balancer.status().is_none());
    let stopped = match kept_ok {
        // It goes on running, so that is what can be said about it.
        Some(running) => running.then_some("still running".to_owned()).ok_or("it has ended".to_owned()),
        None => stop(&mut balancer)?,
    };
    let outcome = Outcome { served, incident, concurrency: CONCURRENCY, attached, stopped };
    if arguments.json {
        println!("{:#}", outcome.json());
    } else {
        print!("{}", outcome.text(screen.colours));
    }
    if arguments.keep {
        keep(&lab, &parts, &mut screen)?;
    }
    drop(servers);
    Ok(outcome.all_held())
}

/// Two interfaces: the same members are on-link by the second, as direct routing needs, and at the end of tunnels.
fn topology(parts: &[Part], members: usize, queues: usize) -> Topology {
    let tunnels = parts.iter().any(|part| part.method == Method::Ipip);
    Topology {
        layout: Layout::TwoArmed,
        members,
        queues,
        vips: parts.iter().map(|part| part.method.vip()).collect(),
        decapsulation: if tunnels { Decapsulation::Any } else { Decapsulation::Nobody },
        ..Topology::default()
    }
}

/// A part's part of the time.
fn limit_seconds(part: Part, requests: u64) -> u64 {
    let all = LIMIT_SECONDS.max(requests / SLOWEST_RATE);
    (all * part.requests / requests).max(1)
}

/// Sends one VIP's requests, and counts what went where.
fn send(lab: &Lab, part: Part, limit_seconds: u64, weights: &[u16], screen: &mut Screen) -> anyhow::Result<Served> {
    let Part { method, requests } = part;
    let target = part.target();
    let load = Load { target, connections: requests, concurrency: CONCURRENCY, limit_seconds, ..lab.get() };
    let total = grouped(requests);
    screen.line(&format!("Sending {total} HTTP requests to http://{target}/, each on a connection of its own."));
    screen.progress_begins();
    let before = Packets::count(lab)?;
    let report = lab.client_load_with(&load, |progress| screen.progress(progress, requests))?;
    screen.progress_done();
    let packets = Packets::count(lab)?.since(&before);
    let decapsulated_by = if method == Method::Ipip { decapsulators(lab) } else { None };
    Ok(Served { method, load, weights: weights.to_vec(), report, packets, decapsulated_by })
}

/// What takes members' requests out of their tunnels: the same for all of them, unless something is odd here.
fn decapsulators(lab: &Lab) -> Option<String> {
    let each = (0..lab.topology().members).filter_map(|index| lab.decapsulating(index));
    let different: BTreeSet<String> = each.map(ToString::to_string).collect();
    (!different.is_empty()).then(|| different.into_iter().collect::<Vec<_>>().join("; "))
}

/// What the balancer logged about its interfaces: modes that were achieved, not those that were wished for.
fn attached(balancer: &Process) -> Vec<String> {
    let log = balancer.log();
    let messages = log.iter().filter(|line| line.contains("attached "));
    // A line is `TIME LEVEL MESSAGE`.
    messages.map(|line| line.find("attached ").map_or(line.as_str(), |start| &line[start..]).to_owned()).collect()
}

/// Asks the balancer to end: that it does so by itself, and well, is part of the outcome.
fn stop(balancer: &mut Process) -> anyhow::Result<Result<String, String>> {
    let status = balancer.stop()?;
    if status.success() {
        return Ok(Ok("stopped on SIGTERM with exit code 0".to_owned()));
    }
    let last: Vec<String> = balancer.log().into_iter().rev().take(3).rev().collect();
    Ok(Err(format!("{status}; its last words: {}", last.join(" / "))))
}

fn picture(lab: &Lab, parts: &[Part], weights: &[u16]) -> String {
    let topology = lab.topology();
    let clients = topology.client_addresses();
    let way = format!("\n  client {} … {} ── gateway ──", clients[0], clients[clients.len() - 1]);
    let indent = way.trim_start_matches('\n').chars().count();
    let mut lines = vec![
        format!("{way}┬── eth0 {} balancer (pointsman run, workers: {})", Topology::BALANCER, topology.queues),
        format!("{:indent$}│", ""),
        format!("{:indent$}└──┬── eth1 {} balancer", "", Topology::BALANCER_BACK_SIDE),
    ];
    let indent = indent + "└──".chars().count();
    for (index, weight) in weights.iter().enumerate() {
        let corner = if index + 1 == weights.len() { '└' } else { '├' };
        let (name, address) = (Topology::member_name(index), topology.member_address(index));
        lines.push(format!("{:indent$}{corner}── {name} {address}, weight {weight}", ""));
    }
    lines.push(
        "\n  Requests go in by eth0 and out by eth1; members answer by the gateway, around the balancer.".to_owned(),
    );
    for part in parts {
        lines.push(format!("  VIP {} (TCP, maglev) by {}", part.target(), part.method.described()));
    }
    lines.push("  The balancer answers ARP for VIPs, members have them on lo.".to_owned());
    if let Some(by) = decapsulators(lab) {
        lines.push(format!("  Members decapsulate with {by}."));
    }
    lines.join("\n") + "\n"
}

/// Says how to look around, and waits for Ctrl-C.
fn keep(lab: &Lab, parts: &[Part], screen: &mut Screen) -> anyhow::Result<()> {
    screen.line("\nThe lab stays until Ctrl-C. Look around with, for example:");
    for namespace in lab.namespaces() {
        screen.line(&format!("  nsenter --net={}   # {}", namespace.path().display(), namespace.name()));
    }
    let client = lab.client().path();
    for part in parts {
        screen.line(&format!("  nsenter --net={} curl http://{}/", client.display(), part.target()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("waiting for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

/// Where the demo talks: one redrawn progress line on a terminal, plain lines in a pipe, nothing before the end in JSON.
struct Screen {
    silent: bool,
    redraws: bool,
    colours: bool,
    next_line_at_ms: u64,
}

/// Between two progress lines in a pipe.
const PLAIN_LINE_EVERY_MS: u64 = 1000;

impl Screen {
    fn new(silent: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { silent, redraws: terminal && !silent, colours: terminal && !no_color, next_line_at_ms: 0 }
    }

    fn line(&self, text: &str) {
        if !self.silent {
            // Nobody reads: the outcome is still the exit code.
            let _ = writeln!(io::stdout(), "{text}");
        }
    }

    fn progress_begins(&mut self) {
        self.next_line_at_ms = 0;
    }

    fn progress(&mut self, progress: &Progress, total: u64) {
        let Progress { connections, failures, elapsed_ms, .. } = *progress;
        let rate = connections * 1000 / elapsed_ms.max(1);
        let text = format!("{} of {}, {} failed, {}/s", grouped(connections), grouped(total), failures, grouped(rate));
        if self.redraws {
            const WIDTH: u64 = 30;
            let filled = ((connections + failures) * WIDTH / total.max(1)).min(WIDTH) as usize;
            let bar = "━".repeat(filled) + &"·".repeat(WIDTH as usize - filled);
            let _ = write!(io::stdout(), "\r\x1b[K  {bar} {text}");
            let _ = io::stdout().flush();
        } else if elapsed_ms >= self.next_line_at_ms {
            self.next_line_at_ms = elapsed_ms + PLAIN_LINE_EVERY_MS;
            self.line(&format!("  {text}"));
        }
    }

    fn progress_done(&self) {
        if self.redraws {
            let _ = write!(io::stdout(), "\r\x1b[K");
        }
    }
}

/// `1234567` as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn per_second(count: u64, elapsed_ms: u64) -> u64 {
    count * 1000 / elapsed_ms.max(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Demo {
        #[command(flatten)]
        arguments: DemoArguments,
    }

    fn weights_of(options: &[&str]) -> Result<Vec<u16>, String> {
        weights(&Demo::parse_from(["demo"].iter().chain(options)).arguments)
    }

    #[test]
    fn members_and_weights_agree() {
        assert_eq!(weights_of(&[]), Ok(vec![1, 1, 1]));
        assert_eq!(weights_of(&["--members", "2"]), Ok(vec![1, 1]));
        assert_eq!(weights_of(&["--weights", "1,2,0,5"]), Ok(vec![1, 2, 0, 5]));
        assert_eq!(weights_of(&["--weights", "1,2", "--members", "2"]), Ok(vec![1, 2]));
        let disagree = "--members 3 with 2 weights: say as many weights as members";
        assert_eq!(weights_of(&["--weights", "1,2", "--members", "3"]), Err(disagree.to_owned()));
        assert_eq!(weights_of(&["--weights", "0,0"]), Err("--weights: all are 0, nobody would serve".to_owned()));
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn parts_share_the_time() {
        let limits =
            |requests| Forward::Both.parts(requests).into_iter().map(move |part| limit_seconds(part, requests));
        assert!(limits(30_000).eq([30, 15]));
        assert!(limits(600_000).eq([533, 266]));
    }
}
