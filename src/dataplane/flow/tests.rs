//! Tables of what the table does, and threads that hammer it.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use super::super::ids::{MemberId, VipId};
use super::*;

const SECOND: u64 = 1_000_000_000;
const TICK: u64 = 1 << 29;

fn secret() -> Secret {
    Secret::new([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03])
}

fn table(flows: usize) -> (Table<KeyV4>, Hand) {
    Table::new(flows, false, secret()).expect("memory")
}

fn key(index: u32) -> KeyV4 {
    KeyV4::new(Ipv4Addr::from_bits(0x0a00_0000 + index / 7), (index % 7) as u16, VipId(1), 0)
}

/// A table and the flows that its events count, by member and state.
struct Bench {
    table: Table<KeyV4>,
    hand: Hand,
    timeouts: Timeouts,
    events: Vec<Event>,
}

impl Bench {
    fn new() -> Self {
        let (table, hand) = table(100);
        Self { table, hand, timeouts: Timeouts::default(), events: Vec::new() }
    }

    /// A packet as a worker treats it; the member that it goes to.
    fn packet(&mut self, key: KeyV4, signal: Signal, at: u64, choice: u32) -> (Lookup, u32) {
        let (place, now) = (self.table.place(&key), Now(at));
        let lookup = self.table.lookup(place, &key, (signal, now, &self.timeouts));
        let member = match lookup {
            Lookup::Hit(hit) => {
                let events = |event| self.events.push(event);
                self.table.advance(place, &key, (signal, now, &self.timeouts), events);
                hit.member.0
            }
            Lookup::Miss | Lookup::Over => {
                let events = |event| self.events.push(event);
                let member = MemberId(choice);
                match self.table.insert((place, &key), member, (signal, now), &self.timeouts, events) {
                    Insertion::Existing(member) => member.0,
                    Insertion::Inserted | Insertion::NotInserted => choice,
                }
            }
        };
        (lookup, member)
    }

    fn state(&self, key: KeyV4) -> Option<FlowState> {
        self.table.iter(Now(0)).find(|flow| flow.key == key).map(|flow| flow.state)
    }
}

#[test]
fn a_connection_stays_with_its_member_from_syn_to_expiry() {
    use FlowState::{Closing, Embryonic, Established};
    let mut bench = Bench::new();
    let key = key(1);
    // At, signal, the member that would be chosen, the member it goes to, the state after.
    let minute = 60 * SECOND;
    for (at, signal, choice, member, state) in [
        (SECOND, Signal::Syn, 1, 1, Embryonic),
        (2 * SECOND, Signal::Syn, 2, 1, Embryonic),
        (3 * SECOND, Signal::Segment, 2, 1, Established),
        (10 * minute, Signal::Segment, 3, 1, Established),
        (20 * minute, Signal::Syn, 4, 1, Established),
        (34 * minute, Signal::Segment, 5, 1, Established),
        // Expired and not swept: its next segment still finds its member; a SYN would not.
        (60 * minute, Signal::Segment, 6, 1, Established),
        (90 * minute, Signal::Syn, 7, 7, Embryonic),
        (90 * minute + SECOND, Signal::Segment, 8, 7, Established),
        (90 * minute + 2 * SECOND, Signal::Fin, 8, 7, Closing),
        (90 * minute + 3 * SECOND, Signal::Segment, 8, 7, Closing),
        // The client uses its port again.
        (90 * minute + 4 * SECOND, Signal::Syn, 9, 9, Embryonic),
        (90 * minute + 5 * SECOND, Signal::Rst, 10, 9, Closing),
    ] {
        let (_, went) = bench.packet(key, signal, at, choice);
        assert_eq!((went, bench.state(key)), (member, Some(state)), "{signal:?} at {} s", at / SECOND);
    }
    let ended = |member, state| Event::Ended { vip: VipId(1), member: MemberId(member), state };
    let began = |member, state| Event::Began { vip: VipId(1), member: MemberId(member), state };
    let changed = |member, from, to| Event::Changed { member: MemberId(member), from, to };
    assert_eq!(
        bench.events,
        [
            began(1, Embryonic),
            changed(1, Embryonic, Established),
            ended(1, Established),
            began(7, Embryonic),
            changed(7, Embryonic, Established),
            changed(7, Established, Closing),
            ended(7, Closing),
            began(9, Embryonic),
            changed(9, Embryonic, Closing),
        ]
    );
}

