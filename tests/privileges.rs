//! What the balancer may still do when it runs, as the kernel says it (`/proc/PID/task/TID/status`).
//!
//! Topology: see `pointsman::lab`. The real binary runs in the balancer's namespace, once as root and once as somebody
//! with the five capabilities only, as systemd starts it.

#[path = "support/lab.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman::control::privileges::{FOR_PROGRAMS, KEPT};
use pointsman::lab::{Lab, Load, Service, wait_until};
use support::{build, topology};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);

/// A place that somebody else's processes can see, which the lab's own directory is not, nor perhaps ours: with the
/// program, a configuration, and a directory for its state.
struct Place(TempDir);

impl Place {
    fn new(lab: &Lab) -> Self {
        Self::with(lab, &[])
    }

    /// With these lines in the configuration's table `[dataplane]`.
    fn with(lab: &Lab, dataplane: &[&str]) -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        fs::copy(env!("CARGO_BIN_EXE_pointsman"), place.path("pointsman")).expect("copy");
        fs::create_dir(place.path("state")).expect("state_dir");
        let state = format!("state_dir = \"{}\"", place.path("state").display());
        let config = lab.config_with(dataplane, &[Service::http(&[1, 1, 1])]);
        let socket = format!("socket = \"{}\"", place.path("state").join("api.sock").display());
        let replaced = |line| match line {
            line if str::starts_with(line, "state_dir") => state.as_str(),
            line if line.starts_with("socket") => socket.as_str(),
            line => line,
        };
        let config: Vec<&str> = config.lines().map(replaced).collect();
        fs::write(place.path("lb.toml"), config.join("\n")).expect("write");
        for path in [place.0.path().to_owned(), place.path("state"), place.path("pointsman")] {
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("mode");
        }
        place
    }

    /// With a directory for its state that belongs to this user.
    fn of(self, user: u32) -> Self {
        chown(self.path("state"), Some(user), Some(user)).expect("chown");
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Has `command`'s arguments end in `pointsman run --config …`.
    fn run(&self, mut command: Command) -> Command {
        command.arg(self.path("pointsman")).args(["run", "--config"]).arg(self.path("lb.toml"));
        command
    }
}

/// As setpriv writes them.
fn setpriv_list() -> String {
    let names = KEPT.map(|capability| capability.to_string().trim_start_matches("CAP_").to_lowercase());
    format!("+{}", names.join(",+"))
}

fn mask() -> u64 {
    KEPT.iter().map(caps::Capability::bitmask).sum()
}

/// What stays in root's bounding set.
fn for_programs() -> u64 {
    FOR_PROGRAMS.iter().map(caps::Capability::bitmask).sum()
}

