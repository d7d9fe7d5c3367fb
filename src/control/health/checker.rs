//! Starts, keeps and stops checks, and takes in what they report.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::warn;

use super::count::Count;
use super::damping::Damped;
use super::outcome::{Bad, Good, Outcome};
use super::probe::{Ready, Tools, warn_if_few_descriptors};
use super::schedule::{Schedule, first_within};
use super::status::{Condition, Event, MonitorStatus, Pace, histogram, microseconds};
use super::subject::{Subject, Word};
use super::{Finding, Health};
use crate::control::model::monitor::Probe;
use crate::control::model::{Member, Model, Monitor, Pool, Start};

/// Results that wait for the control thread; when it is busy, checks wait with theirs.
const RESULTS: usize = 1024;

/// Events that are remembered for whoever asks later.
const EVENTS: usize = 1024;

/// Between two complaints about checks that cannot be made.
const COMPLAINT: Duration = Duration::from_secs(10);

/// All checks.
pub struct Checker {
    tools: Arc<Tools>,
    results: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    /// In the model's order; those of pools without monitors are left out.
    subjects: Vec<(Subject, Vec<u64>)>,
    checks: HashMap<u64, Check>,
    next_check: u64,
    health: Health,
    has_changed: bool,
    events: VecDeque<Event>,
    last_event: u64,
    pace: Pace,
    complained: Option<Instant>,
}

/// What makes a check the same one under another configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    pool: String,
    address: Ipv4Addr,
    /// The port that is looked at.
    port: Option<u16>,
    monitor: Monitor,
}

/// One monitor's checks of one member.
struct Check {
    identity: Identity,
    /// Index into `subjects`.
    subject: usize,
    count: Count,
    reason: Arc<str>,
    weight: Option<u16>,
    since: SystemTime,
    last_duration: Option<Duration>,
    checks: u64,
    failures: u64,
    skipped: u64,
    durations: Histogram<u32>,
    task: AbortHandle,
}

impl Check {
    /// Whether it found something wrong when it last looked.
    fn is_failing(&self) -> bool {
        self.count.is_known() && &*self.reason != WELL
    }
}

/// What a check finds that finds nothing wrong.
const WELL: &str = "ok";

/// What a check has found.
struct Report {
    check: u64,
    outcome: Outcome,
    took: Duration,
    /// How much later than due it began.
    late: Duration,
}

impl Default for Checker {
    fn default() -> Checker {
        Checker::new()
    }
}

impl Checker {
    /// Checks nothing yet.
    pub fn new() -> Checker {
        let (reporter, results) = mpsc::channel(RESULTS);
        Checker {
            tools: Arc::new(Tools::new()),
            results,
            reporter,
            subjects: Vec::new(),
            checks: HashMap::new(),
            next_check: 0,
            health: Health::default(),
            has_changed: false,
            events: VecDeque::new(),
            last_event: 0,
            pace: Pace::default(),
            complained: None,
        }
    }

    /// Ends what scripts leave behind even if it has fled them. For a process that has no other children.
    pub fn adopt_orphans(&self) {
        self.tools.scripts().adopt_orphans();
    }

    /// Checks what this configuration says: what it says as before goes on as before, its state and its schedule
    /// untouched; the rest ends or begins. To be called inside the runtime.
    pub fn follow(&mut self, model: &Model) {
        let mut kept: HashMap<Identity, (u64, Check)> =
            self.checks.drain().map(|(number, check)| (check.identity.clone(), (number, check))).collect();
        let checks = model.pools.iter().map(|pool| pool.members.len() * pool.policy.monitors.len()).sum();
        let first = first_within(checks);
        let place = |subject: &Subject| (subject.pool.clone(), subject.address, subject.port);
        let mut before: HashMap<_, Subject> =
            self.subjects.drain(..).map(|(subject, _)| (place(&subject), subject)).collect();
        for pool in model.pools.iter().filter(|pool| !pool.policy.monitors.is_empty()) {
            let ready: Vec<Arc<Ready>> =
                pool.policy.monitors.iter().map(|monitor| Arc::new(Ready::new(&monitor.probe))).collect();
            for member in &pool.members {
                let old = before.remove(&(pool.name.clone(), member.address, member.port));
                let is_trusted = old.as_ref().is_some_and(|old| old.condition != Condition::Unknown);
                let subject = subject_of(pool, member, old);
                // Checks that are new for a member that is known begin with what is known.
                let start = match subject.finding {
                    Finding::Up { .. } => Start::Up,
                    Finding::Down(_) => Start::Down,
                };
                let index = self.subjects.len();
                let mut numbers = Vec::new();
                for (monitor, ready) in pool.policy.monitors.iter().zip(&ready) {
                    let identity = identity_of(pool, member, monitor);
                    let (number, mut check) = kept
                        .remove(&identity)
                        .unwrap_or_else(|| self.start(identity, ready, (start, is_trusted), first));
                    check.subject = index;
                    self.checks.insert(number, check);
                    numbers.push(number);
                }
                self.subjects.push((subject, numbers));
                self.judge(index);
            }
        }
        for (_, check) in kept.into_values() {
            check.task.abort();
        }
        self.health = Health::default();
        for (subject, _) in &self.subjects {
            self.health.set(&subject.pool, &subject.member, subject.finding.clone());
        }
        warn_if_few_descriptors(self.checks.len());
    }

