//! `pointsman check`, the binary itself: what it prints where, and its exit code.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `pointsman check` beside the fixtures, so that files are called by their bare names.
fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .arg("check")
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config"))
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn each_fixture_is_answered_exactly() {
    struct Row {
        arguments: &'static [&'static str],
        code: i32,
        stdout: &'static str,
        stderr: &'static str,
    }
    let rows = [
        Row {
            arguments: &["minimal.toml"],
            code: 0,
            stdout: "\
minimal.toml: valid

node       named after the host
state      /var/lib/pointsman
interface  eth0
xdp        mode auto, zero-copy auto, sleeps when idle
cores      spread over the allowed ones

VIP web  203.0.113.2 tcp port 80 -> pool web by dr, scheduler maglev, announce none

pool web: 1 member, for web
  web1  203.0.113.4      VIP's port  weight     1  100.0 %
",
            stderr: "",
        },
        Row {
            arguments: &["sample.toml"],
            code: 0,
            stdout: "\
sample.toml: valid

node       lb1
state      /var/lib/pointsman
interface  eth0
xdp        mode auto, zero-copy auto, sleeps when idle
cores      2, 3

VIP web  203.0.113.2 tcp port 80 -> pool web by dr, scheduler maglev, announce arp, persistent /32 for 300s, at most 100000 connections
VIP dns  203.0.113.3 udp port any -> pool dns by dr, scheduler maglev, announce none, one packet

pool web: 2 members, for web
  web1  203.0.113.4      port 80     weight     1   25.0 %
  web2  203.0.113.5      VIP's port  weight     3   75.0 %
  monitor http port 8080 GET /healthz -> 204, 200-299: every 5s, timeout 2s, rise 2, fall 3
  monitor https GET / -> 200-299: every 5s, timeout 2s, rise 2, fall 3
  monitor script /usr/local/bin/check-web --host %h --port %p: every 5s, timeout 2s, rise 2, fall 3
  held down for 1m after 3 times within 5m, sorry pool sorry, slow start 30s

pool dns: 3 members, for dns
  dns1  203.0.113.6      VIP's port  weight     1  100.0 %
  dns2  203.0.113.7      VIP's port  weight     1    0.0 %  disabled
  dns3  203.0.113.9      VIP's port  weight     1    0.0 %  backup
  monitor dns port 53 www.example.org A -> 192.0.2.1: every 500ms, timeout 500ms, rise 2, fall 3
  monitor ping: every 5s, timeout 2s, rise 2, fall 3
  up if any monitor is content

pool sorry: 1 member, used by no VIP
  sorry1  203.0.113.10     VIP's port  weight     1  100.0 %

pool spare: 1 member, used by no VIP
  spare1  203.0.113.8      VIP's port  weight     0    0.0 %
  no member is enabled with a weight above 0: this pool gets no traffic
",
            stderr: "",
        },
        Row {
            arguments: &["errors.toml"],
            code: 1,
            stdout: "",
            stderr: concat!(include_str!("fixtures/config/errors.expected"), "19 errors\n"),
        },
        Row {
            arguments: &["missing.toml"],
            code: 1,
            stdout: "",
            stderr: "missing.toml: cannot be read: No such file or directory (os error 2)\n1 error\n",
        },
    ];
    for row in rows {
        let output = check(row.arguments);
        assert_eq!(text(&output.stdout), row.stdout, "{:?}", row.arguments);
        assert_eq!(text(&output.stderr), row.stderr, "{:?}", row.arguments);
        assert_eq!(output.status.code(), Some(row.code), "{:?}", row.arguments);
    }
}

#[test]
fn json_has_stable_keys() {
    let output = check(&["minimal.toml", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = serde_json::json!({
        "valid": true,
        "errors": [],
        "node": { "name": null, "state_dir": "/var/lib/pointsman", "hash_seed": "" },
        "dataplane": { "cores": null, "xdp_mode": "auto", "zero_copy": "auto", "busy_poll": false,
            "tunnel_source": null, "flows_v4": 1_048_576, "persistence_v4": 262_144 },
        "interfaces": [{ "name": "eth0" }],
        "vips": [{
            "name": "web", "address": "203.0.113.2", "protocol": "tcp", "port": 80, "pool": "web",
            "forward": "dr", "scheduler": "maglev", "announce": "none", "persistence": null,
            "connection_limit": null, "one_packet": false, "enabled": true,
            "timeouts": { "tcp_established": "900s", "tcp_syn": "30s", "tcp_closing": "10s" },
        }],
        "pools": [{
            "name": "web", "forward": "dr", "scheduler": "maglev", "on_member_down": "reselect",
            "monitors": "all", "monitor": [], "start": "up", "damping": null, "quorum": 1, "quorum_hysteresis": 0,
            "sorry_pool": null, "slow_start": null,
            "members": [{
                "name": "web1", "address": "203.0.113.4", "port": null, "weight": 1, "enabled": true,
                "upper_threshold": null, "lower_threshold": null, "backup": false, "share_percent": 100.0,
            }],
        }],
    });
    assert_eq!(printed, expected);
}

#[test]
fn errors_in_json_say_what_the_lines_say() {
    let output = check(&["--json", "errors.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed["valid"], false);
    let errors = printed["errors"].as_array().expect("an array");
    let lines: Vec<String> = errors
        .iter()
        .map(|error| {
            let word = |key: &str| error[key].as_str().expect("text").to_owned();
            format!("{}:{}:{}: {}: {}", word("file"), error["line"], error["column"], word("key"), word("message"))
        })
        .collect();
    let stderr: Vec<&str> = text(&output.stderr).lines().collect();
    assert_eq!(lines, stderr[..stderr.len() - 1], "all but the line with their number");
}

#[test]
fn wrong_usage_is_not_a_wrong_configuration() {
    assert_eq!(check(&[]).status.code(), Some(2));
    assert_eq!(check(&["minimal.toml", "--frobnicate"]).status.code(), Some(2));
}

#[test]
fn both_ways_of_naming_the_file_do_for_run_and_check() {
    assert_eq!(check(&["--config", "minimal.toml"]).stdout, check(&["minimal.toml"]).stdout);
    assert_eq!(check(&["--config", "minimal.toml", "sample.toml"]).status.code(), Some(2));
    for arguments in [["run", "missing.toml"].as_slice(), &["run", "--config", "missing.toml"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_pointsman")).args(arguments).output().expect("the binary starts");
        assert_eq!(text(&output.stderr), "missing.toml: cannot be read: No such file or directory (os error 2)\n");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn the_demos_script_lists_the_options_that_there_are() {
    let options = |command: &mut Command| {
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let help = text(&output.stdout).to_owned();
        let words = help.split_whitespace().filter(|word| word.starts_with("--"));
        words.map(|word| word.trim_end_matches(',').to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    let program = options(Command::new(env!("CARGO_BIN_EXE_pointsman")).args(["demo", "--help"]));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/demo");
    assert_eq!(options(Command::new(script).arg("--help")), program);
}
