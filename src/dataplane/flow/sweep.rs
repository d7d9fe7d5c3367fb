//! The hand that goes round the table: ends what has expired, and keeps the lines' marks true.

use super::key::Key;
use super::table::{Event, Table, TimeoutsOf};
use super::time::{LONGEST, Now, Tick};
use super::word::{MARKS, Word};

/// Where the sweep stands. There is one for a table: the marks' upkeep needs whole rounds in order.
#[derive(Debug)]
pub struct Hand {
    next_line: u32,
    round: Round,
}

/// A round's part in the marks' upkeep.
///
/// A line has two marks; either says that some flow whose first line it is lies in its second. Inserting there sets
/// both. One round sets one mark wherever a flow still asks for it, the next takes away the other everywhere, then
/// they change roles. So a mark that is taken away was not asked for in the round before, unless the other one has
/// been set: by that round or, for flows that came later, by inserting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Set(u64),
    Clear(u64),
}

const LOWER: u64 = MARKS & MARKS.wrapping_neg();
const UPPER: u64 = MARKS & !LOWER;

impl Round {
    fn following(self) -> Self {
        match self {
            Self::Set(LOWER) => Self::Clear(UPPER),
            Self::Clear(UPPER) => Self::Set(UPPER),
            Self::Set(_) => Self::Clear(LOWER),
            Self::Clear(_) => Self::Set(LOWER),
        }
    }
}

impl Hand {
    pub(super) fn new() -> Self {
        Self { next_line: 0, round: Round::Set(LOWER) }
    }
}

impl<K: Key> Table<K> {
    /// Moves the hand on by this many lines; reports every flow that it ended. Workers are not held up.
    ///
    /// How far to move it: the whole table every two seconds or so, in steps that are short beside a burst.
    pub fn sweep(
        &self,
        hand: &mut Hand,
        now: Now,
        lines: usize,
        timeouts: &impl TimeoutsOf,
        mut events: impl FnMut(Event),
    ) {
        let now = Tick::at(now);
        for _ in 0..lines {
            self.sweep_line(hand.next_line, hand.round, now, timeouts, &mut events);
            hand.next_line += 1;
            if hand.next_line as usize == self.lines() {
                hand.next_line = 0;
                hand.round = hand.round.following();
            }
        }
    }

    fn sweep_line(
        &self,
        line: u32,
        round: Round,
        now: Tick,
        timeouts: &impl TimeoutsOf,
        events: &mut impl FnMut(Event),
    ) {
        let entries = self.entries(line);
        for entry in 0..K::ENTRIES {
            let (key, word) = entries.read_any(entry);
            let age = now.since(word.tick());
            if let Some(state) = word.state()
                && timeouts.timeouts_of(key.vip()).is_expired(word.phase_index(), age)
            {
                if entries.replace(entry, word, Word::free(now)) {
                    events(Event::Ended { vip: key.vip(), member: word.member(), state });
                    continue;
                }
            } else if word.is_free() && !word.is_never_used() && age > LONGEST {
                // Before its tick could be mistaken for one that is yet to come. Failure: the slot is in use again.
                entries.replace(entry, word, Word::free(now));
            }
            if let Round::Set(mark) = round
                && (word.state().is_some() || word.is_pending())
            {
                let primary = self.place(&key).primary;
                if primary != line && self.entries(primary).marks() & mark == 0 {
                    self.entries(primary).set_marks(mark);
                }
            }
        }
        if let Round::Clear(mark) = round {
            entries.clear_marks(mark);
        }
    }
}
