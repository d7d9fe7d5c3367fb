//! The table: looking flows up, and keeping them up to date.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use super::super::ids::{MemberId, VipId};
use super::super::memory::{Lines, Pages, prefetch};
use super::entries::Entries;
use super::key::{Key, Secret, reduce};
use super::state::{AFRESH, Signal};
use super::sweep::Hand;
use super::time::{Now, Tick, Timeouts};
use super::word::{FlowState, Word};

/// The least number of lines; a flow's two must differ.
const FEWEST_LINES: usize = 16;

/// The connection table of one address family; see the module's documentation.
#[derive(Debug)]
pub struct Table<K> {
    pub(super) lines: Lines,
    pub(super) secret: Secret,
    key: PhantomData<K>,
}

/// The two lines in which a flow can lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub(super) primary: u32,
    pub(super) secondary: u32,
}

/// One entry's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) line: u32,
    pub(super) entry: u32,
}

/// What the table knows of a packet's flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// It goes where its flow went.
    Hit(Hit),
    /// It is the first of its flow: a member is to be chosen, and with [`Signal::begins_as`] the flow to be inserted.
    Miss,
    /// The same, but an entry of an earlier flow between the same ports is there: closing or expired. Inserting takes
    /// it over, so it needs no room and should ask for no budget: if that entry stayed, the new flow's later packets
    /// would follow it to the earlier one's member.
    Over,
}

/// A flow that the table knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Its member.
    pub member: MemberId,
    /// Its state once [`Table::advance`] has been called.
    pub state: FlowState,
    change: Option<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    slot: Slot,
    from: Word,
    to: Word,
}

/// What happened to a member's flows; for those who count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The member has one more flow.
    Began {
        /// Whose.
        member: MemberId,
        /// In this state.
        state: FlowState,
    },
    /// One of the member's flows is in another state now.
    Changed {
        /// Whose.
        member: MemberId,
        /// Before.
        from: FlowState,
        /// Now.
        to: FlowState,
    },
    /// The member has one flow less: expired, made room for another, or bound to another member.
    Ended {
        /// Whose.
        member: MemberId,
        /// The state it was in.
        state: FlowState,
    },
}

impl Hit {
    /// Whether [`Table::advance`] would write anything.
    #[inline]
    pub fn is_changed(&self) -> bool {
        self.change.is_some()
    }
}

impl<K: Key> Table<K> {
    /// A table that fits this many flows, and the hand that sweeps it. `must_share`: its memory must be such that
    /// another process can map it, even if it is slower for that.
    pub fn new(flows: usize, must_share: bool, secret: Secret) -> io::Result<(Self, Hand)> {
        let lines = flows.checked_mul(K::LINES_PER_1024).ok_or(io::ErrorKind::InvalidInput)?.div_ceil(1024);
        if u32::try_from(lines).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((Self::with_lines(lines.max(FEWEST_LINES), must_share, secret)?, Hand::new()))
    }

    pub(super) fn with_lines(lines: usize, must_share: bool, secret: Secret) -> io::Result<Self> {
        Ok(Self { lines: Lines::new(lines, must_share)?, secret, key: PhantomData })
    }

    /// Lines that there are; 64 bytes each.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// The pages that they lie on.
    pub fn pages(&self) -> Pages {
        self.lines.pages()
    }

