//! Numbers, words, durations and lists outside of what is allowed.

use super::*;

pub(super) const API: &[Row] = &[
    (
        "a relative socket",
        INTERFACE,
        "[api]\nsocket = \"api.sock\"\n[[interface]]\nname = \"eth0\"\n",
        &[
            r#"web.toml:2:10: api.socket: "api.sock" is no absolute path (allowed: an absolute path of at most 107 bytes)"#,
        ],
    ),
    (
        "a socket longer than the kernel takes",
        INTERFACE,
        "[api]\nsocket = \"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n[[interface]]\nname = \"eth0\"\n",
        &["web.toml:2:10: api.socket: the path has 108 bytes (allowed: an absolute path of at most 107 bytes)"],
    ),
    (
        "a port alone to listen at",
        INTERFACE,
        "[api]\nlisten = 9190\n[[interface]]\nname = \"eth0\"\n",
        &[
            r#"web.toml:2:10: api.listen: the integer 9190 is no string (allowed: an address and a port, such as "127.0.0.1:9190" or "[::1]:9190")"#,
        ],
    ),
    (
        "an address alone to listen at",
        INTERFACE,
        "[api]\nlisten = \"127.0.0.1\"\n[[interface]]\nname = \"eth0\"\n",
        &[
            r#"web.toml:2:10: api.listen: "127.0.0.1" has no port (allowed: an address and a port, such as "127.0.0.1:9190" or "[::1]:9190")"#,
        ],
    ),
    (
        "any port to listen at",
        INTERFACE,
        "[api]\nlisten = \"127.0.0.1:0\"\n[[interface]]\nname = \"eth0\"\n",
        &[
            r#"web.toml:2:10: api.listen: "127.0.0.1:0" has port 0 (allowed: an address and a port, such as "127.0.0.1:9190" or "[::1]:9190")"#,
        ],
    ),
    (
        "a name to listen at",
        INTERFACE,
        "[api]\nlisten = \"localhost:9190\"\n[[interface]]\nname = \"eth0\"\n",
        &[
            r#"web.toml:2:10: api.listen: "localhost:9190" is no address with a port (allowed: an address and a port, such as "127.0.0.1:9190" or "[::1]:9190")"#,
        ],
    ),
    (
        "a key that the API has not",
        INTERFACE,
        "[api]\nsockets = \"/x\"\ngroup = \"a b\"\n[[interface]]\nname = \"eth0\"\n",
        &[
            r#"web.toml:2:1: api.sockets: unknown key (allowed: socket, group, listen; did you mean "socket"?)"#,
            r#"web.toml:3:9: api.group: "a b" has the character ' ' (allowed: a name of the characters A-Z a-z 0-9 . _ -)"#,
        ],
    ),
];

pub(super) const NUMBERS: &[Row] = &[
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

pub(super) const WORDS: &[Row] = &[
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

pub(super) const TUNNEL_SOURCES: &[Row] = &[
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

pub(super) const TIMEOUTS: &[Row] = &[
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

pub(super) const CORES: &[Row] = &[
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
