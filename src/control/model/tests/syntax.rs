//! Text that is not TOML.

use super::*;

pub(super) const SYNTAX: &[Row] = &[
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
        "a monitor above the first pool: everything else is judged",
        r#"[[vip]]
name = "web""#,
        r#"[[pool.monitor]]
type = "tcp"

[[vip]]
name = "we b""#,
        &[
            "web.toml:4:1: syntax: `[[pool.monitor]]` stands above the first `[[pool]]`, which is on line 14 (allowed: below the `[[pool]]` that it belongs to)",
            r#"web.toml:8:8: vip[0].name: "we b" has the character ' ' (allowed: a name of the characters A-Z a-z 0-9 . _ -)"#,
        ],
    ),
    (
        "members above the first of two pools",
        "[[vip]]\n",
        r#"[[pool.member]]
name = "web1"
address = "203.0.113.4"

  [[pool.member]] # the second
name = "web2"
address = "203.0.113.5"

[[pool]]
name = "api"

[[vip]]
"#,
        &[
            "web.toml:4:1: syntax: `[[pool.member]]` stands above the first `[[pool]]`, which is on line 12 (allowed: below the `[[pool]]` that it belongs to)",
            "web.toml:8:3: syntax: `[[pool.member]]` stands above the first `[[pool]]`, which is on line 12 (allowed: below the `[[pool]]` that it belongs to)",
        ],
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
