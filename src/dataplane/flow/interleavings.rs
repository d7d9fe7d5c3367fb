//! Every interleaving of two or three threads at one or two lines, by loom, with the weak memory of the language and
//! not only that of the processor at hand:
//!
//! ```text
//! POINTSMAN_LOOM=1 cargo test --lib interleavings
//! ```

use std::net::Ipv4Addr;

use loom::sync::Arc;
use loom::thread;

use super::super::ids::{MemberId, VipId};
use super::table::Place;
use super::time::Tick;
use super::word::Word;
use super::*;

const TICK: u64 = 1 << 29;

/// Two lines: every flow of these tests has the one as its first and the other as its second.
const PLACE: Place = Place { primary: 0, rest: u32::MAX };

fn key(index: u8) -> KeyV4 {
    KeyV4::new(Ipv4Addr::new(192, 0, 2, index), 1024, VipId(0), 0)
}

fn table() -> Table<KeyV4> {
    Table::with_lines(2, false, Secret::new([1 << 40 | 1, 1 << 50 | 1])).expect("memory")
}

fn insert(table: &Table<KeyV4>, index: u8, member: u32, tick: u64) -> (Option<u32>, i32) {
    let mut flows = 0;
    let events = |event| match event {
        Event::Began { .. } => flows += 1,
        Event::Ended { .. } => flows -= 1,
        Event::Changed { .. } => {}
    };
    let packet = (Signal::Syn, Now(tick * TICK));
    let insertion = table.insert((PLACE, &key(index)), MemberId(member), packet, &Timeouts::default(), events);
    let member = match insertion {
        Insertion::Inserted => Some(member),
        Insertion::Existing(member) => Some(member.0),
        Insertion::NotInserted => None,
    };
    (member, flows)
}

fn find(table: &Table<KeyV4>, index: u8) -> Option<u32> {
    table.find(PLACE, &key(index)).map(|(_, word)| word.member().0)
}

fn copies(table: &Table<KeyV4>, index: u8) -> usize {
    table.iter(Now(0)).filter(|flow| flow.key == key(index)).count()
}

/// Makes all entries but the first few of the first line unusable: another worker's that never gets on with it. (Loom
/// can follow few steps; filling lines with flows takes many.)
fn leave_only(table: &Table<KeyV4>, count: usize) {
    let busy = Word::busy(Tick::at(Now(4 * TICK)));
    for (line, first) in [(0, count), (1, 0)] {
        for entry in first..KeyV4::ENTRIES {
            assert!(table.entries(line).replace(entry, Word(0), busy));
        }
    }
}

fn check(scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(5);
    model.check(scenario);
}

/// Both enter one flow into an empty line.
#[test]
fn two_that_enter_the_same_flow_agree() {
    check(|| {
        let table = Arc::new(table());
        let other = Arc::clone(&table);
        let second = thread::spawn(move || insert(&other, 1, 20, 5));
        let (one, began) = insert(&table, 1, 10, 5);
        let (two, also_began) = second.join().expect("no panic");
        assert_eq!(one, two);
        assert_eq!(find(&table, 1), one);
        assert_eq!((copies(&table, 1), began + also_began), (1, 1));
    });
}

/// One finds room in the first line; the other, whose clock is behind, only in the second: the one free entry of the
/// first was given back in its tick.
#[test]
fn two_that_enter_the_same_flow_into_different_lines_agree() {
    check(|| {
        let table = Arc::new(table());
        let first = table.entries(0);
        let tick = Tick::at(Now(4 * TICK));
        assert!(first.replace(0, Word(0), Word::free(tick)));
        for entry in 1..KeyV4::ENTRIES {
            assert!(first.replace(entry, Word(0), Word::busy(tick)));
        }
        let other = Arc::clone(&table);
        let second = thread::spawn(move || insert(&other, 1, 20, 4));
        let (one, began) = insert(&table, 1, 10, 5);
        let (two, also_began) = second.join().expect("no panic");
        assert_eq!(one, two);
        assert_eq!(find(&table, 1), one);
        assert_eq!((copies(&table, 1), began + also_began), (1, 1));
    });
}

/// A reader beside a slot that changes hands twice, back to the flow it is looking for. (The reader is the spawned one:
/// loom does not go back before loads that the first run made ahead of all of the other thread's stores.)
#[test]
fn a_reader_never_sees_one_flow_with_anothers_member() {
    check(|| {
        let table = Arc::new(table());
        insert(&table, 1, 1, 4);
        leave_only(&table, 1);
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            let seen = find(&other, 1);
            assert!(matches!(seen, None | Some(1 | 11)), "{seen:?}");
        });
        assert_eq!(insert(&table, 6, 6, 5), (Some(6), 0));
        assert_eq!(insert(&table, 1, 11, 6), (Some(11), 0));
        reader.join().expect("no panic");
    });
}

/// A packet of a flow, and a newcomer that the flow may have to give way to.
#[test]
fn a_touched_flow_does_not_give_way_and_one_that_gave_way_is_not_touched() {
    check(|| {
        let table = Arc::new(table());
        insert(&table, 1, 1, 4);
        leave_only(&table, 1);
        let other = Arc::clone(&table);
        let second = thread::spawn(move || insert(&other, 6, 6, 5));
        let timeouts = Timeouts::default();
        let packet = (Signal::Segment, Now(5 * TICK), &timeouts);
        let mut changed = 0;
        if let Lookup::Hit(hit) = table.lookup(PLACE, &key(1), packet) {
            assert_eq!(hit.member, MemberId(1));
            table.advance(PLACE, &key(1), packet, |event| {
                assert!(matches!(event, Event::Changed { member: MemberId(1), .. }));
                changed += 1;
            });
        }
        let (entered, _) = second.join().expect("no panic");
        assert_eq!(entered.is_some(), changed == 0);
        let state = table.iter(Now(0)).find(|flow| flow.key == key(1)).map(|flow| flow.state);
        let expected = if changed == 1 { Some(FlowState::Established) } else { None };
        assert_eq!(state, expected);
        assert_eq!(table.iter(Now(0)).count(), 1);
    });
}

/// Two packets of one flow at two workers: each transition is reported once.
#[test]
fn transitions_are_counted_once() {
    check(|| {
        let table = Arc::new(table());
        insert(&table, 1, 1, 4);
        let other = Arc::clone(&table);
        let advance = |table: &Table<KeyV4>, signal| {
            let timeouts = Timeouts::default();
            let packet = (signal, Now(5 * TICK), &timeouts);
            let mut events = Vec::new();
            if let Lookup::Hit(_) = table.lookup(PLACE, &key(1), packet) {
                table.advance(PLACE, &key(1), packet, |event| events.push(event));
            }
            events
        };
        let second = thread::spawn(move || advance(&other, Signal::Segment));
        let mut events = advance(&table, Signal::Fin);
        events.extend(second.join().expect("no panic"));
        let state = table.iter(Now(0)).next().map(|flow| flow.state);
        assert_eq!(state, Some(FlowState::Closing), "the FIN is not lost");
        let closing = events.iter().filter(|event| matches!(event, Event::Changed { to: FlowState::Closing, .. }));
        assert_eq!(closing.count(), 1);
    });
}
