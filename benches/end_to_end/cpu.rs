//! CPU time: of the forwarder's threads, and of everybody else on its CPU.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

/// The kernel's clock ticks in /proc/stat (`USER_HZ`: 100 on every architecture that Linux is built for today).
const TICK: Duration = Duration::from_millis(10);

/// Whose time is counted: all threads of processes, and kernel threads that work for it.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) processes: Vec<u32>,
    pub(crate) kernel_threads: Vec<Pid>,
}

impl Accounts {
    /// CPU time used so far. A running thread's is brought up to date at every scheduler tick: windows should be long
    /// beside that.
    pub(crate) fn run_time(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for process in &self.processes {
            let tasks = format!("/proc/{process}/task");
            for task in fs::read_dir(&tasks).with_context(|| format!("{tasks}: the forwarder has ended"))? {
                total += of_task(&format!("{}/schedstat", task?.path().display()))?;
            }
        }
        for thread in &self.kernel_threads {
            total += of_task(&format!("/proc/{thread}/schedstat"))?;
        }
        Ok(total)
    }
}

/// The first number is the time on a CPU in nanoseconds (Documentation/scheduler/sched-stats.rst).
fn of_task(path: &str) -> Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let nanoseconds = text.split_whitespace().next().and_then(|first| first.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.with_context(|| format!("{path}: {text}"))?))
}

/// What a CPU has done since the machine was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTimes {
    /// Anything but idling, by anybody.
    pub(crate) busy: Duration,
    /// What the hypervisor gave to others.
    pub(crate) stolen: Duration,
}

impl CpuTimes {
    /// `cpuN user nice system idle iowait irq softirq steal …` of /proc/stat (proc(5)).
    pub(crate) fn read(cpu: usize) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let label = format!("cpu{cpu}");
        let line = text.lines().find_map(|line| line.strip_prefix(&label)?.strip_prefix(' '));
        let line = line.with_context(|| format!("/proc/stat has no {label}"))?;
        let ticks: Vec<u32> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let &[user, nice, system, _, _, irq, softirq, steal, ..] = ticks.as_slice() else {
            anyhow::bail!("/proc/stat: {label} {line}");
        };
        Ok(Self { busy: TICK * (user + nice + system + irq + softirq), stolen: TICK * steal })
    }
}
