//! The control thread: brings the data plane up, keeps its tables true to the network, and takes it down.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::announce::arp::{Announcer, INTERVAL};
use super::compile::{Compiled, MemberState, MemberStatus, Plan};
use super::model::Model;
use super::neighbor::{Network, WatchError, Watcher};
use super::plane::{Place, Plane, PlaneError, Shared};
use super::publish::WorkerStuck;
use super::statistics::Statistics;
use crate::dataplane::flow::{FlowTable, Hand};
use crate::dataplane::memory::LINE_BYTES;
use crate::dataplane::port::steering::SteeringCounters;
use crate::dataplane::tables::InterfaceId;

/// How long `ready` waits for members whose next hop is not known yet.
const FIRST_RESOLUTION: Duration = Duration::from_secs(1);

/// How long a fresh worker may take to its first round before something is wrong with it: far beyond any scheduler's.
const FIRST_ROUND: Duration = Duration::from_secs(5);

/// Between two statistics lines.
const STATISTICS: Duration = Duration::from_secs(10);

/// The connection table is swept in so many steps, one after the other: a round takes two seconds, so that counts are
/// true to that; and a step of a table for a million flows takes a tenth of a millisecond of control's time.
const SWEEP_STEPS: usize = 100;
const SWEEP_STEP: Duration = Duration::from_millis(20);

/// How long a queue is waited for that a process which has just died may still hold.
const PATIENCE_AT_START: Duration = Duration::from_secs(5);

/// Between two attempts to attach to an interface that has come back but does not take us yet: at first, and at most.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why the daemon does not start, or does not go on.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The configuration does not fit this host.
    #[error("{0}")]
    Config(String),
    /// No such interface.
    #[error("interface {0}: does not exist on this host (see: ip link)")]
    NoInterface(String),
    /// The kernel's network state cannot be followed.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The data plane does not come up.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// The runtime, or a signal handler.
    #[error("starting: {0}")]
    Start(#[from] std::io::Error),
    /// No memory for the connection table.
    #[error("memory for a connection table of {wanted} flows: {source} (dataplane.flows_v4 asks for so many)")]
    FlowTable {
        /// How many flows it was to fit.
        wanted: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A worker ended by itself; its panic is in the log.
    #[error("worker {0} has died")]
    WorkerDied(usize),
}

/// Runs until SIGTERM or SIGINT. `ready` is called once, when every worker forwards.
pub fn run(model: Model, ready: impl FnOnce()) -> Result<(), DaemonError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let serve = async {
            let mut daemon = Daemon::start(model).await?;
            ready();
            daemon.work().await
        };
        // Whichever way `serve` is left, dropping it takes the data plane down.
        let result = tokio::select! {
            result = serve => result,
            _ = terminate.recv() => { info!("stopping: SIGTERM"); Ok(()) }
            _ = interrupt.recv() => { info!("stopping: SIGINT"); Ok(()) }
        };
        if result.is_ok() {
            info!("stopped");
        }
        result
    })
}

struct Daemon {
    plan: Plan,
    watcher: Watcher,
    network: Arc<Network>,
    /// `None` while none of its interfaces exists, or they do not take us.
    plane: Option<Plane>,
    /// When to try again, while there is no plane.
    retry: Retry,
    shared: Shared,
    /// Sweeps the connection table.
    hand: Hand,
    announcer: Announcer,
    generation: u64,
    /// What was last said of each member and each problem: a line per change, not per look.
    said: HashMap<String, MemberState>,
    problems: Vec<String>,
    statistics: Statistics,
}

/// Attaching to a real card resets its rings and so costs the host packets: it is tried again ever more rarely.
#[derive(Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
    /// The last failure: said once.
    failure: String,
}

impl Default for Retry {
    fn default() -> Self {
        Self { at: Instant::now(), pause: SHORTEST_PAUSE, failure: String::new() }
    }
}

