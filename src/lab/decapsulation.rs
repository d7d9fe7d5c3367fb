//! What makes a member the end of IPIP tunnels.

use std::fmt;
use std::net::Ipv4Addr;

use nix::net::if_::if_nametoindex;

use super::{LabError, Namespace};
use crate::realserver::decapsulate::{Attached, Cause, DecapsulateError, Decapsulator};

/// The end of a member's tunnels where the kernel is it.
const KERNEL_DEVICE: &str = "ipip0";

/// Who takes the outer header off what members receive in an IPIP tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Decapsulation {
    /// Nobody: members know of no tunnel.
    #[default]
    Nobody,
    /// The kernel where it can, else our program.
    Any,
    /// The kernel's `ipip` device; a kernel without is an error.
    Kernel,
    /// Our XDP program on `eth0`.
    Program,
}

/// What decapsulates for one member.
#[derive(Debug)]
pub enum Decapsulating {
    /// The kernel's device `ipip0`.
    Kernel,
    /// Our program. It is attached for as long as this lives.
    Program {
        /// The program: it counts.
        program: Decapsulator,
        /// In which mode, and why not in a better one.
        attached: Attached,
    },
}

impl Decapsulating {
    /// Packets that came to `member` in a tunnel and were taken out of it.
    pub(super) fn decapsulated(&self, member: &Namespace) -> Result<u64, LabError> {
        match self {
            Self::Kernel => Ok(member.interface_counters(KERNEL_DEVICE)?.rx_packets),
            Self::Program { program, .. } => {
                let counters = program.counters().map_err(error_of(member))?;
                Ok(counters.of(Cause::Decapsulated))
            }
        }
    }
}

impl fmt::Display for Decapsulating {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => formatter.write_str("kernel ipip"),
            Self::Program { attached, .. } => write!(formatter, "pointsman's XDP program, {}", attached.mode),
        }
    }
}

/// Has tunnels end at the member's own address, wherever they come from.
pub(super) fn decapsulate(
    member: &Namespace,
    address: Ipv4Addr,
    wanted: Decapsulation,
) -> Result<Option<Decapsulating>, LabError> {
    let by = match wanted {
        Decapsulation::Nobody => return Ok(None),
        Decapsulation::Kernel => by_kernel(member, address)?,
        Decapsulation::Program => by_program(member, address)?,
        Decapsulation::Any => match by_kernel(member, address) {
            // "Unknown device type": the kernel has no ipip module, and cannot load it.
            Err(LabError::Command { .. }) => by_program(member, address)?,
            by => by?,
        },
    };
    Ok(Some(by))
}

fn by_kernel(member: &Namespace, address: Ipv4Addr) -> Result<Decapsulating, LabError> {
    // A device for this very address: with the module every namespace gets a `tunl0` for all addresses, but not where
    // net.core.fb_tunnels_only_for_init_net says otherwise.
    member
        .ip(&[format!("link add {KERNEL_DEVICE} type ipip local {address}"), format!("link set {KERNEL_DEVICE} up")])?;
    Ok(Decapsulating::Kernel)
}

fn by_program(member: &Namespace, address: Ipv4Addr) -> Result<Decapsulating, LabError> {
    let mut program = Decapsulator::load(&[address], &[]).map_err(error_of(member))?;
    // An index is the namespace's own, and the kernel looks for it where the attaching thread is.
    let attached = member.enter(|| if_nametoindex("eth0").map(|index| program.attach(index)))?;
    let attached = attached
        .map_err(LabError::system(format!("looking for eth0 in the lab's {}", member.name())))?
        .map_err(error_of(member))?;
    Ok(Decapsulating::Program { program, attached })
}

fn error_of(member: &Namespace) -> impl Fn(DecapsulateError) -> LabError {
    move |source| LabError::Decapsulate { namespace: member.name().to_owned(), source }
}
