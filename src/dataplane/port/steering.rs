//! The kernel's side: the XDP program that sends our frames to our sockets (`bpf/steering.bpf.c`).
//!
//! It is attached through a BPF link, which is a file descriptor: when this process ends, however it ends, the kernel
//! detaches the program and the host has its network back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::RawFd;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode as AyaMode};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::unistd::geteuid;
use thiserror::Error;

use crate::dataplane::service::Destination;

/// Where in the receive path the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel spends anything on the frame.
    Native,
    /// In the kernel's generic receive path: any driver, several times slower.
    Generic,
}

impl std::fmt::Display for XdpMode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What the program knows of one VIP address. The bits are `enum address_flag` in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressFlags {
    /// This node answers ARP for it.
    pub announced: bool,
    /// It is also an address of the host: what no VIP serves is the host's.
    pub host: bool,
}

/// What the program counted since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SteeringCounters {
    /// Frames sent to a socket.
    pub redirected: u64,
    /// Frames left to the host.
    pub passed: u64,
    /// Frames to a VIP's address that nobody serves: dropped.
    pub unserved: u64,
    /// Frames of ours that came in by a queue without a socket: dropped.
    pub no_socket: u64,
}

impl std::iter::Sum for SteeringCounters {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), |sum, one| Self {
            redirected: sum.redirected + one.redirected,
            passed: sum.passed + one.passed,
            unserved: sum.unserved + one.unserved,
            no_socket: sum.no_socket + one.no_socket,
        })
    }
}

/// Where the program sends a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steered {
    /// To a worker's socket.
    Worker,
    /// To the host.
    Host,
    /// Nowhere: a VIP's address, and nobody serves that.
    Unserved,
}

/// Why steering does not work here.
#[derive(Debug, Error)]
pub enum SteeringError {
    /// The process may not load programs.
    #[error(
        "loading the XDP program: permission denied (needs root, or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, \
         CAP_NET_RAW and CAP_IPC_LOCK)"
    )]
    Permission,
    /// The kernel refused the program.
    #[error("loading the XDP program: {0}")]
    Load(Box<EbpfError>),
    /// The kernel refused the program, and says why in several lines.
    #[error("loading the XDP program: {0}")]
    Program(Box<ProgramError>),
    /// The embedded program lacks a part: it was built from another version.
    #[error("the embedded XDP program has no {0}")]
    Missing(&'static str),
    /// A map of the program could not be written or read.
    #[error("the XDP program's map {map}: {source}")]
    Map {
        /// Which one.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
}

/// Why the program could not be attached in one mode.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Another program is there.
    #[error("another XDP program is attached")]
    Occupied,
    /// The interface is gone.
    #[error("no such interface")]
    NoInterface,
    /// The driver cannot do it.
    #[error("the driver does not support it")]
    Unsupported,
    /// The MTU is too large for the driver's XDP.
    #[error("the MTU of the interface (or of a veth's other end) is too large for it")]
    Mtu,
    /// A veth whose other end has more tx queues than it has rx queues.
    #[error("the other end of the veth has more tx queues than this one has rx queues")]
    Queues,
    /// The kernel is too old for XDP links.
    #[error("the kernel has no BPF links for XDP (Linux 5.9 or later has)")]
    NoLinks,
    /// Anything else.
    #[error("{0}")]
    Kernel(io::Error),
    /// The program is not what it should be.
    #[error(transparent)]
    Program(Box<ProgramError>),
}

/// The program, loaded for one interface.
#[derive(Debug)]
pub struct Steering {
    bpf: Ebpf,
    link: Option<FdLink>,
    services: BTreeSet<ServiceKey>,
    addresses: BTreeMap<[u8; 4], u32>,
}

/// `struct service` of the program.
type ServiceKey = [u8; 8];

impl Steering {
    /// Loads the program; it is attached nowhere yet and serves nothing.
    pub fn load() -> Result<Self, SteeringError> {
        // The linker aligns embedded bytes to 1; the ELF reader wants more.
        #[repr(align(8))]
        struct Aligned<T: ?Sized>(T);
        static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/steering.bpf.o")));

        let mut bpf =
            EbpfLoader::new().load(&OBJECT.0).map_err(permission_or(|error| SteeringError::Load(Box::new(error))))?;
        program(&mut bpf)?.load().map_err(permission_or(|error| SteeringError::Program(Box::new(error))))?;
        Ok(Self { bpf, link: None, services: BTreeSet::new(), addresses: BTreeMap::new() })
    }

    /// Attaches the program to the interface with this index, in this mode and no other.
    pub fn attach(&mut self, interface_index: u32, mode: XdpMode) -> Result<(), AttachError> {
        let aya_mode = match mode {
            XdpMode::Native => AyaMode::Driver,
            XdpMode::Generic => AyaMode::Skb,
        };
        let program = program(&mut self.bpf).map_err(|_| AttachError::NoLinks)?;
        let id = program.attach_to_if_index(interface_index, aya_mode).map_err(attach_error)?;
        // Where the kernel has no links, aya attaches by netlink, and that would outlive us. `link` is dropped, and so
        // detached, if it is of that kind.
        let link = program.take_link(id).map_err(|error| AttachError::Program(Box::new(error)))?;
        self.link = Some(FdLink::try_from(link).map_err(|_| AttachError::NoLinks)?);
        Ok(())
    }

    /// Detaches the program: the host gets all frames again.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// Sends frames of this queue to this socket.
    pub fn register(&mut self, queue: u32, socket: RawFd) -> Result<(), SteeringError> {
        let map = self.bpf.map_mut("sockets").ok_or(SteeringError::Missing("sockets"))?;
        let mut sockets = XskMap::try_from(map).map_err(map_error("sockets"))?;
        sockets.set(queue, socket, 0).map_err(map_error("sockets"))
    }

