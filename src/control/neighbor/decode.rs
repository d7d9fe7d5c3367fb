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
        (
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
            None,
        ) => Status::NotEthernet,
        _ => Status::Incomplete,
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
/// `net/ipv4/fib_semantics.c`).
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtnetlink::packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader};

    use super::*;

    const INDEX: u32 = 7;
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// Bytes as the kernel lays them out (`linux/rtnetlink.h`, `linux/neighbour.h`, `linux/if_link.h`): a fixed part, then
    /// attributes padded to 4.
    fn bytes(fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = fixed.to_vec();
        for (kind, value) in attributes {
            bytes.extend_from_slice(&u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn read(kind: u16, bytes: &[u8]) -> Result<Rtnl, DecodeError> {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        Rtnl::deserialize(&header, bytes)
    }

    fn message(kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Rtnl {
        read(kind, &bytes(fixed, attributes)).unwrap()
    }

    /// `struct ndmsg`: family, padding, index, state, flags, type.
    fn neighbor_message(kind: u16, family: u8, state: u8, flags: u8, mac: &[u8]) -> Rtnl {
        let [a, b, c, d] = INDEX.to_ne_bytes();
        let [low, high] = u16::from(state).to_ne_bytes();
        let fixed = [family, 0, 0, 0, a, b, c, d, low, high, flags, 1];
        // NDA_DST, NDA_LLADDR
        let attributes: &[(u16, &[u8])] = &[(1, &ADDRESS.octets()), (2, mac)];
        message(kind, &fixed, &attributes[..if mac.is_empty() { 1 } else { 2 }])
    }

    #[test]
    fn neighbours() {
        let table: &[(&str, u8, &[u8], Status)] = &[
            ("NUD_NONE", 0x00, &[], Status::Incomplete),
            ("NUD_INCOMPLETE", 0x01, &[], Status::Incomplete),
            ("NUD_REACHABLE", 0x02, &MAC, Status::Settled(MAC)),
            ("NUD_STALE", 0x04, &MAC, Status::Stale(MAC)),
            ("NUD_DELAY", 0x08, &MAC, Status::Settled(MAC)),
            ("NUD_PROBE", 0x10, &MAC, Status::Settled(MAC)),
            ("NUD_FAILED", 0x20, &[], Status::Failed),
            ("NUD_FAILED with what was known", 0x20, &MAC, Status::Failed),
            ("NUD_NOARP", 0x40, &MAC, Status::Settled(MAC)),
            ("NUD_PERMANENT", 0x80, &MAC, Status::Settled(MAC)),
            ("an IPv4 address for a MAC (a GRE tunnel)", 0x80, &[10, 0, 0, 1], Status::NotEthernet),
            ("states that do not exist", 0x84, &MAC, Status::Incomplete),
        ];
        let hop = Hop { index: INDEX, address: ADDRESS };
        for (description, state, mac, status) in table {
            let new = neighbor_message(nix::libc::RTM_NEWNEIGH, 2, *state, 0, mac);
            assert_eq!(event(&new), Some(Event::Neighbor { hop, status: *status }), "{description}");
            let deleted = neighbor_message(nix::libc::RTM_DELNEIGH, 2, *state, 0, mac);
            assert_eq!(event(&deleted), Some(Event::Neighbor { hop, status: Status::Absent }), "{description}");
        }
        let proxy = neighbor_message(nix::libc::RTM_NEWNEIGH, 2, 0x80, 0x08, &MAC);
        assert_eq!(event(&proxy), None, "NTF_PROXY");
        let bridge = neighbor_message(nix::libc::RTM_NEWNEIGH, 7, 0x02, 0, &MAC);
        assert_eq!(event(&bridge), None, "a bridge's forwarding entry (AF_BRIDGE)");
    }

    /// `struct ifinfomsg`: family, padding, type, index, flags, change mask.
    fn link_message(kind: u16, family: u8, flags: u32, attributes: &[(u16, &[u8])]) -> Rtnl {
        let mut fixed = vec![family, 0];
        fixed.extend_from_slice(&1u16.to_ne_bytes());
        for word in [INDEX, flags, 0] {
            fixed.extend_from_slice(&word.to_ne_bytes());
        }
        message(kind, &fixed, attributes)
    }

    #[test]
    fn links() {
        let (mtu, rx, tx) = (9000u32.to_ne_bytes(), 4u32.to_ne_bytes(), 8u32.to_ne_bytes());
        // IFLA_IFNAME, IFLA_ADDRESS, IFLA_MTU, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES
        let full: &[(u16, &[u8])] = &[(3, b"eth0\0"), (1, &MAC), (4, &mtu), (31, &tx), (32, &rx)];
        let link = |up| Link { index: INDEX, mac: MAC, mtu: 9000, up, rx_queues: 4, tx_queues: 8 };
        let (enabled, carrier) = (0x1, 0x1_0000);
        let table = [
            ("disabled", 0, false, false),
            ("no carrier", enabled, true, false),
            ("carrier alone", carrier, false, false),
            ("up", enabled | carrier, true, true),
        ];
        for (description, flags, enabled, up) in table {
            let state = LinkState { name: "eth0".to_owned(), link: link(up), enabled, ethernet: true };
            let message = link_message(nix::libc::RTM_NEWLINK, 0, flags, full);
            assert_eq!(event(&message), Some(Event::Link(state)), "{description}");
        }
        let gone = Some(Event::LinkGone { index: INDEX });
        assert_eq!(event(&link_message(nix::libc::RTM_DELLINK, 0, 0, full)), gone);
        let left_a_bridge = link_message(nix::libc::RTM_DELLINK, 7, 0, full);
        assert_eq!(event(&left_a_bridge), None, "AF_BRIDGE");
        let wireless = link_message(nix::libc::RTM_NEWLINK, 0, enabled, &[(11, &[0; 8])]);
        assert_eq!(event(&wireless), None, "neither name nor MTU");
    }

    #[test]
    fn own_addresses() {
        let [a, b, c, d] = INDEX.to_ne_bytes();
        // `struct ifaddrmsg`: family, prefix length, flags, scope, index. IFA_ADDRESS, IFA_LOCAL.
        let fixed = [2, 24, 0, 0, a, b, c, d];
        let own = OwnAddress { index: INDEX, address: ADDRESS, length: 24 };
        let point_to_point: &[(u16, &[u8])] = &[(1, &[10, 0, 0, 99]), (2, &ADDRESS.octets())];
        let added = message(nix::libc::RTM_NEWADDR, &fixed, point_to_point);
        assert_eq!(event(&added), Some(Event::Address(own)));
        let removed = message(nix::libc::RTM_DELADDR, &fixed, &[(1, &ADDRESS.octets())]);
        assert_eq!(event(&removed), Some(Event::AddressGone(own)));
        assert_eq!(event(&message(nix::libc::RTM_NEWADDR, &fixed, &[])), None);
    }

    /// `struct rtmsg`: family, destination and source length, TOS, table, protocol, scope, type, flags.
    fn route_message(length: u8, kind: u8, flags: u32, attributes: &[(u16, &[u8])]) -> Rtnl {
        let mut fixed = vec![2, length, 0, 0, 254, 4, 0, kind];
        fixed.extend_from_slice(&flags.to_ne_bytes());
        message(nix::libc::RTM_NEWROUTE, &fixed, attributes)
    }

    #[test]
    fn route_events() {
        let network: &[(u16, &[u8])] = &[(1, &[10, 1, 0, 0])];
        let routes = |network, length| Some(Event::Routes { network, length });
        assert_eq!(event(&route_message(16, 1, 0, network)), routes(Ipv4Addr::new(10, 1, 0, 0), 16));
        assert_eq!(event(&route_message(0, 1, 0, &[])), routes(Ipv4Addr::UNSPECIFIED, 0), "the default route");
        assert_eq!(event(&route_message(32, 1, 0x200, network)), None, "RTM_F_CLONED");
    }

    #[test]
    fn route_answers() {
        let index = INDEX.to_ne_bytes();
        let mtu = bytes(&[], &[(2, &1400u32.to_ne_bytes())]);
        // RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_METRICS { RTAX_MTU 1400 }, RTA_VIA
        let oif: (u16, &[u8]) = (4, &index);
        let gateway: (u16, &[u8]) = (5, &[10, 0, 0, 254]);
        let source: (u16, &[u8]) = (7, &[10, 0, 0, 1]);
        let metrics: (u16, &[u8]) = (8, &mtu);
        let via: (u16, &[u8]) = (18, &[10, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let near = Route { index: INDEX, gateway: None, source: Ipv4Addr::UNSPECIFIED, mtu: None };
        let far = Route {
            gateway: Some(Ipv4Addr::new(10, 0, 0, 254)),
            source: Ipv4Addr::new(10, 0, 0, 1),
            mtu: Some(1400),
            ..near.clone()
        };
        let table = [
            ("on the link", 1, vec![oif], Ok(near)),
            ("by a gateway", 1, vec![oif, gateway, source, metrics], Ok(far)),
            ("by an IPv6 gateway", 1, vec![oif, via], Err(Unresolved::Ipv6Gateway)),
            ("without an interface", 1, vec![], Err(Unresolved::Unreadable)),
            ("RTN_LOCAL", 2, vec![oif], Err(Unresolved::LocalAddress { address: ADDRESS })),
            ("RTN_BROADCAST", 3, vec![oif], Err(Unresolved::NotUnicast { address: ADDRESS })),
            ("RTN_MULTICAST", 5, vec![oif], Err(Unresolved::NotUnicast { address: ADDRESS })),
            ("RTN_UNREACHABLE", 7, vec![], Err(Unresolved::Unreachable)),
            ("an unknown type", 99, vec![oif], Err(Unresolved::Unreadable)),
        ];
        for (description, kind, attributes, expected) in table {
            let Rtnl::NewRoute(message) = route_message(32, kind, 0, &attributes) else { unreachable!() };
            assert_eq!(route(ADDRESS, &message), expected, "{description}");
        }
    }

    #[test]
    fn the_table_statistic() {
        // `struct ndt_stats`: eleven u64, the last of them ndts_table_fulls. NDTA_NAME, NDTA_STATS.
        let stats: Vec<u8> = (1..=11u64).flat_map(|n| (100 * n).to_ne_bytes()).collect();
        let table = message(nix::libc::RTM_NEWNEIGHTBL, &[2, 0, 0, 0], &[(1, b"arp_cache\0"), (7, &stats)]);
        let Rtnl::NewNeighbourTable(table) = table else { unreachable!() };
        assert_eq!(table_fulls(&table), 1100);
        // The kernel describes each interface's parameters in a message of its own, without statistics.
        let parameters = message(nix::libc::RTM_NEWNEIGHTBL, &[2, 0, 0, 0], &[(1, b"arp_cache\0")]);
        let Rtnl::NewNeighbourTable(parameters) = parameters else { unreachable!() };
        assert_eq!(table_fulls(&parameters), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn nothing_that_a_message_holds_causes_a_panic(
            kind in 16u16..120,
            fixed in prop::sample::select(vec![0usize, 3, 4, 8, 12, 16]),
            noise in prop::collection::vec(any::<u8>(), 16),
            attributes in prop::collection::vec((0u16..70, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            tail in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let attributes: Vec<(u16, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
            let mut payload = bytes(&noise[..fixed], &attributes);
            payload.extend_from_slice(&tail);
            if let Ok(message) = read(kind, &payload) {
                let _ = event(&message);
                match &message {
                    Rtnl::NewRoute(message) => drop(route(ADDRESS, message)),
                    Rtnl::NewNeighbourTable(message) => drop(table_fulls(message)),
                    _ => {}
                }
            }
        }
    }
}
