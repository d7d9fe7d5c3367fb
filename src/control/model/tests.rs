//! Every check, with the exact text of what it says.

use proptest::prelude::*;

use super::*;

const INTERFACE: &str = r#"[[interface]]
name = "eth0"
"#;

const VIP: &str = r#"[[vip]]
name = "web"
address = "203.0.113.2"
protocol = "tcp"
port = 80
pool = "web"
"#;

const POOL: &str = r#"[[pool]]
name = "web"

"#;

const MEMBERS: &str = r#"[[pool.member]]
name = "web1"
address = "203.0.113.4"

[[pool.member]]
name = "web2"
address = "203.0.113.5"
"#;

/// A configuration that is wrong: what is, the text of the good one (which stands there once) that is replaced, its
/// replacement, and every line that is said.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str]);

fn good() -> String {
    [INTERFACE, VIP, POOL].join("\n") + MEMBERS
}

fn errors_of(text: &str) -> Vec<String> {
    Model::parse("web.toml", text).err().unwrap_or_default().iter().map(ConfigError::to_string).collect()
}

#[test]
fn refused() {
    let tables = [
        SYNTAX,
        KEYS,
        TYPES,
        NUMBERS,
        WORDS,
        TUNNEL_SOURCES,
        TIMEOUTS,
        LIMITS,
        NOT_BUILT,
        NAMES,
        DUPLICATES,
        CORES,
        ABSENCES,
        ADDRESSES,
        PORTS_UNDER_DR,
    ];
    for (what, from, to, errors) in tables.into_iter().flatten() {
        assert_eq!(good().matches(from).count(), 1, "{what}: what is replaced stands there once");
        assert_eq!(errors_of(&good().replace(from, to)), *errors, "{what}");
    }
}

