//! What clients are remembered, for how long, and by how many threads at once.

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::thread;

use super::super::flow::{FlowState, FlowTable, Sizes};
use super::super::limits::{Limits, Policy};
use super::super::schedule::{Candidate, OnMemberDown, Pool, Scheduler};
use super::super::service::Destination;
use super::super::tables::Vip;
use super::*;

const SECOND: u64 = 1_000_000_000;
const VIP: VipId = VipId(0);
const STEPS: usize = 4;

fn persistence(timeout: u64, netmask: u8) -> Persistence {
    Persistence::new(Duration::from_secs(timeout), netmask)
}

/// One persistent VIP; members below `members` are usable.
fn tables(persistence: Persistence, members: u32) -> Tables {
    let candidates = (0..members).map(|id| Candidate { member: MemberId(id), weight: 1 }).collect();
    let vip = Vip {
        slots: Arc::new([]),
        timeouts: Timeouts::default(),
        destination: Destination { address: 1, protocol: 6, port: 0 },
        pool: Arc::new(Pool::new(Scheduler::Maglev, OnMemberDown::Reselect, candidates)),
    };
    let policy = Policy { persistence: Some(persistence), ..Policy::default() };
    Tables { vips: [vip].into(), limits: Limits { policies: [policy].into(), ..Limits::default() }, ..Tables::empty() }
}

fn flow(client: u32, port: u16) -> KeyV4 {
    KeyV4::new(Ipv4Addr::from_bits(client), port, VIP, 80)
}

/// A connection table whose rounds of the sweep are walked by hand.
struct Bench {
    flows: FlowTable,
    hands: super::super::flow::Hands,
    tables: Tables,
    persistence: Persistence,
}

impl Bench {
    fn new(persistence: Persistence, clients: usize) -> Self {
        let sizes = Sizes { flows_v4: 1024, persistence_v4: Some(clients), members: 8, vips: 1 };
        let (flows, hands) = FlowTable::of_sizes(&sizes).expect("memory");
        Self { flows, hands, tables: tables(persistence, 8), persistence }
    }

    fn templates(&self) -> &Templates {
        self.flows.templates.get().expect("asked for")
    }

    fn member(&self, client: u32, at: u64) -> Option<u32> {
        self.templates().member(&self.persistence, &flow(client, 1), Now(at * SECOND)).map(|member| member.0)
    }

    fn remember(&self, client: u32, member: u32, at: u64) -> Remembered {
        self.remember_among(client, member, at, |_| true)
    }

    fn remember_among(&self, client: u32, member: u32, at: u64, is_usable: impl Fn(MemberId) -> bool) -> Remembered {
        let of = (&self.persistence, &flow(client, 1));
        self.templates().remember(of, MemberId(member), Now(at * SECOND), &self.tables, is_usable)
    }

    fn signal(&self, key: &KeyV4, signal: Signal, at: u64) {
        let (table, now) = (&self.flows.v4, Now(at * SECOND));
        let place = table.place(key);
        let packet = (signal, now, &self.tables.timeouts);
        if let Lookup::Hit(_) = table.lookup(place, key, packet) {
            table.advance(place, key, packet, |_| {});
        } else {
            let inserted = table.insert((place, key), MemberId(3), (signal, now), &self.tables, |_| {});
            assert_eq!(inserted, Insertion::Inserted);
        }
    }

    /// The sweep's rounds from one second to another, one every two seconds.
    fn sweep(&mut self, seconds: std::ops::Range<u64>) {
        for at in seconds.step_by(2) {
            for _ in 0..STEPS {
                self.flows.sweep(&mut self.hands, Now(at * SECOND), STEPS, &self.tables);
            }
        }
    }
}

#[test]
fn a_client_has_its_member_until_the_timeout_after_its_last_flow() {
    let bench = Bench::new(persistence(60, 32), 1024);
    assert_eq!(bench.member(7, 1), None);
    assert_eq!(bench.remember(7, 3, 1), Remembered::Begun);
    assert_eq!((bench.member(7, 60), bench.member(8, 60)), (Some(3), None));
    // The second flow begins the timeout anew, whatever else would have been chosen for it.
    assert_eq!(bench.remember(7, 5, 50), Remembered::Has(MemberId(3)));
    assert_eq!(bench.member(7, 109), Some(3));
    assert_eq!(bench.member(7, 50 + 60 + 2 + 2), None, "1/32 of 60 s and two ticks later");
    assert_eq!(bench.remember(7, 5, 120), Remembered::Begun);
    assert_eq!(bench.member(7, 121), Some(5));
    assert_eq!(bench.templates().clients(), 1, "the expired one was replaced");
}

