//! `pointsman demo`
use std::process::ExitCode;
/// Options of `demo`.
#[derive(clap::Args)]
pub struct DemoArguments {}
/// Runs the demo.
pub fn demo(_arguments: &DemoArguments) -> ExitCode { ExitCode::from(super::EXIT_CANNOT_RUN) }
