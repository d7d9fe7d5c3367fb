//! What a demo has measured, what must hold, and how it is told.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::lab::{Lab, LabError, Load, LoadReport, Topology};

/// How far a member's share may be off, in parts of its expected requests …
const SHARE_TOLERANCE: f64 = 0.05;
/// … or in standard deviations of fair dice, where few requests scatter more than that: 5 is once in a million runs.
const SHARE_SIGMAS: f64 = 5.0;
/// Of the replies, one in so many may be unaccounted for by the comparison of counters: ARP is counted too.
const REPLIES_PER_STRAY: u64 = 20;

/// Packets on the lab's interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packets {
    /// What the client sent.
    pub(super) from_client: u64,
    /// What the client received.
    pub(super) to_client: u64,
    /// What entered the balancer.
    pub(super) into_balancer: u64,
    /// What left the balancer.
    pub(super) out_of_balancer: u64,
    /// What the members sent.
    pub(super) from_members: u64,
}

impl Packets {
    /// Reads the counters.
    pub(super) fn count(lab: &Lab) -> Result<Self, LabError> {
        let client = lab.client().interface_counters("eth0")?;
        let balancer = lab.balancer().interface_counters("eth0")?;
        let mut from_members = 0;
        for index in 0..lab.topology().members {
            from_members += lab.member(index).interface_counters("eth0")?.tx_packets;
        }
        Ok(Self {
            from_client: client.tx_packets,
            to_client: client.rx_packets,
            into_balancer: balancer.rx_packets,
            out_of_balancer: balancer.tx_packets,
            from_members,
        })
    }

    /// What was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            from_client: self.from_client - before.from_client,
            to_client: self.to_client - before.to_client,
            into_balancer: self.into_balancer - before.into_balancer,
            out_of_balancer: self.out_of_balancer - before.out_of_balancer,
            from_members: self.from_members - before.from_members,
        }
    }

    /// The most replies that can have passed the balancer: what entered it and did not come from the client. Were
    /// replies sent through it, this would be about all of them.
    fn replies_through_balancer(&self) -> u64 {
        self.into_balancer.saturating_sub(self.from_client)
    }
}

/// What a demo has measured.
pub(super) struct Outcome {
    pub(super) load: Load,
    pub(super) weights: Vec<u16>,
    pub(super) report: LoadReport,
    pub(super) packets: Packets,
    /// The balancer's own words about what it attached.
    pub(super) attached: Vec<String>,
    /// How the balancer ended, well or not.
    pub(super) stopped: Result<String, String>,
}

/// One thing that must hold.
struct Check {
    name: &'static str,
    holds: bool,
    detail: String,
}

/// One member's part.
struct Share {
    member: String,
    weight: u16,
    requests: u64,
    expected: f64,
}

impl Share {
    /// In parts of what was expected; of a member that should get nothing, any request is too much.
    fn deviation(&self) -> f64 {
        match (self.expected > 0.0, self.requests) {
            (true, requests) => requests as f64 / self.expected - 1.0,
            (false, 0) => 0.0,
            (false, _) => f64::INFINITY,
        }
    }

    fn tolerance(&self, total: f64) -> f64 {
        let part = self.expected / total;
        let sigma = ((1.0 - part) / self.expected).sqrt();
        if self.expected > 0.0 { SHARE_TOLERANCE.max(SHARE_SIGMAS * sigma) } else { 0.0 }
    }
}

impl Outcome {
    /// Whether everything was as it should be.
    pub(super) fn all_held(&self) -> bool {
        self.checks().iter().all(|check| check.holds)
    }