#[test]
fn the_netmask_says_who_is_the_same_client() {
    // Clients 10.0.0.1, and others that share so many bits with it.
    let one = 0x0a00_0001;
    for (netmask, same, other) in [
        (32, one, one + 1),
        (24, one | 0xfe, one | 0x100),
        (8, 0x0aff_ffff, 0x0b00_0001),
        (1, 0x7fff_ffff, 0x8a00_0001),
    ] {
        let bench = Bench::new(persistence(60, netmask), 1024);
        bench.remember(one, 3, 1);
        assert_eq!((bench.member(same, 2), bench.member(other, 2)), (Some(3), None), "/{netmask}");
    }
}

#[test]
fn a_member_that_is_not_usable_is_replaced_for_good() {
    let bench = Bench::new(persistence(60, 32), 1024);
    bench.remember(7, 3, 1);
    assert_eq!(bench.remember_among(7, 5, 2, |member| member != MemberId(3)), Remembered::Moved(MemberId(5)));
    assert_eq!(bench.remember(7, 3, 3), Remembered::Has(MemberId(5)));
    assert_eq!(bench.templates().clients(), 1);
}

#[test]
fn a_client_is_kept_while_it_has_a_flow_and_for_the_timeout_after() {
    // Shorter than the flow's 15 minutes, longer than a stride of rounds.
    for timeout in [5, 60, 300] {
        let mut bench = Bench::new(persistence(timeout, 24), 1024);
        let key = flow(0x0a00_0007, 4000);
        bench.signal(&key, Signal::Syn, 1);
        bench.remember(0x0a00_0007, 3, 1);
        bench.signal(&key, Signal::Segment, 2);
        // Nothing comes for ten minutes.
        for from in (2..600).step_by(2) {
            bench.sweep(from..from + 2);
            assert_eq!(bench.member(0x0a00_00ff, from), Some(3), "timeout {timeout} s, at {from} s");
        }
        // It closes, and is swept after 10 s; from then on, or the last look before, the timeout counts.
        bench.signal(&key, Signal::Fin, 600);
        let stride = 2 * u64::from(bench.persistence.stride);
        assert!(stride <= (timeout / 4).max(2), "{stride} s between two looks");
        bench.sweep(600..600 + timeout - stride.min(timeout));
        assert_eq!(bench.member(0x0a00_00ff, 600 + timeout - stride), Some(3), "timeout {timeout} s");
        bench.sweep(600 + timeout - stride..600 + 10 + timeout + timeout / 32 + stride + 6);
        assert_eq!(bench.templates().clients(), 0, "timeout {timeout} s: swept");
    }
}

#[test]
fn a_flow_of_an_earlier_member_does_not_keep_the_client_at_the_next() {
    let mut bench = Bench::new(persistence(60, 32), 1024);
    let key = flow(7, 4000);
    bench.signal(&key, Signal::Syn, 1);
    bench.signal(&key, Signal::Segment, 1);
    bench.remember(7, 5, 1);
    bench.sweep(2..80);
    // The flow is member 3's: its template, the member being usable, takes the place of the one that expired.
    assert_eq!(bench.member(7, 80), Some(3));
    bench.tables = tables(bench.persistence, 3);
    bench.remember(9, 0, 80);
    bench.sweep(80..82);
    let gone = flow(11, 4000);
    bench.signal(&gone, Signal::Syn, 82);
    bench.sweep(82..150);
    assert_eq!(bench.member(11, 150), None, "no template is begun for a member that is not usable");
}

/// Only an established flow makes its client one that is not displaced: looks by the sweep do not.
#[test]
fn a_look_confirms_no_client_without_an_established_flow() {
    for (signals, is_real) in [
        (&[Signal::Syn][..], false),
        (&[Signal::Syn, Signal::Rst], false),
        (&[Signal::Datagram], false),
        (&[Signal::Syn, Signal::Segment], true),
        (&[Signal::Datagram, Signal::Datagram], true),
    ] {
        // Every flow is looked at in every other round, before any of them expires.
        let mut bench = Bench::new(persistence(16, 32), 1024);
        bench.remember(7, 3, 1);
        for &signal in signals {
            bench.signal(&flow(7, 4000), signal, 1);
        }
        bench.sweep(3..11);
        let state = bench.templates().v4.iter(Now(0)).next().expect("remembered").state;
        assert_eq!(state == FlowState::Established, is_real, "{signals:?}: {state:?}");
    }
}

