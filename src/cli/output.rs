//! stdout. A reader such as `head` may have seen enough; whatever else keeps output from being written is an error, or a
//! script would take half of it for all.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::EXIT_NOT_SO;

/// Prints it; the exit code.
pub(super) fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    outcome(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The exit code after output that ended like this.
pub(super) fn outcome(written: io::Result<()>) -> ExitCode {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // Nothing is left to be done when nobody reads that either: the exit code still says it.
            let _ = writeln!(io::stderr(), "pointsman: writing to stdout: {error}");
            ExitCode::from(EXIT_NOT_SO)
        }
        _ => ExitCode::SUCCESS,
    }
}