#[test]
fn udp_starts_afresh_after_its_timeout() {
    let mut bench = Bench::new();
    for (at, choice, member, state) in [
        (1, 1, 1, FlowState::Single),
        (100, 2, 1, FlowState::Stream),
        (200, 2, 1, FlowState::Stream),
        (600, 3, 3, FlowState::Single),
        (900, 4, 4, FlowState::Single),
    ] {
        let (_, went) = bench.packet(key(1), Signal::Datagram, at * SECOND, choice);
        assert_eq!((went, bench.state(key(1))), (member, Some(state)), "at {at} s");
    }
}

#[test]
fn a_reset_of_nobodys_connection_is_not_remembered() {
    let mut bench = Bench::new();
    assert_eq!(bench.packet(key(1), Signal::Rst, SECOND, 1), (Lookup::Miss, 1));
    assert_eq!(bench.table.iter(Now(0)).count(), 0);
    assert_eq!(bench.events, []);
}

#[test]
fn a_known_flow_is_written_only_when_that_says_something() {
    let mut bench = Bench::new();
    bench.packet(key(1), Signal::Syn, 0, 1);
    bench.packet(key(1), Signal::Segment, 0, 1);
    let mut writes = 0;
    for packet in 0..900_000u64 {
        let (lookup, _) = bench.packet(key(1), Signal::Segment, packet * SECOND / 1000, 1);
        writes += u32::from(matches!(lookup, Lookup::Hit(hit) if hit.is_news));
    }
    // 900 s of timeout are 1676 ticks; 52 of them pass before a write is worth it.
    assert!((25..=32).contains(&writes), "{writes} writes in 900 s");
}

#[test]
fn the_sweep_ends_what_is_expired_and_nothing_else() {
    let mut bench = Bench::new();
    for index in 0..100 {
        bench.packet(key(index), Signal::Syn, SECOND, index);
        if index % 2 == 0 {
            bench.packet(key(index), Signal::Segment, SECOND, index);
        }
    }
    let (table, hand) = (&bench.table, &mut bench.hand);
    for (at, left) in [(20, 100), (40, 50), (800, 50), (1000, 0)] {
        let mut ended = Vec::new();
        table.sweep(hand, Now(at * SECOND), table.lines(), &bench.timeouts, |event| ended.push(event));
        assert_eq!(table.iter(Now(0)).count(), left, "after {at} s");
        let expected = match at {
            40 => Some((FlowState::Embryonic, 1)),
            1000 => Some((FlowState::Established, 0)),
            _ => None,
        };
        let mut expected: Vec<_> = (0..100u32)
            .filter_map(|index| {
                let (state, _) = expected.filter(|&(_, odd)| index % 2 == odd)?;
                Some(Event::Ended { vip: VipId(1), member: MemberId(index), state })
            })
            .collect();
        let by_text = |event: &Event| format!("{event:?}");
        ended.sort_by_key(by_text);
        expected.sort_by_key(by_text);
        assert_eq!(ended, expected, "after {at} s");
    }
}

#[test]
fn any_port_is_part_of_the_key() {
    let mut bench = Bench::new();
    let key = |port| KeyV4::new(Ipv4Addr::new(192, 0, 2, 1), 4000, VipId(3), port);
    for port in 1..=4 {
        assert_eq!(bench.packet(key(port), Signal::Syn, SECOND, u32::from(port)).1, u32::from(port));
    }
    for port in 1..=4 {
        assert_eq!(bench.packet(key(port), Signal::Segment, 2 * SECOND, 99).1, u32::from(port));
    }
    let known: HashSet<_> = bench.table.iter(Now(0)).map(|flow| flow.key).collect();
    assert_eq!(known, (1..=4).map(key).collect());
}

#[test]
fn a_flow_is_bound_to_another_member_once() {
    let mut bench = Bench::new();
    bench.packet(key(1), Signal::Syn, SECOND, 1);
    bench.packet(key(1), Signal::Segment, SECOND, 1);
    bench.events.clear();
    let (table, key) = (&bench.table, key(1));
    let place = table.place(&key);
    let events = |event| bench.events.push(event);
    let (now, same) = (Now(SECOND), |state| state);
    assert_eq!(table.rebind((place, &key), (MemberId(1), MemberId(5)), now, same, events), MemberId(5));
    // Another worker, which saw the old member too.
    let nothing = |event| panic!("{event:?}");
    assert_eq!(table.rebind((place, &key), (MemberId(1), MemberId(6)), now, same, nothing), MemberId(5));
    assert_eq!(bench.packet(key, Signal::Segment, 2 * SECOND, 9).1, 5);
    let state = FlowState::Established;
    let (from, to) = (MemberId(1), MemberId(5));
    assert_eq!(
        bench.events,
        [Event::Ended { vip: VipId(1), member: from, state }, Event::Began { vip: VipId(1), member: to, state }]
    );
}

