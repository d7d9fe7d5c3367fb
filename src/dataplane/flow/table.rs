//! The table: looking flows up, and keeping them up to date.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use super::super::ids::{MemberId, VipId};
use super::super::memory::{Lines, Pages, prefetch};
use super::entries::Entries;
use super::key::{Key, Secret, reduce};
use super::state::Signal;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The first.
    pub(super) primary: u32,
    /// The hash's half that the second follows from; few packets ask for it.
    pub(super) rest: u32,
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
    /// Its state, this packet included.
    pub state: FlowState,
    /// Whether the packet is to be written down by [`Table::advance`].
    pub is_news: bool,
}

/// A packet's say about its flow: what it signals, when it came, and the timeouts of its VIP.
pub type Packet<'a> = (Signal, Now, &'a Timeouts);

/// What happened to a VIP's and a member's flows; for those who count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The VIP and the member have one more flow.
    Began {
        /// Whose.
        vip: VipId,
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
    /// The VIP and the member have one flow less: expired, made room for another, or bound to another member.
    Ended {
        /// Whose.
        vip: VipId,
        /// Whose.
        member: MemberId,
        /// The state it was in.
        state: FlowState,
    },
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
        Place { primary: reduce(hash, self.lines.len()) as u32, rest: hash as u32 }
    }

    /// The second line; the next one if it would be the first.
    #[inline]
    pub(super) fn secondary(&self, place: Place) -> u32 {
        let count = self.lines.len();
        let secondary = reduce(u64::from(place.rest) << 32, count) as u32;
        if secondary != place.primary {
            secondary
        } else if secondary as usize + 1 == count {
            0
        } else {
            secondary + 1
        }
    }

    /// Asks for the line that a flow most likely lies in.
    #[inline]
    pub fn prefetch(&self, place: Place) {
        if let Some(line) = self.lines.get(place.primary as usize) {
            prefetch(line);
        }
    }

    /// Asks for the second line, if the flow may lie there. Looks at the first.
    #[inline]
    pub fn prefetch_second(&self, place: Place) {
        if self.is_marked(place)
            && let Some(line) = self.lines.get(self.secondary(place) as usize)
        {
            prefetch(line);
        }
    }

    #[inline]
    pub(super) fn entries(&self, line: u32) -> Entries<'_, K> {
        Entries::of(&self.lines[line as usize])
    }

    /// What is known of this packet's flow; changes nothing. `place` is the key's.
    #[inline]
    pub fn lookup(&self, place: Place, key: &K, packet: Packet<'_>) -> Lookup {
        let primary = self.entries(place.primary);
        let found = primary.find(key).map(|(_, word)| word).or_else(|| {
            // Few lines are marked: the second is seldom looked at.
            (primary.marks() != 0).then(|| self.find_second(place, key)).flatten()
        });
        match found {
            Some(word) => judge(word, packet),
            None => Lookup::Miss,
        }
    }

    /// The member of a flow that lies in its first line, and that this packet says nothing new of: what
    /// [`lookup`](Self::lookup) says about nearly every packet, in half the instructions. `None` says nothing.
    #[inline]
    pub fn known(&self, place: Place, key: &K, (signal, now, timeouts): Packet<'_>) -> Option<MemberId> {
        let word = self.entries(place.primary).find_at_once(key)?;
        let phase = word.phase_index();
        (signal.keeps(phase) && timeouts.is_fresh(phase, Tick::at(now), word.tick())).then_some(word.member())
    }

    /// Whether the flow is certainly not there: what [`lookup`](Self::lookup) misses nearly always, in half the
    /// instructions. `false` says nothing.
    #[inline]
    pub fn is_absent(&self, place: Place, key: &K) -> bool {
        let primary = self.entries(place.primary);
        primary.candidates(key) == 0 && primary.marks() == 0
    }

    #[cold]
    fn find_second(&self, place: Place, key: &K) -> Option<Word> {
        self.entries(self.secondary(place)).find(key).map(|(_, word)| word)
    }

    /// The live entry of a key.
    pub(super) fn find(&self, place: Place, key: &K) -> Option<(Slot, Word)> {
        let in_line = |line| {
            let found = self.entries(line).find(key);
            found.map(|(entry, word)| (Slot { line, entry }, word))
        };
        let found = in_line(place.primary);
        if found.is_some() || !self.is_marked(place) { found } else { in_line(self.secondary(place)) }
    }

    /// Writes down that a packet of a known flow came: its moment, if that is worth a write, and its state, if it
    /// changed. If the flow is gone by now, nothing happens.
    #[inline(never)]
    pub fn advance(&self, place: Place, key: &K, packet: Packet<'_>, mut events: impl FnMut(Event)) {
        while let Some((slot, word)) = self.find(place, key) {
            let Lookup::Hit(Hit { member, state, is_news: true }) = judge(word, packet) else { return };
            let tick = word.tick().or_later(Tick::at(packet.1));
            let new = Word::new(member, word.destination_port(), tick, state);
            // Failure: another worker had to do with the same flow. What it made of it is judged anew.
            if self.entries(slot.line).replace(slot.entry as usize, word, new) {
                if let Some(from) = word.state().filter(|from| *from != state) {
                    events(Event::Changed { member, from, to: state });
                }
                return;
            }
        }
    }

    /// Binds a flow to another member, because `from` can no longer serve it; there it goes on, from `now`, in the state that
    /// `becomes` says. Returns the member that the flow has now: `to`, or whichever another worker was quicker to give it.
    pub fn rebind(
        &self,
        (place, key): (Place, &K),
        (from, to): (MemberId, MemberId),
        now: Now,
        becomes: impl Fn(FlowState) -> FlowState,
        mut events: impl FnMut(Event),
    ) -> MemberId {
        while let Some((slot, word)) = self.find(place, key) {
            let Some(state) = word.state().filter(|_| word.member() == from && from != to) else {
                return word.member();
            };
            let next = becomes(state);
            let new = Word::new(to, word.destination_port(), word.tick().or_later(Tick::at(now)), next);
            if self.entries(slot.line).replace(slot.entry as usize, word, new) {
                let vip = key.vip();
                events(Event::Ended { vip, member: from, state });
                events(Event::Began { vip, member: to, state: next });
                return to;
            }
        }
        to
    }

    /// Forgets a flow that `member` was to serve; `false`: it is another's by now, or gone.
    pub fn forget(&self, (place, key): (Place, &K), member: MemberId, now: Now, mut events: impl FnMut(Event)) -> bool {
        while let Some((slot, word)) = self.find(place, key) {
            let Some(state) = word.state().filter(|_| word.member() == member) else { return false };
            let free = Word::free(word.tick().or_later(Tick::at(now)));
            if self.entries(slot.line).replace(slot.entry as usize, word, free) {
                events(Event::Ended { vip: key.vip(), member, state });
                return true;
            }
        }
        false
    }

    /// Every live entry, as it is when the walk comes by; workers are not held up.
    pub fn iter(&self, now: Now) -> impl Iterator<Item = Flow<K>> + '_ {
        (0..self.lines.len() as u32).flat_map(move |line| self.line(line, now))
    }

    /// The live entries of one line.
    pub fn line(&self, line: u32, now: Now) -> impl Iterator<Item = Flow<K>> + '_ {
        let now = Tick::at(now);
        (0..K::ENTRIES).filter_map(move |entry| {
            let (key, word) = self.entries(line).read_any(entry);
            let idle = u64::from(now.since(word.tick())) * Tick::NANOSECONDS;
            Some(Flow { key, member: word.member(), state: word.state()?, idle })
        })
    }

    /// Whether this flow is found only in its second line; `None`: it is not found.
    pub fn is_in_second_line(&self, key: &K) -> Option<bool> {
        let place = self.place(key);
        self.find(place, key).map(|(slot, _)| slot.line == self.secondary(place))
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

/// What a packet means for the flow whose entry has this word.
#[inline]
pub(super) fn judge(word: Word, (signal, now, timeouts): Packet<'_>) -> Lookup {
    let phase = word.phase_index();
    let next = signal.next(phase);
    let now = Tick::at(now);
    let hit = |state, is_news| Lookup::Hit(Hit { member: word.member(), state, is_news });
    match word.state() {
        None => Lookup::Miss,
        // Nearly all packets end here.
        Some(state) if state as u8 == next && timeouts.is_fresh(phase, now, word.tick()) => hit(state, false),
        Some(state) => {
            let age = now.since(word.tick());
            let is_over = signal.is_first_after_expiry() && timeouts.is_expired(phase, age);
            match FlowState::from_bits(next) {
                Some(next) if !is_over => {
                    hit(next, signal.is_of_its_flow() && (next != state || timeouts.is_stale(phase, age)))
                }
                _ => Lookup::Over,
            }
        }
    }
}

/// The timeouts of every VIP: an entry that is in the way may be any VIP's.
pub trait TimeoutsOf {
    /// This VIP's.
    fn timeouts_of(&self, vip: VipId) -> &Timeouts;

    /// What becomes of a flow that has not expired when the sweep comes by: it may name a VIP or a member that is no
    /// more.
    #[inline]
    fn fate_of(&self, _vip: VipId, _member: MemberId, _state: FlowState) -> Fate {
        Fate::Lives
    }
}

/// What the sweep does with a flow that has not expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its VIP and its member are there: nothing.
    Lives,
    /// Its VIP or its member is no more: it ends.
    Ends,
    /// Its member is no more, and it is to stay bound to it until it expires. The member's id is not free before.
    Lingers,
}

/// The same for all.
impl TimeoutsOf for Timeouts {
    #[inline]
    fn timeouts_of(&self, _vip: VipId) -> &Timeouts {
        self
    }
}
