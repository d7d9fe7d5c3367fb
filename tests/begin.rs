//! Flows that begin, and flows that lose their member: from the configuration to the frame that leaves.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use pointsman::control::compile::Plan;
use pointsman::control::model::Model;
use pointsman::control::neighbor::{Link, Network, NextHop, Unresolved};
use pointsman::dataplane::flow::{Event, FlowState, FlowTable, NewFlowBudget, Now, Sizes};
use pointsman::dataplane::limits::Policy;
use pointsman::dataplane::load::Thresholds;
use pointsman::dataplane::persistence::{Persistence, Templates};
use pointsman::dataplane::tables::{MemberId, Tables, VipId};
use pointsman::dataplane::verdict::{DropReason, FlowEffect, Verdict};
use support::*;

const SCHEDULERS: [&str; 8] = ["maglev", "rr", "wrr", "lc", "wlc", "sh", "sed", "nq"];
const NOW: Now = Now(0);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x11;

/// A pool, and which of its members the network leads to.
#[derive(Clone, Copy)]
struct Setting<'a> {
    scheduler: &'a str,
    on_member_down: &'a str,
    /// Lines of each member's table.
    members: &'a [&'a str],
    unresolved: &'a [usize],
}

impl Setting<'_> {
    fn tables(&self) -> Tables {
        let member = |index: usize| Ipv4Addr::new(203, 0, 113, 101 + index as u8);
        let mut text = format!(
            "[[interface]]\nname = \"eth0\"\n\n[[vip]]\nname = \"web\"\naddress = \"{VIP}\"\nprotocol = \"tcp\"\n\
             port = 80\npool = \"web\"\n\n[[vip]]\nname = \"dns\"\naddress = \"{VIP}\"\nprotocol = \"udp\"\n\
             port = 53\npool = \"web\"\n\n[[pool]]\nname = \"web\"\nscheduler = \"{}\"\non_member_down = \"{}\"\n",
            self.scheduler, self.on_member_down
        );
        for (index, lines) in self.members.iter().enumerate() {
            let address = member(index);
            let _ = write!(text, "[[pool.member]]\nname = \"web{index}\"\naddress = \"{address}\"\n{lines}\n");
        }
        let model = Model::parse("begin.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        let next_hop = |index: usize| NextHop {
            interface: "eth0".to_owned(),
            mac: member_mac(index as u8),
            gateway: None,
            source: Ipv4Addr::new(203, 0, 113, 10),
            mtu: None,
        };
        let is_there = |index: &usize| !self.unresolved.contains(index);
        let hops = (0..self.members.len()).map(|index| {
            (member(index), Some(next_hop(index)).filter(|_| is_there(&index)).ok_or(Unresolved::Resolving))
        });
        let link = Link { index: 2, mac: LB_MAC, mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 };
        let network =
            Network { links: [("eth0".to_owned(), link)].into(), next_hops: hops.collect(), ..Network::default() };
        Plan::new(model).compile(&network, &["eth0".to_owned()], 1).tables
    }
}

/// Three members of weight 1, all of them there.
fn equal(scheduler: &str) -> Setting<'_> {
    Setting { scheduler, on_member_down: "reselect", members: &["", "", ""], unresolved: &[] }
}

fn segment(source_port: u16, flags: u8) -> Frame {
    let mut frame = Frame::tcp(source_port, 80, 0);
    frame.payload[13] = flags;
    frame
}

/// The member that a frame leaves for; `None`: it does not leave.
fn member_of(output: Option<Vec<u8>>) -> Option<u8> {
    output.map(|bytes| bytes[5])
}

fn walk(tables: &Tables, flows: &FlowTable, frame: &Frame) -> Result<u8, DropReason> {
    let (decision, output) = walk_with(tables, flows, &frame.bytes(), NOW);
    match decision.verdict {
        Verdict::Drop(reason) => Err(reason),
        _ => Ok(member_of(output).expect("a frame that leaves")),
    }
}

/// (active, inactive) flows of a member.
fn load(flows: &FlowTable, member: u32) -> (u32, u32) {
    let load = flows.loads.of(MemberId(member));
    (load.active(), load.inactive())
}

