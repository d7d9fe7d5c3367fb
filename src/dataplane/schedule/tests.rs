use std::collections::BTreeMap;

use proptest::prelude::*;

use super::oracle::{self, Server};
use super::*;
use crate::dataplane::flow::{Event, FlowState};

const VIP: VipId = VipId(7);

fn server(weight: u16) -> Server {
    Server { weight: weight.into(), active: 0, inactive: 0, overloaded: false }
}

fn servers(weights: &[u16]) -> Vec<Server> {
    weights.iter().map(|&weight| server(weight)).collect()
}

/// Ids and indices differ, as in any pool but the first.
fn id(index: usize) -> MemberId {
    MemberId(40 + index as u32)
}

fn pool(scheduler: Scheduler, servers: &[Server]) -> Pool {
    let candidate = |(index, server): (usize, &Server)| Candidate {
        member: id(index),
        weight: server.weight.try_into().expect("16 bits"),
    };
    let candidates = servers.iter().enumerate().map(candidate).collect();
    Pool::new(scheduler, OnMemberDown::Reselect, candidates)
}

fn loads(servers: &[Server]) -> Loads {
    let loads = Loads::new(100, 1);
    for (index, server) in servers.iter().enumerate() {
        for (count, state) in [(server.active, FlowState::Established), (server.inactive, FlowState::Closing)] {
            (0..count).for_each(|_| loads.record(Event::Began { vip: VipId(0), member: id(index), state }, &None));
        }
        loads.of(id(index)).set_overloaded(server.overloaded);
    }
    loads
}

fn flow(source: u32, source_port: u16) -> FlowKey {
    FlowKey { source, destination: 0xcb00_7102, source_port, destination_port: 80, protocol: 6 }
}

fn chosen_by(pool: &Pool, (loads, turns): (&Loads, &Turns), slots: &[MemberId], flow: &FlowKey) -> Option<MemberId> {
    let surroundings = Surroundings { vip: VIP, slots, seed: Seed::from_text("test"), loads, turns };
    pool.choose(&surroundings, flow, |member| !loads.of(member).is_overloaded())
}

/// The index of the member that a new flow gets, its turn taken.
fn schedule(pool: &Pool, loads: &Loads, turns: &Turns) -> Option<usize> {
    let chosen = chosen_by(pool, (loads, turns), &[], &flow(1, 1));
    if pool.takes_turns() {
        let taken = pool.take_turn(turns, VIP, |member| !loads.of(member).is_overloaded());
        assert_eq!(taken, chosen, "nobody else takes a turn");
    }
    chosen.map(|member| member.0 as usize - 40)
}

fn sequence(scheduler: Scheduler, weights: &[u16], count: usize) -> Vec<Option<usize>> {
    let servers = servers(weights);
    let (pool, loads, turns) = (pool(scheduler, &servers), loads(&servers), Turns::new());
    (0..count).map(|_| schedule(&pool, &loads, &turns)).collect()
}

#[test]
fn round_robin_gives_each_member_its_turn_whatever_its_weight() {
    let some = |indices: &[usize]| indices.iter().copied().map(Some).collect::<Vec<_>>();
    assert_eq!(sequence(Scheduler::RoundRobin, &[1, 100, 0, 3], 7), some(&[0, 1, 3, 0, 1, 3, 0]));
    assert_eq!(sequence(Scheduler::RoundRobin, &[0, 0], 2), [None, None]);
    assert_eq!(sequence(Scheduler::RoundRobin, &[], 1), [None]);
}

#[test]
fn weighted_round_robin_interleaves() {
    // "servers A, B and C with weights 4, 3 and 2: AABABCABC" (LVS HOWTO; ipvsadm(8)'s wrr).
    let expected = [0, 0, 1, 0, 1, 2, 0, 1, 2].map(Some);
    assert_eq!(sequence(Scheduler::WeightedRoundRobin, &[4, 3, 2], 9), expected);
    // The step is the greatest common divisor: the same order.
    assert_eq!(sequence(Scheduler::WeightedRoundRobin, &[400, 300, 200], 9), expected);
    assert_eq!(sequence(Scheduler::WeightedRoundRobin, &[0, 0], 1), [None]);
}

#[test]
fn a_round_robin_goes_on_where_it_stood_when_a_member_goes_and_comes() {
    let (all, turns) = (servers(&[1, 1, 1]), Turns::new());
    let without_first = servers(&[0, 1, 1]);
    let loads = loads(&all);
    let next = |servers: &[Server]| schedule(&pool(Scheduler::WeightedRoundRobin, servers), &loads, &turns);
    let order = [&all, &all, &without_first, &without_first, &all, &all].map(|servers| next(servers));
    assert_eq!(order, [0, 1, 2, 1, 2, 0].map(Some));
}

