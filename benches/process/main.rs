//! Nanoseconds and instructions per packet of the whole walk, in process, beside a bare loop over the same frames.
//!
//! - `cargo bench --bench process -- FILTER`: the cases by criterion, with its options
//! - `cargo bench --bench process -- interleaved --help`: contenders that take turns, and their ratios to `bare`
//! - `cargo bench --bench process -- instructions --help`: instructions per packet beside a committed baseline
//!
//! `scripts/bench` runs the last two. `benches/README.md` says what is measured and how.
//!
//! - `packet`, `generator`: the frames, and the port that brings them in over and over
//! - `walk`, `bare`: a worker with its tables, and the least that can be done
//! - `cases`: what comes in, into which table; `control`: tables, Maglev, the sweep
//! - `criterion`, `interleaved`, `instructions`: three ways to measure them

mod bare;
mod cases;
mod control;
mod criterion;
mod generator;
mod instructions;
mod interleaved;
mod packet;
#[path = "../end_to_end/statistics.rs"]
mod statistics;
mod walk;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::Map;

/// Nanoseconds and instructions per packet, in process
#[derive(Debug, Parser)]
#[command(name = "process")]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
    /// What cargo says to a bench
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Nanoseconds per packet of contenders that take turns, and their ratios to the bare loop
    Interleaved {
        /// Only the cases that have goals, and shorter
        #[arg(long)]
        quick: bool,
        /// Print one JSON object; the tables go to stderr
        #[arg(long)]
        json: bool,
        /// A file with the JSON object of another bench, whose ratios are added; may be given several times
        #[arg(long, requires = "json")]
        others: Vec<PathBuf>,
    },
    /// Instructions per packet, by valgrind, beside benches/instructions.json
    Instructions {
        /// Make what is counted the baseline
        #[arg(long)]
        accept: bool,
    },
    /// One case, to be counted from outside
    #[command(hide = true)]
    Count { case: String },
}

fn main() -> ExitCode {
    let Some(first) = std::env::args().nth(1) else {
        // `cargo test --benches`
        println!("nothing is measured without --bench: cargo bench --bench process");
        return ExitCode::SUCCESS;
    };
    if !["interleaved", "instructions", "count"].contains(&first.as_str()) {
        criterion::run();
        return ExitCode::SUCCESS;
    }
    match measure(Arguments::parse().measurement) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("process: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn measure(measurement: Measurement) -> Result<bool> {
    match measurement {
        Measurement::Interleaved { quick, json, others } => {
            let read = |path: &PathBuf| read(path).with_context(|| format!("{}", path.display()));
            let others = others.iter().map(read).collect::<Result<Vec<_>>>()?;
            interleaved::run(interleaved::Plan { quick }, json, &others);
            Ok(true)
        }
        Measurement::Instructions { accept } => instructions::check(accept),
        Measurement::Count { case } => instructions::count(&case).map(|()| true),
    }
}

fn read(path: &PathBuf) -> Result<Map<String, serde_json::Value>> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}
