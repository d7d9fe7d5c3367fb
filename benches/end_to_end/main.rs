//! End to end: what pointsman forwards per second of CPU time, beside the least that an `AF_XDP` forwarder can do, and
//! beside testpmd and nftables.
//!
//! `cargo bench --bench end_to_end` (root; clang, ip, Linux 5.18 or later); `-- --help` lists the options. It works in
//! network namespaces of its own and ends by itself. `benches/README.md` says what is measured, how, and what that
//! does not show.
//!
//! - `wire`: the namespaces, and who runs NAPI
//! - `frame`: the packet that is sent, and everybody's addresses
//! - `traffic`, `traffic.bpf.c`: generator and sink; `interrupt` ends a flood
//! - `contender`: the forwarders; `forwarder` and `rings` are the baseline, `peers` are testpmd and nftables
//! - `cpu`: whose CPU time is counted; `installed`: which programs there are
//! - `pairs`, `overload`, `idle`, `beside`: the measurements; `statistics` is their arithmetic

mod beside;
mod contender;
mod cpu;
mod forwarder;
mod frame;
mod idle;
mod installed;
mod interrupt;
mod overload;
mod pairs;
mod peers;
mod rings;
mod statistics;
mod traffic;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use contender::{Contender, Site};
use pairs::Plan;
use traffic::{Rate, Traffic};
use wire::{Placement, Way, Wire};

