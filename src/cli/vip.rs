//! `pointsman vip list|show`.

use std::process::ExitCode;

use super::Show;
use super::client::{ClientArguments, ClientError, finish, pretty};
use super::table::Table;
use crate::control::api::shape::{PortOrAny, Vip};

/// Runs it.
pub(super) fn vip(show: &Show) -> ExitCode {
    finish(match show {
        Show::List(client) => list(client),
        Show::Show { name, client } => one(name, client),
    })
}

fn list(client: &ClientArguments) -> Result<String, ClientError> {
    let (value, vips) = client.get::<Vec<Vip>>("/v1/vips")?;
    Ok(if client.json { pretty(&value) } else { table(&vips) })
}

fn one(name: &str, client: &ClientArguments) -> Result<String, ClientError> {
    let (value, vip) = client.get::<Vip>(&format!("/v1/vips/{}", super::path_segment(name)))?;
    Ok(if client.json { pretty(&value) } else { table(&[vip]) })
}

fn table(vips: &[Vip]) -> String {
    let mut table = Table::new(&[
        "VIP",
        "STATE",
        "ADDRESS",
        "PORT",
        "POOL",
        "FORWARD",
        "SCHEDULER",
        "FLOWS",
        "NEW",
        "PACKETS",
        "REASON",
    ]);
    for vip in vips {
        let port = match &vip.port {
            PortOrAny::Port(port) => port.to_string(),
            PortOrAny::Any(any) => any.clone(),
        };
        table.row([
            vip.name.clone(),
            vip.state.clone(),
            vip.address.clone(),
            format!("{}/{port}", vip.protocol),
            vip.pool.clone(),
            vip.forward.clone(),
            vip.scheduler.clone(),
            vip.active_flows.to_string(),
            vip.new_flows.to_string(),
            vip.packets.to_string(),
            vip.reason.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}
