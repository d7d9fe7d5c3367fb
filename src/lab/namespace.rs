//! One anonymous network namespace: no name in /run/netns, nothing but a file descriptor of this process.
//!
//! The kernel takes the namespace down, veths and all, when the last descriptor and the last process in it are gone.
//! So nothing has to be cleaned up, whatever ends this process, and labs side by side have nothing to collide on.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::{panic, thread};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use super::LabError;
use super::inside::start_inside;

/// An anonymous network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: Arc<OwnedFd>,
}

/// What an interface has received and sent since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets dropped on their way in.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets dropped on their way out.
    pub tx_dropped: u64,
}

impl Namespace {
    /// Makes an empty namespace; `name` is for messages only.
    pub fn create(name: &str) -> Result<Self, LabError> {
        // Unsharing moves the calling thread for good, so a thread is made for it.
        let made = thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                    File::open("/proc/thread-self/ns/net")
                })
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        });
        match made {
            Ok(file) => Ok(Self { name: name.to_owned(), handle: Arc::new(file.into()) }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(LabError::NotPermitted(Errno::EPERM)),
            Err(error) => Err(LabError::system("making a network namespace")(error)),
        }
    }

    /// The name that messages use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where other processes find this namespace while this one lives: for `nsenter --net=PATH` and
    /// `ip link … netns PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd()))
    }

    /// A command that will run inside. It is killed when the thread that spawns it ends; [`super::Lab::spawn`] spawns
    /// for as long as the lab lives.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        start_inside(&mut command, Arc::clone(&self.handle));
        command
    }

    /// Runs a command inside to its end and returns its standard output; a failure carries its standard error.
    pub fn run<I>(&self, command_line: I) -> Result<String, LabError>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let words: Vec<_> = command_line.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let [program, arguments @ ..] = words.as_slice() else {
            return Ok(String::new());
        };
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null());
        let line = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        let output = command.output().map_err(|error| spawn_error(program, error))?;
        self.checked(&line, &output)
    }

    /// Runs `ip -batch` inside over these lines: one process instead of one per line.
    pub(super) fn ip(&self, lines: &[String]) -> Result<(), LabError> {
        let program = OsStr::new("ip");
        let mut command = self.command(program);
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| spawn_error(program, error))?;
        if let Some(mut input) = child.stdin.take() {
            // `ip` stops reading at the first line that fails: its exit status says so, not this write.
            let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
        }
        let output = child.wait_with_output().map_err(LabError::system("waiting for ip"))?;
        let failed_line = String::from_utf8_lossy(&output.stderr)
            .rsplit_once("-:")
            .and_then(|(_, number)| number.trim().parse::<usize>().ok())
            .and_then(|number| lines.get(number.checked_sub(1)?));
        let line = format!("ip {}", failed_line.map_or("-batch", String::as_str));
        self.checked(&line, &output).map(|_| ())
    }

    /// Runs `work` on a thread inside this namespace: sockets that it opens belong to the namespace for good.
    pub fn enter<T, F>(&self, work: F) -> Result<T, LabError>
    where
        T: Send,
        F: FnOnce() -> T + Send,
    {
        thread::scope(|scope| {
            scope
                .spawn(|| setns(&*self.handle, CloneFlags::CLONE_NEWNET).map(|()| work()))
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
        .map_err(LabError::system(format!("entering the lab's {}", self.name)))
    }

    /// Reads a setting by its dotted name, `net.ipv4.ip_forward`.
    pub fn read_sysctl(&self, name: &str) -> Result<String, LabError> {
        let path = sysctl_path(name);
        let what = format!("reading {} in the lab's {}", path.display(), self.name);
        let text = self.enter(|| fs::read_to_string(&path))?;
        text.map(|text| text.trim_end().to_owned()).map_err(LabError::system(what))
    }

    /// Writes a setting by its dotted name, `net.ipv4.ip_forward`.
    pub fn write_sysctl(&self, name: &str, value: &str) -> Result<(), LabError> {
        self.write_sysctls(&[(name, value)])
    }

    /// Writes several settings, in order.
    pub(super) fn write_sysctls(&self, settings: &[(&str, &str)]) -> Result<(), LabError> {
        self.enter(|| {
            for (name, value) in settings {
                let path = sysctl_path(name);
                let what = || format!("writing {value} to {} in the lab's {}", path.display(), self.name);
                fs::write(&path, value).map_err(|error| LabError::system(what())(error))?;
            }
            Ok(())
        })?
    }

    /// What the interface has received and sent. What the client sends, and what enters and leaves the balancer, is
    /// counted in packets as a wire would carry them; the members' large answers in super-packets of up to 64 KiB.
    pub fn interface_counters(&self, interface: &str) -> Result<InterfaceCounters, LabError> {
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let what = format!("the counters of {interface} in the lab's {}", self.name);
        text.and_then(|text| counters_of(&text, interface).ok_or(io::ErrorKind::NotFound.into()))
            .map_err(LabError::system(what))
    }

    fn checked(&self, command: &str, output: &Output) -> Result<String, LabError> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LabError::Command {
            namespace: self.name.clone(),
            command: command.to_owned(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        })
    }
}

/// What went wrong when `program` was started.
pub(super) fn spawn_error(program: &OsStr, error: io::Error) -> LabError {
    let program = program.to_string_lossy();
    let package = match &*program {
        "ip" | "tc" | "bridge" | "ss" => "iproute2",
        "ping" => "iputils-ping",
        "ethtool" => "ethtool",
        _ => return LabError::system(format!("starting {program}"))(error),
    };
    match error.kind() {
        io::ErrorKind::NotFound => LabError::ProgramMissing { program: program.into_owned(), package },
        _ => LabError::system(format!("starting {program}"))(error),
    }
}

/// The settings of a namespace are what a thread inside it sees below /proc/sys/net.
fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// One line of `/proc/net/dev`: name, eight columns received, eight columns sent (net/core/net-procfs.c).
fn counters_of(table: &str, interface: &str) -> Option<InterfaceCounters> {
    let columns = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = columns.split_whitespace().map_while(|column| column.parse().ok()).collect();
    let &[rx_bytes, rx_packets, _, rx_dropped, _, _, _, _, tx_bytes, tx_packets, _, tx_dropped, ..] =
        numbers.as_slice()
    else {
        return None;
    };
    Some(InterfaceCounters { rx_bytes, rx_packets, rx_dropped, tx_bytes, tx_packets, tx_dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_column() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n\
             \x20 eth0:     906      11    0    2    0     0          0         0     1300      13    0    1    0 0 0 0\n\
             \x20eth01: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let expected = InterfaceCounters {
            rx_bytes: 906,
            rx_packets: 11,
            rx_dropped: 2,
            tx_bytes: 1300,
            tx_packets: 13,
            tx_dropped: 1,
        };
        assert_eq!(counters_of(table, "eth0"), Some(expected));
        assert_eq!(counters_of(table, "eth01").map(|counters| counters.tx_packets), Some(10));
        assert_eq!(counters_of(table, "eth"), None);
    }
}
