//! What is said of pools, members and their monitors: in the log, as events, and by the API.
//!
//! Topology of every test: see `pointsman::lab`, members on the balancer's LAN.

#[path = "support/lab.rs"]
mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pointsman::lab::{Lab, Load, Process, Service, Topology, wait_until};
use serde_json::Value;
use support::{assert_clean, assert_shows, build, shown, topology};

const PATIENCE: Duration = Duration::from_secs(20);

const HTTP: &str = "[[pool.monitor]]\ntype = \"http\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 2\n";

/// A pool of so many members with these keys and monitors.
fn config(lab: &Lab, members: usize, keys: &str, monitors: &str) -> String {
    let service = Service::http(&vec![1; members]);
    let head = format!(
        "[[pool]]\nname = \"{}\"\nforward = \"{}\"\nscheduler = \"{}\"\n",
        service.name, service.forward, service.scheduler
    );
    let text = lab.config(&[service]);
    assert!(text.contains(&head), "{text}");
    text.replace(&head, &format!("{head}{keys}\n{monitors}\n"))
}

/// What the log has said of something: the level, and the rest of the line.
fn said(balancer: &Process, of: &str) -> Vec<String> {
    let words = |line: String| {
        let level = ["INFO", "WARN"].into_iter().find(|level| line.contains(level))?;
        // Lines begin with the time and the level.
        let (head, words) = line.split_once(&format!("{of} "))?;
        head.trim_end().ends_with(level).then(|| format!("{level} {words}"))
    };
    balancer.log().into_iter().filter_map(words).collect()
}

/// Waits until that was said last.
#[track_caller]
fn assert_says(balancer: &Process, of: &str, words: &str) {
    let is_said = || said(balancer, of).last().is_some_and(|last| last.starts_with(words));
    assert!(wait_until(PATIENCE, is_said), "{of}: expected {words:?}: {:#?}", balancer.log());
}

/// From what to what, of all events about something.
fn events(lab: &Lab, kind: &str, subject: &str) -> Vec<(Option<String>, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let all = shown(lab, &["events"]);
    let its = all.iter().filter(|event| event["kind"] == kind && event["subject"] == subject);
    its.map(|event| (text(&event["from"]), text(&event["to"]).unwrap_or_default())).collect()
}

fn steps(words: &[&str]) -> Vec<(Option<String>, String)> {
    words.windows(2).map(|pair| (Some(pair[0].to_owned()), pair[1].to_owned())).collect()
}

fn apply(lab: &Lab, text: &str) -> Value {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    shown(lab, &["apply", file.path().to_str().expect("text")]).remove(0)
}

