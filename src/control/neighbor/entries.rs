//! The neighbour entries that matter, and when to ask the kernel for them. Pure: no socket, no clock.
//!
//! The kernel verifies a neighbour only when it sends to it itself. The packets of the data plane do not pass the
//! kernel, so this module says when it should act as if it had one to send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// A neighbour that has not answered is asked for again this long after the last time. Shorter only repeats a question
/// that the kernel is still asking (it sends one ARP request a second); longer delays the return of a member.
const RETRY: Duration = Duration::from_secs(1);

/// A stale neighbour is nudged this often. The kernel waits 5 s (`delay_first_probe_time`) before it verifies, so more
/// often is futile; less often adds to the time in which a vanished member is noticed.
const NUDGE: Duration = Duration::from_secs(5);

/// The kernel gives up after 3 requests, one a second; after this long something else is wrong and it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a MAC address stays in use after the kernel dropped its entry (as it does with the oldest ones when the
/// table fills) while it is being asked for again. Zero would interrupt a healthy member's traffic; a minute would
/// send to a member that left.
const HOLD: Duration = Duration::from_secs(5);

/// Entries asked for in one go, and the pause after it: together at most 1280 broadcasts a second, in bursts that a
/// switch's and a member's queue can take. Fewer would delay the start with thousands of members.
const ASKS_AT_ONCE: usize = 64;
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// Unanswered entries that may be in the kernel's table at one time. They cannot be reclaimed while the kernel asks, so
/// more than `gc_thresh2` (512 by default) would push out the host's other neighbours, and `gc_thresh3` (1024) of
/// them fill the table. It also bounds the ARP requests for silent members: one a second for each of these.
const MAX_WAITING: usize = 256;

/// What a frame is sent to: an address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hop {
    pub(super) index: u32,
    pub(super) address: Ipv4Addr,
}

/// What the kernel says about an entry (its `NUD_` state).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// `REACHABLE`, `DELAY`, `PROBE`, `PERMANENT`, `NOARP`: usable, and the kernel needs no help with it.
    Settled([u8; 6]),
    /// `STALE`: usable, but not verified until somebody uses it.
    Stale([u8; 6]),
    /// Usable, with a link-layer address that is not Ethernet.
    NotEthernet,
    /// `INCOMPLETE`, `NONE`: the kernel is asking.
    Incomplete,
    /// `FAILED`: nobody answered.
    Failed,
    /// There is no such entry.
    Absent,
}

/// What came of asking the kernel to resolve an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It does.
    Accepted,
    /// No room (`ENOBUFS`).
    TableFull,
    /// Another error number.
    Refused(i32),
}

/// Why there is no MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Resolving,
    NoAnswer,
    NotEthernet,
    TableFull,
    Refused(i32),
}

/// The entries that matter.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    entries: BTreeMap<Hop, Entry>,
    /// No asking before this.
    next_batch: Option<Instant>,
}

impl Entries {
    /// Keeps exactly these hops. A new one begins unread.
    pub(super) fn want(&mut self, hops: &BTreeSet<Hop>) {
        self.entries.retain(|hop, _| hops.contains(hop));
        for &hop in hops {
            self.entries.entry(hop).or_default();
        }
    }

    /// What is known about a hop; `None` when nobody wants it.
    pub(super) fn known(&self, hop: Hop) -> Option<Result<[u8; 6], Why>> {
        self.entries.get(&hop).map(|entry| entry.known)
    }

    /// Whether the kernel must be asked what it has.
    pub(super) fn has_unread(&self) -> bool {
        self.entries.values().any(|entry| entry.phase == Phase::Unread)
    }

    /// Up to `limit` hops of which the kernel must be asked what it has.
    pub(super) fn unread(&self, limit: usize) -> Vec<Hop> {
        let unread = self.entries.iter().filter(|(_, entry)| entry.phase == Phase::Unread);
        unread.take(limit).map(|(&hop, _)| hop).collect()
    }

    /// Events were lost: what the kernel has must be read again. What is known stays in use meanwhile.
    pub(super) fn doubt_all(&mut self) {
        for entry in self.entries.values_mut() {
            entry.phase = Phase::Unread;
        }
    }

