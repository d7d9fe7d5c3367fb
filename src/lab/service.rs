//! Configurations for the lab's balancer.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use super::Topology;

/// A VIP with a pool of its own.
#[derive(Clone, Debug)]
pub struct Service {
    /// The VIP's name, and its pool's.
    pub name: String,
    /// The VIP's address.
    pub address: Ipv4Addr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The VIP's port; `None` is any port.
    pub port: Option<u16>,
    /// How its pool forwards: `dr`, `ipip`, ….
    pub forward: &'static str,
    /// How its pool chooses members for new flows: `maglev`, `wrr`, ….
    pub scheduler: &'static str,
    /// The weights of the lab's first members: as many members as there are weights.
    pub weights: Vec<u16>,
    /// Further lines of its `[[vip]]`.
    pub vip_lines: &'static str,
    /// Further lines of its `[[pool]]`, monitors included.
    pub pool_lines: &'static str,
}

impl Service {
    /// HTTP on the default VIP, by direct routing.
    pub fn http(weights: &[u16]) -> Self {
        Self {
            name: "web".to_owned(),
            address: Topology::VIP,
            protocol: "tcp",
            port: Some(80),
            forward: "dr",
            scheduler: "maglev",
            weights: weights.to_vec(),
            vip_lines: "",
            pool_lines: "",
        }
    }

    /// UDP on the default VIP's port 53, by direct routing.
    pub fn dns(weights: &[u16]) -> Self {
        Self { name: "dns".to_owned(), protocol: "udp", port: Some(53), ..Self::http(weights) }
    }
}

pub(super) fn config(topology: &Topology, directory: &Path, dataplane: &[&str], services: &[Service]) -> String {
    let state = directory.join("state");
    let mut toml = format!("[node]\nname = \"lab\"\nhash_seed = \"lab\"\nstate_dir = \"{}\"\n", state.display());
    // Writing to a String cannot fail, here and below.
    let _ = write!(toml, "\n[api]\nsocket = \"{}\"\n", directory.join("api.sock").display());
    if !dataplane.is_empty() {
        let _ = write!(toml, "\n[dataplane]\n{}\n", dataplane.join("\n"));
    }
    for interface in topology.layout.balancer_interfaces() {
        let _ = write!(toml, "\n[[interface]]\nname = \"{interface}\"\n");
    }
    for Service { name, address, protocol, port, forward, scheduler, weights, vip_lines, pool_lines } in services {
        let port = port.map_or_else(|| "\"any\"".to_owned(), |port| port.to_string());
        let _ = write!(
            toml,
            "\n[[vip]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"{protocol}\"\nport = {port}\n\
             pool = \"{name}\"\nannounce = \"arp\"\n{vip_lines}\
             \n[[pool]]\nname = \"{name}\"\nforward = \"{forward}\"\nscheduler = \"{scheduler}\"\n{pool_lines}"
        );
        for (index, weight) in weights.iter().enumerate() {
            let _ = write!(
                toml,
                "\n[[pool.member]]\nname = \"{}\"\naddress = \"{}\"\nweight = {weight}\n",
                Topology::member_name(index),
                topology.member_address(index)
            );
        }
    }
    toml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Layout;

    #[test]
    fn a_configuration_is_readable() {
        let any = Service { name: "all".to_owned(), port: None, ..Service::http(&[7]) };
        let expected = r#"[node]
name = "lab"
hash_seed = "lab"
state_dir = "/x/state"

[api]
socket = "/x/api.sock"

[[interface]]
name = "eth0"

[[vip]]
name = "all"
address = "198.51.100.50"
protocol = "tcp"
port = "any"
pool = "all"
announce = "arp"

[[pool]]
name = "all"
forward = "dr"
scheduler = "maglev"

[[pool.member]]
name = "member1"
address = "198.51.100.101"
weight = 7
"#;
        assert_eq!(config(&Topology::default(), Path::new("/x"), &[], &[any]), expected);
    }

    #[test]
    fn a_layout_has_its_interfaces_and_addresses() {
        let topology = Topology { layout: Layout::TwoArmed, ..Topology::default() };
        let tunnelled = Service { forward: "ipip", ..Service::dns(&[1]) };
        let dataplane = ["tunnel_source = \"203.0.113.10\"", "cores = [0]"];
        let expected = r#"[node]
name = "lab"
hash_seed = "lab"
state_dir = "/x/state"

[api]
socket = "/x/api.sock"

[dataplane]
tunnel_source = "203.0.113.10"
cores = [0]

[[interface]]
name = "eth0"

[[interface]]
name = "eth1"

[[vip]]
name = "dns"
address = "198.51.100.50"
protocol = "udp"
port = 53
pool = "dns"
announce = "arp"

[[pool]]
name = "dns"
forward = "ipip"
scheduler = "maglev"

[[pool.member]]
name = "member1"
address = "203.0.113.101"
weight = 1
"#;
        assert_eq!(config(&topology, Path::new("/x"), &dataplane, &[tunnelled]), expected);
    }
}
