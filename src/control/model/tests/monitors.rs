//! Monitors and pools' policies: what is refused, with the exact text, and what is understood.

use std::time::Duration;

use super::super::monitor::{Dns, Exchange, Http, Probe, Rcode, Script, Tls};
use super::super::{Combine, Damping, Model, Monitor, Policy, Start, StatusRange};
use super::{errors_of, good};

/// What is wrong, the keys of a monitor, and every line that is said; the monitor begins at line 24.
type Row = (&'static str, &'static str, &'static [&'static str]);

fn with_monitor(keys: &str) -> String {
    format!("{}\n[[pool.monitor]]\n{keys}\n", good())
}

fn with_pool(keys: &str, rest: &str) -> String {
    format!(
        "{}\n{rest}\n",
        good().replace("[[pool]]\nname = \"web\"\n", &format!("[[pool]]\nname = \"web\"\n{keys}\n"))
    )
}

fn monitor_of(keys: &str) -> Monitor {
    let model = Model::parse("web.toml", &with_monitor(keys)).unwrap_or_else(|errors| panic!("{keys}: {errors:?}"));
    model.pools[0].policy.monitors[0].clone()
}

#[test]
fn refused_monitors() {
    for (what, keys, errors) in MONITORS {
        assert_eq!(errors_of(&with_monitor(keys)), *errors, "{what}");
    }
}

