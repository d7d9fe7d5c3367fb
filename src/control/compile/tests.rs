//! What health makes of the tables, and where addresses are announced.

use std::fmt::Write as _;
use std::sync::Arc;

use super::*;
use crate::control::neighbor::{Link, Subnet};

/// A pool of so many members with these keys, and a sorry pool of one, all on the link.
fn plan(members: u8, keys: &str) -> (Plan, Network) {
    let mut text = format!(
        "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\nport = 80\n\
         pool = \"p\"\n[[pool]]\nname = \"s\"\n[[pool.member]]\nname = \"s0\"\naddress = \"10.0.1.1\"\n[[pool]]\nname = \"p\"\n{keys}\n"
    );
    for index in 0..members {
        // Writing to a String cannot fail.
        let _ = write!(text, "[[pool.member]]\nname = \"m{index}\"\naddress = \"10.0.0.{}\"\n", index + 1);
    }
    let plan = Plan::new(Model::parse("p.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}")));
    let hop = NextHop {
        interface: "eth0".to_owned(),
        mac: [2; 6],
        gateway: None,
        source: Ipv4Addr::new(10, 0, 0, 254),
        mtu: None,
    };
    let link = Link { index: 2, mac: [2; 6], mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 };
    let next_hops = plan.targets().into_iter().map(|address| (address, Ok(hop.clone()))).collect();
    (plan, Network { links: [("eth0".to_owned(), link)].into(), next_hops, ..Network::default() })
}

fn compile(plan: &mut Plan, network: &Network) -> Compiled {
    plan.compile(network, &["eth0".to_owned()], 1)
}

fn slots(compiled: &Compiled) -> Arc<[MemberId]> {
    Arc::clone(&compiled.tables.vips[0].slots)
}

fn down() -> Finding {
    Finding::Down("http: 503, expected 200-299".into())
}

#[test]
fn health_moves_exactly_the_slots_of_the_member_concerned_and_back() {
    let (mut plan, network) = plan(5, "");
    let before = compile(&mut plan, &network);
    let whole = slots(&before);
    let failed = before.members.iter().position(|member| member.name == "p/m2").expect("it is there");
    let failed = MemberId(failed as u32);
    plan.health.set("p", "m2", down());
    let after = compile(&mut plan, &network);
    for (was, is) in whole.iter().zip(slots(&after).iter()) {
        assert_eq!(was != is, *was == failed, "{was:?} became {is:?}");
    }
    assert!(before.tables.is_reachable(failed) && !after.tables.is_reachable(failed));
    let state = after.members[failed.0 as usize].state.to_string();
    assert_eq!(state, "down: http: 503, expected 200-299");
    plan.health.set("p", "m2", Finding::Up { weight: None });
    assert_eq!(slots(&compile(&mut plan, &network)), whole);
}

#[test]
fn the_sorry_pool_serves_when_nobody_is_left() {
    let (mut plan, network) = plan(2, "sorry_pool = \"s\"");
    plan.health.set("p", "m0", down());
    let one = slots(&compile(&mut plan, &network));
    plan.health.set("p", "m1", down());
    let sorry = compile(&mut plan, &network);
    let names: Vec<&str> = sorry.members.iter().map(|member| member.name.as_str()).collect();
    assert!(slots(&sorry).iter().all(|id| names[id.0 as usize] == "s/s0"));
    assert!(sorry.tables.vips[0].pool.admits(slots(&sorry)[0]));
    plan.health.set("p", "m1", Finding::Up { weight: None });
    assert_eq!(slots(&compile(&mut plan, &network)), one);
}

#[test]
fn who_is_told_to_drain_gets_nothing_and_is_told_from_a_weight_of_nothing() {
    let (plan, network) = plan(2, "");
    let mut model = plan.model;
    model.pools[1].members[0].drain = true;
    let drained = compile(&mut Plan::new(model.clone()), &network);
    let names: Vec<&str> = drained.members.iter().map(|member| member.name.as_str()).collect();
    assert!(slots(&drained).iter().all(|id| names[id.0 as usize] == "p/m1"));
    assert_eq!(drained.members[1].state, MemberState::Drain { by_operator: true });
    assert!(drained.tables.is_reachable(MemberId(1)), "it keeps what it has");
    model.pools[1].members[0].drain = false;
    model.pools[1].members[0].weight = 0;
    let weightless = compile(&mut Plan::new(model), &network);
    assert_eq!(slots(&weightless), slots(&drained));
    assert_eq!(weightless.members[1].state, MemberState::Drain { by_operator: false });
}

