//! What a lab looks like, and the commands that make it so.
//!
//! ```text
//!   client ──192.0.2.0/24── gateway ──┬── balancer   198.51.100.10   eth0, where VIPs are announced
//!   192.0.2.10 …      .1 │            ├── member1    198.51.100.101  eth0, VIPs on lo
//!                        │ lan        ├── member2    198.51.100.102
//!                        198.51.100.1 └── …
//! ```
//! `lan` is a bridge inside the gateway; its ports are called `balancer`, `member1`, ….

use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::offload::disable_transmit_offloads;
use super::{LabError, Namespace};

/// What a lab looks like.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Members, 1 to [`MEMBERS_MAX`].
    pub members: usize,
    /// Receive and transmit queues of the balancer's interface and of its peer, 1 to 16. XDP cannot be attached where
    /// the peer has more transmit queues than there are receive queues, so both have the same number.
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
            members: 3,
            queues: 1,
            mtu: 1500,
            client_addresses: 4,
            vips: vec![Self::VIP],
            tcp_ports: vec![80],
            udp_ports: vec![53],
            program: env::current_exe().unwrap_or_else(|_| "pointsman".into()),
        }
    }
}

impl Topology {
    /// The VIP, unless others are asked for. All of 198.51.100.50 to .99 is free for VIPs.
    pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 50);
    /// The gateway, as the client sees it.
    pub const GATEWAY_CLIENT_SIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The gateway, as balancer and members see it.
    pub const GATEWAY_LAN_SIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    /// The balancer's own address.
    pub const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
    /// The MAC of the balancer's `eth0`.
    pub const BALANCER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
    /// The MAC of the gateway's `lan`.
    pub const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

    /// The addresses of the client.
    pub fn client_addresses(&self) -> Vec<Ipv4Addr> {
        (0..self.client_addresses).map(|index| Ipv4Addr::new(192, 0, 2, 10 + index as u8)).collect()
    }

    /// The own address of a member; the first is number 0.
    pub fn member_address(index: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, 101 + index as u8)
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
    places.gateway.ip(&link_lines(topology, places))?;
    let on_eth0 = |address: Ipv4Addr| format!("address add {address}/24 dev eth0");
    let clients = topology.client_addresses().into_iter().map(on_eth0).collect();
    places.client.ip(&host_lines(clients, Topology::GATEWAY_CLIENT_SIDE))?;
    places.balancer.ip(&host_lines(vec![on_eth0(Topology::BALANCER)], Topology::GATEWAY_LAN_SIDE))?;
    for (index, member) in places.members.iter().enumerate() {
        let vips = topology.vips.iter().map(|vip| format!("address add {vip}/32 dev lo"));
        let addresses = vips.chain([on_eth0(Topology::member_address(index))]).collect();
        member.ip(&host_lines(addresses, Topology::GATEWAY_LAN_SIDE))?;
    }
    disable_offloads(places)
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
fn link_lines(topology: &Topology, places: &Places<'_>) -> Vec<String> {
    let Topology { queues, mtu, .. } = topology;
    let veth = |port: &str, mac: [u8; 6], queues: usize, far: &Namespace, far_mac: [u8; 6]| {
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        format!(
            "link add {port} address {} mtu {mtu} {queues} type veth \
             peer name eth0 netns {} address {} mtu {mtu} {queues}",
            mac_text(mac),
            far.path().display(),
            mac_text(far_mac),
        )
    };
    let client_port = [0x02, 0, 0, 0, 0, 0x02];
    let mut lines = vec![
        "link set lo up".to_owned(),
        // Without delays and snooping: the LAN is a wire as soon as it is up.
        format!(
            "link add lan address {} mtu {mtu} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            mac_text(Topology::GATEWAY_MAC)
        ),
        format!("address add {}/24 dev lan", Topology::GATEWAY_LAN_SIDE),
        veth("client", client_port, 1, places.client, [0x02, 0, 0, 0, 0, 0x20]),
        format!("address add {}/24 dev client", Topology::GATEWAY_CLIENT_SIDE),
        "link set client up".to_owned(),
        veth("balancer", [0x02, 0, 0, 0, 2, 0], *queues, places.balancer, Topology::BALANCER_MAC),
    ];
    for (index, member) in places.members.iter().enumerate() {
        let port = Topology::member_name(index);
        lines.push(veth(&port, [0x02, 0, 0, 0, 2, 1 + index as u8], 1, member, Topology::member_mac(index)));
    }
    let members = (0..topology.members).map(Topology::member_name);
    for port in std::iter::once("balancer".to_owned()).chain(members) {
        lines.push(format!("link set {port} master lan up"));
    }
    lines.push("link set lan up".to_owned());
    lines
}

/// A host with one interface: its addresses, up, and the way out.
fn host_lines(addresses: Vec<String>, gateway: Ipv4Addr) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    lines.extend(addresses);
    lines.push(format!("route add default via {gateway}"));
    lines
}

/// Whatever goes into the balancer comes from the client's stack or leaves by this last hop: there, packets are whole.
/// The members' way back keeps its offloads: it never meets `AF_XDP`, and downloads cost half as much.
fn disable_offloads(places: &Places<'_>) -> Result<(), LabError> {
    disable_transmit_offloads(places.client, "eth0")?;
    disable_transmit_offloads(places.gateway, "balancer")
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
