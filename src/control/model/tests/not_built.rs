//! What is refused by name until it is built.

use super::*;

pub(super) const NOT_BUILT: &[Row] = &[
    (
        "forwarding by gre",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
forward = "gre""#,
        &[r#"web.toml:13:11: pool[0].forward: "gre" is not built yet (allowed: "dr", "ipip")"#],
    ),
    (
        "forwarding by gue",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
forward = "gue""#,
        &[r#"web.toml:13:11: pool[0].forward: "gue" is not built yet (allowed: "dr", "ipip")"#],
    ),
    (
        "forwarding by nat",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
forward = "nat""#,
        &[r#"web.toml:13:11: pool[0].forward: "nat" is not built yet (allowed: "dr", "ipip")"#],
    ),
    (
        "forwarding by fullnat",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
forward = "fullnat""#,
        &[r#"web.toml:13:11: pool[0].forward: "fullnat" is not built yet (allowed: "dr", "ipip")"#],
    ),
    (
        "announcing by vrrp",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
announce = "vrrp""#,
        &[r#"web.toml:8:12: vip[0].announce: "vrrp" is not built yet (allowed: "none", "arp")"#],
    ),
    (
        "announcing by bgp",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
announce = "bgp""#,
        &[r#"web.toml:8:12: vip[0].announce: "bgp" is not built yet (allowed: "none", "arp")"#],
    ),
    (
        "a method to come is not judged by dr's rules",
        r#"[[pool]]
name = "web"

[[pool.member]]
name = "web1""#,
        r#"[[pool]]
name = "web"
forward = "nat"

[[pool.member]]
port = 8080
name = "web1""#,
        &[r#"web.toml:13:11: pool[0].forward: "nat" is not built yet (allowed: "dr", "ipip")"#],
    ),
    (
        "the flow table's size",
        "[[interface]]",
        r"[dataplane]
flows_v4 = 1_048_576
flows_v6 = 262_144

[[interface]]",
        &["web.toml:3:1: dataplane.flows_v6: is not built yet; leave it out"],
    ),
    (
        "a VIP in IPv6",
        r#"address = "203.0.113.2""#,
        r#"address = "2001:db8::2""#,
        &[
            r#"web.toml:6:11: vip[0].address: "2001:db8::2" is IPv6, and IPv6 is not built yet (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a member in IPv6",
        r#"address = "203.0.113.5""#,
        r#"address = "2001:db8::5""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: "2001:db8::5" is IPv6, and IPv6 is not built yet (allowed: a unicast IPv4 address)"#,
        ],
    ),
];

#[test]
fn what_is_not_built_is_refused_by_name() {
    let text = include_str!("../../../../tests/fixtures/config/everything.toml");
    assert_eq!(errors_of(text), ["web.toml:12:1: dataplane.flows_v6: is not built yet; leave it out",]);
}