const SYNTAX: &[Row] = &[
    (
        "a value without quotes",
        r#"name = "eth0""#,
        "name = eth0",
        &[
            "web.toml:2:8: syntax: no value, found `eth0` (allowed: text in quotes, a number, true, false, an array, a table)",
        ],
    ),
    (
        "no value",
        "port = 80",
        "port =",
        &[
            "web.toml:8:7: syntax: no value, found the line's end (allowed: text in quotes, a number, true, false, an array, a table)",
        ],
    ),
    ("no equals sign", "port = 80", "port 80", &["web.toml:8:6: syntax: key with no value, found `80` (allowed: `=`)"]),
    (
        "two values on a line",
        "port = 80",
        "port = 80 81",
        &[
            "web.toml:8:8: syntax: no value, found `80 81` (allowed: text in quotes, a number, true, false, an array, a table)",
        ],
    ),
    (
        "a string that does not end",
        r#"name = "eth0""#,
        r#"name = "eth0"#,
        &[r#"web.toml:2:13: syntax: invalid basic string, found the line's end (allowed: `"`)"#],
    ),
    (
        "a header that does not end: its table is not judged",
        "[[vip]]",
        "[[vip]",
        &["web.toml:4:7: syntax: unclosed array table, found the line's end (allowed: `]`)"],
    ),
    (
        "an array that does not end",
        "[[interface]]",
        r"[dataplane]
cores = [1, 2

[[interface]]",
        &["web.toml:4:1: syntax: what stands before this does not end, found `[[interface]]` (allowed: `,`, `]`, `}`)"],
    ),
    (
        "an unknown escape",
        r#"name = "eth0""#,
        r#"name = "eth\q""#,
        &[
            r#"web.toml:2:13: syntax: missing escaped value, found `q"` (allowed: `b`, `e`, `f`, `n`, `r`, `\`, `"`, `x`, `u`, `U`)"#,
        ],
    ),
    ("a leading zero", "port = 80", "port = 080", &["web.toml:8:8: syntax: unexpected leading zero, found `0`"]),
    (
        "a key twice",
        "port = 80",
        r"port = 80
port = 81",
        &["web.toml:9:1: syntax: duplicate key, found `port`"],
    ),
    (
        "a table twice",
        "[[interface]]",
        r#"[node]
name = "a"
[node]
hash_seed = "x"
[[interface]]"#,
        &["web.toml:3:2: syntax: duplicate key, found `node`"],
    ),
    (
        "a control character",
        r#"name = "eth0""#,
        "name = \"eth\u{1}\"",
        &[
            r"web.toml:2:12: syntax: invalid basic string, found `\u{1}` (allowed: non-double-quote visible characters, `\`)",
        ],
    ),
    (
        "two syntax errors",
        r#"name = "eth0"

[[vip]]
name = "web""#,
        r"name = eth0

[[vip]]
name = web",
        &[
            "web.toml:2:8: syntax: no value, found `eth0` (allowed: text in quotes, a number, true, false, an array, a table)",
            "web.toml:5:8: syntax: no value, found `web` (allowed: text in quotes, a number, true, false, an array, a table)",
        ],
    ),
    (
        "an address without quotes",
        r#""203.0.113.2""#,
        "203.0.113.2",
        &[
            "web.toml:6:11: syntax: no value, found `203.0.113.2` (allowed: text in quotes, a number, true, false, an array, a table)",
        ],
    ),
    (
        "a word that begins like a truth",
        r#""tcp""#,
        "tcp",
        &[
            "web.toml:7:12: syntax: no value, found `tcp` (allowed: text in quotes, a number, true, false, an array, a table)",
        ],
    ),
    (
        "a colon for an equals sign",
        "port = 80",
        "port: 80",
        &["web.toml:8:5: syntax: invalid unquoted key, found `:` (allowed: letters, numbers, `-`, `_`)"],
    ),
    (
        "a comma at the end",
        "port = 80",
        "port = 80,",
        &["web.toml:8:10: syntax: unexpected key or value, found `,` (allowed: newline, `#`)"],
    ),
    (
        "a multi-line string that does not end",
        r#""tcp""#,
        r#""""tcp"#,
        &[r#"web.toml:7:12: syntax: a string does not end, found the file's end (allowed: `"""`)"#],
    ),
    (
        "an inline table that does not end",
        r#"port = 80
pool = "web"
"#,
        r#"port = { a = "x"
"#,
        &[
            "web.toml:4:1: vip[0].pool: is missing (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
            r#"web.toml:8:8: vip[0].port: a table is no integer (allowed: 1 to 65535, or "any")"#,
            "web.toml:10:1: syntax: what stands before this does not end, found `[[pool]]` (allowed: `,`, `]`, `}`)",
        ],
    ),
    (
        "a header that lacks a bracket at its end hides no other table's errors",
        r#"[[vip]]
name = "web"
address = "203.0.113.2"
protocol = "tcp"
port = 80
pool = "web"

[[pool]]
name = "web"
"#,
        r#"[[vip]
name = "web"

[[pool]]
name = "we b"
"#,
        &[
            "web.toml:4:7: syntax: unclosed array table, found the line's end (allowed: `]`)",
            r#"web.toml:8:8: pool[0].name: "we b" has the character ' ' (allowed: a name of the characters A-Z a-z 0-9 . _ -)"#,
        ],
    ),
    (
        "a pool's header that does not end",
        "[[pool]]",
        "[[pool]",
        &["web.toml:11:8: syntax: unclosed array table, found the line's end (allowed: `]`)"],
    ),
    (
        "a pool's name that cannot be read may be the one",
        r#"[[pool]]
name = "web""#,
        r"[[pool]]
name = web",
        &[
            "web.toml:12:8: syntax: no value, found `web` (allowed: text in quotes, a number, true, false, an array, a table)",
        ],
    ),
    (
        "a key of a value",
        "port = 80",
        r"port = 80
port.x = 1",
        &["web.toml:9:1: syntax: cannot extend value of type integer with a dotted key, found `port`"],
    ),
    (
        "an absence beside a syntax error is not reported, elsewhere it is",
        r#"protocol = "tcp"
port = 80
pool = "web"

[[pool]]
name = "web"
"#,
        r#"protocol tcp
port = 80
pool = "web"

[[pool]]
"#,
        &[
            "web.toml:7:10: syntax: key with no value, found `tcp` (allowed: `=`)",
            "web.toml:11:1: pool[0].name: is missing (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
        ],
    ),
];

const KEYS: &[Row] = &[
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
            r#"web.toml:1:2: nodes: unknown key (allowed: node, dataplane, timeouts, interface, vip, pool; did you mean "node"?)"#,
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

const TYPES: &[Row] = &[
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
            "web.toml:1:3: member: unknown key (allowed: node, dataplane, timeouts, interface, vip, pool; did you mean [[pool.member]], below its [[pool]]?)",
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

const NUMBERS: &[Row] = &[
    (
        "a weight above the range",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
weight = 70000"#,
        &["web.toml:21:10: pool[0].member[1].weight: 70000 is more than 65535 (allowed: 0 to 65535)"],
    ),
    (
        "a weight below the range",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
weight = -1"#,
        &["web.toml:21:10: pool[0].member[1].weight: -1 is less than 0 (allowed: 0 to 65535)"],
    ),
    (
        "a weight beyond every integer",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
weight = 99999999999999999999999999999999999999999999999"#,
        &[
            "web.toml:21:10: pool[0].member[1].weight: 9999999999999999999999999999999999999999… is more than 65535 (allowed: 0 to 65535)",
        ],
    ),
    (
        "a VIP's port above the range",
        "port = 80",
        "port = 65536",
        &[r#"web.toml:8:8: vip[0].port: 65536 is more than 65535 (allowed: 1 to 65535, or "any")"#],
    ),
    (
        "a VIP's port below the range",
        "port = 80",
        "port = 0",
        &[r#"web.toml:8:8: vip[0].port: 0 is less than 1 (allowed: 1 to 65535, or "any")"#],
    ),
    (
        "a VIP's port in words",
        "port = 80",
        r#"port = "http""#,
        &[r#"web.toml:8:8: vip[0].port: "http" is unknown (allowed: 1 to 65535, or "any")"#],
    ),
    (
        "a VIP's port in quotes",
        "port = 80",
        r#"port = "80""#,
        &[
            r#"web.toml:8:8: vip[0].port: "80" is unknown (allowed: 1 to 65535, or "any"; did you mean 80, without quotes?)"#,
        ],
    ),
    (
        "a VIP's port almost any",
        "port = 80",
        r#"port = "ANY""#,
        &[r#"web.toml:8:8: vip[0].port: "ANY" is unknown (allowed: 1 to 65535, or "any"; did you mean "any"?)"#],
    ),
    (
        "a member's port above the range",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
port = 0x1_0000"#,
        &["web.toml:21:8: pool[0].member[1].port: 65536 is more than 65535 (allowed: 1 to 65535)"],
    ),
    (
        "a member's port below the range",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
port = 0"#,
        &["web.toml:21:8: pool[0].member[1].port: 0 is less than 1 (allowed: 1 to 65535)"],
    ),
    (
        "a member's port in words",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
port = "any""#,
        &[r#"web.toml:21:8: pool[0].member[1].port: the string "any" is no integer (allowed: 1 to 65535)"#],
    ),
];

const WORDS: &[Row] = &[
    (
        "an unknown protocol",
        r#"protocol = "tcp""#,
        r#"protocol = "sctp""#,
        &[r#"web.toml:7:12: vip[0].protocol: "sctp" is unknown (allowed: "tcp", "udp")"#],
    ),
    (
        "a protocol in the wrong letters",
        r#"protocol = "tcp""#,
        r#"protocol = "TCP""#,
        &[r#"web.toml:7:12: vip[0].protocol: "TCP" is unknown (allowed: "tcp", "udp"; did you mean "tcp"?)"#],
    ),
    (
        "an unknown forwarding method",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
forward = "drr""#,
        &[r#"web.toml:13:11: pool[0].forward: "drr" is unknown (allowed: "dr", "ipip"; did you mean "dr"?)"#],
    ),
    (
        "an unknown scheduler",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
scheduler = "magleev""#,
        &[
            r#"web.toml:13:13: pool[0].scheduler: "magleev" is unknown (allowed: "maglev", "rr", "wrr", "lc", "wlc", "sh", "sed", "nq"; did you mean "maglev"?)"#,
        ],
    ),
    (
        "a scheduler that IPVS has and we do not",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
scheduler = "lblc""#,
        &[
            r#"web.toml:13:13: pool[0].scheduler: "lblc" is unknown (allowed: "maglev", "rr", "wrr", "lc", "wlc", "sh", "sed", "nq")"#,
        ],
    ),
    (
        "something else to do when a member is down",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
on_member_down = "kep""#,
        &[
            r#"web.toml:13:18: pool[0].on_member_down: "kep" is unknown (allowed: "reselect", "keep", "drop"; did you mean "keep"?)"#,
        ],
    ),
    (
        "a scheduler that is no text",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "web"
scheduler = 1
on_member_down = true"#,
        &[
            r#"web.toml:13:13: pool[0].scheduler: the integer 1 is no string (allowed: "maglev", "rr", "wrr", "lc", "wlc", "sh", "sed", "nq")"#,
            r#"web.toml:14:18: pool[0].on_member_down: the boolean true is no string (allowed: "reselect", "keep", "drop")"#,
        ],
    ),
    (
        "an unknown way to announce",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
announce = "ospf""#,
        &[r#"web.toml:8:12: vip[0].announce: "ospf" is unknown (allowed: "none", "arp")"#],
    ),
    (
        "unknown modes",
        "[[interface]]",
        r#"[dataplane]
xdp_mode = "skb"
zero_copy = "yes"
busy_poll = "on"

[[interface]]"#,
        &[
            r#"web.toml:2:12: dataplane.xdp_mode: "skb" is unknown (allowed: "auto", "native", "generic")"#,
            r#"web.toml:3:13: dataplane.zero_copy: "yes" is unknown (allowed: "auto", "on", "off")"#,
            r#"web.toml:4:13: dataplane.busy_poll: the string "on" is no boolean (allowed: true or false)"#,
        ],
    ),
    (
        "an empty word",
        r#"protocol = "tcp""#,
        r#"protocol = """#,
        &[r#"web.toml:7:12: vip[0].protocol: "" is unknown (allowed: "tcp", "udp")"#],
    ),
];

const TUNNEL_SOURCES: &[Row] = &[
    (
        "a tunnel's source with bits beyond its prefix",
        "[[interface]]",
        "[dataplane]\ntunnel_source = \"198.51.100.9/28\"\n\n[[interface]]",
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: "198.51.100.9/28" has bits beyond its prefix (allowed: a unicast IPv4 address, or a block of them with a prefix length of 16 to 32; did you mean "198.51.100.0/28"?)"#,
        ],
    ),
    (
        "a tunnel's source that is too large a block",
        "[[interface]]",
        "[dataplane]\ntunnel_source = \"10.0.0.0/8\"\n\n[[interface]]",
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: "10.0.0.0/8" has the prefix length 8 (allowed: a unicast IPv4 address, or a block of them with a prefix length of 16 to 32)"#,
        ],
    ),
    (
        "a tunnel's source that nobody can have",
        "[[interface]]",
        "[dataplane]\ntunnel_source = \"224.0.0.0/28\"\n\n[[interface]]",
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: "224.0.0.0/28" is in 224.0.0.0/4, which is multicast (allowed: a unicast IPv4 address, or a block of them with a prefix length of 16 to 32)"#,
        ],
    ),
    (
        "a tunnel's source that is no address",
        "[[interface]]",
        "[dataplane]\ntunnel_source = \"eth0/28\"\n\n[[interface]]",
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: "eth0/28" is no IPv4 block (allowed: a unicast IPv4 address, or a block of them with a prefix length of 16 to 32)"#,
        ],
    ),
];

const TIMEOUTS: &[Row] = &[
    (
        "a timeout without a unit",
        "[[interface]]",
        "[timeouts]\nudp = \"90\"\n\n[[interface]]",
        &[
            r#"web.toml:2:7: timeouts.udp: "90" has no unit (allowed: 1s to 13d; units: s, m, h, d; did you mean "90s"?)"#,
        ],
    ),
    (
        "a timeout that is a number",
        "[[interface]]",
        "[timeouts]\nudp = 90\n\n[[interface]]",
        &[
            r#"web.toml:2:7: timeouts.udp: the integer 90 is no duration (allowed: 1s to 13d; units: s, m, h, d; did you mean "90s"?)"#,
        ],
    ),
    (
        "timeouts out of range, and one that is none",
        "[[interface]]",
        "[timeouts]\ntcp_syn = \"0s\"\ntcp_closing = \"14d\"\ntcp_established = \"long\"\n\n[[interface]]",
        &[
            r#"web.toml:2:11: timeouts.tcp_syn: "0s" is less than 1s (allowed: 1s to 13d; units: s, m, h, d)"#,
            r#"web.toml:3:15: timeouts.tcp_closing: "14d" is more than 13d (allowed: 1s to 13d; units: s, m, h, d)"#,
            r#"web.toml:4:19: timeouts.tcp_established: "long" is no duration (allowed: 1s to 13d; units: s, m, h, d)"#,
        ],
    ),
];

const LIMITS: &[Row] = &[
    (
        "persistence that is no table",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = "5m""#,
        &[
            r#"web.toml:8:15: vip[0].persistence: the string "5m" is no table (allowed: a table, such as { timeout = "5m", netmask = 32 })"#,
        ],
    ),
    (
        "a timeout of persistence that is too short",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = { timeout = "4s" }"#,
        &[r#"web.toml:8:27: vip[0].persistence.timeout: "4s" is less than 5s (allowed: 5s to 13d; units: s, m, h, d)"#],
    ),
    (
        "a timeout of persistence that is too long",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = { timeout = "14d" }"#,
        &[
            r#"web.toml:8:27: vip[0].persistence.timeout: "14d" is more than 13d (allowed: 5s to 13d; units: s, m, h, d)"#,
        ],
    ),
    (
        "a netmask of no bits",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = { netmask = 0 }"#,
        &["web.toml:8:27: vip[0].persistence.netmask: 0 is less than 1 (allowed: 1 to 32)"],
    ),
    (
        "a netmask of too many bits",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = { netmask = 33 }"#,
        &["web.toml:8:27: vip[0].persistence.netmask: 33 is more than 32 (allowed: 1 to 32)"],
    ),
    (
        "LVS's way to write a netmask",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = { netmask = "255.255.255.0" }"#,
        &[
            r#"web.toml:8:27: vip[0].persistence.netmask: "255.255.255.0" is no prefix length (allowed: 1 to 32; did you mean 24?)"#,
        ],
    ),
    (
        "a netmask with holes",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = { netmask = "255.0.255.0" }"#,
        &[r#"web.toml:8:27: vip[0].persistence.netmask: "255.0.255.0" is no prefix length (allowed: 1 to 32)"#],
    ),
    (
        "an unknown key of persistence",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
persistence = { time = "5m" }"#,
        &["web.toml:8:17: vip[0].persistence.time: unknown key (allowed: timeout, netmask)"],
    ),
    (
        "room for too few clients",
        "[[interface]]",
        r"[dataplane]
persistence_v4 = 1

[[interface]]",
        &["web.toml:2:18: dataplane.persistence_v4: 1 is less than 1024 (allowed: 1024 to 268435456)"],
    ),
    (
        "a limit of no connections",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
connection_limit = 0"#,
        &["web.toml:8:20: vip[0].connection_limit: 0 is less than 1 (allowed: 1 to 268435456)"],
    ),
    (
        "a limit beyond any table",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
connection_limit = 268_435_457"#,
        &["web.toml:8:20: vip[0].connection_limit: 268435457 is more than 268435456 (allowed: 1 to 268435456)"],
    ),
    (
        "one packet of TCP",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
one_packet = true"#,
        &[
            r#"web.toml:8:14: vip[0].one_packet: true is for UDP, and the protocol is "tcp" (allowed under "tcp": false)"#,
        ],
    ),
    (
        "a limit of flows that are not kept",
        r#"protocol = "tcp""#,
        r#"protocol = "udp"
one_packet = true
connection_limit = 5"#,
        &[
            "web.toml:9:20: vip[0].connection_limit: one_packet = true keeps no flows that could be limited; leave it out",
        ],
    ),
    (
        "a timeout of the other protocol",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
timeouts = { udp = "5s", tcp_syn = "5s" }"#,
        &[
            r#"web.toml:8:20: vip[0].timeouts.udp: the VIP's protocol is "tcp" (allowed under "tcp": tcp_established, tcp_syn, tcp_closing)"#,
        ],
    ),
    (
        "a timeout of TCP for UDP",
        r#"protocol = "tcp""#,
        r#"protocol = "udp"
timeouts = { tcp_established = "5s" }"#,
        &[r#"web.toml:8:32: vip[0].timeouts.tcp_established: the VIP's protocol is "udp" (allowed under "udp": udp)"#],
    ),
    (
        "a VIP's timeout that is too short",
        r#"protocol = "tcp""#,
        r#"protocol = "tcp"
timeouts = { tcp_syn = "0s" }"#,
        &[r#"web.toml:8:24: vip[0].timeouts.tcp_syn: "0s" is less than 1s (allowed: 1s to 13d; units: s, m, h, d)"#],
    ),
    (
        "a lower threshold alone",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
lower_threshold = 5"#,
        &[
            "web.toml:21:19: pool[0].member[1].lower_threshold: there is no upper_threshold beside it (allowed: both, upper_threshold alone, or neither)",
        ],
    ),
    (
        "a lower threshold above the upper",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
lower_threshold = 6
upper_threshold = 5"#,
        &[
            "web.toml:21:19: pool[0].member[1].lower_threshold: 6 is more than upper_threshold (also at line 22; allowed: 1 to 5)",
        ],
    ),
    (
        "an upper threshold that is wrong says nothing of the lower",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.5"
lower_threshold = 6
upper_threshold = 0"#,
        &["web.toml:22:19: pool[0].member[1].upper_threshold: 0 is less than 1 (allowed: 1 to 268435456)"],
    ),
];

const NOT_BUILT: &[Row] = &[
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
        "the API",
        "[[interface]]",
        r#"[api]
socket = "/run/pointsman/api.sock"

[[interface]]"#,
        &["web.toml:1:2: api: is not built yet; leave it out"],
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

const NAMES: &[Row] = &[
    (
        "an empty VIP name",
        r#"name = "web"
address"#,
        r#"name = ""
address"#,
        &["web.toml:5:8: vip[0].name: the name is empty (allowed: a name of the characters A-Z a-z 0-9 . _ -)"],
    ),
    (
        "a space in a VIP name",
        r#"name = "web"
address"#,
        r#"name = "my web"
address"#,
        &[
            r#"web.toml:5:8: vip[0].name: "my web" has the character ' ' (allowed: a name of the characters A-Z a-z 0-9 . _ -)"#,
        ],
    ),
    (
        "a slash in a pool name, and nothing else to complain of",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = "we/b""#,
        &[
            r#"web.toml:9:8: vip[0].pool: "web" is no pool (allowed: the name of a [[pool]])"#,
            r#"web.toml:12:8: pool[0].name: "we/b" has the character '/' (allowed: a name of the characters A-Z a-z 0-9 . _ -)"#,
        ],
    ),
    (
        "an empty pool name",
        r#"[[pool]]
name = "web""#,
        r#"[[pool]]
name = """#,
        &[
            r#"web.toml:9:8: vip[0].pool: "web" is no pool (allowed: the name of a [[pool]])"#,
            "web.toml:12:8: pool[0].name: the name is empty (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
        ],
    ),
    (
        "an empty member name",
        r#"name = "web2""#,
        r#"name = """#,
        &[
            "web.toml:19:8: pool[0].member[1].name: the name is empty (allowed: a name of the characters A-Z a-z 0-9 . _ -)",
        ],
    ),
    (
        "a letter outside ASCII in a member name",
        r#"name = "web2""#,
        r#"name = "wéb2""#,
        &[
            r#"web.toml:19:8: pool[0].member[1].name: "wéb2" has the character 'é' (allowed: a name of the characters A-Z a-z 0-9 . _ -)"#,
        ],
    ),
    (
        "an empty node name",
        "[[interface]]",
        r#"[node]
name = ""

[[interface]]"#,
        &["web.toml:2:8: node.name: the name is empty (allowed: a name of the characters A-Z a-z 0-9 . _ -)"],
    ),
    (
        "an empty interface name",
        r#"name = "eth0""#,
        r#"name = """#,
        &[
            r#"web.toml:2:8: interface[0].name: "" is no interface name (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
        ],
    ),
    (
        "an interface name with a slash",
        r#"name = "eth0""#,
        r#"name = "eth/0""#,
        &[
            r#"web.toml:2:8: interface[0].name: "eth/0" is no interface name (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
        ],
    ),
    (
        "an interface name with a colon",
        r#"name = "eth0""#,
        r#"name = "eth0:1""#,
        &[
            r#"web.toml:2:8: interface[0].name: "eth0:1" is no interface name (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
        ],
    ),
    (
        "an interface name with a space",
        r#"name = "eth0""#,
        r#"name = "eth 0""#,
        &[
            r#"web.toml:2:8: interface[0].name: "eth 0" is no interface name (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
        ],
    ),
    (
        "an interface name of 16 bytes",
        r#"name = "eth0""#,
        r#"name = "abcdefghijklmnop""#,
        &[
            r#"web.toml:2:8: interface[0].name: "abcdefghijklmnop" is no interface name (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
        ],
    ),
    (
        "an interface named like a directory",
        r#"name = "eth0""#,
        r#"name = "..""#,
        &[
            r#"web.toml:2:8: interface[0].name: ".." is no interface name (allowed: an interface name of 1 to 15 bytes without "/", ":" and whitespace, such as "eth0")"#,
        ],
    ),
    (
        "a relative state directory",
        "[[interface]]",
        r#"[node]
state_dir = "state"

[[interface]]"#,
        &[r#"web.toml:2:13: node.state_dir: "state" is no absolute path (allowed: an absolute path)"#],
    ),
    (
        "an empty state directory",
        "[[interface]]",
        r#"[node]
state_dir = ""

[[interface]]"#,
        &[r#"web.toml:2:13: node.state_dir: "" is no absolute path (allowed: an absolute path)"#],
    ),
    (
        "a pool's name with no such pool",
        r#"pool = "web""#,
        r#"pool = "wbe""#,
        &[r#"web.toml:9:8: vip[0].pool: "wbe" is no pool (allowed: "web"; did you mean "web"?)"#],
    ),
    (
        "a pool's name near none",
        r#"pool = "web""#,
        r#"pool = "database""#,
        &[r#"web.toml:9:8: vip[0].pool: "database" is no pool (allowed: "web")"#],
    ),
    (
        "an empty pool reference",
        r#"pool = "web""#,
        r#"pool = """#,
        &["web.toml:9:8: vip[0].pool: the name is empty (allowed: a name of the characters A-Z a-z 0-9 . _ -)"],
    ),
    (
        "no pools at all",
        r#"
[[pool]]
name = "web"

[[pool.member]]
name = "web1"
address = "203.0.113.4"

[[pool.member]]
name = "web2"
address = "203.0.113.5"
"#,
        r"
",
        &[r#"web.toml:9:8: vip[0].pool: "web" is no pool (allowed: the name of a [[pool]])"#],
    ),
];

const DUPLICATES: &[Row] = &[
    (
        "a VIP's name twice",
        r"
[[pool]]
name",
        r#"
[[vip]]
name = "web"
address = "203.0.113.3"
protocol = "tcp"
port = 80
pool = "web"

[[pool]]
name"#,
        &[r#"web.toml:12:8: vip[1].name: "web" is already a VIP's name (also at line 5)"#],
    ),
    (
        "a service twice",
        r"
[[pool]]
name",
        r#"
[[vip]]
name = "web-b"
address = "203.0.113.2"
protocol = "tcp"
port = 80
pool = "web"

[[pool]]
name"#,
        &["web.toml:13:11: vip[1].address: 203.0.113.2 tcp port 80 is already another VIP's (also at line 6)"],
    ),
    (
        "a service on any port twice",
        r#"port = 80
pool = "web"
"#,
        r#"port = "any"
pool = "web"

[[vip]]
name = "web-b"
address = "203.0.113.2"
protocol = "tcp"
port = "any"
pool = "web"
"#,
        &["web.toml:13:11: vip[1].address: 203.0.113.2 tcp port any is already another VIP's (also at line 6)"],
    ),
    (
        "a pool's name twice",
        r"
[[pool]]
name",
        r#"
[[pool]]
name = "web"
member = [{ name = "web1", address = "203.0.113.4" }]

[[pool]]
name"#,
        &[r#"web.toml:16:8: pool[1].name: "web" is already a pool's name (also at line 12)"#],
    ),
    (
        "a member's name twice",
        r#"name = "web2""#,
        r#"name = "web1""#,
        &[r#"web.toml:19:8: pool[0].member[1].name: "web1" is already a member's name in this pool (also at line 15)"#],
    ),
    (
        "a member twice",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.4""#,
        &[
            "web.toml:20:11: pool[0].member[1].address: 203.0.113.4 port 80 is already a member of this pool (also at line 16)",
        ],
    ),
    (
        "a member twice, once with the VIP's port written out",
        r#"address = "203.0.113.5""#,
        r#"address = "203.0.113.4"
port = 80"#,
        &[
            "web.toml:20:11: pool[0].member[1].address: 203.0.113.4 port 80 is already a member of this pool (also at line 16)",
        ],
    ),
    (
        "an interface twice",
        r#"name = "eth0""#,
        r#"name = "eth0"

[[interface]]
name = "eth0""#,
        &[r#"web.toml:5:8: interface[1].name: "eth0" is already listed (also at line 2)"#],
    ),
    (
        "a tunnel's source that is a VIP",
        "[[interface]]",
        r#"[dataplane]
tunnel_source = "203.0.113.2"

[[interface]]"#,
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: holds the address of VIP "web" (also at line 9; allowed: addresses of this node's own)"#,
        ],
    ),
    (
        "a tunnel's source that has a VIP and a member inside",
        "[[interface]]",
        r#"[dataplane]
tunnel_source = "203.0.113.0/28"

[[interface]]"#,
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: holds the address of VIP "web" (also at line 9; allowed: addresses of this node's own)"#,
            r#"web.toml:2:17: dataplane.tunnel_source: holds the address of member "web1" (also at line 19; allowed: addresses of this node's own)"#,
        ],
    ),
    (
        "a tunnel's source that is a member",
        "[[interface]]",
        r#"[dataplane]
tunnel_source = "203.0.113.5"

[[interface]]"#,
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: holds the address of member "web2" (also at line 23; allowed: addresses of this node's own)"#,
        ],
    ),
    (
        "a tunnel's source that has a member inside",
        "[[interface]]",
        r#"[dataplane]
tunnel_source = "203.0.113.4/31"

[[interface]]"#,
        &[
            r#"web.toml:2:17: dataplane.tunnel_source: holds the address of member "web1" (also at line 19; allowed: addresses of this node's own)"#,
        ],
    ),
    (
        "a core twice",
        "[[interface]]",
        r"[dataplane]
cores = [2, 3, 2]

[[interface]]",
        &["web.toml:2:16: dataplane.cores[2]: core 2 is already listed (also at line 2)"],
    ),
];

const CORES: &[Row] = &[
    (
        "no cores",
        "[[interface]]",
        r"[dataplane]
cores = []

[[interface]]",
        &[
            "web.toml:2:9: dataplane.cores: the array is empty (allowed: at least one of 0 to 1023; or leave the key out)",
        ],
    ),
    (
        "cores that are no numbers",
        "[[interface]]",
        r#"[dataplane]
cores = ["2", 1.5, -1, 1024]

[[interface]]"#,
        &[
            r#"web.toml:2:10: dataplane.cores[0]: the string "2" is no integer (allowed: 0 to 1023; did you mean 2, without quotes?)"#,
            "web.toml:2:15: dataplane.cores[1]: the float 1.5 is no integer (allowed: 0 to 1023)",
            "web.toml:2:20: dataplane.cores[2]: -1 is less than 0 (allowed: 0 to 1023)",
            "web.toml:2:24: dataplane.cores[3]: 1024 is more than 1023 (allowed: 0 to 1023)",
        ],
    ),
    (
        "one core that is no list",
        "[[interface]]",
        r"[dataplane]
cores = 2

[[interface]]",
        &["web.toml:2:9: dataplane.cores: the integer 2 is no array (allowed: an array, each of 0 to 1023)"],
    ),
];

const ABSENCES: &[Row] = &[
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

const ADDRESSES: &[Row] = &[
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

const PORTS_UNDER_DR: &[Row] = &[
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

#[test]
fn a_pool_reference_lists_what_exists() {
    let pools = |names: &[&str]| {
        let pool = |name: &&str| format!("[[pool]]\nname = \"{name}\"\n{MEMBERS}\n");
        [INTERFACE.to_owned(), VIP.replace("pool = \"web\"", "pool = \"nine\"")].join("\n")
            + &names.iter().map(pool).collect::<String>()
    };
    let few = errors_of(&pools(&["a1", "b2"]));
    assert_eq!(few, [r#"web.toml:9:8: vip[0].pool: "nine" is no pool (allowed: "a1", "b2")"#]);
    let many = errors_of(&pools(&["a1", "b2", "c3", "d4", "e5", "f6", "g7", "h8", "i9", "j10", "k11", "nien"]));
    assert_eq!(
        many,
        [concat!(
            r#"web.toml:9:8: vip[0].pool: "nine" is no pool (allowed: "a1", "b2", "c3", "d4", "e5", "f6", "g7", "h8", "#,
            r#""i9", "j10", and 2 more; did you mean "nien"?)"#
        )]
    );
}

#[test]
fn everything_wrong_is_said_at_once_and_in_order() {
    let text = include_str!("../../../tests/fixtures/config/errors.toml");
    let expected = include_str!("../../../tests/fixtures/config/errors.expected");
    let errors = Model::parse("errors.toml", text).expect_err("nineteen errors");
    let lines: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
    assert_eq!(lines, expected.lines().collect::<Vec<_>>());
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let text = include_str!("../../../tests/fixtures/config/everything.toml");
    assert_eq!(
        errors_of(text),
        [
            "web.toml:12:1: dataplane.flows_v6: is not built yet; leave it out",
            "web.toml:23:2: api: is not built yet; leave it out",
        ]
    );
}

#[test]
fn the_good_one_takes_every_default() {
    let model = Model::parse("web.toml", &good()).expect("a good configuration");
    let member = |name: &str, last| Member {
        name: name.to_owned(),
        address: Ipv4Addr::new(203, 0, 113, last),
        port: None,
        weight: 1,
        thresholds: None,
        backup: false,
        enabled: true,
    };
    let timeouts = Timeouts {
        tcp_established: Duration::from_mins(15),
        tcp_syn: Duration::from_secs(30),
        tcp_closing: Duration::from_secs(10),
        udp: Duration::from_mins(2),
    };
    let expected = Model {
        node: Node { name: None, state_dir: PathBuf::from("/var/lib/pointsman"), hash_seed: String::new() },
        dataplane: Dataplane {
            cores: None,
            xdp_mode: XdpMode::Auto,
            zero_copy: ZeroCopy::Auto,
            busy_poll: false,
            tunnel_source: None,
            flows_v4: 1 << 20,
            persistence_v4: 1 << 18,
        },
        timeouts,
        interfaces: vec![Interface { name: "eth0".to_owned() }],
        vips: vec![Vip {
            name: "web".to_owned(),
            address: Ipv4Addr::new(203, 0, 113, 2),
            protocol: Protocol::Tcp,
            port: VipPort::Exact(80),
            pool: 0,
            announce: Announce::None,
            persistence: None,
            connection_limit: None,
            one_packet: false,
            timeouts,
            enabled: true,
        }],
        pools: vec![Pool {
            name: "web".to_owned(),
            forward: Forward::Dr,
            scheduler: Scheduler::Maglev,
            on_member_down: OnMemberDown::Reselect,
            policy: Policy {
                monitors: Vec::new(),
                combine: Combine::All,
                start: Start::Up,
                damping: None,
                quorum: 1,
                quorum_hysteresis: 0,
                sorry_pool: None,
                slow_start: None,
                service_port: Some(80),
            },
            members: vec![member("web1", 4), member("web2", 5)],
        }],
    };
    assert_eq!(model, expected);
}

#[test]
fn the_sample_says_everything_and_is_understood() {
    let text = include_str!("../../../tests/fixtures/config/sample.toml");
    let model = Model::parse("sample.toml", text).expect("the sample");
    assert_eq!(model.node.name.as_deref(), Some("lb1"));
    assert_eq!(model.node.hash_seed, "any text");
    assert_eq!(model.dataplane.cores, Some(vec![2, 3]));
    let vips: Vec<_> = model.vips.iter().map(|vip| (vip.port, vip.protocol, vip.pool, vip.announce)).collect();
    assert_eq!(
        vips,
        [(VipPort::Exact(80), Protocol::Tcp, 0, Announce::Arp), (VipPort::Any, Protocol::Udp, 1, Announce::None),]
    );
    let weights: Vec<_> =
        model.pools.iter().flat_map(|pool| &pool.members).map(|member| (member.weight, member.enabled)).collect();
    assert_eq!(weights, [(1, true), (3, true), (1, true), (1, false), (0, true)]);
}

#[test]
fn limits_are_understood() {
    let text = include_str!("../../../tests/fixtures/config/sample.toml");
    let Model { vips, pools, timeouts, .. } = Model::parse("sample.toml", text).expect("the sample");
    let (web, dns) = (&vips[0], &vips[1]);
    assert_eq!(web.persistence, Some(Persistence { timeout: Duration::from_mins(5), netmask: 32 }));
    assert_eq!((web.connection_limit, web.one_packet), (Some(100_000), false));
    let own = Timeouts {
        tcp_established: Duration::from_hours(2),
        tcp_syn: Duration::from_secs(10),
        tcp_closing: Duration::from_secs(30),
        udp: timeouts.udp,
    };
    assert_eq!(web.timeouts, own);
    assert_eq!((dns.persistence, dns.connection_limit, dns.one_packet), (None, None, true));
    assert_eq!(dns.timeouts, Timeouts { udp: Duration::from_secs(30), ..timeouts });
    let thresholds: Vec<_> = pools[0].members.iter().map(|member| member.thresholds).collect();
    assert_eq!(thresholds, [Some(Thresholds { upper: 10_000, lower: Some(8000) }), None]);
    let given = |line: &str| good().replace(r#"protocol = "tcp""#, &format!("protocol = \"tcp\"\n{line}"));
    for (line, expected) in [
        ("persistence = {}", Persistence { timeout: Duration::from_mins(5), netmask: 32 }),
        ("persistence.netmask = 24", Persistence { timeout: Duration::from_mins(5), netmask: 24 }),
        (
            "persistence = { timeout = \"5s\", netmask = 1 }",
            Persistence { timeout: Duration::from_secs(5), netmask: 1 },
        ),
    ] {
        let model = Model::parse("web.toml", &given(line)).expect(line);
        assert_eq!(model.vips[0].persistence, Some(expected), "{line}");
    }
}

#[test]
fn every_scheduler_and_every_answer_to_a_member_that_is_down() {
    let pool_with = |line: &str| {
        let text = good().replace("[[pool]]\n", &format!("[[pool]]\n{line}\n"));
        let model = Model::parse("web.toml", &text).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
        (model.pools[0].scheduler, model.pools[0].on_member_down)
    };
    for (word, scheduler) in [
        ("maglev", Scheduler::Maglev),
        ("rr", Scheduler::RoundRobin),
        ("wrr", Scheduler::WeightedRoundRobin),
        ("lc", Scheduler::LeastConnections),
        ("wlc", Scheduler::WeightedLeastConnections),
        ("sh", Scheduler::SourceHash),
        ("sed", Scheduler::ShortestExpectedDelay),
        ("nq", Scheduler::NeverQueue),
    ] {
        assert_eq!(pool_with(&format!("scheduler = \"{word}\"")), (scheduler, OnMemberDown::Reselect));
    }
    for (word, answer) in
        [("reselect", OnMemberDown::Reselect), ("keep", OnMemberDown::Keep), ("drop", OnMemberDown::Drop)]
    {
        assert_eq!(pool_with(&format!("on_member_down = \"{word}\"")), (Scheduler::Maglev, answer));
    }
}

/// What looks odd and is allowed.
#[test]
fn accepted() {
    let rows: &[(&str, &str, &str)] = &[
        ("a byte order mark", "[[interface]]", "\u{feff}[[interface]]"),
        (
            "another port on the same address",
            "\n[[pool]]",
            "\n[[vip]]\nname = \"b\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\nport = 443\npool = \"web\"\n\n[[pool]]",
        ),
        (
            "any port beside an exact one",
            "\n[[pool]]",
            "\n[[vip]]\nname = \"b\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\nport = \"any\"\npool = \"web\"\n\n[[pool]]",
        ),
        (
            "the same port by another protocol",
            "\n[[pool]]",
            "\n[[vip]]\nname = \"b\"\naddress = \"203.0.113.2\"\nprotocol = \"udp\"\nport = 80\npool = \"web\"\n\n[[pool]]",
        ),
        (
            "a pool that no VIP uses",
            "\n[[pool]]",
            "\n[[pool]]\nname = \"b\"\nmember = [{ name = \"a\", address = \"203.0.113.4\", port = 1 }]\n\n[[pool]]",
        ),
        ("inline tables", INTERFACE, "interface = [{ name = \"eth0\" }]\n"),
        ("dotted keys", INTERFACE, "node.name = \"lb1\"\ndataplane.busy_poll = true\n[[interface]]\nname = \"eth0\"\n"),
        ("a member's port that is the VIP's", "\"203.0.113.5\"", "\"203.0.113.5\"\nport = 80"),
        ("the greatest weight", "\"203.0.113.5\"", "\"203.0.113.5\"\nweight = 65_535"),
        ("a weight of nothing", "\"203.0.113.5\"", "\"203.0.113.5\"\nweight = 0"),
        ("the greatest port", "port = 80", "port = 0xffff"),
        ("the last core", INTERFACE, "[dataplane]\ncores = [0, 1023]\n[[interface]]\nname = \"eth0\"\n"),
        ("an interface name of 15 bytes", "eth0", "abcdefghijklmno"),
        ("carriage returns", "name = \"eth0\"\n", "name = \"eth0\"\r\n"),
        ("every character of a name", "name = \"web1\"", "name = \"-A.z_09\""),
        ("an address next to the multicast ones", "203.0.113.5", "223.255.255.255"),
        ("the first address of all", "203.0.113.5", "1.0.0.0"),
    ];
    for (what, from, to) in rows {
        assert_eq!(good().matches(from).count(), 1, "{what}: what is replaced stands there once");
        assert_eq!(errors_of(&good().replace(from, to)), [""; 0], "{what}");
    }
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let load = |path: &Path| -> Vec<String> {
        let errors = Model::load(path).expect_err("not a configuration");
        errors.iter().map(|error| error.to_string().replace(&directory.path().display().to_string(), "DIR")).collect()
    };
    let missing = directory.path().join("web.toml");
    assert_eq!(load(&missing), ["DIR/web.toml: cannot be read: No such file or directory (os error 2)"]);
    assert_eq!(load(directory.path()), ["DIR: cannot be read: Is a directory (os error 21)"]);
    assert_eq!(load(Path::new("/dev/zero")), ["/dev/zero: cannot be read: more than 256 MiB"]);

    let rows: &[(&str, &[u8], &str)] = &[
        ("the first byte", b"\xff", "1:1: syntax: the byte 0xff is no UTF-8 (allowed: UTF-8 text)"),
        ("after a newline", b"a = 1\n\xc3(", "2:1: syntax: the byte 0xc3 is no UTF-8 (allowed: UTF-8 text)"),
        (
            "after a character of two bytes",
            b"\xc3\xa9 = \"\x80\"",
            "1:6: syntax: the byte 0x80 is no UTF-8 (allowed: UTF-8 text)",
        ),
        ("cut off at the end", b"a = \"\xe2\x82", "1:6: syntax: the byte 0xe2 is no UTF-8 (allowed: UTF-8 text)"),
    ];
    for (what, bytes, expected) in rows {
        std::fs::write(&missing, bytes).expect("a file");
        assert_eq!(load(&missing), [format!("DIR/web.toml:{expected}")], "{what}");
    }
}

/// Whatever is wrong, something is said, on one line, about a place that is there.
fn assert_answered(text: &str) {
    let Err(errors) = Model::parse("web.toml", text) else { return };
    assert!(!errors.is_empty(), "refused without a reason: {text:?}");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut last = (0, 0);
    for error in errors {
        let position = error.position.expect("a position");
        assert!(last <= position, "out of order: {error} in {text:?}");
        last = position;
        let line = text.split('\n').nth(position.0 - 1).unwrap_or_else(|| panic!("no such line: {error} in {text:?}"));
        assert!((1..=line.chars().count() + 1).contains(&position.1), "no such column: {error} in {text:?}");
        assert!(!error.to_string().contains(['\n', '\r']), "more than a line: {error:?}");
        assert!(!error.key.is_empty(), "no key: {error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        assert_answered(&text);
    }

    /// Text of the pieces that configurations are made of gets further than arbitrary text does.
    #[test]
    fn any_mixture_is_answered(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        assert_answered(&pieces.concat());
    }

    #[test]
    fn any_damage_to_a_good_one_is_answered(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..6, prop::sample::select(PIECES)), 1..5),
    ) {
        let mut text = include_str!("../../../tests/fixtures/config/everything.toml").to_owned();
        for (at, length, piece) in damage {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, piece);
        }
        assert_answered(&text);
    }
}

const PIECES: &[&str] = &[
    "[[interface]]\n",
    "[[vip]]\n",
    "[[pool]]\n",
    "[[pool.member]]\n",
    "[node]\n",
    "[dataplane]\n",
    "[pool]\n",
    "[api]\n",
    "name = \"web\"\n",
    "name = \"eth0\"\n",
    "address = \"203.0.113.2\"\n",
    "protocol = \"tcp\"\n",
    "port = 80\n",
    "port = \"any\"\n",
    "pool = \"web\"\n",
    "weight = 70000\n",
    "cores = [1, 2]\n",
    "cores = [",
    "member = [{",
    "node.",
    "vip.",
    "=",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "\n",
    "\r\n",
    "\r",
    "#",
    "é",
    "\u{0}",
    "\\",
    "\u{2028}",
    " ",
    "-1",
    "0x",
    "1e5",
    "1979-05-27",
    "true",
    "nan",
    "t",
    "i",
];

#[test]
fn more_vips_or_members_than_ids_are_refused() {
    let vips: String = (0..65_536u32)
        .map(|i| {
            VIP.replace("\"web\"\naddress", &format!("\"v{i}\"\naddress"))
                .replace("80", &i.clamp(1, 65_535).to_string())
        })
        .collect();
    let errors = Model::parse("many.toml", &[INTERFACE, &vips, POOL, MEMBERS].concat()).unwrap_err();
    assert!(errors.iter().any(|error| error.to_string().ends_with("65536 VIPs are too many (allowed: 65535)")));

    let member = |i: u32| format!("[[pool.member]]\nname = \"m{i}\"\naddress = \"10.1.{}.{}\"\n", i / 256, i % 256);
    let members: Vec<String> = (0..65_536).map(member).collect();
    let errors = Model::parse("many.toml", &[INTERFACE, VIP, POOL, &members.concat()].concat()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().ends_with("65536 members are too many for a pool (allowed: 65535)"), "{}", errors[0]);
}

mod monitors;
