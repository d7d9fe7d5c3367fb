//! What monitors are called: by their type and by what they ask, so that several of a pool's can be told apart.

use std::fmt::Write as _;

use super::StatusRange;
use super::monitor::{Dns, Exchange, Http, Monitor, Probe, Script, Tls};

/// What a monitor is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Title {
    /// Its own among the pool's monitors, and by nothing but its settings where they suffice for that: `tcp :8080`,
    /// `http /health`.
    pub name: String,
    /// The type alone where the pool has no other of it.
    pub short: String,
}

/// Of each of a pool's monitors, in their order.
pub fn titles(monitors: &[Monitor]) -> Vec<Title> {
    let mut names: Vec<String> = monitors.iter().map(name).collect();
    for (index, monitor) in monitors.iter().enumerate() {
        let namesakes = || monitors.iter().filter(|other| name(other) == name(monitor));
        let differs = |(key, value): &(&str, String)| {
            namesakes().flat_map(|other| details(&other.probe)).any(|(one, other)| one == *key && other != *value)
        };
        if let Some((key, value)) = details(&monitor.probe).into_iter().find(differs) {
            // Writing to a String cannot fail, here and below.
            let _ = write!(names[index], " ({key} {value})");
        }
    }
    // What is left differs by what is not to be shown.
    for index in 0..names.len() {
        let before = names[..index].iter().filter(|one| **one == names[index]).count();
        if before > 0 {
            let _ = write!(names[index], " #{}", before + 1);
        }
    }
    let is_alone =
        |monitor: &Monitor| monitors.iter().filter(|other| other.probe.kind() == monitor.probe.kind()).count() == 1;
    let title = |(monitor, name): (&Monitor, String)| {
        let short = if is_alone(monitor) { monitor.probe.kind().to_string() } else { name.clone() };
        Title { name, short }
    };
    monitors.iter().zip(names).map(title).collect()
}

/// By its type, its port if it has one of its own, and the one setting that says most.
fn name(monitor: &Monitor) -> String {
    let kind = monitor.probe.kind();
    let port = monitor.port.map_or_else(String::new, |port| format!(":{port}"));
    let what = match &monitor.probe {
        Probe::Ping => String::new(),
        Probe::Tcp(_) | Probe::Udp(_) => port,
        Probe::Tls(Tls { sni, .. }) => sni.clone().unwrap_or_default() + &port,
        Probe::Http(Http { path, .. }) => port + path,
        Probe::Dns(Dns { query, .. }) => query.clone() + &port,
        Probe::Script(Script { command, .. }) => {
            command.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()) + &port
        }
    };
    if what.is_empty() { kind.to_string() } else { format!("{kind} {what}") }
}

/// What else may tell two of a type apart, the most telling first. Neither what is sent nor a script's arguments: they
/// may hold credentials.
fn details(probe: &Probe) -> Vec<(&'static str, String)> {
    let all = match probe {
        Probe::Ping => Vec::new(),
        Probe::Tcp(Exchange { expect, .. }) | Probe::Udp(Exchange { expect, .. }) => vec![("expect", expect.clone())],
        Probe::Tls(tls) => of_tls(tls),
        Probe::Http(Http { tls, method, host, expect_status, expect_body, .. }) => {
            let codes: Vec<String> = expect_status.iter().map(StatusRange::to_string).collect();
            let mut all = vec![
                ("host", host.clone()),
                ("method", Some(method.clone())),
                ("expect_status", Some(codes.join(", "))),
                ("expect_body", expect_body.clone()),
            ];
            all.extend(tls.iter().flat_map(of_tls));
            all
        }
        Probe::Dns(Dns { record, rcode, answer, .. }) => vec![
            ("record", Some(record.clone())),
            ("expect_rcode", Some(rcode.to_string())),
            ("expect_answer", answer.clone()),
        ],
        Probe::Script(Script { command, expect, .. }) => {
            vec![("command", Some(command.display().to_string())), ("expect", expect.clone())]
        }
    };
    all.into_iter().map(|(key, value)| (key, value.unwrap_or_else(|| "none".to_owned()))).collect()
}

