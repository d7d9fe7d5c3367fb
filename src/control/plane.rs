//! Brings the data plane up on the host's interfaces and takes it down again: steering program, sockets, workers.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{info, warn};

use super::compile::Compiled;
use super::model::{Model, XdpMode as WantedXdpMode, ZeroCopy};
use super::neighbor::{Link, xdp_programs};
use super::privileges;
use super::publish::{Publisher, WorkerStuck};
use crate::dataplane::counters::Counters;
use crate::dataplane::flow::FlowTable;
use crate::dataplane::port::nic;
use crate::dataplane::port::steering::{AttachError, Steering, SteeringCounters, SteeringError, XdpMode};
use crate::dataplane::port::xdp::{OpenError, OpenOptions, Opened, WantedCopyMode, XdpPort};
use crate::dataplane::worker::{Idle, Mailbox, Parts, Worker};

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
    /// Zero-copy was insisted on, and the driver has no native XDP.
    #[error("dataplane.zero_copy = \"on\" needs native XDP, and {interface} runs generic")]
    ZeroCopyNeedsNative {
        /// The interface's name.
        interface: String,
    },
    /// A socket does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Fewer cores than queues.
    #[error(
        "dataplane.cores names {cores} cores, and {interface} has {queues} queues, each with a worker of its own \
             (name more cores, or: ethtool -L {interface} combined {cores})"
    )]
    TooFewCores {
        /// How many are named.
        cores: usize,
        /// The interface's name.
        interface: String,
        /// How many queues it has.
        queues: u32,
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

/// What lives as long as the process, across restarts of the data plane.
#[derive(Debug, Clone)]
pub struct Shared {
    /// One per worker.
    pub counters: Vec<Arc<Counters>>,
    /// All workers share it.
    pub flows: Arc<FlowTable>,
}

/// A running data plane on one interface. Dropped, it stops the workers, closes the sockets and detaches the program.
#[derive(Debug)]
pub struct Plane {
    steering: Steering,
    publisher: Publisher,
    workers: Vec<JoinHandle<()>>,
    built_for: BuiltFor,
}

/// What a plane was built for; when that is no longer so it must be built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BuiltFor {
    interface_index: u32,
    queues: u32,
    largest_mtu: u32,
}

impl Plane {
    /// Opens, attaches and starts everything; says in a few lines what it did. Serves nothing yet. What can fail for
    /// want of a fitting interface comes before the program is attached, since that resets a real card's rings.
    pub fn bring_up(
        model: &Model,
        interface: &str,
        link: &Link,
        patience: Duration,
        shared: &mut Shared,
    ) -> Result<Self, PlaneError> {
        let queues = receive_queues(interface, link);
        let cores = choose_cores(model, interface, queues)?;
        let mut steering = Steering::load()?;
        steering.set_mac(link.mac)?;
        let wanted = OpenQueues { model, interface, mtu: link.mtu, queues, patience };
        let (mode, opened) = attach(&mut steering, &wanted, link.index)?;

        let mailboxes = opened.iter().map(|_| Mailbox::new().map(Arc::new)).collect::<Result<Vec<_>, _>>();
        let mailboxes = mailboxes.map_err(PlaneError::Thread)?;
        let largest_mtu = opened.iter().map(|one| one.port.largest_mtu()).min().unwrap_or(0);
        let mut plane = Self {
            steering,
            publisher: Publisher::new(mailboxes.clone()),
            workers: Vec::new(),
            built_for: BuiltFor { interface_index: link.index, queues, largest_mtu },
        };
        for (worker, ((opened, mailbox), core)) in opened.into_iter().zip(mailboxes).zip(cores).enumerate() {
            let Opened { port, frames, zero_copy_refused } = opened;
            info!("attached {interface} {mode} {} queue {worker} worker {worker} core {core}", port.copy_mode());
            if let Some(cause) = zero_copy_refused.filter(|_| worker == 0) {
                info!("{interface}: zero-copy refused: {cause}; the kernel copies every packet");
            }
            let parts = Parts {
                ports: vec![port],
                frames,
                mailbox,
                counters: shared.counters_of(worker, model),
                flows: Arc::clone(&shared.flows),
                idle: if model.dataplane.busy_poll { Idle::Spin } else { Idle::Sleep },
            };
            plane.workers.push(start(worker, core, parts).map_err(PlaneError::Thread)?);
        }
        Ok(plane)
    }

