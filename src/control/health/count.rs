//! Successes and failures in a row, and what a check makes of them.

use crate::control::model::{Monitor, Start};

/// What one check thinks of its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    rise: u16,
    fall: u16,
    is_up: bool,
    /// Before the first result nothing speaks for a member but the configuration.
    is_known: bool,
    /// Results in a row that speak against `is_up`.
    against: u16,
}

impl Count {
    pub(super) fn new(monitor: &Monitor, start: Start) -> Count {
        let Monitor { rise, fall, .. } = *monitor;
        Count { rise, fall, is_up: start == Start::Up, is_known: false, against: 0 }
    }

    pub(super) fn is_up(self) -> bool {
        self.is_up
    }

    pub(super) fn is_known(self) -> bool {
        self.is_known
    }

    /// Takes in a result; says whether that changed its mind.
    pub(super) fn note(&mut self, is_good: bool) -> bool {
        let first = !std::mem::replace(&mut self.is_known, true);
        if is_good == self.is_up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = match (self.is_up, first) {
            // Nobody has seen it well yet.
            (true, true) => 1,
            (true, false) => self.fall,
            (false, _) => self.rise,
        };
        if self.against < enough {
            return false;
        }
        self.is_up = is_good;
        self.against = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::model::probe::Probe;

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
            let mut count = Count::new(&monitor, start);
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
}
