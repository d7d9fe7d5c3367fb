//! A program that says whether a member is well. It cannot hang us, outlive its check, or fill our memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::outcome::{Bad, Deadline, Good, Outcome};
use super::probe::compiled;
use super::tcp::{ANSWER, unexpected};
use crate::control::model::monitor::Script;

/// Scripts that may run at a time: each is a process, and often several.
const AT_ONCE: usize = 64;

/// How long the end of a script's outputs is waited for when it has itself ended.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Read at a time.
const READ: usize = 4096;

/// Where scripts find programs; of our own environment they see nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A script made ready.
pub(super) struct Program {
    settings: Script,
    expect: Option<Regex>,
}

/// What all scripts share.
pub(super) struct Scripts {
    room: Semaphore,
    /// Those that run now, by process id.
    running: Mutex<BTreeSet<i32>>,
    /// Killed, but not waited for yet: the kernel may take a while over some (a hanging file system).
    dying: Mutex<Vec<Child>>,
    /// Whether every other child of this process is something that a script has left behind.
    adopts: AtomicBool,
}

impl Program {
    pub(super) fn prepare(settings: &Script) -> Result<Program, String> {
        Ok(Program { settings: settings.clone(), expect: settings.expect.as_deref().map(compiled).transpose()? })
    }

    /// What its end means.
    fn judge(&self, status: ExitStatus, output: &[u8], complaint: &[u8]) -> Outcome {
        let weight = match status.code() {
            Some(0) => None,
            // keepalived's misc_dynamic: 2 to 255 are weights of 0 to 253.
            Some(code @ 2..=255) if self.settings.dynamic_weight => u16::try_from(code - 2).ok(),
            Some(code) => return Bad::failed(with_complaint(format!("exit status {code}"), complaint, output)),
            None => {
                let number = status.signal().unwrap_or_default();
                let name = Signal::try_from(number).map_or_else(|_| number.to_string(), |one| one.to_string());
                return Bad::failed(with_complaint(format!("killed by signal {name}"), complaint, output));
            }
        };
        // As a shell's `$(…)` has it: patterns with `$` are meant without it.
        let output = output.trim_ascii_end();
        match &self.expect {
            Some(pattern) if !pattern.is_match(output) => Bad::failed(unexpected("printed", output, pattern)),
            _ => Ok(Good { weight }),
        }
    }
}

