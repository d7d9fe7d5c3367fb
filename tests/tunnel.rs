//! IPIP: members at the far end of tunnels, real TCP through real AF_XDP, on one interface and on two.
//!
//! Topology of every test: see `pointsman::lab`. Members take the outer header off with the kernel's own `tunl0` where
//! it has one, else with `realserver::decapsulate`.

#[path = "support/lab.rs"]
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use pointsman::lab::{Decapsulation, Lab, Layout, Load, Service, Topology};
use support::{assert_clean, assert_frames_accounted_for, build, statistic, topology};

fn tunnelled(layout: Layout) -> Topology {
    Topology { layout, decapsulation: Decapsulation::Any, ..topology() }
}

fn http() -> Service {
    Service { forward: "ipip", ..Service::http(&[1, 1, 1]) }
}

/// A balancer whose members are in tunnels: every kind of load passes, and every frame is accounted for.
fn assert_serves(lab: &Lab) {
    let dns = Service { forward: "ipip", ..Service::dns(&[1, 1, 1]) };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&lab.config(&[http(), dns])).expect("balancer");
    let report = lab.client_load(&Load { connections: 1000, ..lab.get() }).expect("load");
    assert_clean(&report, 1000);
    assert_eq!(report.connections_by_member.len(), 3, "{:?}", report.connections_by_member);
    let report = lab.client_load(&Load { connections: 50, concurrency: 10, ..lab.transfer() }).expect("load");
    assert_clean(&report, 50);
    assert_eq!(report.bytes, 2 * 50 * 1_000_000, "uploaded and downloaded, every byte compared");
    let report = lab.client_load(&Load { connections: 1000, ..lab.udp() }).expect("load");
    assert_clean(&report, 1000);
    assert!(balancer.stop().expect("stop").success());
    assert_frames_accounted_for(&balancer);
    assert_eq!(statistic(&balancer, "drop.tunnel_oversize"), 0, "members ask for segments that fit");
}

#[test]
fn members_on_link() {
    let Some(lab) = build(&tunnelled(Layout::Stick)) else { return };
    assert_serves(&lab);
}

#[test]
fn members_behind_a_router() {
    let Some(lab) = build(&tunnelled(Layout::Routed)) else { return };
    assert_serves(&lab);
}

#[test]
fn members_beyond_a_second_interface() {
    let Some(lab) = build(&tunnelled(Layout::TwoArmed)) else { return };
    assert_serves(&lab);
}

#[test]
fn the_outer_source_is_the_configured_one_or_one_of_the_configured_block() {
    for (configured, expected) in [
        ("tunnel_source = \"198.51.100.20\"", vec!["198.51.100.20"]),
        (
            "tunnel_source = \"198.51.100.24/30\"",
            vec!["198.51.100.24", "198.51.100.25", "198.51.100.26", "198.51.100.27"],
        ),
        ("xdp_mode = \"auto\"", vec!["198.51.100.10"]),
    ] {
        let Some(lab) = build(&tunnelled(Layout::Routed)) else { return };
        let _members = lab.spawn_member_servers().expect("members");
        let _balancer = lab.spawn_balancer(&lab.config_with(&[configured], &[http()])).expect("balancer");
        // The gateway, which routes the tunnels, counts them by source.
        let rules = "table ip outer { set sources { type ipv4_addr; flags dynamic; }; \
                     chain forward { type filter hook forward priority 0; ip protocol 4 add @sources { ip saddr }; }; }";
        lab.gateway().run(["nft", rules]).expect("nft");
        assert_clean(&lab.client_load(&Load { connections: 200, ..lab.get() }).expect("load"), 200);
        let set = lab.gateway().run(["nft", "list", "set", "ip", "outer", "sources"]).expect("nft");
        let seen: BTreeSet<&str> = set
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|word| word.matches('.').count() == 3)
            .collect();
        assert_eq!(seen, expected.into_iter().collect(), "{configured}: {set}");
    }
}

#[test]
fn one_address_has_ports_in_pools_of_both_methods() {
    let service = |name: &str, forward, port, weights: &[u16]| Service {
        name: name.into(),
        forward,
        port: Some(port),
        ..Service::http(weights)
    };
    let topology = Topology { tcp_ports: vec![80, 81, 82], ..tunnelled(Layout::Stick) };
    let Some(lab) = build(&topology) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let services = [
        service("direct", "dr", 80, &[1]),
        service("tunnel", "ipip", 81, &[0, 1]),
        service("both", "ipip", 82, &[1, 1, 1]),
        Service::dns(&[1, 1, 1]),
    ];
    let mut balancer = lab.spawn_balancer(&lab.config(&services)).expect("balancer");
    for (port, members) in [(80, vec!["member1"]), (81, vec!["member2"]), (82, vec!["member1", "member2", "member3"])] {
        let target = SocketAddrV4::new(Topology::VIP, port);
        let report = lab.client_load(&Load { target, connections: 300, ..lab.get() }).expect("load");
        assert_clean(&report, 300);
        assert_eq!(report.connections_by_member.keys().collect::<Vec<_>>(), members, "port {port}");
    }
    assert_clean(&lab.client_load(&Load { connections: 300, ..lab.udp() }).expect("load"), 300);
    balancer.stop().expect("stop");
    assert_frames_accounted_for(&balancer);
}

#[test]
fn hundreds_of_vips_of_both_methods() {
    let Some(lab) = build(&tunnelled(Layout::Stick)) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let address = |index: u16| [10, 99, (index / 250) as u8, (index % 250) as u8 + 1].into();
    let services: Vec<Service> = (0..400)
        .map(|index| Service {
            name: format!("vip{index}"),
            address: address(index),
            forward: if index % 2 == 0 { "dr" } else { "ipip" },
            ..Service::http(&[1, 1, 1])
        })
        .collect();
    // Nobody asks for these by ARP: they are routed to the balancer, and local to every member.
    lab.gateway().run(["ip", "route", "add", "10.99.0.0/16", "via", "198.51.100.10"]).expect("ip");
    for index in 0..3 {
        lab.member(index).run(["ip", "route", "add", "local", "10.99.0.0/16", "dev", "lo"]).expect("ip");
    }
    let mut balancer = lab.spawn_balancer(&lab.config(&services)).expect("balancer");
    for index in (0..400).step_by(19).chain([399]) {
        let target = SocketAddrV4::new(address(index), 80);
        assert_clean(&lab.client_load(&Load { target, connections: 30, ..lab.get() }).expect("load"), 30);
    }
    assert!(balancer.stop().expect("stop").success());
    assert_frames_accounted_for(&balancer);
}
