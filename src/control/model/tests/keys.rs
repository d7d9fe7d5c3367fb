//! Keys that are unknown, doubled or missing, and values of the wrong type.

use super::*;

pub(super) const KEYS: &[Row] = &[
    (
        "an unknown key near a known one",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
anounce = "arp""#,
        &[
            r#"web.toml:8:1: vip[0].anounce: unknown key (allowed: name, address, protocol, port, pool, announce, persistence, connection_limit, one_packet, timeouts, enabled; did you mean "announce"?)"#,
        ],
    ),
    (
        "an unknown key near none",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
colour = "red""#,
        &[
            "web.toml:8:1: vip[0].colour: unknown key (allowed: name, address, protocol, port, pool, announce, persistence, connection_limit, one_packet, timeouts, enabled)",
        ],
    ),
    (
        "an unknown key that must be quoted",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
"a b\n" = 1"#,
        &[
            r#"web.toml:8:1: vip[0]."a b\n": unknown key (allowed: name, address, protocol, port, pool, announce, persistence, connection_limit, one_packet, timeouts, enabled)"#,
        ],
    ),
    (
        "an unknown table",
        "[[interface]]",
        r#"[nodes]
name = "lb1"

[[interface]]"#,
        &[
            r#"web.toml:1:2: nodes: unknown key (allowed: node, api, dataplane, timeouts, interface, vip, pool; did you mean "node"?)"#,
        ],
    ),
    (
        "an unknown key in every table",
        INTERFACE,
        r#"[node]
x1 = 1
[dataplane]
x2 = 1
[[interface]]
name = "eth0"
x3 = 1
"#,
        &[
            "web.toml:2:1: node.x1: unknown key (allowed: name, state_dir, hash_seed)",
            "web.toml:4:1: dataplane.x2: unknown key (allowed: cores, xdp_mode, zero_copy, busy_poll, tunnel_source, flows_v4, persistence_v4)",
            "web.toml:7:1: interface[0].x3: unknown key (allowed: name)",
        ],
    ),
    (
        "an unknown key of a member",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
wieght = 2"#,
        &[
            r#"web.toml:21:1: pool[0].member[1].wieght: unknown key (allowed: name, address, port, weight, upper_threshold, lower_threshold, backup, enabled; did you mean "weight"?)"#,
        ],
    ),
    (
        "an unknown key of a pool",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
method = "dr""#,
        &[
            "web.toml:13:1: pool[0].method: unknown key (allowed: name, forward, scheduler, on_member_down, monitor, monitors, start, damping, quorum, quorum_hysteresis, sorry_pool, slow_start, member)",
        ],
    ),
    (
        "a key in the wrong letters",
        r#"protocol = "tcp""#,
        r#"Protocol = "tcp""#,
        &[
            r#"web.toml:4:1: vip[0].protocol: is missing (allowed: "tcp", "udp")"#,
            r#"web.toml:7:1: vip[0].Protocol: unknown key (allowed: name, address, protocol, port, pool, announce, persistence, connection_limit, one_packet, timeouts, enabled; did you mean "protocol"?)"#,
        ],
    ),
    (
        "a missing key of each table",
        r#"name = "eth0"

[[vip]]
name = "web"
address = "203.0.113.2"
protocol = "tcp"
port = 80
pool = "web"

[[pool]]
name = "web"

[[pool.member]]
name = "web1"
address = "203.0.113.4""#,
        r"
[[vip]]

[[pool]]

[[pool.member]]",
        &[
            r#"web.toml:1:1: interface[0].name: is missing (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
            "web.toml:3:1: vip[0].name: is missing (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
            "web.toml:3:1: vip[0].address: is missing (allowed: a unicast IPv4 address)",
            r#"web.toml:3:1: vip[0].protocol: is missing (allowed: "tcp", "udp")"#,
            r#"web.toml:3:1: vip[0].port: is missing (allowed: 1 to 65535, or "any")"#,
            "web.toml:3:1: vip[0].pool: is missing (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
            "web.toml:5:1: pool[0].name: is missing (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
            "web.toml:7:1: pool[0].member[0].name: is missing (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
            "web.toml:7:1: pool[0].member[0].address: is missing (allowed: a unicast IPv4 address)",
        ],
    ),
];

