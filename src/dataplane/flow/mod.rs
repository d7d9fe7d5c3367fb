//! Seen before? The connection table: one for the process and address family, shared by all workers without locks,
//! of a fixed size, exact.
//!
//! Each file is one part of it, in the order in which a packet meets them: `key` (what tells flows apart, and the
//! keyed hash), `table` (lookup, and what a packet changes), `entries` (one line, read and replaced whole), `word`
//! (an entry's value), `state` (TCP and UDP by the client's half), `time` (ticks and timeouts), `insert`, `budget`,
//! `sweep`.
//!
//! # Memory
//! A line of 64 bytes holds four entries of 16 bytes (IPv4) or two of 32 (IPv6). A flow lies in one of two lines that
//! its keyed hash names: the first if there is room when it begins, else the second. A line whose flows have gone to
//! second lines is marked, so that a flow that is not found in an unmarked first line is not looked for in the second.
//! An entry is its key and one value word; the word says what the entry is:
//!
//! ```text
//!  free ──claim──▶ busy ──key written──▶ pending ──no rival──▶ live ──┐ packets: state, tick, member
//!   ▲ ▲                                     │                   │ ▲◀──┘
//!   │ └───────── rival ahead, killed ───────┘                   │
//!   └───────── expired, swept ◀─────────────────────────────────┤
//!               busy ◀──claim: expired, or evictable ───────────┘
//! ```
//!
//! # Why no lock is needed
//! All changes of a value word are compare-and-swaps (the marks, which share the first entry's word, are set and
//! cleared atomically and kept by all of them). Key words are written only between busy and pending, by the one who
//! made the entry busy. Call the time between two claims of a slot a *tenure*: it has one key.
//!
//! 1. **Words do not come back.** A slot is claimed only if `now` is later than its word's tick (or it was never
//!    used), and a tenure's ticks never go back. So live and pending words of different tenures differ in their tick.
//!    (Ticks come round after 52 days; the sweep rewrites what is older than 13.)
//! 2. **A reader pairs a key only with its own value.** It reads the word, the key, and the word again. If both words
//!    are equal, they are of one tenure, by (1). The key it read is not of an earlier one: having seen this tenure's
//!    word, it sees at least this tenure's key (release, acquire). Nor of a later one: having seen that key, it would
//!    have seen that tenure's busy word or a later one.
//! 3. **A compare-and-swap hits the tenure it was meant for**, by (1) again: a touch, an eviction, a sweep or a kill
//!    decided by what was read either happens to that or fails. Whoever fails looks again.
//! 4. **A key has at most one live entry.** One who inserts makes the entry pending, *then* looks at all places where
//!    the same key could be, *then* makes it live. Of two who insert the same key, the one who became pending later
//!    sees the other's: live, so it gives way and takes that member; or pending, and then the one further back gives
//!    way or is killed, and its own step to live fails. (Words change by sequentially consistent accesses, and a full
//!    barrier stands between one's step to pending and its look at other places. One who inserts in the first line looks at the second only if the line is marked; one who inserts in the second marks
//!    before it looks, so either the mark is seen, or the first line's pending entry is.) Entries once live give way
//!    to none; nobody gives way to one behind, so one of the rivals always gets through.
//! 5. **A live entry is found**: the marks are set before it goes live and are upheld by the sweep
//!    (see `sweep::Round`); its key does not change.
//! 6. **Every transition is counted once**, by the one whose compare-and-swap made it.
//!
//! A touch that loses against another worker's touch of the same flow is judged anew; one that comes after the flow
//! is gone does nothing. A thread that is stopped in the middle of an insertion takes at most the slot it claimed out
//! of use, and nobody waits for it longer than a microsecond.

mod budget;
mod entries;
mod insert;
#[cfg(all(test, pointsman_loom))]
mod interleavings;
mod key;
#[cfg(all(test, not(pointsman_loom)))]
mod model;
mod state;
mod sweep;
mod table;
#[cfg(all(test, not(pointsman_loom)))]
mod tests;
mod time;
mod word;

pub use budget::NewFlowBudget;
pub use insert::Insertion;
pub use key::{ClientV4, Key, KeyV4, KeyV6, Secret};
pub use state::Signal;
pub use sweep::Hand;
pub use table::{Event, Fate, Flow, Hit, Lookup, Packet, Place, Table, TimeoutsOf};
pub use time::{Now, Timeouts};
pub use word::{FlowState, MEMBERS};

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::ids::{MemberId, VipId};
use super::load::Loads;
use super::persistence::{Keeper, Templates};
use super::schedule::Turns;
use super::tables::Tables;

/// How long a round of [`FlowTable::sweep`] is to take: so long are counts of flows late. (In a table for more than some
/// 11 million flows, with a hundred steps to a round, it takes longer: see `MOST_LINES_PER_STEP`.)
pub const SWEEP_ROUND: Duration = Duration::from_secs(2);

/// Lines that one step of the sweep looks at, at most: one and a half milliseconds of control's time. With more, the
/// sweep of a very large table would leave it no time for anything else.
const MOST_LINES_PER_STEP: usize = 1 << 16;