    /// Returns when [`Checker::health`] says something else than before. Nothing is lost if it is given up.
    pub async fn changed(&mut self) {
        while !std::mem::take(&mut self.has_changed) {
            let release = self.next_release();
            tokio::select! {
                Some(report) = self.results.recv() => self.take(report),
                () = tokio::time::sleep_until(release.unwrap_or_else(Instant::now).into()), if release.is_some() => {
                    self.release();
                }
            }
            // Members often go down together.
            for _ in 0..RESULTS {
                let Ok(report) = self.results.try_recv() else { break };
                self.take(report);
            }
        }
    }

    /// Returns when every check has had its first look, or `within` has passed.
    pub async fn first_looks(&mut self, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        let is_unknown = |check: &Check| !check.count.is_known() && check.skipped == 0;
        while self.checks.values().any(is_unknown) {
            match tokio::time::timeout_at(deadline, self.results.recv()).await {
                Ok(Some(report)) => self.take(report),
                _ => return,
            }
        }
    }

    /// What is known now.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The events after number `after` that are still remembered, oldest first.
    pub fn events(&self, after: u64) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.number > after)
    }

    /// Every monitor's view of every member.
    pub fn monitors(&self) -> Vec<MonitorStatus> {
        let numbers = self.subjects.iter().flat_map(|(subject, checks)| checks.iter().map(move |one| (subject, one)));
        let status = |(subject, number): (&Subject, &u64)| {
            let check = self.checks.get(number)?;
            Some(MonitorStatus {
                pool: subject.pool.clone(),
                member: subject.member.clone(),
                kind: check.identity.monitor.probe.kind(),
                port: check.identity.port,
                state: match (check.count.is_known(), check.count.is_up()) {
                    (false, _) => Condition::Unknown,
                    (true, true) => Condition::Up,
                    (true, false) => Condition::Down,
                },
                reason: Arc::clone(&check.reason),
                since: check.since,
                last_duration: check.last_duration,
                checks: check.checks,
                failures: check.failures,
                skipped: check.skipped,
                durations: check.durations.clone(),
            })
        };
        numbers.filter_map(status).collect()
    }

    /// How they keep to their schedule.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// To be called every second or so: ends what scripts have left.
    pub fn tidy(&self) {
        self.tools.scripts().bury();
    }

    fn start(
        &mut self,
        identity: Identity,
        ready: &Arc<Ready>,
        (start, is_trusted): (Start, bool),
        first: Duration,
    ) -> (u64, Check) {
        let number = self.next_check;
        self.next_check += 1;
        let Identity { address, port, ref monitor, .. } = identity;
        let task = Task {
            check: number,
            ready: Arc::clone(ready),
            tools: Arc::clone(&self.tools),
            address,
            port,
            timeout: monitor.timeout,
            schedule: Schedule::new(&identity, monitor.interval, first, tokio::time::Instant::now()),
        };
        let check = Check {
            subject: usize::MAX,
            count: Count::new(monitor, start, is_trusted),
            reason: "not checked yet".into(),
            weight: None,
            since: SystemTime::now(),
            last_duration: None,
            checks: 0,
            failures: 0,
            skipped: 0,
            durations: histogram(),
            task: tokio::spawn(task.run(self.reporter.clone())).abort_handle(),
            identity,
        };
        (number, check)
    }

    fn take(&mut self, report: Report) {
        // One that has been stopped may have had its say already.
        let Some(check) = self.checks.get_mut(&report.check) else { return };
        self.pace.lateness.saturating_record(microseconds(report.late));
        let (is_good, reason, weight) = match report.outcome {
            Ok(Good { weight }) => (true, WELL.to_owned(), weight),
            Err(Bad::Failed(why)) => (false, why, check.weight),
            Err(Bad::Skipped(why)) => {
                check.skipped += 1;
                self.pace.skipped += 1;
                return self.complain(report.check, &why);
            }
        };
        self.pace.checks += 1;
        self.pace.failures += u64::from(!is_good);
        check.checks += 1;
        check.failures += u64::from(!is_good);
        check.last_duration = Some(report.took);
        check.durations.saturating_record(microseconds(report.took));
        if *check.reason != *reason {
            check.reason = reason.into();
        }
        let was_known = check.count.is_known();
        let changed = check.count.note(is_good);
        if changed || !was_known {
            check.since = SystemTime::now();
        }
        let new_weight = std::mem::replace(&mut check.weight, weight) != weight;
        if changed || !was_known || new_weight {
            let subject = check.subject;
            self.judge(subject);
        }
    }

    /// A check of this member has changed its mind, or a time has come.
    fn judge(&mut self, index: usize) {
        let Some((subject, numbers)) = self.subjects.get_mut(index) else { return };
        let checks: Vec<&Check> = numbers.iter().filter_map(|number| self.checks.get(number)).collect();
        let reasons: Vec<_> = checks
            .iter()
            .map(|check| {
                || match (check.identity.monitor.probe.kind(), check.is_failing()) {
                    (kind, true) => format!("{kind}: {}", check.reason),
                    (kind, false) if check.count.is_known() => {
                        format!("{kind}: well again, but not {} times in a row", check.count.rise())
                    }
                    (kind, false) => format!("{kind}: not checked yet"),
                }
            })
            .collect();
        let words: Vec<Word<'_>> = checks
            .iter()
            .zip(&reasons)
            .map(|(check, reason)| Word {
                count: &check.count,
                reason,
                is_failing: check.is_failing(),
                weight: check.weight,
            })
            .collect();
        let (from, was) = (subject.condition, subject.finding.clone());
        if !subject.judge(&words, Instant::now()) {
            return;
        }
        if subject.finding != was {
            self.has_changed = true;
            self.health.set(&subject.pool, &subject.member, subject.finding.clone());
        }
        if subject.condition != from {
            self.last_event += 1;
            let reason = match &subject.finding {
                Finding::Up { .. } => WELL.into(),
                Finding::Down(why) => Arc::clone(why),
            };
            let subject_name = format!("{}/{}", subject.pool, subject.member);
            let (number, time, to) = (self.last_event, SystemTime::now(), subject.condition);
            self.events.push_back(Event { number, time, subject: subject_name, from, to, reason });
            if self.events.len() > EVENTS {
                self.events.pop_front();
            }
        }
    }

    /// When the next member that is held down is let go.
    fn next_release(&self) -> Option<Instant> {
        self.subjects.iter().filter_map(|(subject, _)| subject.damped.held_until()).min()
    }

    fn release(&mut self) {
        let now = Instant::now();
        let due = |(subject, _): &(Subject, _)| subject.damped.held_until().is_some_and(|until| until <= now);
        let indices: Vec<usize> = (0..self.subjects.len()).filter(|index| due(&self.subjects[*index])).collect();
        for index in indices {
            self.judge(index);
        }
    }

    fn complain(&mut self, number: u64, why: &str) {
        let now = Instant::now();
        if self.complained.is_some_and(|last| now.duration_since(last) < COMPLAINT) {
            return;
        }
        self.complained = Some(now);
        let Some((subject, _)) = self.checks.get(&number).and_then(|check| self.subjects.get(check.subject)) else {
            return;
        };
        warn!(
            "a check of {}/{} could not be made: {why} ({} such so far; members stay as they are)",
            subject.pool, subject.member, self.pace.skipped
        );
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        for check in self.checks.values() {
            check.task.abort();
        }
        self.tools.scripts().end_all();
    }
}

