//! `pointsman apply FILE [--dry-run]`.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hyper::Method;

use super::client::{Ask, ClientArguments, ClientError, finish, pretty};
use crate::control::api::problem::{FieldError, Problem};

/// What `apply` is asked.
#[derive(clap::Args)]
pub struct ApplyArguments {
    /// The configuration (TOML); `-`: from stdin
    file: PathBuf,
    /// Print what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Only if this revision rules (see: pointsman status)
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    #[command(flatten)]
    client: ClientArguments,
}

/// Prints what has changed, or would.
pub(super) fn apply(arguments: &ApplyArguments) -> ExitCode {
    finish(send(arguments))
}

fn send(ApplyArguments { file, dry_run, revision, client }: &ApplyArguments) -> Result<String, ClientError> {
    let failed = |detail| ClientError::Problem(Box::new(Problem::new(400, detail)));
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { Path::new("stdin") } else { file };
    let body = if is_stdin { stdin() } else { std::fs::read(file) };
    let body = body.map_err(|error| failed(format!("{}: cannot be read: {error}", name.display())))?;
    let path = if *dry_run { "/v1/apply?dry_run=true" } else { "/v1/apply" };
    let ask = Ask { method: Method::POST, path, content_type: "application/toml", body, revision: *revision };
    let value = client.ask(ask).map_err(|error| named(error, name))?;
    Ok(if client.json { pretty(&value) } else { value["plan"].as_str().unwrap_or_default().to_owned() })
}

fn stdin() -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    io::stdin().lock().read_to_end(&mut body).map(|_| body)
}

/// The daemon does not know what the file is called here.
fn named(error: ClientError, file: &Path) -> ClientError {
    let ClientError::Problem(mut problem) = error else { return error };
    for FieldError { field, line, column, .. } in &mut problem.errors {
        let place = line.take().zip(column.take()).map(|(line, column)| format!("{line}:{column}: "));
        *field = format!("{}:{}{field}", file.display(), place.unwrap_or_default());
    }
    ClientError::Problem(problem)
}
