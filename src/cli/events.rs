//! `pointsman events [--follow]`: what has happened.

use std::io::{Write as _, stdout};
use std::process::ExitCode;

use super::client::ClientArguments;
use super::output;
use crate::control::api::shape::Event;

/// What `events` is asked.
#[derive(clap::Args)]
pub struct EventsArguments {
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// Those after this one
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    client: ClientArguments,
}

/// Prints them as they come; with `--json` an object per line.
pub(super) fn events(EventsArguments { follow, after, client }: &EventsArguments) -> ExitCode {
    let (mut out, mut written) = (stdout().lock(), Ok(()));
    let result = client.stream(&format!("/v1/events?after={after}&follow={follow}"), |line| {
        written = match serde_json::from_str::<Event>(line) {
            Ok(event) if !client.json => writeln!(out, "{}", sentence(&event)),
            _ => writeln!(out, "{line}"),
        }
        .and_then(|()| out.flush());
        written.is_ok()
    });
    result.map_or_else(|error| error.say(), |()| output::outcome(written))
}

/// A line for people.
pub(super) fn sentence(event: &Event) -> String {
    let Event { time, kind, subject, from, to, reason, .. } = event;
    let change = match (from, to) {
        (Some(from), Some(to)) => format!(" {from} → {to}"),
        (None, Some(to)) => format!(" {to}"),
        _ => String::new(),
    };
    let space = if subject.is_empty() { "" } else { " " };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{time}  {kind}{space}{subject}{change}{reason}")
}