const MONITORS: &[Row] = &[
    (
        "no type: nothing else is judged",
        "path = \"/\"",
        &[
            "web.toml:22:1: pool[0].monitor[0].type: is missing (allowed: \"ping\", \"tcp\", \"tls\", \"http\", \"https\", \"udp\", \"dns\", \"script\")",
        ],
    ),
    (
        "an unknown type",
        "type = \"htttp\"\npath = 7",
        &[
            "web.toml:23:8: pool[0].monitor[0].type: \"htttp\" is unknown (allowed: \"ping\", \"tcp\", \"tls\", \"http\", \"https\", \"udp\", \"dns\", \"script\"; did you mean \"http\"?)",
        ],
    ),
    (
        "another type's key",
        "type = \"ping\"\npath = \"/\"",
        &["web.toml:24:1: pool[0].monitor[0].path: unknown key (allowed: type, interval, timeout, rise, fall)"],
    ),
    (
        "a short interval",
        "type = \"tcp\"\ninterval = \"9ms\"",
        &[
            "web.toml:24:12: pool[0].monitor[0].interval: \"9ms\" is less than 10ms (allowed: 10ms to 1h; units: ms, s, m, h)",
        ],
    ),
    (
        "a timeout beyond the interval",
        "type = \"tcp\"\ninterval = \"1s\"\ntimeout = \"1500ms\"",
        &[
            "web.toml:25:11: pool[0].monitor[0].timeout: \"1500ms\" is more than the interval: a check ends before the next begins (allowed: up to \"1s\")",
        ],
    ),
    (
        "no rise",
        "type = \"tcp\"\nrise = 0",
        &["web.toml:24:8: pool[0].monitor[0].rise: 0 is less than 1 (allowed: 1 to 1000)"],
    ),
    (
        "a status beyond the range",
        "type = \"http\"\nexpect_status = [200, 600]",
        &[
            "web.toml:24:23: pool[0].monitor[0].expect_status[1]: 600 is more than 599 (allowed: 100 to 599, or a range such as \"200-299\")",
        ],
    ),
    (
        "a range from its end",
        "type = \"http\"\nexpect_status = [\"299-200\"]",
        &[
            "web.toml:24:18: pool[0].monitor[0].expect_status[0]: \"299-200\" ends before it begins (allowed: 100 to 599, or a range such as \"200-299\"; did you mean \"200-299\"?)",
        ],
    ),
    (
        "no status",
        "type = \"http\"\nexpect_status = [\"2xx\"]",
        &[
            "web.toml:24:18: pool[0].monitor[0].expect_status[0]: \"2xx\" is no status (allowed: 100 to 599, or a range such as \"200-299\")",
        ],
    ),
    (
        "a path without its slash",
        "type = \"http\"\npath = \"healthz\"",
        &[
            "web.toml:24:8: pool[0].monitor[0].path: \"healthz\" does not begin with \"/\" (allowed: a path that begins with \"/\", such as \"/healthz\"; did you mean \"/healthz\"?)",
        ],
    ),
    (
        "a path with a space",
        "type = \"http\"\npath = \"/a b\"",
        &[
            "web.toml:24:8: pool[0].monitor[0].path: \"/a b\" is no path of a URL (allowed: a path that begins with \"/\", such as \"/healthz\")",
        ],
    ),
    (
        "a method with a space",
        "type = \"http\"\nmethod = \"GET /\"",
        &[
            "web.toml:24:10: pool[0].monitor[0].method: \"GET /\" has the character ' ' (allowed: letters, digits and !#$%&'*+-.^_`|~)",
        ],
    ),
    (
        "a header's name and another's value, both",
        "type = \"http\"\nheaders = { \"X Y\" = \"1\", Z = 2 }",
        &[
            "web.toml:24:13: pool[0].monitor[0].headers.\"X Y\": \"X Y\" has the character ' ' (allowed: letters, digits and !#$%&'*+-.^_`|~)",
            "web.toml:24:30: pool[0].monitor[0].headers.Z: the integer 2 is no string (allowed: printable ASCII)",
        ],
    ),
    (
        "a pattern that is none",
        "type = \"http\"\nexpect_body = \"(\"",
        &[
            "web.toml:24:15: pool[0].monitor[0].expect_body: \"(\" is none: unclosed group (allowed: a regular expression of Rust's crate regex)",
        ],
    ),
    (
        "no name for SNI",
        "type = \"tls\"\nsni = \"a b\"",
        &["web.toml:24:7: pool[0].monitor[0].sni: \"a b\" is neither (allowed: a host's name or an IP address)"],
    ),
    (
        "a relative file",
        "type = \"https\"\nca = \"ca.pem\"",
        &["web.toml:24:6: pool[0].monitor[0].ca: \"ca.pem\" is no absolute path (allowed: an absolute path)"],
    ),
    (
        "verify that is no boolean",
        "type = \"https\"\nverify = \"off\"",
        &["web.toml:24:10: pool[0].monitor[0].verify: the string \"off\" is no boolean (allowed: true or false)"],
    ),
    (
        "TLS's key without TLS",
        "type = \"http\"\nsni = \"a\"",
        &[
            "web.toml:24:1: pool[0].monitor[0].sni: unknown key (allowed: type, interval, timeout, rise, fall, port, method, path, host, headers, expect_status, expect_body)",
        ],
    ),
    (
        "no query",
        "type = \"dns\"",
        &[
            "web.toml:22:1: pool[0].monitor[0].query: is missing (allowed: a name of the DNS, such as \"www.example.org\")",
        ],
    ),
    (
        "a name of too long a label",
        "type = \"dns\"\nquery = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
        &[
            "web.toml:24:9: pool[0].monitor[0].query: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…\" is no name (allowed: a name of the DNS, such as \"www.example.org\")",
        ],
    ),
    (
        "an unknown record",
        "type = \"dns\"\nquery = \"a\"\nrecord = \"AAA\"",
        &[
            "web.toml:25:10: pool[0].monitor[0].record: \"AAA\" is unknown (allowed: \"A\", \"AAAA\", \"CNAME\", \"MX\", \"NS\", \"PTR\", \"SOA\", \"SRV\", \"TXT\", \"CAA\"; did you mean \"AAAA\"?)",
        ],
    ),
    (
        "an unknown code",
        "type = \"dns\"\nquery = \"a\"\nexpect_rcode = \"NOERR\"",
        &[
            "web.toml:25:16: pool[0].monitor[0].expect_rcode: \"NOERR\" is unknown (allowed: \"NOERROR\", \"NXDOMAIN\", \"REFUSED\", \"SERVFAIL\"; did you mean \"NOERROR\"?)",
        ],
    ),
    (
        "no command",
        "type = \"script\"\nargs = [\"x\"]",
        &["web.toml:22:1: pool[0].monitor[0].command: is missing (allowed: an absolute path)"],
    ),
    (
        "a per cent sign with another meaning",
        "type = \"script\"\ncommand = \"/bin/true\"\nargs = [\"%h\", \"%d\"]",
        &[
            "web.toml:25:15: pool[0].monitor[0].args[1]: \"%d\" has a % with another meaning (allowed: text in which % is followed by h (address), p (port) or %)",
        ],
    ),
    (
        "nothing to send",
        "type = \"udp\"\nsend = \"\"",
        &["web.toml:24:8: pool[0].monitor[0].send: it is empty (allowed: 1 to 1200 bytes of text)"],
    ),
    (
        "twice the same",
        "type = \"tcp\"\n[[pool.monitor]]\ntype = \"tcp\"\ninterval = \"1s\"",
        &["web.toml:24:1: pool[0].monitor[1]: asks the same as another monitor of this pool (also at line 22)"],
    ),
];

