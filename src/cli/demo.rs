//! `pointsman demo`: a lab of network namespaces, real HTTP traffic through a VIP, and a verdict.

mod outcome;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::RangedU64ValueParser;
use tokio::signal::unix::{SignalKind, signal};

use self::outcome::{Outcome, Packets, grouped};
use super::{EXIT_CANNOT_RUN, EXIT_NOT_SO};
use crate::lab::{Lab, LabError, Load, MEMBERS_MAX, Process, Progress, Service, Topology, wait_until};

/// Wrong usage, as clap's own errors exit.
const EXIT_USAGE: u8 = 2;
/// The load's bound in seconds: the demo is to end within a minute, building and stopping included.
const LIMIT_SECONDS: u64 = 45;
/// Connections per second that any machine should manage, also when more are asked for than fit into a minute.
const SLOWEST_RATE: u64 = 500;
/// A line that has been written is read at once, unless this machine is very busy.
const LOG_WITHIN: Duration = Duration::from_secs(2);
/// Connections at a time: keeps every member busy, and no accept queue long.
const CONCURRENCY: u64 = 64;

/// Options of `demo`.
#[derive(clap::Args)]
pub struct DemoArguments {
    /// HTTP requests to send, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = RangedU64ValueParser::<u64>::new().range(1000..=1_000_000))]
    requests: u64,
    /// Members behind the VIP [default: as many as there are weights, else 3]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MEMBERS_MAX as u64))]
    members: Option<usize>,
    /// The members' weights [default: 1 each]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Vec<u16>,
    /// Queues of the balancer's interface, each with a worker of its own
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
    match run(arguments, weights) {
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
fn run(arguments: &DemoArguments, weights: Vec<u16>) -> anyhow::Result<bool> {
    let mut screen = Screen::new(arguments.json);
    let topology = Topology { members: weights.len(), queues: arguments.queues, ..Topology::default() };
    screen.line("Building a lab of network namespaces; all of it vanishes with this command.");
    let lab = Lab::build(&topology)?;
    let servers = lab.spawn_member_servers()?;
    screen.line(&picture(&topology, &weights));
    let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&weights)]))?;
    // What it logged before it said `ready` comes through another pipe, perhaps a moment later.
    wait_until(LOG_WITHIN, || attached(&balancer).len() >= arguments.queues);
    let attached = attached(&balancer);
    screen.line("The balancer says:");
    for line in &attached {
        screen.line(&format!("  {line}"));
    }

    let limit_seconds = LIMIT_SECONDS.max(arguments.requests / SLOWEST_RATE);
    let load = Load { connections: arguments.requests, concurrency: CONCURRENCY, limit_seconds, ..lab.get() };
    let (vip, total) = (load.target, grouped(load.connections));
    screen.line(&format!("\nSending {total} HTTP requests to http://{vip}/, each on a connection of its own."));
    let before = Packets::count(&lab)?;
    let report = lab.client_load_with(&load, |progress| screen.progress(progress, load.connections))?;
    screen.progress_done();
    let packets = Packets::count(&lab)?.since(&before);

    let kept_ok = arguments.keep.then(|| balancer.status().is_none());
    let stopped = match kept_ok {
        // It goes on running, so that is what can be said about it.
        Some(running) => running.then_some("still running".to_owned()).ok_or("it has ended".to_owned()),
        None => stop(&mut balancer)?,
    };
    let outcome = Outcome { load, weights, report, packets, attached, stopped };
    if arguments.json {
        println!("{:#}", outcome.json());
    } else {
        print!("{}", outcome.text(screen.colours));
    }
    if arguments.keep {
        keep(&lab, &mut screen)?;
    }
    drop(servers);
    Ok(outcome.all_held())
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

fn picture(topology: &Topology, weights: &[u16]) -> String {
    let clients = topology.client_addresses();
    let mut lines = vec![format!(
        "\n  client {} … {} ── gateway ──┬── balancer {} (pointsman run, {} queue{})",
        clients[0],
        clients[clients.len() - 1],
        Topology::BALANCER,
        topology.queues,
        if topology.queues == 1 { "" } else { "s" },
    )];
    let indent = lines[0].chars().take_while(|c| *c != '┬').count() - 1;
    for (index, weight) in weights.iter().enumerate() {
        let corner = if index + 1 == weights.len() { '└' } else { '├' };
        let (name, address) = (Topology::member_name(index), topology.member_address(index));
        lines.push(format!("{:indent$}{corner}── {name} {address}, weight {weight}", ""));
    }
    lines.push(format!(
        "  VIP {}:80 (TCP, maglev, direct routing): the balancer answers ARP for it, members have it on lo.\n",
        Topology::VIP
    ));
    lines.join("\n")
}

/// Says how to look around, and waits for Ctrl-C.
fn keep(lab: &Lab, screen: &mut Screen) -> anyhow::Result<()> {
    screen.line("\nThe lab stays until Ctrl-C. Look around with, for example:");
    for namespace in lab.namespaces() {
        screen.line(&format!("  nsenter --net={}   # {}", namespace.path().display(), namespace.name()));
    }
    let client = lab.client().path();
    screen.line(&format!("  nsenter --net={} curl http://{}/", client.display(), Topology::VIP));
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
}
