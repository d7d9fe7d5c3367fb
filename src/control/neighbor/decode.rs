//! Netlink messages → events and answers. Pure; nothing that a message holds is trusted to be there or to fit.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage as Rtnl;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType};

use super::entries::{Hop, Status};
use super::state::{Event, LinkState, OwnAddress, Route};
use super::{Link, Unresolved};

/// Message types (`RTM_`, linux/rtnetlink.h).
const NEW_ROUTE: u16 = nix::libc::RTM_NEWROUTE;
const DELETE_ROUTE: u16 = nix::libc::RTM_DELROUTE;
const NEW_RULE: u16 = nix::libc::RTM_NEWRULE;
const DELETE_RULE: u16 = nix::libc::RTM_DELRULE;

/// Any route may have changed.
const ALL_ROUTES: Event = Event::Routes { network: Ipv4Addr::UNSPECIFIED, length: 0 };

/// An event, if the message is one that matters.
pub(super) fn event(message: &Rtnl) -> Option<Event> {
    match message {
        Rtnl::NewLink(message) => link(message).map(Event::Link),
        // The other families speak of a link's part in something, such as a bridge.
        Rtnl::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Some(Event::LinkGone { index: message.header.index })
        }
        Rtnl::NewAddress(message) => address(message).map(Event::Address),
        Rtnl::DelAddress(message) => address(message).map(Event::AddressGone),
        Rtnl::NewRoute(message) | Rtnl::DelRoute(message) => routes(message),
        Rtnl::NewRule(_) | Rtnl::DelRule(_) => Some(ALL_ROUTES),
        Rtnl::NewNeighbour(message) => neighbor(message).map(|(hop, status)| Event::Neighbor { hop, status }),
        Rtnl::DelNeighbour(message) => {
            neighbor(message).map(|(hop, _)| Event::Neighbor { hop, status: Status::Absent })
        }
        _ => None,
    }
}

/// What to make of an event that could not be read: where the kernel can be asked instead, that.
pub(super) fn unreadable_event(kind: u16) -> Option<Event> {
    matches!(kind, NEW_ROUTE | DELETE_ROUTE | NEW_RULE | DELETE_RULE).then_some(ALL_ROUTES)
}

/// An interface.
pub(super) fn link(message: &LinkMessage) -> Option<LinkState> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    // Some notifications carry one attribute and nothing else: without its name and MTU an interface is not described.
    let (mut name, mut mtu) = (None, None);
    let (mut mac, mut rx_queues, mut tx_queues) = (None, 1, 1);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value) => mac = <[u8; 6]>::try_from(value.as_slice()).ok(),
            LinkAttribute::Mtu(value) => mtu = Some(*value),
            LinkAttribute::NumRxQueues(value) => rx_queues = *value,
            LinkAttribute::NumTxQueues(value) => tx_queues = *value,
            _ => {}
        }
    }
    let flags = message.header.flags;
    Some(LinkState {
        name: name?,
        enabled: flags.contains(LinkFlags::Up),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether && mac.is_some(),
        link: Link {
            index: message.header.index,
            mac: mac.unwrap_or_default(),
            mtu: mtu?,
            up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            rx_queues,
            tx_queues,
        },
    })
}

/// An IPv4 address of this host.
pub(super) fn address(message: &AddressMessage) -> Option<OwnAddress> {
    // On a point-to-point link IFA_ADDRESS is the peer's; IFA_LOCAL is always ours.
    let mut local = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => local = Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) => local = local.or(Some(*address)),
            _ => {}
        }
    }
    Some(OwnAddress { index: message.header.index, address: local?, length: message.header.prefix_len })
}

/// A neighbour entry.
pub(super) fn neighbor(message: &NeighbourMessage) -> Option<(Hop, Status)> {
    // NTF_PROXY: not a neighbour, but an address that this host answers for.
    if message.header.family != AddressFamily::Inet || message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut destination, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => destination = Some(*address),
            NeighbourAttribute::LinkLayerAddress(value) => mac = <[u8; 6]>::try_from(value.as_slice()).ok(),
            _ => {}
        }
    }
    let status = match (message.header.state, mac) {
        (NeighbourState::Failed, _) => Status::Failed,
        (NeighbourState::Stale, Some(mac)) => Status::Stale(mac),
        (
            NeighbourState::Reachable
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
            Some(mac),
        ) => Status::Settled(mac),
        (NeighbourState::Incomplete | NeighbourState::None, _) => Status::Incomplete,
        (_, None) => Status::NotEthernet,
        (_, Some(_)) => Status::Incomplete,
    };
    Some((Hop { index: message.header.ifindex, address: destination? }, status))
}

/// The answer to a route lookup.
pub(super) fn route(target: Ipv4Addr, message: &RouteMessage) -> Result<Route, Unresolved> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(Unresolved::LocalAddress { address: target }),
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            return Err(Unresolved::NotUnicast { address: target });
        }
        RouteType::BlackHole => return Err(Unresolved::Blackhole),
        RouteType::Unreachable => return Err(Unresolved::Unreachable),
        RouteType::Prohibit => return Err(Unresolved::Prohibited),
        _ => return Err(Unresolved::Unreadable),
    }
    let mut index = None;
    let mut route = Route { index: 0, gateway: None, source: Ipv4Addr::UNSPECIFIED, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(value) => index = Some(*value),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::Via(_) => return Err(Unresolved::Ipv6Gateway),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => route.source = *address,
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            _ => {}
        }
    }
    route.index = index.ok_or(Unresolved::Unreadable)?;
    Ok(route)
}

/// The error of a route lookup. Routes of the types that refuse a packet answer so (`fib_props` in
/// net/ipv4/fib_semantics.c).
pub(super) fn route_error(errno: i32) -> Unresolved {
    match errno {
        nix::libc::ENETUNREACH => Unresolved::NoRoute,
        nix::libc::EHOSTUNREACH => Unresolved::Unreachable,
        nix::libc::EACCES => Unresolved::Prohibited,
        nix::libc::EINVAL => Unresolved::Blackhole,
        errno => Unresolved::Refused { errno },
    }
}

/// How often the kernel's ARP table was full (`ndts_table_fulls`), since the machine started.
pub(super) fn table_fulls(message: &NeighbourTableMessage) -> u64 {
    let counts = message.attributes.iter().map(|attribute| match attribute {
        NeighbourTableAttribute::Stats(stats) => stats.table_fulls,
        _ => 0,
    });
    counts.sum()
}

fn routes(message: &RouteMessage) -> Option<Event> {
    // A cached route is one packet's, not a change to the table.
    if message.header.address_family != AddressFamily::Inet || message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let network = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let length = message.header.destination_prefix_length;
    Some(network.map_or(ALL_ROUTES, |network| Event::Routes { network, length }))
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}
