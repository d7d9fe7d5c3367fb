//! Shared by tests and benches: frames written by hand, and tables to send them through.
//!
//! Frames are built byte by byte, with no library that the parser uses too: a mistake cannot cancel itself out.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(missing_docs, unreachable_pub, reason = "test code")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::encap::{Source, Template};
use pointsman::dataplane::flow::{FlowTable, NewFlowBudget, Now, Timeouts};
use pointsman::dataplane::limits::Limits;
use pointsman::dataplane::port::Port;
use pointsman::dataplane::port::memory::{self, MemoryPort};
use pointsman::dataplane::process::{Ingress, Ledger, NOTHING, Packet, State, apply, carry_out, decide, prepare};
use pointsman::dataplane::schedule::{Candidate, OnMemberDown, Pool, Scheduler};
use pointsman::dataplane::select::Seed;
use pointsman::dataplane::service::{Destination, ServiceTable};
use pointsman::dataplane::tables::{
    Interface, InterfaceId, InterfaceSet, Member, MemberId, Tables, Vip, VipAddress, VipId, Way,
};
use pointsman::dataplane::verdict::Decision;

pub const LB_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
pub const SECOND_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x20];
pub const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The VIP whose members are reached in tunnels.
pub const TUNNEL_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 6);
pub const TUNNEL_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;

pub fn member_mac(member: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 1, member]
}

/// An IPv4 packet in an Ethernet frame. Every field can be spoilt.
#[derive(Clone)]
pub struct Frame {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub vlan: Option<u16>,
    pub ether_type: u16,
    pub version: u8,
    pub header_words: u8,
    pub tos: u8,
    pub options: Vec<u8>,
    pub total_length: Option<u16>,
    pub identification: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub payload: Vec<u8>,
    pub padding: usize,
}

impl Frame {
    pub fn ipv4(protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            destination_mac: LB_MAC,
            source_mac: ROUTER_MAC,
            vlan: None,
            ether_type: 0x0800,
            version: 4,
            header_words: 5,
            tos: 0,
            options: Vec::new(),
            total_length: None,
            identification: 0x1234,
            fragment: 0x4000, // don't fragment
            ttl: 61,
            protocol,
            source: CLIENT,
            destination: VIP,
            payload,
            padding: 0,
        }
    }

    pub fn tcp(source_port: u16, destination_port: u16, data: usize) -> Self {
        Self::ipv4(TCP, tcp_segment(source_port, destination_port, data))
    }

    pub fn udp(source_port: u16, destination_port: u16, data: usize) -> Self {
        Self::ipv4(UDP, udp_datagram(source_port, destination_port, data))
    }

    pub fn echo(identifier: u16, data: &[u8]) -> Self {
        let mut message = vec![8, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend([0, 1]);
        message.extend(data);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Self::ipv4(ICMP, message)
    }

    /// An ICMP error about a packet that a member sent to the client in the VIP's name.
    pub fn icmp_error(kind: u8, code: u8, embedded: &[u8]) -> Self {
        let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0xdc];
        message.extend(embedded);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Self { source: Ipv4Addr::new(198, 51, 100, 9), ..Self::ipv4(ICMP, message) }
    }

    /// The IPv4 packet alone.
    pub fn packet(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let length = self.total_length.unwrap_or((header + self.payload.len()) as u16);
        let mut packet = vec![self.version << 4 | self.header_words, self.tos];
        packet.extend(length.to_be_bytes());
        packet.extend(self.identification.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&self.payload);
        packet
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(self.ether_type.to_be_bytes());
        frame.extend(self.packet());
        frame.extend(std::iter::repeat_n(0xee, self.padding));
        frame
    }
}

/// A packet to the VIP whose members are reached in tunnels.
pub fn to_tunnel(frame: Frame) -> Frame {
    Frame { destination: TUNNEL_VIP, ..frame }
}

pub fn tcp_segment(source_port: u16, destination_port: u16, data: usize) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source_port.to_be_bytes());
    segment.extend(destination_port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend((0..data).map(|i| i as u8));
    segment
}

pub fn udp_datagram(source_port: u16, destination_port: u16, data: usize) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source_port.to_be_bytes());
    datagram.extend(destination_port.to_be_bytes());
    datagram.extend(((8 + data) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend((0..data).map(|i| i as u8));
    datagram
}

pub struct ArpFrame {
    pub destination_mac: [u8; 6],
    pub operation: u16,
    pub sender_mac: [u8; 6],
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

impl ArpFrame {
    pub fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self { destination_mac: [0xff; 6], operation: 1, sender_mac: ROUTER_MAC, sender, target }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.sender_mac);
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
        frame.extend(self.operation.to_be_bytes());
        frame.extend(self.sender_mac);
        frame.extend(self.sender.octets());
        frame.extend([0; 6]);
        frame.extend(self.target.octets());
        frame.extend([0; 18]);
        frame
    }
}

