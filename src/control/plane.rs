//! Brings the data plane up on the host's interfaces and takes it down again: steering program, sockets, workers.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{info, warn};

use super::compile::Compiled;
use super::cores::Cores;
use super::fit::{NOT_ETHERNET, counted};
use super::identity::Reused;
use super::memory::{self, TooLittleMemory};
use super::model::{Model, XdpMode as WantedXdpMode, ZeroCopy};
use super::neighbor::{Link, xdp_programs};
use super::publish::{Publisher, WorkerStuck};
use super::{occupant, privileges};
use crate::dataplane::counters::Counters;
use crate::dataplane::flow::FlowTable;
use crate::dataplane::port::nic;
use crate::dataplane::port::steering::{AddressFlags, AttachError, Steering, SteeringCounters, SteeringError, XdpMode};
use crate::dataplane::port::xdp::{
    CopyMode, OpenError, OpenOptions, Opened, WantedCopyMode, XdpPort, largest_mtu, memory_needed,
};
use crate::dataplane::service::Destination;
use crate::dataplane::tables::{InterfaceId, Tables};
use crate::dataplane::worker::{Idle, Mailbox, NEW_FLOWS, Parts, Worker};

/// Why the data plane does not come up.
#[derive(Debug, Error)]
pub enum PlaneError {
    /// The steering program does not load, or its maps do not take what they should.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// The steering program does not attach.
    #[error("{interface} (driver {driver}): no {mode} XDP: {cause}{advice}")]
    Attach {
        /// The interface's name.
        interface: String,
        /// Its driver.
        driver: String,
        /// The mode that was tried last.
        mode: XdpMode,
        /// What the kernel said.
        cause: AttachError,
        /// What to do.
        advice: String,
    },
    /// Another program is on the interface.
    #[error("{interface}: {occupant}")]
    Occupied {
        /// The interface's name.
        interface: String,
        /// What is known of the program.
        occupant: String,
    },
    /// The interface does not carry Ethernet frames.
    #[error("{interface} (driver {driver}): {NOT_ETHERNET}")]
    NotEthernet {
        /// The interface's name.
        interface: String,
        /// Its driver.
        driver: String,
    },
    /// Zero-copy was insisted on, and the driver has no native XDP.
    #[error(
        "{interface} (driver {driver}): dataplane.zero_copy = \"on\" needs native XDP, and it runs generic (\"auto\" \
         copies instead)"
    )]
    ZeroCopyNeedsNative {
        /// The interface's name.
        interface: String,
        /// Its driver.
        driver: String,
    },
    /// Zero-copy was insisted on, and the driver refuses.
    #[error(
        "{interface} (driver {driver}): dataplane.zero_copy = \"on\", and it does not take queue {queue} in zero-copy \
         mode: {source} (\"auto\" copies instead)"
    )]
    ZeroCopyRefused {
        /// The interface's name.
        interface: String,
        /// Its driver.
        driver: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A worker has the same queue of every interface.
    #[error(
        "{fewer} has {} and {more} has {most}; a worker has one queue of each interface, so they need the \
             same number (set it with: {command})",
        counted(*.least)
    )]
    UnequalQueues {
        /// The interface with the fewest.
        fewer: String,
        /// How many it has.
        least: u32,
        /// One with more.
        more: String,
        /// How many it has.
        most: u32,
        /// What gives it as many as the other.
        command: String,
    },
    /// An interface's MTU does not fit into a chunk.
    #[error(
        "{interface}: MTU {mtu} is more than {largest} (set it with: ip link set {interface} mtu {largest})",
        largest = largest_mtu()
    )]
    Mtu {
        /// The interface's name.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
    /// The frames would not fit.
    #[error("{source} ({workers} workers on {interfaces} interfaces; fewer queues need less: ethtool -L)")]
    Memory {
        /// How many workers there would be: one per queue.
        workers: u32,
        /// How many interfaces each has a queue of.
        interfaces: usize,
        /// What is needed, and what there is.
        source: TooLittleMemory,
    },
    /// Fewer cores than queues.
    #[error(
        "dataplane.cores names {cores} cores, and {interface} has {}, each with a worker of its own \
             (name more cores, or: {command})",
        counted(*.queues)
    )]
    TooFewCores {
        /// How many are named.
        cores: usize,
        /// The interface's name.
        interface: String,
        /// How many queues it has.
        queues: u32,
        /// What gives it no more than there are cores.
        command: String,
    },
    /// A core that is not there, or not ours.
    #[error("dataplane.cores: core {core} is not one that this process may use (it may use {allowed:?})")]
    ForbiddenCore {
        /// The core.
        core: usize,
        /// Those it may use.
        allowed: Vec<usize>,
    },
    /// The kernel would not give a thread, or a file descriptor.
    #[error("starting a worker: {0}")]
    Thread(io::Error),
    /// A worker does not answer.
    #[error(transparent)]
    Stuck(#[from] WorkerStuck),
}

