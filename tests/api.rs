//! The API of the real binary, and the commands that use it.
//!
//! Topology of every test: see `pointsman::lab`. Requests are written by hand: a library would not send what is wrong.

#[path = "support/api.rs"]
mod api;
#[path = "support/lab.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use api::{Answer, PATIENCE, command, exchange, failed, get, printed, printed_json, request, socket};
use pointsman::lab::{Lab, Process, Service, wait_until};
use serde_json::{Value, json};
use support::{assert_clean, build, topology};

/// Two members with monitors, one of them without a server.
fn start(lab: &Lab) -> (Vec<Process>, Process) {
    let members = (0..2).map(|index| lab.spawn_member_server(index).expect("member")).collect();
    let monitor = "[[pool.monitor]]\ntype = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"100ms\"\nfall = 1\nrise = 1\n";
    let config = lab.config(&[Service { name: "http".into(), ..Service::http(&[1, 2, 1]) }]).replacen(
        "[[pool.member]]",
        &format!("{monitor}\n[[pool.member]]"),
        1,
    );
    let balancer = lab.spawn_balancer(&config).expect("balancer");
    assert!(balancer.wait_for_log(PATIENCE, |line| line.contains("member3 down")), "{}", balancer.log().join("\n"));
    (members, balancer)
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// The keys that scripts lean on are there; more may be.
#[track_caller]
fn assert_has(value: &Value, wanted: &str) {
    let keys = keys(value);
    for key in wanted.split_whitespace() {
        assert!(keys.contains(&key), "{key}: {value}");
    }
}

const VIP: &str =
    "name address protocol port pool forward scheduler enabled state active_flows new_flows packets bytes";
const MEMBER: &str = "pool name address port weight enabled state reason since active_flows inactive_flows new_flows \
                      packets bytes";

#[test]
fn what_there_is_can_be_read() {
    let Some(lab) = build(&topology()) else { return };
    let (_members, mut balancer) = start(&lab);
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    let flows = lab.get().connections;

    let status = get(&lab, "/v1/status");
    assert_eq!((status.status, status.header("content-type")), (200, Some("application/json")));
    assert_eq!(status.header("etag"), Some("\"1\""));
    let status = status.json();
    assert_has(&status, "version revision uptime_seconds interfaces flows workers problems notes");
    assert_eq!(
        status["interfaces"],
        json!([{ "name": "eth0", "xdp_mode": "native", "copy_mode": "copy", "queues": status["interfaces"][0]["queues"] }])
    );
    assert_eq!(status["flows"]["capacity_v4"], 1 << 20);
    assert_has(&status["workers"][0], "id core ports packets drops");
    assert_eq!(status["workers"][0]["ports"], json!([{ "interface": "eth0", "queue": 0 }]));
    let problems = status["problems"].to_string();
    assert!(problems.contains("member http/member3 down: tcp: connection refused"), "{problems}");
    assert_eq!(status["members"], json!({ "up": 2, "total": 3 }));

    let vips = get(&lab, "/v1/vips").json();
    assert_has(&vips[0], VIP);
    assert_eq!((&vips[0]["state"], &vips[0]["port"]), (&json!("up"), &json!(80)));
    assert_eq!(vips[0]["new_flows"], flows, "each connection is a flow");
    assert!(vips[0]["packets"].as_u64() > Some(flows * 3));
    assert_eq!(keys(&get(&lab, "/v1/vips/http").json()), keys(&vips[0]));

    let members = get(&lab, "/v1/members").json();
    assert_eq!(members.as_array().map(Vec::len), Some(3));
    assert_has(&members[0], MEMBER);
    let count = |index: usize, key: &str| members[index][key].as_u64().expect("a number");
    assert_eq!(count(0, "new_flows") + count(1, "new_flows"), flows);
    assert!(count(1, "new_flows") > count(0, "new_flows"), "twice the weight");
    assert_eq!((&members[2]["state"], &members[2]["reason"]), (&json!("down"), &json!("tcp: connection refused")));
    assert!(members[2]["since"].as_str().is_some_and(|since| since.ends_with('Z') && since.len() == 24));
    assert_eq!(get(&lab, "/v1/members/http/member2").json()["weight"], 2);

    let pools = get(&lab, "/v1/pools").json();
    assert_eq!((&pools[0]["up"], &pools[0]["vips"]), (&json!(2), &json!(["http"])));
    assert_eq!(get(&lab, "/v1/pools/http").json()["members"][2]["state"], "down");
    let monitors = get(&lab, "/v1/monitors").json();
    assert_eq!(monitors.as_array().map(Vec::len), Some(3));
    assert_eq!(
        (&monitors[0]["type"], &monitors[0]["state"], &monitors[2]["state"]),
        (&json!("tcp"), &json!("up"), &json!("down"))
    );
    assert!(get(&lab, "/v1/workers").json()[0]["packets"].as_u64() > Some(0));

    get(&lab, "/v1/vips/htpp").assert_problem(404, "there is no VIP \"htpp\" (did you mean \"http\"?)");
    get(&lab, "/v1/members/http/member4").assert_problem(404, "there is no member \"http/member4\" (did you mean");
    get(&lab, "/v2").assert_problem(404, "there is no /v2 here");
    request(&lab, "DELETE", "/v1/vips/http", "", "").assert_problem(405, "/v1/vips/http takes no DELETE");
    assert!(balancer.stop().expect("stop").success());
    assert!(!socket(&lab).exists(), "its socket is removed");
}

#[test]
fn commands_show_what_there_is() {
    let Some(lab) = build(&topology()) else { return };
    let (code, words) = failed(&lab, &["status"]);
    assert_eq!(code, Some(4));
    assert!(words.contains("no daemon answers: ") && words.contains("api.sock does not exist"), "{words}");
    let (_members, mut balancer) = start(&lab);
    let screen = printed(&lab, &["status"]);
    assert!(screen.starts_with("! member http/member3 down: tcp: connection refused\n"), "{screen}");
    assert!(
        screen.contains("VIPs      1 of 1 up\npools     1 of 1 up\nmembers   2 of 3 up\n") && !screen.contains('\x1b'),
        "{screen}"
    );
    assert_has(&printed_json(&lab, &["status", "--json"]), "version revision uptime_seconds problems");
    for (arguments, wanted) in [
        (&["vip", "list"][..], "http  up     198.51.100.50  tcp/80"),
        (&["vip", "show", "http"], "http  up     198.51.100.50  tcp/80"),
        (&["pool", "show", "http"], "http/member1"),
        (&["pool", "list"], "http  up     dr"),
        (&["member", "list"], "http/member3"),
        (&["member", "list", "http"], "tcp: connection refused"),
        (&["member", "show", "http/member2"], "http/member2"),
        (&["monitor", "list"], "http/member3"),
        (&["monitor", "show", "http/member1"], "http/member1"),
        (&["conn", "list"], "CLIENT "),
        (&["config"], "[[vip]]\nname = \"http\""),
    ] {
        let text = printed(&lab, arguments);
        assert!(text.contains(wanted), "{arguments:?}: {text}");
    }
    assert_has(&printed_json(&lab, &["vip", "list", "--json"])[0], VIP);
    assert_has(&printed_json(&lab, &["member", "list", "--json"])[0], MEMBER);
    assert_eq!(printed_json(&lab, &["member", "show", "http/member1", "--json"])["name"], "member1");
    for (arguments, code, words) in [
        (&["vip", "show", "htp"][..], 1, "there is no VIP \"htp\" (did you mean \"http\"?)"),
        (&["pool", "show", "web"], 1, "there is no pool \"web\""),
        (&["member", "show", "member1"], 1, "\"member1\" names no member: it is POOL/MEMBER"),
        (&["member", "show", "http/membr1"], 1, "(did you mean \"http/member1\"?)"),
        (&["monitor", "show", "http/membr1"], 1, "(did you mean \"http/member1\"?)"),
        (&["monitor", "show", "htpp"], 1, "(did you mean \"http\"?)"),
        (&["vip", "lst"], 2, "list"),
        (&["status", "--socket", "/nowhere/api.sock"], 4, "/nowhere/api.sock does not exist"),
    ] {
        let (found, said) = failed(&lab, arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn the_socket_is_the_groups_and_one_daemons() {
    let Some(lab) = build(&topology()) else { return };
    // Where others may enter.
    let place = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    let path = place.path().join("api.sock");
    let config = lab.config(&[Service::http(&[1])]);
    let own = format!("socket = \"{}\"", socket(&lab).display());
    let config = config.replace(&own, &format!("socket = \"{}\"\ngroup = \"daemon\"", path.display()));
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    let found = std::fs::symlink_metadata(&path).expect("a socket");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    // Debian's group 1.
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&found), 1);
    let program = place.path().join("pointsman");
    std::fs::copy(&lab.topology().program, &program).expect("copied");
    let run = |uid, gid| {
        let mut command = Command::new(&program);
        command.args(["status", "--socket"]).arg(&path).uid(uid).gid(gid).current_dir("/");
        let output = command.output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(65534, 1).0, Some(0), "one of the group");
    let (code, words) = run(65534, 65534);
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains("permission denied (run it as root, or as a member of the socket's group"), "{words}");

    let second = lab.spawn_balancer(&config).expect_err("a second one").to_string();
    assert!(second.contains(&format!("{}: another pointsman answers there, process", path.display())), "{second}");
    assert_eq!(run(0, 0).0, Some(0), "the first one answers on");
    balancer.kill().expect("killed");
    assert!(path.exists(), "nobody has removed it");
    let (code, words) = run(0, 0);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("nobody listens at"), "{words}");
    let mut again = lab.spawn_balancer(&config).expect("the stale socket is replaced");
    assert_eq!(run(0, 0).0, Some(0));
    assert!(again.stop().expect("stop").success());
}

