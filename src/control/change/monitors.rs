//! What differs about a pool's monitors, and about what it makes of them.

use serde_json::Value;

use super::super::model::monitor::{Dns, Exchange, Http, Probe, Script, Tls};
use super::super::model::{Damping, Model, Monitor, Policy, Pool, StatusRange, Title, titles};
use super::super::value::spelt;
use super::{HIDDEN, Item, Keys, Pair};

/// The pool's own keys about its monitors. (The port that its VIPs have is theirs.)
pub(super) fn policy(keys: &mut Keys, (old, before): (&Model, &Policy), (new, after): (&Model, &Policy)) {
    let Policy {
        monitors: _,
        combine,
        start,
        damping,
        quorum,
        quorum_hysteresis,
        sorry_pool,
        slow_start,
        service_port: _,
    } = before;
    keys.add("monitors", combine.to_string(), after.combine.to_string());
    keys.add("start", start.to_string(), after.start.to_string());
    keys.add("damping", damping.as_ref().map(damped), after.damping.as_ref().map(damped));
    keys.add("quorum", *quorum, after.quorum);
    keys.add("quorum_hysteresis", *quorum_hysteresis, after.quorum_hysteresis);
    keys.add("sorry_pool", named(old, *sorry_pool), named(new, after.sorry_pool));
    keys.add("slow_start", slow_start.map(spelt), after.slow_start.map(spelt));
}

fn named(model: &Model, pool: Option<usize>) -> Option<String> {
    pool.map(|pool| model.pools[pool].name.clone())
}

fn damped(Damping { downs, within, hold }: &Damping) -> String {
    format!("{downs} downs within {}, hold {}", spelt(*within), spelt(*hold))
}

/// The monitors of a pool that stays: those that are the same; of the rest, those that ask the same; of the rest, the
/// first of a type and the first of that type, and so on.
pub(super) fn monitors(old: &Pool, new: &Pool) -> Vec<Item> {
    let (old, after) = (&old.policy.monitors, new);
    let new = &after.policy.monitors;
    if old == new {
        return Vec::new();
    }
    let titles: Vec<(&Monitor, Title)> = new.iter().zip(titles(new)).chain(old.iter().zip(titles(old))).collect();
    let title = |monitor: &Monitor| {
        let title = titles.iter().find(|(one, _)| std::ptr::eq(*one, monitor));
        title.map_or("", |(_, title)| title.short.as_str())
    };
    let name = |monitor: &Monitor| format!("{}/{}", after.name, title(monitor));
    // Unless its title says it.
    let port = |monitor: &Monitor| match monitor.port {
        Some(port) if title(monitor) == monitor.probe.kind().to_string() => format!("port {port}"),
        _ => String::new(),
    };
    pairs(old, new).into_iter().filter_map(|pair| pair.item(name, port, differing)).collect()
}

/// In the new order, then those that go.
fn pairs<'m>(old: &'m [Monitor], new: &'m [Monitor]) -> Vec<Pair<'m, Monitor>> {
    let alike: [fn(&Monitor, &Monitor) -> bool; 3] = [
        |one, other| one == other,
        |one, other| one.probe == other.probe && one.port == other.port,
        |one, other| one.probe.kind() == other.probe.kind(),
    ];
    let mut left: Vec<&Monitor> = old.iter().collect();
    let mut pairs: Vec<Pair<'_, Monitor>> = new.iter().map(|one| Pair { old: None, new: Some(one) }).collect();
    for is_alike in alike {
        for pair in pairs.iter_mut().filter(|pair| pair.old.is_none()) {
            let partner = left.iter().position(|old| pair.new.is_some_and(|new| is_alike(old, new)));
            pair.old = partner.map(|index| left.remove(index));
        }
    }
    pairs.extend(left.into_iter().map(|one| Pair { old: Some(one), new: None }));
    pairs
}

fn differing(before: &Monitor, after: &Monitor) -> Keys {
    let Monitor { probe, interval, timeout, rise, fall, port } = before;
    let mut keys = Keys(Vec::new());
    keys.add("interval", spelt(*interval), spelt(after.interval));
    keys.add("timeout", spelt(*timeout), spelt(after.timeout));
    keys.add("rise", *rise, after.rise);
    keys.add("fall", *fall, after.fall);
    keys.add("port", *port, after.port);
    // Of the same type, so with the same keys.
    for (was, is) in settings(probe).into_iter().zip(settings(&after.probe)) {
        keys.add_shown(was.key, was.differs_by != is.differs_by, was.shown, is.shown);
    }
    keys
}

/// A setting of a probe's.
struct Setting {
    key: &'static str,
    /// What it is.
    differs_by: Value,
    /// What may be said of that: a log is no place for credentials.
    shown: Value,
}

fn open(key: &'static str, value: impl Into<Value>) -> Setting {
    let value = value.into();
    Setting { key, differs_by: value.clone(), shown: value }
}

fn hidden(key: &'static str, value: impl Into<Value>) -> Setting {
    let value = value.into();
    let shown = if value.is_null() { Value::Null } else { HIDDEN.into() };
    Setting { key, differs_by: value, shown }
}

fn settings(probe: &Probe) -> Vec<Setting> {
    match probe {
        Probe::Ping => Vec::new(),
        Probe::Tcp(Exchange { send, expect }) | Probe::Udp(Exchange { send, expect }) => {
            vec![hidden("send", send.clone()), open("expect", expect.clone())]
        }
        Probe::Tls(tls) => of_tls(Some(tls)),
        Probe::Http(Http { tls, method, path, host, headers, expect_status, expect_body }) => {
            let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            let codes: Vec<String> = expect_status.iter().map(StatusRange::to_string).collect();
            let mut all = vec![
                open("method", method.clone()),
                open("path", path.clone()),
                open("host", host.clone()),
                hidden("headers", headers),
                open("expect_status", codes),
                open("expect_body", expect_body.clone()),
            ];
            all.extend(of_tls(tls.as_ref()));
            all
        }
        Probe::Dns(Dns { query, record, rcode, answer }) => vec![
            open("query", query.clone()),
            open("record", record.clone()),
            open("expect_rcode", rcode.to_string()),
            open("expect_answer", answer.clone()),
        ],
        Probe::Script(Script { command, arguments, send, expect, dynamic_weight }) => vec![
            open("command", command.display().to_string()),
            hidden("args", arguments.clone()),
            hidden("send", send.clone()),
            open("expect", expect.clone()),
            open("dynamic_weight", *dynamic_weight),
        ],
    }
}

fn of_tls(tls: Option<&Tls>) -> Vec<Setting> {
    let Some(Tls { sni, verify, ca }) = tls else { return Vec::new() };
    let ca = ca.as_ref().map(|path| path.display().to_string());
    vec![open("sni", sni.clone()), open("verify", *verify), open("ca", ca)]
}