#[test]
fn new_flows_are_shared_as_the_scheduler_says() {
    let weighted = ["weight = 1", "weight = 2", "weight = 3"];
    let rows: [(&str, [u32; 3]); 6] = [
        ("rr", [200, 200, 200]),
        ("wrr", [100, 200, 300]),
        ("lc", [200, 200, 200]),
        ("wlc", [100, 200, 300]),
        ("sed", [100, 200, 300]),
        ("nq", [100, 200, 300]),
    ];
    for (scheduler, expected) in rows {
        let tables = Setting { members: &weighted, ..equal(scheduler) }.tables();
        let flows = flows();
        let mut counts = [0; 3];
        for port in 1024..1624 {
            let member = walk(&tables, &flows, &segment(port, SYN)).expect("a member");
            assert_eq!(walk(&tables, &flows, &segment(port, ACK)), Ok(member), "{scheduler}");
            counts[usize::from(member)] += 1;
        }
        let is_near = counts.iter().zip(expected).all(|(&count, expected): (&u32, u32)| count.abs_diff(expected) <= 1);
        assert!(is_near, "{scheduler}: {counts:?}");
        assert_eq!([0, 1, 2].map(|member| load(&flows, member)), counts.map(|count| (count, 0)), "{scheduler}");
    }
}

#[test]
fn clients_that_come_all_at_once_are_shared_evenly() {
    for scheduler in ["lc", "wlc", "sed", "nq"] {
        let (tables, flows) = (equal(scheduler).tables(), flows());
        let mut counts = [0; 3];
        for port in 1024..1324 {
            counts[usize::from(walk(&tables, &flows, &segment(port, SYN)).expect("a member"))] += 1;
        }
        assert_eq!(counts, [100; 3], "{scheduler}: SYNs that nobody has answered yet");
        assert_eq!([0, 1, 2].map(|member| load(&flows, member)), [(100, 0); 3], "{scheduler}");
    }
}

#[test]
fn a_flow_that_is_first_seen_at_its_end_is_closing() {
    let (tables, flows) = (equal("maglev").tables(), flows());
    for flags in [FIN, ACK] {
        walk(&tables, &flows, &segment(1024, flags)).expect("a member");
    }
    let states: Vec<_> = flows.v4.iter(NOW).map(|flow| flow.state).collect();
    assert_eq!(states, [FlowState::Closing], "the FIN, and the acknowledgement of the member's");
}

#[test]
fn first_datagrams_of_udp_count_as_active_flows() {
    for scheduler in ["lc", "wlc", "sed", "nq", "rr", "wrr"] {
        let (tables, flows) = (equal(scheduler).tables(), flows());
        for port in 1024..1324 {
            walk(&tables, &flows, &Frame::udp(port, 53, 10)).expect("a member");
        }
        assert_eq!([0, 1, 2].map(|member| load(&flows, member)), [(100, 0); 3], "{scheduler}");
    }
}

#[test]
fn a_source_keeps_its_member_under_sh_whatever_becomes_of_the_table() {
    let (tables, flows) = (equal("sh").tables(), flows());
    let mut counts = BTreeMap::new();
    for client in 0..300u32 {
        let from = |frame: Frame| Frame { source: Ipv4Addr::from_bits(0xc612_0000 + client), ..frame };
        let member = walk(&tables, &flows, &from(segment(1024, SYN))).expect("a member");
        assert_eq!(walk(&tables, &flows, &from(segment(1025, SYN))), Ok(member), "another port");
        assert_eq!(walk(&tables, &flows, &from(Frame::udp(1024, 53, 0))), Ok(member), "another VIP of the pool");
        assert_eq!(walk(&tables, &support::flows(), &from(segment(1024, ACK))), Ok(member), "after a restart");
        *counts.entry(member).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| (65..135).contains(count)), "{counts:?}");
}

