//! The lab's long-lived processes: the balancer and the members' servers.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::spawn_error;
use super::{LabError, wait_until};

/// How long a process may take from start to `ready`: attaching retries for some seconds, resolving members takes up
/// to one.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long a process may take to end after SIGTERM before it is killed: longer would stall a test for nothing.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Lines kept of each stream: minutes of a chatty log, and a bound for one that never stops.
const LINES_KEPT: usize = 10_000;

/// A running process of the lab. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
}

impl Process {
    /// Starts `command` on the spawner's thread and collects its lines.
    pub(super) fn start(spawner: &Spawner, name: &str, mut command: Command) -> Result<Self, LabError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawner.spawn(command)?;
        let stdout = Lines::collect(child.stdout.take());
        let stderr = Lines::collect(child.stderr.take());
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// Waits until the process has printed the line `ready` on its standard output.
    pub(super) fn wait_ready(mut self) -> Result<Self, LabError> {
        if self.stdout.wait_for(READY_WITHIN, |line| line == "ready") {
            return Ok(self);
        }
        // If its output has ended, so will it at once; and what it said last may still be on its way.
        let ended = self.stdout.lock().ended;
        let status = if ended { Some(self.kill()?) } else { None };
        Err(LabError::NotReady {
            process: self.name.clone(),
            seconds: READY_WITHIN.as_secs(),
            status: status.map_or_else(|| "still running".to_owned(), |status| status.to_string()),
            exit_code: status.and_then(|status| status.code()),
            log: self.log().join("\n"),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of its standard error so far. One that was written a moment ago may still be on its way, also when
    /// `ready` has been read from the other stream: [`Process::wait_for_log`]. After [`Process::stop`] it is complete.
    pub fn log(&self) -> Vec<String> {
        self.stderr.lock().lines.clone()
    }

    /// The lines of its standard output so far.
    pub fn output(&self) -> Vec<String> {
        self.stdout.lock().lines.clone()
    }

    /// Waits until a line of its standard error satisfies `wanted`.
    pub fn wait_for_log(&self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        self.stderr.wait_for(timeout, wanted)
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        // The id is its own until it has been waited for, and that takes `&mut self`.
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .map_err(LabError::system(format!("sending {signal} to {}", self.name)))
    }

    /// Asks it to end (SIGTERM) and returns how it did; one that does not end is killed, and its status says so.
    /// Its log remains readable.
    pub fn stop(&mut self) -> Result<ExitStatus, LabError> {
        if self.status().is_none() {
            self.signal(Signal::SIGTERM)?;
            let child = &mut self.child;
            wait_until(STOP_WITHIN, || matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
        }
        self.kill()
    }

    /// Kills it (SIGKILL) and returns how it ended.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        let _ = self.child.kill();
        let status = self.child.wait().map_err(LabError::system(format!("waiting for {}", self.name)))?;
        self.stdout.wait_end();
        self.stderr.wait_end();
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The thread that spawns what lives as long as the lab.
///
/// A child is told to die with the thread that forked it (`PR_SET_PDEATHSIG` means the thread, not the process), so a
/// test's or a pool's thread must not be that one.
#[derive(Debug)]
pub(super) struct Spawner {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Request {
    command: Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

impl Spawner {
    pub(super) fn start() -> Result<Self, LabError> {
        let (requests, receiver) = mpsc::channel::<Request>();
        let spawn_until_hung_up = move || {
            for mut request in receiver {
                // Nobody waits for the reply only if the asking thread has panicked.
                let _ = request.reply.send(request.command.spawn());
            }
        };
        let thread = thread::Builder::new()
            .name("lab-spawner".to_owned())
            .spawn(spawn_until_hung_up)
            .map_err(LabError::system("a thread for the lab's processes"))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Spawns `command`; it lives at most as long as this.
    pub(super) fn spawn(&self, mut command: Command) -> Result<Child, LabError> {
        // In a group of its own: Ctrl-C is for the lab's process, whose end is the others', not for each of them.
        command.process_group(0);
        let program = command.get_program().to_owned();
        let (reply, answer) = mpsc::channel();
        let sent = self.requests.as_ref().is_some_and(|requests| requests.send(Request { command, reply }).is_ok());
        let gone = || io::Error::other("the lab's spawning thread is gone");
        if !sent {
            return Err(spawn_error(&program, gone()));
        }
        answer.recv().unwrap_or_else(|_| Err(gone())).map_err(|error| spawn_error(&program, error))
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // The thread's end is what kills the children that are left.
            let _ = thread.join();
        }
    }
}

/// The lines that a stream has brought so far.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<LinesState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LinesState {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Reads `stream` on a thread of its own until it ends, which is at the latest when the process has.
    fn collect(stream: Option<impl Read + Send + 'static>) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let writer = Arc::clone(&lines);
        thread::spawn(move || {
            if let Some(stream) = stream {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    writer.push(String::from_utf8_lossy(&line).into_owned());
                }
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        lines
    }

    fn push(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() < LINES_KEPT {
            state.lines.push(line);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, LinesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a line, at most until the stream ends.
    fn wait_for(&self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        let mut looked_at = 0;
        self.wait(timeout, |state| {
            let found = state.lines[looked_at..].iter().any(|line| wanted(line));
            looked_at = state.lines.len();
            found
        })
    }

    /// Waits until everything that a dead process has written is here.
    fn wait_end(&self) {
        self.wait(Duration::from_secs(1), |state| state.ended);
    }

    /// Waits until `satisfied` or the stream's end; says whether it was satisfied.
    fn wait(&self, timeout: Duration, mut satisfied: impl FnMut(&LinesState) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if satisfied(&state) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
