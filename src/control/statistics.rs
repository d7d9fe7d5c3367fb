//! The periodic line: `statistics key=value …`, all counts since the start but `pps` and `residence_ns`.
//! `docs/statistics.md` explains every key.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::compile::Plan;
use super::health::{Pace, Times};
use crate::dataplane::counters::Counters;
use crate::dataplane::flow::FlowTable;
use crate::dataplane::port::steering::SteeringCounters;
use crate::dataplane::residence::histogram;
use crate::dataplane::verdict::DropReason;

/// Remembers the last line, for what is of the time since then.
#[derive(Debug)]
pub struct Statistics {
    received: u64,
    residence: Histogram<u64>,
    checks: Pace,
    at: Instant,
}

impl Default for Statistics {
    fn default() -> Self {
        Self { received: 0, residence: histogram(), checks: Pace::default(), at: Instant::now() }
    }
}

impl Statistics {
    /// The line as of now.
    pub fn line(
        &mut self,
        plan: &Plan,
        workers: &[Arc<Counters>],
        flows: &FlowTable,
        steering: Option<SteeringCounters>,
        checks: &Pace,
    ) -> String {
        let sum = |what: &dyn Fn(&Counters) -> u64| workers.iter().map(|one| what(one)).sum::<u64>();
        let mut line = Line(String::from("statistics"));

        let received = sum(&|one| one.received.packets.get());
        let seconds = self.at.elapsed().as_secs_f64().max(0.001);
        line.add("pps", (received.saturating_sub(self.received) as f64 / seconds).round());
        (self.received, self.at) = (received, Instant::now());

        self.add_residence(&mut line, workers);
        line.add("received", received);
        line.add("transmitted", sum(&|one| one.transmitted.packets.get()));
        line.add("dropped", sum(&Counters::dropped));
        for &reason in DropReason::ALL {
            let count = sum(&|one| one.dropped_for(reason).get());
            if count > 0 {
                line.add(format_args!("drop.{}", reason.name()), count);
            }
        }
        if let Some(steering) = steering {
            line.add("xdp.redirected", steering.redirected);
            line.add("xdp.passed", steering.passed);
            line.add("xdp.unserved", steering.unserved);
            line.add("xdp.no_socket", steering.no_socket);
        }
        for (index, counters) in workers.iter().enumerate() {
            line.add(format_args!("worker.{index}"), counters.received.packets.get());
            line.add(format_args!("worker.{index}.sleeps"), counters.sleeps.get());
        }
        line.add("flows.begun", sum(&|one| one.flows_begun.get()));
        line.add("flows.over_budget", sum(&|one| one.flows_over_budget.get()));
        line.add("flows.without_room", sum(&|one| one.flows_without_room.get()));
        line.add("flows.rebound", sum(&|one| one.flows_rebound.get()));
        line.add("flows.forgotten", sum(&|one| one.flows_forgotten.get()));
        if let Some(templates) = flows.templates.get() {
            line.add("persistence.clients", templates.clients());
            line.add("persistence.begun", sum(&|one| one.persistence_begun.get()));
            line.add("persistence.followed", sum(&|one| one.persistence_followed.get()));
            line.add("persistence.moved", sum(&|one| one.persistence_moved.get()));
            line.add("persistence.without_room", sum(&|one| one.persistence_without_room.get()));
        }
        self.add_checks(&mut line, checks);
        line.add("ring.fill_ring_empty", sum(&|one| one.fill_ring_empty.get()));
        line.add("ring.rx_ring_full", sum(&|one| one.rx_ring_full.get()));
        line.add("ring.rx_dropped", sum(&|one| one.rx_dropped.get()));
        line.add("ring.invalid", sum(&|one| one.invalid_descriptors.get()));
        line.add("frames.free", sum(&|one| one.frames_free.get()));
        line.add("frames.held", sum(&|one| one.frames_held.get()));
        line.add("frames.in_kernel", sum(&|one| one.frames_in_kernel.get()));
        for (pool, member, id) in plan.members() {
            let packets = sum(&|one| one.member(id).packets.get());
            line.add(format_args!("member.{}/{}", pool.name, member.name), packets);
            let load = flows.loads.of(id);
            line.add(format_args!("active.{}/{}", pool.name, member.name), load.active());
            line.add(format_args!("inactive.{}/{}", pool.name, member.name), load.inactive());
        }
        for (vip, id) in plan.vips() {
            line.add(format_args!("vip_flows.{}", vip.name), flows.loads.flows_of_vip(id));
        }
        line.0
    }

