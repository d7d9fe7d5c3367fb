//! The API of the real binary, and the commands that use it.
//!
//! Topology of every test: see `pointsman::lab`. Requests are written by hand: a library would not send what is wrong.

#[path = "support/lab.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use pointsman::lab::{Lab, Process, Service, wait_until};
use serde_json::{Value, json};
use support::{assert_clean, build, topology};

const PATIENCE: Duration = Duration::from_secs(20);

fn socket(lab: &Lab) -> PathBuf {
    lab.directory().join("api.sock")
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// A problem of this status that says this.
    #[track_caller]
    fn assert_problem(&self, status: u16, words: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{words:?}: {problem}");
    }
}

/// Sends these bytes and reads to the end.
fn exchange(lab: &Lab, bytes: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket(lab)).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(bytes).expect("written");
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("an answer");
    let text = String::from_utf8(text).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn request(lab: &Lab, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    exchange(lab, &[head.as_bytes(), body.as_bytes()].concat())
}

fn get(lab: &Lab, path: &str) -> Answer {
    request(lab, "GET", path, "", "")
}

fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(&lab.topology().program);
    command.args(arguments).env("POINTSMAN_SOCKET", socket(lab));
    command
}

fn cli(lab: &Lab, arguments: &[&str]) -> Output {
    command(lab, arguments).output().expect("run")
}

/// What a command prints that succeeds.
#[track_caller]
fn printed(lab: &Lab, arguments: &[&str]) -> String {
    let output = cli(lab, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn printed_json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(lab, arguments)).expect("JSON")
}

/// Its code, and what it says on stderr.
fn failed(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let output = cli(lab, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

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
    assert_has(&status, "version revision uptime_seconds interfaces flows workers problems");
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
    assert!(screen.contains("VIPs      1 of 1 up\nmembers   2 of 3 up\n") && !screen.contains('\x1b'), "{screen}");
    assert_has(&printed_json(&lab, &["status", "--json"]), "version revision uptime_seconds problems");
    for (arguments, wanted) in [
        (&["vip", "list"][..], "http  up     198.51.100.50  tcp/80"),
        (&["vip", "show", "http"], "http  up     198.51.100.50  tcp/80"),
        (&["pool", "show", "http"], "http/member1"),
        (&["pool", "list"], "http  dr"),
        (&["member", "list"], "http/member3"),
        (&["member", "list", "http"], "tcp: connection refused"),
        (&["member", "show", "http/member2"], "http/member2"),
        (&["monitor", "list"], "http/member3"),
        (&["monitor", "show", "http/member1"], "http/member1"),
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
