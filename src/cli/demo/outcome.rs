//! What a demo has measured in all, what must hold, and how it is told.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::check::Check;
use super::incident::Incident;
use super::per_second;
use super::served::{Packets, Served, Share, members_json};
use crate::lab::Latency;

/// What a demo has measured.
pub(super) struct Outcome {
    /// VIP by VIP, one after the other; at least one.
    pub(super) served: Vec<Served>,
    /// What happened then, if there were members enough for it.
    pub(super) incident: Option<Incident>,
    /// Connections at a time.
    pub(super) concurrency: u64,
    /// The balancer's own words about what it attached.
    pub(super) attached: Vec<String>,
    /// How the balancer ended, well or not.
    pub(super) stopped: Result<String, String>,
}

impl Outcome {
    /// Whether everything was as it should be, for every VIP.
    pub(super) fn all_held(&self) -> bool {
        let vips_held = self.served.iter().flat_map(Served::checks).all(|check| check.holds);
        vips_held && self.checks().iter().all(|check| check.holds)
    }

    /// For people.
    pub(super) fn text(&self, colours: bool) -> String {
        let mut text = String::new();
        for served in &self.served {
            text += &served.text(colours);
            text.push('\n');
        }
        text.extend(self.checks().iter().map(|check| check.line(colours)));
        text.push('\n');
        text.push_str(&self.verdict());
        text
    }

    /// For programs: everything added up, and each VIP by itself under `vips`.
    pub(super) fn json(&self) -> Value {
        let sum = |number: fn(&Served) -> u64| self.served.iter().map(number).sum::<u64>();
        let (connections, elapsed_ms) = (sum(|s| s.report.connections), sum(|s| s.report.elapsed_ms));
        let packets = self.packets();
        let failure_counts = added(self.served.iter().map(|served| &served.report.failure_counts));
        let requests_by_client = added(self.served.iter().map(|served| &served.report.requests_by_client));
        json!({
            "ok": self.all_held(),
            "requests": sum(|s| s.report.requests),
            "connections": connections,
            "failures": sum(|s| s.report.failures),
            "failure_counts": failure_counts,
            "concurrency": self.concurrency,
            "elapsed_ms": elapsed_ms,
            "packets_per_second": per_second(packets.into_balancer, elapsed_ms),
            "connections_per_second": per_second(connections, elapsed_ms),
            "latency": self.latency(),
            "members": members_json(&self.shares()),
            "requests_by_client": requests_by_client,
            "packets": packets.json(),
            "vips": self.served.iter().map(Served::json).collect::<Vec<_>>(),
            "incident": self.incident.as_ref().map(Incident::json),
            "attached": self.attached,
            "checks": self.checks_json(),
        })
    }

    fn verdict(&self) -> String {
        let of_vips = self.served.iter().flat_map(Served::checks);
        let all: Vec<bool> = of_vips.chain(self.checks()).map(|check| check.holds).collect();
        match all.iter().filter(|holds| !**holds).count() {
            0 => format!("PASSED: all {} checks held.\n", all.len()),
            failed => format!("FAILED: {failed} of {} checks did not hold.\n", all.len()),
        }
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = self.incident.as_ref().map(Incident::checks).unwrap_or_default();
        checks.extend([self.modes_known(), self.stopped()]);
        checks
    }

    /// Every check there is; `vip` is null in those about the balancer as a whole.
    fn checks_json(&self) -> Vec<Value> {
        let told = |check: Check, vip: Option<String>| json!({ "name": check.name, "vip": vip, "ok": check.holds, "detail": check.detail });
        let of_vips = self.served.iter().flat_map(|served| {
            let vip = served.vip();
            served.checks().into_iter().map(move |check| told(check, Some(vip.clone())))
        });
        of_vips.chain(self.checks().into_iter().map(|check| told(check, None))).collect()
    }

    fn modes_known(&self) -> Check {
        let detail = if self.attached.is_empty() { "it did not say".to_owned() } else { self.attached.join("; ") };
        Check { name: "the balancer said what it attached", holds: !self.attached.is_empty(), detail }
    }

