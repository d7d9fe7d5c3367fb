//! Brings the data plane up on the host's interfaces and takes it down again: steering program, sockets, workers.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sys::resource::{Resource, setrlimit};
use thiserror::Error;
use tracing::{debug, info, warn};

use super::compile::Compiled;
use super::model::{Model, XdpMode as WantedXdpMode, ZeroCopy};
use super::neighbor::{Link, xdp_programs};
use super::publish::{Publisher, WorkerStuck};
use crate::dataplane::counters::Counters;
use crate::dataplane::flow::FlowTable;
use crate::dataplane::port::nic;
use crate::dataplane::port::steering::{AttachError, Steering, SteeringCounters, SteeringError, XdpMode, program_name};
use crate::dataplane::port::xdp::{CopyMode, OpenError, OpenOptions, Opened, WantedCopyMode, XdpPort};
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

/// A running data plane on one interface.
#[derive(Debug)]
pub struct Plane {
    steering: Steering,
    publisher: Publisher,
    workers: Vec<JoinHandle<()>>,
    /// The index of the interface it runs on.
    pub interface_index: u32,
}

impl Plane {
    /// Attaches, opens and starts everything; says in a few lines what it did. Serves nothing yet.
    pub fn bring_up(model: &Model, interface: &str, link: &Link, shared: &mut Shared) -> Result<Self, PlaneError> {
        raise_memory_limit();
        let queues = nic::receive_queues(interface).ok().flatten().unwrap_or(link.rx_queues).max(1);
        let cores = choose_cores(model, interface, queues)?;

        let mut steering = Steering::load()?;
        steering.set_mac(link.mac)?;
        let mode = attach(&mut steering, model.dataplane.xdp_mode, interface, link.index)?;

        let mut publisher = Vec::new();
        let mut workers = Vec::new();
        for (queue, core) in (0..queues).zip(cores) {
            let Opened { port, frames } = XdpPort::open(&OpenOptions {
                interface: interface.to_owned(),
                queue,
                mtu: link.mtu,
                copy_mode: match model.dataplane.zero_copy {
                    ZeroCopy::Auto => WantedCopyMode::Auto,
                    ZeroCopy::On => WantedCopyMode::ZeroCopy,
                    ZeroCopy::Off => WantedCopyMode::Copy,
                },
                busy_poll: model.dataplane.busy_poll,
            })?;
            report(model, interface, queue, core, mode, port.copy_mode());
            steering.register(queue, port.socket())?;
            let mailbox = Arc::new(Mailbox::new().map_err(PlaneError::Thread)?);
            publisher.push(Arc::clone(&mailbox));
            let worker = queue as usize;
            if shared.counters.len() <= worker {
                let members = model.pools.iter().map(|pool| pool.members.len()).sum();
                shared.counters.push(Arc::new(Counters::new(model.vips.len(), members)));
            }
            let parts = Parts {
                ports: vec![port],
                frames,
                mailbox,
                counters: Arc::clone(&shared.counters[worker]),
                flows: Arc::clone(&shared.flows),
                idle: if model.dataplane.busy_poll { Idle::Spin } else { Idle::Sleep },
            };
            workers.push(start(worker, core, parts).map_err(PlaneError::Thread)?);
        }
        Ok(Self { steering, publisher: Publisher::new(publisher), workers, interface_index: link.index })
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

    /// Stops the workers, closes the sockets and detaches the program.
    pub fn take_down(self) {
        let Self { steering, publisher, workers, .. } = self;
        // Detached first: from here on the host gets its frames again.
        drop(steering);
        publisher.stop();
        for (index, worker) in workers.into_iter().enumerate() {
            if worker.join().is_err() {
                warn!("worker {index} had panicked");
            }
        }
    }
}

/// Attaches in the wanted mode; a fallback is said, with its cause.
fn attach(steering: &mut Steering, wanted: WantedXdpMode, interface: &str, index: u32) -> Result<XdpMode, PlaneError> {
    let driver = nic::driver(interface).unwrap_or_else(|_| "unknown".into());
    let error = |mode, cause: AttachError, advice: &str| PlaneError::Attach {
        interface: interface.to_owned(),
        driver: driver.clone(),
        mode,
        advice: advice_for(&cause, interface, advice),
        cause,
    };
    match wanted {
        WantedXdpMode::Generic => steering
            .attach(index, XdpMode::Generic)
            .map(|()| XdpMode::Generic)
            .map_err(|cause| error(XdpMode::Generic, cause, "")),
        WantedXdpMode::Native => steering.attach(index, XdpMode::Native).map(|()| XdpMode::Native).map_err(|cause| {
            error(
                XdpMode::Native,
                cause,
                " (dataplane.xdp_mode = \"generic\" works with any driver, several times slower)",
            )
        }),
        WantedXdpMode::Auto => match steering.attach(index, XdpMode::Native) {
            Ok(()) => Ok(XdpMode::Native),
            Err(cause @ (AttachError::Occupied | AttachError::NoInterface | AttachError::NoLinks)) => {
                Err(error(XdpMode::Native, cause, ""))
            }
            Err(cause) => {
                warn!(
                    "{interface} (driver {driver}): no native XDP: {cause}; falling back to generic, which is several times slower"
                );
                steering
                    .attach(index, XdpMode::Generic)
                    .map(|()| XdpMode::Generic)
                    .map_err(|cause| error(XdpMode::Generic, cause, ""))
            }
        },
    }
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

/// The programs that are attached to the interface, in words; `None` if the kernel does not say.
fn occupant(interface: &str) -> Option<String> {
    let words: Vec<String> = xdp_programs(interface)?
        .into_iter()
        .map(|id| match program_name(id) {
            Some(name) => format!("program {id} ({name})"),
            None => format!("program {id}"),
        })
        .collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn report(model: &Model, interface: &str, queue: u32, core: usize, mode: XdpMode, copy: CopyMode) {
    info!("attached {interface} {mode} {copy} queue {queue} worker {queue} core {core}");
    if copy == CopyMode::Copy && model.dataplane.zero_copy == ZeroCopy::Auto && queue == 0 {
        info!("{interface}: the driver does not do zero-copy; the kernel copies every packet");
    }
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
        Worker::new(parts).run();
    })
}

/// Kernels before 5.11 count BPF maps, and all of them AF_XDP memory, against `RLIMIT_MEMLOCK`.
fn raise_memory_limit() {
    let unlimited = nix::libc::RLIM_INFINITY;
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited) {
        debug!("the limit on locked memory could not be raised: {error}");
    }
}
