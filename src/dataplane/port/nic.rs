//! What a network interface says of itself: driver and channels, by ethtool's ioctl (linux/ethtool.h).

#![expect(unsafe_code, reason = "ethtool's ioctl takes a pointer to a structure of its own")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GDRVINFO`, `ETHTOOL_GCHANNELS` (linux/ethtool.h).
const GET_DRIVER: u32 = 0x3;
const GET_CHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    lengths: [u32; 5],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// The name of the interface's driver (`veth`, `ice`, `mlx5_core`, …).
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: GET_DRIVER,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rom: [0; 32],
        reserved: [0; 12],
        lengths: [0; 5],
    };
    ethtool(interface, &mut info)?;
    let name = CStr::from_bytes_until_nul(&info.driver).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

/// Whether there is an interface of this name.
pub fn exists(interface: &str) -> bool {
    driver(interface).err().and_then(|error| error.raw_os_error()) != Some(libc::ENODEV)
}

/// How many receive queues the interface uses now; `None` if its driver does not say.
pub fn receive_queues(interface: &str) -> io::Result<Option<u32>> {
    Ok(channels(interface)?.map(|channels| channels.rx + channels.combined).filter(|&queues| queues > 0))
}

/// The command that gives the interface so many receive queues, in the words that its driver understands.
pub fn queues_command(interface: &str, queues: u32) -> String {
    let channels = channels(interface).ok().flatten().unwrap_or_default();
    format!("ethtool -L {interface} {}", channels.words(queues))
}

fn channels(interface: &str) -> io::Result<Option<Channels>> {
    let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
    match ethtool(interface, &mut channels) {
        Ok(()) => Ok(Some(channels)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Channels {
    /// A driver has queues in pairs (most cards), or rx and tx apart (veth), and refuses the other's words.
    fn words(&self, queues: u32) -> String {
        match (self.max_combined, self.max_rx, self.max_tx) {
            (0, 1.., 0) => format!("rx {queues}"),
            (0, 1.., _) => format!("rx {queues} tx {queues}"),
            _ => format!("combined {queues}"),
        }
    }
}

/// Runs one ethtool command; `T` is the kernel's structure for it and begins with the command's number.
fn ethtool<T>(interface: &str, value: &mut T) -> io::Result<()> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    #[allow(clippy::cast_possible_wrap, reason = "c_char is signed on some architectures and not on others")]
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: std::ptr::from_mut(value).cast() },
    };
    // SAFETY: the request and the structure it points to are live and of the layout that the command (their first
    // word) asks for; the kernel writes no more than that structure.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(std::mem::size_of::<DriverInfo>(), 196);
        assert_eq!(std::mem::size_of::<Channels>(), 36);
    }

    #[test]
    fn queues_are_set_in_the_drivers_own_words() {
        let veth = Channels { max_rx: 4, max_tx: 4, rx: 1, tx: 1, ..Channels::default() };
        assert_eq!(veth.words(2), "rx 2 tx 2");
        // ice, i40e: pairs; rx and tx may also be set apart, but need not.
        let paired = Channels { max_rx: 8, max_tx: 8, max_combined: 8, combined: 8, ..Channels::default() };
        assert_eq!(paired.words(2), "combined 2");
        assert_eq!(queues_command("nosuchif0", 2), "ethtool -L nosuchif0 combined 2");
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert_eq!(driver("nosuchif0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!((exists("nosuchif0"), exists("lo")), (false, true));
    }
}