#[test]
fn a_monitor_has_a_port_from_somewhere() {
    let monitor = "[[pool.monitor]]\ntype = \"tcp\"";
    let other_vip = "[[vip]]\nname = \"w2\"\naddress = \"203.0.113.3\"\nprotocol = \"tcp\"\nport = 81\npool = \"web\"";
    let any = good().replace("port = 80", "port = \"any\"");
    let unused = good().replace("pool = \"web\"", "pool = \"other\"")
        + "\n[[pool]]\nname = \"other\"\n[[pool.member]]\nname = \"o\"\naddress = \"203.0.113.9\"\n";
    let unused = unused
        .replace("[[pool.member]]\nname = \"o\"", "[[pool.monitor]]\ntype = \"ping\"\n[[pool.member]]\nname = \"o\"");
    let rows = [
        (format!("{}\n{monitor}", good()), None),
        (
            format!("{any}\n{monitor}"),
            Some(
                "web.toml:22:1: pool[0].monitor[0].port: is missing: member \"web1\" has none either, and a VIP of it takes \"any\" port (allowed: 1 to 65535)",
            ),
        ),
        (format!("{any}\n{monitor}\nport = 80"), None),
        (format!("{any}\n[[pool.monitor]]\ntype = \"ping\""), None),
        (format!("{any}\n[[pool.monitor]]\ntype = \"script\"\ncommand = \"/c\"\nargs = [\"%h\", \"%%p\"]"), None),
        (
            format!("{any}\n[[pool.monitor]]\ntype = \"script\"\ncommand = \"/c\"\nargs = [\"%h:%p\"]"),
            Some(
                "web.toml:22:1: pool[0].monitor[0].port: is missing: member \"web1\" has none either, and a VIP of it takes \"any\" port (allowed: 1 to 65535)",
            ),
        ),
        (
            format!("{}\n{monitor}\n{other_vip}", good()),
            Some(
                "web.toml:22:1: pool[0].monitor[0].port: is missing: member \"web1\" has none either, and its VIPs have different ports (allowed: 1 to 65535)",
            ),
        ),
        (unused.clone(), None),
    ];
    for (text, expected) in rows {
        assert_eq!(errors_of(&text), expected.into_iter().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn refused_policies() {
    let monitor = "[[pool.monitor]]\ntype = \"ping\"";
    let sorry = "[[pool]]\nname = \"sorry\"\n[[pool.member]]\nname = \"s\"\naddress = \"203.0.113.9\"";
    let rows: &[(&str, &str, &[&str])] = &[
        (
            "monitors = \"some\"",
            monitor,
            &["web.toml:13:12: pool[0].monitors: \"some\" is unknown (allowed: \"all\", \"any\")"],
        ),
        (
            "monitors = \"any\"",
            "",
            &[
                "web.toml:13:12: pool[0].monitors: the pool has no monitors that it could be about (allowed: with at least one [[pool.monitor]])",
            ],
        ),
        (
            "start = \"down\"",
            "",
            &[
                "web.toml:13:9: pool[0].start: the pool has no monitors that it could be about (allowed: with at least one [[pool.monitor]])",
            ],
        ),
        (
            "damping = 3",
            monitor,
            &[
                "web.toml:13:11: pool[0].damping: the integer 3 is no table (allowed: a table, such as { downs = 3, within = \"5m\", hold = \"1m\" })",
            ],
        ),
        (
            "damping = { hold = \"2h\" }",
            monitor,
            &["web.toml:13:20: pool[0].damping.hold: \"2h\" is more than 1h (allowed: 1s to 1h; units: s, m, h)"],
        ),
        (
            "quorum = 3",
            "",
            &[
                "web.toml:13:10: pool[0].quorum: 3 is more than the pool has members that are no backups (allowed: 1 to 2)",
            ],
        ),
        ("quorum = 0", "", &["web.toml:13:10: pool[0].quorum: 0 is less than 1 (allowed: 1 to the number of members)"]),
        (
            "quorum = 2\nquorum_hysteresis = 1",
            "",
            &[
                "web.toml:14:21: pool[0].quorum_hysteresis: with 1 around a quorum of 2, 2 members could never lose or never regain it (allowed: 0 to 0)",
            ],
        ),
        (
            "sorry_pool = \"web\"",
            "",
            &["web.toml:13:14: pool[0].sorry_pool: \"web\" is this pool itself (allowed: another pool)"],
        ),
        (
            "sorry_pool = \"sorri\"",
            sorry,
            &[
                "web.toml:13:14: pool[0].sorry_pool: \"sorri\" is no pool (allowed: the name of another [[pool]]; did you mean \"sorry\"?)",
            ],
        ),
        // What stands in must listen where it stands in.
        (
            "sorry_pool = \"sorry\"",
            "[[pool]]\nname = \"sorry\"\n[[pool.member]]\nname = \"s\"\naddress = \"203.0.113.9\"\nport = 81",
            &[
                "web.toml:28:8: pool[1].member[0].port: 81 differs from VIP \"web\", which takes port 80 (also at line 8; allowed under \"dr\": 80, or no port)",
            ],
        ),
        (
            "scheduler = \"rr\"\nslow_start = \"30s\"",
            "",
            &[
                "web.toml:14:14: pool[0].slow_start: scheduler \"rr\" knows no shares that could grow (allowed under every other one)",
            ],
        ),
        (
            "slow_start = \"100ms\"",
            "",
            &["web.toml:13:14: pool[0].slow_start: \"100ms\" is less than 1s (allowed: 1s to 1h; units: s, m, h)"],
        ),
    ];
    for (keys, rest, errors) in rows {
        assert_eq!(errors_of(&with_pool(keys, rest)), *errors, "{keys}");
    }
    let all_backups = good()
        .replace("name = \"web1\"", "name = \"web1\"\nbackup = true")
        .replace("name = \"web2\"", "name = \"web2\"\nbackup = true");
    assert_eq!(
        errors_of(&all_backups),
        [
            "web.toml:16:10: pool[0].member[0].backup: every member of the pool is a backup (allowed: at least one that is none)"
        ]
    );
}

#[test]
fn every_type_is_understood() {
    let seconds = Duration::from_secs;
    let text = |text: &str| Some(text.to_owned());
    let rows = [
        ("type = \"ping\"", Probe::Ping),
        ("type = \"tcp\"", Probe::Tcp(Exchange::default())),
        (
            "type = \"tcp\"\nsend = \"PING\\r\\n\"\nexpect = \"^[+]PONG\"",
            Probe::Tcp(Exchange { send: text("PING\r\n"), expect: text("^[+]PONG") }),
        ),
        ("type = \"tls\"", Probe::Tls(Tls { sni: None, verify: true, ca: None })),
        (
            "type = \"https\"\nmethod = \"HEAD\"\npath = \"/a?b=c\"\nhost = \"www.example.org:8443\"\nheaders = { X-A = \"1\" }\n\
             expect_status = [204, \"300-399\"]\nexpect_body = \"ok\"\nsni = \"example.org\"\nverify = false\nca = \"/ca.pem\"",
            Probe::Http(Http {
                tls: Some(Tls { sni: text("example.org"), verify: false, ca: Some("/ca.pem".into()) }),
                method: "HEAD".to_owned(),
                path: "/a?b=c".to_owned(),
                host: text("www.example.org:8443"),
                headers: vec![("X-A".to_owned(), "1".to_owned())],
                expect_status: vec![StatusRange(204, 204), StatusRange(300, 399)],
                expect_body: text("ok"),
            }),
        ),
        ("type = \"udp\"\nsend = \"x\"\nexpect = \"y\"", Probe::Udp(Exchange { send: text("x"), expect: text("y") })),
        (
            "type = \"dns\"\nquery = \"a.example\"\nrecord = \"AAAA\"\nexpect_rcode = \"NXDOMAIN\"\nexpect_answer = \"::1\"",
            Probe::Dns(Dns {
                query: "a.example".to_owned(),
                record: "AAAA".to_owned(),
                rcode: Rcode::NxDomain,
                answer: text("::1"),
            }),
        ),
        (
            "type = \"script\"\ncommand = \"/bin/check\"\nargs = [\"-h\", \"%h\"]\nsend = \"s\"\nexpect = \"OK\"\ndynamic_weight = true",
            Probe::Script(Script {
                command: "/bin/check".into(),
                arguments: vec!["-h".to_owned(), "%h".to_owned()],
                send: text("s"),
                expect: text("OK"),
                dynamic_weight: true,
            }),
        ),
    ];
    for (keys, probe) in rows {
        let expected = Monitor { probe, interval: seconds(5), timeout: seconds(2), rise: 2, fall: 3, port: None };
        assert_eq!(monitor_of(keys), expected, "{keys}");
    }
    let timed = monitor_of("type = \"tcp\"\ninterval = \"200ms\"\nrise = 1\nfall = 7\nport = 81");
    assert_eq!((timed.interval, timed.timeout), (Duration::from_millis(200), Duration::from_millis(200)));
    assert_eq!((timed.rise, timed.fall, timed.port), (1, 7, Some(81)));
}

#[test]
fn a_policy_is_understood() {
    let keys = "monitors = \"any\"\nstart = \"down\"\ndamping = { within = \"10m\" }\nquorum = 2\nsorry_pool = \"sorry\"\nslow_start = \"30s\"";
    let rest = "[[pool.monitor]]\ntype = \"ping\"\n[[pool]]\nname = \"sorry\"\n[[pool.member]]\nname = \"s\"\naddress = \"203.0.113.9\"";
    let model = Model::parse("web.toml", &with_pool(keys, rest)).unwrap_or_else(|errors| panic!("{errors:?}"));
    let expected = Policy {
        monitors: model.pools[0].policy.monitors.clone(),
        combine: Combine::Any,
        start: Start::Down,
        damping: Some(Damping { downs: 3, within: Duration::from_mins(10), hold: Duration::from_mins(1) }),
        quorum: 2,
        quorum_hysteresis: 0,
        sorry_pool: Some(1),
        slow_start: Some(Duration::from_secs(30)),
        service_port: Some(80),
    };
    assert_eq!(model.pools[0].policy, expected);
    assert_eq!(model.pools[1].policy.service_port, Some(80), "of those that it stands in for");
}

#[test]
fn arguments_are_filled_in() {
    let script = |arguments: &[&str]| Script {
        command: "/c".into(),
        arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
        send: None,
        expect: None,
        dynamic_weight: false,
    };
    let filled = script(&["%h", "http://%h:%p/%%41", "plain", "%%p%p"]).arguments_for([10, 0, 0, 1].into(), Some(80));
    assert_eq!(filled, ["10.0.0.1", "http://10.0.0.1:80/%41", "plain", "%p80"]);
    assert!(script(&["%h:%p"]).wants_port() && script(&["%%%p"]).wants_port());
    assert!(!script(&["%h", "%%p"]).wants_port());
}
