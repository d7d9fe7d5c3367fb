//! `pointsman member list|show|drain|enable|disable|weight`.

use std::process::ExitCode;

use clap::Subcommand;

use super::client::{ClientArguments, ClientError, finish, pretty};
use super::table::Table;
use crate::control::api::shape::Member;

/// What is done with members.
#[derive(Subcommand)]
pub enum MemberCommand {
    /// All members
    List {
        /// Those of this pool
        #[arg(value_name = "POOL")]
        pool: Option<String>,
        /// Whom to ask, and how to print
        #[command(flatten)]
        client: ClientArguments,
    },
    /// One member
    Show {
        /// POOL/MEMBER
        name: String,
        /// Whom to ask, and how to print
        #[command(flatten)]
        client: ClientArguments,
    },
}

/// Runs it.
pub(super) fn member(command: &MemberCommand) -> ExitCode {
    match command {
        MemberCommand::List { pool, client } => finish(list(pool.as_deref(), client)),
        MemberCommand::Show { name, client } => finish(one(name, client)),
    }
}

fn list(pool: Option<&str>, client: &ClientArguments) -> Result<String, ClientError> {
    let (value, members) = match pool {
        None => client.get::<Vec<Member>>("/v1/members")?,
        Some(pool) => {
            let (pool, _) = client.get::<serde_json::Value>(&format!("/v1/pools/{}", super::path_segment(pool)))?;
            let members = pool["members"].clone();
            let read = serde_json::from_value(members.clone()).unwrap_or_default();
            (members, read)
        }
    };
    Ok(if client.json { pretty(&value) } else { table(&members) })
}

fn one(name: &str, client: &ClientArguments) -> Result<String, ClientError> {
    let (value, member) = client.get::<Member>(&path(name)?)?;
    Ok(if client.json { pretty(&value) } else { table(&[member]) })
}

/// Where a member is.
fn path(name: &str) -> Result<String, ClientError> {
    let parts = super::pool_and_member(name)?;
    Ok(format!("/v1/members/{}/{}", super::path_segment(parts.0), super::path_segment(parts.1)))
}

pub(super) fn table(members: &[Member]) -> String {
    let mut table = Table::new(&[
        "MEMBER", "ADDRESS", "PORT", "WEIGHT", "STATE", "FLOWS", "CLOSING", "NEW", "PACKETS", "SINCE", "REASON",
    ]);
    for member in members {
        table.row([
            format!("{}/{}", member.pool, member.name),
            member.address.clone(),
            member.port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
            member.weight.to_string(),
            member.state.clone(),
            member.active_flows.to_string(),
            member.inactive_flows.to_string(),
            member.new_flows.to_string(),
            member.packets.to_string(),
            member.since.clone(),
            member.reason.clone().unwrap_or_default(),
        ]);
    }
    table.text()
}
