//! `pointsman check FILE`
use std::path::Path;
use std::process::ExitCode;
/// Validates `file`.
pub fn check(_file: &Path) -> ExitCode { ExitCode::from(super::EXIT_NOT_SO) }
