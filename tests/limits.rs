//! Persistence, limits and one-packet mode in the packet's walk: what comes in, and where it goes.

mod support;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use pointsman::dataplane::flow::{FlowTable, Now, Sizes, Timeouts};
use pointsman::dataplane::limits::{Limits, Policy};
use pointsman::dataplane::load::Thresholds;
use pointsman::dataplane::persistence::Persistence;
use pointsman::dataplane::schedule::{OnMemberDown, Scheduler};
use pointsman::dataplane::tables::{MemberId, Tables, VipId, Way};
use pointsman::dataplane::verdict::{DropReason, Verdict};
use support::*;

const SECOND: u64 = 1_000_000_000;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x11;
const MEMBERS: u32 = 3;

/// A walk through tables with limits; every VIP is scheduled alike.
struct Walk {
    tables: Tables,
    flows: FlowTable,
    now: Now,
}

impl Walk {
    fn new(scheduler: Scheduler, policy: Policy, thresholds: Option<Thresholds>) -> Self {
        let mut tables = tables(MEMBERS, 1500);
        tables.limits = Limits {
            policies: tables.vips.iter().map(|_| policy).collect(),
            thresholds: tables.members.iter().map(|_| thresholds).collect(),
            ..Limits::default()
        };
        for vip in &mut tables.vips[..3] {
            vip.pool = Arc::new(pool(scheduler, OnMemberDown::Reselect, &[(0, 1), (1, 1), (2, 1)]));
        }
        let sizes = Sizes { flows_v4: 4096, persistence_v4: Some(1024), members: 200, vips: tables.vips.len() };
        Self { tables, flows: FlowTable::of_sizes(&sizes).expect("memory").0, now: Now(SECOND) }
    }

    fn send(&self, frame: &Frame) -> Result<u32, DropReason> {
        match walk_with(&self.tables, &self.flows, &frame.bytes(), self.now).0.verdict {
            Verdict::Transmit(member) => Ok(member.0),
            Verdict::Drop(reason) => Err(reason),
            answer @ Verdict::Answer(_) => panic!("{answer:?}"),
        }
    }

    /// A segment from a client, by its address's last byte, to the VIP's port 80.
    fn tcp(&self, client: u8, port: u16, flags: u8) -> Result<u32, DropReason> {
        let mut frame = Frame { source: Ipv4Addr::new(192, 0, 2, client), ..Frame::tcp(port, 80, 0) };
        frame.payload[13] = flags;
        self.send(&frame)
    }

    fn udp(&self, client: u8, port: u16) -> Result<u32, DropReason> {
        self.send(&Frame { source: Ipv4Addr::new(192, 0, 2, client), ..Frame::udp(port, 53, 10) })
    }

    /// Members that the packets of these connections of a client go to.
    fn members(&self, client: u8, ports: std::ops::Range<u16>) -> HashSet<u32> {
        let packets = ports.flat_map(|port| [SYN, ACK].map(|flags| self.tcp(client, port, flags)));
        packets.map(|member| member.expect("forwarded")).collect()
    }

    /// Control's answer to a member that takes nothing new: `Way` says whether what it has still reaches it.
    fn take_out(&mut self, member: u32, way: Option<Way>) {
        let left: Vec<_> = (0..MEMBERS).map(|id| (id, u16::from(id != member))).collect();
        for vip in &mut self.tables.vips[..3] {
            vip.pool = Arc::new(pool(Scheduler::RoundRobin, OnMemberDown::Reselect, &left));
            vip.slots = vip
                .slots
                .iter()
                .map(|slot| MemberId(if slot.0 == member { (member + 1) % 3 } else { slot.0 }))
                .collect();
        }
        if let Some(way) = way {
            Arc::make_mut(&mut self.tables.members)[member as usize].way = way;
        }
    }
}

