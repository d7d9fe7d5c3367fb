//! What the process may still do once it runs: five capabilities for control, none for the workers, and for these only
//! the system calls that a worker makes.
//!
//! The threads share one address space, so this fence does not hold somebody who already runs code of their own in a
//! worker. It takes away what the bugs before that need: a file to write, a program to start, a socket to open.

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter,
};
use thiserror::Error;
use tracing::{info, warn};

/// What control keeps. All of it is needed again whenever an interface goes and comes back.
pub const KEPT: [Capability; 5] = [
    // Attach the program; read the neighbour table and have the kernel ask for an address.
    Capability::CAP_NET_ADMIN,
    // Open an AF_XDP socket (`xsk_create`, net/xdp/xsk.c).
    Capability::CAP_NET_RAW,
    // Load the program, make its maps.
    Capability::CAP_BPF,
    // The verifier refuses the program's packet pointers to those without it.
    Capability::CAP_PERFMON,
    // The sockets' memory is not counted against RLIMIT_MEMLOCK (`xdp_umem_account_pages`, net/xdp/xdp_umem.c).
    Capability::CAP_IPC_LOCK,
];

/// What a program that is started from here may get from its file.
pub const FOR_PROGRAMS: [Capability; 1] = [Capability::CAP_NET_RAW];

/// Why the process does not come to have exactly the capabilities that it needs.
#[derive(Debug, Error)]
pub enum PrivilegesError {
    /// Some of [`KEPT`] are not there.
    #[error(
        "this process lacks {} (run it as root, or with {} as ambient capabilities, as packaging/pointsman.service does)",
        list(.0),
        list(&KEPT)
    )]
    Missing(Vec<Capability>),
    /// The kernel does not take them away.
    #[error("giving up capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel does not promise that root's programs get no capabilities.
    #[error("setting the secure bit NOROOT: {0}")]
    SecureBits(#[from] std::io::Error),
    /// The kernel does not promise that no program started from here has more.
    #[error("setting no_new_privs: {0}")]
    NoNewPrivileges(#[from] Errno),
}

/// Gives up everything but [`KEPT`], for this thread and those that it will start: to be called before there are any.
///
/// Programs started from here (scripts of monitors) inherit nothing, and as root they gain nothing either (`NOROOT`). One
/// whose file has `CAP_NET_RAW`, as `ping` on most distributions, gets that: it would not even start if the bounding set
/// were without it. The set is cut down where that is allowed (`CAP_SETPCAP`; systemd's unit has it down to the five).
///
/// A root without `CAP_DAC_OVERRIDE` is an ordinary user who owns root's files: `state_dir` and the like must be
/// root's own then, and not left over from a service that ran as somebody else.
pub fn keep_needed() -> Result<(), PrivilegesError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let missing: Vec<Capability> = KEPT.into_iter().filter(|needed| !permitted.contains(needed)).collect();
    if !missing.is_empty() {
        return Err(PrivilegesError::Missing(missing));
    }
    // First, while there is the capability for it.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for bounded in caps::read(None, CapSet::Bounding)?.into_iter().filter(|one| !FOR_PROGRAMS.contains(one)) {
            caps::drop(None, CapSet::Bounding, bounded)?;
        }
        let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
        set_capabilities_secure_bits(bits).map_err(std::io::Error::from)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let kept = CapsHashSet::from(KEPT);
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    prctl::set_no_new_privs()?;
    info!("privileges: the process keeps {}", list(&KEPT));
    Ok(())
}

/// Takes everything from the calling thread that a worker does not need. Says what was achieved (once: all workers are
/// alike) and what was not: a worker forwards all the same.
pub fn confine_worker(worker: usize) {
    // The effective ones go with the permitted ones; there are no others to pass on since `keep_needed`.
    match caps::clear(None, CapSet::Permitted) {
        Ok(()) if worker == 0 => info!("privileges: workers keep none"),
        Ok(()) => {}
        Err(error) => warn!("worker {worker} keeps the process's capabilities: {error}"),
    }
    match filter_system_calls(std::process::id()) {
        Ok(()) if worker == 0 => info!("privileges: workers' system calls are filtered"),
        Ok(()) => {}
        Err(error) => warn!("worker {worker}'s system calls are not filtered: {error}"),
    }
}

/// Takes everything from the calling thread: one that only reads and writes what is open already.
pub fn confine_helper() {
    if let Err(error) = caps::clear(None, CapSet::Permitted) {
        let name = std::thread::current().name().unwrap_or("a thread").to_owned();
        warn!("{name} keeps the process's capabilities: {error}");
    }
}

/// Has the kernel kill the process for what only an intruder does, and refuse (`EPERM`) what is merely unexpected.
///
/// Unexpected is, some day, what another C library's allocator tries first and can do without: to die of that would be
/// an outage made here. An intruder's `execve` cannot be mistaken for anything: the process dies (`SIGSYS`), the
/// kernel detaches the program, and whoever supervises the process starts it again.
///
/// `process` is the only one that signals may go to: this one.
fn filter_system_calls(process: u32) -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // Of two filters' verdicts the kernel takes the graver. The second one does not let a third be installed.
    let fatal = FATAL.iter().map(|&call| (call, Vec::new())).collect();
    install(SeccompFilter::new(fatal, SeccompAction::Allow, SeccompAction::KillProcess, arch)?)?;
    // The kernel remembers for which calls the verdict is "allow" whatever the arguments, and does not run the filter
    // for them again (since 5.11, `seccomp_cache_check_allow`): so no rule looks at arguments, but for two on calls
    // that no packet waits for.
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    allowed.insert(libc::SYS_openat, vec![read_only()?]);
    allowed.insert(libc::SYS_tgkill, vec![signals_to(process)?]);
    install(SeccompFilter::new(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, arch)?)
}