    fn stopped(&self) -> Check {
        let (Ok(detail) | Err(detail)) = &self.stopped;
        Check { name: "the balancer was well to the end", holds: self.stopped.is_ok(), detail: detail.clone() }
    }

    fn packets(&self) -> Packets {
        self.served.iter().fold(Packets::default(), |sum, served| sum.plus(&served.packets))
    }

    /// Each percentile of the slowest VIP: that of all requests together is no higher.
    fn latency(&self) -> Latency {
        let slowest = |percentile: fn(&Latency) -> u64| {
            self.served.iter().map(|served| percentile(&served.report.latency)).max().unwrap_or(0)
        };
        Latency { p50_us: slowest(|l| l.p50_us), p99_us: slowest(|l| l.p99_us), max_us: slowest(|l| l.max_us) }
    }

    /// Members are the same behind every VIP.
    fn shares(&self) -> Vec<Share> {
        let mut all = self.served.iter().map(Served::shares);
        let mut sums = all.next().unwrap_or_default();
        for shares in all {
            for (sum, share) in sums.iter_mut().zip(shares) {
                sum.requests += share.requests;
                sum.expected += share.expected;
            }
        }
        sums
    }
}

fn added<'a>(maps: impl Iterator<Item = &'a BTreeMap<String, u64>>) -> BTreeMap<&'a str, u64> {
    let mut sums = BTreeMap::new();
    for (key, count) in maps.flatten() {
        *sums.entry(key.as_str()).or_default() += count;
    }
    sums
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::plan::{Method, Part};
    use super::*;
    use crate::lab::{Load, LoadReport};

    /// A VIP whose requests were all served well, by members of weights 1, 2 and 0.
    fn served(method: Method, requests: u64, first_member: u64) -> Served {
        let count = |key: &str, number: u64| (key.to_owned(), number);
        let tunnelled = method == Method::Ipip;
        let latency = if tunnelled { (7000, 20_000, 30_000) } else { (5000, 40_000, 50_000) };
        Served {
            method,
            load: Load {
                target: Part { method, requests }.target(),
                connections: requests,
                sources: vec!["192.0.2.10".parse().unwrap()],
                ..Load::default()
            },
            weights: vec![1, 2, 0],
            report: LoadReport {
                connections: requests,
                requests,
                requests_by_member: BTreeMap::from([
                    count("member1", first_member),
                    count("member2", requests - first_member),
                ]),
                requests_by_client: BTreeMap::from([count("192.0.2.10", requests)]),
                elapsed_ms: requests / 6,
                latency: Latency { p50_us: latency.0, p99_us: latency.1, max_us: latency.2 },
                ..LoadReport::default()
            },
            packets: Packets {
                from_client: requests * 5,
                to_client: requests * 4,
                into_balancer: requests * 5 + 10,
                out_of_balancer: requests * 5 + 4,
                from_members: requests * 4,
                decapsulated: if tunnelled { requests * 5 } else { 0 },
            },
            decapsulated_by: tunnelled.then(|| "kernel ipip".to_owned()),
        }
    }

    /// A demo of 30 000 requests in which all was well.
    fn well() -> Outcome {
        Outcome {
            served: vec![served(Method::Dr, 20_000, 6700), served(Method::Ipip, 10_000, 3400)],
            incident: None,
            concurrency: 64,
            attached: vec!["attached eth0 native copy queue 0".to_owned()],
            stopped: Ok("stopped".to_owned()),
        }
    }

    /// VIPs and names of the checks that failed, as JSON tells them.
    fn failed(outcome: &Outcome) -> Vec<(Value, String)> {
        let checks = outcome.json()["checks"].as_array().cloned().unwrap_or_default();
        let failed = checks.iter().filter(|check| check["ok"] == false);
        failed.map(|check| (check["vip"].clone(), check["name"].as_str().unwrap().to_owned())).collect()
    }

    #[track_caller]
    fn assert_fails_alone(outcome: &Outcome, vip: &Value, name: &str) {
        assert_eq!(failed(outcome), [(vip.clone(), name.to_owned())]);
        assert!(!outcome.all_held());
        assert_eq!(outcome.json()["ok"], false);
        assert!(outcome.text(false).contains(&format!("FAILED {name}")), "{}", outcome.text(false));
        assert!(outcome.text(false).ends_with("FAILED: 1 of 12 checks did not hold.\n"), "{}", outcome.text(false));
    }

    type Spoil<T> = fn(&mut T);

    #[test]
    fn every_check_of_a_vip_can_fail_and_fails_alone() {
        assert_eq!(failed(&well()), []);
        assert!(well().all_held());
        assert!(well().text(false).ends_with("\n\nPASSED: all 12 checks held.\n"));
        let cases: [(&str, Spoil<Served>); 8] = [
            ("requests answered", |s| s.report.failures = 1),
            ("requests answered", |s| s.load.connections += 1),
            ("members got their shares", |s| {
                // 10 % too many.
                let first = s.report.requests * 11 / 30;
                s.report.requests_by_member =
                    BTreeMap::from([("member1".into(), first), ("member2".into(), s.report.requests - first)]);
            }),
            ("members got their shares", |s| {
                s.report.requests_by_member.insert("member3".into(), 1);
                *s.report.requests_by_member.get_mut("member1").unwrap() -= 1;
            }),
            ("members saw the client's own address", |s| {
                s.report.wrong_clients = BTreeSet::from(["198.51.100.10:1".into()]);
            }),
            ("members saw the client's own address", |s| {
                s.report.requests_by_client.insert("198.51.100.10".into(), 1);
            }),
            ("replies went around the balancer", |s| {
                // As under NAT: replies enter the balancer as well.
                s.packets.into_balancer += s.packets.to_client;
                s.packets.out_of_balancer += s.packets.to_client;
            }),
            ("replies went around the balancer", |s| s.packets.from_members = 0),
        ];
        for (name, spoil) in cases {
            for (index, vip) in ["198.51.100.50:80", "198.51.100.51:80"].into_iter().enumerate() {
                let mut outcome = well();
                spoil(&mut outcome.served[index]);
                assert_fails_alone(&outcome, &json!(vip), name);
            }
        }
    }

    #[test]
    fn requests_must_come_by_their_vips_method() {
        let mut outcome = well();
        outcome.served[0].packets.decapsulated = 1;
        assert_fails_alone(&outcome, &json!("198.51.100.50:80"), "members got requests without a tunnel");
        let mut outcome = well();
        outcome.served[1].packets.decapsulated = 29_999;
        assert_fails_alone(&outcome, &json!("198.51.100.51:80"), "members got requests in tunnels");
    }

    #[test]
    fn the_balancer_as_a_whole_can_fail() {
        let cases: [(&str, Spoil<Outcome>); 2] = [
            ("the balancer said what it attached", |o| o.attached.clear()),
            ("the balancer was well to the end", |o| o.stopped = Err("signal: 9".into())),
        ];
        for (name, spoil) in cases {
            let mut outcome = well();
            spoil(&mut outcome);
            assert_fails_alone(&outcome, &Value::Null, name);
        }
    }

    #[test]
    fn json_adds_up_what_vips_got() {
        let json = well().json();
        assert_eq!(json["requests"], 30_000);
        assert_eq!(json["elapsed_ms"], 4999);
        assert_eq!(json["packets"]["into_balancer"], 150_020);
        assert_eq!(json["requests_by_client"], json!({ "192.0.2.10": 30_000 }));
        assert_eq!(json["latency"], json!({ "p50_us": 7000, "p99_us": 40_000, "max_us": 50_000 }));
        let first = &json["members"][0];
        assert_eq!((&first["name"], &first["requests"]), (&json!("member1"), &json!(10_100)));
        assert!((first["expected_share"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9);
        let vips = json["vips"].as_array().unwrap();
        let told: Vec<_> =
            vips.iter().map(|vip| (&vip["forward"], &vip["requests"], &vip["decapsulated_by"])).collect();
        let expected =
            [(json!("dr"), json!(20_000), Value::Null), (json!("ipip"), json!(10_000), json!("kernel ipip"))];
        assert_eq!(told, expected.each_ref().map(|(forward, requests, by)| (forward, requests, by)));
    }
}
