//! What makes a member the end of IPIP tunnels.

use std::net::Ipv4Addr;

use nix::net::if_::if_nametoindex;

use super::{LabError, Namespace};
use crate::realserver::decapsulate::{Attached, Decapsulator};

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
    member.ip(&[format!("link add ipip0 type ipip local {address}"), "link set ipip0 up".to_owned()])?;
    Ok(Decapsulating::Kernel)
}

fn by_program(member: &Namespace, address: Ipv4Addr) -> Result<Decapsulating, LabError> {
    let error = |source| LabError::Decapsulate { namespace: member.name().to_owned(), source };
    let mut program = Decapsulator::load(&[address], &[]).map_err(error)?;
    // An index is the namespace's own, and the kernel looks for it where the attaching thread is.
    let attached = member.enter(|| if_nametoindex("eth0").map(|index| program.attach(index)))?;
    let attached = attached
        .map_err(LabError::system(format!("looking for eth0 in the lab's {}", member.name())))?
        .map_err(error)?;
    Ok(Decapsulating::Program { program, attached })
}
