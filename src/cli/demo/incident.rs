//! An afternoon on call: a configuration is applied, a member's server dies and comes back, and a member is drained, each
//! while requests come in. By the commands that somebody on call would use.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::check::Check;
use super::plan::Part;
use super::{Screen, grouped};
use crate::cli::events::sentence;
use crate::control::api::shape::Event;
use crate::lab::{Lab, Load, LoadReport, Process, Service, Topology};

/// Requests per second, each on a connection of its own: for any machine easy to keep up with, and to time failures by.
const RATE: u64 = 400;
/// Requests in a phase, which so takes three seconds.
const REQUESTS: u64 = 3 * RATE;
/// When in a phase something is done.
const DONE_AT_MS: u64 = 1000;
/// Requests of each phase's end must have an answer by then.
const LIMIT_SECONDS: u64 = 20;
/// A member's last flows end `tcp_closing` after their client's FIN, and are seen to be over a sweep later.
const DRAINED_WITHIN: &str = "20";

const VIP_LINES: &str = "timeouts = { tcp_closing = \"1s\" }\n";
const POOL_LINES: &str = "\n[[pool.monitor]]\ntype = \"http\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = 2\n\
                          fall = 2\n";
/// What this monitor promises: interval × fall + timeout, and 50 ms to act.
const DETECTED_WITHIN_MS: u64 = 200 * 2 + 200 + 50;

/// What happened in all.
pub(super) struct Incident {
    phases: Vec<Phase>,
    events: Vec<Event>,
    /// The member that died, and the one that was drained, as `POOL/MEMBER`.
    members: [String; 2],
}

/// One thing that was done while requests came in.
struct Phase {
    name: &'static str,
    /// What was done.
    done: String,
    /// What a command said to it.
    said: Option<String>,
    /// When it was done, in milliseconds since the load's start.
    done_ms: u64,
    report: LoadReport,
    /// How long after it requests may fail.
    may_fail_ms: Option<u64>,
}

/// Those that can be done without: two members that get requests, the second of which dies and the first is drained.
pub(super) fn can_spare(weights: &[u16]) -> Option<[usize; 2]> {
    let mut serving = (0..weights.len()).filter(|&index| weights[index] > 0);
    let (first, second) = (serving.next()?, serving.next()?);
    Some([second, first])
}

/// Has all of it happen at `part`'s VIP.
pub(super) fn happen(
    lab: &Lab,
    (part, services): (Part, &[Service]),
    [dying, drained]: [usize; 2],
    servers: &mut [Process],
    screen: &Screen,
) -> anyhow::Result<Incident> {
    let target = part.target();
    let pool = part.method.key();
    screen.line(&format!("An afternoon on call: {RATE} requests a second to http://{target}/ while this happens."));
    let load = Load {
        target,
        connections: REQUESTS,
        rate: RATE,
        concurrency: 4 * RATE,
        patience_seconds: 5,
        limit_seconds: LIMIT_SECONDS,
        ..lab.get()
    };
    let before = events(lab)?.last().map_or(0, |event| event.id);
    let mut phases = Vec::new();
    let mut pass = |phase: Phase| {
        screen.line(&phase.line());
        phases.push(phase);
    };

    let watched = services.iter().map(|service| {
        let watched = Service { vip_lines: VIP_LINES, pool_lines: POOL_LINES, ..service.clone() };
        if service.name == pool { watched } else { service.clone() }
    });
    let file = lab.directory().join("checked.toml");
    std::fs::write(&file, lab.config(&watched.collect::<Vec<_>>())).context("writing a configuration")?;
    let path = file.to_string_lossy().into_owned();
    let applied = during(lab, &load, || pointsman(lab, &["apply", &path]))?;
    pass(applied.phase("apply", "pointsman apply checked.toml (adds health checks)".to_owned()));

    let name = Topology::member_name(dying);
    let died = during(lab, &load, || servers[dying].kill().map(|_| String::new()).map_err(Into::into))?;
    let died = died.phase("kill", format!("{name}'s server is killed"));
    pass(Phase { may_fail_ms: Some(DETECTED_WITHIN_MS), ..died });

    let back = during(lab, &load, || {
        servers[dying] = lab.spawn_member_server(dying)?;
        Ok(String::new())
    })?;
    let answered = back.report.requests_by_member.get(&name).copied().unwrap_or(0);
    let mut back = back.phase("back", format!("{name}'s server is started again"));
    back.said = Some(format!("{name} answered {answered} of them"));
    pass(back);

    let leaving = format!("{pool}/{}", Topology::member_name(drained));
    let drain = during(lab, &load, || pointsman(lab, &["member", "drain", &leaving]))?;
    let mut drain = drain.phase("drain", format!("pointsman member drain {leaving} --wait"));
    let waited = pointsman(lab, &["member", "drain", &leaving, "--wait", "--timeout", DRAINED_WITHIN])?;
    drain.said = waited.lines().last().map(str::to_owned);
    pass(drain);
    pointsman(lab, &["member", "enable", &leaving])?;

    let events: Vec<Event> = events(lab)?.into_iter().filter(|event| event.id > before).collect();
    screen.line("  What the balancer has to say about it (pointsman events):");
    for event in &events {
        screen.line(&format!("    {}", sentence(event)));
    }
    Ok(Incident { phases, events, members: [format!("{pool}/{name}"), leaving] })
}