#[test]
fn clients_that_are_slow_or_hostile_hold_nobody_up() {
    let Some(lab) = build(&topology()) else { return };
    let (_members, mut balancer) = start(&lab);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", balancer.pid())).expect("its files").count();
    let before = files();
    // Idle ones, and ones in the middle of a head.
    let mut held = Vec::new();
    for index in 0..1000 {
        let mut stream = UnixStream::connect(socket(&lab)).expect("connected");
        if index % 2 == 0 {
            stream.write_all(b"GET /v1/status HTTP/1.1\r\nHos").expect("written");
        }
        held.push(stream);
    }
    let asked = Instant::now();
    assert_eq!(get(&lab, "/v1/status").status, 200);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(files() <= before + 300, "{} files, {before} before", files());
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    // A head without an end, and one that is too large.
    let mut stream = UnixStream::connect(socket(&lab)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x").expect("written");
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    assert!(!String::from_utf8_lossy(&text).contains("200 OK"), "it ends");
    let large = format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(60_000));
    let mut stream = UnixStream::connect(socket(&lab)).expect("connected");
    let _ = stream.write_all(large.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(text.starts_with("HTTP/1.1 431") || text.is_empty(), "{text}");
    drop(held);
    assert!(wait_until(PATIENCE, || files() <= before + 2), "{} files, {before} before", files());
    assert_eq!(get(&lab, "/v1/status").status, 200);
    assert!(balancer.stop().expect("stop").success());
}

/// Changes a member by the API; what it answers.
fn patch(lab: &Lab, member: &str, headers: &str, body: &str) -> Answer {
    request(lab, "PATCH", &format!("/v1/members/http/{member}"), headers, body)
}

fn member(lab: &Lab, name: &str) -> Value {
    get(lab, &format!("/v1/members/http/{name}")).json()
}

#[test]
fn another_configuration_is_planned_applied_and_refused() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let service = |weights| Service { name: "http".into(), ..Service::http(weights) };
    let mut balancer = lab.spawn_balancer(&lab.config(&[service(&[1, 1])])).expect("balancer");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("text");
    let write = |text: &str| std::fs::write(path, text).expect("written");
    let next = lab.config(&[service(&[1, 5, 1])]);
    write(&next);
    let plan = printed(&lab, &["apply", path, "--dry-run"]);
    assert!(plan.contains("~ member http/member2 (198.51.100.102): weight 1 → 5\n"), "{plan}");
    assert!(plan.contains("+ member http/member3 (198.51.100.103)\n"), "{plan}");
    let plan = printed_json(&lab, &["apply", path, "--dry-run", "--json"]);
    assert_eq!((&plan["revision"], &plan["change"]["members"][0]["what"]), (&json!(1), &json!("changed")));
    assert!(plan["change"]["impact"][0]["slots_moved"].as_u64() > Some(0), "{plan}");
    assert_eq!(get(&lab, "/v1/members").json().as_array().map(Vec::len), Some(2), "nothing has changed");
    let done = printed(&lab, &["apply", path]);
    assert!(done.contains("+ member http/member3"), "{done}");
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    assert!(member(&lab, "member3")["new_flows"].as_u64().is_some_and(|flows| flows > 0));
    assert_eq!(get(&lab, "/v1/status").header("etag"), Some("\"2\""));
    assert_eq!(printed(&lab, &["apply", path]), "nothing changes\n");
    assert_eq!(get(&lab, "/v1/status").header("etag"), Some("\"2\""));

    // What is refused changes nothing.
    write(&next.replace("port = 80", "port = 70000").replace("weight = 5", "weigth = 5"));
    let (code, words) = failed(&lab, &["apply", path]);
    assert_eq!(code, Some(1));
    assert!(words.contains(&format!("{path}:")) && words.contains("vip[0].port: 70000 is more than 65535"), "{words}");
    assert!(words.contains("the configuration has 2 errors; nothing has changed"), "{words}");
    let answer = request(&lab, "POST", "/v1/apply", "", &next.replace("port = 80", "port = 70000"));
    answer.assert_problem(422, "the configuration has 1 error");
    assert_eq!(answer.json()["errors"][0]["field"], "vip[0].port");
    let restart = next.replace("[api]", "[dataplane]\nflows_v4 = 2048\n\n[api]");
    request(&lab, "POST", "/v1/apply", "", &restart).assert_problem(422, "dataplane.flows_v4");
    request(&lab, "POST", "/v1/apply", "If-Match: \"1\"\r\n", &next).assert_problem(412, "revision 2 rules, not 1");
    request(&lab, "POST", "/v1/apply?dry_run=true", "If-Match: \"1\"\r\n", &next).assert_problem(412, "revision 2");
    request(&lab, "POST", "/v1/apply", "If-Match: seven\r\n", &next).assert_problem(400, "is no ETag of ours");
    request(&lab, "POST", "/v1/apply?dryrun=true", "", &next).assert_problem(400, "\"dryrun\" is no parameter here");
    request(&lab, "POST", "/v1/apply?dry_run=perhaps", "", &next).assert_problem(400, "dry_run is \"perhaps\"");
    request(&lab, "POST", "/v1/apply", "", &"#".repeat((16 << 20) + 1)).assert_problem(413, "more than 16 MiB");
    let chunk = format!("200000\r\n{}\r\n", "#".repeat(0x20_0000));
    let chunked = "POST /v1/apply HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    exchange(&lab, (chunked.to_owned() + &chunk.repeat(9) + "0\r\n\r\n").as_bytes()).assert_problem(413, "more than");
    let half = "POST /v1/apply HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\nhalf";
    exchange(&lab, half.as_bytes()).assert_problem(408, "the body has not come within 10s");
    for (body, words) in [
        ("{\"weight\": 70000}", "expected u16"),
        ("{\"weight\": \"1\"}", "invalid type"),
        ("{\"wieght\": 1}", "unknown field `wieght`"),
        ("{", "EOF"),
    ] {
        patch(&lab, "member1", "", body).assert_problem(422, words);
    }
    assert_eq!(patch(&lab, "member1", "", "{\"weight\": 70000}").json()["field"], "weight");
    patch(&lab, "membr1", "", "{\"weight\": 1}").assert_problem(404, "did you mean \"http/member1\"?");
    patch(&lab, "member1", "If-Match: \"1\"\r\n", "{\"weight\": 9}").assert_problem(412, "revision 2 rules");
    assert_eq!(get(&lab, "/v1/status").header("etag"), Some("\"2\""), "nothing has changed");
    assert_eq!(patch(&lab, "member1", "If-Match: \"2\"\r\n", "{\"weight\": 9}").status, 200);
    assert_eq!(
        (member(&lab, "member1")["weight"].as_u64(), get(&lab, "/v1/status").json()["revision"].as_u64()),
        (Some(9), Some(3))
    );
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn members_are_edited_and_edits_survive_a_restart() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service { name: "http".into(), ..Service::http(&[1, 2, 3]) }]);
    let config = format!("[timeouts]\ntcp_closing = \"1s\"\n\n{config}");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    // Its flows are closing, and end.
    let said = printed(&lab, &["member", "drain", "http/member3", "--wait", "--timeout", "30"]);
    assert!(said.contains("http/member3: no flows left after") && said.contains("safe to remove"), "{said}");
    assert!(said.contains(" flows left, ") && said.contains("; last packets 0s to "), "it had some: {said}");
    let drained = member(&lab, "member3");
    assert_eq!((&drained["state"], &drained["weight"], &drained["drain"]), (&json!("drain"), &json!(3), &json!(true)));
    let before = drained["new_flows"].clone();
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    assert_eq!(member(&lab, "member3")["new_flows"], before, "nothing new");
    assert!(printed(&lab, &["member", "weight", "http/member1", "7"]).contains("weight 1 → 7"));
    assert!(printed(&lab, &["member", "disable", "http/member2"]).contains("enabled true → false"));
    let revision = get(&lab, "/v1/status").json()["revision"].clone();
    let state = |lab: &Lab| {
        let one = |name: &str| {
            let member = member(lab, name);
            (member["weight"].as_u64(), member["state"].as_str().map(str::to_owned))
        };
        [one("member1"), one("member2"), one("member3")]
    };
    let is = |weight, state: &str| (Some(weight), Some(state.to_owned()));
    assert_eq!(state(&lab), [is(7, "up"), is(2, "disabled"), is(3, "drain")]);
    balancer.kill().expect("killed");

    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    assert_eq!(state(&lab), [is(7, "up"), is(2, "disabled"), is(3, "drain")]);
    assert_eq!(get(&lab, "/v1/status").json()["revision"], revision);
    assert!(balancer.log().iter().any(|line| {
        line.contains(
            "changed at run time, and still so: http/member1: weight 7; http/member2: disabled; http/member3: drain",
        )
    }));
    printed(&lab, &["member", "enable", "http/member2"]);
    printed(&lab, &["member", "enable", "http/member3"]);
    assert_eq!(state(&lab), [is(7, "up"), is(2, "up"), is(3, "up")]);
    assert!(balancer.stop().expect("stop").success());

    // The startup file has changed: it wins, and what is dropped is said.
    let mut balancer = lab.spawn_balancer(&config.replace("weight = 2", "weight = 4")).expect("balancer");
    assert_eq!(state(&lab), [is(1, "up"), is(4, "up"), is(3, "up")]);
    let dropped = |line: &String| {
        line.contains("has changed: what was changed at run time is dropped: ")
            && line.contains("http/member1: weight 7")
    };
    assert!(balancer.log().iter().any(dropped), "{}", balancer.log().join("\n"));
    assert!(balancer.stop().expect("stop").success());
}