#[test]
fn a_pool_says_who_serves_when_it_loses_members_and_when_they_return() {
    let Some(lab) = build(&Topology { members: 4, ..topology() }) else { return };
    let mut members = lab.spawn_member_servers().expect("members");
    let text = config(&lab, 3, "quorum = 2\nsorry_pool = \"sorry\"", HTTP)
        .replace("name = \"member3\"", "name = \"member3\"\nbackup = true")
        + &format!(
            "\n[[pool]]\nname = \"sorry\"\n{HTTP}\n[[pool.member]]\nname = \"member4\"\naddress = \"198.51.100.104\"\n"
        );
    let mut balancer = lab.spawn_balancer(&text).expect("balancer");
    assert_eq!(said(&balancer, "pool web"), Vec::<String>::new(), "a pool that is up is nothing to be said");
    let vip = |state: &str, reason: Option<&str>| {
        assert_shows(&lab, &["vip", "show", "web"], state, |vip| {
            vip["state"] == state
                && match (vip["reason"].as_str(), reason) {
                    (Some(found), Some(wanted)) => found.starts_with(wanted),
                    (found, wanted) => found == wanted,
                }
        });
    };
    vip("up", None);
    // Which server ends or returns, what is said of the pool then, and of the VIP.
    let too_few = "too few members that are no backups, so backups serve, too";
    let rows: [(usize, bool, &str, String, &str); 8] = [
        (0, false, "backup", format!("WARN backup: {too_few} (2 of 3 members usable, quorum 2); VIP web"), "up"),
        (
            1,
            false,
            "sorry",
            "WARN sorry: quorum lost, sorry pool sorry serves (1 of 3 members usable, quorum 2); VIP web".into(),
            "up",
        ),
        (
            3,
            false,
            "below_quorum",
            "WARN below quorum: quorum lost, those that are left serve on (1 of 3 members usable, quorum 2); VIP web"
                .into(),
            "up",
        ),
        (
            2,
            false,
            "down",
            "WARN down: no usable member, nobody serves (0 of 3 members usable, quorum 2); VIP web".into(),
            "down",
        ),
        (
            3,
            true,
            "sorry",
            "INFO sorry: quorum lost, sorry pool sorry serves (0 of 3 members usable, quorum 2); VIP web".into(),
            "up",
        ),
        (2, true, "sorry", "INFO sorry: ".into(), "up"),
        (0, true, "backup", format!("INFO backup: {too_few} (2 of 3 members usable, quorum 2); VIP web"), "up"),
        (1, true, "up", "INFO up again: 3 of 3 members usable, quorum 2; VIP web".into(), "up"),
    ];
    let mut lines = Vec::new();
    for (index, comes, state, words, of_vip) in rows {
        let pool = if index == 3 { "sorry" } else { "web" };
        if comes {
            members[index] = lab.spawn_member_server(index).expect("member");
            assert_says(&balancer, &format!("member {pool}/member{}", index + 1), "INFO up");
        } else {
            members[index].kill().expect("kill");
            assert_says(&balancer, &format!("member {pool}/member{}", index + 1), "WARN down");
        }
        assert_says(&balancer, "pool web", &words);
        lines.push(words);
        assert_shows(&lab, &["pool", "show", "web"], state, |pool| pool["state"] == state && pool["quorum"] == 2);
        vip(of_vip, (state != "up").then_some("pool web: "));
        let problems = shown(&lab, &["status"]).remove(0)["problems"].to_string();
        let named = if of_vip == "down" { "VIP web down: pool web: no usable member" } else { "pool web " };
        assert_eq!(problems.contains(named), state != "up", "{state}: {problems}");
    }
    // A member that makes no difference to who serves is no change of the pool's.
    lines.remove(5);
    assert_eq!(said(&balancer, "pool web"), lines, "one line per change");
    let states = ["up", "backup", "sorry", "below_quorum", "down", "sorry", "backup", "up"];
    assert_eq!(events(&lab, "pool", "web"), steps(&states));
    assert_eq!(events(&lab, "pool", "sorry"), steps(&["up", "down", "up"]));
    assert_says(&balancer, "pool sorry", "INFO up again: 1 of 1 members usable, quorum 1; sorry pool of pool web");
    // One that comes without anybody says so at once.
    let lonely =
        "\n[[pool]]\nname = \"lonely\"\n[[pool.member]]\nname = \"m\"\naddress = \"198.51.100.101\"\nenabled = false\n";
    apply(&lab, &(text + lonely));
    assert_says(
        &balancer,
        "pool lonely",
        "WARN down: no usable member, nobody serves (0 of 1 members usable, quorum 1); no VIP uses it",
    );
    assert!(balancer.stop().expect("stop").success());
}

/// Neither up nor down before somebody has looked.
#[test]
fn a_member_that_is_added_is_starting_until_its_first_check() {
    const SLOW: &str = "[[pool.monitor]]\ntype = \"http\"\ninterval = \"2s\"\ntimeout = \"2s\"\nrise = 2\nfall = 2\n";
    let Some(lab) = build(&topology()) else { return };
    let members = lab.spawn_member_servers().expect("members");
    let mut balancer = lab.spawn_balancer(&config(&lab, 2, "", SLOW)).expect("balancer");
    assert_says(&balancer, "member web/member2", "INFO up");
    // It accepts connections and does not answer: its first check takes two seconds.
    members[2].signal(Signal::SIGSTOP).expect("stop");
    apply(&lab, &config(&lab, 3, "", SLOW));
    let added = shown(&lab, &["member", "show", "web/member3"]).remove(0);
    assert_eq!(added["state"], "starting", "{added}");
    assert_eq!(added["reason"], "not checked yet; gets new flows meanwhile (start = \"up\")");
    assert_eq!(added["share"], 1.0);
    assert_says(&balancer, "member web/member3", "WARN down: http: timed out after 2s waiting for the response");
    assert_eq!(events(&lab, "member", "web/member3")[1..], steps(&["starting", "down"]));
    assert_shows(&lab, &["member", "show", "web/member3"], "nothing new", |member| member["share"] == 0.0);
    members[2].signal(Signal::SIGCONT).expect("continue");
    assert_says(&balancer, "member web/member3", "INFO up");
    // What is known of members stays known, whatever monitors come.
    let before = said(&balancer, "member web/member1").len();
    let ping = "[[pool.monitor]]\ntype = \"ping\"\ninterval = \"200ms\"\n";
    apply(&lab, &config(&lab, 3, "", &format!("{ping}{SLOW}")));
    let looked = |name: &str, count: u64| {
        let monitors = shown(&lab, &["monitor", "show", "web/member1"]).remove(0);
        let mut all = monitors.as_array().expect("an array").iter();
        all.any(|one| one["name"] == name && one["checks"].as_u64() >= Some(count))
    };
    assert!(wait_until(PATIENCE, || looked("ping", 3)));
    assert_eq!(said(&balancer, "member web/member1").len(), before, "{:#?}", balancer.log());

    // With `start = "down"` it is down neither: it gets nothing until it has been well.
    apply(&lab, &config(&lab, 2, "start = \"down\"", SLOW));
    apply(&lab, &config(&lab, 3, "start = \"down\"", SLOW));
    let added = shown(&lab, &["member", "show", "web/member3"]).remove(0);
    assert_eq!((added["state"].as_str(), added["share"].as_f64()), (Some("starting"), Some(0.0)), "{added}");
    assert_says(&balancer, "member web/member3", "INFO up");
    let all = events(&lab, "member", "web/member3");
    assert_eq!(all[all.len() - 1..], steps(&["starting", "up"]));
    assert!(balancer.stop().expect("stop").success());
}

