//! Ends a system call of another thread: a test run goes on until its frames are through or a signal is pending.

#![expect(unsafe_code, reason = "nix has no tgkill, and installing a signal handler is unsafe")]

use std::io;
use std::process;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;

/// Has the signal interrupt and do nothing else. To be called once, before [`interrupt`].
pub(crate) fn prepare() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // No SA_RESTART: the call that is interrupted returns.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so there is nothing that it could do at a wrong moment.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    Ok(())
}

/// Interrupts what this thread of the process is doing in the kernel. One that has ended is not missed.
pub(crate) fn interrupt(thread: Pid) -> io::Result<()> {
    let (process, thread) = (libc::c_long::from(process::id()), libc::c_long::from(thread.as_raw()));
    // SAFETY: tgkill(2) takes three numbers, and names a thread of this process or none.
    let status = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, Signal::SIGUSR1 as libc::c_long) };
    match Errno::result(status) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