fn install(filter: SeccompFilter) -> Result<(), seccompiler::Error> {
    let program: seccompiler::BpfProgram = filter.try_into()?;
    apply_filter(&program)
}

/// `openat` for reading, which the symbols of a panic's backtrace need.
fn read_only() -> Result<SeccompRule, seccompiler::Error> {
    const FLAGS: u8 = 2;
    let writing = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
    let condition =
        SeccompCondition::new(FLAGS, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(writing), libc::O_RDONLY as u64)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// `tgkill` to a thread of `process`, which `abort` needs.
fn signals_to(process: u32) -> Result<SeccompRule, seccompiler::Error> {
    const THREAD_GROUP: u8 = 0;
    let condition = SeccompCondition::new(THREAD_GROUP, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(process))?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// What a worker does, from its first round to its end by `stop` or by a panic.
const ALLOWED: &[libc::c_long] = &[
    // Packets: wake the kernel for tx and rx, sleep, be woken by control, read the rings' statistics.
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_getsockopt,
    // The log.
    libc::SYS_write,
    libc::SYS_writev,
    // The allocator, and the sockets' rings at the end.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_getrandom,
    libc::SYS_sched_getaffinity,
    // Locks and clocks, where the kernel's page of clocks (vDSO) does not do.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getcpu,
    // Signals: the runtime's handlers may run on any thread; a stopped and continued sleep is started again.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    // A panic's backtrace reads the program's own symbols (`openat`: see `read_only`).
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_fcntl,
    libc::SYS_getcwd,
    libc::SYS_readlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    // The end: of the thread, or by `abort` (`tgkill`: see `signals_to`).
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What no library does unasked, and an intruder would sooner or later.
const FATAL: &[libc::c_long] = &[
    // Another program, another process's memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Another view of the system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // Another identity.
    libc::SYS_capset,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
];

fn list(capabilities: &[Capability]) -> String {
    capabilities.iter().map(Capability::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;
    use std::fs::{self, File};
    use std::io;
    use std::net::UdpSocket;
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::Command;
    use std::thread;

    use nix::sys::signal::{Signal, raise};

    use super::*;

    /// Runs `work` on a thread that is confined as a worker is.
    fn confined<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::Result<T> {
        let run = || {
            filter_system_calls(std::process::id()).expect("a kernel with seccomp filters");
            work()
        };
        thread::spawn(run).join()
    }

    #[test]
    fn a_worker_signals_its_own_process_only() {
        // The C library raises it on the calling thread of this process; so it is the filter that is told another one.
        let raised_under = |process| {
            let run = move || {
                filter_system_calls(process).expect("a kernel with seccomp filters");
                // Ignored unless somebody handles it.
                raise(Signal::SIGWINCH)
            };
            thread::spawn(run).join().expect("no panic")
        };
        let own = std::process::id();
        assert_eq!((raised_under(own), raised_under(own + 1)), (Ok(()), Err(Errno::EPERM)));
    }

    #[test]
    fn a_worker_allocates_reads_and_panics_with_symbols() {
        let symbols = confined(|| {
            let grown: Vec<u8> = (0..50_000_000_u32).map(|byte| byte as u8).collect();
            drop(grown);
            fs::read("/proc/self/status").expect("reading");
            Backtrace::force_capture().to_string()
        });
        let symbols = symbols.expect("no panic");
        assert!(symbols.contains("privileges.rs:"), "{symbols}");
        assert!(confined(|| panic!("on purpose")).is_err());
    }

    #[test]
    fn a_worker_is_refused_what_it_does_not_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        fs::write(&file, "text").expect("write");
        let errors = confined(move || {
            let denied = |result: io::Result<()>| result.expect_err("it is refused").kind();
            [
                denied(File::create(&file).map(drop)),
                denied(File::options().append(true).open(&file).map(drop)),
                denied(fs::remove_file(&file)),
                denied(UdpSocket::bind("127.0.0.1:0").map(drop)),
                denied(thread::Builder::new().spawn(|| ()).map(drop)),
            ]
        });
        assert_eq!(errors.expect("no panic"), [io::ErrorKind::PermissionDenied; 5]);
    }

    #[test]
    fn a_worker_that_starts_a_program_kills_the_process() {
        const CHILD: &str = "POINTSMAN_TEST_EXECUTES";
        if std::env::var_os(CHILD).is_some() {
            let _ = confined(|| Command::new("/bin/true").exec());
            return;
        }
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "control::privileges::tests::a_worker_that_starts_a_program_kills_the_process"]);
        let output = child.env(CHILD, "1").output().expect("this program");
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = PrivilegesError::Missing(vec![Capability::CAP_BPF, Capability::CAP_IPC_LOCK]);
        assert!(error.to_string().starts_with("this process lacks CAP_BPF, CAP_IPC_LOCK (run it as root, or with "));
    }
}