fn identity_of(pool: &Pool, member: &Member, monitor: &Monitor) -> Identity {
    let wants_port = !matches!(monitor.probe, Probe::Ping);
    let port = monitor.port.or(member.port).or(pool.policy.service_port).filter(|_| wants_port);
    Identity { pool: pool.name.clone(), address: member.address, port, monitor: monitor.clone() }
}

/// What was known of the member stays known, under the policy of now.
fn subject_of(pool: &Pool, member: &Member, old: Option<Subject>) -> Subject {
    let start = match pool.policy.start {
        Start::Up => Finding::Up { weight: None },
        Start::Down => Finding::Down("not checked yet".into()),
    };
    let (damped, condition, finding) = match old {
        Some(old) => (old.damped, old.condition, old.finding),
        None => (Damped::default(), Condition::Unknown, start),
    };
    Subject {
        pool: pool.name.clone(),
        member: member.name.clone(),
        address: member.address,
        port: member.port,
        combine: pool.policy.combine,
        damping: pool.policy.damping,
        damped,
        condition,
        finding,
    }
}

/// One check's course.
struct Task {
    check: u64,
    ready: Arc<Ready>,
    tools: Arc<Tools>,
    address: Ipv4Addr,
    port: Option<u16>,
    timeout: Duration,
    schedule: Schedule,
}

impl Task {
    /// Ends when nobody listens any more, or is aborted. The next check begins when this one has ended.
    async fn run(mut self, reporter: mpsc::Sender<Report>) {
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
