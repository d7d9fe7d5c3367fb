//! Which cores are the workers', and which control's: checks, the API and new tables are not to be in packets' way.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tracing::{info, warn};

/// The cores that the process was given (`taskset`, systemd's `CPUAffinity=`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    allowed: Vec<usize>,
    /// Control's threads: the calling one, and others.
    threads: Vec<Pid>,
    /// What was last said of control's.
    control: Vec<usize>,
}

impl Cores {
    /// Those of the calling thread, as it was given them: to be asked before [`Cores::leave`]. Control's are this thread,
    /// those that it will start, and `others`.
    pub fn given(others: &[Pid]) -> Self {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let allowed = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect();
        // To the kernel, 0 is the calling thread.
        let threads = [&[Pid::from_raw(0)], others].concat();
        Self { allowed, threads, control: Vec::new() }
    }

    /// In ascending order.
    pub fn allowed(&self) -> &[usize] {
        &self.allowed
    }

    /// Takes control's threads away from the workers' cores, if there are other cores.
    pub fn leave(&mut self, workers: &[usize]) {
        let control = without(&self.allowed, workers);
        let mut set = CpuSet::new();
        let moved = control
            .iter()
            .try_for_each(|&core| set.set(core))
            .and_then(|()| self.threads.iter().try_for_each(|&thread| sched_setaffinity(thread, &set)));
        if let Err(error) = moved {
            warn!("control could not be kept off the workers' cores: {error}");
            return;
        }
        if self.control != control {
            let shared = if control.iter().any(|core| workers.contains(core)) {
                ": no core is left for it alone, so checks and changes delay packets a little (name fewer in dataplane.cores)"
            } else {
                ""
            };
            info!("control runs on core {}{shared}", list(&control));
            self.control = control;
        }
    }
}

/// Has the calling thread take a core only as far as control leaves it: checks keep to their schedule while a large
/// configuration is worked out. (To the kernel, a thread's niceness is its own: sched(7).)
pub fn give_way() {
    let moved = setpriority_process(Some(gettid()), NICE);
    if let Err(error) = moved {
        warn!("a helper has control's own priority: {error}");
    }
}

/// About a quarter of what control gets.
const NICE: i32 = 6;

/// Where control may run beside these workers: anywhere, if they have all there is.
fn without(allowed: &[usize], workers: &[usize]) -> Vec<usize> {
    let free: Vec<usize> = allowed.iter().copied().filter(|core| !workers.contains(core)).collect();
    if free.is_empty() { allowed.to_vec() } else { free }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_has_what_workers_leave() {
        assert_eq!(without(&[0, 1, 2, 3], &[2, 3]), [0, 1]);
        assert_eq!(without(&[0, 1], &[1]), [0]);
        assert_eq!(without(&[0, 1], &[1, 0]), [0, 1], "there is nothing else");
        assert_eq!(without(&[4], &[4]), [4]);
    }

    #[test]
    fn a_thread_moves_and_what_it_was_given_is_remembered() {
        let moved = std::thread::spawn(|| {
            let mut cores = Cores::given(&[]);
            let allowed = cores.allowed().to_vec();
            assert!(!allowed.is_empty());
            let last = allowed[allowed.len() - 1];
            cores.leave(&[last]);
            let now = Cores::given(&[]);
            assert_eq!(now.allowed(), without(&allowed, &[last]));
            // The workers have gone elsewhere.
            cores.leave(&[]);
            assert_eq!(Cores::given(&[]).allowed(), allowed);
        });
        moved.join().expect("no panic");
    }
}