impl PlaneError {
    /// The interface without which it might come up.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Attach { interface, .. }
            | Self::Occupied { interface, .. }
            | Self::NotEthernet { interface, .. }
            | Self::ZeroCopyNeedsNative { interface, .. }
            | Self::ZeroCopyRefused { interface, .. }
            | Self::Mtu { interface, .. }
            | Self::UnequalQueues { more: interface, .. }
            | Self::TooFewCores { interface, .. }
            | Self::Open(OpenError::Busy { interface, .. } | OpenError::Socket { interface, .. }) => Some(interface),
            _ => None,
        }
    }
}

/// What lives as long as the process, across restarts of the data plane.
#[derive(Debug, Clone)]
pub struct Shared {
    /// One per worker.
    pub counters: Vec<Arc<Counters>>,
    /// All workers share it.
    pub flows: Arc<FlowTable>,
    /// Who runs where.
    pub cores: Cores,
}

/// A running data plane. Dropped, it stops the workers, closes the sockets and detaches the programs.
#[derive(Debug)]
pub struct Plane {
    /// One per interface, as are those two below: in the order of [`InterfaceId`].
    steering: Vec<Steering>,
    names: Vec<String>,
    /// How each was attached.
    modes: Vec<(XdpMode, CopyMode)>,
    /// One per worker: the core that it is pinned to.
    cores: Vec<usize>,
    built_for: Vec<BuiltFor>,
    publisher: Publisher,
    workers: Vec<JoinHandle<()>>,
    /// One per worker.
    counters: Vec<Arc<Counters>>,
    tables: Arc<Tables>,
    /// What is steered here.
    services: HashSet<Destination>,
}

/// What a plane was built for on one interface; when that is no longer so it must be built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BuiltFor {
    interface_index: u32,
    queues: u32,
    largest_mtu: u32,
}

/// Why a plane must be built anew.
#[derive(Debug, PartialEq, Eq)]
pub enum Misfit {
    /// One of its interfaces is no longer what it was.
    Changed {
        /// The interface's name.
        interface: String,
        /// How it has changed.
        change: String,
    },
    /// It could be on more interfaces, or can be only on fewer.
    Others,
}

/// An interface that a plane is to be built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the kernel says of it.
    pub link: &'a Link,
}

