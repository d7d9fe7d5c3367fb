//! Members that go up and down: one that has gone down too often stays down until it has been well for a while.

use std::collections::VecDeque;
use std::time::Instant;

use crate::control::model::Damping;

/// What is remembered of one member.
#[derive(Debug, Clone, Default)]
pub(super) struct Damped {
    /// When it went down, at most as often as counts.
    downs: VecDeque<Instant>,
    /// Until when it is held, if it is.
    held_until: Option<Instant>,
}

impl Damped {
    /// The member went down.
    pub(super) fn went_down(&mut self, damping: &Damping, now: Instant) {
        self.downs.push_back(now);
        while self.downs.len() > usize::from(damping.downs) {
            self.downs.pop_front();
        }
        self.held_until = None;
    }

    /// The member is well again: until when it is held down all the same.
    pub(super) fn came_up(&mut self, damping: &Damping, now: Instant) -> Option<Instant> {
        while self.downs.front().is_some_and(|down| now.duration_since(*down) > damping.within) {
            self.downs.pop_front();
        }
        let flaps = self.downs.len() >= usize::from(damping.downs);
        self.held_until = flaps.then(|| now + damping.hold);
        self.held_until
    }

    /// Until when it is held, if it is.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Lets it go if its time has come; says whether it did.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        let due = self.held_until.is_some_and(|until| until <= now);
        if due {
            self.held_until = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_third_time_within_a_minute_is_held() {
        let seconds = Duration::from_secs;
        let damping = Damping { downs: 3, within: seconds(60), hold: seconds(10) };
        let start = Instant::now();
        let mut damped = Damped::default();
        // Seconds at which it goes down and comes up, and until when it is held.
        let rows = [
            (0, 5, None),
            (20, 25, None),
            (40, 45, Some(55)),
            // Down again while held: once more so long after it is well.
            (50, 52, Some(62)),
            (109, 111, None),
            (171, 172, None),
            (173, 174, None),
            (175, 176, Some(186)),
        ];
        for (down, up, expected) in rows {
            damped.went_down(&damping, start + seconds(down));
            assert_eq!(damped.held_until(), None);
            let held = damped.came_up(&damping, start + seconds(up));
            assert_eq!(held, expected.map(|until| start + seconds(until)), "down at {down}");
        }
        assert!(!damped.release(start + seconds(185)));
        assert!(damped.release(start + seconds(186)));
        assert!(!damped.release(start + seconds(186)));
    }
}