#[test]
fn what_does_not_begin_a_flow_goes_by_the_maglev_table_and_takes_no_turn() {
    let maglev = equal("maglev").tables();
    for scheduler in ["rr", "wrr", "lc", "wlc", "sed", "nq"] {
        let (tables, flows) = (equal(scheduler).tables(), flows());
        assert_eq!(walk(&tables, &flows, &segment(1000, SYN)), Ok(0), "{scheduler}: the first turn");
        for port in 1024..1124 {
            let reply = Frame { source: VIP, destination: CLIENT, ..Frame::tcp(80, port, 0) }.packet();
            for frame in [Frame::icmp_error(3, 4, &reply[..28]), segment(port, 0x04), segment(port, ACK)] {
                let expected = walk(&maglev, &support::flows(), &frame);
                assert_eq!(walk(&tables, &flows, &frame), expected, "{scheduler}, port {port}");
            }
        }
        if matches!(scheduler, "rr" | "wrr") {
            assert_eq!(walk(&tables, &flows, &segment(1001, SYN)), Ok(1), "{scheduler}: the second turn");
        }
    }
}

#[test]
fn a_flow_above_the_budget_goes_where_its_later_packets_will() {
    for scheduler in SCHEDULERS {
        let (tables, flows) = (equal(scheduler).tables(), flows());
        let mut spent = spent_budget();
        let mut seen = BTreeSet::new();
        for port in 1024..1124 {
            let mut member_for = |flags| {
                let (_, output) = walk_within((&tables, &flows), &mut spent, &segment(port, flags).bytes(), NOW);
                member_of(output).unwrap_or_else(|| panic!("{scheduler}, port {port}: it does not leave"))
            };
            let (first, later) = (member_for(SYN), member_for(ACK));
            assert_eq!(first, later, "{scheduler}, port {port}");
            seen.insert(first);
        }
        // The client alone is hashed under `sh`, and there is one client.
        assert_eq!(seen.len(), if scheduler == "sh" { 1 } else { 3 }, "{scheduler}");
        assert_eq!(flows.v4.iter(NOW).count(), 0);
    }
}

fn spent_budget() -> NewFlowBudget {
    let mut budget = NewFlowBudget::new(0, NOW);
    budget.take();
    assert!(!budget.has_left());
    budget
}

#[test]
fn a_flow_that_turns_out_to_go_to_another_member_still_has_to_fit() {
    // The idlest member takes anything; the hashed one, to which flows go that find no room, only short packets.
    let others = Setting { members: &["weight = 0", "", ""], ..equal("lc") }.tables();
    let mut tables = equal("lc").tables();
    Arc::make_mut(&mut tables.members)[1..].iter_mut().for_each(|member| member.largest = 40);
    let flows = FlowTable::new(1, 10).expect("memory").0;
    for port in 1024..2024 {
        for flags in [SYN, ACK] {
            assert!(walk(&others, &flows, &segment(port, flags)).is_ok(), "until there is no room for more");
        }
    }
    let mut left = 0;
    for port in 1024..1124 {
        let datagram = Frame::udp(port, 53, 100).bytes();
        let (decision, output) = walk_with(&tables, &flows, &datagram, NOW);
        assert_eq!(decision.verdict, Verdict::Transmit(MemberId(0)));
        assert!(output.is_none() || member_of(output.clone()) == Some(0), "too long for the others");
        left += usize::from(output.is_some());
    }
    assert!((20..50).contains(&left), "a third is hashed to the first member: {left}");
}