pub(super) const TYPES: &[Row] = &[
    (
        "a number for a string",
        r#"name = "eth0""#,
        "name = 0",
        &[
            r#"web.toml:2:8: interface[0].name: the integer 0 is no string (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
        ],
    ),
    (
        "a string for a number",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
weight = "1""#,
        &[
            r#"web.toml:21:10: pool[0].member[1].weight: the string "1" is no integer (allowed: 0 to 65535; did you mean 1, without quotes?)"#,
        ],
    ),
    (
        "a float for a number",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
weight = 1.5"#,
        &["web.toml:21:10: pool[0].member[1].weight: the float 1.5 is no integer (allowed: 0 to 65535)"],
    ),
    (
        "a number for a boolean",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
enabled = 1"#,
        &["web.toml:8:11: vip[0].enabled: the integer 1 is no boolean (allowed: true or false)"],
    ),
    (
        "a number for a word",
        r#"protocol = "tcp""#,
        "protocol = 6",
        &[r#"web.toml:7:12: vip[0].protocol: the integer 6 is no string (allowed: "tcp", "udp")"#],
    ),
    (
        "a date for a number",
        "port = 80",
        "port = 1979-05-27",
        &[r#"web.toml:8:8: vip[0].port: the date or time 1979-05-27 is no integer (allowed: 1 to 65535, or "any")"#],
    ),
    (
        "an array for an address",
        r#"address = "203.0.113.2""#,
        r#"address = ["203.0.113.2"]"#,
        &["web.toml:6:11: vip[0].address: an array is no string (allowed: a unicast IPv4 address)"],
    ),
    (
        "a value for a table",
        "[[interface]]",
        r#"node = "lb1"
[[interface]]"#,
        &[r#"web.toml:1:8: node: the string "lb1" is no table (allowed: a table, [node])"#],
    ),
    (
        "a table for an array of tables",
        "[[interface]]",
        "[interface]",
        &[
            "web.toml:1:1: interface: a table is no array of tables (allowed: an array of tables, [[interface]]; did you mean [[interface]] for [interface]?)",
        ],
    ),
    (
        "a member in no pool",
        "[[interface]]",
        "[[member]]
[[interface]]",
        &[
            "web.toml:1:3: member: unknown key (allowed: node, api, dataplane, timeouts, interface, vip, pool; did you mean [[pool.member]], below its [[pool]]?)",
        ],
    ),
    (
        "a value for an array of tables",
        MEMBERS,
        r"member = 5
",
        &[
            "web.toml:14:10: pool[0].member: the integer 5 is no array of tables (allowed: an array of tables, [[pool.member]])",
        ],
    ),
    (
        "values in an array of tables",
        MEMBERS,
        r#"member = [5, { name = "web1", address = "203.0.113.4" }]
"#,
        &[
            "web.toml:14:11: pool[0].member[0]: the integer 5 is no table (allowed: an array of tables, [[pool.member]])",
        ],
    ),
    (
        "a table for a value",
        r#"protocol = "tcp""#,
        "protocol = { tcp = true }",
        &[r#"web.toml:7:12: vip[0].protocol: a table is no string (allowed: "tcp", "udp")"#],
    ),
];

pub(super) const ABSENCES: &[Row] = &[
    ("no interface", INTERFACE, "", &["web.toml:1:1: interface: is missing (allowed: at least one [[interface]])"]),
    ("no VIP", VIP, "", &["web.toml:1:1: vip: is missing (allowed: at least one [[vip]])"]),
    ("no members", MEMBERS, "", &["web.toml:11:1: pool[0]: has no members (allowed: at least one [[pool.member]])"]),
    (
        "an empty list of members",
        MEMBERS,
        r"member = []
",
        &["web.toml:11:1: pool[0]: has no members (allowed: at least one [[pool.member]])"],
    ),
];
