//! Many VIPs, each with a pool of its own: the configuration, the network as the kernel would tell of it, and packets.
//!
//! VIP `i` is tcp/80 on 100.64.0.0 + `i`, its members lie at 10.0.0.0 + `i` × 256 and on.

#![allow(dead_code, reason = "each binary uses its own part of this")]
#![allow(missing_docs, unreachable_pub, reason = "test code")]

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use pointsman::control::model::Model;
use pointsman::control::neighbor::{Link, Network, NextHop, Unresolved};

use super::support::Frame;

pub const INTERFACE: &str = "eth0";
pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];

/// Where a frame has what differs between packets: IPv4 header without options.
const SOURCE: usize = 14 + 12;
const DESTINATION: usize = 14 + 16;
const SOURCE_PORT: usize = 14 + 20;
const FLAGS: usize = 14 + 20 + 13;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

pub fn vip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + index)
}

pub fn member(vip: u32, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + vip * 256 + index)
}

/// A member's MAC has its address in it.
pub fn mac_of(member: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = member.octets();
    [0x02, 1, a, b, c, d]
}

pub fn model(vips: u32, members: u32) -> Model {
    Model::parse("fleet.toml", &text(vips, members)).expect("a valid configuration")
}

/// The configuration; a member has no line for its weight.
pub fn text(vips: u32, members: u32) -> String {
    let mut text = format!("[node]\nhash_seed = \"fleet\"\n[[interface]]\nname = \"{INTERFACE}\"\n");
    for one in 0..vips {
        let address = vip(one);
        let head = format!(
            "[[vip]]\nname = \"v{one}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\nport = 80\npool = \"p{one}\"\n\
             [[pool]]\nname = \"p{one}\"\nforward = \"dr\"\n"
        );
        text.push_str(&head);
        for index in 0..members {
            let address = member(one, index);
            // Writing to a String cannot fail.
            let _ = write!(text, "[[pool.member]]\nname = \"m{index}\"\naddress = \"{address}\"\n");
        }
    }
    text
}

/// All of them on the link.
pub fn network(model: &Model) -> Network {
    let link = Link { index: 2, mac: MAC, mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 };
    let members = model.pools.iter().flat_map(|pool| &pool.members);
    let hop = |address| NextHop {
        interface: INTERFACE.into(),
        mac: mac_of(address),
        gateway: None,
        source: Ipv4Addr::new(10, 255, 0, 1),
        mtu: None,
    };
    Network {
        links: [(INTERFACE.to_owned(), link)].into(),
        next_hops: members.map(|member| (member.address, Ok(hop(member.address)))).collect(),
        ..Network::default()
    }
}

/// The kernel forgets a member's MAC, or learns it again.
pub fn set_known(network: &mut Network, member: Ipv4Addr, known: bool) {
    let hop = NextHop {
        interface: INTERFACE.into(),
        mac: mac_of(member),
        gateway: None,
        source: Ipv4Addr::new(10, 255, 0, 1),
        mtu: None,
    };
    network.next_hops.insert(member, if known { Ok(hop) } else { Err(Unresolved::Resolving) });
}

/// Packets of flows, written over one frame: flow `number` is a client of 172.16.0.0/12 that speaks to VIP
/// `number` mod `vips`.
pub struct Packets {
    frame: Vec<u8>,
    vips: u32,
}

impl Packets {
    pub fn new(vips: u32) -> Self {
        let frame = Frame { destination_mac: MAC, ..Frame::tcp(0, 80, 0) };
        Self { frame: frame.bytes(), vips }
    }

    pub fn of(&mut self, number: u32, flags: u8) -> &[u8] {
        let client = u32::from(Ipv4Addr::new(172, 16, 0, 0)) + (number >> 6);
        self.frame[SOURCE..SOURCE + 4].copy_from_slice(&client.to_be_bytes());
        let destination = u32::from(vip(number % self.vips));
        self.frame[DESTINATION..DESTINATION + 4].copy_from_slice(&destination.to_be_bytes());
        let port = 1024 + (number & 63) as u16;
        self.frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
        self.frame[FLAGS] = flags;
        &self.frame
    }

    /// The flow that a frame is of.
    pub fn number(frame: &[u8]) -> u32 {
        let client = frame[SOURCE..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let port = frame[SOURCE_PORT..].first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
        (client - u32::from(Ipv4Addr::new(172, 16, 0, 0))) << 6 | u32::from(port - 1024)
    }
}