/// A worker is a thread with frames of its own; tables, flows and turns are everybody's.
#[test]
fn several_workers_take_turns_together() {
    const WORKERS: u16 = 4;
    const FLOWS: u16 = 600;
    for (scheduler, weights) in [("rr", [1, 1, 1]), ("wrr", [1, 2, 3])] {
        let members = ["weight = 1", "weight = 2", "weight = 3"];
        let tables = Setting { members: &members, ..equal(scheduler) }.tables();
        let flows = FlowTable::new(16_384, 10).expect("memory").0;
        let count = |worker: u16| {
            let mut counts = [0u32; 3];
            for port in 0..FLOWS {
                let frame = segment(1024 + worker * FLOWS + port, SYN);
                counts[usize::from(walk(&tables, &flows, &frame).expect("a member"))] += 1;
            }
            counts
        };
        let counts: Vec<[u32; 3]> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || count(worker))).collect();
            workers.into_iter().map(|worker| worker.join().expect("a worker")).collect()
        });
        let total = [0, 1, 2].map(|member| counts.iter().map(|counts| counts[member]).sum::<u32>());
        let share = u32::from(WORKERS * FLOWS) / weights.iter().sum::<u32>();
        assert_eq!(total, weights.map(|weight| weight * share), "{scheduler}: every turn was taken once");
        assert_eq!(flows.v4.iter(NOW).count(), usize::from(WORKERS * FLOWS));
    }
}

#[test]
fn a_drained_member_keeps_its_flows_and_gets_no_new_ones() {
    for scheduler in SCHEDULERS {
        for drained in ["weight = 0", "enabled = false"] {
            let words = format!("{scheduler}, {drained}");
            let (before, flows) = (equal(scheduler).tables(), flows());
            let after = Setting { members: &["", drained, ""], ..equal(scheduler) }.tables();
            let from = |port: u16| Ipv4Addr::from_bits(0xc612_0000 + u32::from(port));
            let frame = |port, flags| Frame { source: from(port), ..segment(port, flags) };
            let mut old = Vec::new();
            for port in 1024..1174 {
                let member = walk(&before, &flows, &frame(port, SYN)).expect("a member");
                walk(&before, &flows, &frame(port, ACK)).expect("a member");
                old.push((port, member));
            }
            let drained_flows = old.iter().filter(|(_, member)| *member == 1).count();
            assert!(drained_flows >= 25, "{words}: {drained_flows}");
            for port in 2024..2174 {
                let member = walk(&after, &flows, &frame(port, SYN)).expect("a member");
                assert_ne!(member, 1, "{words}: a new flow");
            }
            for (port, member) in old {
                assert_eq!(walk(&after, &flows, &frame(port, ACK)), Ok(member), "{words}: an old flow");
                assert_eq!(walk(&after, &flows, &frame(port, FIN)), Ok(member), "{words}: its end");
            }
            assert_eq!(load(&flows, 1), (0, drained_flows as u32), "{words}: they are closing");
            // The same ports again, while the old connections are closing: new flows.
            for port in 1024..1174 {
                assert_ne!(walk(&after, &flows, &frame(port, SYN)), Ok(1), "{words}: a port used again");
            }
            assert_eq!(load(&flows, 1), (0, 0), "{words}: safe to remove");
        }
    }
}

#[test]
fn members_above_their_threshold_are_passed_over() {
    for scheduler in SCHEDULERS {
        let (tables, flows) = (equal(scheduler).tables(), flows());
        // One flow more is one too many, and leaves again.
        let threshold = Some(Thresholds { upper: NonZeroU32::MIN, lower: None });
        let full = |member: u32, is_full| {
            let (vip, member, state) = (VipId(0), MemberId(member), FlowState::Embryonic);
            let event = if is_full { Event::Began { vip, member, state } } else { Event::Ended { vip, member, state } };
            flows.loads.record(event, &threshold);
            assert_eq!(flows.loads.of(member).is_overloaded(), is_full);
        };
        full(1, true);
        for port in 1024..1124 {
            let member = walk(&tables, &flows, &segment(port, SYN));
            assert!(matches!(member, Ok(0 | 2)), "{scheduler}: {member:?}");
            assert_eq!(walk(&tables, &flows, &segment(port, ACK)), member, "{scheduler}");
        }
        full(0, true);
        full(2, true);
        assert_eq!(walk(&tables, &flows, &segment(9, SYN)), Err(DropReason::MembersOverloaded), "{scheduler}");
        let known = walk(&tables, &flows, &segment(1024, ACK));
        assert!(matches!(known, Ok(0 | 2)), "{scheduler}: flows that are there go on: {known:?}");
        full(1, false);
        assert_eq!(walk(&tables, &flows, &segment(10, SYN)), Ok(1), "{scheduler}");
    }
}