    /// Takes in what the kernel said about a hop. Returns whether what is known changed.
    pub(super) fn learn(&mut self, hop: Hop, status: Status, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&hop) else { return false };
        let before = entry.known;
        entry.learn(status, now);
        entry.known != before
    }

    /// Takes in what came of asking. Returns whether what is known changed.
    pub(super) fn asked(&mut self, hop: Hop, outcome: Asked, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&hop) else { return false };
        let before = entry.known;
        entry.asked(outcome, now);
        entry.known != before
    }

    /// Ends what was held for too long. Returns whether what is known changed.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for entry in self.entries.values_mut() {
            if entry.held_since.is_some_and(|since| now >= since + HOLD) {
                entry.held_since = None;
                entry.known = Err(if entry.phase == Phase::Full { Why::TableFull } else { Why::Resolving });
                changed = true;
            }
        }
        changed
    }

    /// The hops to ask for now: those never asked for first, then those asked for longest ago.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Hop> {
        if self.next_batch.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let mut waiting = self.entries.values().filter(|entry| entry.phase == Phase::Waiting).count();
        let mut due: Vec<_> = (self.entries.iter())
            .filter(|(_, entry)| entry.due_at(now).is_some_and(|at| at <= now))
            .map(|(&hop, entry)| (entry.asked_at, hop, entry.begins_waiting()))
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        // Also when all of them have to wait for room: it must be looked for again, but not at once.
        self.next_batch = Some(now + ASK_PAUSE);
        due.sort_unstable();
        due.retain(|&(_, _, begins_waiting)| {
            let room = !begins_waiting || waiting < MAX_WAITING;
            waiting += usize::from(begins_waiting && room);
            room
        });
        due.truncate(ASKS_AT_ONCE);
        due.into_iter().map(|(_, hop, _)| hop).collect()
    }

    /// When [`due`](Self::due) or [`expire`](Self::expire) will next have something to do.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let earliest = |entry: &Entry| {
            let expiry = entry.held_since.map(|since| since + HOLD);
            [entry.due_at(now), expiry].into_iter().flatten().min()
        };
        let next = self.entries.values().filter_map(earliest).min()?;
        Some(self.next_batch.map_or(next, |at| next.max(at)))
    }
}

#[derive(Debug, Clone)]
struct Entry {
    known: Result<[u8; 6], Why>,
    phase: Phase,
    asked_at: Option<Instant>,
    /// Since when `known` holds an address that the kernel has dropped.
    held_since: Option<Instant>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { known: Err(Why::Resolving), phase: Phase::Unread, asked_at: None, held_since: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The kernel has not been asked what it has.
    Unread,
    Settled,
    Stale,
    /// The kernel is asking.
    Waiting,
    Absent,
    Failed,
    Full,
    Refused,
}

impl Entry {
    fn learn(&mut self, status: Status, now: Instant) {
        match status {
            Status::Settled(mac) => self.settle(Ok(mac), Phase::Settled),
            Status::Stale(mac) => self.settle(Ok(mac), Phase::Stale),
            Status::NotEthernet => self.settle(Err(Why::NotEthernet), Phase::Settled),
            Status::Failed => self.settle(Err(Why::NoAnswer), Phase::Failed),
            Status::Incomplete => {
                // Somebody else may have made the kernel ask: that is as good as having asked.
                if self.phase != Phase::Waiting {
                    self.asked_at = Some(now);
                }
                self.hold(Phase::Waiting, now);
            }
            Status::Absent => self.hold(Phase::Absent, now),
        }
    }

    fn asked(&mut self, outcome: Asked, now: Instant) {
        self.asked_at = Some(now);
        match outcome {
            // A nudged one goes on being usable, and the kernel's answer to it is not awaited.
            Asked::Accepted if self.phase == Phase::Stale => {}
            Asked::Accepted => self.hold(Phase::Waiting, now),
            Asked::TableFull => self.miss(Why::TableFull, Phase::Full, now),
            Asked::Refused(errno) => self.miss(Why::Refused(errno), Phase::Refused, now),
        }
    }

    fn settle(&mut self, known: Result<[u8; 6], Why>, phase: Phase) {
        *self = Self { known, phase, held_since: None, asked_at: self.asked_at };
    }

    /// No answer yet. An address stays known for a while, and a reason until there is an answer: a silent member is
    /// asked for again and again, and that is not news.
    fn hold(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        if self.known.is_ok() {
            self.held_since.get_or_insert(now);
        }
    }

    fn miss(&mut self, why: Why, phase: Phase, now: Instant) {
        self.hold(phase, now);
        if self.known.is_err() {
            self.known = Err(why);
        }
    }

    /// When to ask the kernel to resolve or verify this.
    fn due_at(&self, now: Instant) -> Option<Instant> {
        let pause = match self.phase {
            Phase::Unread | Phase::Settled => return None,
            Phase::Stale => NUDGE,
            Phase::Waiting => ANSWER_WITHIN,
            Phase::Absent | Phase::Failed | Phase::Full | Phase::Refused => RETRY,
        };
        Some(self.asked_at.map_or(now, |at| at + pause))
    }

