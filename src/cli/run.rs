//! `pointsman run --config FILE`: the appliance itself, in the foreground.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use sd_notify::NotifyState;
use tracing::info;
use tracing_subscriber::EnvFilter;

use super::{EXIT_CANNOT_RUN, EXIT_NOT_SO};
use crate::control::api::door::Doors;
use crate::control::daemon::{self, Beginning, Progress};
use crate::control::model::Model;
use crate::control::state::{self, Running};
use crate::control::{occupant, privileges, reload};

/// Like `eprintln!`, but nobody dies of it that nobody reads.
macro_rules! complain {
    ($($words:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

/// Runs the balancer until SIGTERM or SIGINT.
pub fn run(config: &Path) -> ExitCode {
    // SIGHUP may come at any time from here on.
    if let Err(error) = reload::hold_hangups() {
        complain!("pointsman: holding SIGHUP back: {error}");
        return ExitCode::from(EXIT_CANNOT_RUN);
    }
    let startup = match Model::read(config) {
        Ok((model, text)) => Running::startup(model, &text),
        Err(errors) => {
            for error in errors {
                complain!("{error}");
            }
            return ExitCode::from(EXIT_NOT_SO);
        }
    };
    log_to_stderr();
    info!("pointsman {} with {}", env!("CARGO_PKG_VERSION"), config.display());
    // First, since it knows which process has it.
    let doors = match Doors::open(&startup.base.api) {
        Ok(doors) => doors,
        Err(error) => {
            complain!("pointsman: {error}");
            return ExitCode::from(EXIT_CANNOT_RUN);
        }
    };
    let state_dir = &startup.base.node.state_dir;
    let state = match state::Place::open(state_dir) {
        Ok(state) => state,
        Err(error) => {
            complain!("pointsman: node.state_dir: {}: {error}", state_dir.display());
            return ExitCode::from(EXIT_CANNOT_RUN);
        }
    };
    let running = state.restore(startup, &config.display().to_string());
    occupant::look_while_allowed();
    // Capabilities are each thread's own: now, while there is only this one.
    if let Err(error) = privileges::keep_needed() {
        complain!("pointsman: {error}");
        return ExitCode::from(EXIT_CANNOT_RUN);
    }
    match daemon::run(Beginning { file: config.to_owned(), running, state, doors }, tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("pointsman: {error}");
            // Even what does not fit this host may do so later: systemd tries again (packaging/pointsman.service).
            ExitCode::from(EXIT_CANNOT_RUN)
        }
    }
}

/// Tells whoever started us: a line on stdout for people and scripts, datagrams for systemd.
fn tell(progress: Progress<'_>) {
    // Nobody reads: that is their choice.
    let _ = match progress {
        Progress::Ready => {
            let _ = writeln!(std::io::stdout(), "ready");
            let _ = std::io::stdout().flush();
            sd_notify::notify(false, &[NotifyState::Ready])
        }
        Progress::Reloading => match NotifyState::monotonic_usec_now() {
            Ok(now) => sd_notify::notify(false, &[NotifyState::Reloading, now]),
            Err(error) => Err(error),
        },
        Progress::Reloaded(outcome) => sd_notify::notify(false, &[NotifyState::Status(outcome), NotifyState::Ready]),
    };
}

/// stdout carries `ready` and nothing else. `RUST_LOG` sets the level, `NO_COLOR` is honoured.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // They would be printed to where nothing can be written, and that panics: a full disk is no reason to stop.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_target(false)
        .init();
}
