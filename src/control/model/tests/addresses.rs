//! Addresses, and ports under forwarding methods that keep them.

use super::*;

pub(super) const ADDRESSES: &[Row] = &[
    (
        "a VIP: no address",
        r#"address = "203.0.113.2""#,
        r#"address = "web.example""#,
        &[r#"web.toml:6:11: vip[0].address: "web.example" is no IP address (allowed: a unicast IPv4 address)"#],
    ),
    (
        "a VIP: too few numbers",
        r#"address = "203.0.113.2""#,
        r#"address = "203.0.113""#,
        &[r#"web.toml:6:11: vip[0].address: "203.0.113" is no IP address (allowed: a unicast IPv4 address)"#],
    ),
    (
        "a VIP: a leading zero in an address",
        r#"address = "203.0.113.2""#,
        r#"address = "203.0.113.02""#,
        &[r#"web.toml:6:11: vip[0].address: "203.0.113.02" is no IP address (allowed: a unicast IPv4 address)"#],
    ),
    (
        "a VIP: an empty address",
        r#"address = "203.0.113.2""#,
        r#"address = """#,
        &[r#"web.toml:6:11: vip[0].address: "" is no IP address (allowed: a unicast IPv4 address)"#],
    ),
    (
        "a VIP: a prefix length",
        r#"address = "203.0.113.2""#,
        r#"address = "203.0.113.2/24""#,
        &[
            r#"web.toml:6:11: vip[0].address: "203.0.113.2/24" has a prefix length (allowed: a unicast IPv4 address; did you mean "203.0.113.2"?)"#,
        ],
    ),
    (
        "a VIP: a prefix length in IPv6",
        r#"address = "203.0.113.2""#,
        r#"address = "2001:db8::2/64""#,
        &[
            r#"web.toml:6:11: vip[0].address: "2001:db8::2/64" is IPv6, and IPv6 is not built yet (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a VIP: a port in the address",
        r#"address = "203.0.113.2""#,
        r#"address = "203.0.113.2:80""#,
        &[
            r#"web.toml:6:11: vip[0].address: "203.0.113.2:80" has a port (allowed: a unicast IPv4 address; did you mean "203.0.113.2"?)"#,
        ],
    ),
    (
        "a VIP: unspecified",
        r#"address = "203.0.113.2""#,
        r#"address = "0.0.0.0""#,
        &[
            r#"web.toml:6:11: vip[0].address: "0.0.0.0" is in 0.0.0.0/8, which is unspecified (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a VIP: this network",
        r#"address = "203.0.113.2""#,
        r#"address = "0.1.2.3""#,
        &[
            r#"web.toml:6:11: vip[0].address: "0.1.2.3" is in 0.0.0.0/8, which is unspecified (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a VIP: loopback",
        r#"address = "203.0.113.2""#,
        r#"address = "127.0.0.1""#,
        &[
            r#"web.toml:6:11: vip[0].address: "127.0.0.1" is in 127.0.0.0/8, which is loopback (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a VIP: multicast",
        r#"address = "203.0.113.2""#,
        r#"address = "224.0.0.18""#,
        &[
            r#"web.toml:6:11: vip[0].address: "224.0.0.18" is in 224.0.0.0/4, which is multicast (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a VIP: reserved",
        r#"address = "203.0.113.2""#,
        r#"address = "240.0.0.1""#,
        &[
            r#"web.toml:6:11: vip[0].address: "240.0.0.1" is in 240.0.0.0/4, which is reserved (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a VIP: broadcast",
        r#"address = "203.0.113.2""#,
        r#"address = "255.255.255.255""#,
        &[
            r#"web.toml:6:11: vip[0].address: "255.255.255.255" is the broadcast address (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a member: no address",
        r#"address = "203.0.113.5""#,
        r#"address = "web1""#,
        &[r#"web.toml:20:11: pool[0].member[1].address: "web1" is no IP address (allowed: a unicast IPv4 address)"#],
    ),
    (
        "a member: a prefix length",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5/24""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: "203.0.113.5/24" has a prefix length (allowed: a unicast IPv4 address; did you mean "203.0.113.5"?)"#,
        ],
    ),
    (
        "a member: unspecified",
        r#"address = "203.0.113.5""#,
        r#"address = "0.0.0.0""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: "0.0.0.0" is in 0.0.0.0/8, which is unspecified (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a member: loopback",
        r#"address = "203.0.113.5""#,
        r#"address = "127.8.0.1""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: "127.8.0.1" is in 127.0.0.0/8, which is loopback (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a member: multicast",
        r#"address = "203.0.113.5""#,
        r#"address = "239.255.255.255""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: "239.255.255.255" is in 224.0.0.0/4, which is multicast (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a member: reserved",
        r#"address = "203.0.113.5""#,
        r#"address = "255.255.255.254""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: "255.255.255.254" is in 240.0.0.0/4, which is reserved (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a member: broadcast",
        r#"address = "203.0.113.5""#,
        r#"address = "255.255.255.255""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: "255.255.255.255" is the broadcast address (allowed: a unicast IPv4 address)"#,
        ],
    ),
    (
        "a member with a VIP's address",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.2""#,
        &[
            r#"web.toml:20:11: pool[0].member[1].address: 203.0.113.2 is the address of VIP "web" (also at line 6; allowed: the member's own address)"#,
        ],
    ),
    (
        "a member with the address of another pool's VIP",
        r"
[[pool]]
name",
        r#"
[[vip]]
name = "dns"
address = "203.0.113.5"
protocol = "udp"
port = 53
pool = "dns"
enabled = false

[[pool]]
name = "dns"
member = [{ name = "dns1", address = "203.0.113.6" }]

[[pool]]
name"#,
        &[
            r#"web.toml:32:11: pool[1].member[1].address: 203.0.113.5 is the address of VIP "dns" (also at line 13; allowed: the member's own address)"#,
        ],
    ),
];

pub(super) const PORTS_UNDER_DR: &[Row] = &[
    (
        "a member's port that is not the VIP's, in a tunnel",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
forward = "ipip"

[[pool.member]]
name = "web0"
address = "203.0.113.9"
port = 8080"#,
        &[
            r#"web.toml:18:8: pool[0].member[0].port: 8080 differs from VIP "web", which takes port 80 (also at line 8; allowed under "ipip": 80, or no port)"#,
        ],
    ),
    (
        "a member's port that is not the VIP's",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
port = 8080"#,
        &[
            r#"web.toml:21:8: pool[0].member[1].port: 8080 differs from VIP "web", which takes port 80 (also at line 8; allowed under "dr": 80, or no port)"#,
        ],
    ),
    (
        "a member's port under a VIP on any port",
        r#"port = 80
pool = "web"

[[pool]]
name = "web"

[[pool.member]]
"#,
        r#"port = "any"
pool = "web"

[[pool]]
name = "web"

[[pool.member]]
port = 80
"#,
        &[
            r#"web.toml:15:8: pool[0].member[0].port: 80 differs from VIP "web", which takes any port (also at line 8; allowed under "dr": no port)"#,
        ],
    ),
    (
        "a member's port under VIPs on two ports",
        r#"pool = "web"

[[pool]]
name = "web"

[[pool.member]]
"#,
        r#"pool = "web"

[[vip]]
name = "web-tls"
address = "203.0.113.2"
protocol = "tcp"
port = 443
pool = "web"

[[pool]]
name = "web"

[[pool.member]]
port = 80
"#,
        &[
            r#"web.toml:22:8: pool[0].member[0].port: 80 differs from VIP "web-tls", which takes port 443 (also at line 15; allowed under "dr": no port)"#,
        ],
    ),
];
