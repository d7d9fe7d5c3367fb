//! What a demo has measured at one VIP, what must hold there, and how it is told.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::check::Check;
use super::plan::Method;
use super::{grouped, per_second};
use crate::lab::{Lab, LabError, Load, LoadReport, Topology};

/// How far a member's share may be off, in parts of its expected requests …
const SHARE_TOLERANCE: f64 = 0.05;
/// … or in standard deviations of fair dice, where few requests scatter more than that: 5 is once in a million runs.
const SHARE_SIGMAS: f64 = 5.0;
/// Of the replies, one in so many may be unaccounted for by the comparison of counters: ARP is counted too.
const REPLIES_PER_STRAY: u64 = 20;
/// Packets that the shortest connection sends to its member: SYN, request, FIN.
const PACKETS_PER_CONNECTION: u64 = 3;

/// Packets on the lab's interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packets {
    /// What the client sent.
    pub(super) from_client: u64,
    /// What the client received.
    pub(super) to_client: u64,
    /// What entered the balancer, by any interface.
    pub(super) into_balancer: u64,
    /// What left the balancer, by any interface.
    pub(super) out_of_balancer: u64,
    /// What the members sent.
    pub(super) from_members: u64,
    /// What the members received in a tunnel.
    pub(super) decapsulated: u64,
}

impl Packets {
    /// Reads the counters.
    pub(super) fn count(lab: &Lab) -> Result<Self, LabError> {
        let client = lab.client().interface_counters("eth0")?;
        let mut packets = Self { from_client: client.tx_packets, to_client: client.rx_packets, ..Self::default() };
        for interface in lab.topology().layout.balancer_interfaces() {
            let balancer = lab.balancer().interface_counters(interface)?;
            packets.into_balancer += balancer.rx_packets;
            packets.out_of_balancer += balancer.tx_packets;
        }
        for index in 0..lab.topology().members {
            packets.from_members += lab.member(index).interface_counters("eth0")?.tx_packets;
            packets.decapsulated += lab.decapsulated(index)?;
        }
        Ok(packets)
    }

    /// What was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            from_client: self.from_client - before.from_client,
            to_client: self.to_client - before.to_client,
            into_balancer: self.into_balancer - before.into_balancer,
            out_of_balancer: self.out_of_balancer - before.out_of_balancer,
            from_members: self.from_members - before.from_members,
            decapsulated: self.decapsulated - before.decapsulated,
        }
    }

    /// Both together.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            from_client: self.from_client + other.from_client,
            to_client: self.to_client + other.to_client,
            into_balancer: self.into_balancer + other.into_balancer,
            out_of_balancer: self.out_of_balancer + other.out_of_balancer,
            from_members: self.from_members + other.from_members,
            decapsulated: self.decapsulated + other.decapsulated,
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "from_client": self.from_client,
            "into_balancer": self.into_balancer,
            "out_of_balancer": self.out_of_balancer,
            "from_members": self.from_members,
            "to_client": self.to_client,
            "decapsulated": self.decapsulated,
        })
    }

    /// The most replies that can have passed the balancer: what entered it and did not come from the client. Were
    /// replies sent through it, this would be about all of them.
    fn replies_through_balancer(&self) -> u64 {
        self.into_balancer.saturating_sub(self.from_client)
    }
}

/// What a demo has measured at one VIP.
pub(super) struct Served {
    pub(super) method: Method,
    pub(super) load: Load,
    pub(super) weights: Vec<u16>,
    pub(super) report: LoadReport,
    pub(super) packets: Packets,
    /// What takes requests out of their tunnels, if anything does.
    pub(super) decapsulated_by: Option<String>,
}

/// One member's part.
pub(super) struct Share {
    pub(super) member: String,
    pub(super) weight: u16,
    pub(super) requests: u64,
    pub(super) expected: f64,
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

impl Served {
    /// The VIP, for a heading and for programs: `198.51.100.50:80`.
    pub(super) fn vip(&self) -> String {
        self.load.target.to_string()
    }

    /// For people: numbers first, then what must hold.
    pub(super) fn text(&self, colours: bool) -> String {
        let Self { report, packets, .. } = self;
        let mut text = format!(
            "VIP {} by {}\n  member      weight   requests    share   expected   deviation\n",
            self.load.target,
            self.method.described(),
        );
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
        text.extend(self.checks().iter().map(|check| check.line(colours)));
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let Self { method, report, packets, .. } = self;
        json!({
            "vip": self.vip(),
            "forward": method.key(),
            "decapsulated_by": self.decapsulated_by,
            "requests": report.requests,
            "connections": report.connections,
            "failures": report.failures,
            "failure_counts": report.failure_counts,
            "elapsed_ms": report.elapsed_ms,
            "packets_per_second": self.per_second(packets.into_balancer),
            "connections_per_second": self.per_second(report.connections),
            "latency": report.latency,
            "members": members_json(&self.shares()),
            "requests_by_client": report.requests_by_client,
            "packets": packets.json(),
        })
    }

    /// What must hold.
    pub(super) fn checks(&self) -> [Check; 5] {
        [self.answered(), self.shared(), self.clients_seen(), self.forwarded(), self.replies_direct()]
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

    /// Requests must have come to the members by this method and no other.
    fn forwarded(&self) -> Check {
        let Self { method, report, packets, .. } = self;
        let decapsulated = grouped(packets.decapsulated);
        match method {
            Method::Dr => Check {
                name: "members got requests without a tunnel",
                holds: packets.decapsulated == 0,
                detail: format!("{decapsulated} packets came in one"),
            },
            Method::Ipip => Check {
                name: "members got requests in tunnels",
                holds: report.connections > 0 && packets.decapsulated >= PACKETS_PER_CONNECTION * report.connections,
                detail: format!(
                    "{decapsulated} packets, decapsulated by {}",
                    self.decapsulated_by.as_deref().unwrap_or("nobody")
                ),
            },
        }
    }

    /// With either method replies must not pass the balancer.
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

    /// What each member got, in order.
    pub(super) fn shares(&self) -> Vec<Share> {
        let weights: f64 = self.weights.iter().map(|weight| f64::from(*weight)).sum();
        let share = |(index, &weight): (usize, &u16)| {
            let member = Topology::member_name(index);
            let requests = self.report.requests_by_member.get(&member).copied().unwrap_or(0);
            Share { member, weight, requests, expected: self.report.requests as f64 * f64::from(weight) / weights }
        };
        self.weights.iter().enumerate().map(share).collect()
    }

    fn per_second(&self, count: u64) -> u64 {
        per_second(count, self.report.elapsed_ms)
    }
}

/// Members and what they got, for programs.
pub(super) fn members_json(shares: &[Share]) -> Vec<Value> {
    let total = shares.iter().map(|share| share.requests).sum::<u64>().max(1) as f64;
    let expected = shares.iter().map(|share| share.expected).sum::<f64>().max(1.0);
    let member = |share: &Share| {
        json!({
            "name": share.member,
            "weight": share.weight,
            "requests": share.requests,
            "share": share.requests as f64 / total,
            "expected_share": share.expected / expected,
        })
    };
    shares.iter().map(member).collect()
}
