//! Transmit offloads off, so that a veth carries what a wire would.
//!
//! On veth a local stack leaves a packet's checksum to "hardware" that does not exist (`CHECKSUM_PARTIAL`), and the
//! kernel hands the packet over unfinished. `AF_XDP` copies bytes, not that mark: the member would drop every packet as
//! corrupt. It also lets the stack pass super-packets that no wire would carry.
#![expect(unsafe_code, reason = "ethtool's ioctl takes a pointer to a structure of its own")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{LabError, Namespace};

/// Turns checksum and segmentation offload of `interface` off and looks that they are off.
pub(super) fn disable_transmit_offloads(namespace: &Namespace, interface: &str) -> Result<(), LabError> {
    let outcome = namespace.enter(|| -> io::Result<()> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let device = socket.as_raw_fd();
        ethtool(device, interface, SET_TX_CHECKSUM, 0)?;
        // The kernel has cleared it already, as segmentation needs checksums: then this changes nothing.
        ethtool(device, interface, SET_TSO, 0)?;
        for (feature, get) in [("tx-checksumming", GET_TX_CHECKSUM), ("tcp-segmentation-offload", GET_TSO)] {
            if ethtool(device, interface, get, 0)? != 0 {
                return Err(io::Error::other(format!("the kernel kept {feature} on")));
            }
        }
        Ok(())
    })?;
    outcome.map_err(LabError::system(format!("offloads of {interface} in the lab's {}", namespace.name())))
}

// linux/ethtool.h.
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;
const GET_TSO: u32 = 0x1e;
const SET_TSO: u32 = 0x1f;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// One ethtool command that carries one value; returns the value as the kernel left it.
fn ethtool(device: RawFd, interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(Errno::ENAMETOOLONG.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() } };
    // SAFETY: `request` is a whole `ifreq` that lives through the call, with a terminated name; its pointer names
    // `value`, which is what the four commands above read and write (struct ethtool_value), and nothing else does.
    let status = unsafe { libc::ioctl(device, libc::SIOCETHTOOL as _, &raw mut request) };
    Errno::result(status)?;
    Ok(value.data)
}