impl Daemon {
    async fn start(model: Model) -> Result<Self, DaemonError> {
        let names = model.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let plan = Plan::new(model);
        let watcher = Watcher::start(names, plan.targets()).await?;
        let wanted = plan.model.dataplane.flows_v4;
        let (flows, hand) =
            FlowTable::new(wanted, plan.member_count()).map_err(|source| DaemonError::FlowTable { wanted, source })?;
        let mebibytes = (flows.v4.lines() * LINE_BYTES) >> 20;
        info!("connection table: {wanted} flows, {mebibytes} MiB on {} pages", flows.v4.pages().name());
        let mut daemon = Self {
            network: watcher.network(),
            plan,
            watcher,
            plane: None,
            retry: Retry::default(),
            shared: Shared { counters: Vec::new(), flows: Arc::new(flows) },
            hand,
            announcer: Announcer::default(),
            generation: 0,
            said: HashMap::new(),
            problems: Vec::new(),
            statistics: Statistics::default(),
        };
        let compiled = daemon.compile();
        if !compiled.problems.is_empty() {
            return Err(DaemonError::Config(compiled.problems.join("\npointsman: ")));
        }
        daemon.all_interfaces_exist()?;
        daemon.bring_up(PATIENCE_AT_START)?;
        daemon.network = daemon.watcher.first_resolution(FIRST_RESOLUTION).await;
        daemon.serve()?;
        daemon.all_workers_serve().await?;
        Ok(daemon)
    }

