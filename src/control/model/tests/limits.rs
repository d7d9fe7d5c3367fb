//! Persistence, limits, thresholds and timeouts of a VIP or member.

use super::*;

pub(super) const LIMITS: &[Row] = &[
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

#[test]
fn limits_are_understood() {
    let text = include_str!("../../../../tests/fixtures/config/sample.toml");
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

/// The check alone: a file of so many members would take seconds to read.
#[test]
fn a_flow_names_its_member_by_twenty_bits() {
    let text = "one\ntwo\n";
    let rows: [(usize, &[&str]); 3] = [
        (1 << 20, &[]),
        (
            (1 << 20) + 1,
            &["many.toml:2:1: pool[16].member[9]: 1048577 members in all pools are too many (allowed: 1048576)"],
        ),
        (
            1_100_000,
            &["many.toml:2:1: pool[16].member[9]: 1100000 members in all pools are too many (allowed: 1048576)"],
        ),
    ];
    let (fits, first_too_many) = (Place::of_table("pool[0].member[0]", 0), Place::of_table("pool[16].member[9]", 4));
    for (members, expected) in rows {
        let errors = Errors::new(text);
        let places = (0..members).map(|member| if member == 1 << 20 { &first_too_many } else { &fits });
        check_member_count(places, &errors);
        let said: Vec<_> = errors.into_errors("many.toml").iter().map(ConfigError::to_string).collect();
        assert_eq!(said, expected, "{members}");
    }
}
