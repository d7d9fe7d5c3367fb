//! `pointsman member list|show|drain|enable|disable|weight`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use hyper::Method;

use super::client::{Ask, ClientArguments, ClientError, finish, pretty};
use super::output;
use super::status::duration;
use super::table::Table;
use crate::control::api::problem::Problem;
use crate::control::api::shape::{Flow, Member, MemberPatch};

/// Between two looks at a member that drains.
const POLL: Duration = Duration::from_millis(500);

/// Between two lines about it: when its flows have become fewer, and when they have not.
const CHANGED: Duration = Duration::from_secs(2);
const UNCHANGED: Duration = Duration::from_secs(10);

/// With more flows nobody asks yet how long each has been idle: the table is walked through for that.
const FEW: u64 = 10_000;

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
    /// Give a member nothing new; it keeps what it has, and its weight for later
    Drain {
        /// POOL/MEMBER
        name: String,
        /// Wait until none of its flows is left
        #[arg(long)]
        wait: bool,
        /// Give up waiting after so many seconds
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<u64>,
        /// Options of every edit
        #[command(flatten)]
        edit: EditArguments,
    },
    /// Give a member new flows again, after `drain` or `disable`
    Enable {
        /// POOL/MEMBER
        name: String,
        /// Options of every edit
        #[command(flatten)]
        edit: EditArguments,
    },
    /// Give a member nothing new, as with `enabled = false`
    Disable {
        /// POOL/MEMBER
        name: String,
        /// Options of every edit
        #[command(flatten)]
        edit: EditArguments,
    },
    /// Give a member another weight
    Weight {
        /// POOL/MEMBER
        name: String,
        /// 0 to 65535; 0 gets nothing new
        weight: u16,
        /// Options of every edit
        #[command(flatten)]
        edit: EditArguments,
    },
}

/// Options of every edit.
#[derive(clap::Args)]
pub struct EditArguments {
    /// Only if this revision rules (see: pointsman status)
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    #[command(flatten)]
    client: ClientArguments,
}

/// Runs it.
pub(super) fn member(command: &MemberCommand) -> ExitCode {
    match command {
        MemberCommand::List { pool, client } => finish(list(pool.as_deref(), client)),
        MemberCommand::Show { name, client } => finish(one(name, client)),
        MemberCommand::Drain { name, wait, timeout, edit } => {
            let drain = MemberPatch { drain: Some(true), ..MemberPatch::default() };
            match change(name, &drain, edit) {
                Ok(_) if *wait => wait_until_drained(name, *timeout, &edit.client),
                result => finish(result),
            }
        }
        MemberCommand::Enable { name, edit } => {
            let enable = MemberPatch { enabled: Some(true), drain: Some(false), ..MemberPatch::default() };
            let enabled = change(name, &enable, edit);
            if enabled.is_ok() {
                say_if_weightless(name, &edit.client);
            }
            finish(enabled)
        }
        MemberCommand::Disable { name, edit } => {
            finish(change(name, &MemberPatch { enabled: Some(false), ..MemberPatch::default() }, edit))
        }
        MemberCommand::Weight { name, weight, edit } => {
            finish(change(name, &MemberPatch { weight: Some(*weight), ..MemberPatch::default() }, edit))
        }
    }
}

/// Whoever enables a member wants it to get something.
fn say_if_weightless(name: &str, client: &ClientArguments) {
    let member = path(name).and_then(|path| client.get::<Member>(&path));
    if member.is_ok_and(|(_, member)| member.weight == 0) {
        // Nothing is left to be done when nobody reads it.
        let _ = writeln!(
            std::io::stderr(),
            "pointsman: {name} still gets nothing new: its weight is 0 (see: pointsman member weight)"
        );
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

/// Has the daemon change a member; what has changed.
fn change(
    name: &str,
    patch: &MemberPatch,
    EditArguments { revision, client }: &EditArguments,
) -> Result<String, ClientError> {
    let body = serde_json::to_vec(patch).unwrap_or_default();
    let place = path(name)?;
    let value = client.ask(Ask {
        method: Method::PATCH,
        path: &place,
        content_type: "application/json",
        body,
        revision: *revision,
    })?;
    Ok(if client.json { pretty(&value) } else { value["plan"].as_str().unwrap_or_default().to_owned() })
}

/// Says how many flows are left as they become fewer, and when there is none.
fn wait_until_drained(name: &str, timeout: Option<u64>, client: &ClientArguments) -> ExitCode {
    let started = Instant::now();
    let mut said: Option<(u64, Instant)> = None;
    loop {
        let member = match path(name).and_then(|path| client.get::<Member>(&path)) {
            Ok((_, member)) => member,
            Err(error) => return error.say(),
        };
        let left = member.active_flows + member.inactive_flows;
        let seconds = started.elapsed().as_secs();
        // Somebody else may have changed their mind.
        if !member.drain {
            let detail = format!("{name} does not drain any more: somebody has enabled it");
            return given_up(outcome(name, left, seconds), 409, detail, client);
        }
        if left == 0 {
            return finish(Ok(if client.json {
                pretty(&outcome(name, left, seconds))
            } else {
                format!("{name}: no flows left after {}: safe to remove\n", duration(seconds))
            }));
        }
        if timeout.is_some_and(|most| seconds >= most) {
            let detail = format!("{name} still has {left} flows after {}", duration(seconds));
            return given_up(outcome(name, left, seconds), 408, detail, client);
        }
        let is_due = said.is_none_or(|(before, when)| {
            let pause = if before == left { UNCHANGED } else { CHANGED };
            when.elapsed() >= pause
        });
        if is_due && !client.json {
            let (active, closing) = (member.active_flows, member.inactive_flows);
            let idle = if left <= FEW { idle(name, client).unwrap_or_default() } else { String::new() };
            // Whether anybody reads or not, the end of it is waited for.
            let _ = writeln!(std::io::stdout(), "{name}: {active} flows left, {closing} closing{idle}");
            said = Some((left, Instant::now()));
        }
        std::thread::sleep(POLL);
    }
}

/// What waiting came to, as JSON.
fn outcome(name: &str, flows: u64, seconds: u64) -> serde_json::Value {
    serde_json::json!({ "member": name, "flows": flows, "seconds": seconds, "safe_to_remove": flows == 0 })
}

/// It has not come to the end that was waited for.
fn given_up(mut outcome: serde_json::Value, status: u16, detail: String, client: &ClientArguments) -> ExitCode {
    if client.json {
        outcome["safe_to_remove"] = false.into();
        output::print(&pretty(&outcome));
    }
    ClientError::Problem(Box::new(Problem::new(status, detail))).say()
}

/// How long a member's flows have had no packet: whoever waits for them sees whether anybody still uses them.
fn idle(name: &str, client: &ClientArguments) -> Option<String> {
    let mut range: Option<(f64, f64)> = None;
    let read = client.stream(&format!("/v1/flows?member={}", super::path_segment(name)), |line| {
        if let Ok(Flow { idle_seconds: idle, .. }) = serde_json::from_str(line) {
            range = Some(range.map_or((idle, idle), |(least, most)| (idle.min(least), idle.max(most))));
        }
        true
    });
    let (least, most) = read.ok().and(range)?;
    let told = |seconds: f64| duration(Duration::try_from_secs_f64(seconds).map_or(0, |idle| idle.as_secs()));
    Some(format!("; last packets {} to {} ago", told(least), told(most)))
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
