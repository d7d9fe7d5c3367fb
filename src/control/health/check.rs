//! One monitor's checks of one member: what makes them the same ones under another configuration, what they have come to,
//! and their course.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::count::Count;
use super::outcome::Outcome;
use super::probe::{Ready, Tools};
use super::schedule::Schedule;
use super::status::{Condition, MonitorStatus, coarse_histogram, microseconds};
use super::subject::Subject;
use crate::control::model::monitor::Probe;
use crate::control::model::{Member, Monitor, Pool, Start, Title};

/// What makes a check the same one under another configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pool: String,
    pub(super) address: Ipv4Addr,
    /// The port that is looked at.
    pub(super) port: Option<u16>,
    pub(super) monitor: Monitor,
}

impl Identity {
    pub(super) fn of(pool: &Pool, member: &Member, monitor: &Monitor) -> Identity {
        let wants_port = !matches!(monitor.probe, Probe::Ping);
        let port = monitor.port.or(member.port).or(pool.policy.service_port).filter(|_| wants_port);
        Identity { pool: pool.name.clone(), address: member.address, port, monitor: monitor.clone() }
    }
}

/// One monitor's checks of one member.
pub(super) struct Check {
    pub(super) identity: Identity,
    /// Index into the checker's subjects.
    pub(super) subject: usize,
    pub(super) title: Arc<Title>,
    pub(super) count: Count,
    pub(super) reason: Arc<str>,
    pub(super) weight: Option<u16>,
    pub(super) since: SystemTime,
    last_duration: Option<Duration>,
    pub(super) checks: u64,
    pub(super) failures: u64,
    pub(super) skipped: u64,
    durations: Histogram<u32>,
    task: AbortHandle,
}

/// What a check finds that finds nothing wrong.
pub(super) const WELL: &str = "ok";

impl Check {
    /// One that begins now.
    pub(super) fn new(
        identity: Identity,
        title: Arc<Title>,
        (start, is_trusted): (Start, bool),
        task: AbortHandle,
    ) -> Check {
        Check {
            subject: usize::MAX,
            title,
            count: Count::new(&identity.monitor, start, is_trusted),
            reason: "not checked yet".into(),
            weight: None,
            since: SystemTime::now(),
            last_duration: None,
            checks: 0,
            failures: 0,
            skipped: 0,
            durations: coarse_histogram(),
            task,
            identity,
        }
    }

    /// No more of them.
    pub(super) fn stop(&self) {
        self.task.abort();
    }

    /// Whether it found something wrong when it last looked.
    pub(super) fn is_failing(&self) -> bool {
        self.count.is_known() && &*self.reason != WELL
    }

    /// Takes in what it has found; whether it thinks otherwise of its member now.
    pub(super) fn note(&mut self, reason: &str, weight: Option<u16>, took: Duration) -> bool {
        let is_good = reason == WELL;
        self.checks += 1;
        self.failures += u64::from(!is_good);
        self.last_duration = Some(took);
        self.durations.saturating_record(microseconds(took));
        if *self.reason != *reason {
            self.reason = reason.into();
        }
        let was_known = self.count.is_known();
        let changed = self.count.note(is_good) || !was_known;
        if changed {
            self.since = SystemTime::now();
        }
        let new_weight = std::mem::replace(&mut self.weight, weight) != weight;
        changed || new_weight
    }

    /// What it says against its member, by name: `http: 503, expected 200-299`.
    pub(super) fn words(&self) -> String {
        let name = &self.title.short;
        match self.is_failing() {
            true => format!("{name}: {}", self.reason),
            false if self.count.is_known() => {
                format!("{name}: well again, but not {} times in a row", self.count.rise())
            }
            false => format!("{name}: not checked yet"),
        }
    }

    /// For whoever asks; with p50 and p99, or without.
    pub(super) fn status(&self, subject: &Subject, with_times: bool) -> MonitorStatus {
        let quantile = |quantile| {
            let durations = &self.durations;
            (with_times && !durations.is_empty()).then(|| Duration::from_micros(durations.value_at_quantile(quantile)))
        };
        MonitorStatus {
            pool: subject.pool.clone(),
            member: subject.member.clone(),
            kind: self.identity.monitor.probe.kind(),
            name: self.title.name.clone(),
            port: self.identity.port,
            state: match (self.count.is_decided(), self.count.is_up()) {
                (false, _) => Condition::Unknown,
                (true, true) => Condition::Up,
                (true, false) => Condition::Down,
            },
            reason: Arc::clone(&self.reason),
            since: self.since,
            last_duration: self.last_duration,
            p50: quantile(0.5),
            p99: quantile(0.99),
            checks: self.checks,
            failures: self.failures,
            skipped: self.skipped,
        }
    }
}

/// What a check has found.
pub(super) struct Report {
    pub(super) check: u64,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    /// How much later than due it began.
    pub(super) late: Duration,
}

/// One check's course.
pub(super) struct Task {
    pub(super) check: u64,
    pub(super) ready: Arc<Ready>,
    pub(super) tools: Arc<Tools>,
    pub(super) address: Ipv4Addr,
    pub(super) port: Option<u16>,
    pub(super) timeout: Duration,
    pub(super) schedule: Schedule,
}

impl Task {
    /// Ends when nobody listens any more, or is aborted. The next check begins when this one has ended.
    pub(super) async fn run(mut self, reporter: mpsc::Sender<Report>) {
        loop {
            tokio::time::sleep_until(self.schedule.due()).await;
            let began = tokio::time::Instant::now();
            let late = began - self.schedule.due();
            let outcome = self.ready.check(&self.tools, self.address, self.port, self.timeout).await;
            let report = Report { check: self.check, outcome, took: began.elapsed(), late };
            if reporter.send(report).await.is_err() {
                return;
            }
            self.schedule.advance(tokio::time::Instant::now());
        }
    }
}
