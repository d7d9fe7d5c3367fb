//! The lab: network namespaces with real clients and members around the real binary.
use std::process::ExitCode;
/// Options of the hidden `lab` command.
#[derive(clap::Args)]
pub struct LabArguments {}
/// Plays one role.
pub fn role(_arguments: &LabArguments) -> ExitCode { ExitCode::FAILURE }