#[test]
fn flows_in_second_lines_are_found_through_rounds_of_marks() {
    let (table, mut hand) = table(20_000);
    let timeouts = Timeouts::default();
    let quiet = |_| {};
    let find = |index: u32| {
        let key = key(index);
        table.lookup(table.place(&key), &key, (Signal::Segment, Now(SECOND), &timeouts))
    };
    for index in 0..20_000 {
        let key = key(index);
        let place = table.place(&key);
        table.insert((place, &key), MemberId(index), (Signal::Syn, Now(SECOND)), &timeouts, quiet);
    }
    let there: Vec<u32> = (0..20_000).filter(|&index| matches!(find(index), Lookup::Hit(_))).collect();
    assert!(there.len() > 19_900, "{} of 20 000", there.len());
    let second = there.iter().filter(|&&index| table.is_in_second_line(&key(index)) == Some(true)).count();
    assert!(second > 100, "{second}");
    let marked =
        |table: &Table<KeyV4>| (0..table.lines() as u32).filter(|&line| table.entries(line).marks() != 0).count();
    let before = marked(&table);
    // Eight rounds in uneven steps.
    for _ in 0..8 * table.lines() / 101 {
        table.sweep(&mut hand, Now(SECOND), 101, &timeouts, |event| panic!("{event:?}"));
        for &index in there.iter().step_by(97) {
            assert!(matches!(find(index), Lookup::Hit(hit) if hit.member.0 == index), "{index}");
        }
    }
    for &index in &there {
        assert!(matches!(find(index), Lookup::Hit(hit) if hit.member.0 == index), "{index}");
    }
    assert!(marked(&table) <= before);
    // Everything ends; the marks go too.
    table.sweep(&mut hand, Now(1000 * SECOND), 8 * table.lines(), &timeouts, quiet);
    assert_eq!((table.iter(Now(0)).count(), marked(&table)), (0, 0));
}

#[test]
fn the_clock_wraps_without_anybody_noticing() {
    let mut bench = Bench::new();
    let turn = TICK << 23;
    for lap in 0..3 {
        // Half a circle apart in steps of a day, swept as usual.
        for day in 0..54 {
            let at = lap * turn + day * 86_400 * SECOND;
            let choice = (lap * 100 + day) as u32;
            assert_eq!(bench.packet(key(1), Signal::Syn, at, choice).1, choice, "lap {lap}, day {day}");
            let lines = bench.table.lines() * 3;
            bench.table.sweep(&mut bench.hand, Now(at + 3600 * SECOND), lines, &bench.timeouts, |_| {});
            assert_eq!(bench.table.iter(Now(0)).count(), 0, "lap {lap}, day {day}");
        }
    }
}

