//! The control thread: brings the data plane up, keeps its tables true to the network, and takes it down.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::announce::arp::Announcer;
use super::api::desk::Clerk;
use super::api::door::Doors;
use super::api::serve::serve;
use super::compile::{self, Compiled, MemberStatus, Plan, PoolStatus};
use super::cores::{self, Cores};
use super::events::Events;
use super::fit::{self, Fit, Unfit};
use super::health::Checker;
use super::identity::{Identities, NoIds};
use super::model::Model;
use super::neighbor::{Link, Network, WatchError, Watcher};
use super::plane::{self, Misfit, PATIENCE_WITH_OURSELVES, Place, Plane, PlaneError, Shared};
use super::privileges;
use super::publish::WorkerStuck;
use super::reload::{Reloads, Told};
use super::state::{self, Restored, Running, STATE_FILE, Store};
use super::statistics::Statistics;
use crate::dataplane::flow::{FlowTable, Hands, SWEEP_ROUND, Sizes};
use crate::dataplane::memory::LINE_BYTES;
use crate::dataplane::port::nic;
use crate::dataplane::port::steering::SteeringCounters;
use apply::Proposal;
use members::Said;
use pools::SaidOfPool;

mod apply;
mod draft;
mod members;
mod pools;
mod problems;
mod view;
mod vips;

pub use apply::Refused;

/// How long `ready`, and another configuration, wait for members whose next hop is not known yet.
const FIRST_RESOLUTION: Duration = Duration::from_secs(1);

/// How long `ready` waits for the first results of members' checks: those of members that answer come within
/// milliseconds, and nobody is to wait for those that do not.
const FIRST_LOOKS: Duration = Duration::from_millis(300);

/// How long a fresh worker may take to its first round before something is wrong with it: far beyond any scheduler's.
const FIRST_ROUND: Duration = Duration::from_secs(5);

/// Between two looks at the interfaces, the workers and the claims that they saw.
const SECOND: Duration = Duration::from_secs(1);

/// Between two statistics lines.
const STATISTICS: Duration = Duration::from_secs(10);

/// The connection table is swept in so many steps, one after the other: a step of a table for a million flows takes a
/// tenth of a millisecond of control's time.
const SWEEP_STEPS: u32 = 100;

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
    /// It has more VIPs or members than there can be.
    #[error(transparent)]
    NoIds(#[from] NoIds),
    /// Neither does the one that was applied at run time; whoever only knows the startup file would look in vain.
    #[error("{source} (by the configuration applied at run time, {}; remove that file to start with {})", state.display(), file.display())]
    Applied {
        /// What does not fit.
        source: Box<DaemonError>,
        /// What was applied.
        state: PathBuf,
        /// The startup file.
        file: PathBuf,
    },
    /// None of the listed interfaces exists.
    #[error("interface {}: {} on this host (see: ip link)", .0.join(", "), if .0.len() == 1 { "does not exist" } else { "none of them exists" })]
    NoInterface(Vec<String>),
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
    #[error("memory for a connection table of {} flows{}: {source} ({} for so many)",
        wanted.flows_v4,
        wanted.persistence_v4.map_or_else(String::new, |clients| format!(" and a persistence table of {clients} clients")),
        if wanted.persistence_v4.is_some() { "dataplane.flows_v4 and persistence_v4 ask" } else { "dataplane.flows_v4 asks" }
    )]
    FlowTable {
        /// What it was to fit.
        wanted: Sizes,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A worker ended by itself; its panic is in the log.
    #[error("worker {0} has died")]
    WorkerDied(usize),
}

/// What whoever started the daemon wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Every worker forwards: said once.
    Ready,
    /// The configuration is being read again.
    Reloading,
    /// That is over, and came to this.
    Reloaded(&'a str),
}

