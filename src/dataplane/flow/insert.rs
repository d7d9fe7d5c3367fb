//! New flows: finding room, and making sure that a flow is entered once.

use super::super::ids::{MemberId, VipId};
use super::super::memory::full_barrier;
use super::entries::Entries;
use super::key::Key;
use super::state::Signal;
use super::table::{Event, Lookup, Place, Slot, Table, TimeoutsOf, judge};
use super::time::{Now, Tick};
use super::word::{MARKS, Word};

/// Times that an insertion begins again because another worker was in its way. Each time, that other one got on with
/// its own; a third failure needs as many others at the same flow within nanoseconds.
const ATTEMPTS: usize = 8;

/// Looks at another worker's unfinished entry of the same flow before its word is taken for it: about a microsecond,
/// several times what finishing takes, unless its thread was put to sleep in between.
const PATIENCE: usize = if cfg!(pointsman_loom) { 1 } else { 64 };

/// How an insertion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// The flow is in the table, with the member that was given.
    Inserted,
    /// Another worker was quicker: the flow has this member.
    Existing(MemberId),
    /// There is no room: every entry of both lines is another's that may not be displaced. Hashing alone carries it.
    NotInserted,
}

/// An entry that may be claimed.
struct Room {
    slot: Slot,
    /// Its word. While it has it, it is in the same tenure, and so has the same key.
    old: Word,
    /// Whose flow it has, if it has one.
    vip: VipId,
}

/// Who else is at entering the same flow.
enum Rival {
    None,
    /// It is ahead: ours must go.
    Ahead,
}

impl<K: Key> Table<K> {
    /// Enters a flow that [`Table::lookup`] missed. `signal` is its packet's; a [`Signal::Rst`] inserts nothing.
    ///
    /// Room is looked for in this order, first line before second: free and expired entries, then evictable ones that
    /// were last seen in an earlier tick, the oldest first. Nothing else makes room.
    #[inline(never)]
    pub fn insert(
        &self,
        (place, key): (Place, &K),
        member: MemberId,
        (signal, now): (Signal, Now),
        timeouts: &impl TimeoutsOf,
        mut events: impl FnMut(Event),
    ) -> Insertion {
        let Some(state) = signal.begins_as() else { return Insertion::NotInserted };
        let tick = Tick::at(now);
        let word = Word::new(member, key.destination_port(), tick, state);
        for _ in 0..ATTEMPTS {
            match self.occupant(place, key) {
                None => {}
                Some((slot, old)) if old.is_pending() => match self.wait_for(slot, key, old) {
                    Some(member) => return Insertion::Existing(member),
                    None => continue,
                },
                Some((slot, old)) => {
                    if let Lookup::Hit(hit) = judge(old, (signal, now, timeouts.timeouts_of(key.vip()))) {
                        return Insertion::Existing(hit.member);
                    }
                    let new = Word::new(member, key.destination_port(), old.tick().or_later(tick), state);
                    if self.entries(slot.line).replace(slot.entry as usize, old, new) {
                        ended(key.vip(), old, &mut events);
                        events(Event::Began { vip: key.vip(), member, state });
                        return Insertion::Inserted;
                    }
                    continue;
                }
            }
            let Some(Room { slot, old, vip }) = self.room(place, tick, timeouts) else { return Insertion::NotInserted };
            let entries = self.entries(slot.line);
            let busy = Word::busy(tick);
            if !entries.replace(slot.entry as usize, old, busy) {
                continue;
            }
            ended(vip, old, &mut events);
            entries.write_key(slot.entry as usize, key);
            let pending = word.pending();
            // Nobody but us touches a busy entry.
            entries.replace(slot.entry as usize, busy, pending);
            if slot.line == self.secondary(place) {
                self.entries(place.primary).set_marks(MARKS);
            }
            full_barrier();
            match self.rival(place, key, slot) {
                Rival::None if entries.replace(slot.entry as usize, pending, word) => {
                    events(Event::Began { vip: key.vip(), member, state });
                    return Insertion::Inserted;
                }
                // Displaced by a rival that is ahead.
                Rival::None => {}
                Rival::Ahead => {
                    entries.replace(slot.entry as usize, pending, Word::free(tick));
                }
            }
        }
        Insertion::NotInserted
    }