/// A flow of each kind at the first member of two, which is then gone.
fn with_flows(setting: Setting<'_>) -> (FlowTable, Tables) {
    let flows = flows();
    let only_first = Setting { members: &["", "weight = 0"], ..setting }.tables();
    for frame in [segment(1, SYN), segment(2, SYN), segment(2, ACK), segment(3, SYN), segment(3, FIN)] {
        assert_eq!(walk(&only_first, &flows, &frame), Ok(0));
    }
    assert_eq!(walk(&only_first, &flows, &Frame::udp(4, 53, 0)), Ok(0));
    assert_eq!(load(&flows, 0), (3, 1));
    (flows, Setting { members: &["", ""], unresolved: &[0], ..setting }.tables())
}

fn error_about(port: u16) -> Frame {
    let reply = Frame { source: VIP, destination: CLIENT, ..Frame::tcp(80, port, 0) }.packet();
    Frame::icmp_error(3, 4, &reply[..28])
}

#[test]
fn flows_of_a_member_that_is_gone_are_selected_again() {
    for scheduler in SCHEDULERS {
        let (flows, after) = with_flows(equal(scheduler));
        for frame in [segment(1, SYN), segment(2, ACK), segment(3, FIN), Frame::udp(4, 53, 0), error_about(2)] {
            assert_eq!(walk(&after, &flows, &frame), Ok(1), "{scheduler}");
        }
        assert_eq!([load(&flows, 0), load(&flows, 1)], [(0, 0), (2, 2)], "{scheduler}: a connection is over");
        let back = Setting { members: &["", ""], ..equal(scheduler) }.tables();
        assert_eq!(walk(&back, &flows, &segment(2, ACK)), Ok(1), "{scheduler}: for good");
    }
}

#[test]
fn where_nobody_is_left_a_flow_waits_for_its_member() {
    let (flows, _) = with_flows(equal("maglev"));
    let nobody = Setting { members: &["", ""], unresolved: &[0, 1], ..equal("maglev") }.tables();
    assert_eq!(walk(&nobody, &flows, &segment(2, ACK)), Err(DropReason::NoMember));
    let back = Setting { members: &["", ""], ..equal("maglev") }.tables();
    assert_eq!(walk(&back, &flows, &segment(2, ACK)), Ok(0));
}

#[test]
fn flows_of_a_member_that_is_gone_are_kept() {
    for scheduler in SCHEDULERS {
        let setting = Setting { on_member_down: "keep", ..equal(scheduler) };
        let (flows, after) = with_flows(setting);
        for frame in [segment(2, ACK), segment(2, SYN), segment(3, FIN), Frame::udp(4, 53, 0), error_about(2)] {
            assert_eq!(walk(&after, &flows, &frame), Err(DropReason::MemberDownKept), "{scheduler}");
        }
        assert_eq!([load(&flows, 0), load(&flows, 1)], [(3, 1), (0, 0)], "{scheduler}");
        assert_eq!(walk(&after, &flows, &segment(1, SYN)), Ok(1), "{scheduler}: a client that still knocks");
        assert_eq!(walk(&after, &flows, &segment(3, SYN)), Ok(1), "{scheduler}: the next connection of a port");
        let back = Setting { members: &["", ""], ..setting }.tables();
        for frame in [segment(2, ACK), Frame::udp(4, 53, 0)] {
            assert_eq!(walk(&back, &flows, &frame), Ok(0), "{scheduler}: as if nothing had been");
        }
    }
}

