//! The member's end of an IPIP tunnel (`bpf/decapsulate.bpf.c`), for kernels without the `ipip` module.
//!
//! It is attached through a BPF link, which is a file descriptor: when this process ends, however it ends, the kernel
//! detaches the program and packets arrive in their tunnel again.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode as AyaMode};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::unistd::geteuid;
use thiserror::Error;

use crate::dataplane::port::steering::XdpMode;

/// `enum xdp_action` (linux/bpf.h).
const XDP_PASS: u32 = 2;

/// How the program is done with a frame. The order is that of `enum counter` in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The outer header was taken off; the host has the inner packet.
    Decapsulated,
    /// Nothing to do with our tunnels: the host has it as it came.
    Passed,
    /// A fragment of an outer packet: the host has it as it came.
    Fragment,
    /// From an address that may not send to our tunnels: dropped.
    BadSource,
    /// The outer header is broken, or the inner packet does not fit into it: dropped.
    Malformed,
    /// Protocol 4 with something else than IPv4 inside: dropped.
    InnerNotIpv4,
    /// The tunnel was congested and the inner packet's sender does not understand ECN: dropped (RFC 6040 §4.2).
    EcnDropped,
}

impl Cause {
    /// All of them, in the program's order.
    pub const ALL: [Self; 7] = [
        Self::Decapsulated,
        Self::Passed,
        Self::Fragment,
        Self::BadSource,
        Self::Malformed,
        Self::InnerNotIpv4,
        Self::EcnDropped,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decapsulated => "decapsulated",
            Self::Passed => "passed",
            Self::Fragment => "fragment",
            Self::BadSource => "bad_source",
            Self::Malformed => "malformed",
            Self::InnerNotIpv4 => "inner_not_ipv4",
            Self::EcnDropped => "ecn_dropped",
        }
    }
}

/// What the program counted since it was loaded: every frame under one cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters([u64; Cause::ALL.len()]);

impl Counters {
    /// Frames that ended so.
    pub fn of(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }
}

/// An IPv4 prefix that may send to our tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: Ipv4Addr,
    length: u8,
}

impl Prefix {
    const ANY: Self = Self { address: Ipv4Addr::UNSPECIFIED, length: 0 };

    /// `address/length`; `None` if the length is more than 32.
    pub fn new(address: Ipv4Addr, length: u8) -> Option<Self> {
        (length <= 32).then_some(Self { address, length })
    }
}

impl From<Ipv4Addr> for Prefix {
    fn from(address: Ipv4Addr) -> Self {
        Self { address, length: 32 }
    }
}

/// Where the program was attached, and why not better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Where in the receive path.
    pub mode: XdpMode,
    /// Why it is not native mode, if it is not.
    pub fallback: Option<String>,
}

/// What the program made of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// What it was counted as.
    pub cause: Cause,
    /// What the host would receive; `None` if it was dropped.
    pub received: Option<Vec<u8>>,
}

