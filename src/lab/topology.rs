//! What a lab looks like, and the commands that make it so.
//!
//! ```text
//!   client ──192.0.2.0/24── gateway ──┬── balancer   198.51.100.10   eth0, where VIPs are announced
//!   192.0.2.10 …      .1 │            ├── member1    198.51.100.101  eth0, VIPs on lo
//!                        │ lan        ├── member2    198.51.100.102
//!                        198.51.100.1 └── …
//! ```
//! This is [`Layout::Stick`]. `lan` is a bridge inside the gateway; its ports are called `balancer`, `member1`, …. In
//! the other layouts members are the ports of a second bridge, `back`:
//!
//! ```text
//!   client ── gateway ──┬─ lan ──── balancer   198.51.100.10   eth0
//!                       │           ┊          203.0.113.10    eth1, Layout::TwoArmed only: port balancer-back
//!                       └─ back ─┬──┘
//!             203.0.113.1        ├── member1   203.0.113.101
//!                                └── …
//! ```

use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::offload::disable_transmit_offloads;
use super::{Decapsulation, LabError, Namespace};

/// How the balancer and its members are joined. The client's side, and the VIPs', is the same in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// All on one LAN, the balancer with one interface: "on a stick".
    #[default]
    Stick,
    /// Members on a LAN of their own, which the balancer reaches through the gateway.
    Routed,
    /// Members on a LAN of their own, where the balancer has a second interface. Their way out is the gateway.
    TwoArmed,
}

impl Layout {
    /// The balancer's interfaces: the first is where VIPs are asked for.
    pub fn balancer_interfaces(self) -> &'static [&'static str] {
        match self {
            Self::Stick | Self::Routed => &["eth0"],
            Self::TwoArmed => &["eth0", "eth1"],
        }
    }

    /// The ports of the gateway's bridges that the balancer's interfaces are plugged into.
    pub fn balancer_ports(self) -> &'static [&'static str] {
        match self {
            Self::Stick | Self::Routed => &["balancer"],
            Self::TwoArmed => &["balancer", "balancer-back"],
        }
    }

    /// The bridge that members are ports of.
    pub(super) fn member_bridge(self) -> &'static str {
        match self {
            Self::Stick => "lan",
            Self::Routed | Self::TwoArmed => "back",
        }
    }
}

/// What a lab looks like.
#[derive(Clone, Debug)]
pub struct Topology {
    /// How balancer and members are joined.
    pub layout: Layout,
    /// Members, 1 to [`MEMBERS_MAX`].
    pub members: usize,
    /// Receive and transmit queues of the balancer's interfaces and of their peers, 1 to 16. XDP cannot be attached
    /// where the peer has more transmit queues than there are receive queues, so both have the same number.
    pub queues: usize,
    /// Every interface's MTU, 68 to 9000. Native XDP on veth refuses more than about 3500.
    pub mtu: u32,
    /// Addresses of the client, 1 to 200. One of them has about 64 000 ports to call a VIP from.
    pub client_addresses: usize,
    /// Addresses that every member has on `lo`; by default [`Topology::VIP`]. Addresses of the LAN's that nobody has
    /// are asked for by ARP; any other must be routed to the balancer by the test.
    pub vips: Vec<Ipv4Addr>,
    /// TCP ports on which members serve HTTP.
    pub tcp_ports: Vec<u16>,
    /// UDP ports on which members answer.
    pub udp_ports: Vec<u16>,
    /// Who takes off the outer header of what members receive in an IPIP tunnel. If anybody does, members ask clients
    /// for segments that fit into the tunnel.
    pub decapsulation: Decapsulation,
    /// The `pointsman` binary that plays every part. By default the running one; a test says
    /// `env!("CARGO_BIN_EXE_pointsman").into()`.
    pub program: PathBuf,
}

/// Members that the address plan has room for.
pub const MEMBERS_MAX: usize = 150;
const QUEUES_MAX: usize = 16;
const CLIENT_ADDRESSES_MAX: usize = 200;

impl Default for Topology {
    fn default() -> Self {
        Self {
            layout: Layout::default(),
            members: 3,
            queues: 1,
            mtu: 1500,
            client_addresses: 4,
            vips: vec![Self::VIP],
            tcp_ports: vec![80],
            udp_ports: vec![53],
            decapsulation: Decapsulation::default(),
            program: env::current_exe().unwrap_or_else(|_| "pointsman".into()),
        }
    }
}

