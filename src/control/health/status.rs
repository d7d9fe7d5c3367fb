//! What people and scripts may want to know of checks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use crate::control::model::MonitorType;

/// What monitors think of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing yet.
    Unknown,
    /// It is well.
    Up,
    /// It is not.
    Down,
}

/// One monitor's view of one member.
#[derive(Debug, Clone)]
pub struct MonitorStatus {
    /// The pool's name.
    pub pool: String,
    /// The member's name.
    pub member: String,
    /// How it looks.
    pub kind: MonitorType,
    /// What it is called among the pool's monitors: `http /health`.
    pub name: String,
    /// At which port, if at one.
    pub port: Option<u16>,
    /// What it thinks.
    pub state: Condition,
    /// What the last check that counted found: `ok`, or what was wrong.
    pub reason: Arc<str>,
    /// Since when it has thought so.
    pub since: SystemTime,
    /// How long the last check took.
    pub last_duration: Option<Duration>,
    /// Half of the checks took no longer, to one digit.
    pub p50: Option<Duration>,
    /// 99 of 100 checks took no longer, to one digit.
    pub p99: Option<Duration>,
    /// Checks that counted.
    pub checks: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that this host could not make.
    pub skipped: u64,
}

/// One significant digit, a microsecond to an hour: about a kilobyte, since there is one per check.
pub(super) fn coarse_histogram() -> Histogram<u32> {
    const HOUR: u64 = 3_600_000_000;
    Histogram::new_with_bounds(1, HOUR, 1).unwrap_or_else(|error| unreachable!("the bounds are constant: {error}"))
}

/// In the histograms' unit and range.
pub(super) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
