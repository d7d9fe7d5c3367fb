//! What is changed at run time: how it is told apart, what becomes of it at a SIGHUP, at a start, and on a disk that takes
//! nothing.
//!
//! Topology of every test: see `pointsman::lab`.

#[path = "support/api.rs"]
mod api;
#[path = "support/lab.rs"]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use api::{PATIENCE, command, failed, get, printed, printed_json, request, socket};
use nix::sys::signal::Signal;
use pointsman::lab::{Lab, Process, Service, wait_until};
use serde_json::{Value, json};
use support::{assert_logs, build, topology};

fn config(lab: &Lab, weights: &[u16]) -> String {
    lab.config(&[Service { name: "http".into(), ..Service::http(weights) }])
}

/// Has the balancer read this file; waits until it says this of it.
#[track_caller]
fn reload(lab: &Lab, balancer: &Process, config: &str, words: &str) {
    lab.write_config(config).expect("written");
    balancer.signal(Signal::SIGHUP).expect("signal");
    assert_logs(balancer, words);
}

fn events(lab: &Lab) -> Vec<Value> {
    let text = printed(lab, &["events", "--json"]);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Waits for an event of this kind with these words as its reason.
#[track_caller]
fn assert_config_event(lab: &Lab, words: &str) {
    let is_there = || {
        let is_it = |event: &Value| event["kind"] == "config" && event["reason"].as_str().unwrap_or("").contains(words);
        events(lab).iter().any(is_it)
    };
    assert!(wait_until(PATIENCE, is_there), "{words:?}: {:#?}", events(lab));
}

fn member(lab: &Lab, name: &str) -> Value {
    get(lab, &format!("/v1/members/http/{name}")).json()
}

fn revision(lab: &Lab) -> u64 {
    get(lab, "/v1/status").json()["revision"].as_u64().expect("a number")
}

fn state_file(lab: &Lab) -> PathBuf {
    lab.directory().join("state/state.json")
}

#[test]
fn edits_are_said_and_told_from_what_the_file_says() {
    let Some(lab) = build(&topology()) else { return };
    let text = config(&lab, &[1, 0, 1]);
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    assert_eq!(
        printed(&lab, &["member", "drain", "http/member1"]).lines().next(),
        Some("~ member http/member1 (198.51.100.101): drain false → true")
    );
    let said = printed(&lab, &["member", "weight", "http/member1", "7"]);
    assert!(said.contains("remembered weight 1 → 7"), "{said}");
    assert_eq!(member(&lab, "member1")["reason"], "drained by an operator: gets nothing new");
    assert_eq!(member(&lab, "member2")["reason"], "weight 0: gets nothing new");
    let said = printed(&lab, &["member", "drain", "http/member2"]);
    assert!(said.contains("http/member2 (198.51.100.102): drain false → true"), "{said}");
    let enabled = command(&lab, &["member", "enable", "http/member2"]).output().expect("run");
    let words = String::from_utf8_lossy(&enabled.stderr);
    assert_eq!(enabled.status.code(), Some(0), "{words}");
    assert!(words.contains("http/member2 still gets nothing new: its weight is 0"), "{words}");

    let screen = printed(&lab, &["status"]);
    let begin = "nothing is wrong, but:\n- differs from balancer-1.toml: 1 edit\n\
                 - member http/member1 drain: drained by an operator: gets nothing new\n\
                 - member http/member2 drain: weight 0: gets nothing new\n\n";
    assert!(screen.starts_with(begin), "{screen}");

    // What changes nothing leaves no trace.
    let (before, told) = (revision(&lab), events(&lab).len());
    let written = || fs::metadata(state_file(&lab)).and_then(|file| file.modified()).expect("a file");
    let saved = written();
    assert_eq!(request(&lab, "PATCH", "/v1/members/http/member1", "", "{}").status, 200);
    assert_eq!(printed(&lab, &["member", "drain", "http/member1"]), "nothing changes\n");
    assert_eq!((revision(&lab), events(&lab).len(), written()), (before, told, saved));
    let (code, words) = failed(&lab, &["member", "weight", "http/member3", "5", "--revision", "1"]);
    assert_eq!(code, Some(1));
    assert!(words.contains(&format!("revision {before} rules, not 1")), "{words}");
    let now = before.to_string();
    assert!(printed(&lab, &["member", "weight", "http/member3", "5", "--revision", &now]).contains("weight 1 → 5"));

    let shown = command(&lab, &["config"]).output().expect("run");
    assert_eq!(String::from_utf8_lossy(&shown.stdout), text);
    assert!(String::from_utf8_lossy(&shown.stderr).contains("2 edits beside it"));
    let shown = printed_json(&lab, &["config", "--json"]);
    assert_eq!((&shown["source"], &shown["text"]), (&json!("file"), &json!(text)));
    let edits = json!({ "http/member1": { "weight": 7, "drain": true }, "http/member3": { "weight": 5 } });
    assert_eq!(shown["edits"], edits);
    assert!(balancer.stop().expect("stop").success());

    // Names that are gone: what was meant for them is said all the same.
    let renamed = text.replace("\"member1\"", "\"one\"").replace("\"member3\"", "\"three\"");
    let mut balancer = lab.spawn_balancer(&renamed).expect("balancer");
    let words = "balancer-2.toml has changed: what was changed at run time is dropped: http/member1: drain, weight 7; \
                 http/member3: weight 5";
    assert_logs(&balancer, words);
    assert_config_event(&lab, words);
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn a_configuration_that_rules_wholly_says_which_edits_it_ends() {
    let Some(lab) = build(&topology()) else { return };
    let text = config(&lab, &[1, 1]);
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    printed(&lab, &["member", "drain", "http/member1"]);
    // The edit is what the next text says, too: it ends as an edit, and nothing else changes.
    printed(&lab, &["member", "weight", "http/member2", "5"]);
    let file = lab.directory().join("next.toml");
    fs::write(&file, config(&lab, &[1, 5])).expect("written");
    let stdin = || Stdio::from(fs::File::open(&file).expect("there"));
    let plan = command(&lab, &["apply", "-", "--dry-run"]).stdin(stdin()).output().expect("run");
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    for words in [
        "~ member http/member1 (198.51.100.101): drain true → false\n",
        "- drain of http/member1 ended\n",
        "- weight 5 of http/member2 ended\n",
    ] {
        assert!(plan.contains(words), "{words}: {plan}");
    }
    assert_eq!(member(&lab, "member1")["drain"], true, "nothing has changed");
    let done = command(&lab, &["apply", "-", "--json"]).stdin(stdin()).output().expect("run");
    let done: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(done["change"]["edits_ended"], json!(["drain of http/member1", "weight 5 of http/member2"]));
    let summary = "1 member changed: http/member1 (198.51.100.101): drain true → false; 2 edits ended: drain of \
                   http/member1, weight 5 of http/member2";
    assert_eq!(done["summary"], summary);
    assert_config_event(&lab, summary);
    let notes = get(&lab, "/v1/status").json()["notes"].clone();
    assert_eq!(notes, json!(["differs from balancer-1.toml: applied configuration"]));
    assert_eq!(printed_json(&lab, &["config", "--json"])["source"], "applied");
    // The file's own text again: nothing differs from it.
    assert_eq!(request(&lab, "POST", "/v1/apply", "", &text).status, 200);
    assert_eq!(get(&lab, "/v1/status").json()["notes"], json!([]));
    fs::write(&file, "no = [toml").expect("written");
    let wrong = command(&lab, &["apply", "-"]).stdin(stdin()).output().expect("run");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("stdin:1:"), "{wrong:?}");
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn a_file_that_has_not_changed_ends_nothing_and_one_that_has_says_what() {
    let Some(lab) = build(&topology()) else { return };
    let text = config(&lab, &[1, 1, 1]);
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    printed(&lab, &["member", "drain", "http/member1"]);
    let goes_on = "reloaded: the file has not changed; what was changed at run time goes on: http/member1: drain";
    reload(&lab, &balancer, &text, goes_on);
    assert_config_event(&lab, goes_on);
    let applied = request(&lab, "POST", "/v1/apply", "", &config(&lab, &[1, 4, 1]));
    assert_eq!(applied.status, 200, "{}", applied.body);
    reload(&lab, &balancer, &text, "what was changed at run time goes on: the applied configuration");
    assert_eq!(member(&lab, "member2")["weight"], 4);
    printed(&lab, &["member", "drain", "http/member3"]);

    // What is refused ends nothing, and is told.
    reload(&lab, &balancer, "no = [toml", "not reloaded: ");
    assert_config_event(&lab, "not reloaded: 1 error in the file; nothing has changed (balancer-1.toml:1:");
    let restart = format!("[dataplane]\nflows_v4 = 2048\n{text}");
    let words = "not reloaded: dataplane.flows_v4 1048576 → 2048 needs a restart";
    reload(&lab, &balancer, &restart, words);
    assert_config_event(&lab, words);
    assert_eq!(
        (member(&lab, "member3")["drain"].clone(), member(&lab, "member2")["weight"].clone()),
        (json!(true), json!(4))
    );
    assert!(!balancer.log().iter().any(|line| line.contains("is dropped")), "{}", balancer.log().join("\n"));

    let dropped = "balancer-1.toml has changed: what was changed at run time is dropped: the applied configuration; \
                   http/member3: drain";
    reload(&lab, &balancer, &config(&lab, &[1, 1]), dropped);
    assert_logs(&balancer, "1 member removed: http/member3 (198.51.100.103); 1 edit ended: drain of http/member3");
    assert_config_event(&lab, dropped);
    let gone = events(&lab).into_iter().find(|event| event["subject"] == "http/member3" && event["to"] == "removed");
    assert_eq!(gone.map(|event| event["from"].clone()), Some(json!("drain")));
    assert_eq!(get(&lab, "/v1/status").json()["notes"], json!([]));
    assert!(balancer.stop().expect("stop").success());
    // The file has ruled since: nothing is dropped twice.
    let mut balancer = lab.spawn_balancer(&config(&lab, &[1, 1])).expect("balancer");
    assert!(!balancer.log().iter().any(|line| line.contains("run time")), "{}", balancer.log().join("\n"));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn what_vips_come_to_is_told() {
    let Some(lab) = build(&topology()) else { return };
    let mut balancer = lab.spawn_balancer(&config(&lab, &[1])).expect("balancer");
    printed(&lab, &["member", "disable", "http/member1"]);
    printed(&lab, &["member", "enable", "http/member1"]);
    reload(
        &lab,
        &balancer,
        &config(&lab, &[1]).replace("pool = \"http\"", "pool = \"http\"\nenabled = false"),
        "reloaded",
    );
    let gone = config(&lab, &[1]).replace("name = \"http\"\naddress", "name = \"web\"\naddress");
    reload(&lab, &balancer, &gone, "name \"http\" → \"web\"");
    let told = || {
        let all = events(&lab).into_iter().filter(|event| event["kind"] == "vip" && event["subject"] == "http");
        all.map(|event| (event["from"].clone(), event["to"].clone())).collect::<Vec<_>>()
    };
    let wanted = [("up", "down"), ("down", "up"), ("up", "disabled"), ("disabled", "removed")];
    let wanted: Vec<(Value, Value)> = wanted.iter().map(|&(from, to)| (from.into(), to.into())).collect();
    assert!(wait_until(PATIENCE, || told() == wanted), "{:?}", told());
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn what_is_applied_and_does_not_fit_the_host_any_more_is_named() {
    let Some(lab) = build(&topology()) else { return };
    let text = config(&lab, &[1]);
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    let any = text.replace("port = 80", "port = \"any\"");
    let applied = request(&lab, "POST", "/v1/apply", "", &any);
    assert_eq!(applied.status, 200, "{}", applied.body);
    assert!(balancer.stop().expect("stop").success());
    lab.balancer().run(["ip", "address", "add", "198.51.100.50/32", "dev", "lo"]).expect("ip");
    let error = lab.spawn_balancer(&text).expect_err("it would cut the host off").to_string();
    let wanted = format!(
        "(by the configuration applied at run time, {}; remove that file to start with balancer-2.toml)",
        state_file(&lab).display()
    );
    assert!(error.contains("it would cut the host off") && error.contains(&wanted), "{error}");
    fs::remove_file(state_file(&lab)).expect("removed");
    let mut balancer = lab.spawn_balancer(&text).expect("it starts with the file");
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn what_cannot_be_saved_is_a_problem_until_it_is() {
    let Some(lab) = build(&topology()) else { return };
    let text = config(&lab, &[1, 1]);
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    let problems = || get(&lab, "/v1/status").json()["problems"].to_string();
    // Nobody can write there, not even root.
    let obstacle = lab.directory().join("state/state.json.new");
    fs::create_dir(&obstacle).expect("made");
    let refused = request(&lab, "PATCH", "/v1/members/http/member1", "", "{\"drain\": true}");
    refused.assert_problem(500, "the change is in force, but a restart would lose it: it could not be saved: ");
    assert!(problems().contains("not saved: a restart would lose what was changed at run time"), "{}", problems());
    fs::remove_dir(&obstacle).expect("removed");
    assert!(wait_until(PATIENCE, || !problems().contains("not saved")), "{}", problems());
    let told = || {
        let all = events(&lab).into_iter().filter(|event| event["kind"] == "problem");
        let saving = all.filter(|event| event["reason"].as_str().unwrap_or("").starts_with("not saved"));
        saving.map(|event| event["to"].clone()).collect::<Vec<_>>()
    };
    assert!(wait_until(PATIENCE, || told() == ["begins", "ends"]), "{:?}", told());
    assert_logs(&balancer, "what was changed is saved now");
    balancer.kill().expect("killed");
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    assert_eq!(member(&lab, "member1")["drain"], true);
    assert!(balancer.stop().expect("stop").success());

    // A file that cannot be used is kept, and revisions go on.
    fs::write(state_file(&lab), b"{\"format\":1,\"revision\":77,\xff").expect("written");
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    assert_logs(&balancer, "balancer-3.toml rules; it is kept as state.json.broken");
    assert_eq!(revision(&lab), 78);
    assert!(lab.directory().join("state/state.json.broken").exists());
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn vips_are_taken_out_of_service_and_stay_so() {
    let Some(lab) = build(&topology()) else { return };
    let text = config(&lab, &[1, 1]);
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    let said = printed(&lab, &["vip", "disable", "http"]);
    assert!(said.contains("enabled true → false"), "{said}");
    let state = || get(&lab, "/v1/vips/http").json()["state"].clone();
    assert_eq!(state(), "disabled");
    let notes = json!(["differs from balancer-1.toml: 1 edit", "VIP http disabled: enabled = false"]);
    assert_eq!(get(&lab, "/v1/status").json()["notes"], notes);
    assert_eq!(printed_json(&lab, &["config", "--json"])["vips"], json!({ "http": false }));
    let (code, words) = failed(&lab, &["vip", "disable", "htpp"]);
    assert!(code == Some(1) && words.contains("there is no VIP \"htpp\" (did you mean \"http\"?)"), "{words}");
    let wrong = request(&lab, "PATCH", "/v1/vips/http", "", "{\"enabled\": 1}");
    wrong.assert_problem(422, "(allowed: enabled)");
    assert_eq!(wrong.json()["field"], "enabled");
    balancer.kill().expect("killed");
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    assert_logs(&balancer, "changed at run time, and still so: VIP http: disabled");
    assert_eq!(state(), "disabled");
    printed(&lab, &["vip", "enable", "http"]);
    assert_eq!((state(), get(&lab, "/v1/status").json()["notes"].clone()), (json!("up"), json!([])));
    printed(&lab, &["vip", "disable", "http"]);
    reload(&lab, &balancer, &config(&lab, &[1, 2]), "1 edit ended: enabled = false of VIP http");
    assert_logs(&balancer, "what was changed at run time is dropped: VIP http: disabled");
    assert_eq!(state(), "up");
    assert!(balancer.stop().expect("stop").success());
}

/// Somebody who drains a member does not wait for others that nobody answers for.
#[test]
fn an_edit_waits_for_nobody_who_was_there_before() {
    let Some(lab) = build(&topology()) else { return };
    let absent = "\n[[pool.member]]\nname = \"absent\"\naddress = \"198.51.100.199\"\n";
    let mut balancer = lab.spawn_balancer(&(config(&lab, &[1, 1]) + absent)).expect("balancer");
    let mut took = Vec::new();
    for round in 0..6 {
        // The kernel asks anew: for some seconds there is no telling whether it is there.
        let forget = ["ip", "neighbor", "flush", "to", "198.51.100.199", "nud", "all"];
        lab.balancer().run(forget).expect("ip");
        std::thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        let body = format!("{{\"drain\": {}}}", round % 2 == 0);
        assert_eq!(request(&lab, "PATCH", "/v1/members/http/member1", "", &body).status, 200);
        took.push(began.elapsed());
    }
    println!("{took:?}");
    took.sort();
    // Waiting takes a second.
    assert!(took[took.len() / 2] < Duration::from_millis(700), "{took:?}");
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn output_that_goes_nowhere_is_an_error_and_one_that_nobody_wants_is_none() {
    let Some(lab) = build(&topology()) else { return };
    let text = config(&lab, &[1]);
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    let file = lab.directory().join("checked.toml");
    fs::write(&file, &text).expect("written");
    let file = file.to_str().expect("text");
    let all: [&[&str]; 6] = [
        &["member", "list", "--json"],
        &["status"],
        &["events"],
        &["conn", "list"],
        &["check", file],
        &["member", "drain", "http/member1", "--wait"],
    ];
    for arguments in all {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let output = command(&lab, arguments).stdout(full).stderr(Stdio::piped()).output().expect("run");
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {words}");
        assert!(words.contains("pointsman: writing to stdout: No space left on device"), "{arguments:?}: {words}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(command(&lab, arguments).stdout(writer).status().expect("run").code(), Some(0), "{arguments:?}");
    }
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn who_waits_for_a_drain_is_told_how_it_ended() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let text = format!("[timeouts]\ntcp_closing = \"60s\"\n\n{}", config(&lab, &[1]));
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    assert!(socket(&lab).exists());
    lab.client_load(&lab.get()).expect("load");
    let wait = ["member", "drain", "http/member1", "--wait", "--timeout", "1", "--json"];
    let output = command(&lab, &wait).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let outcome: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&outcome["member"], &outcome["safe_to_remove"]), (&json!("http/member1"), &json!(false)));
    assert!(outcome["flows"].as_u64() > Some(0), "{outcome}");
    // Enabled again, although it is not up for it.
    let waiting =
        command(&lab, &["member", "drain", "http/member1", "--wait"]).stderr(Stdio::piped()).spawn().expect("run");
    std::thread::sleep(Duration::from_secs(1));
    printed(&lab, &["member", "disable", "http/member1"]);
    let patched = request(&lab, "PATCH", "/v1/members/http/member1", "", "{\"drain\": false}");
    assert_eq!(patched.status, 200, "{}", patched.body);
    let output = waiting.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not drain any more"), "{output:?}");
    assert!(balancer.stop().expect("stop").success());
}