impl Topology {
    /// The VIP, unless others are asked for. All of 198.51.100.50 to .99 is free for VIPs.
    pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 50);
    /// The gateway, as the client sees it.
    pub const GATEWAY_CLIENT_SIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The gateway, as the balancer sees it, and members on the same LAN.
    pub const GATEWAY_LAN_SIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    /// The gateway, as members on a LAN of their own see it.
    pub const GATEWAY_BACK_SIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    /// The balancer's own address.
    pub const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
    /// The balancer's own address on the members' LAN, in [`Layout::TwoArmed`].
    pub const BALANCER_BACK_SIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    /// The MAC of the balancer's `eth0`.
    pub const BALANCER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
    /// The MAC of the balancer's `eth1`, in [`Layout::TwoArmed`].
    pub const BALANCER_BACK_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x20];
    /// The MAC of the gateway's `lan`.
    pub const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
    /// The MAC of the gateway's `back`.
    pub const GATEWAY_BACK_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x03];

    /// The addresses of the client.
    pub fn client_addresses(&self) -> Vec<Ipv4Addr> {
        (0..self.client_addresses).map(|index| Ipv4Addr::new(192, 0, 2, 10 + index as u8)).collect()
    }

    /// The own address of a member; the first is number 0.
    pub fn member_address(&self, index: usize) -> Ipv4Addr {
        let host = 101 + index as u8;
        match self.layout {
            Layout::Stick => Ipv4Addr::new(198, 51, 100, host),
            Layout::Routed | Layout::TwoArmed => Ipv4Addr::new(203, 0, 113, host),
        }
    }

    /// The members' way out.
    pub fn member_gateway(&self) -> Ipv4Addr {
        match self.layout {
            Layout::Stick => Self::GATEWAY_LAN_SIDE,
            Layout::Routed | Layout::TwoArmed => Self::GATEWAY_BACK_SIDE,
        }
    }

    /// The MAC of a member's `eth0`.
    pub fn member_mac(index: usize) -> [u8; 6] {
        [0x02, 0, 0, 0, 1, 1 + index as u8]
    }

    /// The name of a member: also that of its port on the bridge.
    pub fn member_name(index: usize) -> String {
        format!("member{}", index + 1)
    }

    pub(super) fn check(&self) -> Result<(), LabError> {
        let within = |key, found: usize, low: usize, high: usize| {
            if (low..=high).contains(&found) {
                return Ok(());
            }
            Err(LabError::Topology { key, found: found.to_string(), allowed: format!("{low} to {high}") })
        };
        within("members", self.members, 1, MEMBERS_MAX)?;
        within("queues", self.queues, 1, QUEUES_MAX)?;
        within("mtu", self.mtu as usize, 68, 9000)?;
        within("client_addresses", self.client_addresses, 1, CLIENT_ADDRESSES_MAX)
    }
}

/// The namespaces that a topology connects.
pub(super) struct Places<'a> {
    pub(super) client: &'a Namespace,
    pub(super) gateway: &'a Namespace,
    pub(super) balancer: &'a Namespace,
    pub(super) members: &'a [Namespace],
}

/// Joins the empty namespaces as `topology` says.
pub(super) fn connect(topology: &Topology, places: &Places<'_>) -> Result<(), LabError> {
    set_sysctls(places)?;
    places.gateway.ip(&gateway_lines(topology, places))?;
    let on_eth0 = |address: Ipv4Addr| format!("address add {address}/24 dev eth0");
    let clients = topology.client_addresses().into_iter().map(on_eth0).collect();
    places.client.ip(&host_lines(&["eth0"], clients, &default_route(Topology::GATEWAY_CLIENT_SIDE)))?;
    let interfaces = topology.layout.balancer_interfaces();
    let arms = interfaces.iter().zip([Topology::BALANCER, Topology::BALANCER_BACK_SIDE]);
    let addresses = arms.map(|(interface, address)| format!("address add {address}/24 dev {interface}")).collect();
    places.balancer.ip(&host_lines(interfaces, addresses, &default_route(Topology::GATEWAY_LAN_SIDE)))?;
    for (index, member) in places.members.iter().enumerate() {
        let vips = topology.vips.iter().map(|vip| format!("address add {vip}/32 dev lo"));
        let addresses = vips.chain([on_eth0(topology.member_address(index))]).collect();
        member.ip(&host_lines(&["eth0"], addresses, &member_route(topology)))?;
    }
    disable_offloads(topology, places)
}

/// Settings come before interfaces, so that every interface starts with them.
fn set_sysctls(places: &Places<'_>) -> Result<(), LabError> {
    let quiet = [
        // A new namespace may have inherited the host's settings (net.core.devconf_inherit_init_net).
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.default.send_redirects", "0"),
    ];
    let quiet_v6 = [("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv6.conf.default.disable_ipv6", "1")];
    // A kernel without IPv6 is as quiet as can be.
    let has_v6 = Path::new("/proc/sys/net/ipv6").exists();
    for namespace in [places.client, places.gateway, places.balancer].into_iter().chain(places.members) {
        namespace.write_sysctls(&quiet)?;
        if has_v6 {
            namespace.write_sysctls(&quiet_v6)?;
        }
    }
    places.gateway.write_sysctl("net.ipv4.ip_forward", "1")?;
    places.client.write_sysctls(&[
        ("net.ipv4.ip_local_port_range", "1024 65535"),
        ("net.ipv4.tcp_tw_reuse", "1"),
        // Tens of thousands of finished connections wait here at the end of a load.
        ("net.ipv4.tcp_max_tw_buckets", "262144"),
    ])?;
    for member in places.members {
        member.write_sysctls(&[
            // The VIP on lo is nobody's business on the LAN: do not answer ARP for it, do not ask with it.
            ("net.ipv4.conf.all.arp_ignore", "1"),
            ("net.ipv4.conf.all.arp_announce", "2"),
            // A thousand clients may call at once: no SYN may wait a second for its retransmission.
            ("net.core.somaxconn", "8192"),
            ("net.ipv4.tcp_max_syn_backlog", "8192"),
            ("net.ipv4.tcp_max_tw_buckets", "262144"),
        ])?;
    }
    Ok(())
}

