//! Start-up and exit codes; decides nothing.

use std::process::ExitCode;

fn main() -> ExitCode {
    pointsman::cli::main()
}
