//! Names that are none, or another's.

use super::*;

pub(super) const NAMES: &[Row] = &[
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

pub(super) const DUPLICATES: &[Row] = &[
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