    /// Whether the plane still fits its interface; if not, what has changed.
    pub fn misfit(&self, interface: &str, link: &Link) -> Option<String> {
        let BuiltFor { interface_index, queues, largest_mtu } = self.built_for;
        // An interface on its way out does not say.
        let queues_now = nic::receive_queues(interface).ok().flatten().unwrap_or(queues);
        if link.index != interface_index {
            Some("it is another interface now".into())
        } else if link.mtu > largest_mtu {
            Some(format!("its MTU is now {}, and frames were made for {largest_mtu}", link.mtu))
        } else if queues_now != queues {
            Some(format!("it has {queues_now} queues now, and had {queues}"))
        } else {
            None
        }
    }

    /// Puts compiled tables to work: the workers first, then the program that sends them packets.
    pub fn serve(&mut self, compiled: Compiled) -> Result<(), PlaneError> {
        if let Some(interface) = compiled.tables.interfaces.first() {
            self.steering.set_mac(interface.mac)?;
        }
        self.publisher.publish(&Arc::new(compiled.tables))?;
        self.steering.serve(compiled.services, compiled.addresses)?;
        Ok(())
    }

    /// Control's hand on the workers.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What the steering program counted.
    pub fn steering_counters(&self) -> Result<SteeringCounters, SteeringError> {
        self.steering.counters()
    }

    /// The first worker that has ended without being told to.
    pub fn dead_worker(&self) -> Option<usize> {
        self.workers.iter().position(JoinHandle::is_finished)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Detached first: from here on the host gets its frames again.
        self.steering.detach();
        self.publisher.stop();
        for (index, worker) in self.workers.drain(..).enumerate() {
            if worker.join().is_err() {
                warn!("worker {index} had panicked");
            }
        }
    }
}

impl Shared {
    /// The counters of a worker, made when it is first started.
    fn counters_of(&mut self, worker: usize, model: &Model) -> Arc<Counters> {
        while self.counters.len() <= worker {
            let members = model.pools.iter().map(|pool| pool.members.len()).sum();
            self.counters.push(Arc::new(Counters::new(model.vips.len(), members)));
        }
        Arc::clone(&self.counters[worker])
    }
}

/// The sockets that are wanted: one per queue.
struct OpenQueues<'a> {
    model: &'a Model,
    interface: &'a str,
    mtu: u32,
    queues: u32,
    patience: Duration,
}

impl OpenQueues<'_> {
    fn open(&self, copy_mode: WantedCopyMode) -> Result<Vec<Opened>, PlaneError> {
        let open = |queue| {
            XdpPort::open(&OpenOptions {
                interface: self.interface.to_owned(),
                queue,
                mtu: self.mtu,
                copy_mode,
                busy_poll: self.model.dataplane.busy_poll,
                patience: self.patience,
            })
        };
        Ok((0..self.queues).map(open).collect::<Result<_, _>>()?)
    }
}