/// Gives a member one weight after the other, by edits and by whole configurations in turn, until nobody answers any
/// more; the last one that was confirmed.
fn edit_and_apply(socket: &Path, config: &str, mut last: u64) -> u64 {
    loop {
        let next = last + 1;
        let (target, body) = if next.is_multiple_of(2) {
            ("PATCH /v1/members/http/member1", format!("{{\"weight\": {next}}}"))
        } else {
            ("POST /v1/apply", config.replacen("weight = 1", &format!("weight = {next}"), 1))
        };
        let head = format!("{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}", body.len());
        let mut answer = String::new();
        let sent = UnixStream::connect(socket).and_then(|mut stream| {
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
            stream.read_to_string(&mut answer)
        });
        if sent.is_err() || !answer.starts_with("HTTP/1.1 200") {
            return last;
        }
        last = next;
    }
}

#[test]
fn killed_at_any_moment_it_finds_a_whole_state() {
    const KILLS: u64 = 100;
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service { name: "http".into(), ..Service::http(&[1, 1]) }]);
    let (mut confirmed, mut later) = (1, 0);
    for kill in 0..=KILLS {
        let mut balancer = lab.spawn_balancer(&config).expect("balancer");
        let weight = member(&lab, "member1")["weight"].as_u64().expect("a weight");
        assert!(weight == confirmed || weight == confirmed + 1, "{weight}, and {confirmed} was confirmed");
        for words in ["cannot be used", "not valid any more"] {
            assert!(!balancer.log().iter().any(|line| line.contains(words)), "{}", balancer.log().join("\n"));
        }
        later += weight - confirmed;
        confirmed = weight;
        if kill == KILLS {
            assert!(balancer.stop().expect("stop").success());
            break;
        }
        let (socket, applied) = (socket(&lab), config.clone());
        let editor = std::thread::spawn(move || edit_and_apply(&socket, &applied, weight));
        std::thread::sleep(Duration::from_millis(20 + kill * 37 % 113));
        balancer.kill().expect("killed");
        confirmed = editor.join().expect("a thread");
    }
    println!(
        "{confirmed} changes, killed {KILLS} times among them; {later} times the last one was made and not confirmed"
    );
    assert!(confirmed > KILLS, "changes went through");
}