/// All links are made from the gateway, their far ends directly in the other namespaces.
fn gateway_lines(topology: &Topology, places: &Places<'_>) -> Vec<String> {
    let Topology { layout, queues, mtu, .. } = topology;
    let veth = |port: &str, mac: [u8; 6], queues: usize, far: &Namespace, far_name: &str, far_mac: [u8; 6]| {
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        format!(
            "link add {port} address {} mtu {mtu} {queues} type veth \
             peer name {far_name} netns {} address {} mtu {mtu} {queues}",
            mac_text(mac),
            far.path().display(),
            mac_text(far_mac),
        )
    };
    let client_mac = [0x02, 0, 0, 0, 0, 0x30];
    let mut lines = vec![
        "link set lo up".to_owned(),
        veth("client", [0x02, 0, 0, 0, 0, 0x02], 1, places.client, "eth0", client_mac),
        format!("address add {}/24 dev client", Topology::GATEWAY_CLIENT_SIDE),
        "link set client up".to_owned(),
    ];
    lines.extend(bridge_lines("lan", Topology::GATEWAY_MAC, Topology::GATEWAY_LAN_SIDE, *mtu));
    if layout.member_bridge() == "back" {
        lines.extend(bridge_lines("back", Topology::GATEWAY_BACK_MAC, Topology::GATEWAY_BACK_SIDE, *mtu));
    }
    let arms = [("lan", Topology::BALANCER_MAC), ("back", Topology::BALANCER_BACK_MAC)];
    let plugs = layout.balancer_ports().iter().zip(layout.balancer_interfaces());
    for (arm, ((port, interface), (bridge, mac))) in (0..).zip(plugs.zip(arms)) {
        lines.push(veth(port, [0x02, 0, 0, 0, 3, arm], *queues, places.balancer, interface, mac));
        lines.push(format!("link set {port} master {bridge} up"));
    }
    for (index, member) in places.members.iter().enumerate() {
        let port = Topology::member_name(index);
        let mac = [0x02, 0, 0, 0, 2, 1 + index as u8];
        lines.push(veth(&port, mac, 1, member, "eth0", Topology::member_mac(index)));
        lines.push(format!("link set {port} master {} up", layout.member_bridge()));
    }
    lines
}

/// A LAN of the gateway's, without delays and snooping: it is a wire as soon as it is up.
fn bridge_lines(name: &str, mac: [u8; 6], address: Ipv4Addr, mtu: u32) -> [String; 3] {
    let mac = mac_text(mac);
    [
        format!("link add {name} address {mac} mtu {mtu} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"),
        format!("address add {address}/24 dev {name}"),
        format!("link set {name} up"),
    ]
}

/// A host: its interfaces up, its addresses, and the way out.
fn host_lines(interfaces: &[&str], addresses: Vec<String>, route: &str) -> Vec<String> {
    let mut lines: Vec<_> = ["lo"].iter().chain(interfaces).map(|name| format!("link set {name} up")).collect();
    lines.extend(addresses);
    lines.push(format!("route add {route}"));
    lines
}

fn default_route(gateway: Ipv4Addr) -> String {
    format!("default via {gateway}")
}

fn member_route(topology: &Topology) -> String {
    let route = default_route(topology.member_gateway());
    if topology.decapsulation == Decapsulation::Nobody {
        return route;
    }
    // A client's segments come with an outer header before the inner one's and TCP's: 20 bytes each. They carry "don't
    // fragment", so what does not fit would never arrive, and only the member's SYN-ACK can say so in advance.
    format!("{route} advmss {}", topology.mtu - 60)
}

/// Whatever goes into the balancer comes from the client's stack or leaves by this last hop: there, packets are whole.
/// The members' way back keeps its offloads: it never meets `AF_XDP`, and downloads cost half as much.
fn disable_offloads(topology: &Topology, places: &Places<'_>) -> Result<(), LabError> {
    disable_transmit_offloads(places.client, "eth0")?;
    topology.layout.balancer_ports().iter().try_for_each(|port| disable_transmit_offloads(places.gateway, port))
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