fn of_tls(tls: &Tls) -> Vec<(&'static str, Option<String>)> {
    vec![
        ("sni", tls.sni.clone()),
        ("verify", Some(tls.verify.to_string())),
        ("ca", tls.ca.as_ref().map(|path| path.display().to_string())),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;

    /// Name and short one of each of these `[[pool.monitor]]`s.
    fn of(monitors: &[&str]) -> Vec<(String, String)> {
        let mut text = String::from(
            "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\n\
             port = 80\npool = \"p\"\n[[pool]]\nname = \"p\"\n[[pool.member]]\nname = \"m\"\naddress = \"10.0.0.1\"\n",
        );
        for monitor in monitors {
            let _ = writeln!(text, "[[pool.monitor]]\n{}", monitor.replace("; ", "\n"));
        }
        let model = Model::parse("p.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        titles(&model.pools[0].policy.monitors).into_iter().map(|title| (title.name, title.short)).collect()
    }

    #[test]
    fn monitors_of_one_type_are_told_apart() {
        // Monitors, and what each is called: its name, and the short one where it is another.
        let rows: &[(&[&str], &[&str])] = &[
            (&["type = \"tcp\""], &["tcp"]),
            (&["type = \"tcp\"; port = 8080"], &["tcp :8080|tcp"]),
            (&["type = \"tcp\"", "type = \"tcp\"; port = 8080"], &["tcp", "tcp :8080"]),
            (&["type = \"http\"", "type = \"ping\""], &["http /|http", "ping"]),
            (
                &["type = \"http\"; path = \"/health\"", "type = \"http\"; port = 81; path = \"/ready\""],
                &["http /health", "http :81/ready"],
            ),
            (
                &["type = \"http\"; host = \"a.example\"", "type = \"http\"; host = \"b.example\""],
                &["http / (host a.example)", "http / (host b.example)"],
            ),
            (
                &["type = \"http\"; host = \"a.example\"", "type = \"http\""],
                &["http / (host a.example)", "http / (host none)"],
            ),
            (
                &["type = \"https\"; expect_status = [200]", "type = \"https\"; expect_status = [301, \"400-403\"]"],
                &["https / (expect_status 200)", "https / (expect_status 301, 400-403)"],
            ),
            // What is sent is nobody's affair.
            (
                &["type = \"tcp\"; send = \"secret\"", "type = \"tcp\"; send = \"hidden\"", "type = \"tcp\"; port = 1"],
                &["tcp", "tcp #2", "tcp :1"],
            ),
            (
                &["type = \"dns\"; query = \"a.example\"; port = 53", "type = \"dns\"; query = \"b.example\""],
                &["dns a.example:53", "dns b.example"],
            ),
            (
                &["type = \"script\"; command = \"/a/check\"", "type = \"script\"; command = \"/b/check\""],
                &["script check (command /a/check)", "script check (command /b/check)"],
            ),
            (
                &["type = \"tls\"; sni = \"a.example\"; port = 443", "type = \"tls\"; verify = false"],
                &["tls a.example:443", "tls"],
            ),
        ];
        for (monitors, expected) in rows {
            let expected: Vec<(String, String)> = expected
                .iter()
                .map(|one| one.split_once('|').unwrap_or((one, one)))
                .map(|(name, short)| (name.to_owned(), short.to_owned()))
                .collect();
            assert_eq!(of(monitors), expected, "{monitors:?}");
        }
    }

    #[test]
    fn a_name_does_not_depend_on_the_order() {
        let (one, other) = ("type = \"http\"; host = \"a.example\"", "type = \"http\"; path = \"/x\"");
        let mut turned = of(&[other, one]);
        turned.reverse();
        assert_eq!(of(&[one, other]), turned);
    }
}