/// What pointsman forwards per second of CPU time, beside a minimal AF_XDP forwarder
#[derive(Debug, Parser)]
#[command(name = "end_to_end")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// What to measure; may be repeated [default: stick, ipip, two]
    #[arg(long, value_enum)]
    case: Vec<Case>,
    /// Whom to compare pointsman with; may be repeated [default: baseline]. One that is not installed is skipped
    #[arg(long, value_enum)]
    against: Vec<Contender>,
    /// Pairs of one run of each forwarder
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Also measure at these many packets a second, not only flat out; may be repeated
    #[arg(long)]
    rate: Vec<u32>,
    /// Milliseconds that are measured
    #[arg(long, default_value_t = 800)]
    window: u64,
    /// Milliseconds of traffic before that
    #[arg(long, default_value_t = 400)]
    warm_up: u64,
    /// How many flows the traffic has
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    flows: u32,
    /// How long `overload` floods and `idle` idles
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Turns of each kind in `beside`, of twenty seconds each
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Measure one forwarder alone
    #[arg(long, value_enum)]
    only: Option<Contender>,
    /// Who receives for the forwarder [default: shared; polled against testpmd]
    #[arg(long, value_enum)]
    napi: Option<Placement>,
    /// The CPU of the generator
    #[arg(long, default_value_t = 0)]
    generator_cpu: usize,
    /// The CPU of the forwarder
    #[arg(long, default_value_t = 1)]
    forwarder_cpu: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// What cargo says to a bench; without it nothing is measured, so that `cargo test` is quick
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The baseline's process.
    #[command(hide = true)]
    Forwarder(forwarder::Arguments),
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Direct routing, out of the interface that packets came in by
    Stick,
    /// IP in IP, out of the interface that packets came in by
    Ipip,
    /// Direct routing, out of a second interface
    Two,
    /// A flood for long: what is forwarded, where the rest goes, and what comes after
    Overload,
    /// No traffic: what that costs, and how long the first packet takes
    Idle,
    /// Thousands of checks, changes and questions: what they do to packets' stay
    Beside,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Forwarder(told)) => forwarder::run(told).map(|()| true),
        None if arguments.bench => bench(&arguments),
        None => {
            println!("nothing is measured without --bench: cargo bench --bench end_to_end");
            Ok(true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("end_to_end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures case by case. One that fails is reported and does not keep the others; says whether none did.
fn bench(arguments: &Arguments) -> Result<bool> {
    if arguments.generator_cpu == arguments.forwarder_cpu {
        bail!("generator and forwarder need a CPU each");
    }
    if arguments.against.contains(&Contender::Pointsman) {
        bail!("--against: pointsman is compared with others, not with itself");
    }
    interrupt::prepare()?;
    let directory = tempfile::tempdir()?;
    let site = Site {
        object: traffic::compile(directory.path())?,
        directory: directory.path().to_owned(),
        cpu: arguments.forwarder_cpu,
        placement: arguments.napi.unwrap_or(Placement::Shared),
    };
    let cases = if arguments.case.is_empty() { &[Case::Stick, Case::Ipip, Case::Two] } else { &*arguments.case };
    let (mut report, mut all_well) = (Report::default(), true);
    for &case in cases {
        if let Err(error) = measure(case, arguments, &site, &mut report) {
            eprintln!("{}: {error:#}", name_of(case));
            all_well = false;
        }
    }
    if arguments.json {
        println!("{}", json!({ "ratio": report.ratio, "cases": report.cases }));
    }
    Ok(all_well)
}

/// What `--json` prints.
#[derive(Debug, Default)]
struct Report {
    ratio: Map<String, Value>,
    cases: Map<String, Value>,
}

fn measure(case: Case, arguments: &Arguments, site: &Site, report: &mut Report) -> Result<()> {
    let way = match case {
        Case::Ipip => Way::Ipip,
        Case::Two => Way::Two,
        Case::Stick | Case::Overload | Case::Idle | Case::Beside => Way::Stick,
    };
    let wire = Wire::build(way)?;
    let mut traffic = Traffic::set_up(&site.object, &wire, arguments.flows, arguments.generator_cpu)?;
    match case {
        Case::Stick | Case::Ipip | Case::Two => {
            for against in opponents(arguments) {
                match against.missing() {
                    Some(reason) => eprintln!("{}: {} is skipped: {reason}", name_of(case), against.name()),
                    None => pairs(case, against, arguments, site, (&wire, &mut traffic), report)?,
                }
            }
            Ok(())
        }
        Case::Overload => {
            let outcome = overload::run(&wire, &mut traffic, site, arguments.seconds)?;
            report.cases.insert("overload".to_owned(), outcome.json());
            if !arguments.json {
                outcome.print();
            }
            Ok(())
        }
        Case::Beside => {
            let outcome = beside::run(&wire, site, arguments.generator_cpu, arguments.turns)?;
            report.cases.insert("beside".to_owned(), outcome.json());
            if !arguments.json {
                outcome.print();
            }
            Ok(())
        }
        Case::Idle => {
            let outcome = idle::run(&wire, &mut traffic, site, arguments.seconds)?;
            report.cases.insert("idle".to_owned(), outcome.json());
            if !arguments.json {
                outcome.print();
            }
            Ok(())
        }
    }
}

/// Whom pointsman is compared with, or who is measured alone.
fn opponents(arguments: &Arguments) -> Vec<Contender> {
    match arguments.only {
        Some(only) if only != Contender::Pointsman => vec![only],
        _ if arguments.against.is_empty() => vec![Contender::Baseline],
        _ => arguments.against.clone(),
    }
}

fn pairs(
    case: Case,
    against: Contender,
    arguments: &Arguments,
    site: &Site,
    (wire, traffic): (&Wire, &mut Traffic),
    report: &mut Report,
) -> Result<()> {
    let plan = Plan {
        pairs: arguments.pairs,
        against,
        rates: std::iter::once(Rate::FlatOut).chain(arguments.rate.iter().copied().map(Rate::PerSecond)).collect(),
        warm_up: Duration::from_millis(arguments.warm_up),
        window: Duration::from_millis(arguments.window),
        only: arguments.only,
    };
    let name = name_of(case);
    let site = Site { placement: arguments.napi.unwrap_or(against.placement()), ..site.clone() };
    let comparisons = pairs::compare(wire, traffic, &site, &plan)?;
    for comparison in &comparisons {
        report.ratio.extend(comparison.ratio().map(|ratio| (comparison.key(&name), ratio.value.into())));
        report.cases.insert(comparison.key(&name), comparison.json());
        if !arguments.json {
            comparison.print(&name);
        }
    }
    match comparisons.iter().map(pairs::Comparison::bad).sum() {
        0_u64 => Ok(()),
        bad => bail!("{bad} frames arrived that were not what they should be"),
    }
}

fn name_of(case: Case) -> String {
    case.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