    /// Returns when every worker works by the newest tables.
    async fn all_workers_serve(&self) -> Result<(), DaemonError> {
        let started = Instant::now();
        loop {
            let late = self.shared.counters.iter().position(|worker| worker.generation.get() < self.generation);
            let Some(late) = late else { return Ok(()) };
            if started.elapsed() > FIRST_ROUND {
                return Err(PlaneError::from(WorkerStuck(late)).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn work(&mut self) -> Result<(), DaemonError> {
        let mut second = interval(INTERVAL);
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sweep = interval(SWEEP_STEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut statistics = interval(STATISTICS);
        statistics.set_missed_tick_behavior(MissedTickBehavior::Skip);
        statistics.tick().await;
        loop {
            tokio::select! {
                network = self.watcher.changed() => {
                    self.follow_links(network);
                    self.follow_interfaces();
                    self.serve()?;
                }
                _ = sweep.tick() => self.sweep(),
                _ = second.tick() => self.each_second()?,
                _ = statistics.tick() => self.say_statistics(None),
            }
        }
    }

    /// At start a missing interface is a mistake; later it is a fate.
    fn all_interfaces_exist(&self) -> Result<(), DaemonError> {
        let missing = self.listed().find(|name| !self.network.links.contains_key(*name));
        missing.map_or(Ok(()), |name| Err(DaemonError::NoInterface(name.to_owned())))
    }

    fn listed(&self) -> impl Iterator<Item = &str> {
        self.plan.model.interfaces.iter().map(|interface| interface.name.as_str())
    }

    /// Those of the listed interfaces that exist now.
    fn places(&self) -> Vec<Place<'_>> {
        let link = |name| self.network.links.get(name).map(|link| Place { name, link });
        self.listed().filter_map(link).collect()
    }

    fn bring_up(&mut self, patience: Duration) -> Result<(), DaemonError> {
        let link = |name: &String| self.network.links.get(name);
        let names = self.plan.model.interfaces.iter().map(|interface| &interface.name);
        let places: Vec<_> = names.filter_map(|name| Some(Place { name, link: link(name)? })).collect();
        self.plane = Some(Plane::bring_up(&self.plan.model, &places, patience, &mut self.shared)?);
        self.announce_all();
        Ok(())
    }

    fn announce_all(&mut self) {
        let interfaces = self.plane.as_ref().map_or(&[][..], Plane::interfaces);
        self.announcer.came_up(self.plan.announcements(&self.network, interfaces));
    }

    /// A link that comes up may be on another switch port now, and a new MAC is unknown to everyone: the VIPs are
    /// announced anew.
    fn follow_links(&mut self, network: Arc<Network>) {
        let before = std::mem::replace(&mut self.network, network);
        if before.links == self.network.links {
            return;
        }
        self.retry.at = Instant::now();
        let came_up = self.network.links.iter().any(|(name, now)| {
            now.up && before.links.get(name).is_none_or(|before| !before.up || before.mac != now.mac)
        });
        if came_up {
            self.announce_all();
        }
    }

    /// Survives an interface that goes away (the others are served on), one that comes back under whatever index, and
    /// one that is no longer what the plane was built for. Says whether there is a new plane, which serves nothing yet.
    fn follow_interfaces(&mut self) -> bool {
        let places = self.places();
        let names = places.iter().map(|place| place.name).collect::<Vec<_>>().join(", ");
        let misfit = self.plane.as_ref().map(|plane| plane.misfit(&places));
        match misfit {
            Some(None) => return false,
            Some(Some((name, misfit))) => {
                warn!("{name}: {misfit}");
                self.plane = None;
                self.retry = Retry::default();
            }
            None => {}
        }
        if names.is_empty() || Instant::now() < self.retry.at {
            return false;
        }
        match self.bring_up(Duration::ZERO) {
            Ok(()) => {
                info!("{names}: served again");
                self.retry = Retry::default();
                true
            }
            Err(error) => {
                let failure = error.to_string();
                if failure != self.retry.failure {
                    warn!("{names}: not served: {failure}; trying again, ever more rarely");
                }
                let Retry { pause, .. } = self.retry;
                self.retry = Retry { at: Instant::now() + pause, pause: (pause * 2).min(LONGEST_PAUSE), failure };
                false
            }
        }
    }

    fn compile(&mut self) -> Compiled {
        self.generation += 1;
        let listed: Vec<String>;
        let interfaces = if let Some(plane) = &self.plane {
            plane.interfaces()
        } else {
            listed = self.listed().map(str::to_owned).collect();
            &listed
        };
        self.plan.compile(&self.network, interfaces, self.generation)
    }

    /// Has workers and steering do what configuration and network now come to, and says what changed.
    fn serve(&mut self) -> Result<(), DaemonError> {
        let compiled = self.compile();
        let (members, problems) = (compiled.members.clone(), compiled.problems.clone());
        if let Some(plane) = &mut self.plane {
            plane.serve(compiled)?;
        }
        // Said when it is so.
        self.say_members(&members);
        if problems != self.problems {
            for problem in &problems {
                error!("{problem}");
            }
            self.problems = problems;
        }
        Ok(())
    }

    /// Ends what has expired in a part of the connection table.
    fn sweep(&mut self) {
        let Some(plane) = &self.plane else { return };
        let flows = &self.shared.flows;
        let lines = flows.v4.lines().div_ceil(SWEEP_STEPS);
        flows.sweep(&mut self.hand, flows.now(), lines, plane.tables());
    }

    fn each_second(&mut self) -> Result<(), DaemonError> {
        if self.follow_interfaces() {
            self.serve()?;
        }
        let Some(plane) = &self.plane else { return Ok(()) };
        if let Some(worker) = plane.dead_worker() {
            return Err(DaemonError::WorkerDied(worker));
        }
        plane.publisher().collect();
        let now = Instant::now();
        for conflict in plane.publisher().conflicts() {
            if self.announcer.is_alarming(&conflict, now) {
                error!(
                    "address conflict: {} is a VIP of this node, and {} claims it too; clients will reach one or the \
                     other by chance",
                    Ipv4Addr::from(conflict.address),
                    conflict.mac.map(|byte| format!("{byte:02x}")).join(":")
                );
            }
        }
        let link = |InterfaceId(index)| self.network.links.get(plane.interfaces().get(usize::from(index))?);
        let mac_of = |interface| link(interface).filter(|link| link.up).map(|link| link.mac);
        self.announcer.announce(mac_of, |interface, frame| plane.publisher().send(interface, frame));
        Ok(())
    }

    fn say_members(&mut self, members: &[MemberStatus]) {
        for member in members {
            if self.said.get(&member.name) == Some(&member.state) {
                continue;
            }
            if matches!(member.state, MemberState::Unresolved(_)) {
                warn!("member {} {}", member.name, member.state);
            } else {
                info!("member {} {}", member.name, member.state);
            }
            self.said.insert(member.name.clone(), member.state.clone());
        }
    }

    fn say_statistics(&mut self, last: Option<SteeringCounters>) {
        let steering = last.or_else(|| self.plane.as_ref()?.steering_counters().ok());
        info!("{}", self.statistics.line(&self.plan.model, &self.shared.counters, &self.shared.flows, steering));
    }
}

impl Drop for Daemon {
    /// The last statistics are taken when the workers have sent what they had.
    fn drop(&mut self) {
        let steering = self.plane.as_ref().and_then(|plane| plane.steering_counters().ok());
        self.plane = None;
        if !self.shared.counters.is_empty() {
            self.say_statistics(steering);
        }
    }
}