/// What the daemon starts with.
#[derive(Debug)]
pub struct Beginning {
    /// SIGHUP has it read again.
    pub file: PathBuf,
    /// The configuration that is to rule.
    pub running: Restored,
    /// Keeps what is changed of it.
    pub state: state::Place,
    /// Where the API is served.
    pub doors: Doors,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(beginning: Beginning, mut tell: impl FnMut(Progress<'_>)) -> Result<(), DaemonError> {
    let Beginning { file, running, state, doors } = beginning;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Threads that come and go: they read files, lay pools out, and write what metrics come to.
    runtime.on_thread_start(|| {
        privileges::confine_helper();
        cores::give_way();
    });
    runtime.enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut reloads = Reloads::of(file)?;
        let serve = async {
            let applied = running.running.applied.is_some();
            let place = running.running.base.node.state_dir.join(STATE_FILE);
            let started = Daemon::start(running, Store::start(state)?, reloads.file()).await;
            let mut daemon =
                started.map_err(|error| if applied { error.applied(place, reloads.file()) } else { error })?;
            // Whoever has connected before is answered from here on.
            let (_server, mut clerk) = serve(doors)?;
            tell(Progress::Ready);
            daemon.work(&mut reloads, &mut clerk, tell).await
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

impl DaemonError {
    /// The same where a configuration that was applied had ruled.
    fn applied(self, state: PathBuf, file: &Path) -> Self {
        match self {
            Self::Config(_) | Self::NoIds(_) | Self::NoInterface(_) | Self::Plane(_) | Self::FlowTable { .. } => {
                Self::Applied { source: Box::new(self), state, file: file.to_owned() }
            }
            other => other,
        }
    }
}

/// The control thread's state.
pub(super) struct Daemon {
    plan: Plan,
    identities: Identities,
    /// What is to rule next.
    proposal: Option<Proposal>,
    watcher: Watcher,
    network: Arc<Network>,
    /// `None` while none of its interfaces exists, or they do not take us.
    plane: Option<Plane>,
    /// The number of queues that the last plane had of each interface.
    queues: Option<u32>,
    /// Interfaces that did not take us, until they have.
    refusals: HashMap<String, Refusal>,
    /// What was last said of each interface that is not served.
    unfit: BTreeMap<String, Unfit>,
    /// Interfaces that have been served at any time.
    ever_served: BTreeSet<String>,
    shared: Shared,
    checker: Checker,
    /// Sweep the connection table.
    hands: Hands,
    announcer: Announcer,
    generation: u64,
    /// What was last said of each member and each problem: a line per change, not per look.
    said: HashMap<String, Said>,
    /// The same of each pool.
    said_of_pools: HashMap<String, SaidOfPool>,
    /// The same of each VIP: its state.
    said_of_vips: HashMap<String, &'static str>,
    /// How the members do by the newest tables, in the model's order.
    members: Vec<MemberStatus>,
    /// The same of the pools.
    pools: Vec<PoolStatus>,
    /// What the plan was made of.
    running: Running,
    /// The startup file.
    file: String,
    store: Store,
    /// Why what rules is not saved, as was last said.
    not_saved: Option<String>,
    events: Events,
    ready: Instant,
    problems: Vec<String>,
    statistics: Statistics,
}

/// Attaching to a real card resets its rings and so costs the host packets: it is tried again ever more rarely, unless
/// the interface changes.
#[derive(Debug)]
struct Refusal {
    link: Link,
    until: Instant,
    pause: Duration,
    failure: String,
}

impl Daemon {
    async fn start(restored: Restored, store: Store, file: &Path) -> Result<Self, DaemonError> {
        let Restored { running, said } = restored;
        let model = running.model();
        let names: Vec<String> = model.interfaces.iter().map(|interface| interface.name.clone()).collect();
        // Before what follows from it is complained of.
        if !names.iter().any(|name| nic::exists(name)) {
            return Err(DaemonError::NoInterface(names));
        }
        let mut identities = Identities::default();
        let ids = identities.assign(&model)?;
        identities.adopt(&model, &ids, 0);
        let plan = Plan::with(model, ids, None);
        let watcher = Watcher::start(names, plan.targets()).await?;
        let wanted = plan.sizes();
        let (flows, hands) =
            FlowTable::of_sizes(&wanted).map_err(|source| DaemonError::FlowTable { wanted, source })?;
        let mebibytes = |lines| (lines * LINE_BYTES) >> 20;
        let Sizes { flows_v4, persistence_v4, .. } = wanted;
        let pages = flows.v4.pages().name();
        info!("connection table: {flows_v4} flows, {} MiB on {pages} pages", mebibytes(flows.v4.lines()));
        if let (Some(templates), Some(clients)) = (flows.templates.get(), persistence_v4) {
            info!("persistence: {clients} clients, {} MiB", mebibytes(templates.lines()));
        }
        let mut daemon = Self {
            network: watcher.network(),
            plan,
            identities,
            proposal: None,
            watcher,
            plane: None,
            queues: None,
            refusals: HashMap::new(),
            unfit: BTreeMap::new(),
            ever_served: BTreeSet::new(),
            shared: Shared { counters: Vec::new(), flows: Arc::new(flows), cores: Cores::given(&[store.thread()]) },
            checker: Checker::new(),
            hands,
            announcer: Announcer::default(),
            generation: 0,
            said: HashMap::new(),
            said_of_pools: HashMap::new(),
            said_of_vips: HashMap::new(),
            members: Vec::new(),
            pools: Vec::new(),
            running,
            file: file.display().to_string(),
            store,
            not_saved: None,
            events: Events::default(),
            ready: Instant::now(),
            problems: Vec::new(),
            statistics: Statistics::default(),
        };
        let network = Arc::clone(&daemon.network);
        let problems = compile::problems(&daemon.plan.model, &network);
        if !problems.is_empty() {
            return Err(DaemonError::Config(problems.join("\npointsman: ")));
        }
        daemon.bring_up(&network)?;
        daemon.checker.adopt_orphans();
        daemon.checker.follow(&daemon.plan.model);
        (daemon.network, ()) =
            tokio::join!(daemon.watcher.first_resolution(FIRST_RESOLUTION), daemon.checker.first_looks(FIRST_LOOKS));
        daemon.serve()?;
        daemon.say_shared_addresses(&BTreeSet::new());
        daemon.all_workers_serve().await?;
        if let Some(plane) = &daemon.plane {
            daemon.shared.cores.leave(plane.cores());
        }
        daemon.store.save(&daemon.running);
        let version = format!("pointsman {}, revision {}", env!("CARGO_PKG_VERSION"), daemon.running.revision);
        daemon.events.add("daemon", "", (None, Some("ready".into())), version);
        for words in said {
            daemon.events.add("config", "", (None, None), words);
        }
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

    async fn work(
        &mut self,
        reloads: &mut Reloads,
        clerk: &mut Clerk,
        mut tell: impl FnMut(Progress<'_>),
    ) -> Result<(), DaemonError> {
        let mut second = interval(SECOND);
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sweep = interval(SWEEP_ROUND / SWEEP_STEPS);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut statistics = interval(STATISTICS);
        statistics.set_missed_tick_behavior(MissedTickBehavior::Skip);
        statistics.tick().await;
        loop {
            let (announce, proposal) = (self.announcer.due(Instant::now()), self.proposal_due());
            // One after the other: while a configuration waits to be applied, signals wait too.
            let is_idle = self.proposal.is_none();
            let growth = self.plan.next();
            tokio::select! {
                network = self.watcher.changed() => {
                    self.network = network;
                    self.follow_interfaces();
                    self.serve()?;
                }
                () = self.checker.changed() => self.serve()?,
                () = sleep_until(growth), if growth.is_some() => self.serve()?,
                () = sleep_until(announce), if announce.is_some() => self.announce(),
                told = reloads.next(), if is_idle => match told {
                    Told::Asked => {
                        info!("reloading {}", reloads.file().display());
                        tell(Progress::Reloading);
                    }
                    Told::Read(loaded) => {
                        if let Some(refusal) = self.take_in(*loaded) {
                            tell(Progress::Reloaded(&refusal));
                        }
                    }
                },
                Some(question) = clerk.questions.recv() => question(self),
                Some(order) = clerk.orders.recv(), if is_idle => self.take_order(order),
                () = sleep_until(proposal), if proposal.is_some() => {}
                () = prepared(&mut self.proposal) => {}
                _ = sweep.tick() => self.sweep(),
                _ = second.tick() => self.each_second()?,
                _ = statistics.tick() => self.say_statistics(None),
            }
            if let Some(outcome) = self.settle()? {
                tell(Progress::Reloaded(&outcome));
            }
        }
    }

    fn listed(&self) -> Vec<String> {
        self.plan.model.interfaces.iter().map(|interface| interface.name.clone()).collect()
    }

    /// On all listed interfaces that exist. A card that is dead or late must not keep the other one from being served; but
    /// one that is there and does not fit is a mistake in the set-up, which is worth an error while somebody looks.
    fn bring_up(&mut self, network: &Network) -> Result<(), DaemonError> {
        let (existing, missing): (Vec<_>, Vec<_>) =
            self.listed().into_iter().partition(|name| network.links.contains_key(name));
        if existing.is_empty() {
            return Err(DaemonError::NoInterface(missing));
        }
        for name in missing {
            self.say_unfit(name, Unfit::Missing);
        }
        let links = existing.iter().filter_map(|name| network.links.get_key_value(name));
        let places: Vec<_> = links.map(|(name, link)| Place { name, link }).collect();
        let plane = Plane::bring_up(&self.plan.model, &places, PATIENCE_AT_START, &mut self.shared)?;
        self.came_up(plane);
        Ok(())
    }

    fn came_up(&mut self, plane: Plane) {
        self.queues = Some(plane.queues());
        // The first tables are made on all cores: nobody is in their way yet.
        if self.generation > 0 {
            self.shared.cores.leave(plane.cores());
        }
        for (name, (xdp_mode, copy_mode)) in plane.interfaces().iter().zip(plane.modes()) {
            let how = format!("{xdp_mode} XDP, {copy_mode}");
            self.events.add("interface", name, (None, Some("served".into())), how);
        }
        self.ever_served.extend(plane.interfaces().iter().cloned());
        let is_served = |name: &String| plane.interfaces().contains(name);
        self.refusals.retain(|name, _| !is_served(name));
        self.unfit.retain(|name, _| !is_served(name));
        self.plane = Some(plane);
        // Interfaces may have other ids, and requests may have gone unanswered.
        self.announcer.forget();
    }

    /// Survives an interface that goes away, one that comes back under whatever index, and one that is no longer what the
    /// plane was built for: whatever becomes of it, those that fit are served, and a plane that fits is left alone. Says
    /// whether it is gone, or a new one there that serves nothing yet.
    fn follow_interfaces(&mut self) -> bool {
        let network = Arc::clone(&self.network);
        let fit = self.fit(&self.plan.model, &network);
        for (name, why) in fit.unfit {
            self.say_unfit(name, why);
        }
        let mut places = fit.places;
        if self.misfit(&places).is_some() && self.plane.is_some() {
            // A newcomer is tried before the others are interrupted for it.
            places.retain(|place| self.takes_us(place));
        }
        match self.misfit(&places) {
            None => return false,
            Some(Misfit::Changed { interface, change }) => warn!("{interface}: {change}"),
            Some(Misfit::Others) => {}
        }
        let is_on = |place: &Place<'_>| self.plane.as_ref().is_some_and(|plane| plane.is_on(place));
        let staying: Vec<String> =
            places.iter().filter(|place| is_on(place)).map(|place| place.name.to_owned()).collect();
        let before = self.plane.take().map(|plane| plane.interfaces().to_vec());
        self.rebuild(places, before.as_deref().unwrap_or_default(), &staying) || before.is_some()
    }

    /// Those of the listed interfaces that a plane can be on together.
    fn fit<'a>(&self, model: &Model, network: &'a Network) -> Fit<'a> {
        let is_ours = |place: &Place<'_>| self.plane.as_ref().is_some_and(|plane| plane.is_on(place));
        let refused = |place: &Place<'_>| {
            let refusal = self.refusals.get(place.name)?;
            (Instant::now() < refusal.until && refusal.link == *place.link).then(|| refusal.failure.clone())
        };
        let cores = model.dataplane.cores.as_ref().map(Vec::len);
        fit::choose(fit::ask(model, network, is_ours, refused), self.queues, cores)
    }

    /// Without a plane there is none to be missed as long as there is no interface for one.
    fn misfit(&self, places: &[Place<'_>]) -> Option<Misfit> {
        match &self.plane {
            Some(plane) => plane.misfit(places),
            None => (!places.is_empty()).then_some(Misfit::Others),
        }
    }

    fn takes_us(&mut self, place: &Place<'_>) -> bool {
        if self.plane.as_ref().is_some_and(|plane| plane.is_on(place)) {
            return true;
        }
        let tried = plane::try_out(&self.plan.model, *place);
        tried.map_err(|error| self.refuse(place, &error)).is_ok()
    }

    /// Brings a plane up on as many of these interfaces as it comes up on.
    fn rebuild(&mut self, mut places: Vec<Place<'_>>, before: &[String], staying: &[String]) -> bool {
        while !places.is_empty() {
            match Plane::bring_up(&self.plan.model, &places, PATIENCE_WITH_OURSELVES, &mut self.shared) {
                Ok(plane) => {
                    self.say_served(plane.interfaces(), staying);
                    self.came_up(plane);
                    return true;
                }
                Err(error) => {
                    let (without, with) = without_the_cause(&error, places, before);
                    for place in &with {
                        self.refuse(place, &error);
                    }
                    places = without;
                }
            }
        }
        false
    }

    fn refuse(&mut self, place: &Place<'_>, error: &PlaneError) {
        let earlier = self.refusals.get(place.name).filter(|earlier| earlier.link == *place.link);
        let pause = earlier.map_or(SHORTEST_PAUSE, |earlier| (earlier.pause * 2).min(LONGEST_PAUSE));
        let (link, failure) = (place.link.clone(), error.to_string());
        self.say_unfit(place.name.to_owned(), Unfit::Refused(failure.clone()));
        let refusal = Refusal { link, until: Instant::now() + pause, pause, failure };
        self.refusals.insert(place.name.to_owned(), refusal);
    }

    /// Says which interfaces are served for the first time, which again, and which were only interrupted.
    fn say_served(&self, now: &[String], staying: &[String]) {
        let (interrupted, rest): (Vec<_>, Vec<_>) = now.iter().cloned().partition(|name| staying.contains(name));
        let (regained, new): (Vec<_>, Vec<_>) = rest.into_iter().partition(|name| self.ever_served.contains(name));
        for (names, words) in [(new, "served"), (regained, "served again"), (interrupted, "served on, by new sockets")]
        {
            if !names.is_empty() {
                info!("{}: {words}", names.join(", "));
            }
        }
    }

    /// A line per change.
    fn say_unfit(&mut self, name: String, why: Unfit) {
        if self.unfit.get(&name) != Some(&why) {
            warn!("{name}: {why}");
            self.events.add("interface", &name, (None, Some("not served".into())), why.to_string());
            self.unfit.insert(name, why);
        }
    }

    /// Those that are served.
    fn interfaces(&self) -> &[String] {
        self.plane.as_ref().map_or(&[][..], Plane::interfaces)
    }

    fn compile(&mut self) -> Compiled {
        self.generation += 1;
        let interfaces = self.plane.as_ref().map_or(&[][..], Plane::interfaces);
        self.plan.health = self.checker.health().clone();
        self.plan.now = Instant::now();
        self.plan.compile(&self.network, interfaces, self.generation)
    }

    /// Has workers and steering do what configuration and network now come to, and says what changed.
    fn serve(&mut self) -> Result<(), DaemonError> {
        let began = Instant::now();
        let compiled = self.compile();
        let (members, pools) = (compiled.members.clone(), compiled.pools.clone());
        let problems = compiled.problems.clone();
        if let Some(plane) = &mut self.plane {
            let announcements = compiled.announcements(&self.network, plane.interfaces());
            plane.serve(compiled)?;
            self.announcer.follow(announcements);
        } else {
            self.announcer.follow(BTreeMap::new());
        }
        // Said when it is so.
        self.say_members(&members);
        self.members = members;
        self.say_pools(&pools);
        self.pools = pools;
        self.say_vips();
        self.say_problems(problems);
        self.checker.rest(began.elapsed());
        Ok(())
    }

    /// Ends what has expired in a part of the connection table.
    fn sweep(&mut self) {
        let Some(plane) = &self.plane else { return };
        let flows = &self.shared.flows;
        flows.sweep(&mut self.hands, flows.now(), SWEEP_STEPS as usize, plane.tables());
    }

    fn each_second(&mut self) -> Result<(), DaemonError> {
        self.checker.tidy();
        self.follow_saving();
        if self.follow_interfaces() {
            self.serve()?;
        }
        let Some(plane) = &self.plane else { return Ok(()) };
        if let Some(worker) = plane.dead_worker() {
            return Err(DaemonError::WorkerDied(worker));
        }
        plane.publisher().collect();
        self.identities.release(plane.taken(), &self.hands);
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
        Ok(())
    }

    fn announce(&mut self) {
        if let Some(plane) = &self.plane {
            self.announcer.announce(Instant::now(), |interface, frame| plane.publisher().send(interface, frame));
        }
    }

    fn shared_addresses(&self) -> BTreeSet<Ipv4Addr> {
        let vips = self.plan.model.vips.iter().map(|vip| vip.address);
        vips.filter(|address| self.network.addresses.contains(address)).collect()
    }

    /// Not wrong, but rarely meant: what no VIP serves there reaches the host.
    fn say_shared_addresses(&self, said: &BTreeSet<Ipv4Addr>) {
        for address in self.shared_addresses().difference(said) {
            warn!(
                "{address} is a VIP's and also one of this host's own addresses: its VIPs' ports are balanced; ping, \
                 other ports, fragments and ICMP errors are the host's (better: an address that no host has)"
            );
        }
    }

    fn say_statistics(&mut self, last: Option<SteeringCounters>) {
        let steering = last.or_else(|| self.plane.as_ref()?.steering_counters().ok());
        let Shared { counters, flows, .. } = &self.shared;
        info!("{}", self.statistics.line(&self.plan, counters, flows, steering, self.checker.pace()));
    }
}

async fn prepared(proposal: &mut Option<Proposal>) {
    match proposal {
        Some(proposal) => proposal.prepared().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(moment: Option<Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment.into()).await;
    }
}

/// Divides interfaces on which no plane came up: those without which it may, and those that are to be left out: the one
/// that the error names, else those that were not there before, else all.
fn without_the_cause<'a>(
    error: &PlaneError,
    places: Vec<Place<'a>>,
    before: &[String],
) -> (Vec<Place<'a>>, Vec<Place<'a>>) {
    let is_old = |place: &Place<'_>| before.iter().any(|name| name == place.name);
    if let Some(named) = error.interface() {
        places.into_iter().partition(|place| place.name != named)
    } else if places.iter().all(is_old) {
        (Vec::new(), places)
    } else {
        places.into_iter().partition(is_old)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_names_is_left_out_else_what_is_new_else_all() {
        let link = Link { index: 1, mac: [2; 6], mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 };
        let blamed = PlaneError::ZeroCopyNeedsNative { interface: "a".into(), driver: "veth".into() };
        let nobody = PlaneError::Thread(std::io::Error::from_raw_os_error(libc::EMFILE));
        let rows: [(_, &[&str], &[&str], &[&str]); 4] = [
            (&blamed, &["a", "b"], &["b"], &["a"]),
            (&nobody, &["a"], &["a"], &["b"]),
            (&nobody, &["a", "b"], &[], &["a", "b"]),
            (&nobody, &[], &[], &["a", "b"]),
        ];
        for (error, before, without, with) in rows {
            let places = ["a", "b"].map(|name| Place { name, link: &link }).to_vec();
            let before = names_of(before);
            let found = without_the_cause(error, places, &before);
            let names = |places: &[Place<'_>]| places.iter().map(|place| place.name.to_owned()).collect::<Vec<_>>();
            assert_eq!((names(&found.0), names(&found.1)), (names_of(without), names_of(with)), "{before:?}");
        }
    }

    fn names_of(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }
}
