//! Successes and failures in a row, and what a check makes of them.

use crate::control::model::{Monitor, Start};

/// What one check thinks of its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    rise: u16,
    fall: u16,
    is_up: bool,
    results: Results,
    /// Whether anything speaks for the member before the first result: other checks did. The configuration alone does not.
    is_trusted: bool,
    /// Results in a row that speak against `is_up`.
    against: u16,
}

/// What the results so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Results {
    /// There has been none.
    None,
    /// Successes, but not enough to bring up a member that counts as down.
    Few,
    /// A failure, or a success of a member that is up.
    Enough,
}

impl Count {
    pub(super) fn new(monitor: &Monitor, start: Start, is_trusted: bool) -> Count {
        let Monitor { rise, fall, .. } = *monitor;
        Count { rise, fall, is_up: start == Start::Up, results: Results::None, is_trusted, against: 0 }
    }

    /// How many successes in a row a member that is down needs.
    pub(super) fn rise(self) -> u16 {
        self.rise
    }

    pub(super) fn is_up(self) -> bool {
        self.is_up
    }

    pub(super) fn is_known(self) -> bool {
        self.results != Results::None
    }

    /// Whether its mind is its own, and no longer what was assumed at the start.
    pub(super) fn is_decided(self) -> bool {
        self.results == Results::Enough
    }

    /// Takes in a result; says whether that changed its mind.
    pub(super) fn note(&mut self, is_good: bool) -> bool {
        let was_up = self.is_up;
        self.count(is_good);
        let decides = self.is_decided() || !is_good || self.is_up;
        self.results = if decides { Results::Enough } else { Results::Few };
        was_up != self.is_up
    }

    fn count(&mut self, is_good: bool) {
        let first = !self.is_known() && !self.is_trusted;
        if is_good == self.is_up {
            self.against = 0;
            return;
        }
        self.against += 1;
        let enough = match (self.is_up, first) {
            // Nobody has seen it well yet.
            (true, true) => 1,
            (true, false) => self.fall,
            (false, _) => self.rise,
        };
        if self.against >= enough {
            self.is_up = is_good;
            self.against = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::model::monitor::Probe;

    #[test]
    fn rise_and_fall_are_counted_in_a_row() {
        use Start::{Down, Up};
        // Start, rise, fall, results (+ good, - bad), and what it is after each (U up, D down).
        let rows = [
            (Up, 2, 3, "+--+---++", "UUUUUUDDU"),
            (Up, 1, 1, "+-+-", "UDUD"),
            (Up, 2, 3, "-++", "DDU"),
            (Down, 2, 3, "++---+", "DUUUDD"),
            (Down, 3, 1, "-++-+++-", "DDDDDDUD"),
            (Up, 1, 2, "+-+-+--", "UUUUUUD"),
        ];
        for (start, rise, fall, results, expected) in rows {
            let second = Duration::from_secs(1);
            let monitor = Monitor { probe: Probe::Ping, interval: second, timeout: second, rise, fall, port: None };
            let mut count = Count::new(&monitor, start, false);
            let mut was = count.is_up();
            let mut seen = String::new();
            for result in results.chars() {
                let changed = count.note(result == '+');
                assert_eq!(changed, was != count.is_up());
                was = count.is_up();
                seen.push(if was { 'U' } else { 'D' });
            }
            assert_eq!(seen, expected, "{start:?} rise {rise} fall {fall}: {results}");
        }
    }

    #[test]
    fn a_failure_decides_and_a_success_that_brings_up() {
        let second = Duration::from_secs(1);
        let monitor = Monitor { probe: Probe::Ping, interval: second, timeout: second, rise: 2, fall: 3, port: None };
        // Start, results, and whether it has decided after each.
        for (start, results, expected) in [
            (Start::Up, "+-", [true, true]),
            (Start::Up, "-+", [true, true]),
            (Start::Down, "++", [false, true]),
            (Start::Down, "-+", [true, true]),
        ] {
            let mut count = Count::new(&monitor, start, false);
            assert!(!count.is_decided());
            let mut decided = |result| {
                count.note(result == '+');
                count.is_decided()
            };
            assert_eq!(results.chars().map(&mut decided).collect::<Vec<_>>(), expected, "{start:?} {results}");
        }
    }

    #[test]
    fn a_new_check_of_a_member_that_is_known_needs_as_many_failures_as_any() {
        let second = Duration::from_secs(1);
        let monitor = Monitor { probe: Probe::Ping, interval: second, timeout: second, rise: 2, fall: 3, port: None };
        let mut count = Count::new(&monitor, Start::Up, true);
        assert_eq!([false; 3].map(|is_good| count.note(is_good)), [false, false, true]);
    }
}