    /// The memfd behind them, if there is one.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.lines.descriptor()
    }

    /// Where a flow can lie.
    #[inline]
    pub fn place(&self, key: &K) -> Place {
        let hash = key.hash(&self.secret);
        let count = self.lines.len();
        let primary = reduce(hash, count);
        // The hash's other half leads. A line that would be its own second has the next one.
        let mut secondary = reduce(hash.rotate_left(32), count);
        if secondary == primary {
            secondary = if primary + 1 == count { 0 } else { primary + 1 };
        }
        Place { primary: primary as u32, secondary: secondary as u32 }
    }

    /// Asks for the line that a flow most likely lies in.
    #[inline]
    pub fn prefetch(&self, place: Place) {
        if let Some(line) = self.lines.get(place.primary as usize) {
            prefetch(line);
        }
    }

    #[inline]
    pub(super) fn entries(&self, line: u32) -> Entries<'_, K> {
        Entries::of(&self.lines[line as usize])
    }

    /// What is known of this packet's flow; changes nothing. `place` is the key's, `timeouts` its VIP's.
    #[inline]
    pub fn lookup(&self, place: Place, key: &K, signal: Signal, now: Now, timeouts: &Timeouts) -> Lookup {
        match self.find(place, key) {
            Some((slot, word)) => judge(slot, word, signal, Tick::at(now), timeouts),
            None => Lookup::Miss,
        }
    }

    /// The live entry of a key.
    #[inline]
    pub(super) fn find(&self, place: Place, key: &K) -> Option<(Slot, Word)> {
        let primary = self.entries(place.primary);
        let found = find_in(&primary, place.primary, key);
        if found.is_some() || primary.marks() == 0 {
            return found;
        }
        find_in(&self.entries(place.secondary), place.secondary, key)
    }

    /// Writes down that a packet of a known flow came: its moment, if that is worth a write, and its state, if it
    /// changed. What another worker did meanwhile to the same flow is taken into account; if the flow is gone by now,
    /// nothing happens.
    #[inline]
    pub fn advance(
        &self,
        hit: &Hit,
        (place, key): (Place, &K),
        (signal, now, timeouts): (Signal, Now, &Timeouts),
        mut events: impl FnMut(Event),
    ) {
        let mut change = hit.change;
        while let Some(Change { slot, from, to }) = change {
            if self.entries(slot.line).replace(slot.entry as usize, from, to) {
                if let (Some(before), Some(after)) = (from.state(), to.state())
                    && before != after
                {
                    events(Event::Changed { member: to.member(), from: before, to: after });
                }
                return;
            }
            change = match self.lookup(place, key, signal, now, timeouts) {
                Lookup::Hit(hit) => hit.change,
                Lookup::Miss | Lookup::Over => None,
            };
        }
    }

    /// Binds a flow to another member, because `from` can no longer serve it. Returns the member that the flow has
    /// now: `to`, or whichever another worker was quicker to give it.
    pub fn rebind(
        &self,
        (place, key): (Place, &K),
        from: MemberId,
        to: MemberId,
        mut events: impl FnMut(Event),
    ) -> MemberId {
        while let Some((slot, word)) = self.find(place, key) {
            let Some(state) = word.state().filter(|_| word.member() == from && from != to) else {
                return word.member();
            };
            let new = Word::new(to, word.destination_port(), word.tick(), state);
            if self.entries(slot.line).replace(slot.entry as usize, word, new) {
                events(Event::Ended { member: from, state });
                events(Event::Began { member: to, state });
                return to;
            }
        }
        to
    }

    /// Every live entry, as it is when the walk comes by; workers are not held up.
    pub fn iter(&self, now: Now) -> impl Iterator<Item = Flow<K>> + '_ {
        let now = Tick::at(now);
        (0..self.lines.len() as u32).flat_map(move |line| {
            (0..K::ENTRIES).filter_map(move |entry| {
                let (key, word) = self.entries(line).read_any(entry);
                let idle = u64::from(now.since(word.tick())) * Tick::NANOSECONDS;
                Some(Flow { key, member: word.member(), state: word.state()?, idle })
            })
        })
    }

    /// Whether this flow is found only in its second line; `None`: it is not found.
    pub fn is_in_second_line(&self, key: &K) -> Option<bool> {
        let place = self.place(key);
        self.find(place, key).map(|(slot, _)| slot.line == place.secondary)
    }

    /// Whether a flow that is not found is looked for in its second line too.
    pub fn is_marked(&self, place: Place) -> bool {
        self.entries(place.primary).marks() != 0
    }
}

/// An entry as a reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow<K> {
    /// Whose.
    pub key: K,
    /// Its member.
    pub member: MemberId,
    /// Its state.
    pub state: FlowState,
    /// Nanoseconds since its moment was last written: up to 1/32 of its timeout more than since its last packet.
    pub idle: u64,
}

#[inline]
fn find_in<K: Key>(entries: &Entries<'_, K>, line: u32, key: &K) -> Option<(Slot, Word)> {
    let mut candidates = entries.candidates(key);
    while candidates != 0 {
        let entry = candidates.trailing_zeros();
        candidates &= candidates - 1;
        if let Some(word) = entries.read(entry as usize, key)
            && !word.is_pending()
        {
            return Some((Slot { line, entry }, word));
        }
    }
    None
}

/// What a packet means for the flow that its key names.
#[inline]
pub(super) fn judge(slot: Slot, word: Word, signal: Signal, now: Tick, timeouts: &Timeouts) -> Lookup {
    let phase = word.phase_index();
    let age = now.since(word.tick());
    let next = signal.next(phase);
    let is_stale = timeouts.is_stale(phase, age);
    let (member, destination_port) = (word.member(), word.destination_port());
    let is_same = usize::from(next) == phase;
    if next == AFRESH || (is_stale && signal.is_first_after_expiry() && timeouts.is_expired(phase, age)) {
        return Lookup::Over;
    }
    let Some(state) = FlowState::from_bits(next) else { return Lookup::Over };
    let change = (!is_same || is_stale).then(|| Change {
        slot,
        from: word,
        to: Word::new(member, destination_port, word.tick().or_later(now), state),
    });
    Lookup::Hit(Hit { member, state, change })
}

/// The timeouts of every VIP: an entry that is in the way may be any VIP's.
pub trait TimeoutsOf {
    /// This VIP's.
    fn timeouts_of(&self, vip: VipId) -> &Timeouts;
}

/// The same for all.
impl TimeoutsOf for Timeouts {
    #[inline]
    fn timeouts_of(&self, _vip: VipId) -> &Timeouts {
        self
    }
}
