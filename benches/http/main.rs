//! HTTP requests a second through pointsman, beside `HAProxy` in TCP mode and nginx's stream module.
//!
//! `cargo bench --bench http` (root; ip, ethtool, util-linux; haproxy and nginx where installed); `-- --help` lists the
//! options. It works in the lab's network namespaces, with the kernel's TCP in all of them, and ends by itself.
//! `benches/README.md` says what is measured, how, and what that does not show.
//!
//! - `exchange`: the request and its answer
//! - `client`, `server`: both ends, as processes of this program
//! - `balancer`: the contenders, and what is between
//! - `rounds`: the measurement, and what it prints

mod balancer;
mod client;
mod exchange;
mod rounds;
mod server;

// The end-to-end bench's.
#[path = "../end_to_end/cpu.rs"]
mod cpu;
#[path = "../end_to_end/installed.rs"]
mod installed;
#[path = "../end_to_end/statistics.rs"]
mod statistics;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use pointsman::lab::{Lab, Topology};

use balancer::{Balancer, Member, PORT};
use rounds::{Plan, Report};

/// HTTP requests a second through pointsman, beside haproxy in TCP mode and nginx's stream module
#[derive(Debug, Parser)]
#[command(name = "http")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Whom to compare pointsman with; may be repeated [default: haproxy, nginx]. One that is not installed is skipped
    #[arg(long, value_enum)]
    against: Vec<Balancer>,
    /// Rounds; in each, everybody has a turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Milliseconds that are measured
    #[arg(long, default_value_t = 1500)]
    window: u64,
    /// Milliseconds of traffic before that
    #[arg(long, default_value_t = 500)]
    warm_up: u64,
    /// Keep-alive connections, each with one request under way
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Bytes of each answer's body
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=exchange::BODY_MAX as i64))]
    body: u32,
    /// Members, a process each
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    members: u32,
    /// The balancer's CPU; clients and members use all
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// What cargo says to a bench; without it nothing is measured, so that `cargo test` is quick
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The client's process.
    #[command(hide = true)]
    Client(client::Arguments),
    /// A member's process.
    #[command(hide = true)]
    Server(server::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Client(told)) => client::run(told).map(|()| true),
        Some(Role::Server(told)) => server::run(told).map(|()| true),
        None if arguments.bench => bench(&arguments),
        None => {
            println!("nothing is measured without --bench: cargo bench --bench http");
            Ok(true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("http: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures; says whether no request failed.
fn bench(arguments: &Arguments) -> Result<bool> {
    ensure!(!arguments.against.contains(&Balancer::Pointsman), "--against: pointsman is not compared with itself");
    let wanted = if arguments.against.is_empty() { &[Balancer::Haproxy, Balancer::Nginx] } else { &*arguments.against };
    let mut balancers = vec![Balancer::Pointsman];
    for &other in wanted {
        match other.missing() {
            Some(reason) => eprintln!("http: {} is skipped: {reason}", other.name()),
            None => balancers.push(other),
        }
    }
    let lab = Lab::build(&Topology {
        members: arguments.members as usize,
        client_addresses: 1,
        program: env!("CARGO_BIN_EXE_pointsman").into(),
        ..Topology::default()
    })?;
    let members: Vec<_> = (0..arguments.members as usize).map(|index| serve(&lab, index, arguments)).collect();
    let members = members.into_iter().collect::<Result<Vec<_>>>()?;
    let plan = Plan {
        rounds: arguments.rounds,
        warm_up: std::time::Duration::from_millis(arguments.warm_up),
        window: std::time::Duration::from_millis(arguments.window),
        connections: arguments.connections,
        body: arguments.body,
        cpu: arguments.cpu,
    };
    let report = rounds::run(&lab, &balancers, &plan)?;
    drop(members);
    show(&report, arguments.json);
    Ok(report.failures() == 0)
}

fn serve(lab: &Lab, index: usize, arguments: &Arguments) -> Result<Member> {
    let mut command = lab.member(index).command(std::env::current_exe()?);
    command.args(["server", "--port", &PORT.to_string(), "--body", &arguments.body.to_string()]);
    Member::start(lab, index, command)
}

fn show(report: &Report, json: bool) {
    if json {
        println!("{}", report.json());
    } else {
        report.print();
    }
}