/// RFC 1071 §4.1, as in its C listing: the sum of all 16-bit words, folded, complemented.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// VIP 203.0.113.2: tcp/80 and udp/53 over all members; 203.0.113.3: tcp on any port; 203.0.113.4: tcp/80 without a
/// usable member; 203.0.113.6: tcp/80 over the same members' twins, in tunnels. The first two are announced.
pub fn tables(members: u32, mtu: u16) -> Tables {
    let slots: Arc<[MemberId]> = (0..members.max(1) * 50).map(|slot| MemberId(slot % members.max(1))).collect();
    let empty: Arc<[MemberId]> = Arc::new([]);
    let destination =
        |last: u8, protocol, port| Destination { address: Ipv4Addr::new(203, 0, 113, last).into(), protocol, port };
    let services = [
        (destination(2, TCP, 80), VipId(0)),
        (destination(2, UDP, 53), VipId(1)),
        (destination(3, TCP, 0), VipId(2)),
        (destination(4, TCP, 80), VipId(3)),
        (destination(6, TCP, 80), VipId(4)),
    ];
    let tunnels: Arc<[MemberId]> = slots.iter().map(|slot| MemberId(slot.0 + members)).collect();
    let timeouts = Timeouts::default();
    let vip = |slots: &Arc<[MemberId]>, id: usize| {
        let mut usable: Vec<MemberId> = slots.to_vec();
        usable.sort_unstable();
        usable.dedup();
        let pool = Arc::new(pool(
            Scheduler::Maglev,
            OnMemberDown::Reselect,
            &usable.iter().map(|id| (id.0, 1)).collect::<Vec<_>>(),
        ));
        Vip { slots: Arc::clone(slots), timeouts, destination: services[id].0, pool }
    };
    let everywhere: InterfaceSet = [InterfaceId(0)].into_iter().collect();
    let address = |last, announced| VipAddress {
        address: Ipv4Addr::new(203, 0, 113, last).into(),
        announced: if announced { everywhere } else { InterfaceSet::default() },
    };
    let direct = |member| (Way::Direct(macs_to(member)), mtu);
    let tunnelled = |member| (Way::Ipip(macs_to(member), template(member)), mtu - 20);
    let each = || (0..members).map(|member| member as u8);
    Tables {
        generation: 1,
        services: ServiceTable::new(&services),
        vips: [vip(&slots, 0), vip(&slots, 1), vip(&slots, 2), vip(&empty, 3), vip(&tunnels, 4)].into(),
        members: (each().map(direct).chain(each().map(tunnelled)))
            .map(|(way, largest)| Member { way, egress: InterfaceId(0), largest })
            .collect(),
        interfaces: [Interface { mac: LB_MAC }].into(),
        addresses: [address(2, true), address(3, true), address(4, false), address(6, false)].into(),
        seed: Seed::from_text("test"),
        timeouts,
        limits: Limits::default(),
    }
}

/// A pool of these members and their weights.
pub fn pool(scheduler: Scheduler, on_member_down: OnMemberDown, members: &[(u32, u16)]) -> Pool {
    let candidates = members.iter().map(|&(id, weight)| Candidate { member: MemberId(id), weight }).collect();
    Pool::new(scheduler, on_member_down, candidates)
}

/// A connection table with room for each of a few thousand flows, for `tables` of up to a hundred members.
pub fn flows() -> FlowTable {
    FlowTable::new(8192, 200).expect("memory").0
}

/// What the walk decides about a frame, what it sends then, and what the table remembers of it.
pub fn walk_with(tables: &Tables, flows: &FlowTable, bytes: &[u8], now: Now) -> (Decision, Option<Vec<u8>>) {
    let mut budget = NewFlowBudget::new(1000, now);
    walk_within((tables, flows), &mut budget, bytes, now)
}

/// The same with a budget for new flows.
pub fn walk_within(
    (tables, flows): (&Tables, &FlowTable),
    budget: &mut NewFlowBudget,
    bytes: &[u8],
    now: Now,
) -> (Decision, Option<Vec<u8>>) {
    let (port, ingress) = (MemoryPort::new(1), InterfaceId(0));
    let mut frame = memory::frames(1, 2048).remove(0);
    assert!(port.write(&mut frame, bytes));
    let state = State { tables, flows, may_enter: budget.has_left() };
    let packet = Packet { frame: port.bytes(&frame), ingress, headroom: port.headroom(&frame) };
    let mut prepared = NOTHING;
    prepare(&state, packet.frame, Ingress::by(packet.ingress, tables), &mut prepared);
    let decision = decide(&state, &packet, &prepared, now);
    let counters = Counters::new();
    let conflicts = ArrayQueue::new(1);
    let mut ledger = Ledger { counters: &counters, budget, conflicts: &conflicts };
    let verdict = apply(&decision, (&prepared, bytes.len()), &state, &mut ledger, now);
    let egress = carry_out((verdict, &prepared), (&port, &mut frame), tables, ingress);
    (decision, egress.interface().map(|_| port.bytes(&frame).to_vec()))
}

fn macs_to(member: u8) -> [u8; 12] {
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&member_mac(member));
    macs[6..].copy_from_slice(&LB_MAC);
    macs
}

/// Where a member is that is reached in a tunnel.
pub fn tunnel_end(member: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 101 + member)
}

fn template(member: u8) -> Template {
    Template::new(Source { address: TUNNEL_SOURCE.into(), varying: 0 }, tunnel_end(member).into())
}