    /// The key's entry, live or pending.
    fn occupant(&self, place: Place, key: &K) -> Option<(Slot, Word)> {
        self.find(place, key).or_else(|| {
            self.lines_of(place).find_map(|line| {
                let entries = self.entries(line);
                let candidates = entries.candidates(key);
                (0..K::ENTRIES as u32)
                    .filter(|entry| candidates >> entry & 1 != 0)
                    .find_map(|entry| Some((Slot { line, entry }, entries.read(entry as usize, key)?)))
            })
        })
    }

    /// Waits for the worker that is entering the same flow in `slot` at this moment; `None`: it has finished. If it
    /// does not, its choice is taken for the flow's.
    fn wait_for(&self, slot: Slot, key: &K, pending: Word) -> Option<MemberId> {
        for _ in 0..PATIENCE {
            std::hint::spin_loop();
            self.entries(slot.line).read(slot.entry as usize, key).filter(|word| word.is_pending())?;
        }
        Some(pending.member())
    }

    /// The lines that can hold the flow: the second only if the first is marked.
    fn lines_of(&self, place: Place) -> impl Iterator<Item = u32> {
        let second = self.is_marked(place).then_some(self.secondary(place));
        std::iter::once(place.primary).chain(second)
    }

    /// Looks for others' entries of the same flow, now that ours is pending in `ours`, and does away with those that
    /// are behind it.
    fn rival(&self, place: Place, key: &K, ours: Slot) -> Rival {
        for line in self.lines_of(place) {
            let entries = self.entries(line);
            let mut candidates = entries.candidates(key);
            if line == ours.line {
                candidates &= !(1 << ours.entry);
            }
            while candidates != 0 {
                let slot = Slot { line, entry: candidates.trailing_zeros() };
                candidates &= candidates - 1;
                if is_ahead(place, &entries, slot, key, ours) {
                    return Rival::Ahead;
                }
            }
        }
        Rival::None
    }

    /// An entry that a new flow may have.
    fn room(&self, place: Place, now: Tick, timeouts: &impl TimeoutsOf) -> Option<Room> {
        let lines = [place.primary, self.secondary(place)];
        let mut oldest = None;
        for line in lines {
            let found = self.room_in(line, now, timeouts, &mut oldest);
            if found.is_some() {
                return found;
            }
        }
        oldest.map(|(_, room)| room)
    }

    /// A free or expired entry of this line. `oldest` is the age and place of the oldest evictable one so far.
    #[inline]
    fn room_in(
        &self,
        line: u32,
        now: Tick,
        timeouts: &impl TimeoutsOf,
        oldest: &mut Option<(u32, Room)>,
    ) -> Option<Room> {
        let entries = self.entries(line);
        for entry in 0..K::ENTRIES {
            let slot = Slot { line, entry: entry as u32 };
            let word = entries.word(entry);
            let age = now.since(word.tick());
            if word.is_free() && (age > 0 || word.is_never_used()) {
                return Some(Room { slot, old: word, vip: VipId(0) });
            }
            // A slot changes hands once in a tick: the proofs rest on it.
            let Some(state) = word.state().filter(|_| age > 0) else { continue };
            // Should the entry change hands between the two looks at it, claiming it fails.
            let (key, _) = entries.read_any(entry);
            let room = Room { slot, old: word, vip: key.vip() };
            if timeouts.timeouts_of(room.vip).is_expired(word.phase_index(), age) {
                return Some(room);
            }
            if state.is_evictable() && oldest.as_ref().is_none_or(|(oldest, _)| age > *oldest) {
                *oldest = Some((age, room));
            }
        }
        None
    }
}

/// Whether the entry in `slot` is the same flow's and ahead of ours.
fn is_ahead<K: Key>(place: Place, entries: &Entries<'_, K>, slot: Slot, key: &K, ours: Slot) -> bool {
    let rank = |slot: Slot| (slot.line != place.primary, slot.entry);
    while let Some(word) = entries.read(slot.entry as usize, key) {
        if !word.is_pending() || rank(slot) < rank(ours) {
            return true;
        }
        // Behind us and not live yet: its maker will find it gone, and begin again. If it went live meanwhile, it is
        // ahead after all.
        if entries.replace(slot.entry as usize, word, Word::free(word.tick())) {
            return false;
        }
    }
    false
}

fn ended(vip: VipId, word: Word, events: &mut impl FnMut(Event)) {
    if let Some(state) = word.state() {
        events(Event::Ended { vip, member: word.member(), state });
    }
}
