//! What is wrong is refused with words that help, changes nothing, and leaves nothing behind: files, requests, and
//! connections that want nothing.

#[path = "support/api.rs"]
mod api;
#[path = "support/lab.rs"]
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::{Answer, PATIENCE, exchange, get, request, socket};
use nix::sys::resource::{Resource, setrlimit};
use pointsman::lab::{Lab, Process, Service, Topology, wait_until};
use support::{assert_clean, build, topology};

/// All that the API tells of the configuration, and the state's file.
fn all_there_is(lab: &Lab) -> Vec<String> {
    let revision = get(lab, "/v1/status").header("etag").expect("a revision").to_owned();
    let weights = get(lab, "/v1/members").json();
    let members = weights.as_array().expect("members").iter();
    let members = members.map(|one| format!("{} {} {} {}", one["name"], one["weight"], one["enabled"], one["drain"]));
    let vips =
        get(lab, "/v1/vips").json().as_array().expect("vips").iter().map(|vip| vip["name"].to_string()).collect();
    let state = fs::read_to_string(lab.directory().join("state/state.json")).unwrap_or_default();
    [vec![revision, state], members.collect(), vips].concat()
}

fn open_files(balancer: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", balancer.pid())).expect("its files").count()
}

fn resident_kibibytes(balancer: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", balancer.pid())).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn start(lab: &Lab) -> (Vec<Process>, String, Process) {
    let members = lab.spawn_member_servers().expect("members");
    let monitor = "\n[[pool.monitor]]\ntype = \"http\"\ninterval = \"1s\"\ntimeout = \"1s\"\n";
    let service = Service { name: "http".into(), pool_lines: monitor, ..Service::http(&[1, 2]) };
    let config = lab.config(&[service]);
    let balancer = lab.spawn_balancer(&config).expect("balancer");
    // So that there is a file of the state.
    assert_eq!(request(lab, "PATCH", "/v1/members/http/member2", "", "{\"weight\": 3}").status, 200);
    (members, config, balancer)
}

