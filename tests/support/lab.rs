//! Shared by the tests that run the real binary in a lab. They need root; without it they say so and pass, except in
//! CI, where nothing may be skipped silently.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(missing_docs, unreachable_pub, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pointsman::lab::{Lab, LoadReport, Process, Topology, wait_until};

pub fn topology() -> Topology {
    Topology { program: env!("CARGO_BIN_EXE_pointsman").into(), ..Topology::default() }
}

/// Builds the lab, or says why the test is skipped.
pub fn build(topology: &Topology) -> Option<Lab> {
    match Lab::build(topology) {
        Ok(lab) => Some(lab),
        Err(error) if error.cannot_run_here() && std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The numbers of the last statistics line of a balancer that has been stopped.
pub fn statistics(balancer: &Process) -> BTreeMap<String, u64> {
    let log = balancer.log();
    let line = log.iter().rev().find(|line| line.contains("statistics ")).expect("a statistics line");
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
        .collect()
}

/// A number of the last statistics line. Only reasons for drops are left out while they are 0.
pub fn statistic(balancer: &Process, key: &str) -> u64 {
    let found = statistics(balancer).get(key).copied();
    found.or(key.starts_with("drop.").then_some(0)).unwrap_or_else(|| panic!("no {key} in the statistics"))
}

/// No request failed, and members saw the client's own addresses.
#[track_caller]
pub fn assert_clean(report: &LoadReport, connections: u64) {
    assert_eq!(report.failures, 0, "{:?}", report.failure_counts);
    assert_eq!(report.connections, connections);
    assert!(report.wrong_clients.is_empty(), "members saw {:?}", report.wrong_clients);
}

/// Every frame of every worker is where it can be seen, free or in a ring, once the balancer has stopped.
#[track_caller]
pub fn assert_frames_accounted_for(balancer: &Process) {
    const PER_PORT: u64 = 4096;
    let word_after =
        |line: &str, word| line.split_whitespace().skip_while(|one| *one != word).nth(1).map(str::to_owned);
    let port = |line: &String| Some((word_after(line, "attached")?, word_after(line, "queue")?));
    let ports = balancer.log().iter().filter_map(port).collect::<BTreeSet<_>>().len() as u64;
    let counted = statistic(balancer, "frames.free") + statistic(balancer, "frames.held");
    assert_eq!(counted, ports * PER_PORT, "{ports} ports");
    assert_eq!(statistic(balancer, "frames.in_kernel"), 0);
    assert_eq!(statistic(balancer, "ring.invalid"), 0, "descriptors that the kernel refused");
}

/// What a command that reads the API prints as JSON: a value, or a line each of them.
#[track_caller]
pub fn shown(lab: &Lab, arguments: &[&str]) -> Vec<serde_json::Value> {
    let mut command = std::process::Command::new(&lab.topology().program);
    command.args(arguments).arg("--json").env("POINTSMAN_SOCKET", lab.directory().join("api.sock"));
    let output = command.output().expect("run");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    values.collect::<Result<_, _>>().expect("JSON")
}

/// Waits until this holds of a member's or pool's JSON.
#[track_caller]
pub fn assert_shows(lab: &Lab, arguments: &[&str], what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
    let found = || shown(lab, arguments).remove(0);
    let patience = std::time::Duration::from_secs(20);
    assert!(pointsman::lab::wait_until(patience, || is_so(&found())), "{arguments:?}: {what}: {}", found());
}

/// What is to happen has long happened by then, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the log has these words.
#[track_caller]
pub fn assert_logs(balancer: &Process, words: &str) {
    assert!(
        balancer.wait_for_log(PATIENCE, |line| line.contains(words)),
        "{words:?} is not in the log:\n{}",
        balancer.log().join("\n")
    );
}

/// Waits until the log has so many lines with these words.
#[track_caller]
pub fn assert_logs_times(balancer: &Process, times: usize, words: &str) {
    let count = || balancer.log().iter().filter(|line| line.contains(words)).count();
    assert!(
        wait_until(PATIENCE, || count() >= times),
        "{words:?} is not in the log {times} times:\n{}",
        balancer.log().join("\n")
    );
}