/// The status of every thread, by its name.
fn threads(process: u32) -> Vec<(String, BTreeMap<String, String>)> {
    let of = |task: &Path| {
        let status = fs::read_to_string(task.join("status")).expect("status");
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let name = fs::read_to_string(task.join("comm")).expect("comm");
        (name.trim().to_owned(), fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
    };
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("tasks");
    tasks.map(|task| of(&task.expect("a task").path())).collect()
}

/// Every thread has what it should, and nothing more.
#[track_caller]
fn assert_confined(process: u32, bounding: u64) {
    let threads = threads(process);
    let workers = threads.iter().filter(|(name, _)| name.starts_with("worker-")).count();
    let controls = threads.iter().filter(|(name, _)| name == "pointsman").count();
    assert!(threads.iter().any(|(name, _)| name == "state"), "what saves changes: {threads:?}");
    assert_eq!((workers, controls), (2, 1), "two workers and control: {threads:?}");
    for (name, status) in &threads {
        let is_worker = name.starts_with("worker-");
        let set = |field: &str| u64::from_str_radix(&status[field], 16).expect("a mask");
        let kept = if name == "pointsman" { mask() } else { 0 };
        let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"].map(set);
        assert_eq!(sets, [kept, kept, 0, 0, bounding], "{name}: {sets:x?}");
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
        let (mode, filters) = if is_worker { ("2", "2") } else { ("0", "0") };
        assert_eq!((&*status["Seccomp"], &*status["Seccomp_filters"]), (mode, filters), "{name}");
    }
}

#[track_caller]
fn assert_forwards(lab: &Lab) {
    let report = lab.client_load(&Load { connections: 50, concurrency: 8, ..lab.get() }).expect("load");
    assert_eq!(report.failures, 0, "{:?}", report.failure_counts);
}

/// Deletes the balancer's interface and makes it anew.
fn replace_interface(lab: &Lab) {
    let ip = |arguments: &str| {
        lab.balancer().run(std::iter::once("ip").chain(arguments.split(' '))).expect(arguments);
    };
    ip("link del eth0");
    ip(&format!(
        "link add eth0 numrxqueues 2 numtxqueues 2 type veth peer name balancer numrxqueues 2 numtxqueues 2 netns {}",
        lab.gateway().path().display()
    ));
    ip("link set eth0 address 02:00:00:00:00:10 up");
    ip("addr add 198.51.100.10/24 dev eth0");
    ip("route replace default via 198.51.100.1");
    lab.gateway().run(["ip", "link", "set", "balancer", "master", "lan", "up"]).expect("ip");
}

/// Starts it; looks at it while it serves, and when its interface has been another one; stops it.
fn serves_confined(lab: &Lab, place: &Place, mut command: Command, bounding: u64) {
    let _members = lab.spawn_member_servers().expect("members");
    let log = place.path("log");
    command.stdout(Stdio::piped()).stderr(fs::File::create(&log).expect("a log"));
    let mut balancer = Killed(lab.spawn(command).expect("spawn"));
    let log = || fs::read_to_string(&log).expect("the log");
    let mut line = String::new();
    BufReader::new(balancer.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n", "{}", log());

    assert_confined(balancer.0.id(), bounding);
    assert_forwards(lab);
    assert_eq!(log().matches("privileges: the process keeps CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, ").count(), 1);
    assert_eq!(log().matches("privileges: workers keep none").count(), 1);
    assert_eq!(log().matches("privileges: workers' system calls are filtered").count(), 1);

    replace_interface(lab);
    assert!(wait_until(PATIENCE, || log().contains("eth0: served again")), "{}", log());
    let one = Load { connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
    assert!(wait_until(PATIENCE, || lab.client_load(&one).is_ok_and(|report| report.failures == 0)), "{}", log());
    assert_forwards(lab);
    assert_confined(balancer.0.id(), bounding);

    kill(Pid::from_raw(balancer.0.id().cast_signed()), Signal::SIGTERM).expect("SIGTERM");
    let status = balancer.0.wait().expect("wait");
    assert!(status.success(), "{status}:\n{}", log());
    assert!(!log().contains("panicked"), "{}", log());
}

/// A process that a failing test does not leave behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn root_keeps_five_capabilities_and_workers_none() {
    let Some(lab) = build(&pointsman::lab::Topology { queues: 2, ..topology() }) else { return };
    let place = Place::new(&lab);
    let command = place.run(lab.balancer().command("env"));
    serves_confined(&lab, &place, command, for_programs());
}

#[test]
fn five_capabilities_are_enough() {
    let Some(lab) = build(&pointsman::lab::Topology { queues: 2, ..topology() }) else { return };
    let place = Place::new(&lab).of(65534);
    let mut command = lab.balancer().command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let five = setpriv_list();
    command.arg(format!("--inh-caps={five}")).arg(format!("--ambient-caps={five}"));
    command.arg(format!("--bounding-set=-all,{five}"));
    // Without CAP_SETPCAP the bounding set stays what it was.
    serves_confined(&lab, &place, place.run(command), mask());
}

#[test]
fn workers_that_poll_the_driver_are_confined_too() {
    let Some(lab) = build(&pointsman::lab::Topology { queues: 2, ..topology() }) else { return };
    let place = Place::with(&lab, &["busy_poll = true"]);
    let command = place.run(lab.balancer().command("env"));
    serves_confined(&lab, &place, command, for_programs());
}

#[test]
fn what_is_missing_is_named() {
    let Some(lab) = build(&topology()) else { return };
    let place = Place::new(&lab);
    let mut command = lab.balancer().command("setpriv");
    command.arg("--bounding-set=-bpf,-ipc_lock");
    let output = place.run(command).output().expect("setpriv");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{log}");
    assert!(
        log.contains(
            "pointsman: this process lacks CAP_BPF, CAP_IPC_LOCK (run it as root, or with CAP_NET_ADMIN, CAP_NET_RAW, \
             CAP_BPF, CAP_PERFMON, CAP_IPC_LOCK as ambient capabilities, as packaging/pointsman.service does)"
        ),
        "{log}"
    );
}

#[test]
fn the_unit_grants_what_is_kept_and_no_more() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/pointsman.service");
    let unit = fs::read_to_string(path).expect("the unit");
    let mut kept = KEPT.map(|capability| capability.to_string());
    kept.sort();
    for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix(key)).collect();
        let mut granted: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
        granted.sort_unstable();
        assert_eq!(granted, kept, "{key}");
    }
}