/// A small generator: threads need no shared one.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Every round has two lines of its own, the first with nought to four flows in it: so that the last free entry, the
/// second line, and both at once are fought for.
#[test]
fn threads_that_enter_the_same_flow_agree() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 40_000;
    const OTHERS: u32 = 1 << 30;
    let timeouts = Timeouts::default();
    let table = Table::<KeyV4>::with_lines(2 * ROUNDS as usize, false, secret()).expect("memory");
    let place = |round| {
        // What reduces to the line after the first.
        let rest = (u64::from(2 * round + 1) << 32).div_ceil(u64::from(2 * ROUNDS)) as u32;
        let place = Place { primary: 2 * round, rest };
        assert_eq!(table.secondary(place), 2 * round + 1);
        place
    };
    let now = Now(SECOND);
    for round in 0..ROUNDS {
        for other in 0..round % 5 {
            let key = key(OTHERS + round * 5 + other);
            table.insert((place(round), &key), MemberId(THREADS), (Signal::Syn, now), &timeouts, |_| {});
        }
    }
    let barrier = Barrier::new(THREADS as usize);
    let began = AtomicUsize::new(0);
    let enter = |thread: u32| {
        let mut answers = Vec::new();
        for round in 0..ROUNDS {
            if round % 16 == 0 {
                barrier.wait();
            }
            let key = key(round);
            let count = |event| {
                assert!(matches!(event, Event::Began { .. }), "{event:?}");
                began.fetch_add(1, Ordering::Relaxed);
            };
            let insertion = table.insert((place(round), &key), MemberId(thread), (Signal::Syn, now), &timeouts, count);
            answers.push(match insertion {
                Insertion::Inserted => thread,
                Insertion::Existing(member) => member.0,
                Insertion::NotInserted => panic!("there is room"),
            });
        }
        answers
    };
    let answers: Vec<Vec<u32>> = thread::scope(|scope| {
        let enter = &enter;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || enter(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for round in 0..ROUNDS as usize {
        let given: Vec<u32> = answers.iter().map(|answers| answers[round]).collect();
        assert!(given.iter().all(|member| *member == given[0]), "round {round}: {given:?}");
        let key = key(round as u32);
        let found = table.find(place(round as u32), &key).map(|(_, word)| word.member().0);
        assert_eq!(found, Some(given[0]), "round {round}");
    }
    let mut seen = HashSet::new();
    assert!(table.iter(now).all(|flow| seen.insert(flow.key)), "a flow is in the table twice");
    assert_eq!(began.into_inner(), ROUNDS as usize);
}

#[test]
fn threads_that_do_everything_at_once_keep_the_table_whole() {
    const THREADS: u32 = 3;
    const PACKETS: u64 = 400_000;
    const KEYS: u64 = 300;
    let timeouts = Timeouts::default();
    // 144 entries in 36 lines for 300 flows.
    let (table, mut hand) = table(64);
    let clock = AtomicU64::new(SECOND);
    let done = AtomicBool::new(false);
    let counts = Mutex::new(HashMap::<(MemberId, FlowState), i64>::new());
    let merge = |own: HashMap<(MemberId, FlowState), i64>| {
        let mut counts = counts.lock().expect("no panic");
        for (what, number) in own {
            *counts.entry(what).or_default() += number;
        }
    };
    let work = |thread: u32| {
        let mut random = Random(u64::from(thread));
        let mut own = HashMap::new();
        let mut now = Now(clock.load(Ordering::Relaxed));
        for packet in 0..PACKETS {
            if packet % 64 == 0 {
                now = Now(clock.fetch_add(TICK / 16, Ordering::Relaxed));
            }
            let index = random.below(KEYS) as u32;
            let key = key(index);
            let signal = match random.below(16) {
                0..6 => Signal::Syn,
                6..14 => Signal::Segment,
                14 => Signal::Fin,
                _ => Signal::Rst,
            };
            let place = table.place(&key);
            let events = |event| count(&mut own, event);
            let member = match table.lookup(place, &key, (signal, now, &timeouts)) {
                Lookup::Hit(hit) if random.below(50) == 0 => {
                    let to = MemberId(index * 8 + thread);
                    table.rebind((place, &key), (hit.member, to), now, |state| state, events)
                }
                Lookup::Hit(hit) => {
                    table.advance(place, &key, (signal, now, &timeouts), events);
                    hit.member
                }
                Lookup::Miss | Lookup::Over => {
                    let member = MemberId(index * 8 + thread);
                    match table.insert((place, &key), member, (signal, now), &timeouts, events) {
                        Insertion::Existing(member) => member,
                        Insertion::Inserted | Insertion::NotInserted => member,
                    }
                }
            };
            assert_eq!(member.0 / 8, index, "one flow's key came with another's member");
        }
        merge(own);
    };
    thread::scope(|scope| {
        let (work, table, timeouts, clock, done) = (&work, &table, &timeouts, &clock, &done);
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        let sweeper = scope.spawn(|| {
            let mut own = HashMap::new();
            while !done.load(Ordering::Relaxed) {
                let now = Now(clock.load(Ordering::Relaxed));
                table.sweep(&mut hand, now, 7, timeouts, |event| count(&mut own, event));
                for flow in table.iter(now) {
                    let index = (0..KEYS as u32).find(|&index| key(index) == flow.key).expect("a key of ours");
                    assert_eq!(flow.member.0 / 8, index);
                }
            }
            merge(own);
        });
        for worker in workers {
            worker.join().expect("no panic");
        }
        done.store(true, Ordering::Relaxed);
        sweeper.join().expect("no panic");
    });
    let mut expected = HashMap::new();
    let mut seen = HashSet::new();
    for flow in table.iter(Now(0)) {
        assert!(seen.insert(flow.key), "a flow is in the table twice");
        *expected.entry((flow.member, flow.state)).or_insert(0i64) += 1;
    }
    let mut counts = counts.into_inner().expect("no panic");
    counts.retain(|_, number| *number != 0);
    assert_eq!(counts, expected);
    for line in 0..table.lines() as u32 {
        for entry in 0..KeyV4::ENTRIES {
            let left = table.entries(line).word(entry);
            assert!(left.is_free() || left.state().is_some(), "a slot is lost");
        }
    }
}

/// Keeps a member's flows by state.
pub(super) fn count(counts: &mut HashMap<(MemberId, FlowState), i64>, event: Event) {
    let mut add = |member, state, number| *counts.entry((member, state)).or_default() += number;
    match event {
        Event::Began { member, state, .. } => add(member, state, 1),
        Event::Changed { member, from, to } => {
            add(member, from, -1);
            add(member, to, 1);
        }
        Event::Ended { member, state, .. } => add(member, state, -1),
    }
}