/// A load with something done in the middle of it.
struct During {
    report: LoadReport,
    done_ms: u64,
    said: String,
}

fn during(lab: &Lab, load: &Load, act: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<During> {
    let mut act = Some(act);
    let mut done = None;
    let report = lab.client_load_with(load, |progress| {
        if progress.elapsed_ms >= DONE_AT_MS
            && let Some(act) = act.take()
        {
            done = Some((progress.elapsed_ms, act()));
        }
    })?;
    let (done_ms, said) = done.context("the load ended before anything was done")?;
    Ok(During { report, done_ms, said: said? })
}

impl During {
    fn phase(self, name: &'static str, done: String) -> Phase {
        let Self { report, done_ms, said } = self;
        let said = said.lines().last().map(str::to_owned);
        Phase { name, done, said, done_ms, report, may_fail_ms: None }
    }
}

/// What a command prints that succeeds.
fn pointsman(lab: &Lab, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(&lab.topology().program);
    command.args(arguments).env("POINTSMAN_SOCKET", lab.directory().join("api.sock"));
    let output = command.output().context("running a command")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("pointsman {}: {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn events(lab: &Lab) -> anyhow::Result<Vec<Event>> {
    let lines = pointsman(lab, &["events", "--json"])?;
    lines.lines().map(|line| serde_json::from_str(line).context("an event")).collect()
}

impl Phase {
    /// Milliseconds from what was done to the last failed request.
    fn last_failure_ms(&self) -> Option<u64> {
        self.report.last_failure_ms.map(|last| last.saturating_sub(self.done_ms))
    }

    fn failed(&self) -> String {
        let LoadReport { failures, connections, .. } = self.report;
        let mut text = format!("{} of {} requests failed", grouped(failures), grouped(failures + connections));
        if let Some(last) = self.last_failure_ms() {
            // Writing to a String cannot fail, here and below.
            let _ = write!(text, ", the last of them {last} ms after it");
        }
        text
    }

    /// For people, as it has happened.
    fn line(&self) -> String {
        let said = self.said.as_ref().map(|said| format!("\n    {}", said.trim())).unwrap_or_default();
        format!("  {}: {}{said}", self.done, self.failed())
    }

    fn check(&self) -> Check {
        let lost = self.report.failures;
        let (name, holds) = match self.may_fail_ms {
            None => (no_failure(self.name), lost == 0),
            Some(most) => ("requests failed only until the failure was found", self.last_failure_ms() <= Some(most)),
        };
        let mut detail = self.failed();
        if let Some(most) = self.may_fail_ms {
            let _ = write!(detail, " ({most} ms are promised)");
        }
        for (kind, count) in &self.report.failure_counts {
            let _ = write!(detail, "\n           {} × {kind}", grouped(*count));
        }
        Check { name, holds, detail }
    }

    fn json(&self) -> Value {
        json!({
            "phase": self.name,
            "done": self.done,
            "requests": self.report.connections + self.report.failures,
            "failures": self.report.failures,
            "failure_counts": self.report.failure_counts,
            "last_failure_ms": self.last_failure_ms(),
            "may_fail_ms": self.may_fail_ms.unwrap_or(0),
            "requests_by_member": self.report.requests_by_member,
        })
    }
}

fn no_failure(phase: &str) -> &'static str {
    match phase {
        "apply" => "no request failed when a configuration was applied",
        "drain" => "no request failed when a member was drained",
        _ => "no request failed when the server came back",
    }
}

impl Incident {
    /// What must hold.
    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks: Vec<Check> = self.phases.iter().map(Phase::check).collect();
        checks.push(self.came_back());
        checks.push(self.told());
        checks
    }

    /// The member that died serves again.
    fn came_back(&self) -> Check {
        let name = self.members[0].split_once('/').map_or("", |(_, name)| name);
        let after = self.phases.iter().find(|phase| phase.name == "back");
        let answered = after.and_then(|phase| phase.report.requests_by_member.get(name)).copied().unwrap_or(0);
        let detail = format!("{name} answered {} requests after that", grouped(answered));
        Check { name: "the server that came back serves again", holds: answered > 0, detail }
    }

    /// Who was down, up again, and drained.
    fn told(&self) -> Check {
        let [died, drained] = &self.members;
        let wanted = [(died, "down"), (died, "up"), (drained, "drain")];
        let told = |(member, to): &(&String, &str)| {
            self.events.iter().any(|event| event.subject == **member && event.to.as_deref() == Some(to))
        };
        let missing: Vec<String> =
            wanted.iter().filter(|one| !told(one)).map(|(member, to)| format!("{member} {to}")).collect();
        let detail = match &missing[..] {
            [] => format!("{} events", self.events.len()),
            missing => format!("without {}", missing.join(", ")),
        };
        Check { name: "the balancer told what happened", holds: missing.is_empty(), detail }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let phases: Vec<Value> = self.phases.iter().map(Phase::json).collect();
        json!({ "phases": phases, "events": self.events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &'static str, may_fail_ms: Option<u64>, last_failure_ms: Option<u64>) -> Phase {
        let failures = u64::from(last_failure_ms.is_some());
        let report = LoadReport { connections: 10 - failures, failures, last_failure_ms, ..LoadReport::default() };
        Phase { name, done: "it is done".to_owned(), said: None, done_ms: 1000, report, may_fail_ms }
    }

    #[test]
    fn two_that_serve_can_be_done_without() {
        for (weights, expected) in
            [(&[1, 1, 1][..], Some([1, 0])), (&[0, 2, 0, 1], Some([3, 1])), (&[1], None), (&[0, 5], None)]
        {
            assert_eq!(can_spare(weights), expected, "{weights:?}");
        }
    }

    #[test]
    fn failures_are_held_against_what_is_promised() {
        for (may_fail, last_failure, holds, detail) in [
            (None, None, true, "0 of 10 requests failed"),
            (None, Some(1300), false, "1 of 10 requests failed, the last of them 300 ms after it"),
            (Some(650), None, true, "0 of 10 requests failed (650 ms are promised)"),
            (Some(650), Some(1650), true, "the last of them 650 ms after it (650 ms are promised)"),
            (Some(650), Some(1651), false, "the last of them 651 ms after it"),
        ] {
            let check = phase("drain", may_fail, last_failure).check();
            assert_eq!(check.holds, holds, "{}", check.detail);
            assert!(check.detail.contains(detail), "{}", check.detail);
        }
    }

    #[test]
    fn who_is_not_told_of_is_named() {
        let event = |id, subject: &str, to: &str| Event {
            id,
            time: String::new(),
            kind: "member".to_owned(),
            subject: subject.to_owned(),
            from: None,
            to: Some(to.to_owned()),
            reason: String::new(),
        };
        let members = ["p/b".to_owned(), "p/a".to_owned()];
        let mut back = phase("back", None, None);
        back.report.requests_by_member.insert("b".to_owned(), 7);
        let events = vec![event(1, "p/b", "down"), event(2, "p/b", "up")];
        let mut incident = Incident { phases: vec![back], events, members };
        let checks = incident.checks();
        assert_eq!((checks[1].holds, &*checks[1].detail), (true, "b answered 7 requests after that"));
        assert_eq!((checks[2].holds, &*checks[2].detail), (false, "without p/a drain"));
        incident.events.push(event(3, "p/a", "drain"));
        assert!(incident.checks()[2].holds);
        incident.phases[0].report.requests_by_member.clear();
        assert!(!incident.checks()[1].holds);
    }
}
