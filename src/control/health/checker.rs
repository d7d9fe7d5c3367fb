//! Starts, keeps and stops checks, and takes in what they report.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::warn;

use super::check::{Check, Identity, Report, Task, WELL};
use super::outcome::{Bad, Good};
use super::pace::Pace;
use super::probe::{Ready, Tools, warn_if_few_descriptors};
use super::schedule::{Schedule, first_within};
use super::status::{Condition, MonitorStatus};
use super::subject::{Subject, Word};
use super::{Finding, Health};
use crate::control::model::{Model, Start, Title, titles};

/// Results that wait for the control thread; when it is busy, checks wait with theirs.
const RESULTS: usize = 1024;

/// Between two complaints about checks that cannot be made.
const COMPLAINT: Duration = Duration::from_secs(10);

/// What changes no traffic is told so much later, with all that has come until then: at the start thousands of members
/// are looked at for the first time, one by one, and each telling costs a compilation of the tables.
const GATHER: Duration = Duration::from_millis(100);

/// No more of the control thread's time than half goes into tellings, but none is put off for longer than this. (One
/// that takes 20 ms, as of thousands of members, leaves the time of detection within the 50 ms that are allowed for.)
const LONGEST_REST: Duration = Duration::from_millis(250);

/// All checks.
pub struct Checker {
    tools: Arc<Tools>,
    results: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    /// In the model's order; those of pools without monitors are left out.
    subjects: Vec<(Subject, Vec<u64>)>,
    /// Those of them that are held down although they are well; indices.
    held: BTreeSet<usize>,
    checks: HashMap<u64, Check>,
    next_check: u64,
    health: Health,
    /// When [`Checker::changed`] is to tell of a change, if there is one.
    tell: Option<Instant>,
    /// Until when the last telling gives others their turn.
    rests_until: Instant,
    pace: Pace,
    complained: Option<Instant>,
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
            held: BTreeSet::new(),
            checks: HashMap::new(),
            next_check: 0,
            health: Health::default(),
            tell: None,
            rests_until: Instant::now(),
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
        self.held.clear();
        for pool in model.pools.iter().filter(|pool| !pool.policy.monitors.is_empty()) {
            let monitors = &pool.policy.monitors;
            let ready = monitors.iter().map(|monitor| Arc::new(Ready::new(&monitor.probe)));
            let ready: Vec<(Arc<Ready>, Arc<Title>)> = ready.zip(titles(monitors).into_iter().map(Arc::new)).collect();
            for member in &pool.members {
                let old = before.remove(&(pool.name.clone(), member.address, member.port));
                let is_trusted = old.as_ref().is_some_and(|old| old.condition != Condition::Unknown);
                let mut subject = Subject::of(pool, member, old);
                // Checks that are new for a member that is known begin with what is known.
                let start = match subject.finding {
                    Finding::Starting(start) => start,
                    Finding::Up { .. } => Start::Up,
                    Finding::Down(_) => Start::Down,
                };
                let index = self.subjects.len();
                let mut numbers = Vec::new();
                for (monitor, (ready, title)) in monitors.iter().zip(&ready) {
                    let identity = Identity::of(pool, member, monitor);
                    let (number, mut check) = kept.remove(&identity).unwrap_or_else(|| {
                        subject.is_outdated = true;
                        self.start(identity, (ready, title), (start, is_trusted), first)
                    });
                    check.subject = index;
                    check.title = Arc::clone(title);
                    self.checks.insert(number, check);
                    numbers.push(number);
                }
                self.subjects.push((subject, numbers));
                self.judge(index);
            }
        }
        for (_, check) in kept.into_values() {
            check.stop();
        }
        self.health = Health::default();
        for (subject, _) in &self.subjects {
            self.health.set(&subject.pool, &subject.member, subject.finding.clone());
        }
        warn_if_few_descriptors(self.checks.len());
    }

    /// Returns when [`Checker::health`] says something else than before. Nothing is lost if it is given up.
    pub async fn changed(&mut self) {
        while self.tell.is_none_or(|due| Instant::now() < due) {
            let next = [self.tell, self.next_release()].into_iter().flatten().min();
            tokio::select! {
                Some(report) = self.results.recv() => self.take(&report),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {
                    self.release();
                }
            }
            // Members often go down together.
            for _ in 0..RESULTS {
                let Ok(report) = self.results.try_recv() else { break };
                self.take(&report);
            }
        }
        self.tell = None;
    }

    /// What was told took so long to make use of: checks have their turn for as long now.
    pub fn rest(&mut self, took: Duration) {
        self.rests_until = Instant::now() + took.min(LONGEST_REST);
    }

    /// Returns when every check has had its first look, or `within` has passed.
    pub async fn first_looks(&mut self, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        let mut waiting: Vec<u64> = self.checks.keys().copied().collect();
        let is_unknown = |check: &Check| !check.count.is_known() && check.skipped == 0;
        while let Some(last) = waiting.last() {
            if !self.checks.get(last).is_some_and(is_unknown) {
                waiting.pop();
                continue;
            }
            match tokio::time::timeout_at(deadline, self.results.recv()).await {
                Ok(Some(report)) => self.take(&report),
                _ => return,
            }
        }
    }

    /// What is known now.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Every monitor's view of every member.
    ///
    /// `with_times`: p50 and p99, too, which have to be added up.
    pub fn monitors(&self, with_times: bool) -> impl Iterator<Item = MonitorStatus> {
        let numbers = self.subjects.iter().flat_map(|(subject, checks)| checks.iter().map(move |one| (subject, one)));
        let known = numbers.filter_map(|(subject, number)| Some((subject, self.checks.get(number)?)));
        known.map(move |(subject, check)| check.status(subject, with_times))
    }

    /// How they do together, and keep to their schedule.
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
        (ready, title): (&Arc<Ready>, &Arc<Title>),
        known: (Start, bool),
        first: Duration,
    ) -> (u64, Check) {
        let number = self.next_check;
        self.next_check += 1;
        let task = Task {
            check: number,
            ready: Arc::clone(ready),
            tools: Arc::clone(&self.tools),
            address: identity.address,
            port: identity.port,
            timeout: identity.monitor.timeout,
            schedule: Schedule::new(&identity, identity.monitor.interval, first, tokio::time::Instant::now()),
        };
        let task = tokio::spawn(task.run(self.reporter.clone())).abort_handle();
        (number, Check::new(identity, Arc::clone(title), known, task))
    }

    fn take(&mut self, report: &Report) {
        // One that has been stopped may have had its say already.
        let Some(check) = self.checks.get_mut(&report.check) else { return };
        self.pace.lateness.record(report.late);
        let kind = check.identity.monitor.probe.kind();
        let changed = match &report.outcome {
            Ok(Good { weight }) => check.note(WELL, *weight, report.took),
            Err(Bad::Failed(why)) => check.note(why, check.weight, report.took),
            Err(Bad::Skipped(why)) => {
                check.skipped += 1;
                self.pace.skipped(kind);
                return self.complain(report.check, why);
            }
        };
        self.pace.made(kind, report.outcome.is_ok(), report.took);
        if changed {
            let subject = check.subject;
            self.judge(subject);
        }
    }

    /// A check of this member has changed its mind, or a time has come.
    fn judge(&mut self, index: usize) {
        let Some((subject, numbers)) = self.subjects.get_mut(index) else { return };
        let checks = numbers.iter().filter_map(|number| self.checks.get(number));
        let words: Vec<Word<'_>> = checks.map(Word::of).collect();
        let was = subject.finding.clone();
        subject.judge(&words, Instant::now());
        if subject.damped.held_until().is_some() {
            self.held.insert(index);
        } else {
            self.held.remove(&index);
        }
        if subject.finding == was {
            return;
        }
        let now = Instant::now();
        let is_urgent = subject.finding.serves() != was.serves();
        let due = if is_urgent { now.max(self.rests_until) } else { now + GATHER };
        self.tell = Some(self.tell.map_or(due, |earlier| earlier.min(due)));
        self.health.set(&subject.pool, &subject.member, subject.finding.clone());
    }

    /// When the next member that is held down is let go.
    fn next_release(&self) -> Option<Instant> {
        self.held.iter().filter_map(|index| self.subjects.get(*index)?.0.damped.held_until()).min()
    }

    fn release(&mut self) {
        let now = Instant::now();
        let until = |index: &usize| self.subjects.get(*index)?.0.damped.held_until();
        let due: Vec<usize> =
            self.held.iter().copied().filter(|index| until(index).is_some_and(|until| until <= now)).collect();
        for index in due {
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
            check.stop();
        }
        self.tools.scripts().end_all();
    }
}