    /// Nothing without monitors; times are of the checks since the last line.
    fn add_checks(&mut self, line: &mut Line, now: &Pace) {
        if now.types.is_empty() {
            return;
        }
        line.add("checks.made", now.checks);
        line.add("checks.failed", now.failures);
        line.add("checks.skipped", now.skipped);
        line.add_times("checks.late_ms", &now.lateness.since(&self.checks.lateness));
        for one in &now.types {
            let before = self.checks.types.iter().find(|before| before.kind == one.kind);
            let durations =
                before.map_or_else(|| one.durations.clone(), |before| one.durations.since(&before.durations));
            line.add_times(&format!("checks.{}_ms", one.kind), &durations);
        }
        self.checks = now.clone();
    }

    /// Percentiles over all workers' packets since the last line; none if there were no packets.
    fn add_residence(&mut self, line: &mut Line, workers: &[Arc<Counters>]) {
        let mut now = histogram();
        for one in workers {
            one.residence.add_to(&mut now);
        }
        let mut since = now.clone();
        // Cannot fail: the buckets are the same, and no count in them ever falls.
        let is_true = since.subtract(&self.residence).is_ok();
        self.residence = now;
        if is_true && !since.is_empty() {
            line.add("residence_ns.p50", since.value_at_quantile(0.5));
            line.add("residence_ns.p99", since.value_at_quantile(0.99));
            line.add("residence_ns.p99.9", since.value_at_quantile(0.999));
            line.add("residence_ns.max", since.max());
        }
    }
}

struct Line(String);