/// Adds the first line that was written to standard error, else to standard output.
fn with_complaint(what: String, complaint: &[u8], output: &[u8]) -> String {
    const SHOWN: usize = 100;
    let text = String::from_utf8_lossy(if complaint.is_empty() { output } else { complaint });
    let line: String =
        text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().chars().take(SHOWN).collect();
    if line.is_empty() { what } else { format!("{what}: {}", line.escape_debug()) }
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        Scripts {
            room: Semaphore::new(AT_ONCE),
            running: Mutex::default(),
            dying: Mutex::default(),
            adopts: AtomicBool::new(false),
        }
    }

    /// Makes this process the parent of whatever scripts leave behind, to end it. For a process that has no other
    /// children: they would be ended, too.
    pub(super) fn adopt_orphans(&self) {
        let own = rustix::process::getpid();
        match rustix::process::set_child_subreaper(Some(own)) {
            Ok(()) => self.adopts.store(true, Ordering::Relaxed),
            Err(error) => warn!("what scripts leave behind cannot be found: {error}"),
        }
    }

    pub(super) async fn check(
        &self,
        program: &Program,
        address: Ipv4Addr,
        port: Option<u16>,
        deadline: &Deadline,
    ) -> Outcome {
        self.bury();
        let full = || Bad::Skipped(format!("{AT_ONCE} scripts are running already"));
        let _room = deadline.keep("", self.room.acquire()).await.map_err(|_| full())?.map_err(|_| full())?;
        let mut running = Running::start(&program.settings, address, port, self)?;
        let finished = deadline.keep("in running", running.finish()).await;
        // Whatever it has started and left behind goes with it, before its id may be somebody else's.
        let status = running.end();
        finished??;
        let Some(status) = status else { return Bad::failed("its exit status was not to be had") };
        program.judge(status, &running.output, &running.complaint)
    }

    /// Waits for those that have died meanwhile, so that none stays a zombie.
    pub(super) fn bury(&self) {
        lock(&self.dying).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if self.adopts.load(Ordering::Relaxed) {
            self.end_orphans();
        }
    }

    /// Ends all of them, and what they have left behind: before this process itself ends. Takes a few milliseconds.
    pub(super) fn end_all(&self) {
        /// What is left after a round are children of children.
        const ROUNDS: usize = 5;
        let running = std::mem::take(&mut *lock(&self.running));
        for pid in &running {
            let _ = killpg(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if !self.adopts.load(Ordering::Relaxed) || (running.is_empty() && children().is_empty()) {
            return;
        }
        for _ in 0..ROUNDS {
            for child in children().into_iter().map(Pid::from_raw) {
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What has left its script's process group (`setsid`) is no longer killed with it; when its parents have ended, it
    /// is this process's child.
    fn end_orphans(&self) {
        let known = |pid: i32| {
            lock(&self.running).contains(&pid) || lock(&self.dying).iter().any(|child| child.id().cast_signed() == pid)
        };
        for orphan in children().into_iter().filter(|pid| !known(*pid)).map(Pid::from_raw) {
            let _ = kill(orphan, Signal::SIGKILL);
            let _ = waitpid(orphan, Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process's children (`CONFIG_PROC_CHILDREN`, which distributions' kernels have; none are found without).
fn children() -> Vec<i32> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let listed = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    listed.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

/// A script on its way. Dropped, it is killed with everything it has started.
struct Running<'a> {
    child: Option<Child>,
    /// `SIGCHLD`: one of all scripts has ended.
    endings: Signals,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Vec<u8>,
    complaint: Vec<u8>,
    scripts: &'a Scripts,
}

impl<'a> Running<'a> {
    fn start(settings: &Script, address: Ipv4Addr, port: Option<u16>, scripts: &'a Scripts) -> Result<Self, Bad> {
        let mut command = Command::new(&settings.command);
        command
            .args(settings.arguments_for(address, port))
            .env_clear()
            .env("PATH", PATH)
            .env("POINTSMAN_ADDRESS", address.to_string())
            .env("POINTSMAN_PORT", port.map_or_else(String::new, |port| port.to_string()))
            .current_dir("/")
            .process_group(0)
            .stdin(if settings.send.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Before there is something to be missed.
        let endings = signal(SignalKind::child())?;
        let mut child = command.spawn().map_err(|error| match Bad::from(error) {
            Bad::Failed(why) => Bad::Failed(format!("{}: {why}", settings.command.display())),
            skipped @ Bad::Skipped(_) => skipped,
        })?;
        lock(&scripts.running).insert(child.id().cast_signed());
        if let (Some(text), Some(mut stdin)) = (&settings.send, child.stdin.take()) {
            // A pipe takes 64 KiB, and this is less: it does not block. One that does not read it need not.
            let _ = stdin.write_all(text.as_bytes());
        }
        let stdout = child.stdout.take().and_then(|pipe| ChildStdout::from_std(pipe).ok());
        let stderr = child.stderr.take().and_then(|pipe| ChildStderr::from_std(pipe).ok());
        let (output, complaint) = (Vec::new(), Vec::new());
        Ok(Running { child: Some(child), endings, stdout, stderr, output, complaint, scripts })
    }

    /// Until it has ended. What it leaves running may hold its outputs open: that is not waited for.
    async fn finish(&mut self) -> Result<(), Bad> {
        while !self.has_ended() {
            tokio::select! {
                _ = self.endings.recv() => {}
                read = absorb(&mut self.stdout, &mut self.output) => read?,
                read = absorb(&mut self.stderr, &mut self.complaint) => read?,
            }
        }
        // What it has left running may hold its outputs open; killed, it does so no longer, unless it has fled.
        self.child.iter().for_each(kill_group);
        let rest = async {
            while self.stdout.is_some() || self.stderr.is_some() {
                tokio::select! {
                    read = absorb(&mut self.stdout, &mut self.output) => read?,
                    read = absorb(&mut self.stderr, &mut self.complaint) => read?,
                }
            }
            Ok(())
        };
        timeout(LAST_WORDS, rest).await.unwrap_or(Ok(()))
    }

    /// Without waiting for it: its id stays its own, and its group's.
    fn has_ended(&self) -> bool {
        let Some(child) = &self.child else { return true };
        let id = Id::Pid(Pid::from_raw(child.id().cast_signed()));
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(id, look), Ok(WaitStatus::StillAlive))
    }

    /// Kills what is left of it, and takes its exit status if it has one already.
    fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        if !lock(&self.scripts.running).remove(&child.id().cast_signed()) {
            // All have been ended.
            return None;
        }
        // Not waited for yet, so its id is still its group's.
        kill_group(&child);
        match child.try_wait() {
            Ok(Some(status)) => Some(status),
            Ok(None) => {
                lock(&self.scripts.dying).push(child);
                None
            }
            Err(error) => {
                warn!("waiting for a script: {error}");
                None
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn kill_group(child: &Child) {
    // It fails if nothing is left, which is what is wanted.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
}

/// Waits for something to read and takes it; closes the pipe at its end.
async fn absorb(pipe: &mut Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> Result<(), Bad> {
    let Some(open) = pipe else { return std::future::pending().await };
    kept.reserve(READ);
    match open.read_buf(kept).await {
        Ok(0) | Err(_) => *pipe = None,
        Ok(_) => {}
    }
    if kept.len() > ANSWER { Bad::failed(format!("printed more than {} KiB", ANSWER >> 10)) } else { Ok(()) }
}