#[test]
fn clients_that_are_not_confirmed_make_room_and_others_do_not() {
    let bench = Bench::new(persistence(300, 32), 1024);
    let real: Vec<u32> = (0..500).collect();
    for &client in &real {
        bench.remember(client, client % 8, 1);
        bench.templates().confirm(&bench.persistence, &flow(client, 1), Now(2 * SECOND));
    }
    // A hundred thousand forged addresses over a hundred seconds.
    let (mut begun, mut refused) = (0, 0);
    for forged in 0..100_000u32 {
        match bench.remember(1_000_000 + forged, 1, 3 + u64::from(forged / 1000)) {
            Remembered::Begun => begun += 1,
            Remembered::NotRemembered => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(begun > 10_000 && refused > 0, "{begun} begun, {refused} without room");
    for &client in &real {
        assert_eq!(bench.member(client, 104), Some(client % 8));
    }
    let found = bench.templates().v4.iter(Now(0)).count() as u64;
    assert_eq!(bench.templates().clients(), found, "the count is that of the table");
}

/// Threads that send the same clients' first flows at once agree on each client's member. (A slot that was given back
/// is not taken again within its tick, so rivals in lock-step can use both of a client's lines up: then it is not
/// remembered, and says so.)
#[test]
fn threads_agree_on_every_clients_member() {
    const THREADS: u32 = 4;
    const CLIENTS: u32 = 2000;
    let bench = Bench::new(persistence(300, 32), 65_536);
    let mut refused = 0;
    for round in 0..5 {
        let start = Barrier::new(THREADS as usize);
        let choices: Vec<Vec<Option<u32>>> = thread::scope(|scope| {
            let (bench, start) = (&bench, &start);
            let spawn = |thread| {
                scope.spawn(move || {
                    start.wait();
                    let client = |index| round * CLIENTS + index;
                    (0..CLIENTS)
                        .map(|index| match bench.remember(client(index), thread, 1 + u64::from(round)) {
                            Remembered::Begun => Some(thread),
                            Remembered::Has(member) => Some(member.0),
                            Remembered::NotRemembered => None,
                            moved @ Remembered::Moved(_) => panic!("{moved:?}"),
                        })
                        .collect()
                })
            };
            let threads: Vec<_> = (0..THREADS).map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for index in 0..CLIENTS as usize {
            let members: HashSet<u32> = choices.iter().filter_map(|choice| choice[index]).collect();
            assert_eq!(members.len(), 1, "client {index}: {members:?}");
            refused += choices.iter().filter(|choice| choice[index].is_none()).count();
        }
    }
    assert_eq!(bench.templates().clients(), u64::from(5 * CLIENTS));
    assert!(refused <= (5 * CLIENTS * THREADS / 100) as usize, "{refused} without room");
}

/// Workers begin and confirm, members come and go, and the sweep goes round: the count stays the table's, and nobody
/// is sent to a member that was never given.
#[test]
fn threads_that_do_everything_at_once_keep_the_count_true() {
    let mut bench = Bench::new(persistence(5, 32), 1024);
    let mut hands = std::mem::replace(&mut bench.hands, FlowTable::new(16, 1).expect("memory").1);
    thread::scope(|scope| {
        let bench = &bench;
        let workers: Vec<_> = (0..3u32)
            .map(|worker| {
                scope.spawn(move || {
                    for step in 0..60_000u32 {
                        let client = step.wrapping_mul(2_654_435_761).wrapping_add(worker) % 3000;
                        let at = u64::from(step / 500);
                        match bench.remember_among(client, worker, at, |member| member.0 != step / 1000 % 3) {
                            Remembered::Has(member) | Remembered::Moved(member) => assert!(member.0 < 3),
                            Remembered::Begun | Remembered::NotRemembered => {}
                        }
                        if step % 3 == 0 {
                            bench.templates().confirm(&bench.persistence, &flow(client, 1), Now(at * SECOND));
                        }
                    }
                })
            })
            .collect();
        let mut at = 0;
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            bench.flows.sweep(&mut hands, Now(at % 120 * SECOND), STEPS, &bench.tables);
            at += 1;
        }
    });
    assert_eq!(bench.templates().clients(), bench.templates().v4.iter(Now(0)).count() as u64);
    for round in 0..2 * STEPS {
        bench.flows.sweep(&mut hands, Now((1000 + round as u64) * SECOND), STEPS, &bench.tables);
    }
    assert_eq!(bench.templates().clients(), 0);
}
