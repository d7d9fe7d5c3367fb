//! A command is moved into its namespace between fork and exec.
#![expect(unsafe_code, reason = "the hook between fork and exec is unsafe to install")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Makes `command` start in `namespace`, and die (SIGKILL) when the thread that spawned it ends: a child that
/// outlived this process would keep the namespace and its interfaces alive.
pub(super) fn start_inside(command: &mut Command, namespace: Arc<OwnedFd>) {
    let parent = Pid::this();
    let hook = move || -> io::Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above: then nobody is left to die with.
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The hook makes three plain system
    // calls (prctl, getppid, setns), turns an errno into an `io::Error` without allocating, and takes no lock.
    unsafe { command.pre_exec(hook) };
}
