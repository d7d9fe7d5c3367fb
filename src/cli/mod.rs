//! The command line: one file per command.
//!
//! Exit codes: 0 done; 1 the thing asked for is not so (bad config, check failed); 2 wrong usage;
//! 3 cannot run here (permission, kernel, interface); 4 no daemon answers.
//!
//! `run`, `check` and `demo` work by themselves; all others ask a running daemon by its API (`client`) and print what it
//! says, as a `table` or as JSON.

pub mod apply;
pub mod check;
pub mod client;
pub mod conn;
pub mod demo;
pub mod events;
pub mod member;
pub mod run;

mod config;
mod monitor;
mod output;
mod pool;
mod status;
mod table;
mod vip;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control::api::problem::Problem;
use client::{ClientArguments, ClientError};

/// The thing asked for is not so: a bad config, a failed check.
pub const EXIT_NOT_SO: u8 = 1;
/// This machine cannot do it: permission, kernel, interface.
pub const EXIT_CANNOT_RUN: u8 = 3;
/// No daemon answers.
pub const EXIT_NO_DAEMON: u8 = 4;

#[derive(Parser)]
#[command(name = "pointsman", version, about = "A layer-4 load balancer on AF_XDP", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Forward packets until SIGTERM or SIGINT
    Run(ConfigArgument),
    /// Validate a configuration; every error is printed as `file:line:col: key: message`
    Check(check::CheckArguments),
    /// Build a lab of network namespaces and send real HTTP traffic through VIPs
    Demo(demo::DemoArguments),
    /// How the running daemon does, what is wrong first
    Status(ClientArguments),
    /// The configuration that rules: its text
    Config(ClientArguments),
    /// Have a configuration rule at once; only the difference is made
    Apply(apply::ApplyArguments),
    /// VIPs: what is served
    #[command(subcommand)]
    Vip(Show),
    /// Pools: who serves together
    #[command(subcommand)]
    Pool(Show),
    /// Members: who serves, and how each does
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Connections: who is where now
    #[command(subcommand)]
    Conn(conn::ConnCommand),
    /// What has happened
    Events(events::EventsArguments),
    /// Monitors: what they found of each member
    #[command(subcommand)]
    Monitor(Show),
    /// One role of the lab, started by it inside a namespace
    #[command(hide = true)]
    Lab(crate::lab::LabArguments),
}

/// What is shown of a kind of thing.
#[derive(Subcommand)]
pub enum Show {
    /// All of them
    List(ClientArguments),
    /// One of them
    Show {
        /// Its name
        name: String,
        /// Whom to ask, and how to print
        #[command(flatten)]
        client: ClientArguments,
    },
}

/// The configuration, named either way: nobody remembers which command wants which.
#[derive(clap::Args)]
pub struct ConfigArgument {
    /// The configuration (TOML)
    #[arg(value_name = "FILE", required_unless_present = "config", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The file.
    pub fn path(&self) -> &Path {
        // The parser has seen to it that there is one.
        self.file.as_deref().or(self.config.as_deref()).unwrap_or(Path::new(""))
    }
}

/// Names have no characters that mean something in a path; whatever else was typed stays one segment of it.
fn path_segment(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let encoded = name.bytes().map(|byte| match byte {
        byte if is_plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

/// The two halves of `POOL/MEMBER`.
fn pool_and_member(name: &str) -> Result<(&str, &str), ClientError> {
    name.split_once('/').ok_or_else(|| {
        let detail = format!("{name:?} names no member: it is POOL/MEMBER (see: pointsman member list)");
        ClientError::Problem(Box::new(Problem::new(404, detail)))
    })
}

/// Parses the command line, runs the command and says how it went.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(config) => run::run(config.path()),
        Command::Check(arguments) => check::check(&arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Status(client) => status::status(&client),
        Command::Config(client) => config::config(&client),
        Command::Apply(arguments) => apply::apply(&arguments),
        Command::Vip(show) => vip::vip(&show),
        Command::Pool(show) => pool::pool(&show),
        Command::Member(command) => member::member(&command),
        Command::Conn(command) => conn::conn(&command),
        Command::Events(arguments) => events::events(&arguments),
        Command::Monitor(show) => monitor::monitor(&show),
        Command::Lab(arguments) => crate::lab::role(&arguments),
    }
}
