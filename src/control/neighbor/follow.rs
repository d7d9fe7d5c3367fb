//! The loop that keeps the snapshot up to date: hears events, asks what `state` wants to know, publishes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::entries::{Asked, Hop};
use super::kernel::Kernel;
use super::report::Reporter;
use super::state::{Event, State};
use super::{Network, Wanted, WatchError};

/// Changes come in bursts (a link that goes down takes its routes and neighbours along): wait this long for the rest
/// before asking and publishing. Much longer would delay the reaction to a failure.
const BURST: Duration = Duration::from_millis(2);

/// Events taken in before questions are asked again, so that a flood of them cannot starve the rest.
const EVENTS_AT_ONCE: usize = 4096;

/// Questions of one kind before events are taken in again. At some 5 µs each: a few milliseconds. Fewer would have
/// `state` look through all its targets more often.
const QUESTIONS_AT_ONCE: usize = 1024;

/// While there always are questions (a routing table in turmoil), publish this often all the same.
const PUBLISH_AFTER: Duration = Duration::from_millis(100);

/// Pause between two full readings after lost events. Without it a flood of events would make the reading itself the
/// load that loses the next ones.
const READ_ALL_PAUSE: Duration = Duration::from_secs(1);

/// How often the neighbour table's statistics are read; it is a counter, so nothing is missed in between.
const TABLE_CHECK: Duration = Duration::from_secs(5);

/// How soon they are read after an entry was refused.
const TABLE_CHECK_SOON: Duration = Duration::from_millis(500);

/// Pause before a failed netlink socket is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Follows the kernel and publishes snapshots.
pub(super) struct Follower {
    kernel: Kernel,
    state: State,
    wanted: watch::Receiver<Wanted>,
    publish: watch::Sender<Arc<Network>>,
    reporter: Reporter,
    read_all_at: Instant,
    table_check_at: Instant,
    published_at: Instant,
}

impl Follower {
    /// Reads all there is and publishes it.
    pub(super) async fn start(
        mut wanted: watch::Receiver<Wanted>,
        publish: watch::Sender<Arc<Network>>,
    ) -> Result<Self, WatchError> {
        let kernel = Kernel::open()?;
        let now = Instant::now();
        let Wanted { interfaces, targets } = wanted.borrow_and_update().clone();
        let state = State::new(interfaces.clone(), &targets);
        let mut follower = Self {
            kernel,
            state,
            wanted,
            publish,
            reporter: Reporter::new(interfaces),
            read_all_at: now,
            table_check_at: now,
            published_at: now,
        };
        follower.turn().await?;
        while follower.state.has_questions() {
            follower.turn().await?;
        }
        follower.publish();
        Ok(follower)
    }

    /// Follows, until dropped.
    pub(super) async fn run(mut self) {
        let mut failing = false;
        loop {
            match self.step().await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!("following the kernel's network state: {error}; starting again");
                    }
                    failing = true;
                    self.reopen().await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), WatchError> {
        if !self.state.has_questions() {
            self.wait().await?;
        }
        self.turn().await
    }

    /// Waits until there is something to do.
    async fn wait(&mut self) -> Result<(), WatchError> {
        let mut until = self.table_check_at;
        if self.state.must_read_all() {
            until = until.min(self.read_all_at);
        }
        if let Some(due) = self.state.next_due(Instant::now()) {
            until = until.min(due);
        }
        tokio::select! {
            event = self.kernel.event() => {
                self.state.apply(event?, Instant::now());
                tokio::time::sleep(BURST).await;
            }
            changed = self.wanted.changed() => match changed {
                Ok(()) => {
                    let wanted = self.wanted.borrow_and_update();
                    self.state.list(&wanted.interfaces);
                    self.state.watch(&wanted.targets);
                }
                // The watcher is gone, and is about to end this task.
                Err(_) => std::future::pending().await,
            },
            () = tokio::time::sleep_until(until.into()) => {}
        }
        Ok(())
    }

    /// Takes in what happened, asks what must be known now, publishes what changed.
    async fn turn(&mut self) -> Result<(), WatchError> {
        self.hear()?;
        if self.state.must_read_all() && Instant::now() >= self.read_all_at {
            self.read_all().await?;
        }
        let targets = self.state.route_questions(QUESTIONS_AT_ONCE);
        let answers = self.kernel.routes(&targets).await?;
        for (target, answer) in targets.into_iter().zip(answers) {
            self.state.route_answer(target, answer);
        }
        let hops = self.state.entry_questions(QUESTIONS_AT_ONCE);
        self.read_entries(&hops).await?;
        self.resolve().await?;
        self.check_table().await?;
        // What happened meanwhile may contradict the answers.
        self.hear()?;
        if !self.state.has_questions() || self.published_at.elapsed() >= PUBLISH_AFTER {
            self.publish();
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<(), WatchError> {
        for _ in 0..EVENTS_AT_ONCE {
            let Some(event) = self.kernel.event_now()? else { break };
            self.state.apply(event, Instant::now());
        }
        Ok(())
    }

    async fn read_all(&mut self) -> Result<(), WatchError> {
        self.reporter.reading_all();
        let links = self.kernel.links().await?;
        let addresses = self.kernel.addresses().await?;
        self.state.replace(links, addresses);
        self.read_all_at = Instant::now() + READ_ALL_PAUSE;
        Ok(())
    }

    /// Makes the kernel resolve and verify the neighbours whose turn it is.
    async fn resolve(&mut self) -> Result<(), WatchError> {
        let hops = self.state.due(Instant::now());
        let outcomes = self.kernel.use_neighbors(&hops).await?;
        let now = Instant::now();
        for (&hop, outcome) in hops.iter().zip(outcomes) {
            self.state.asked(hop, outcome, now);
            if outcome == Asked::TableFull {
                self.table_check_at = self.table_check_at.min(now + TABLE_CHECK_SOON);
            }
        }
        // Not each of the kernel's transitions is an event: it is silent about those that using an entry causes.
        self.read_entries(&hops).await
    }

    /// Takes in what the kernel has about these neighbours.
    async fn read_entries(&mut self, hops: &[Hop]) -> Result<(), WatchError> {
        let statuses = self.kernel.neighbors(hops).await?;
        let now = Instant::now();
        for (&hop, status) in hops.iter().zip(statuses) {
            self.state.apply(Event::Neighbor { hop, status }, now);
        }
        Ok(())
    }

    async fn check_table(&mut self) -> Result<(), WatchError> {
        if Instant::now() >= self.table_check_at {
            let count = self.kernel.table_fulls().await?;
            self.state.table_fulls(count);
            self.table_check_at = Instant::now() + TABLE_CHECK;
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.published_at = Instant::now();
        if !self.state.take_changed() {
            return;
        }
        let network = Arc::new(self.state.snapshot());
        if self.reporter.report(&network, self.published_at) {
            self.publish.send_replace(network);
        }
    }

    async fn reopen(&mut self) {
        loop {
            tokio::time::sleep(REOPEN_PAUSE).await;
            if let Ok(kernel) = Kernel::open() {
                self.kernel = kernel;
                self.state.apply(Event::Overrun, Instant::now());
                return;
            }
        }
    }
}