#[test]
fn a_weight_from_a_script_counts_and_one_of_nothing_drains() {
    let (mut plan, network) = plan(2, "");
    let configured = slots(&compile(&mut plan, &network));
    let share = |slots: &[MemberId], name: &str, compiled: &Compiled| {
        let of = |id: &&MemberId| compiled.members[id.0 as usize].name == name;
        slots.iter().filter(of).count() as f64 / slots.len() as f64
    };
    plan.health.set("p", "m0", Finding::Up { weight: Some(3) });
    let weighed = compile(&mut plan, &network);
    assert!((share(&slots(&weighed), "p/m0", &weighed) - 0.75).abs() < 0.001);
    plan.health.set("p", "m0", Finding::Up { weight: Some(0) });
    let drained = compile(&mut plan, &network);
    assert!(share(&slots(&drained), "p/m1", &drained) > 0.9999);
    assert_eq!(
        drained.members.iter().find(|one| one.name == "p/m0").map(|one| &one.state),
        Some(&MemberState::Drain { by_operator: false })
    );
    plan.health.set("p", "m0", Finding::Up { weight: None });
    assert_eq!(slots(&compile(&mut plan, &network)), configured);
}

#[test]
fn a_member_that_came_up_takes_back_more_and_more_of_its_slots() {
    let (mut plan, network) = plan(4, "slow_start = \"32s\"");
    let whole = slots(&compile(&mut plan, &network));
    plan.health.set("p", "m1", down());
    compile(&mut plan, &network);
    plan.health.set("p", "m1", Finding::Up { weight: None });
    let start = plan.now;
    let mut before = 0;
    for second in [0, 8, 16, 31] {
        plan.now = start + std::time::Duration::from_secs(second);
        let compiled = compile(&mut plan, &network);
        let own = MemberId(compiled.members.iter().position(|one| one.name == "p/m1").expect("it is there") as u32);
        let now = slots(&compiled);
        let kept = whole.iter().zip(now.iter()).filter(|(was, is)| **was == own && *is == &own).count();
        assert!(kept > before, "second {second}: {kept} slots after {before}");
        assert!(whole.iter().zip(now.iter()).all(|(was, is)| was == is || *was == own), "nobody else gives any away");
        before = kept;
        if second < 31 {
            assert_eq!(plan.next(), Some(start + std::time::Duration::from_secs(second + 1)));
        }
    }
    assert_eq!(plan.next(), None);
    assert_eq!(slots(&compile(&mut plan, &network)), whole);
}

#[test]
fn an_address_is_announced_in_the_narrowest_subnet_around_it() {
    let interfaces = ["eth0".to_owned(), "eth1".to_owned()];
    let vip = Ipv4Addr::new(10, 1, 2, 50);
    let subnet = |interface: &str, third, length| Subnet {
        interface: interface.to_owned(),
        address: Ipv4Addr::new(10, 1, third, 9),
        length,
    };
    let rows: [(&str, &[Subnet], &[u8]); 6] = [
        ("no subnet: anywhere", &[], &[0, 1]),
        ("another subnet: anywhere", &[subnet("eth0", 7, 24)], &[0, 1]),
        ("one", &[subnet("eth1", 2, 24), subnet("eth0", 7, 24)], &[1]),
        ("both have it", &[subnet("eth0", 2, 24), subnet("eth1", 2, 24)], &[0, 1]),
        ("one around the other", &[subnet("eth0", 2, 16), subnet("eth1", 2, 24)], &[1]),
        ("that of an interface which is not served", &[subnet("eth0", 2, 16), subnet("eth2", 2, 24)], &[]),
    ];
    for (words, subnets, expected) in rows {
        let network = Network { subnets: subnets.iter().cloned().collect(), ..Network::default() };
        let found: Vec<u8> = announcing(vip, &network, &interfaces).map(|id| id.0).collect();
        assert_eq!(found, expected, "{words}");
    }
}

#[test]
fn pools_are_laid_out_in_their_order_on_however_many_threads() {
    let mut text = "[[interface]]\nname = \"eth0\"\n".to_owned();
    for pool in 0..100 {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[vip]]\nname = \"v{pool}\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\nport = {}\n",
            pool + 1
        );
        let _ = write!(text, "pool = \"p{pool}\"\n[[pool]]\nname = \"p{pool}\"\n");
        let _ = write!(text, "[[pool.member]]\nname = \"m\"\naddress = \"10.0.0.{}\"\n", pool + 1);
    }
    let model = Model::parse("p.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let ids: Vec<Vec<MemberId>> = (0..100).map(|pool| vec![MemberId(pool)]).collect();
    for threads in [1, 2, 3, 6, 7, 64] {
        let laid = lay_out_all(&model.pools, &ids, threads, |pool, ids| (pool.name.clone(), ids[0].0));
        let expected: Vec<_> = (0..100).map(|pool| (format!("p{pool}"), pool)).collect();
        assert_eq!(laid, expected, "{threads}");
    }
    assert!(lay_out_all(&[], &[], 4, |_, _| ()).is_empty());
}
