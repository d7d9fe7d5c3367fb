//! When each check is due: spread over the interval by what the check is, so that thousands do not bunch, and by the
//! clock, so that they do not drift.

use std::hash::{Hash, Hasher as _};
use std::time::Duration;

use siphasher::sip::SipHasher13;
use tokio::time::Instant;

/// Nobody waits longer for the first look at a member, however many there are and however long the interval.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// What the first looks are apart, if they can be.
const FIRST_APART: Duration = Duration::from_millis(1);

/// How long the first looks at members may be put off when there are so many checks.
pub(super) fn first_within(checks: usize) -> Duration {
    FIRST_WITHIN.min(FIRST_APART * u32::try_from(checks).unwrap_or(u32::MAX))
}

/// When one check is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    due: Instant,
    /// The moment from which whole intervals are counted.
    phase: Instant,
    interval: Duration,
}

impl Schedule {
    /// The first look comes within `first`; those after it at the check's own point of each interval.
    pub(super) fn new(identity: &impl Hash, interval: Duration, first: Duration, now: Instant) -> Schedule {
        let mut hasher = SipHasher13::new();
        identity.hash(&mut hasher);
        let jitter = hasher.finish() as f64 / 2.0_f64.powi(64);
        let due = now + interval.min(first).mul_f64(jitter);
        let mut phase = now + interval.mul_f64(jitter);
        // The second look is not to fall together with the first.
        if phase < due + interval / 2 {
            phase += interval;
        }
        Schedule { due, phase, interval }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A check has ended. One that took into the next one's time is followed by that at once; whole intervals that were
    /// missed are gone.
    pub(super) fn advance(&mut self, now: Instant) {
        self.due = if self.due < self.phase { self.phase } else { self.due + self.interval };
        while self.due + self.interval <= now {
            self.due += self.interval;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_neither_drifts_nor_falls_behind() {
        let now = Instant::now();
        let mut schedule = Schedule { due: now, phase: now + SECOND, interval: SECOND };
        let at = |millis| now + Duration::from_millis(millis);
        // When a check ended, and when the next is due, in ms.
        for (ended, due) in [(300, 1000), (1010, 2000), (2999, 3000), (4500, 4000), (7200, 7000), (8000, 8000)] {
            schedule.advance(at(ended));
            assert_eq!(schedule.due() - now, Duration::from_millis(due), "ended at {ended}");
        }
    }

    #[test]
    fn thousands_are_spread_evenly_at_first_and_later() {
        for interval in [SECOND, 10 * SECOND, Duration::from_millis(200)] {
            let now = Instant::now();
            let mut first = [0_u32; 20];
            let mut later = [0_u32; 20];
            let cell = |offset: Duration, of: Duration| (offset.as_nanos() * 20 / of.as_nanos()) as usize % 20;
            for check in 0..10_000_u32 {
                let mut schedule = Schedule::new(&check, interval, FIRST_WITHIN, now);
                first[cell(schedule.due() - now, interval.min(FIRST_WITHIN))] += 1;
                let before = schedule.due();
                schedule.advance(before);
                assert!(schedule.due() >= before + interval / 2 && schedule.due() <= before + 2 * interval);
                later[cell(schedule.due() - now, interval)] += 1;
            }
            // 500 each; five standard deviations.
            for (name, cells) in [("first", first), ("later", later)] {
                assert!(cells.iter().all(|&count| (390..610).contains(&count)), "{name} {interval:?}: {cells:?}");
            }
        }
    }

    #[test]
    fn the_same_check_has_the_same_place() {
        let now = Instant::now();
        assert_eq!(
            Schedule::new(&"web/10.0.0.1", SECOND, SECOND, now),
            Schedule::new(&"web/10.0.0.1", SECOND, SECOND, now)
        );
        assert_ne!(
            Schedule::new(&"web/10.0.0.1", SECOND, SECOND, now),
            Schedule::new(&"web/10.0.0.2", SECOND, SECOND, now)
        );
    }
}