/// What is put in the place of what, and what is said to that.
type BadFile = (&'static str, &'static str, &'static str);

const BAD_FILES: &[BadFile] = &[
    ("[[vip]]", "[[vip", "unclosed array table, found the line's end"),
    ("[[vip]]", "[vip]", "vip: a table is no array of tables"),
    ("name = \"http\"", "nam = \"http\"", "vip[0].nam: unknown key"),
    ("name = \"http\"", "name = 7", "vip[0].name: the integer 7 is no string"),
    ("name = \"http\"", "name = \"\"", "vip[0].name: the name is empty"),
    ("name = \"http\"", "name = \"a b\"", "vip[0].name: \"a b\" has the character ' '"),
    ("name = \"http\"", "name = \"http", "invalid basic string, found the line's end"),
    ("address = \"198.51.100.50\"", "address = \"198.51.100\"", "vip[0].address: \"198.51.100\" is no IP address"),
    (
        "address = \"198.51.100.50\"",
        "address = \"198.51.100.256\"",
        "vip[0].address: \"198.51.100.256\" is no IP address",
    ),
    ("address = \"198.51.100.50\"", "address = \"web.example\"", "vip[0].address: \"web.example\" is no IP address"),
    (
        "address = \"198.51.100.50\"",
        "address = \"0.0.0.0\"",
        "vip[0].address: \"0.0.0.0\" is in 0.0.0.0/8, which is unspecified",
    ),
    (
        "address = \"198.51.100.50\"",
        "address = \"224.0.0.1\"",
        "vip[0].address: \"224.0.0.1\" is in 224.0.0.0/4, which is multicast",
    ),
    (
        "address = \"198.51.100.50\"",
        "address = \"127.0.0.1\"",
        "vip[0].address: \"127.0.0.1\" is in 127.0.0.0/8, which is loopback",
    ),
    ("address = \"198.51.100.50\"", "address = 3325256754", "vip[0].address: the integer 3325256754 is no string"),
    ("address = \"198.51.100.50\"", "", "vip[0].address: is missing"),
    ("protocol = \"tcp\"", "protocol = \"sctp\"", "vip[0].protocol: \"sctp\" is unknown (allowed: \"tcp\", \"udp\")"),
    ("protocol = \"tcp\"", "protocol = 6", "vip[0].protocol: the integer 6 is no string"),
    ("port = 80", "port = 0", "vip[0].port: 0 is less than 1"),
    ("port = 80", "port = 65536", "vip[0].port: 65536 is more than 65535"),
    ("port = 80", "port = -1", "vip[0].port: -1 is less than 1"),
    ("port = 80", "port = \"http\"", "vip[0].port: \"http\" is unknown"),
    ("port = 80", "port = 80.0", "vip[0].port: the float 80.0 is no integer"),
    ("port = 80", "port = 99999999999999999999", "vip[0].port: 99999999999999999999 is more than 65535"),
    (
        "pool = \"http\"",
        "pool = \"htpp\"",
        "vip[0].pool: \"htpp\" is no pool (allowed: \"http\"; did you mean \"http\"?)",
    ),
    ("pool = \"http\"", "", "vip[0].pool: is missing"),
    ("forward = \"dr\"", "forward = \"nat\"", "pool[0].forward: \"nat\" is not built yet"),
    ("forward = \"dr\"", "forward = [\"dr\"]", "pool[0].forward: an array is no string"),
    ("scheduler = \"maglev\"", "scheduler = \"magelv\"", "pool[0].scheduler: \"magelv\" is unknown"),
    ("scheduler = \"maglev\"", "scheduler = true", "pool[0].scheduler: the boolean true is no string"),
    (
        "announce = \"arp\"",
        "announce = \"rap\"",
        "vip[0].announce: \"rap\" is unknown (allowed: \"none\", \"arp\"; did you mean \"arp\"?)",
    ),
    (
        "name = \"member2\"",
        "name = \"member1\"",
        "pool[0].member[1].name: \"member1\" is already a member's name in this pool",
    ),
    ("name = \"member2\"", "", "pool[0].member[1].name: is missing"),
    (
        "address = \"198.51.100.102\"",
        "address = \"198.51.100.101\"",
        "pool[0].member[1].address: 198.51.100.101 port 80 is already a member of this pool",
    ),
    (
        "address = \"198.51.100.102\"",
        "address = \"255.255.255.255\"",
        "pool[0].member[1].address: \"255.255.255.255\" is the broadcast address",
    ),
    ("weight = 2", "weight = 65536", "pool[0].member[1].weight: 65536 is more than 65535"),
    ("weight = 2", "weight = -2", "pool[0].member[1].weight: -2 is less than 0"),
    ("weight = 2", "weight = \"2\"", "pool[0].member[1].weight: the string \"2\" is no integer"),
    ("weight = 2", "weigth = 2", "pool[0].member[1].weigth: unknown key"),
    ("weight = 2", "weight = 2\nweight = 2", "duplicate key"),
    ("type = \"http\"", "type = \"htttp\"", "pool[0].monitor[0].type: \"htttp\" is unknown"),
    ("type = \"http\"", "", "pool[0].monitor[0].type: is missing"),
    ("interval = \"1s\"", "interval = \"1\"", "pool[0].monitor[0].interval: \"1\" has no unit"),
    ("interval = \"1s\"", "interval = \"0s\"", "pool[0].monitor[0].interval: \"0s\" is less than 10ms"),
    ("interval = \"1s\"", "interval = 1", "pool[0].monitor[0].interval: the integer 1 is no duration"),
    ("timeout = \"1s\"", "timeout = \"9s\"", "pool[0].monitor[0].timeout: \"9s\" is more than the interval"),
    ("name = \"eth0\"", "name = \"eth77\"", "interface eth77: does not exist on this host"),
    ("name = \"eth0\"", "name = \"a/b\"", "interface[0].name: \"a/b\" is no interface name"),
    ("[[interface]]", "[[interfaces]]", "interfaces: unknown key"),
    ("hash_seed = \"lab\"", "hash_seed = 7", "node.hash_seed: the integer 7 is no string"),
    ("[api]", "[dataplane]\nflows_v4 = 2048\n[api]", "dataplane.flows_v4 1048576 → 2048 needs a restart"),
    ("[api]", "[dataplane]\ncores = [0, 0]\n[api]", "dataplane.cores[1]: core 0 is already listed"),
    ("[api]", "[timeouts]\ntcp_syn = \"1 fortnight\"\n[api]", "timeouts.tcp_syn: \"1 fortnight\" is no duration"),
];

#[test]
fn bad_files_change_nothing() {
    let Some(lab) = build(&topology()) else { return };
    let (_members, config, mut balancer) = start(&lab);
    assert!(BAD_FILES.len() >= 50);
    let (before, files) = (all_there_is(&lab), open_files(&balancer));
    let mut wrong = Vec::new();
    for &(good, bad, words) in BAD_FILES {
        assert!(config.contains(good), "{good} is not in {config}");
        let text = config.replacen(good, bad, 1);
        let answer = request(&lab, "POST", "/v1/apply", "", &text);
        let problem = answer.json();
        let errors = problem["errors"].as_array().into_iter().flatten();
        let text_of = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let errors = errors.map(|error| format!("{}: {}", text_of(&error["field"]), text_of(&error["detail"])));
        let said = errors.chain([text_of(&problem["detail"])]).collect::<Vec<_>>().join("\n");
        if answer.status != 422 || !said.contains(words) {
            wrong.push(format!("{good} → {bad}: {} {said}", answer.status));
        }
        // A plan of it is refused alike.
        assert_eq!(request(&lab, "POST", "/v1/apply?dry_run=true", "", &text).status, 422, "{good} → {bad}");
        println!("{good} → {bad}: {said}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Without rhyme or reason.
    for text in ["\u{0}", "\u{feff}", "= = =", "[[[]]]", "{\"vip\": []}", &"[".repeat(100_000), &"a.".repeat(50_000)] {
        assert_eq!(request(&lab, "POST", "/v1/apply", "", text).status, 422, "{text:.20}");
    }
    assert_eq!(all_there_is(&lab), before);
    assert!(wait_until(PATIENCE, || open_files(&balancer) <= files), "{} files, {files} before", open_files(&balancer));
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    assert!(balancer.stop().expect("stop").success());
}

/// Method, path, further lines of the head, body; the status, and words of the answer.
type BadCall<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str);

const MEMBER: &str = "/v1/members/http/member1";

/// A configuration that would be taken.
const MINIMAL: &str = "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"198.51.100.50\"\n\
                       protocol = \"tcp\"\nport = 80\npool = \"p\"\n[[pool]]\nname = \"p\"\n[[pool.member]]\nname = \"m\"\n\
                       address = \"198.51.100.101\"\n";

fn bad_queries() -> Vec<BadCall<'static>> {
    let mut calls: Vec<BadCall<'_>> = Vec::new();
    for (path, words) in [
        ("/v1/flows?state=open", "state is \"open\""),
        ("/v1/flows?client=nobody", "client is \"nobody\""),
        ("/v1/flows?client=192.0.2.0/33", "client is"),
        ("/v1/flows?limit=-1", "limit is \"-1\""),
        ("/v1/flows?limit=many", "limit is"),
        ("/v1/flows?vips=http", "no parameter here"),
        ("/v1/events?after=yesterday", "after is"),
        ("/v1/events?follow=perhaps", "follow is"),
        ("/v1/events?since=1", "no parameter here"),
    ] {
        calls.push(("GET", path, "", "", 400, words));
    }
    for path in ["/v1/vips/%ff", "/v1/pools/%c3", "/v1/members/http/%fe", "/v1/members/%ff/member1"] {
        calls.push(("GET", path, "", "", 400, "names nothing"));
    }
    calls.push(("PATCH", "/v1/members/http/%ff", "", "{\"weight\": 1}", 400, "names nothing"));
    for path in ["/v1/flows?vip=%", "/v1/flows?vip=%7", "/v1/flows?vip=%zz", "/v1/flows?vip=%ff", "/v1/events?%ff=1"] {
        calls.push(("GET", path, "", "", 400, "is not percent-encoded UTF-8"));
    }
    calls.push(("GET", "/v1/flows?vip=ht%74q", "", "", 404, "there is no VIP \"httq\" (did you mean \"http\"?)"));
    calls.push(("GET", "/v1/flows?st%61te=%6fpen", "", "", 400, "state is \"open\""));
    calls.push(("GET", "/v1/events?after=99999999999999", "", "", 410, "the newest event is"));
    calls.push(("GET", "/v1/flows?vip=htpp", "", "", 404, "did you mean"));
    calls.push(("GET", "/v1/flows?member=http/member9", "", "", 404, "there is no member"));
    calls
}

/// Bodies that are no edit of a member, and what is said to them.
const BAD_PATCHES: &[(&str, &str)] = &[
    ("", "EOF"),
    ("{", "EOF"),
    ("null", "invalid type"),
    ("[]", "expected an object"),
    ("[1, true, false]", "expected an object"),
    ("7", "invalid type"),
    ("\"weight\"", "invalid type"),
    ("{\"weight\"}", "expected"),
    ("{\"weight\": -1}", "weight"),
    ("{\"weight\": 1.5}", "weight"),
    ("{\"weight\": 65536}", "expected u16"),
    ("{\"weight\": 1e99}", "weight"),
    ("{\"weight\": \"1\"}", "invalid type"),
    ("{\"weight\": [1]}", "invalid type"),
    ("{\"weight\": 1, \"weight\": 2}", "duplicate field"),
    ("{\"weights\": 1}", "unknown field"),
    ("{\"Weight\": 1}", "unknown field"),
    ("{\"enabled\": 1}", "invalid type"),
    ("{\"enabled\": \"true\"}", "invalid type"),
    ("{\"drain\": \"yes\"}", "invalid type"),
    ("{\"address\": \"192.0.2.1\"}", "unknown field"),
    ("{\"weight\": 1} x", "trailing"),
    ("{\"weight\": 0x10}", "expected"),
    ("weight = 1", "expected"),
];

fn bad_calls() -> Vec<BadCall<'static>> {
    let mut calls: Vec<BadCall<'_>> = Vec::new();
    for (path, words) in [
        ("/", "there is no / here"),
        ("/v1", "there is no /v1 here"),
        ("/v2/status", "there is no"),
        ("/v1/statu", "there is no"),
        ("/v1/vips/", "there is no"),
        ("/v1/vips/nobody", "there is no VIP"),
        ("/v1/vips/HTTP", "did you mean \"http\"?"),
        ("/v1/vips/http/", "there is no"),
        ("/v1/vips/..%2f..%2fetc", "there is no"),
        ("/v1/vips/%00", "there is no"),
        ("/v1/pools/htp", "did you mean \"http\"?"),
        ("/v1/members/http/member9", "did you mean"),
        ("/v1/members/member1", "there is no"),
        ("/v1/members/nobody/member1", "there is no"),
        ("/v1/workers/0", "there is no"),
        ("/v1/metric", "there is no"),
        ("/metrics/", "there is no"),
        ("/v1/apply/now", "there is no"),
        ("/v1/members/http/member1/weight", "there is no"),
        ("//v1/status", "there is no"),
    ] {
        calls.push(("GET", path, "", "", 404, words));
    }
    for path in ["/v1/status", "/v1/vips", "/v1/pools", "/v1/members", "/v1/monitors", "/v1/workers", "/v1/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            calls.push((method, path, "", "{}", 405, "takes no"));
        }
    }
    calls.push(("GET", "/v1/apply", "", "", 405, "takes no GET"));
    calls.push(("PUT", MEMBER, "", "{\"weight\": 1}", 405, "takes no PUT"));
    calls.push(("DELETE", MEMBER, "", "", 405, "takes no DELETE"));
    calls.extend(bad_queries());
    for &(body, words) in BAD_PATCHES {
        calls.push(("PATCH", MEMBER, "", body, 422, words));
    }
    for (path, words) in [
        ("/v1/members/http/member9", "did you mean"),
        ("/v1/members/htp/member1", "there is no member"),
        ("/v1/members/http/%6dember9", "there is no member"),
    ] {
        calls.push(("PATCH", path, "", "{\"weight\": 1}", 404, words));
    }
    for head in ["If-Match: \"0\"\r\n", "If-Match: \"99\"\r\n", "If-Match: \"18446744073709551615\"\r\n"] {
        calls.push(("PATCH", MEMBER, head, "{\"weight\": 9}", 412, "rules"));
        calls.push(("POST", "/v1/apply", head, MINIMAL, 412, "rules"));
    }
    for head in ["If-Match: 2\r\n", "If-Match: W/\"2\"\r\n", "If-Match: \"\"\r\n", "If-Match: \"-1\"\r\n"] {
        calls.push(("PATCH", MEMBER, head, "{\"weight\": 9}", 400, "is no ETag of ours"));
    }
    for path in ["/v1/apply?dryrun=true", "/v1/apply?dry_run=1", "/v1/apply?dry_run=true&force=true"] {
        calls.push(("POST", path, "", MINIMAL, 400, "dry"));
    }
    calls
}

