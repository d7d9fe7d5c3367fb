//! How all checks together do: how many are made, how long they take, and how they keep to their schedule.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::status::microseconds;
use crate::control::model::MonitorType;

/// How all checks together do, since the start.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Checks made.
    pub checks: u64,
    /// Of these, failed.
    pub failures: u64,
    /// Checks that this host could not make.
    pub skipped: u64,
    /// How much later than due they began.
    pub lateness: Times,
    /// The same by type, those of which there has been one.
    pub types: Vec<OfType>,
}

/// How those of one type do.
#[derive(Debug, Clone)]
pub struct OfType {
    /// That type.
    pub kind: MonitorType,
    /// Checks made.
    pub checks: u64,
    /// Of these, failed.
    pub failures: u64,
    /// Checks that this host could not make.
    pub skipped: u64,
    /// How long they took, failed ones too.
    pub durations: Times,
}

impl Pace {
    /// One that found its member well, or not.
    pub(in crate::control) fn made(&mut self, kind: MonitorType, is_good: bool, took: Duration) {
        let failed = u64::from(!is_good);
        self.checks += 1;
        self.failures += failed;
        let of_type = self.of(kind);
        of_type.checks += 1;
        of_type.failures += failed;
        of_type.durations.record(took);
    }

    /// One that could not be made.
    pub(super) fn skipped(&mut self, kind: MonitorType) {
        self.skipped += 1;
        self.of(kind).skipped += 1;
    }

    fn of(&mut self, kind: MonitorType) -> &mut OfType {
        let index = self.types.iter().position(|one| one.kind == kind).unwrap_or_else(|| {
            self.types.push(OfType { kind, checks: 0, failures: 0, skipped: 0, durations: Times::default() });
            self.types.len() - 1
        });
        &mut self.types[index]
    }
}

/// Stretches of time, to 1 %: a microsecond to an hour.
#[derive(Debug, Clone)]
pub struct Times {
    /// µs.
    histogram: Histogram<u64>,
    sum: Duration,
}

impl Default for Times {
    fn default() -> Times {
        const HOUR: u64 = 3_600_000_000;
        let histogram = Histogram::new_with_bounds(1, HOUR, 2);
        let histogram = histogram.unwrap_or_else(|error| unreachable!("the bounds are constant: {error}"));
        Times { histogram, sum: Duration::ZERO }
    }
}

impl Times {
    pub(in crate::control) fn record(&mut self, time: Duration) {
        self.histogram.saturating_record(microseconds(time));
        self.sum += time;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// All together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// This part of them (0 to 1) is no longer; `None` of none.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        (self.count() > 0).then(|| Duration::from_micros(self.histogram.value_at_quantile(part)))
    }

    /// How many are no longer than that, to the histogram's 1 %.
    pub fn up_to(&self, most: Duration) -> u64 {
        self.histogram.count_between(0, microseconds(most))
    }

    /// Those that have come since it was like that.
    #[must_use]
    pub fn since(&self, before: &Times) -> Times {
        let mut since = self.clone();
        // Cannot fail: the buckets are the same, and no count in them ever falls.
        let _ = since.histogram.subtract(&before.histogram);
        since.sum = self.sum.saturating_sub(before.sum);
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_and_told_apart_by_when_they_came() {
        let mut times = Times::default();
        assert_eq!((times.quantile(0.5), times.count()), (None, 0));
        (1..=100).for_each(|millis| times.record(Duration::from_millis(millis)));
        let before = times.clone();
        assert_eq!((times.count(), times.sum()), (100, Duration::from_millis(5050)));
        let half = times.quantile(0.5).expect("there are some");
        assert!(half.abs_diff(Duration::from_millis(50)) <= Duration::from_micros(500), "{half:?}");
        assert_eq!([10, 25, 100, 1000].map(|millis| times.up_to(Duration::from_millis(millis))), [10, 25, 100, 100]);
        times.record(Duration::from_secs(2));
        let since = times.since(&before);
        assert_eq!((since.count(), since.sum()), (1, Duration::from_secs(2)));
        assert_eq!(since.up_to(Duration::from_secs(1)), 0);
    }

    #[test]
    fn types_are_counted_apart() {
        let mut pace = Pace::default();
        pace.made(MonitorType::Tcp, true, Duration::from_millis(1));
        pace.made(MonitorType::Http, false, Duration::from_millis(5));
        pace.made(MonitorType::Tcp, false, Duration::from_millis(1));
        pace.skipped(MonitorType::Ping);
        let found: Vec<_> = pace
            .types
            .iter()
            .map(|one| (one.kind, one.checks, one.failures, one.skipped, one.durations.count()))
            .collect();
        assert_eq!(
            found,
            [(MonitorType::Tcp, 2, 1, 0, 2), (MonitorType::Http, 1, 1, 0, 1), (MonitorType::Ping, 0, 0, 1, 0)]
        );
        assert_eq!((pace.checks, pace.failures, pace.skipped), (3, 2, 1));
    }
}