#[test]
fn monitors_of_one_type_are_told_apart() {
    let Some(lab) = build(&topology()) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let tcp = |port: &str| format!("[[pool.monitor]]\ntype = \"tcp\"\ninterval = \"200ms\"\n{port}\n");
    let mut balancer = lab.spawn_balancer(&config(&lab, 1, "", &tcp(""))).expect("balancer");
    assert_says(&balancer, "member web/member1", "INFO up");
    let checks = || {
        let monitors = shown(&lab, &["monitor", "list"]).remove(0);
        let of = |one: &Value| (one["name"].as_str().map(str::to_owned), one["checks"].as_u64());
        monitors.as_array().expect("an array").iter().map(of).collect::<Vec<_>>()
    };
    assert!(wait_until(PATIENCE, || checks()[0].1 > Some(3)));
    // Nobody listens there. The other one stays as it is, although it is the second now.
    let applied = apply(&lab, &config(&lab, 1, "", &(tcp("port = 9") + &tcp(""))));
    assert_eq!(applied["plan"], "+ monitor web/tcp :9\n", "{applied}");
    assert_says(&balancer, "member web/member1", "WARN down: tcp :9: connection refused");
    let found = checks();
    let names: Vec<_> = found.iter().filter_map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names, ["tcp :9", "tcp"]);
    assert!(found[1].1 > Some(3), "it went on: {found:?}");
    assert_shows(&lab, &["member", "show", "web/member1"], "named", |member| {
        member["reason"] == "tcp :9: connection refused"
    });
    assert!(balancer.stop().expect("stop").success());
}

/// A server that ends and returns again and again: at first it takes traffic as soon as it is back, then it has to be
/// well for a while first.
#[test]
fn a_flapping_server_is_held_down() {
    const HOLD: Duration = Duration::from_secs(4);
    const HELD: &str = "went down 3 times within 1m; up again when it has been well for 4s";
    let Some(lab) = build(&topology()) else { return };
    let mut members = lab.spawn_member_servers().expect("members");
    let keys = "damping = { downs = 3, within = \"1m\", hold = \"4s\" }";
    let mut balancer = lab.spawn_balancer(&config(&lab, 3, keys, HTTP)).expect("balancer");
    assert_says(&balancer, "member web/member2", "INFO up");
    for flap in 1..=4 {
        members[1].kill().expect("kill");
        assert_says(&balancer, "member web/member2", "WARN down: http: connection refused");
        members[1] = lab.spawn_member_server(1).expect("member");
        let back = Instant::now();
        if flap < 3 {
            assert_says(&balancer, "member web/member2", "INFO up");
            println!("flap {flap}: up {:?} after it came back", back.elapsed());
            assert!(back.elapsed() < HOLD, "{:?}", back.elapsed());
            continue;
        }
        assert_says(&balancer, "member web/member2", &format!("WARN down: {HELD}"));
        // Its monitor finds it well; it gets nothing all the same.
        let monitor = shown(&lab, &["monitor", "show", "web/member2"]).remove(0);
        assert_eq!((&monitor[0]["state"], &monitor[0]["reason"]), (&"up".into(), &"ok".into()));
        let member = shown(&lab, &["member", "show", "web/member2"]).remove(0);
        assert_eq!((&member["state"], &member["reason"]), (&"down".into(), &HELD.into()), "{member}");
        let problems = shown(&lab, &["status"]).remove(0)["problems"].to_string();
        assert!(problems.contains(&format!("member web/member2 down: {HELD}")), "{problems}");
        let report = lab.client_load(&Load { connections: 200, ..lab.get() }).expect("load");
        assert_clean(&report, 200);
        assert_eq!(report.connections_by_member.get("member2"), None, "{:?}", report.connections_by_member);
        // The third time it goes down again while it is held: that begins anew.
        if flap == 4 {
            assert_says(&balancer, "member web/member2", "INFO up");
            println!("flap {flap}: up {:?} after it came back", back.elapsed());
            assert!(back.elapsed() >= HOLD, "{:?}", back.elapsed());
        }
    }
    let report = lab.client_load(&Load { connections: 200, ..lab.get() }).expect("load");
    assert_clean(&report, 200);
    assert!(report.connections_by_member.contains_key("member2"), "{:?}", report.connections_by_member);
    let all = shown(&lab, &["events"]);
    let held = all.iter().filter(|event| event["subject"] == "web/member2" && event["reason"] == HELD).count();
    assert_eq!(held, 2, "one for each time");
    assert!(balancer.stop().expect("stop").success());
}
