//! `pointsman config`: the configuration that rules.

use std::io::Write as _;
use std::process::ExitCode;

use super::client::{ClientArguments, finish, pretty};
use crate::control::api::shape::Config;

/// Prints its text; what was edited of it stands on stderr, since no file has it.
pub(super) fn config(client: &ClientArguments) -> ExitCode {
    finish(client.get::<Config>("/v1/config").map(|(value, config)| {
        if client.json {
            return pretty(&value);
        }
        let edits = config.edits.len();
        if edits > 0 {
            let plural = if edits == 1 { "" } else { "s" };
            // Nothing is left to be done when nobody reads it.
            let _ =
                writeln!(std::io::stderr(), "pointsman: {edits} edit{plural} beside it: see pointsman config --json");
        }
        config.text
    }))
}
