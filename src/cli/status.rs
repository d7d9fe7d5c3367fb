//! `pointsman status`: one screen, what is wrong first.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::client::{ClientArguments, finish, pretty};
use super::table::{Table, wants_colours};
use crate::control::api::shape::{Status, UpOf};

/// Prints it.
pub(super) fn status(client: &ClientArguments) -> ExitCode {
    finish(
        client
            .get::<Status>("/v1/status")
            .map(|(value, status)| if client.json { pretty(&value) } else { screen(&status, wants_colours()) }),
    )
}

fn screen(status: &Status, colours: bool) -> String {
    let mut text = String::new();
    let (red, green, yellow, end) =
        if colours { ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m") } else { ("", "", "", "") };
    // Writing to a String cannot fail, here and below.
    for problem in &status.problems {
        let _ = writeln!(text, "{red}! {problem}{end}");
    }
    if status.problems.is_empty() {
        let verdict = if status.notes.is_empty() { "all is well" } else { "nothing is wrong, but:" };
        let _ = writeln!(text, "{green}{verdict}{end}");
    }
    for note in &status.notes {
        let _ = writeln!(text, "{yellow}- {note}{end}");
    }
    let UpOf { up, total } = status.vips;
    let members = status.members;
    let _ = writeln!(text, "\nVIPs      {up} of {total} up");
    let _ = writeln!(text, "pools     {} of {} up", status.pools.up, status.pools.total);
    let _ = writeln!(text, "members   {} of {} up", members.up, members.total);
    let flows = status.flows;
    let percent = 100.0 * flows.v4 as f64 / (flows.capacity_v4.max(1)) as f64;
    let _ = writeln!(text, "flows     {} of {} ({percent:.1} %)", flows.v4, flows.capacity_v4);
    let name = status.node.as_deref().map_or_else(String::new, |name| format!(" {name}"));
    let (version, revision) = (&status.version, status.revision);
    let _ = writeln!(text, "daemon    {version}{name}, up {}, revision {revision}", duration(status.uptime_seconds));
    for interface in &status.interfaces {
        let queues = if interface.queues == 1 { "queue" } else { "queues" };
        let _ = writeln!(
            text,
            "interface {} {} XDP, {}, {} {queues}",
            interface.name, interface.xdp_mode, interface.copy_mode, interface.queues
        );
    }
    let mut workers = Table::new(&["WORKER", "CORE", "RECEIVED", "SENT", "DROPPED", "MOSTLY"]);
    for worker in &status.workers {
        let most = worker.drops.iter().max_by_key(|(_, count)| **count).map_or("", |(reason, _)| reason.as_str());
        workers.row([
            worker.id.to_string(),
            worker.core.to_string(),
            worker.packets.to_string(),
            worker.transmitted.to_string(),
            worker.drops.values().sum::<u64>().to_string(),
            most.to_owned(),
        ]);
    }
    let _ = write!(text, "\n{}", workers.text());
    text
}

/// In its two largest units.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::shape::Flows;

    #[test]
    fn what_is_wrong_comes_first() {
        let flows = Flows { v4: 1, v6: 0, capacity_v4: 4, capacity_v6: 0 };
        let mut status = Status {
            version: "1".into(),
            node: Some("lb1".into()),
            revision: 7,
            uptime_seconds: 90_000,
            interfaces: Vec::new(),
            flows,
            workers: Vec::new(),
            vips: UpOf { up: 1, total: 2 },
            pools: UpOf { up: 1, total: 1 },
            members: UpOf { up: 3, total: 4 },
            problems: vec!["VIP web: nobody".into(), "member a/b down: x".into()],
            notes: vec!["member a/c drain: drained by an operator: gets nothing new".into()],
        };
        let text = screen(&status, false);
        assert!(
            text.starts_with("! VIP web: nobody\n! member a/b down: x\n- member a/c drain: drained by an operator: gets nothing new\n\nVIPs"),
            "{text}"
        );
        assert!(text.contains("flows     1 of 4 (25.0 %)\ndaemon    1 lb1, up 1d 1h, revision 7\n"), "{text}");
        assert!(text.contains("\nVIPs      1 of 2 up\npools     1 of 1 up\n"), "{text}");
        status.problems.clear();
        assert!(screen(&status, false).starts_with("nothing is wrong, but:\n- member a/c drain"));
        status.notes.clear();
        assert!(screen(&status, false).starts_with("all is well\n"));
    }
}