/// Why decapsulation does not work here.
#[derive(Debug, Error)]
pub enum DecapsulateError {
    /// The process may not load programs.
    #[error(
        "loading the decapsulation program: permission denied (needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)"
    )]
    Permission,
    /// The kernel refused the program or one of its maps.
    #[error("loading the decapsulation program: {0}")]
    Load(Box<EbpfError>),
    /// The kernel refused the program, or to run it.
    #[error("the decapsulation program: {0}")]
    Program(Box<ProgramError>),
    /// The embedded program lacks a part: it was built from another version.
    #[error("the embedded decapsulation program has no {0}")]
    Missing(&'static str),
    /// A map of the program could not be written or read.
    #[error("the decapsulation program's map {map}: {source}")]
    Map {
        /// Which one.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// It could be attached in no mode.
    #[error("attaching the decapsulation program: native: {native}; generic: {generic}")]
    Attach {
        /// What the driver said.
        native: String,
        /// What the kernel's generic path said.
        generic: String,
    },
}

/// The program, loaded for one interface.
#[derive(Debug)]
pub struct Decapsulator {
    bpf: Ebpf,
    link: Option<FdLink>,
}

impl Decapsulator {
    /// Loads the program for tunnels that end at these addresses and come from these sources; without sources, from
    /// anywhere. It is attached nowhere yet.
    pub fn load(endpoints: &[Ipv4Addr], sources: &[Prefix]) -> Result<Self, DecapsulateError> {
        // The linker aligns embedded bytes to 1; the ELF reader wants more.
        #[repr(align(8))]
        struct Aligned<T: ?Sized>(T);
        static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/decapsulate.bpf.o")));

        let mut bpf = EbpfLoader::new()
            .load(&OBJECT.0)
            .map_err(|error| denied(&error).unwrap_or_else(|| DecapsulateError::Load(Box::new(error))))?;
        program(&mut bpf)?
            .load()
            .map_err(|error| denied(&error).unwrap_or_else(|| DecapsulateError::Program(Box::new(error))))?;
        let mut decapsulator = Self { bpf, link: None };
        decapsulator.allow(if sources.is_empty() { &[Prefix::ANY] } else { sources })?;
        decapsulator.receive_at(endpoints)?;
        Ok(decapsulator)
    }

    /// Attaches the program to the interface with this index, in native mode if the driver can.
    pub fn attach(&mut self, interface_index: u32) -> Result<Attached, DecapsulateError> {
        let Err(native) = self.attach_in(interface_index, AyaMode::Driver) else {
            return Ok(Attached { mode: XdpMode::Native, fallback: None });
        };
        match self.attach_in(interface_index, AyaMode::Skb) {
            Ok(()) => Ok(Attached { mode: XdpMode::Generic, fallback: Some(native) }),
            Err(generic) => Err(DecapsulateError::Attach { native, generic }),
        }
    }

    /// What the program counted, over all processors.
    pub fn counters(&self) -> Result<Counters, DecapsulateError> {
        let map = self.bpf.map("counters").ok_or(DecapsulateError::Missing("counters"))?;
        let map: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map).map_err(map_error("counters"))?;
        let mut counters = Counters::default();
        for (index, counter) in (0..).zip(&mut counters.0) {
            *counter = map.get(&index, 0).map_err(map_error("counters"))?.iter().sum();
        }
        Ok(counters)
    }

    /// What the program makes of this frame of at least 14 bytes, by the kernel's own judgement
    /// (`BPF_PROG_TEST_RUN`). It is counted like any other.
    pub fn trial(&mut self, frame: &[u8]) -> Result<Trial, DecapsulateError> {
        let before = self.counters()?;
        let mut received = vec![0; frame.len()];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut received), ..TestRunOptions::new() };
        let result = program(&mut self.bpf)?.test_run(options).map_err(program_error)?;
        received.truncate(result.data_size_out as usize);
        let after = self.counters()?;
        let cause = Cause::ALL.into_iter().find(|&cause| after.of(cause) > before.of(cause));
        Ok(Trial {
            cause: cause.ok_or(DecapsulateError::Missing("counter for this frame"))?,
            received: (result.return_value == XDP_PASS).then_some(received),
        })
    }

    fn allow(&mut self, sources: &[Prefix]) -> Result<(), DecapsulateError> {
        let map = self.bpf.map_mut("sources").ok_or(DecapsulateError::Missing("sources"))?;
        let mut trie: LpmTrie<&mut MapData, [u8; 4], u8> = LpmTrie::try_from(map).map_err(map_error("sources"))?;
        for source in sources {
            let key = Key::new(source.length.into(), source.address.octets());
            trie.insert(&key, 1, 0).map_err(map_error("sources"))?;
        }
        Ok(())
    }

    fn receive_at(&mut self, endpoints: &[Ipv4Addr]) -> Result<(), DecapsulateError> {
        let map = self.bpf.map_mut("endpoints").ok_or(DecapsulateError::Missing("endpoints"))?;
        let mut addresses: HashMap<&mut MapData, [u8; 4], u8> =
            HashMap::try_from(map).map_err(map_error("endpoints"))?;
        for endpoint in endpoints {
            addresses.insert(endpoint.octets(), 1, 0).map_err(map_error("endpoints"))?;
        }
        Ok(())
    }

    fn attach_in(&mut self, interface_index: u32, mode: AyaMode) -> Result<(), String> {
        let program = program(&mut self.bpf).map_err(|error| told(&error))?;
        let id = program.attach_to_if_index(interface_index, mode).map_err(|error| told(&error))?;
        // Where the kernel has no links, aya attaches by netlink, and that would outlive us. `link` is dropped, and so
        // detached, if it is of that kind.
        let link = program.take_link(id).map_err(|error| told(&error))?;
        let link = FdLink::try_from(link)
            .map_err(|_| "the kernel has no BPF links for XDP (Linux 5.9 or later has)".to_owned())?;
        self.link = Some(link);
        Ok(())
    }
}

fn program(bpf: &mut Ebpf) -> Result<&mut Xdp, DecapsulateError> {
    let program = bpf.program_mut("pointsman_decap").ok_or(DecapsulateError::Missing("program"))?;
    program.try_into().map_err(program_error)
}

fn program_error(error: ProgramError) -> DecapsulateError {
    DecapsulateError::Program(Box::new(error))
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> DecapsulateError {
    move |source| DecapsulateError::Map { map, source: Box::new(source) }
}

/// "Permission denied" is worth more than the words around it.
fn denied(error: &(dyn std::error::Error + 'static)) -> Option<DecapsulateError> {
    let code = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())?;
    // To root EACCES is the verifier's word about the program; to others, that they lack CAP_PERFMON.
    let denied = code == libc::EPERM || code == libc::EACCES && !geteuid().is_root();
    denied.then_some(DecapsulateError::Permission)
}

/// An error with everything that led to it.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let separator = if text.is_empty() { "" } else { ": " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{cause}");
    }
    text
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}