fn persistent(timeout: u64, netmask: u8) -> Policy {
    Policy { persistence: Some(Persistence::new(Duration::from_secs(timeout), netmask)), ..Policy::default() }
}

fn limited(flows: u32) -> Policy {
    Policy { connection_limit: NonZeroU32::new(flows), ..Policy::default() }
}

#[test]
fn a_clients_flows_go_to_one_member_under_every_scheduler() {
    use Scheduler::{LeastConnections, Maglev, NeverQueue, RoundRobin, ShortestExpectedDelay, SourceHash};
    for scheduler in [Maglev, RoundRobin, LeastConnections, SourceHash, ShortestExpectedDelay, NeverQueue] {
        let walk = Walk::new(scheduler, persistent(300, 32), None);
        let mut used = HashSet::new();
        for client in 1..40 {
            let members = walk.members(client, 1000..1050);
            assert_eq!(members.len(), 1, "{scheduler:?}, client {client}");
            used.extend(members);
        }
        assert_eq!(used.len(), 3, "{scheduler:?}: clients spread");
    }
    // The control: without persistence they do not stay together.
    let walk = Walk::new(Scheduler::RoundRobin, Policy::default(), None);
    assert_eq!(walk.members(1, 1000..1050).len(), 3);
}

#[test]
fn a_client_takes_one_turn_however_many_flows_it_has() {
    let walk = Walk::new(Scheduler::RoundRobin, persistent(300, 32), None);
    let firsts: Vec<_> = (1..10).map(|client| walk.members(client, 1000..1011).into_iter().next()).collect();
    let turns: Vec<_> = (0..9).map(|turn| Some(turn % 3)).collect();
    assert_eq!(firsts, turns);
}

#[test]
fn networks_ports_and_packets_in_mid_stream_go_with_their_client() {
    let walk = Walk::new(Scheduler::RoundRobin, persistent(300, 24), None);
    let member = walk.tcp(1, 1000, SYN);
    for client in 2..50 {
        assert_eq!(walk.tcp(client, 1000, SYN), member, "the same network");
        assert_eq!(walk.tcp(client, 2000, ACK), member, "in mid-stream");
        assert_eq!(walk.tcp(client, 3000, RST), member, "of nobody's connection");
    }
    // The VIP on any port: its own turn, and all ports together.
    let to_any = |port| Frame { destination: Ipv4Addr::new(203, 0, 113, 3), ..Frame::tcp(4000, port, 0) };
    let ports: HashSet<_> = (1..100).map(|port| walk.send(&to_any(port))).collect();
    assert_eq!(ports.len(), 1, "{ports:?}");
}

#[test]
fn a_client_may_go_elsewhere_after_the_timeout() {
    let mut walk = Walk::new(Scheduler::RoundRobin, persistent(60, 32), None);
    let before: Vec<_> = (1..4).map(|client| walk.tcp(client, 1000, SYN)).collect();
    walk.tcp(9, 1, SYN).expect("forwarded"); // one turn more
    walk.now = Now(59 * SECOND);
    assert_eq!(walk.tcp(1, 1001, SYN), before[0]);
    walk.now = Now((59 + 64) * SECOND);
    let after: Vec<_> = (1..4).map(|client| walk.tcp(client, 1002, SYN)).collect();
    assert_eq!(before, [Ok(0), Ok(1), Ok(2)]);
    assert_eq!(after, [Ok(1), Ok(2), Ok(0)]);
}

#[test]
fn a_client_of_a_drained_member_gets_another_and_its_flows_stay() {
    let mut walk = Walk::new(Scheduler::RoundRobin, persistent(300, 32), None);
    assert_eq!((walk.tcp(1, 1000, SYN), walk.tcp(1, 1000, ACK)), (Ok(0), Ok(0)));
    walk.take_out(0, None);
    let next = walk.tcp(1, 1001, SYN).expect("forwarded");
    assert_ne!(next, 0);
    assert_eq!(walk.tcp(1, 1000, ACK), Ok(0), "what is established lives on");
    assert_eq!(walk.members(1, 1002..1050), [next].into());
}

