//! A directory that the kernel removes: a tmpfs that is mounted nowhere and held by a file descriptor.
//!
//! A directory below /tmp would stay behind when this process is killed.
#![expect(unsafe_code, reason = "libc has no wrappers for the mount calls (fsopen, fsconfig, fsmount)")]

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::ptr;

use nix::errno::Errno;

use super::LabError;

/// A directory for the lab's files.
#[derive(Debug)]
pub(super) struct Scratch {
    mount: OwnedFd,
}

impl Scratch {
    /// Makes an empty directory that only this user can enter.
    pub(super) fn create() -> Result<Self, LabError> {
        let mount = || -> io::Result<OwnedFd> {
            let context = open_tmpfs()?;
            create_tmpfs(&context)?;
            mount_nowhere(&context)
        };
        match mount() {
            Ok(mount) => {
                let scratch = Self { mount };
                // A tmpfs begins as everybody's (1777).
                fs::set_permissions(scratch.path(), Permissions::from_mode(0o700))
                    .map_err(LabError::system("closing the lab's directory to others"))?;
                Ok(scratch)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(LabError::NotPermitted(Errno::EPERM)),
            Err(error) => Err(LabError::system("a tmpfs for the lab's files")(error)),
        }
    }

    /// Where this and other processes find it while this one lives.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.mount.as_raw_fd()))
    }
}

// linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;

fn open_tmpfs() -> io::Result<OwnedFd> {
    // SAFETY: fsopen(2) reads a terminated string and returns a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) };
    owned(fd)
}

fn create_tmpfs(context: &OwnedFd) -> io::Result<()> {
    let (no_key, no_value) = (ptr::null::<libc::c_char>(), ptr::null::<libc::c_void>());
    // SAFETY: fsconfig(2) with FSCONFIG_CMD_CREATE takes no key, no value and no number.
    let status =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, no_key, no_value, 0) };
    Errno::result(status)?;
    Ok(())
}

fn mount_nowhere(context: &OwnedFd) -> io::Result<OwnedFd> {
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    // SAFETY: fsmount(2) takes three integers and returns a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
    owned(fd)
}

/// Takes what a call returned: -1 with errno, or a new descriptor.
fn owned(returned: libc::c_long) -> io::Result<OwnedFd> {
    let fd: RawFd = Errno::result(returned)? as RawFd;
    // SAFETY: the kernel has just made this descriptor, and only this function has seen it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