#[test]
fn flows_of_a_member_that_is_gone_are_dropped_and_forgotten() {
    for scheduler in SCHEDULERS {
        let (flows, after) = with_flows(Setting { on_member_down: "drop", ..equal(scheduler) });
        assert_eq!(walk(&after, &flows, &error_about(2)), Err(DropReason::MemberDownDropped));
        assert_eq!(load(&flows, 0), (3, 1), "an error changes nothing");
        for frame in [segment(2, ACK), segment(3, FIN), Frame::udp(4, 53, 0)] {
            let (decision, output) = walk_with(&after, &flows, &frame.bytes(), NOW);
            assert_eq!(decision.verdict, Verdict::Drop(DropReason::MemberDownDropped), "{scheduler}");
            assert_eq!((decision.effects.flow, output), (FlowEffect::Forget, None));
        }
        assert_eq!([load(&flows, 0), load(&flows, 1)], [(1, 0), (0, 0)], "{scheduler}");
        assert_eq!(flows.v4.iter(NOW).count(), 1);
        for frame in [segment(2, ACK), segment(3, SYN), Frame::udp(4, 53, 0), segment(1, SYN)] {
            assert_eq!(walk(&after, &flows, &frame), Ok(1), "{scheduler}: the next packet finds another member");
        }
    }
}

#[test]
fn a_member_that_is_no_more_is_gone() {
    for (on_member_down, expected) in
        [("reselect", Ok(0)), ("keep", Err(DropReason::MemberDownKept)), ("drop", Err(DropReason::MemberDownDropped))]
    {
        let setting = Setting { on_member_down, ..equal("rr") };
        let flows = flows();
        let before = Setting { members: &["weight = 0", ""], ..setting }.tables();
        for flags in [SYN, ACK] {
            assert_eq!(walk(&before, &flows, &segment(1, flags)), Ok(1));
        }
        let after = Setting { members: &[""], ..setting }.tables();
        assert_eq!(walk(&after, &flows, &segment(1, ACK)), expected, "{on_member_down}");
    }
}

/// Round robin over three members for clients that are remembered, and datagrams that are not.
fn one_packet_with_persistence() -> (Tables, FlowTable) {
    let mut tables = equal("rr").tables();
    let persistence = Some(Persistence::new(Duration::from_mins(5), 32));
    tables.limits.policies =
        tables.vips.iter().map(|_| Policy { one_packet: true, persistence, ..Policy::default() }).collect();
    let sizes = Sizes { flows_v4: 4096, persistence_v4: Some(1024), members: 10, vips: tables.vips.len() };
    (tables, FlowTable::of_sizes(&sizes).expect("memory").0)
}

fn datagram_of(client: u32) -> Vec<u8> {
    Frame { source: Ipv4Addr::from_bits(client), ..Frame::udp(1000, 53, 10) }.bytes()
}

#[test]
fn a_client_that_comes_again_outlives_a_flood_of_datagrams() {
    const SECOND: u64 = 1_000_000_000;
    let (tables, flows) = one_packet_with_persistence();
    let real = |second: u64| member_of(walk_with(&tables, &flows, &datagram_of(0x0b00_0001), Now(second * SECOND)).1);
    let first = real(1);
    for second in 1..30 {
        assert_eq!(real(second), first, "second {second}");
        for forged in 0..3001 {
            let client = 0x0a00_0000 + second as u32 * 3001 + forged;
            walk_with(&tables, &flows, &datagram_of(client), Now(second * SECOND + SECOND / 2));
        }
    }
}

#[test]
fn clients_are_remembered_within_the_budget_only() {
    let (tables, flows) = one_packet_with_persistence();
    let clients = || flows.templates.get().map_or(0, Templates::clients);
    let known = datagram_of(0x0b00_0001);
    let member = member_of(walk_with(&tables, &flows, &known, NOW).1);
    assert_eq!(clients(), 1);
    let mut spent = spent_budget();
    for client in 0x0a00_0000..0x0a00_0000 + 500 {
        let (decision, output) = walk_within((&tables, &flows), &mut spent, &datagram_of(client), NOW);
        assert_eq!((decision.effects.flow, output.is_some()), (FlowEffect::Hashed, true));
    }
    assert_eq!(clients(), 1);
    assert_eq!(member_of(walk_within((&tables, &flows), &mut spent, &known, NOW).1), member);
    let mut one = NewFlowBudget::new(0, NOW);
    walk_within((&tables, &flows), &mut one, &datagram_of(0x0c00_0001), NOW);
    assert_eq!((clients(), one.has_left()), (2, false), "a client's worth was taken");
}
