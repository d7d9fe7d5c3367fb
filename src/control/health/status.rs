//! What people and scripts may want to know of checks.

use std::fmt;
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

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Condition::Unknown => "unknown",
            Condition::Up => "up",
            Condition::Down => "down",
        })
    }
}

/// A member's condition has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts events from 1; the next one has the next number.
    pub number: u64,
    /// When.
    pub time: SystemTime,
    /// `POOL/NAME`.
    pub subject: String,
    /// Its condition before.
    pub from: Condition,
    /// Its condition now.
    pub to: Condition,
    /// Why, in words.
    pub reason: Arc<str>,
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
    /// Checks that counted.
    pub checks: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that this host could not make.
    pub skipped: u64,
    /// How long checks took, µs, to two digits.
    pub durations: Histogram<u32>,
}

/// How all checks together keep to their schedule.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Checks made.
    pub checks: u64,
    /// Of these, failed.
    pub failures: u64,
    /// Checks that this host could not make.
    pub skipped: u64,
    /// How much later than due they began, µs.
    pub lateness: Histogram<u64>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { checks: 0, failures: 0, skipped: 0, lateness: histogram() }
    }
}

/// One significant digit, a microsecond to an hour: about a kilobyte, since there is one per check.
pub(super) fn histogram<C: hdrhistogram::Counter>() -> Histogram<C> {
    const HOUR: u64 = 3_600_000_000;
    Histogram::new_with_bounds(1, HOUR, 1).unwrap_or_else(|error| unreachable!("the bounds are constant: {error}"))
}

/// In the histogram's unit and range.
pub(super) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