impl Line {
    fn add(&mut self, key: impl Display, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, " {key}={value}");
    }

    /// Milliseconds; nothing of none.
    fn add_times(&mut self, key: &str, times: &Times) {
        for (name, part) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            if let Some(time) = times.quantile(part) {
                self.add(format_args!("{key}.{name}"), format_args!("{:.1}", time.as_secs_f64() * 1000.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::model::{Model, MonitorType};
    use super::*;
    use crate::dataplane::flow::Sizes;

    const CONFIG: &str = r#"
        [node]
        hash_seed = "text"
        [[interface]]
        name = "eth0"
        [[vip]]
        name = "web"
        address = "203.0.113.2"
        protocol = "tcp"
        port = 80
        pool = "web"
        [[pool]]
        name = "web"
        forward = "dr"
        [[pool.member]]
        name = "web1"
        address = "203.0.113.11"
    "#;

    const SIZES: Sizes = Sizes { flows_v4: 1, persistence_v4: Some(1), members: 1, vips: 1 };

    struct Rig {
        plan: Plan,
        workers: Vec<Arc<Counters>>,
        flows: FlowTable,
        checks: Pace,
        statistics: Statistics,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                plan: Plan::new(Model::parse("test.toml", CONFIG).expect("a valid configuration")),
                workers: (0..2).map(|_| Arc::new(Counters::new())).collect(),
                flows: FlowTable::of_sizes(&SIZES).expect("memory").0,
                checks: Pace::default(),
                statistics: Statistics::default(),
            }
        }

        fn line(&mut self) -> String {
            let steering = Some(SteeringCounters::default());
            self.statistics.line(&self.plan, &self.workers, &self.flows, steering, &self.checks)
        }
    }

    fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
        line.split(' ').filter_map(|pair| pair.split_once('=')).find(|(one, _)| *one == key).map(|(_, value)| value)
    }

    #[test]
    fn every_key_has_its_row_in_the_docs() {
        let docs = include_str!("../../docs/statistics.md");
        let documented: String = docs.lines().filter_map(|row| row.strip_prefix("| ")?.split(" | ").next()).collect();
        let mut rig = Rig::new();
        rig.workers[0].residence.record(1000, 64);
        rig.workers[0].dropped_for(DropReason::NoVip).add(1);
        rig.checks.made(MonitorType::Tcp, true, Duration::from_millis(1));
        rig.checks.lateness.record(Duration::from_millis(1));
        let line = rig.line();
        let keys: Vec<_> = line.split(' ').skip(1).filter_map(|pair| pair.split('=').next()).collect();
        assert!(keys.contains(&"residence_ns.p99.9") && keys.contains(&"drop.no_vip"), "{line}");
        assert!(keys.contains(&"persistence.clients") && keys.contains(&"vip_flows.web"), "{line}");
        assert!(keys.contains(&"checks.tcp_ms.p99") && keys.contains(&"checks.late_ms.max"), "{line}");
        for key in keys {
            let name = key
                .replace("checks.tcp_ms", "checks.TYPE_ms")
                .replace("worker.0", "worker.N")
                .replace("worker.1", "worker.N");
            let name = name
                .replace("no_vip", "REASON")
                .replace("web/web1", "POOL/NAME")
                .replace("vip_flows.web", "vip_flows.NAME");
            assert!(documented.contains(&format!("`{name}`")), "docs/statistics.md lacks the row of {key}");
        }
    }

    #[test]
    fn residence_is_over_all_workers_and_since_the_last_line() {
        let mut rig = Rig::new();
        assert_eq!(value(&rig.line(), "residence_ns.p50"), None, "no packets, no times");
        rig.workers[0].residence.record(200, 98);
        rig.workers[1].residence.record(4000, 2);
        let line = rig.line();
        assert_eq!(value(&line, "residence_ns.p50"), Some("200"));
        // 4000 lies in the bucket from 4000 to 4015: 2048 to 4095 is divided into 128.
        assert_eq!(value(&line, "residence_ns.p99"), Some("4015"));
        assert_eq!(value(&line, "residence_ns.max"), Some("4015"));
        rig.workers[1].residence.record(100, 1);
        let line = rig.line();
        assert_eq!((value(&line, "residence_ns.p50"), value(&line, "residence_ns.max")), (Some("100"), Some("100")));
        assert_eq!(value(&rig.line(), "residence_ns.max"), None);
    }

    #[test]
    fn checks_are_counted_since_the_start_and_timed_since_the_last_line() {
        let mut rig = Rig::new();
        assert_eq!(value(&rig.line(), "checks.made"), None, "no monitors, no checks");
        for (kind, is_good, millis) in
            [(MonitorType::Tcp, true, 10), (MonitorType::Tcp, false, 10), (MonitorType::Http, true, 100)]
        {
            rig.checks.made(kind, is_good, Duration::from_millis(millis));
            rig.checks.lateness.record(Duration::from_millis(1));
        }
        let line = rig.line();
        let found = ["checks.made", "checks.failed", "checks.tcp_ms.p50", "checks.http_ms.p99", "checks.late_ms.max"];
        assert_eq!(
            found.map(|key| value(&line, key)),
            [Some("3"), Some("1"), Some("10.0"), Some("100.4"), Some("1.0")],
            "{line}"
        );
        rig.checks.made(MonitorType::Tcp, true, Duration::from_millis(20));
        let line = rig.line();
        let found = ["checks.made", "checks.tcp_ms.p50", "checks.http_ms.p99", "checks.late_ms.max"];
        assert_eq!(found.map(|key| value(&line, key)), [Some("4"), Some("20.1"), None, None], "{line}");
    }
}