    /// Tells the program the interface's own MAC: only frames to it are ours.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<(), SteeringError> {
        let map = self.bpf.map_mut("own_mac").ok_or(SteeringError::Missing("own_mac"))?;
        let mut own_mac: Array<&mut MapData, [u8; 8]> = Array::try_from(map).map_err(map_error("own_mac"))?;
        let mut value = [0; 8];
        value[..6].copy_from_slice(&mac);
        own_mac.set(0, value, 0).map_err(map_error("own_mac"))
    }

    /// Has exactly these destinations and addresses steered to the sockets; only what differs from now is touched.
    pub fn serve(
        &mut self,
        services: impl IntoIterator<Item = Destination>,
        addresses: impl IntoIterator<Item = (u32, AddressFlags)>,
    ) -> Result<(), SteeringError> {
        let services: BTreeSet<ServiceKey> = services.into_iter().map(service_key).collect();
        let addresses: BTreeMap<[u8; 4], u32> = addresses
            .into_iter()
            .map(|(address, flags)| (address.to_be_bytes(), u32::from(flags.announced) | u32::from(flags.host) << 1))
            .collect();
        // An address without its services would be dropped as unserved, so services come first and go last.
        let before = (std::mem::take(&mut self.services), std::mem::take(&mut self.addresses));
        for key in services.difference(&before.0) {
            self.services_map()?.insert(key, 1, 0).map_err(map_error("services"))?;
        }
        for (address, flags) in addresses.iter().filter(|(address, flags)| before.1.get(*address) != Some(*flags)) {
            self.addresses_map()?.insert(address, flags, 0).map_err(map_error("addresses"))?;
        }
        for address in before.1.keys().filter(|address| !addresses.contains_key(*address)) {
            self.addresses_map()?.remove(address).map_err(map_error("addresses"))?;
        }
        for key in before.0.difference(&services) {
            self.services_map()?.remove(key).map_err(map_error("services"))?;
        }
        self.services = services;
        self.addresses = addresses;
        Ok(())
    }

    /// What the program counted, over all processors.
    pub fn counters(&self) -> Result<SteeringCounters, SteeringError> {
        let map = self.bpf.map("counters").ok_or(SteeringError::Missing("counters"))?;
        let counters: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map).map_err(map_error("counters"))?;
        let sum = |index: u32| -> Result<u64, SteeringError> {
            Ok(counters.get(&index, 0).map_err(map_error("counters"))?.iter().sum())
        };
        Ok(SteeringCounters { redirected: sum(0)?, passed: sum(1)?, unserved: sum(2)?, no_socket: sum(3)? })
    }

    /// What the program would do with this frame, by the kernel's own judgement (`BPF_PROG_TEST_RUN`): at least 14
    /// bytes, from queue 0. It is counted like any other.
    pub fn trial(&mut self, frame: &[u8]) -> Result<Steered, SteeringError> {
        let before = self.counters()?;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        program(&mut self.bpf)?.test_run(options).map_err(|error| SteeringError::Program(Box::new(error)))?;
        let after = self.counters()?;
        Ok(if after.unserved > before.unserved {
            Steered::Unserved
        } else if after.passed > before.passed {
            Steered::Host
        } else {
            Steered::Worker
        })
    }

    fn services_map(&mut self) -> Result<HashMap<&mut MapData, ServiceKey, u8>, SteeringError> {
        let map = self.bpf.map_mut("services").ok_or(SteeringError::Missing("services"))?;
        HashMap::try_from(map).map_err(map_error("services"))
    }

    fn addresses_map(&mut self) -> Result<HashMap<&mut MapData, [u8; 4], u32>, SteeringError> {
        let map = self.bpf.map_mut("addresses").ok_or(SteeringError::Missing("addresses"))?;
        HashMap::try_from(map).map_err(map_error("addresses"))
    }
}

fn program(bpf: &mut Ebpf) -> Result<&mut Xdp, SteeringError> {
    let program = bpf.program_mut("pointsman_steer").ok_or(SteeringError::Missing("program"))?;
    program.try_into().map_err(|error| SteeringError::Program(Box::new(error)))
}

fn service_key(destination: Destination) -> ServiceKey {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&destination.address.to_be_bytes());
    key[4..6].copy_from_slice(&destination.port.to_be_bytes());
    key[6] = destination.protocol;
    key
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> SteeringError {
    move |source| SteeringError::Map { map, source: Box::new(source) }
}

/// "Permission denied" is worth more than the words around it.
fn permission_or<E: std::error::Error + 'static>(other: impl Fn(E) -> SteeringError) -> impl Fn(E) -> SteeringError {
    move |error| match os_error(&error) {
        Some(libc::EPERM) => SteeringError::Permission,
        // What the verifier says to those without CAP_PERFMON is about registers, and no help to them.
        Some(libc::EACCES) if !geteuid().is_root() => SteeringError::Permission,
        _ => other(error),
    }
}

fn attach_error(error: ProgramError) -> AttachError {
    match os_error(&error) {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Occupied,
        Some(libc::ENODEV) => AttachError::NoInterface,
        Some(libc::EOPNOTSUPP) => AttachError::Unsupported,
        Some(libc::ERANGE) => AttachError::Mtu,
        Some(libc::ENOSPC) => AttachError::Queues,
        Some(code) => AttachError::Kernel(io::Error::from_raw_os_error(code)),
        None => AttachError::Program(Box::new(error)),
    }
}

/// The first operating system's error in a chain of causes.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error))
}
