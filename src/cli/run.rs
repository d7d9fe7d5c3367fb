//! `pointsman run --config FILE`
use std::path::Path;
use std::process::ExitCode;
/// Runs the balancer in the foreground.
pub fn run(_config: &Path) -> ExitCode { ExitCode::from(super::EXIT_CANNOT_RUN) }
