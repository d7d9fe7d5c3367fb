//! `pointsman pool list|show`.

use std::process::ExitCode;

use super::Show;
use super::client::{ClientArguments, ClientError, finish, pretty};
use super::table::Table;
use crate::control::api::shape::Pool;

/// Runs it.
pub(super) fn pool(show: &Show) -> ExitCode {
    finish(match show {
        Show::List(client) => list(client),
        Show::Show { name, client } => one(name, client),
    })
}

fn list(client: &ClientArguments) -> Result<String, ClientError> {
    let (value, pools) = client.get::<Vec<Pool>>("/v1/pools")?;
    Ok(if client.json { pretty(&value) } else { table(&pools) })
}

fn one(name: &str, client: &ClientArguments) -> Result<String, ClientError> {
    let (value, pool) = client.get::<Pool>(&format!("/v1/pools/{}", super::path_segment(name)))?;
    if client.json {
        return Ok(pretty(&value));
    }
    let members = super::member::table(&pool.members);
    Ok(format!("{}\n{members}", table(&[pool])))
}

fn table(pools: &[Pool]) -> String {
    let mut table = Table::new(&[
        "POOL",
        "STATE",
        "FORWARD",
        "SCHEDULER",
        "UP",
        "MEMBERS",
        "QUORUM",
        "MONITORS",
        "FLOWS",
        "VIPS",
        "REASON",
    ]);
    for pool in pools {
        table.row([
            pool.name.clone(),
            pool.state.clone(),
            pool.forward.clone(),
            pool.scheduler.clone(),
            pool.up.to_string(),
            pool.members.len().to_string(),
            pool.quorum.to_string(),
            pool.monitors.to_string(),
            pool.active_flows.to_string(),
            pool.vips.join(", "),
            pool.reason.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}