#[test]
fn metrics_flows_and_events_are_streams() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service { name: "http".into(), ..Service::http(&[1, 1]) }]);
    let config = config.replace("[api]", "[api]\nlisten = \"127.0.0.1:9190\"");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    let mut follow = command(&lab, &["events", "--follow", "--json"]);
    let mut follower = follow.stdout(std::process::Stdio::piped()).spawn().expect("run");
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    let connections = lab.get().connections as usize;

    let metrics = get(&lab, "/v1/metrics");
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    assert!(metrics.body.trim_end().ends_with("# EOF"));
    let value = |name: &str| -> u64 {
        let mut lines = metrics.body.lines().filter_map(|line| line.rsplit_once(' '));
        let found = lines.find(|(one, _)| *one == name).unwrap_or_else(|| panic!("{name}: {}", metrics.body));
        // A gauge's 1 is written as 1.0.
        found.1.trim_end_matches(".0").parse().expect("a whole number")
    };
    assert_eq!(value("pointsman_vip_new_flows_total{vip=\"http\"}"), connections as u64);
    let of = |member: &str| value(&format!("pointsman_member_new_flows_total{{pool=\"http\",member=\"{member}\"}}"));
    assert_eq!(of("member1") + of("member2"), connections as u64);
    assert!(value("pointsman_worker_received_bytes_total{worker=\"0\"}") > 0);
    assert_eq!(value("pointsman_flows_capacity{family=\"v4\"}"), 1 << 20);
    // The same by the address that can only be read, in the balancer's namespace.
    let by_tcp = lab.balancer().enter(|| {
        let ask = |text: &str| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9190").expect("connected");
            stream.write_all(text.as_bytes()).expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        };
        let read = ask("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let write =
            "PATCH /v1/members/http/member1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
        (read, ask(write))
    });
    let (read, write) = by_tcp.expect("entered");
    assert!(read.starts_with("HTTP/1.1 200") && read.contains("pointsman_vip_up"), "{read}");
    assert!(write.starts_with("HTTP/1.1 405") && write.contains("can only be read"), "{write}");

    let flows = |arguments: &[&str]| {
        let all = printed(&lab, &[&["conn", "list", "--json"], arguments].concat());
        all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let all = flows(&[]);
    assert_eq!(all.len(), connections, "each is closing");
    assert_eq!((&all[0]["vip"], &all[0]["port"], &all[0]["state"]), (&json!("http"), &json!(80), &json!("closing")));
    let at = |member: &str| flows(&["--member", &format!("http/{member}")]).len();
    assert_eq!(at("member1") + at("member2"), connections);
    assert!(at("member1") > 0);
    let client = all[0]["client"].as_str().expect("an address");
    let theirs = all.iter().filter(|flow| flow["client"] == client).count();
    assert_eq!(flows(&["--client", client]).len(), theirs);
    assert_eq!(flows(&["--client", "0.0.0.0/0", "--limit", "3"]).len(), 3);
    assert_eq!(flows(&["--state", "established"]).len(), 0);
    let text = printed(&lab, &["conn", "list", "--limit", "1"]);
    assert!(text.starts_with("CLIENT ") && text.contains("closing"), "{text}");
    for (arguments, words) in [
        (&["conn", "list", "--vip", "htpp"][..], "there is no VIP \"htpp\" (did you mean \"http\"?)"),
        (&["conn", "list", "--member", "http/member4"], "there is no member"),
        (&["conn", "list", "--state", "open"], "state is \"open\" (allowed: embryonic, established"),
        (&["conn", "list", "--client", "nobody"], "client is \"nobody\""),
    ] {
        let (code, said) = failed(&lab, arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }

    printed(&lab, &["member", "drain", "http/member1"]);
    let wanted = |event: &Value| event["subject"] == "http/member1" && event["to"] == "drain" && event["from"] == "up";
    let events = printed(&lab, &["events", "--json"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(
        events
            .iter()
            .any(|event| event["kind"] == "config" && event["reason"].to_string().contains("drain false → true"))
    );
    assert!(events.iter().any(wanted), "{events:?}");
    let last = events.last().expect("events")["id"].to_string();
    assert_eq!(printed(&lab, &["events", "--after", &last]), "");
    // A later run's ids are above an earlier one's: nothing that happens is missed, whatever was seen last.
    let (code, said) = failed(&lab, &["events", "--after", "99999999999999"]);
    assert!(code == Some(1) && said.contains(&format!("the newest event is {last}")), "{code:?} {said}");
    let first = events[0]["id"].as_u64().expect("a number");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    assert!(u128::from(first) <= now && u128::from(first) + 600_000 > now, "{first}: when the daemon began, and {now}");
    assert!(printed(&lab, &["events"]).contains("member http/member1 up → drain"));
    // Whoever follows has been told all of it.
    let lines = std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().expect("piped")));
    let seen = lines.map_while(Result::ok).map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    assert!(seen.into_iter().any(|event| wanted(&event)), "the follower has seen it");
    follower.kill().expect("killed");
    follower.wait().expect("ended");
    // More streams than there may be, and clients that never read: others are answered.
    let hold = |_| {
        let mut stream = UnixStream::connect(socket(&lab)).expect("connected");
        stream.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        stream
    };
    let streams: Vec<UnixStream> = (0..32).map(hold).collect();
    assert!(wait_until(PATIENCE, || get(&lab, "/v1/events").status == 503));
    assert_eq!(get(&lab, "/v1/status").status, 200);
    drop(streams);
    assert!(wait_until(PATIENCE, || get(&lab, "/v1/events").status == 200));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn who_follows_hears_that_the_daemon_lives_and_who_vanishes_is_noticed() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let config = lab.config(&[Service { name: "http".into(), ..Service::http(&[1, 1]) }]);
    let config = config.replace("[api]", "[api]\nlisten = \"127.0.0.1:9190\"");
    let mut balancer = lab.spawn_balancer(&config).expect("balancer");
    let mut follow = command(&lab, &["events", "--follow"]);
    let mut follower = follow.stdout(std::process::Stdio::piped()).spawn().expect("run");
    let mut stream = UnixStream::connect(socket(&lab)).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
    let (mut text, mut part) = (String::new(), [0; 4096]);
    // A chunk with nothing but a line's end.
    while !text.ends_with("\r\n1\r\n\n\r\n") {
        let length = stream.read(&mut part).expect("an empty line within 20 s");
        assert!(length > 0, "{text}");
        text += std::str::from_utf8(&part[..length]).expect("text");
    }
    assert!(text.contains("\"ready\""), "{text}");
    std::thread::sleep(Duration::from_millis(500));
    follower.kill().expect("killed");
    let mut printed = String::new();
    follower.stdout.take().expect("piped").read_to_string(&mut printed).expect("text");
    follower.wait().expect("ended");
    assert!(!printed.is_empty() && printed.lines().all(|line| !line.is_empty()), "{printed:?}");

    // The kernel asks a silent client whether it is there: the state of the balancer's end has that timer (02).
    let (_client, sockets) = lab
        .balancer()
        .enter(|| {
            let client = std::net::TcpStream::connect("127.0.0.1:9190").expect("connected");
            let is_asked = || {
                let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("sockets");
                let ours = |line: &&str| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(":23E6"));
                let mut ours = sockets.lines().filter(ours).map(|line| line.split_whitespace().collect::<Vec<_>>());
                ours.any(|words| words[3] == "01" && words[5].starts_with("02:"))
            };
            (client, wait_until(PATIENCE, is_asked))
        })
        .expect("entered");
    assert!(sockets, "no keepalive");
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn an_order_without_an_answer_may_have_been_carried_out() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("api.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    // It takes what is asked, and hangs up.
    let daemon = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a client");
            assert!(stream.read(&mut [0; 4096]).expect("a request") > 0);
        }
    });
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        let output = command.args(arguments).arg("--socket").arg(&path).output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, words) = ask(&["member", "weight", "http/member1", "7"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("it may have been done: see pointsman status"), "{words}");
    let (code, words) = ask(&["status"]);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("no daemon answers"), "{words}");
    daemon.join().expect("a thread");
}