/// Opens the sockets and attaches the program in the wanted mode; a fallback is said, with its cause.
fn attach(steering: &mut Steering, wanted: &OpenQueues<'_>, index: u32) -> Result<(XdpMode, Vec<Opened>), PlaneError> {
    let OpenQueues { model, interface, .. } = wanted;
    let driver = nic::driver(interface).unwrap_or_else(|_| "unknown".into());
    let error = |mode, cause: AttachError, advice: &str| PlaneError::Attach {
        interface: (*interface).to_owned(),
        driver: driver.clone(),
        mode,
        advice: advice_for(&cause, interface, advice),
        cause,
    };
    if !is_free(interface, wanted.patience) {
        return Err(error(XdpMode::Native, AttachError::Occupied, ""));
    }
    if model.dataplane.xdp_mode != WantedXdpMode::Generic {
        let opened = wanted.open(match model.dataplane.zero_copy {
            ZeroCopy::Auto => WantedCopyMode::Auto,
            ZeroCopy::On => WantedCopyMode::ZeroCopy,
            ZeroCopy::Off => WantedCopyMode::Copy,
        })?;
        register(steering, &opened)?;
        match steering.attach(index, XdpMode::Native) {
            Ok(()) => return Ok((XdpMode::Native, opened)),
            Err(cause) if model.dataplane.xdp_mode == WantedXdpMode::Native => {
                let advice = " (dataplane.xdp_mode = \"generic\" works with any driver, several times slower)";
                return Err(error(XdpMode::Native, cause, advice));
            }
            Err(cause @ (AttachError::Occupied | AttachError::NoInterface | AttachError::NoLinks)) => {
                return Err(error(XdpMode::Native, cause, ""));
            }
            Err(cause) => warn!(
                "{interface} (driver {driver}): no native XDP: {cause}; falling back to generic, which is several times \
                 slower"
            ),
        }
    }
    // The generic path hands over copies (Documentation/networking/af_xdp.rst, "XDP_SKB").
    if model.dataplane.zero_copy == ZeroCopy::On {
        return Err(PlaneError::ZeroCopyNeedsNative { interface: (*interface).to_owned() });
    }
    let opened = wanted.open(WantedCopyMode::Copy)?;
    register(steering, &opened)?;
    steering.attach(index, XdpMode::Generic).map_err(|cause| error(XdpMode::Generic, cause, ""))?;
    Ok((XdpMode::Generic, opened))
}

/// Whether nobody else's program is on the interface; one whose owner has just died is waited for.
fn is_free(interface: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while xdp_programs(interface).is_some_and(|programs| !programs.is_empty()) {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

fn register(steering: &mut Steering, opened: &[Opened]) -> Result<(), PlaneError> {
    for (queue, one) in (0..).zip(opened) {
        steering.register(queue, one.port.socket())?;
    }
    Ok(())
}

/// The queues that are in use; where the driver does not say, those that there are.
fn receive_queues(interface: &str, link: &Link) -> u32 {
    nic::receive_queues(interface).ok().flatten().unwrap_or(link.rx_queues).max(1)
}

fn advice_for(cause: &AttachError, interface: &str, otherwise: &str) -> String {
    match cause {
        AttachError::Occupied => format!(
            ": {} (see: bpftool net show dev {interface}; to remove it: ip link set {interface} xdp off)",
            occupant(interface).unwrap_or_else(|| "the kernel does not say which".into())
        ),
        AttachError::Mtu => format!("; lower it: ip link set {interface} mtu 1500{otherwise}"),
        _ => otherwise.to_owned(),
    }
}

/// The programs that are attached to the interface, in words; `None` if the kernel does not say. It tells their names
/// only to `CAP_SYS_ADMIN`, which is not kept: bpftool's business.
fn occupant(interface: &str) -> Option<String> {
    let words: Vec<String> = xdp_programs(interface)?.into_iter().map(|id| format!("program {id}")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// One core per queue: the configured ones, else those the process may use, in turn.
fn choose_cores(model: &Model, interface: &str, queues: u32) -> Result<Vec<usize>, PlaneError> {
    let allowed: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let Some(cores) = &model.dataplane.cores else {
        // From the last core downwards: the first one is where interrupts and other daemons crowd.
        return Ok(allowed.iter().rev().copied().cycle().take(queues as usize).collect());
    };
    if let Some(&core) = cores.iter().find(|core| !allowed.contains(core)) {
        return Err(PlaneError::ForbiddenCore { core, allowed });
    }
    if cores.len() < queues as usize {
        return Err(PlaneError::TooFewCores { cores: cores.len(), interface: interface.to_owned(), queues });
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
