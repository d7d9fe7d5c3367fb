//! `pointsman monitor list|show`.

use std::process::ExitCode;

use super::Show;
use super::client::{ClientArguments, ClientError, finish, pretty};
use super::table::Table;
use crate::control::api::problem::Problem;
use crate::control::api::shape::{Monitor, Pool};
use crate::control::reader::nearest;

/// Runs it.
pub(super) fn monitor(show: &Show) -> ExitCode {
    finish(match show {
        Show::List(client) => list(client),
        Show::Show { name, client } => of_member(name, client),
    })
}

fn list(client: &ClientArguments) -> Result<String, ClientError> {
    let (value, monitors) = client.get::<Vec<Monitor>>("/v1/monitors")?;
    Ok(if client.json { pretty(&value) } else { table(&monitors) })
}

/// Those that look at a member, or at the members of a pool.
fn of_member(name: &str, client: &ClientArguments) -> Result<String, ClientError> {
    let (_, mut monitors) = client.get::<Vec<Monitor>>("/v1/monitors")?;
    monitors.retain(|one| name == one.pool || name.split_once('/') == Some((&one.pool, &one.member)));
    if monitors.is_empty() {
        return Err(ClientError::Problem(Box::new(nothing_looks_at(name, client)?)));
    }
    Ok(if client.json { pretty(&serde_json::json!(monitors)) } else { table(&monitors) })
}

/// Which pool or member may have been meant, and whether that has monitors.
fn nothing_looks_at(name: &str, client: &ClientArguments) -> Result<Problem, ClientError> {
    let (_, pools) = client.get::<Vec<Pool>>("/v1/pools")?;
    let members = pools.iter().flat_map(|pool| &pool.members);
    let members = members.map(|member| format!("{}/{}", member.pool, member.name));
    let names: Vec<String> = pools.iter().map(|pool| pool.name.clone()).chain(members).collect();
    let hint = match nearest(name, names.iter().map(String::as_str)) {
        Some(meant) if meant == name => "it has no monitor".to_owned(),
        Some(meant) => format!("did you mean {meant:?}?"),
        None => "a POOL, or POOL/MEMBER; see: pointsman monitor list".to_owned(),
    };
    Ok(Problem::new(404, format!("nothing looks at {name:?} ({hint})")))
}

fn table(monitors: &[Monitor]) -> String {
    let mut table =
        Table::new(&["MEMBER", "MONITOR", "PORT", "STATE", "SINCE", "CHECKS", "FAILED", "P50 MS", "P99 MS", "REASON"]);
    let milliseconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for monitor in monitors {
        table.row([
            format!("{}/{}", monitor.pool, monitor.member),
            monitor.name.clone(),
            monitor.port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
            monitor.state.clone(),
            monitor.since.clone(),
            monitor.checks.to_string(),
            monitor.failures.to_string(),
            milliseconds(monitor.p50_milliseconds),
            milliseconds(monitor.p99_milliseconds),
            monitor.reason.clone(),
        ]);
    }
    table.text()
}
