//! Monitors and what pools make of them, as `check` prints them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::control::model::monitor::{Dns, Exchange, Http, Probe, Script, Tls};
use crate::control::model::{Combine, Model, Monitor, Policy, Start, StatusRange, spelt};

/// A line per monitor, and one for what differs from the defaults.
pub(super) fn lines(model: &Model, policy: &Policy) -> String {
    let mut text = String::new();
    for monitor in &policy.monitors {
        let Monitor { probe, interval, timeout, rise, fall, port } = monitor;
        let port = port.map_or_else(String::new, |port| format!(" port {port}"));
        let (kind, detail) = (probe.kind(), detail(probe));
        let (interval, timeout) = (spelt(*interval), spelt(*timeout));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  monitor {kind}{port}{detail}: every {interval}, timeout {timeout}, rise {rise}, fall {fall}"
        );
    }
    let policy = policy_words(model, policy);
    if !policy.is_empty() {
        let _ = writeln!(text, "  {}", policy.join(", "));
    }
    text
}

fn policy_words(model: &Model, policy: &Policy) -> Vec<String> {
    let mut words = Vec::new();
    if policy.combine == Combine::Any {
        words.push("up if any monitor is content".to_owned());
    }
    if policy.start == Start::Down {
        words.push("down at the start".to_owned());
    }
    if let Some(damping) = policy.damping {
        let (within, hold) = (spelt(damping.within), spelt(damping.hold));
        words.push(format!("held down for {hold} after {} times within {within}", damping.downs));
    }
    match (policy.quorum, policy.quorum_hysteresis) {
        (1, 0) => {}
        (quorum, 0) => words.push(format!("quorum {quorum}")),
        (quorum, hysteresis) => words.push(format!("quorum {quorum} (+/- {hysteresis})")),
    }
    if let Some(sorry) = policy.sorry_pool {
        words.push(format!("sorry pool {}", model.pools[sorry].name));
    }
    if let Some(slow_start) = policy.slow_start {
        words.push(format!("slow start {}", spelt(slow_start)));
    }
    words
}

fn detail(probe: &Probe) -> String {
    match probe {
        Probe::Http(http) => {
            let codes: Vec<String> = http.expect_status.iter().map(StatusRange::to_string).collect();
            format!(" {} {} -> {}", http.method, http.path, codes.join(", "))
        }
        Probe::Dns(dns) => {
            format!(" {} {} -> {}", dns.query, dns.record, dns.answer.clone().unwrap_or_else(|| dns.rcode.to_string()))
        }
        Probe::Script(script) => {
            let words = script.arguments.iter().map(|argument| format!(" {argument}"));
            format!(" {}{}", script.command.display(), words.collect::<String>())
        }
        Probe::Ping | Probe::Tcp(_) | Probe::Tls(_) | Probe::Udp(_) => String::new(),
    }
}

/// A pool's monitors with the configuration's own keys.
pub(super) fn json(policy: &Policy) -> Vec<Value> {
    policy.monitors.iter().map(|monitor| Value::Object(monitor_json(monitor))).collect()
}

/// `damping` with the configuration's own keys.
pub(super) fn damping_json(policy: &Policy) -> Value {
    policy.damping.map_or(
        Value::Null,
        |damping| json!({ "downs": damping.downs, "within": spelt(damping.within), "hold": spelt(damping.hold) }),
    )
}

fn monitor_json(monitor: &Monitor) -> Map<String, Value> {
    let mut own = match &monitor.probe {
        Probe::Ping => Map::new(),
        Probe::Tcp(Exchange { send, expect }) | Probe::Udp(Exchange { send, expect }) => {
            object(json!({ "send": send, "expect": expect }))
        }
        Probe::Tls(tls) => tls_json(tls),
        Probe::Http(http) => http_json(http),
        Probe::Dns(Dns { query, record, rcode, answer }) => object(
            json!({ "query": query, "record": record, "expect_rcode": rcode.to_string(), "expect_answer": answer }),
        ),
        Probe::Script(Script { command, arguments, send, expect, dynamic_weight }) => object(json!({
            "command": command, "args": arguments, "send": send, "expect": expect, "dynamic_weight": dynamic_weight,
        })),
    };
    let mut all = object(json!({
        "type": monitor.probe.kind().to_string(),
        "interval": spelt(monitor.interval),
        "timeout": spelt(monitor.timeout),
        "rise": monitor.rise,
        "fall": monitor.fall,
        "port": monitor.port,
    }));
    all.append(&mut own);
    all
}

fn tls_json(tls: &Tls) -> Map<String, Value> {
    object(json!({ "sni": tls.sni, "verify": tls.verify, "ca": tls.ca }))
}

fn http_json(http: &Http) -> Map<String, Value> {
    let headers: Map<String, Value> =
        http.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let codes: Vec<String> = http.expect_status.iter().map(StatusRange::to_string).collect();
    let mut all = object(json!({
        "method": http.method, "path": http.path, "host": http.host, "headers": headers, "expect_status": codes,
        "expect_body": http.expect_body,
    }));
    all.append(&mut http.tls.as_ref().map(tls_json).unwrap_or_default());
    all
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
