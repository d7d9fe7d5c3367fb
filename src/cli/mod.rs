//! The command line: one file per command.
//!
//! Exit codes: 0 done; 1 the thing asked for is not so (bad config, check failed); 2 wrong usage;
//! 3 cannot run here (permission, kernel, interface).

pub mod check;
pub mod demo;
pub mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The thing asked for is not so: a bad config, a failed check.
pub const EXIT_NOT_SO: u8 = 1;
/// This machine cannot do it: permission, kernel, interface.
pub const EXIT_CANNOT_RUN: u8 = 3;

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
    /// One role of the lab, started by it inside a namespace
    #[command(hide = true)]
    Lab(crate::lab::LabArguments),
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

/// Parses the command line, runs the command and says how it went.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(config) => run::run(config.path()),
        Command::Check(arguments) => check::check(&arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Lab(arguments) => crate::lab::role(&arguments),
    }
}
