//! The hand that goes round the table: ends what has expired, and keeps the lines' marks true.

use std::collections::BTreeSet;

use super::super::ids::{MemberId, VipId};
use super::key::Key;
use super::table::{Event, Fate, Table, TimeoutsOf};
use super::time::{LONGEST, Now, Tick};
use super::word::{MARKS, Word};

/// Where the sweep stands. There is one for a table: the marks' upkeep needs whole rounds in order.
#[derive(Debug)]
pub struct Hand {
    next_line: u32,
    round: Round,
    rounds: u64,
    /// Those that are no more, and that flows named all the same when this round came by; and in the round before.
    named: Named,
    named_before: Named,
}

/// VIPs and members that are no more, by their ids.
#[derive(Debug, Default)]
struct Named {
    vips: BTreeSet<VipId>,
    members: BTreeSet<MemberId>,
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
        let (named, named_before) = (Named::default(), Named::default());
        Self { next_line: 0, round: Round::Set(LOWER), rounds: 0, named, named_before }
    }

    /// Whole rounds so far.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Whether a flow named this VIP, which is no more, in the last whole round or since then.
    pub fn has_seen_vip(&self, vip: VipId) -> bool {
        self.named.vips.contains(&vip) || self.named_before.vips.contains(&vip)
    }

    /// The same for a member.
    pub fn has_seen_member(&self, member: MemberId) -> bool {
        self.named.members.contains(&member) || self.named_before.members.contains(&member)
    }

    fn end_round(&mut self) {
        self.next_line = 0;
        self.round = self.round.following();
        self.rounds += 1;
        self.named_before = std::mem::take(&mut self.named);
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
            self.sweep_line(hand, now, timeouts, &mut events);
            hand.next_line += 1;
            if hand.next_line as usize == self.lines() {
                hand.end_round();
            }
        }
    }

    fn sweep_line(&self, hand: &mut Hand, now: Tick, timeouts: &impl TimeoutsOf, events: &mut impl FnMut(Event)) {
        let Hand { next_line: line, round, named, .. } = hand;
        let (line, round) = (*line, *round);
        let entries = self.entries(line);
        for entry in 0..K::ENTRIES {
            let (key, word) = entries.read_any(entry);
            let age = now.since(word.tick());
            if let Some(state) = word.state() {
                let (vip, member) = (key.vip(), word.member());
                let fate = timeouts.fate_of(vip, member, state);
                let is_over = fate == Fate::Ends || timeouts.timeouts_of(vip).is_expired(word.phase_index(), age);
                // One that has not expired may have been seen by a worker whose clock was read later.
                if is_over && entries.replace(entry, word, Word::free(word.tick().or_later(now))) {
                    events(Event::Ended { vip, member, state });
                    continue;
                }
                if fate != Fate::Lives {
                    named.vips.insert(vip);
                    named.members.insert(member);
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