impl Plane {
    /// Opens, attaches and starts everything; says in a few lines what it did. Serves nothing yet. What can fail for
    /// want of a fitting interface comes before the program is attached, since that resets a real card's rings.
    pub fn bring_up(
        model: &Model,
        places: &[Place<'_>],
        patience: Duration,
        shared: &mut Shared,
    ) -> Result<Self, PlaneError> {
        all_ethernet(places)?;
        let queues = common_queues(places)?;
        let cores = choose_cores(model, places, queues, shared.cores.allowed())?;
        let mtu = common_mtu(places)?;
        let needed = u64::from(queues) * memory_needed(places.len(), mtu);
        enough_memory(needed, patience).map_err(|source| PlaneError::Memory {
            workers: queues,
            interfaces: places.len(),
            source,
        })?;
        let mut steering = places.iter().map(|place| load(place.link)).collect::<Result<Vec<_>, _>>()?;
        let wanted = OpenQueues { model, places, mtu, queues, patience };
        let (xdp_modes, opened) = attach(&mut steering, &wanted)?;

        let mailboxes = opened.iter().map(|_| Mailbox::new().map(Arc::new)).collect::<Result<Vec<_>, _>>();
        let mailboxes = mailboxes.map_err(PlaneError::Thread)?;
        let frames_hold = opened.iter().flat_map(|one| &one.ports).map(XdpPort::largest_mtu).min().unwrap_or(0);
        let built_for =
            |place: &Place<'_>| BuiltFor { interface_index: place.link.index, queues, largest_mtu: frames_hold };
        let mut plane = Self {
            steering,
            names: places.iter().map(|place| place.name.to_owned()).collect(),
            modes: Vec::new(),
            cores: Vec::new(),
            built_for: places.iter().map(built_for).collect(),
            publisher: Publisher::new(mailboxes.clone()),
            workers: Vec::new(),
            counters: Vec::new(),
            tables: Arc::new(Tables::empty()),
            services: HashSet::new(),
        };
        for (worker, ((opened, mailbox), core)) in opened.into_iter().zip(mailboxes).zip(cores).enumerate() {
            let Opened { ports, frames, zero_copy_refused } = opened;
            for ((name, mode), port) in plane.names.iter().zip(&xdp_modes).zip(&ports) {
                info!("attached {name} {mode} {} queue {worker} worker {worker} core {core}", port.copy_mode());
            }
            if let Some(refused) = zero_copy_refused.filter(|_| worker == 0) {
                let (name, cause) = (refused.interface, refused.cause);
                info!("{name}: zero-copy refused: {cause}; the kernel copies every packet");
            }
            if worker == 0 {
                plane.modes = xdp_modes.iter().copied().zip(ports.iter().map(XdpPort::copy_mode)).collect();
            }
            plane.cores.push(core);
            let counters = shared.counters_of(worker);
            plane.counters.push(Arc::clone(&counters));
            let parts = Parts {
                ports,
                frames,
                mailbox,
                counters,
                flows: Arc::clone(&shared.flows),
                new_flows: NEW_FLOWS,
                idle: if model.dataplane.busy_poll { Idle::Spin } else { Idle::Sleep },
            };
            plane.workers.push(start(worker, core, parts).map_err(PlaneError::Thread)?);
        }
        Ok(plane)
    }

    /// The interfaces that it is on, in the order of [`InterfaceId`].
    pub fn interfaces(&self) -> &[String] {
        &self.names
    }

    /// How it is on each of them.
    pub fn modes(&self) -> &[(XdpMode, CopyMode)] {
        &self.modes
    }

    /// The core of each worker.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// Whether it is on this very interface, and not on one of its name that is gone.
    pub fn is_on(&self, place: &Place<'_>) -> bool {
        let mut each = self.names.iter().zip(&self.built_for);
        each.any(|(name, built_for)| name == place.name && built_for.interface_index == place.link.index)
    }

    /// How many queues of each interface it has.
    pub fn queues(&self) -> u32 {
        self.workers.len() as u32
    }

    /// Whether the plane is still what would be built on these interfaces; if not, why not.
    pub fn misfit(&self, places: &[Place<'_>]) -> Option<Misfit> {
        for (name, built_for) in self.names.iter().zip(&self.built_for) {
            let place = places.iter().find(|place| place.name == *name);
            if let Some(change) = place.and_then(|place| built_for.misfit(place)) {
                return Some(Misfit::Changed { interface: name.clone(), change });
            }
        }
        (!self.names.iter().map(String::as_str).eq(places.iter().map(|place| place.name))).then_some(Misfit::Others)
    }

    /// Puts compiled tables to work: the workers first, then the programs that send them packets.
    pub fn serve(&mut self, compiled: Compiled) -> Result<(), PlaneError> {
        let tables = Arc::new(compiled.tables);
        self.publisher.publish(&tables)?;
        self.tables = Arc::clone(&tables);
        let services: HashSet<Destination> = compiled.services.iter().copied().collect();
        if !services.is_subset(&self.services) {
            self.wait_until_taken();
        }
        self.services = services;
        for ((id, steering), interface) in (0..).map(InterfaceId).zip(&mut self.steering).zip(&tables.interfaces) {
            steering.set_mac(interface.mac)?;
            let addresses = tables.addresses.iter().map(|vip| {
                let host = compiled.host_addresses.contains(&vip.address);
                (vip.address, AddressFlags { announced: vip.announced.contains(id), host })
            });
            steering.serve(compiled.services.iter().copied(), addresses)?;
        }
        Ok(())
    }

    /// Packets of a new VIP are not sent to workers that do not know it yet. (One that is kept from its core for longer
    /// drops the first of them.)
    fn wait_until_taken(&self) {
        const PATIENCE: Duration = Duration::from_millis(50);
        let started = Instant::now();
        while self.taken() < self.tables.generation && started.elapsed() < PATIENCE {
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// The generation of the oldest tables that a worker has.
    pub fn taken(&self) -> u64 {
        self.counters.iter().map(|worker| worker.generation.get()).min().unwrap_or(0)
    }

    /// What the workers work by.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The same, for whoever looks at them for longer.
    pub fn shared_tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// Control's hand on the workers.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What the steering programs counted, together.
    pub fn steering_counters(&self) -> Result<SteeringCounters, SteeringError> {
        self.steering.iter().map(Steering::counters).sum()
    }

    /// The first worker that has ended without being told to.
    pub fn dead_worker(&self) -> Option<usize> {
        self.workers.iter().position(JoinHandle::is_finished)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Detached first: from here on the host gets its frames again.
        self.steering.iter_mut().for_each(Steering::detach);
        self.publisher.stop();
        for (index, worker) in self.workers.drain(..).enumerate() {
            if worker.join().is_err() {
                warn!("worker {index} had panicked");
            }
        }
    }
}

impl BuiltFor {
    fn misfit(&self, place: &Place<'_>) -> Option<String> {
        let Place { name, link } = place;
        // An interface on its way out does not say.
        let queues = nic::receive_queues(name).ok().flatten().unwrap_or(self.queues);
        if link.index != self.interface_index {
            Some("it is another interface now".into())
        } else if link.mtu > self.largest_mtu {
            Some(format!("its MTU is now {}, and frames were made for {}", link.mtu, self.largest_mtu))
        } else if queues != self.queues {
            Some(format!("it has {} now, and had {}", counted(queues), self.queues))
        } else {
            None
        }
    }
}

impl Shared {
    /// Has ids that are somebody else's now begin with nothing of those who had them before.
    pub fn forget(&self, reused: &Reused) {
        for &vip in &reused.vips {
            self.flows.forget_vip(vip);
            self.counters.iter().for_each(|worker| worker.forget_vip(vip));
        }
        for &member in &reused.members {
            self.flows.loads.forget_member(member);
            self.counters.iter().for_each(|worker| worker.forget_member(member));
        }
    }

    /// The counters of a worker, made when it is first started.
    fn counters_of(&mut self, worker: usize) -> Arc<Counters> {
        while self.counters.len() <= worker {
            // Whatever VIPs and members later configurations have.
            self.counters.push(Arc::new(Counters::new()));
        }
        Arc::clone(&self.counters[worker])
    }
}

fn load(link: &Link) -> Result<Steering, SteeringError> {
    let mut steering = Steering::load()?;
    steering.set_mac(link.mac)?;
    Ok(steering)
}

/// The sockets that are wanted: one per queue and interface.
struct OpenQueues<'a> {
    model: &'a Model,
    places: &'a [Place<'a>],
    mtu: u32,
    queues: u32,
    patience: Duration,
}

impl OpenQueues<'_> {
    fn open(&self, copy_mode: WantedCopyMode, patience: Duration) -> Result<Vec<Opened>, PlaneError> {
        let open_within = |queue, patience| {
            XdpPort::open(&OpenOptions {
                interfaces: self.places.iter().map(|place| place.name.to_owned()).collect(),
                queue,
                mtu: self.mtu,
                copy_mode,
                busy_poll: self.model.dataplane.busy_poll,
                patience,
            })
        };
        let open = |queue| match open_within(queue, patience.min(IN_SILENCE)) {
            Err(OpenError::Busy { interface, .. }) if patience > IN_SILENCE => {
                let seconds = patience.as_secs();
                warn!("{interface} queue {queue} is still held by an AF_XDP socket: waiting up to {seconds} s for it");
                open_within(queue, patience)
            }
            result => result,
        };
        (0..self.queues).map(open).collect::<Result<_, _>>().map_err(|error| self.named(error))
    }

    /// Who does not do what the configuration insists on.
    fn named(&self, error: OpenError) -> PlaneError {
        match (error, self.model.dataplane.zero_copy) {
            (OpenError::Socket { interface, queue, source, .. }, ZeroCopy::On) => {
                PlaneError::ZeroCopyRefused { driver: driver(&interface), interface, queue, source }
            }
            (error, _) => error.into(),
        }
    }

    /// The generic path hands over copies (`XDP_SKB` in Documentation/networking/af\_xdp.rst).
    fn copy_mode(&self, modes: &[XdpMode]) -> Result<WantedCopyMode, PlaneError> {
        let generic = self.places.iter().zip(modes).find(|(_, mode)| **mode == XdpMode::Generic);
        match (self.model.dataplane.zero_copy, generic) {
            (ZeroCopy::On, Some((place, _))) => {
                Err(PlaneError::ZeroCopyNeedsNative { interface: place.name.to_owned(), driver: driver(place.name) })
            }
            (ZeroCopy::On, None) => Ok(WantedCopyMode::ZeroCopy),
            (ZeroCopy::Auto, None) => Ok(WantedCopyMode::Auto),
            _ => Ok(WantedCopyMode::Copy),
        }
    }
}

/// Finds out whether an interface takes us, next to a plane that runs on others: attaches, and takes it back. It
/// carries nothing: nobody is told of it, and it is over before the first packet that matters.
pub fn try_out(model: &Model, place: Place<'_>) -> Result<(), PlaneError> {
    let places = [place];
    let (queues, mtu) = (common_queues(&places)?, common_mtu(&places)?);
    let mut steering = [load(place.link)?];
    attach(&mut steering, &OpenQueues { model, places: &places, mtu, queues, patience: Duration::ZERO })?;
    Ok(())
}

/// How long our own sockets of a moment ago are waited for.
pub const PATIENCE_WITH_OURSELVES: Duration = Duration::from_secs(2);

/// How long anything is waited for before that is said. Less would alarm whoever restarts the process that had it a moment
/// ago (it is free within some 20 ms); more would look like a process that hangs.
const IN_SILENCE: Duration = Duration::from_millis(100);

/// Opens the sockets and attaches the programs, each in the wanted mode; a fallback is said, with its cause.
fn attach(steering: &mut [Steering], wanted: &OpenQueues<'_>) -> Result<(Vec<XdpMode>, Vec<Opened>), PlaneError> {
    for place in wanted.places {
        if !is_free(place.name, wanted.patience) {
            return Err(occupied(place));
        }
    }
    let xdp_mode = wanted.model.dataplane.xdp_mode;
    let first = if xdp_mode == WantedXdpMode::Generic { XdpMode::Generic } else { XdpMode::Native };
    let mut modes = vec![first; wanted.places.len()];
    let mut patience = wanted.patience;
    // Every round that is not the last one makes one interface generic.
    loop {
        let opened = wanted.open(wanted.copy_mode(&modes)?, patience)?;
        register(steering, &opened)?;
        let Some((index, cause)) = attach_all(steering, wanted.places, &modes) else { return Ok((modes, opened)) };
        steering.iter_mut().for_each(Steering::detach);
        let (place, mode) = (&wanted.places[index], modes[index]);
        if matches!(cause, AttachError::Occupied) {
            return Err(occupied(place));
        }
        let is_final = matches!(cause, AttachError::NoInterface | AttachError::NoLinks);
        if is_final || mode == XdpMode::Generic {
            return Err(attach_failed(place, mode, cause, ""));
        }
        if xdp_mode == WantedXdpMode::Native {
            let advice = " (dataplane.xdp_mode = \"generic\" works with any driver, several times slower)";
            return Err(attach_failed(place, mode, cause, advice));
        }
        let (name, driver) = (place.name, driver(place.name));
        warn!(
            "{name} (driver {driver}): no native XDP: {cause}; falling back to generic, which is several times slower"
        );
        modes[index] = XdpMode::Generic;
        patience = patience.max(PATIENCE_WITH_OURSELVES);
    }
}

/// Attaches each program; says which was the first that could not be, and why.
fn attach_all(steering: &mut [Steering], places: &[Place<'_>], modes: &[XdpMode]) -> Option<(usize, AttachError)> {
    let each = steering.iter_mut().zip(places).zip(modes).enumerate();
    for (index, ((steering, place), mode)) in each {
        if let Err(cause) = steering.attach(place.link.index, *mode) {
            return Some((index, cause));
        }
    }
    None
}

fn attach_failed(place: &Place<'_>, mode: XdpMode, cause: AttachError, advice: &str) -> PlaneError {
    PlaneError::Attach {
        interface: place.name.to_owned(),
        driver: driver(place.name),
        mode,
        advice: advice_for(&cause, place.name, advice),
        cause,
    }
}

fn occupied(place: &Place<'_>) -> PlaneError {
    let occupant = occupant::describe(place.name).unwrap_or_else(|| occupant::UNNAMED.to_owned());
    PlaneError::Occupied { interface: place.name.to_owned(), occupant }
}

fn driver(interface: &str) -> String {
    nic::driver(interface).unwrap_or_else(|_| "unknown".into())
}

/// Frames are what is forwarded.
fn all_ethernet(places: &[Place<'_>]) -> Result<(), PlaneError> {
    let bare = places.iter().find(|place| !place.link.is_ethernet());
    bare.map_or(Ok(()), |place| {
        Err(PlaneError::NotEthernet { interface: place.name.to_owned(), driver: driver(place.name) })
    })
}

/// Whether there is memory for the frames; what a plane of a moment ago still holds comes back with its sockets.
fn enough_memory(needed: u64, patience: Duration) -> Result<(), TooLittleMemory> {
    let deadline = Instant::now() + patience.min(PATIENCE_WITH_OURSELVES);
    loop {
        match memory::check(needed) {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

/// Whether nobody else's program is on the interface; one whose owner has just died is waited for.
fn is_free(interface: &str, patience: Duration) -> bool {
    let is_free_within = |time| {
        let deadline = Instant::now() + time;
        while xdp_programs(interface).is_some_and(|programs| !programs.is_empty()) {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    };
    if is_free_within(patience.min(IN_SILENCE)) {
        return true;
    }
    if patience <= IN_SILENCE {
        return false;
    }
    if let Some(occupant) = occupant::describe(interface) {
        warn!("{interface}: {occupant}; waiting up to {} s for it to go", patience.as_secs());
    }
    is_free_within(patience)
}

fn register(steering: &mut [Steering], opened: &[Opened]) -> Result<(), PlaneError> {
    for (queue, one) in (0..).zip(opened) {
        for (steering, port) in steering.iter_mut().zip(&one.ports) {
            steering.register(queue, port.socket())?;
        }
    }
    Ok(())
}

/// How many queues each of the interfaces uses.
fn common_queues(places: &[Place<'_>]) -> Result<u32, PlaneError> {
    let of = |place: &Place<'_>| (receive_queues(place), place.name.to_owned());
    let least = places.iter().map(of).min();
    let most = places.iter().map(of).max();
    let ((least, fewer), (most, more)) = (least.unwrap_or_default(), most.unwrap_or_default());
    if least == most {
        return Ok(least);
    }
    let command = nic::queues_command(&more, least);
    Err(PlaneError::UnequalQueues { fewer, least, more, most, command })
}

/// The queues that are in use; where the driver does not say, those that there are.
fn receive_queues(place: &Place<'_>) -> u32 {
    nic::receive_queues(place.name).ok().flatten().unwrap_or(place.link.rx_queues).max(1)
}

/// The MTU that frames are made for: the largest.
fn common_mtu(places: &[Place<'_>]) -> Result<u32, PlaneError> {
    if let Some(place) = places.iter().find(|place| place.link.mtu > largest_mtu()) {
        return Err(PlaneError::Mtu { interface: place.name.to_owned(), mtu: place.link.mtu });
    }
    Ok(places.iter().map(|place| place.link.mtu).max().unwrap_or(0))
}

fn advice_for(cause: &AttachError, interface: &str, otherwise: &str) -> String {
    match cause {
        AttachError::Mtu => format!("; lower it: ip link set {interface} mtu 1500{otherwise}"),
        _ => otherwise.to_owned(),
    }
}

/// One core per queue: the configured ones, else those the process may use, in turn.
fn choose_cores(model: &Model, places: &[Place<'_>], queues: u32, allowed: &[usize]) -> Result<Vec<usize>, PlaneError> {
    let Some(cores) = &model.dataplane.cores else {
        // From the last core downwards: the first one is where interrupts and other daemons crowd.
        return Ok(allowed.iter().rev().copied().cycle().take(queues as usize).collect());
    };
    if let Some(&core) = cores.iter().find(|core| !allowed.contains(core)) {
        return Err(PlaneError::ForbiddenCore { core, allowed: allowed.to_vec() });
    }
    if cores.len() < queues as usize {
        let interface = places.first().map_or_else(String::new, |place| place.name.to_owned());
        let command = nic::queues_command(&interface, cores.len() as u32);
        return Err(PlaneError::TooFewCores { cores: cores.len(), interface, queues, command });
    }
    Ok(cores.clone())
}

fn start(index: usize, core: usize, parts: Parts<XdpPort>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            warn!("worker {index} could not be pinned to core {core}");
        }
        privileges::confine_worker(index);
        Worker::new(parts).run();
    })
}