    /// For people.
    pub(super) fn text(&self, colours: bool) -> String {
        let Self { report, packets, .. } = self;
        let mut text = String::from("  member      weight   requests    share   expected   deviation\n");
        // Writing to a String cannot fail: the results below are of no interest.
        let total = report.requests.max(1) as f64;
        for share in self.shares() {
            let _ = writeln!(
                text,
                "  {:<10} {:>7} {:>10} {:>7.2}% {:>9.2}% {:>+10.2}%",
                share.member,
                share.weight,
                grouped(share.requests),
                share.requests as f64 / total * 100.0,
                share.expected / total * 100.0,
                share.deviation() * 100.0,
            );
        }
        let _ = writeln!(
            text,
            "\n  packets: {} from the client, {} into the balancer, {} out of it\n           \
             {} from the members, {} to the client",
            grouped(packets.from_client),
            grouped(packets.into_balancer),
            grouped(packets.out_of_balancer),
            grouped(packets.from_members),
            grouped(packets.to_client),
        );
        let _ = writeln!(
            text,
            "  rate:    {} packets/s through the balancer, {} connections/s, in {:.1} s",
            grouped(self.per_second(packets.into_balancer)),
            grouped(self.per_second(report.connections)),
            report.elapsed_ms as f64 / 1000.0,
        );
        let _ = writeln!(
            text,
            "  latency: p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms, from the call to the answer's last byte, \
             {} at a time\n",
            report.latency.p50_us as f64 / 1000.0,
            report.latency.p99_us as f64 / 1000.0,
            report.latency.max_us as f64 / 1000.0,
            self.load.concurrency,
        );
        for check in self.checks() {
            let mark = match (check.holds, colours) {
                (true, false) => "ok    ",
                (true, true) => "\x1b[32mok\x1b[0m    ",
                (false, false) => "FAILED",
                (false, true) => "\x1b[31mFAILED\x1b[0m",
            };
            let _ = writeln!(text, "  {mark} {}: {}", check.name, check.detail);
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let Self { load, report, packets, .. } = self;
        let total = report.requests.max(1) as f64;
        let member = |share: Share| {
            json!({
                "name": share.member,
                "weight": share.weight,
                "requests": share.requests,
                "share": share.requests as f64 / total,
                "expected_share": share.expected / total,
            })
        };
        let check = |check: Check| json!({ "name": check.name, "ok": check.holds, "detail": check.detail });
        json!({
            "ok": self.all_held(),
            "requests": report.requests,
            "connections": report.connections,
            "failures": report.failures,
            "failure_counts": report.failure_counts,
            "concurrency": load.concurrency,
            "elapsed_ms": report.elapsed_ms,
            "packets_per_second": self.per_second(packets.into_balancer),
            "connections_per_second": self.per_second(report.connections),
            "latency": report.latency,
            "members": self.shares().into_iter().map(member).collect::<Vec<_>>(),
            "requests_by_client": report.requests_by_client,
            "packets": {
                "from_client": packets.from_client,
                "into_balancer": packets.into_balancer,
                "out_of_balancer": packets.out_of_balancer,
                "from_members": packets.from_members,
                "to_client": packets.to_client,
            },
            "attached": self.attached,
            "checks": self.checks().into_iter().map(check).collect::<Vec<_>>(),
        })
    }

    fn checks(&self) -> [Check; 6] {
        [self.answered(), self.shared(), self.clients_seen(), self.replies_direct(), self.modes_known(), self.stopped()]
    }

    fn answered(&self) -> Check {
        let Self { load, report, .. } = self;
        let holds = report.failures == 0 && report.requests == load.connections;
        let mut detail = format!(
            "{} of {} on as many connections, {} failures",
            grouped(report.requests),
            grouped(load.connections),
            grouped(report.failures)
        );
        for (kind, count) in &report.failure_counts {
            let _ = write!(detail, "\n           {} × {kind}", grouped(*count));
        }
        Check { name: "requests answered", holds, detail }
    }

    fn shared(&self) -> Check {
        let total = self.report.requests.max(1) as f64;
        let shares = self.shares();
        let known: u64 = shares.iter().map(|share| share.requests).sum();
        let holds = known == self.report.requests
            && shares.iter().all(|share| share.deviation().abs() <= share.tolerance(total));
        let worst = shares.iter().map(|share| share.deviation().abs()).fold(0.0, f64::max);
        let allowed = shares.iter().map(|share| share.tolerance(total)).fold(0.0, f64::max);
        let detail = format!("off by at most {:.2} %, {:.2} % are allowed", worst * 100.0, allowed * 100.0);
        Check { name: "members got their shares", holds, detail }
    }

    fn clients_seen(&self) -> Check {
        let LoadReport { wrong_clients, requests_by_client, .. } = &self.report;
        let own: Vec<String> = self.load.sources.iter().map(ToString::to_string).collect();
        let holds = wrong_clients.is_empty() && requests_by_client.keys().all(|seen| own.contains(seen));
        let seen: Vec<&str> = requests_by_client.keys().map(String::as_str).collect();
        let detail = match wrong_clients.first() {
            None => format!("{}, and each request's own port", seen.join(", ")),
            Some(wrong) => format!("{} others as well, for example {wrong}", wrong_clients.len()),
        };
        Check { name: "members saw the client's own address", holds, detail }
    }

    /// In direct routing replies must not pass the balancer.
    fn replies_direct(&self) -> Check {
        let through = self.packets.replies_through_balancer();
        let replies = self.packets.to_client;
        let strays = replies / REPLIES_PER_STRAY;
        // Each connection takes two replies at the very least, so that there is something to miss.
        let enough = replies >= 2 * self.report.connections && self.packets.from_members + strays >= replies;
        let holds = enough && through <= strays;
        let detail = format!(
            "of {} packets that entered it, {} were the client's, so at most {} of {} replies",
            grouped(self.packets.into_balancer),
            grouped(self.packets.into_balancer - through),
            grouped(through),
            grouped(replies),
        );
        Check { name: "replies went around the balancer", holds, detail }
    }

    fn modes_known(&self) -> Check {
        let detail = if self.attached.is_empty() { "it did not say".to_owned() } else { self.attached.join("; ") };
        Check { name: "the balancer said what it attached", holds: !self.attached.is_empty(), detail }
    }

    fn stopped(&self) -> Check {
        let (Ok(detail) | Err(detail)) = &self.stopped;
        Check { name: "the balancer was well to the end", holds: self.stopped.is_ok(), detail: detail.clone() }
    }

    fn shares(&self) -> Vec<Share> {
        let weights: f64 = self.weights.iter().map(|weight| f64::from(*weight)).sum();
        let share = |(index, &weight): (usize, &u16)| {
            let member = Topology::member_name(index);
            let requests = self.report.requests_by_member.get(&member).copied().unwrap_or(0);
            Share { member, weight, requests, expected: self.report.requests as f64 * f64::from(weight) / weights }
        };
        self.weights.iter().enumerate().map(share).collect()
    }

    fn per_second(&self, count: u64) -> u64 {
        count * 1000 / self.report.elapsed_ms.max(1)
    }
}

/// `1234567` as `1 234 567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A demo of 30 000 requests in which all was well.
    fn well() -> Outcome {
        let count = |key: &str, number: u64| (key.to_owned(), number);
        Outcome {
            load: Load { connections: 30_000, sources: vec!["192.0.2.10".parse().unwrap()], ..Load::default() },
            weights: vec![1, 2, 0],
            report: LoadReport {
                connections: 30_000,
                requests: 30_000,
                requests_by_member: BTreeMap::from([count("member1", 10_100), count("member2", 19_900)]),
                requests_by_client: BTreeMap::from([count("192.0.2.10", 30_000)]),
                elapsed_ms: 5000,
                ..LoadReport::default()
            },
            packets: Packets {
                from_client: 150_000,
                to_client: 120_000,
                into_balancer: 150_010,
                out_of_balancer: 150_004,
                from_members: 120_000,
            },
            attached: vec!["attached eth0 native copy queue 0".to_owned()],
            stopped: Ok("stopped".to_owned()),
        }
    }