/// Whether a value is as a schema of the document says; if not, where and how.
fn differs(document: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not there"));
        return differs(document, schema, value, place);
    }
    let is = |word: &Value| match word.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64(),
        Some("null") => value.is_null(),
        other => panic!("{place}: type {other:?}"),
    };
    let is_typed = match &schema["type"] {
        Value::Null => true,
        Value::Array(words) => words.iter().any(is),
        word => is(word),
    };
    if !is_typed || schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return Some(format!("{place}: {value} is not {schema}"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            return Some(format!("{place}: lacks {name}"));
        }
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let schema = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        match schema {
            // A key that is not described.
            None if !place.ends_with("openapi.json") => return Some(format!("{place}.{name}: is not in the document")),
            None => {}
            Some(schema) => {
                if let Some(found) = differs(document, schema, value, &format!("{place}.{name}")) {
                    return Some(found);
                }
            }
        }
    }
    let mut items = value.as_array().into_iter().flatten();
    items.find_map(|item| differs(document, &schema["items"], item, &format!("{place}[]")))
}

#[test]
fn every_path_answers_as_the_document_says() {
    let Some(lab) = build(&topology()) else { return };
    let (_members, mut balancer) = start(&lab);
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    let document = get(&lab, "/v1/openapi.json").json();
    let config = lab.config(&[Service { name: "http".into(), ..Service::http(&[1, 2, 5]) }]);
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let name = if path.contains("{pool}") { "member1" } else { "http" };
            let place = path.replace("{pool}", "http").replace("{name}", name);
            let body = match method.as_str() {
                "post" => config.as_str(),
                "patch" => "{\"weight\": 3, \"drain\": false}",
                _ => "",
            };
            let answer = request(&lab, &method.to_uppercase(), &place, "", body);
            assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
            let (kind, content) = operation["responses"]["200"]["content"]
                .as_object()
                .and_then(|one| one.iter().next())
                .expect("content");
            assert!(answer.header("content-type").is_some_and(|found| found.starts_with(kind.as_str())), "{path}");
            let values = match kind.as_str() {
                "application/json" => vec![answer.json()],
                // What comes in chunks has their lengths between the lines.
                "application/x-ndjson" => answer
                    .body
                    .lines()
                    .filter(|line| line.starts_with('{'))
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .collect(),
                _ => vec![json!(answer.body)],
            };
            assert!(!values.is_empty(), "{path}");
            for value in values {
                assert_eq!(differs(&document, &content["schema"], &value, path), None);
            }
            asked += 1;
            // A problem is one, too.
            if method != "get" || path.contains('{') {
                let missing = place.replace("/http", "/nobody");
                let wrong = request(&lab, &method.to_uppercase(), &missing, "If-Match: none\r\n", "[]");
                let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"];
                assert!(wrong.status >= 400, "{method} {missing}");
                assert_eq!(differs(&document, problem, &wrong.json(), path), None);
            }
        }
    }
    assert!(asked >= 17, "{asked}");
    assert!(balancer.stop().expect("stop").success());
}