#[test]
fn two_vips_of_a_pool_take_turns_of_their_own() {
    let servers = servers(&[1, 1]);
    let (pool, turns) = (pool(Scheduler::RoundRobin, &servers), Turns::new());
    // One request to each in turn: with a common turn, one VIP would always get the same member.
    let taken = [VipId(0), VipId(1), VipId(0), VipId(1)].map(|vip| pool.take_turn(&turns, vip, |_| true));
    assert_eq!(taken, [0, 0, 1, 1].map(|index| Some(id(index))));
}

#[test]
fn a_position_beyond_the_members_is_the_beginning() {
    let turns = Turns::new();
    let (many, few) = (servers(&[3; 9]), servers(&[2; 3]));
    let loads = loads(&many);
    let next = |servers: &[Server]| schedule(&pool(Scheduler::WeightedRoundRobin, servers), &loads, &turns);
    let order: Vec<_> = (0..8).map(|_| next(&many)).collect();
    assert_eq!(order.last(), Some(&Some(7)));
    assert_eq!(next(&few), Some(0));
}

/// Each thread takes turns as workers do; together they must come to exactly what the weights say.
#[test]
fn workers_never_take_the_same_turn() {
    const THREADS: usize = 4;
    const CYCLES: usize = 3000;
    for (scheduler, weights) in
        [(Scheduler::RoundRobin, &[1, 1, 1, 0, 1][..]), (Scheduler::WeightedRoundRobin, &[1, 2, 3, 0, 6][..])]
    {
        let servers = servers(weights);
        let (pool, turns) = (pool(scheduler, &servers), Turns::new());
        let sum: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
        let mut total: BTreeMap<MemberId, usize> = BTreeMap::new();
        let take = || {
            let mut taken: BTreeMap<MemberId, usize> = BTreeMap::new();
            for _ in 0..CYCLES * sum {
                *taken.entry(pool.take_turn(&turns, VIP, |_| true).expect("a member")).or_default() += 1;
            }
            taken
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(take)).collect();
            for thread in threads {
                for (member, count) in thread.join().expect("a thread") {
                    *total.entry(member).or_default() += count;
                }
            }
        });
        for (index, &weight) in weights.iter().enumerate() {
            let count = total.get(&id(index)).copied().unwrap_or(0);
            assert_eq!(count, usize::from(weight) * CYCLES * THREADS, "{scheduler:?}, member {index}");
        }
    }
}

#[test]
fn the_least_loaded_member_is_found() {
    use Scheduler::{LeastConnections, NeverQueue, ShortestExpectedDelay, WeightedLeastConnections};
    let loaded = |weight, active, inactive| Server { active, inactive, ..server(weight) };
    let overloaded = Server { overloaded: true, ..server(9) };
    let rows: [(&str, Scheduler, &[Server], Option<usize>); 13] = [
        ("the first of equals", LeastConnections, &[server(1), server(1)], Some(0)),
        ("256 inactive ones are one active", LeastConnections, &[loaded(1, 1, 0), loaded(1, 0, 256)], Some(0)),
        ("255 are less", LeastConnections, &[loaded(1, 1, 0), loaded(1, 0, 255)], Some(1)),
        ("weights do not count", LeastConnections, &[loaded(9, 2, 0), loaded(1, 1, 0)], Some(1)),
        ("but 0 does", LeastConnections, &[loaded(1, 2, 0), server(0)], Some(0)),
        ("weights count", WeightedLeastConnections, &[loaded(1, 1, 0), loaded(3, 2, 0)], Some(1)),
        ("a whole member is enough", WeightedLeastConnections, &[loaded(2, 2, 0), loaded(3, 3, 0)], Some(0)),
        ("weight 0 is quiesced", WeightedLeastConnections, &[server(0), loaded(1, 5, 0)], Some(1)),
        ("nobody", WeightedLeastConnections, &[server(0), overloaded], None),
        ("the new flow counts", ShortestExpectedDelay, &[server(1), loaded(3, 1, 0)], Some(1)),
        ("never queue: idle before fast", NeverQueue, &[loaded(9, 1, 0), server(1)], Some(1)),
        ("else the shortest delay", NeverQueue, &[loaded(1, 1, 0), loaded(9, 1, 0)], Some(1)),
        ("an overloaded member is none", NeverQueue, &[overloaded, loaded(1, 1, 0)], Some(1)),
    ];
    for (words, scheduler, servers, expected) in rows {
        assert_eq!(schedule(&pool(scheduler, servers), &loads(servers), &Turns::new()), expected, "{words}");
    }
}