    fn failed(outcome: &Outcome) -> Vec<&'static str> {
        outcome.checks().iter().filter(|check| !check.holds).map(|check| check.name).collect()
    }

    type Spoil = fn(&mut Outcome);

    #[test]
    fn every_check_can_fail_and_fails_alone() {
        assert_eq!(failed(&well()), Vec::<&str>::new());
        let cases: [(&str, Spoil); 9] = [
            ("requests answered", |o| o.report.failures = 1),
            ("requests answered", |o| o.load.connections += 1),
            ("members got their shares", |o| {
                // 5.5 % too many.
                o.report.requests_by_member = BTreeMap::from([("member1".into(), 10_550), ("member2".into(), 19_450)]);
            }),
            ("members got their shares", |o| {
                o.report.requests_by_member.insert("member3".into(), 1);
                o.report.requests_by_member.insert("member1".into(), 10_099);
            }),
            ("members saw the client's own address", |o| {
                o.report.wrong_clients = BTreeSet::from(["198.51.100.10:1".into()]);
            }),
            ("members saw the client's own address", |o| {
                o.report.requests_by_client.insert("198.51.100.10".into(), 1);
            }),
            ("replies went around the balancer", |o| {
                // As under NAT: replies enter the balancer as well.
                o.packets.into_balancer += o.packets.to_client;
                o.packets.out_of_balancer += o.packets.to_client;
            }),
            ("the balancer said what it attached", |o| o.attached.clear()),
            ("the balancer was well to the end", |o| o.stopped = Err("signal: 9".into())),
        ];
        for (expected, spoil) in cases {
            let mut outcome = well();
            spoil(&mut outcome);
            assert_eq!(failed(&outcome), [expected]);
            assert_eq!(outcome.json()["ok"], false);
            assert!(outcome.text(false).contains(&format!("FAILED {expected}")), "{}", outcome.text(false));
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
