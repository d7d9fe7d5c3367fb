//! `pointsman conn list`: the connection table, as it is while the walk goes by.

use std::io::{BufWriter, Write as _, stdout};
use std::process::ExitCode;

use clap::Subcommand;

use super::client::ClientArguments;
use super::{output, path_segment};
use crate::control::api::shape::Flow;

/// What is done with connections.
#[derive(Subcommand)]
pub enum ConnCommand {
    /// Flows in the connection table; with --json an object per line
    List {
        /// Those of this client: an address, or a prefix such as 192.0.2.0/24
        #[arg(long, value_name = "ADDRESS")]
        client: Option<String>,
        /// Those to this VIP
        #[arg(long, value_name = "NAME")]
        vip: Option<String>,
        /// Those at this member
        #[arg(long, value_name = "POOL/MEMBER")]
        member: Option<String>,
        /// Those in this state: embryonic, established, closing; single, stream (UDP)
        #[arg(long)]
        state: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Whom to ask, and how to print
        #[command(flatten)]
        api: ClientArguments,
    },
}

/// Prints them as they come.
pub(super) fn conn(ConnCommand::List { client, vip, member, state, limit, api }: &ConnCommand) -> ExitCode {
    let limit = limit.map(|limit| limit.to_string());
    let wanted = [("client", client), ("vip", vip), ("member", member), ("state", state), ("limit", &limit)];
    let query: Vec<String> = wanted
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", path_segment(value.as_ref()?))))
        .collect();
    let mut out = BufWriter::new(stdout().lock());
    let head = row(&["CLIENT", "VIP", "PORT", "MEMBER", "STATE", "IDLE"].map(str::to_owned));
    let (mut is_first, mut written) = (true, Ok(()));
    let result = api.stream(&format!("/v1/flows?{}", query.join("&")), |line| {
        written = match serde_json::from_str::<Flow>(line) {
            Ok(flow) if !api.json => {
                let head = if std::mem::take(&mut is_first) { head.as_str() } else { "" };
                out.write_all((head.to_owned() + &row(&cells(&flow))).as_bytes())
            }
            _ => writeln!(out, "{line}"),
        };
        // A reader such as `head` has seen enough.
        written.is_ok()
    });
    if is_first && !api.json && result.is_ok() {
        written = out.write_all(head.as_bytes());
    }
    let written = written.and_then(|()| out.flush());
    result.map_or_else(|error| error.say(), |()| output::outcome(written))
}

fn cells(flow: &Flow) -> [String; 6] {
    [
        format!("{}:{}", flow.client, flow.client_port),
        flow.vip.clone(),
        flow.port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
        flow.member.clone(),
        flow.state.clone(),
        format!("{:.0}s", flow.idle_seconds),
    ]
}

/// The widths are fixed: the longest cell is not known before the last line.
fn row([client, vip, port, member, state, idle]: &[String; 6]) -> String {
    format!("{client:<21}  {vip:<16}  {port:>5}  {member:<24}  {state:<11}  {idle:>6}\n")
}