/// How many of a table's lines each of so many steps of a round looks at, and how many times as many steps a round takes
/// for that.
pub(super) fn lines_per_step(lines: usize, steps: usize) -> (usize, usize) {
    let wanted = lines.div_ceil(steps);
    (wanted.min(MOST_LINES_PER_STEP), wanted.div_ceil(MOST_LINES_PER_STEP).max(1))
}

/// How much of everything there is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Flows over IPv4 that must fit.
    pub flows_v4: usize,
    /// Clients over IPv4 that persistence must be able to remember; `None`: no VIP is persistent.
    pub persistence_v4: Option<usize>,
    /// Every member's id is below.
    pub members: usize,
    /// Every VIP's id is below.
    pub vips: usize,
}

/// What is known of flows: one for the process, shared by all workers.
#[derive(Debug)]
pub struct FlowTable {
    /// Flows over IPv4.
    pub v4: Table<KeyV4>,
    /// How many of them each member and each VIP has.
    pub loads: Loads,
    /// Which members clients of persistent VIPs have; not there before there is such a VIP.
    pub templates: OnceLock<Templates>,
    /// Where the VIPs' round robins stand.
    pub turns: Turns,
    /// Moment 0 of the clock that all who use the table share.
    epoch: Instant,
}

impl FlowTable {
    /// A table that fits this many flows over IPv4, to members with ids below `members`, without what only some VIPs
    /// ask for; and what sweeps it.
    ///
    /// # Errors
    ///
    /// The memory is not there.
    pub fn new(flows_v4: usize, members: usize) -> io::Result<(Self, Hands)> {
        Self::with_secret(flows_v4, members, Secret::random())
    }

    /// The same, with flows where a known secret puts them: for tests and benches that must see the same twice.
    ///
    /// # Errors
    ///
    /// The memory is not there.
    pub fn with_secret(flows_v4: usize, members: usize, secret: Secret) -> io::Result<(Self, Hands)> {
        Self::of(&Sizes { flows_v4, persistence_v4: None, members, vips: 0 }, secret)
    }

    /// A table of these sizes, and what sweeps it.
    ///
    /// # Errors
    ///
    /// The memory is not there.
    pub fn of_sizes(sizes: &Sizes) -> io::Result<(Self, Hands)> {
        Self::of(sizes, Secret::random())
    }

    fn of(sizes: &Sizes, secret: Secret) -> io::Result<(Self, Hands)> {
        let (v4, hand) = Table::new(sizes.flows_v4, false, secret)?;
        let loads = Loads::new(sizes.members, sizes.vips);
        let (templates, turns) = (OnceLock::new(), Turns::new());
        let (table, mut hands) =
            (Self { v4, loads, templates, turns, epoch: Instant::now() }, Hands { hand, keeper: None });
        if let Some(clients) = sizes.persistence_v4 {
            table.remember_clients(&mut hands, clients)?;
        }
        Ok((table, hands))
    }

    /// Has persistence remember so many clients over IPv4, from now on and for as long as the table lives. Nothing
    /// happens if it does already.
    ///
    /// # Errors
    ///
    /// The memory is not there.
    pub fn remember_clients(&self, hands: &mut Hands, clients: usize) -> io::Result<()> {
        if hands.keeper.is_none() {
            let (templates, keeper) = Templates::new(clients)?;
            // `hands` belong to this table and are its only ones.
            let _ = self.templates.set(templates);
            hands.keeper = Some(keeper);
        }
        Ok(())
    }

    /// Has a VIP that gets an id which another one had begin with nothing of that one's. No flow may name it.
    pub fn forget_vip(&self, vip: VipId) {
        self.loads.forget_vip(vip);
        self.turns.forget_vip(vip);
    }

    /// The moment now: a reading of the monotonic clock.
    #[inline]
    pub fn now(&self) -> Now {
        Now(self.epoch.elapsed().as_nanos() as u64)
    }

    /// Ends what has expired in one of `steps` parts of the table, and keeps up what goes with it. All steps together
    /// are a round, which is to take [`SWEEP_ROUND`]; a very large table needs more of them.
    pub fn sweep(&self, hands: &mut Hands, now: Now, steps: usize, tables: &Tables) {
        let (lines, _) = lines_per_step(self.v4.lines(), steps);
        self.v4.sweep(&mut hands.hand, now, lines, tables, |event| self.loads.record(event, &tables.limits));
        if let (Some(templates), Some(keeper)) = (self.templates.get(), &mut hands.keeper) {
            templates.keep(keeper, &self.v4, now, steps, tables);
        }
    }
}

/// Where the sweep stands.
#[derive(Debug)]
pub struct Hands {
    hand: Hand,
    keeper: Option<Keeper>,
}

impl Hands {
    /// Rounds in which everything that may name a VIP or a member was looked at.
    pub fn rounds(&self) -> u64 {
        self.each().map(Hand::rounds).min().unwrap_or(0)
    }

    /// Whether this VIP, which is no more, was still named in the last whole round or since then.
    pub fn has_seen_vip(&self, vip: VipId) -> bool {
        self.each().any(|hand| hand.has_seen_vip(vip))
    }

    /// The same for a member.
    pub fn has_seen_member(&self, member: MemberId) -> bool {
        self.each().any(|hand| hand.has_seen_member(member))
    }

    fn each(&self) -> impl Iterator<Item = &Hand> {
        std::iter::once(&self.hand).chain(self.keeper.as_ref().map(Keeper::hand))
    }
}