#[test]
fn a_client_of_a_lost_member_moves_with_all_its_flows() {
    let mut walk = Walk::new(Scheduler::RoundRobin, persistent(300, 32), None);
    for port in 1000..1030 {
        assert_eq!((walk.tcp(1, port, SYN), walk.tcp(1, port, ACK)), (Ok(0), Ok(0)));
    }
    walk.take_out(0, Some(Way::None));
    let moved: HashSet<_> = (1000..1030).map(|port| walk.tcp(1, port, ACK)).collect();
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!(HashSet::from([walk.tcp(1, 2000, SYN)]), moved);
}

#[test]
fn a_persistent_client_goes_to_its_member_even_if_that_is_overloaded() {
    let thresholds = Thresholds { upper: NonZeroU32::new(2).expect("not 0"), lower: None };
    let walk = Walk::new(Scheduler::RoundRobin, persistent(300, 32), Some(thresholds));
    assert_eq!(walk.members(1, 1000..1010), [0].into());
    // Others pass it over.
    let others: Vec<_> = (2..6).map(|client| walk.tcp(client, 1000, SYN)).collect();
    assert_eq!(others, [Ok(1), Ok(2), Ok(1), Ok(2)]);
}

#[test]
fn beyond_its_limit_a_vip_gets_no_new_flows_and_keeps_those_it_has() {
    let walk = Walk::new(Scheduler::Maglev, limited(100), None);
    let known: Vec<_> = (0..100).map(|port| walk.tcp(1, port, SYN)).collect();
    assert!(known.iter().all(Result::is_ok));
    for port in 100..200 {
        for flags in [SYN, ACK, FIN] {
            assert_eq!(walk.tcp(1, port, flags), Err(DropReason::ConnectionLimit), "port {port}, {flags:#x}");
        }
        assert!(walk.tcp(1, port, RST).is_ok(), "it begins nothing");
    }
    for (port, member) in (0..100).zip(&known) {
        assert_eq!(walk.tcp(1, port, ACK), *member);
    }
    assert_eq!(walk.flows.loads.flows_of_vip(VipId(0)), 100);
    assert!(walk.udp(1, 7).is_ok(), "another VIP's count is its own");
    // A client that uses its port again takes the place of what it closed.
    walk.tcp(1, 5, FIN).expect("known");
    assert!(walk.tcp(1, 5, SYN).is_ok());
    assert_eq!(walk.tcp(1, 300, SYN), Err(DropReason::ConnectionLimit));
    assert_eq!(walk.flows.loads.flows_of_vip(VipId(0)), 100);
}

#[test]
fn when_flows_have_ended_a_limited_vip_gets_new_ones() {
    let mut walk = Walk::new(Scheduler::Maglev, limited(10), None);
    for port in 0..10 {
        walk.tcp(1, port, SYN).expect("below the limit");
    }
    assert_eq!(walk.tcp(1, 10, SYN), Err(DropReason::ConnectionLimit));
    walk.now = Now(40 * SECOND);
    let sizes = Sizes { flows_v4: 4096, persistence_v4: None, members: 200, vips: 5 };
    let mut hands = FlowTable::of_sizes(&sizes).expect("memory").1;
    walk.flows.sweep(&mut hands, walk.now, 1, &walk.tables);
    assert_eq!(walk.flows.loads.flows_of_vip(VipId(0)), 0, "embryonic flows live 30 s");
    assert!(walk.tcp(1, 10, SYN).is_ok());
}