    /// Whether asking for this makes one more unanswered entry.
    fn begins_waiting(&self) -> bool {
        !matches!(self.phase, Phase::Stale | Phase::Waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const NEW: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn hop(n: u32) -> Hop {
        Hop { index: 1, address: Ipv4Addr::from(0x0a00_0000 + n) }
    }

    fn entries(count: u32) -> Entries {
        let mut entries = Entries::default();
        entries.want(&(0..count).map(hop).collect());
        entries
    }

    enum Step {
        /// The kernel says this.
        Says(Status),
        /// Asking it came out so.
        Asks(Asked),
        /// So many milliseconds pass, and what was held too long ends.
        After(u64),
    }
    use Step::{After, Asks, Says};

    #[test]
    fn an_entry_follows_the_kernel() {
        type Row<'a> = (&'a str, &'a [Step], Result<[u8; 6], Why>);
        let table: &[Row<'_>] = &[
            ("nothing heard", &[], Err(Why::Resolving)),
            ("reachable", &[Says(Status::Settled(OLD))], Ok(OLD)),
            ("stale is usable", &[Says(Status::Stale(OLD))], Ok(OLD)),
            ("a new address", &[Says(Status::Settled(OLD)), Says(Status::Stale(NEW))], Ok(NEW)),
            ("absent", &[Says(Status::Absent)], Err(Why::Resolving)),
            ("asking", &[Says(Status::Absent), Asks(Asked::Accepted)], Err(Why::Resolving)),
            ("silent", &[Asks(Asked::Accepted), Says(Status::Failed)], Err(Why::NoAnswer)),
            (
                "silent, and asked for again: still silent",
                &[Says(Status::Failed), Asks(Asked::Accepted), Says(Status::Incomplete)],
                Err(Why::NoAnswer),
            ),
            (
                "silent, and its entry was collected: still silent",
                &[Says(Status::Failed), Says(Status::Absent), Asks(Asked::Accepted)],
                Err(Why::NoAnswer),
            ),
            ("silent, then there", &[Says(Status::Failed), Says(Status::Settled(NEW))], Ok(NEW)),
            ("there, then silent", &[Says(Status::Settled(OLD)), Says(Status::Failed)], Err(Why::NoAnswer)),
            (
                "dropped, but asked for again: the address is held",
                &[Says(Status::Settled(OLD)), Says(Status::Absent), Asks(Asked::Accepted), After(4999)],
                Ok(OLD),
            ),
            (
                "held too long",
                &[Says(Status::Settled(OLD)), Says(Status::Absent), Asks(Asked::Accepted), After(5000)],
                Err(Why::Resolving),
            ),
            (
                "dropped, and no room for it: held for a while",
                &[Says(Status::Settled(OLD)), Says(Status::Absent), Asks(Asked::TableFull), After(4999)],
                Ok(OLD),
            ),
            (
                "dropped, and no room for too long",
                &[Says(Status::Settled(OLD)), Says(Status::Absent), Asks(Asked::TableFull), After(5000)],
                Err(Why::TableFull),
            ),
            (
                "dropped, asked for, there again: not held any more",
                &[Says(Status::Settled(OLD)), Says(Status::Absent), Says(Status::Settled(NEW)), After(9000)],
                Ok(NEW),
            ),
            ("no room", &[Says(Status::Absent), Asks(Asked::TableFull)], Err(Why::TableFull)),
            ("refused", &[Says(Status::Absent), Asks(Asked::Refused(22))], Err(Why::Refused(22))),
            ("not Ethernet", &[Says(Status::NotEthernet)], Err(Why::NotEthernet)),
            ("a nudge changes nothing", &[Says(Status::Stale(OLD)), Asks(Asked::Accepted), After(9000)], Ok(OLD)),
        ];
        for (description, steps, expected) in table {
            let mut entries = entries(1);
            let mut now = Instant::now();
            for step in *steps {
                let before = entries.known(hop(0));
                let changed = match step {
                    Says(status) => entries.learn(hop(0), *status, now),
                    Asks(outcome) => entries.asked(hop(0), *outcome, now),
                    After(milliseconds) => {
                        now += Duration::from_millis(*milliseconds);
                        entries.expire(now)
                    }
                };
                assert_eq!(changed, entries.known(hop(0)) != before, "{description}");
            }
            assert_eq!(entries.known(hop(0)), Some(*expected), "{description}");
        }
    }

    #[test]
    fn what_is_asked_for_and_when() {
        let table: &[(&str, &[Step], Option<u64>)] = &[
            ("unread: read first", &[], None),
            ("absent: at once", &[Says(Status::Absent)], Some(0)),
            ("settled: never (a nudge would unpin a permanent one)", &[Says(Status::Settled(OLD))], None),
            ("stale: at once", &[Says(Status::Stale(OLD))], Some(0)),
            ("stale and nudged: 5 s later", &[Says(Status::Stale(OLD)), Asks(Asked::Accepted)], Some(5000)),
            ("not Ethernet: never", &[Says(Status::NotEthernet)], None),
            ("asked: 5 s later", &[Says(Status::Absent), Asks(Asked::Accepted)], Some(5000)),
            ("somebody else asked: 5 s later", &[Says(Status::Incomplete)], Some(5000)),
            (
                "silent after the kernel's 3 s: at once",
                &[Asks(Asked::Accepted), After(3000), Says(Status::Failed)],
                Some(0),
            ),
            ("silent at once: 1 s later", &[Asks(Asked::Accepted), Says(Status::Failed)], Some(1000)),
            ("no room: 1 s later", &[Says(Status::Absent), Asks(Asked::TableFull)], Some(1000)),
            ("dropped while in use: at once", &[Says(Status::Settled(OLD)), Says(Status::Absent)], Some(0)),
        ];
        for (description, steps, expected) in table {
            let mut entries = entries(1);
            let mut now = Instant::now();
            for step in *steps {
                match step {
                    Says(status) => drop(entries.learn(hop(0), *status, now)),
                    Asks(outcome) => drop(entries.asked(hop(0), *outcome, now)),
                    After(milliseconds) => now += Duration::from_millis(*milliseconds),
                }
            }
            let due = |at: u64| !entries.clone().due(now + Duration::from_millis(at)).is_empty();
            match expected {
                None => assert!(!due(3_600_000), "{description}"),
                Some(at) => {
                    assert!(due(*at), "{description}");
                    assert!(*at == 0 || !due(at - 1), "{description}: too early");
                }
            }
        }
    }

    /// Silent ones take 3 seconds to fail, as the kernel asks three times.
    #[test]
    fn thousands_of_silent_entries_do_not_burst() {
        const SILENT: u32 = 2000;
        let silence = Duration::from_secs(3);
        let start = Instant::now();
        let mut entries = entries(SILENT);
        for n in 0..SILENT {
            entries.learn(hop(n), Status::Absent, start);
        }
        let mut asked: BTreeMap<Hop, Vec<Instant>> = BTreeMap::new();
        let mut waiting: Vec<(Instant, Hop)> = Vec::new();
        let mut now = start;
        while now < start + Duration::from_mins(1) {
            let (failed, still): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(at, _)| now >= *at + silence);
            waiting = still;
            for (_, hop) in failed {
                entries.learn(hop, Status::Failed, now);
            }
            let batch = entries.due(now);
            assert!(batch.len() <= ASKS_AT_ONCE);
            assert!(entries.due(now).is_empty(), "the pause is kept");
            for hop in batch {
                entries.asked(hop, Asked::Accepted, now);
                waiting.push((now, hop));
                asked.entry(hop).or_default().push(now);
            }
            assert!(waiting.len() <= MAX_WAITING);
            let next = entries.next_due(now).expect("there always is something to ask for");
            assert!(next > now, "no busy loop");
            now += Duration::from_millis(10);
        }
        // 256 every 3 s: each has had its turn twice in a minute, and none more often than its share.
        assert_eq!(asked.len(), SILENT as usize);
        let turns = asked.values().map(Vec::len);
        assert_eq!((turns.clone().min(), turns.max()), (Some(2), Some(3)));
    }

    #[test]
    fn live_entries_are_all_asked_for_within_seconds() {
        let start = Instant::now();
        let mut entries = entries(2000);
        for n in 0..2000 {
            entries.learn(hop(n), Status::Absent, start);
        }
        let mut now = start;
        while let Some(next) = entries.next_due(now) {
            now = now.max(next);
            for hop in entries.due(now) {
                entries.asked(hop, Asked::Accepted, now);
                entries.learn(hop, Status::Settled(OLD), now);
            }
        }
        assert!(now - start <= Duration::from_secs(2), "{:?}", now - start);
    }

    #[test]
    fn only_wanted_entries_are_kept() {
        let now = Instant::now();
        let mut entries = entries(2);
        entries.learn(hop(0), Status::Settled(OLD), now);
        assert!(!entries.learn(hop(7), Status::Settled(OLD), now));
        assert_eq!(entries.known(hop(7)), None);
        entries.want(&[hop(0), hop(2)].into());
        assert_eq!(entries.known(hop(0)), Some(Ok(OLD)));
        assert_eq!(entries.known(hop(1)), None);
        assert_eq!(entries.unread(10), [hop(2)]);
        // After lost events all are read again, and stay in use until then.
        entries.doubt_all();
        assert_eq!(entries.unread(10), [hop(0), hop(2)]);
        assert_eq!(entries.unread(1), [hop(0)]);
        assert_eq!(entries.known(hop(0)), Some(Ok(OLD)));
    }
}