#[test]
fn a_source_keeps_its_member_and_shares_follow_the_slots() {
    let servers = servers(&[1, 3]);
    let (pool, loads, turns) = (pool(Scheduler::SourceHash, &servers), loads(&servers), Turns::new());
    let slots = [0, 1, 1, 1].map(id);
    let mut counts = [0; 2];
    for source in 0..8000 {
        let member = chosen_by(&pool, (&loads, &turns), &slots, &flow(source, 1)).expect("a member");
        for port in 2..5 {
            assert_eq!(chosen_by(&pool, (&loads, &turns), &slots, &flow(source, port)), Some(member));
            // A packet in mid-stream after a restart, too.
            assert_eq!(pool.hashed((Seed::from_text("test"), &slots), &flow(source, port)), Some(member));
        }
        counts[member.0 as usize - 40] += 1;
    }
    assert!((1850..2150).contains(&counts[0]), "{counts:?}");
}

#[test]
fn hashing_passes_over_overloaded_members_and_disturbs_no_others() {
    let mut servers = servers(&[1, 1, 1, 1, 0]);
    let slots = [0, 1, 2, 3].map(id);
    for scheduler in [Scheduler::Maglev, Scheduler::SourceHash] {
        let (pool, turns) = (pool(scheduler, &servers), Turns::new());
        let choices = |overloaded: &[usize]| {
            for (index, server) in servers.clone().iter_mut().enumerate() {
                server.overloaded = overloaded.contains(&index);
                servers[index] = *server;
            }
            let loads = loads(&servers);
            let choose = |source| chosen_by(&pool, (&loads, &turns), &slots, &flow(source, 9));
            (0..1000).map(choose).collect::<Vec<_>>()
        };
        let mut choices = choices;
        let before = choices(&[]);
        let after = choices(&[1]);
        for (was, is) in before.iter().zip(&after) {
            assert!(is.is_some() && *is != Some(id(1)));
            assert!(was == is || *was == Some(id(1)), "{scheduler:?}: {was:?} became {is:?}");
        }
        // All but one: found even where no slot that is looked at is that one's.
        assert!(choices(&[0, 1, 3]).iter().all(|member| *member == Some(id(2))));
        assert!(choices(&[0, 1, 2, 3]).iter().all(Option::is_none), "the quiesced one stays out of it");
    }
}

/// A server with a load; small numbers, so that ratios meet often.
fn any_server() -> impl Strategy<Value = Server> {
    (0u16..7, 0i64..9, 0i64..600, prop::bool::weighted(0.2)).prop_map(|(weight, active, inactive, overloaded)| Server {
        weight: weight.into(),
        active,
        inactive,
        overloaded,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn least_loaded_members_are_ipvs_s(servers in prop::collection::vec(any_server(), 0..10)) {
        let (loads, turns) = (loads(&servers), Turns::new());
        for (scheduler, expected) in [
            (Scheduler::LeastConnections, oracle::lc(&servers)),
            (Scheduler::WeightedLeastConnections, oracle::wlc(&servers)),
            (Scheduler::ShortestExpectedDelay, oracle::sed(&servers)),
            (Scheduler::NeverQueue, oracle::nq(&servers)),
        ] {
            prop_assert_eq!(schedule(&pool(scheduler, &servers), &loads, &turns), expected, "{:?}", scheduler);
        }
    }

    /// Weights change and members become overloaded on the way.
    #[test]
    fn turns_are_ipvs_s(
        steps in prop::collection::vec((prop::collection::vec((0u16..13, prop::bool::weighted(0.3)), 6), 1usize..20), 1..8),
        scale in 1u16..5,
    ) {
        let turns = [Turns::new(), Turns::new()];
        let mut rr = oracle::RoundRobin::default();
        let mut wrr: Option<oracle::WeightedRoundRobin> = None;
        for (servers, count) in steps {
            let one = |(weight, overloaded)| Server { overloaded, ..server(weight * scale) };
            let servers: Vec<Server> = servers.into_iter().map(one).collect();
            let loads = loads(&servers);
            let (ours, weighted) = (pool(Scheduler::RoundRobin, &servers), pool(Scheduler::WeightedRoundRobin, &servers));
            let is_anybody_there = servers.iter().any(|server| server.weight > 0 && !server.overloaded);
            if is_anybody_there {
                // Before that, there was nothing to stand at.
                wrr.get_or_insert_with(|| oracle::WeightedRoundRobin::new(&servers)).changed(&servers);
            }
            for _ in 0..count {
                prop_assert_eq!(schedule(&ours, &loads, &turns[0]), rr.schedule(&servers));
                let expected = wrr.as_mut().filter(|_| is_anybody_there).map(|wrr| wrr.schedule(&servers));
                prop_assert_eq!(schedule(&weighted, &loads, &turns[1]), expected);
            }
        }
    }
}