#[test]
fn overloaded_members_are_passed_over_and_all_of_them_are_a_reason_to_drop() {
    use Scheduler::{LeastConnections, Maglev, NeverQueue, RoundRobin, ShortestExpectedDelay, SourceHash};
    let thresholds = Thresholds { upper: NonZeroU32::new(20).expect("not 0"), lower: NonZeroU32::new(20) };
    for scheduler in [Maglev, RoundRobin, LeastConnections, SourceHash, ShortestExpectedDelay, NeverQueue] {
        let walk = Walk::new(scheduler, Policy::default(), Some(thresholds));
        let mut flows = [0; 3];
        for port in 0..60 {
            flows[walk.tcp((port % 7) as u8, port, SYN).expect("room") as usize] += 1;
        }
        assert_eq!(flows, [20; 3], "{scheduler:?}: no member gets more than its threshold");
        for port in 60..100 {
            assert_eq!(walk.tcp(1, port, SYN), Err(DropReason::MembersOverloaded), "{scheduler:?}");
        }
        // One of member 1's flows makes room for exactly one.
        let known = (0..60).find(|&port| walk.tcp((port % 7) as u8, port, ACK) == Ok(1)).expect("20 of them");
        walk.tcp((known % 7) as u8, known, RST).expect("known");
        assert_eq!(walk.tcp(1, 100, SYN), Err(DropReason::MembersOverloaded), "closing ones count, too");
    }
}

#[test]
fn in_one_packet_mode_every_datagram_is_scheduled_and_nothing_is_kept() {
    let policy = Policy { one_packet: true, ..Policy::default() };
    let walk = Walk::new(Scheduler::RoundRobin, policy, None);
    let members: Vec<_> = (0..9).map(|_| walk.udp(1, 1000)).collect();
    assert_eq!(members, [0, 1, 2, 0, 1, 2, 0, 1, 2].map(Ok));
    assert_eq!(walk.flows.v4.iter(walk.now).count(), 0);
    assert_eq!(walk.flows.loads.flows_of_vip(VipId(1)), 0);
    // Hashing sends a flow's datagrams to one member all the same.
    let walk = Walk::new(Scheduler::Maglev, policy, None);
    let members: HashSet<_> = (0..9).map(|_| walk.udp(1, 1000)).collect();
    assert_eq!((members.len(), walk.flows.v4.iter(walk.now).count()), (1, 0));
    // The control.
    let walk = Walk::new(Scheduler::RoundRobin, Policy::default(), None);
    let members: HashSet<_> = (0..9).map(|_| walk.udp(1, 1000)).collect();
    assert_eq!((members.len(), walk.flows.v4.iter(walk.now).count()), (1, 1));
}

#[test]
fn in_one_packet_mode_persistence_holds() {
    let policy = Policy { one_packet: true, ..persistent(60, 32) };
    let mut walk = Walk::new(Scheduler::RoundRobin, policy, None);
    for client in 1..7 {
        let members: HashSet<_> = (0..9).map(|port| walk.udp(client, port)).collect();
        assert_eq!(members, [Ok(u32::from(client - 1) % 3)].into());
    }
    assert_eq!(walk.flows.v4.iter(walk.now).count(), 0);
    // Every datagram begins the timeout anew.
    for at in (1..300).step_by(30) {
        walk.now = Now(at * SECOND);
        assert_eq!(walk.udp(2, 77), Ok(1), "at {at} s");
    }
}

#[test]
fn a_vips_own_timeouts_hold_for_its_flows() {
    let seconds = Duration::from_secs;
    let mut walk = Walk::new(Scheduler::RoundRobin, Policy::default(), None);
    walk.tables.vips[1].timeouts = Timeouts::new(seconds(30), seconds(900), seconds(10), seconds(5));
    assert_eq!((walk.udp(1, 7), walk.udp(2, 7)), (Ok(0), Ok(1)));
    walk.now = Now(5 * SECOND);
    assert_eq!(walk.udp(1, 7), Ok(0));
    // 5 s and two ticks after the last datagram that was written down, a datagram begins another flow.
    walk.now = Now(13 * SECOND);
    assert_eq!(walk.udp(1, 7), Ok(2));
}
