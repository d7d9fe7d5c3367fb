//! `pointsman vip list|show|enable|disable`.

use std::process::ExitCode;

use clap::Subcommand;

use super::client::{ClientArguments, ClientError, finish, pretty};
use super::member::{EditArguments, patch_at};
use super::table::Table;
use crate::control::api::shape::{PortOrAny, Vip, VipPatch};

/// What is done with VIPs.
#[derive(Subcommand)]
pub(super) enum VipCommand {
    /// All of them
    List(ClientArguments),
    /// One of them
    Show {
        /// Its name
        name: String,
        /// Whom to ask, and how to print
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Serve a VIP again, after `disable`
    Enable {
        /// Its name
        name: String,
        /// Options of every edit
        #[command(flatten)]
        edit: EditArguments,
    },
    /// Drop what comes for a VIP, as with `enabled = false`
    Disable {
        /// Its name
        name: String,
        /// Options of every edit
        #[command(flatten)]
        edit: EditArguments,
    },
}

/// Runs it.
pub(super) fn vip(command: &VipCommand) -> ExitCode {
    finish(match command {
        VipCommand::List(client) => list(client),
        VipCommand::Show { name, client } => one(name, client),
        VipCommand::Enable { name, edit } => change(name, true, edit),
        VipCommand::Disable { name, edit } => change(name, false, edit),
    })
}

fn change(name: &str, enabled: bool, edit: &EditArguments) -> Result<String, ClientError> {
    patch_at(&path(name), &VipPatch { enabled: Some(enabled) }, edit)
}

fn path(name: &str) -> String {
    format!("/v1/vips/{}", super::path_segment(name))
}

fn list(client: &ClientArguments) -> Result<String, ClientError> {
    let (value, vips) = client.get::<Vec<Vip>>("/v1/vips")?;
    Ok(if client.json { pretty(&value) } else { table(&vips) })
}

fn one(name: &str, client: &ClientArguments) -> Result<String, ClientError> {
    let (value, vip) = client.get::<Vip>(&path(name))?;
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