/// Bytes that are no request of ours, or only a part of one; an answer there may be, but no success.
fn broken_requests() -> Vec<Vec<u8>> {
    let head = "PATCH /v1/members/http/member1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let body = "{\"weight\": 9}";
    vec![
        b"\r\n\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /v1/status\r\n\r\n".to_vec(),
        b"GET /v1/status HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000)).into_bytes(),
        format!("GET /v1/status HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(1000)).into_bytes(),
        format!("{head}Content-Length: x\r\n\r\n{body}").into_bytes(),
        format!("{head}Content-Length: -1\r\n\r\n{body}").into_bytes(),
        format!("{head}Content-Length: 99999999999999999999\r\n\r\n{body}").into_bytes(),
        format!("{head}Content-Length: 5\r\nContent-Length: 13\r\n\r\n{body}").into_bytes(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n").into_bytes(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{body}").into_bytes(),
        format!("{head}Transfer-Encoding: gzip\r\n\r\n{body}").into_bytes(),
        format!("{head}Content-Length: 4\r\n\r\n\u{0}\u{1}\u{2}\u{3}").into_bytes(),
        [head.as_bytes(), b"Content-Length: 4\r\n\r\n\xff\xfe\xfd\xfc"].concat(),
    ]
}

#[test]
fn bad_calls_change_nothing() {
    let Some(lab) = build(&topology()) else { return };
    let (_members, _, mut balancer) = start(&lab);
    let (before, files) = (all_there_is(&lab), open_files(&balancer));
    let (calls, mut wrong) = (bad_calls(), Vec::new());
    assert!(calls.len() >= 100, "{}", calls.len());
    for (method, path, head, body, status, words) in calls {
        let answer = request(&lab, method, path, head, body);
        let is_problem = answer.header("content-type") == Some("application/problem+json");
        let said = answer.body.replace("\\\"", "\"");
        if answer.status != status || !is_problem || !said.contains(words) {
            wrong.push(format!("{method} {path} {head:?} {body:?}: {words:?}, {} {said}", answer.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for bytes in broken_requests() {
        let Answer { status, head, .. } = loosely(&lab, &bytes);
        assert!(
            status == 0 || (400..600).contains(&status),
            "{:?}: {head}",
            String::from_utf8_lossy(&bytes[..20.min(bytes.len())])
        );
    }
    assert_eq!(all_there_is(&lab), before);
    assert!(wait_until(PATIENCE, || open_files(&balancer) <= files), "{} files, {files} before", open_files(&balancer));
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    assert!(balancer.stop().expect("stop").success());
}

/// Sends these bytes and no more; status 0 if it is hung up on without an answer.
fn loosely(lab: &Lab, bytes: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket(lab)).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// For those who count failed checks: with another load beside it, a check may fail for want of a core.
static ALONE: Mutex<()> = Mutex::new(());

/// So many VIPs with a pool of ten members each; those of the first pools are looked at every half second.
fn many(lab: &Lab, vips: usize, monitored: usize) -> String {
    use std::fmt::Write as _;
    let mut text = lab.config(&[]).replace("[api]", "[api]\nlisten = \"127.0.0.1:9190\"");
    for vip in 0..vips {
        let _ = write!(
            text,
            "\n[[vip]]\nname = \"v{vip}\"\naddress = \"198.51.100.50\"\nprotocol = \"tcp\"\nport = {}\n\
             pool = \"p{vip}\"\nannounce = \"arp\"\n\n[[pool]]\nname = \"p{vip}\"\nscheduler = \"rr\"\n",
            80 + vip
        );
        if vip < monitored {
            text += "[[pool.monitor]]\ntype = \"http\"\nport = 80\ninterval = \"500ms\"\ntimeout = \"500ms\"\n";
        }
        for member in 0..10 {
            let address = lab.topology().member_address(member);
            let _ = write!(text, "[[pool.member]]\nname = \"m{member}\"\naddress = \"{address}\"\n");
        }
    }
    text
}

/// How many checks were made, and how many of them failed.
fn checks(lab: &Lab) -> (u64, u64) {
    let mut answer = get(lab, "/v1/monitors");
    // Others may not have read theirs yet.
    wait_until(PATIENCE * 2, || {
        answer = get(lab, "/v1/monitors");
        answer.status != 503
    });
    let monitors = answer.json();
    let sum = |key: &str| monitors.as_array().expect("monitors").iter().filter_map(|one| one[key].as_u64()).sum();
    (sum("checks"), sum("failures"))
}

/// Asks the same again and again by `api.listen` until then; how many answers came.
fn read_again_and_again(path: &str, until: Instant) -> usize {
    let (mut answers, mut bytes) = (0, Vec::new());
    while Instant::now() < until {
        bytes.clear();
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9190").expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("written");
        stream.read_to_end(&mut bytes).expect("an answer");
        assert!(bytes.starts_with(b"HTTP/1.1 200 ") || bytes.starts_with(b"HTTP/1.1 404 "), "{path}");
        answers += 1;
    }
    answers
}

#[test]
fn who_only_reads_fails_no_check() {
    const CLIENTS: usize = 40;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = build(&Topology { members: 10, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&many(&lab, 1000, 30)).expect("balancer");
    assert!(wait_until(PATIENCE, || checks(&lab).0 >= 600), "{:?}", checks(&lab));
    let mut wrong = Vec::new();
    for path in ["/v1/status", "/v1/members", "/v1/members/p7/nobody", "/v1/vips/nobody", "/v1/pools", "/metrics"] {
        let (made, failed) = checks(&lab);
        let until = Instant::now() + Duration::from_secs(6);
        let read = || {
            let each =
                std::array::from_fn::<_, CLIENTS, _>(|_| std::thread::spawn(move || read_again_and_again(path, until)));
            each.into_iter().map(|thread| thread.join().expect("answers")).sum::<usize>()
        };
        let answers = lab.balancer().enter(read).expect("entered");
        let (now_made, now_failed) = checks(&lab);
        let (made, failed) = (now_made - made, now_failed - failed);
        println!("{path}: {answers} answers to {CLIENTS} clients; {made} checks, {failed} failed");
        if failed > 0 || made < 300 * 6 || answers < CLIENTS {
            wrong.push(format!("{path}: {answers} answers, {made} checks, {failed} failed"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn who_does_not_read_has_little_memory() {
    const CLIENTS: usize = 250;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = build(&Topology { members: 10, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&many(&lab, 1000, 30)).expect("balancer");
    assert!(wait_until(PATIENCE, || checks(&lab).0 >= 600), "{:?}", checks(&lab));
    let large = get(&lab, "/v1/metrics").body.len();
    let (memory, (_, failed)) = (resident_kibibytes(&balancer), checks(&lab));
    let call = |_| {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9190").expect("connected");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        stream
    };
    let held: Vec<_> = lab.balancer().enter(|| (0..CLIENTS).map(call).collect()).expect("entered");
    let (mut most, until) = (0, Instant::now() + Duration::from_secs(15));
    while Instant::now() < until {
        most = most.max(resident_kibibytes(&balancer).saturating_sub(memory));
        // The socket's clients have their own places.
        assert_eq!(get(&lab, "/v1/vips").status, 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{CLIENTS} clients, {} KiB each: memory has grown by {most} KiB", large >> 10);
    assert!(most < 160 * 1024, "memory has grown by {most} KiB");
    assert_eq!(checks(&lab).1, failed, "no check has failed");
    drop(held);
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn large_bodies_that_stall_give_their_place_up() {
    let Some(lab) = build(&topology()) else { return };
    let (_members, config, mut balancer) = start(&lab);
    let text = format!("{config}\n{}", "#".repeat(2 << 20));
    let half = |_| {
        let mut stream = UnixStream::connect(socket(&lab)).expect("connected");
        let head = "POST /v1/apply HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10000000\r\n\r\n";
        stream.write_all((head.to_owned() + &text).as_bytes()).expect("written");
        stream
    };
    let held: Vec<UnixStream> = (0..4).map(half).collect();
    let asked = Instant::now();
    let answer = request(&lab, "POST", "/v1/apply?dry_run=true", "", &text);
    println!("planned after {:?}", asked.elapsed());
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    for mut stream in held {
        let mut answer = String::new();
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("the body comes too slowly"), "{answer}");
    }
    assert!(balancer.stop().expect("stop").success());
}

/// Whether a long answer waits there, or has waited until it was cut off.
fn is_unread(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).expect("set");
    let mut bytes = vec![0; 128 << 10];
    stream.read(&mut bytes).is_ok_and(|length| length > 64 << 10 && bytes.starts_with(b"HTTP/1.1 200 "))
}

#[test]
fn ten_thousand_idle_clients_are_nobodys_trouble() {
    const CLIENTS: usize = 10_000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = build(&Topology { members: 10, ..topology() }) else { return };
    setrlimit(Resource::RLIMIT_NOFILE, 2 * CLIENTS as u64, 2 * CLIENTS as u64).expect("root may open many files");
    let _members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&many(&lab, 300, 10)).expect("balancer");
    let large = get(&lab, "/v1/metrics").body.len();
    assert!(large > 1 << 20, "{large} bytes are more than a socket takes from one who does not read");
    let (files, memory) = (open_files(&balancer), resident_kibibytes(&balancer));
    let (_, failed) = checks(&lab);
    let mut held = Vec::new();
    for index in 0..CLIENTS {
        let mut stream = UnixStream::connect(socket(&lab)).expect("connected");
        // Some say nothing, some begin a request, some begin a body, and some do not read the answer.
        let begun: &[u8] = match index % 4 {
            0 => b"",
            1 => b"GET /v1/status HTTP/1.1\r\nHos",
            2 => b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[[vip",
            _ => b"GET /v1/metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        };
        // It may have been hung up on already.
        let _ = stream.write_all(begun);
        held.push(stream);
    }
    let asked = Instant::now();
    assert_eq!(get(&lab, "/v1/status").status, 200);
    println!("answered in {:?}; {} files ({files} before)", asked.elapsed(), open_files(&balancer));
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(open_files(&balancer) <= files + 300, "{} files, {files} before", open_files(&balancer));
    assert_clean(&lab.client_load(&lab.get()).expect("load"), lab.get().connections);
    let grown = || resident_kibibytes(&balancer).saturating_sub(memory);
    println!("at once memory has grown by {} KiB", grown());
    assert!(grown() < 64 * 1024, "memory has grown by {} KiB", grown());
    let (before, _) = checks(&lab);
    assert!(wait_until(PATIENCE, || checks(&lab).0 >= before + 600), "the checks go on");
    assert_eq!(checks(&lab).1, failed, "no check has failed");
    let long = held.iter().skip(3).step_by(4).filter(|stream| is_unread(stream)).count();
    println!("{long} long answers were begun");
    assert!(long >= 8, "{long} clients met a full socket");
    println!("with the clients memory has grown by {} KiB; an answer has {} KiB", grown(), large >> 10);
    assert!(grown() < 64 * 1024, "memory has grown by {} KiB", grown());
    drop(held);
    assert!(wait_until(PATIENCE, || open_files(&balancer) <= files), "{} files, {files} before", open_files(&balancer));
    println!("without them by {} KiB", grown());
    assert!(grown() < 64 * 1024, "memory has grown by {} KiB", grown());
    let members = get(&lab, "/v1/members").json();
    assert!(members.as_array().expect("members").iter().all(|one| one["state"] == "up"), "{members}");
    assert_eq!(exchange(&lab, b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").status, 200);
    assert!(balancer.stop().expect("stop").success());
}
