use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::json;

use super::super::compile::Plan;
use super::super::identity::Identities;
use super::super::neighbor::{Link, Network, NextHop};
use super::*;
use crate::dataplane::flow::{FlowTable, KeyV4, Signal, TimeoutsOf as _};
use crate::dataplane::tables::{MemberId, VipId};

const BASE: &str = r#"
[node]
hash_seed = "a"
[[interface]]
name = "eth0"
[[vip]]
name = "web"
address = "203.0.113.2"
protocol = "tcp"
port = 80
pool = "web"
[[vip]]
name = "dns"
address = "203.0.113.2"
protocol = "udp"
port = 53
pool = "dns"
[[pool]]
name = "web"
[[pool.member]]
name = "web1"
address = "198.51.100.1"
[[pool.member]]
name = "web2"
address = "198.51.100.2"
[[pool]]
name = "dns"
[[pool.member]]
name = "dns1"
address = "198.51.100.9"
"#;

fn model(text: &str) -> Model {
    Model::parse("test.toml", text).expect("a valid configuration")
}

/// The base with this in place of that.
fn with(from: &str, to: &str) -> Model {
    assert!(BASE.contains(from), "{from}");
    model(&BASE.replacen(from, to, 1))
}

fn lines(new: &Model) -> Vec<String> {
    let change = Change::between(&model(BASE), new, true);
    change.to_string().lines().map(str::to_owned).collect()
}

/// Whoever looks at a change has to see whether somebody drains a member, or gives it another weight.
#[test]
fn a_drain_is_told_from_a_weight_of_nothing() {
    let edited = |drain, weight| {
        let mut edited = model(BASE);
        edited.pools[0].members[0].drain = drain;
        edited.pools[0].members[0].weight = weight;
        edited
    };
    let rows = [
        ((false, 1), (true, 1), "drain false → true"),
        ((false, 0), (true, 0), "drain false → true"),
        ((true, 1), (true, 7), "remembered weight 1 → 7"),
        ((true, 7), (false, 0), "weight 7 → 0, drain true → false"),
        ((false, 1), (false, 0), "weight 1 → 0"),
    ];
    for (old, new, words) in rows {
        let change = Change::between(&edited(old.0, old.1), &edited(new.0, new.1), true);
        assert_eq!(change.to_string(), format!("~ member web/web1 (198.51.100.1): {words}\n"));
    }
    let mut change = Change { edits_ended: vec!["drain of web/web1".into()], ..Change::default() };
    assert!(!change.is_empty());
    assert_eq!(change.to_string(), "- drain of web/web1 ended\n");
    assert_eq!(change.summary(), "1 edit ended: drain of web/web1");
    change.edits_ended.clear();
    assert_eq!(change.to_string(), "nothing changes\n");
}

/// What stands in the base, what stands there instead, and how that is said.
type Row = (&'static str, String, &'static [&'static str]);

#[expect(clippy::too_many_lines, reason = "a table with a row for each key")]
fn rows() -> Vec<Row> {
    let web = "port = 80\npool = \"web\"";
    vec![
        ("[[pool]]\nname = \"dns\"", "[[pool]]\nname = \"dns\"".into(), &["nothing changes"]),
        (
            "\"a\"",
            "\"b\"".into(),
            &[
                "~ node.hash_seed differs (not shown) (new flows are spread anew: with n members one in n stays where it was)",
            ],
        ),
        ("[node]", "[node]\nname = \"x\"".into(), &["~ node.name none → \"x\""]),
        (
            "[node]",
            "[node]\nstate_dir = \"/x\"".into(),
            &["~ node.state_dir \"/var/lib/pointsman\" → \"/x\" (needs a restart)"],
        ),
        ("[node]", "[dataplane]\ncores = [1]\n[node]".into(), &["~ dataplane.cores none → [1] (needs a restart)"]),
        (
            "[node]",
            "[dataplane]\nxdp_mode = \"native\"\n[node]".into(),
            &["~ dataplane.xdp_mode \"auto\" → \"native\" (needs a restart)"],
        ),
        (
            "[node]",
            "[dataplane]\nzero_copy = \"off\"\n[node]".into(),
            &["~ dataplane.zero_copy \"auto\" → \"off\" (needs a restart)"],
        ),
        (
            "[node]",
            "[dataplane]\nbusy_poll = true\n[node]".into(),
            &["~ dataplane.busy_poll false → true (needs a restart)"],
        ),
        (
            "[node]",
            "[dataplane]\nflows_v4 = 1024\n[node]".into(),
            &["~ dataplane.flows_v4 1048576 → 1024 (needs a restart)"],
        ),
        (
            "[node]",
            "[dataplane]\npersistence_v4 = 1024\n[node]".into(),
            &["~ dataplane.persistence_v4 262144 → 1024 (needs a restart)"],
        ),
        (
            "[node]",
            "[dataplane]\ntunnel_source = \"192.0.2.0/28\"\n[node]".into(),
            &["~ dataplane.tunnel_source none → \"192.0.2.0/28\""],
        ),
        (
            "[node]",
            "[timeouts]\ntcp_established = \"1h\"\nudp = \"1m\"\n[node]".into(),
            &["~ timeouts.tcp_established \"900s\" → \"3600s\"", "~ timeouts.udp \"120s\" → \"60s\""],
        ),
        (
            "name = \"eth0\"",
            "name = \"eth0\"\n[[interface]]\nname = \"eth1\"".into(),
            &["~ interface [\"eth0\"] → [\"eth0\",\"eth1\"] (packets wait for a moment: the sockets are opened anew)"],
        ),
        ("name = \"web\"", "name = \"www\"".into(), &["~ vip www (203.0.113.2 tcp 80): name \"web\" → \"www\""]),
        ("port = 80", "port = 81".into(), &["+ vip web (203.0.113.2 tcp 81)", "- vip web (203.0.113.2 tcp 80)"]),
        ("pool = \"web\"", "pool = \"dns\"".into(), &["~ vip web (203.0.113.2 tcp 80): pool \"web\" → \"dns\""]),
        (web, format!("{web}\nannounce = \"arp\""), &["~ vip web (203.0.113.2 tcp 80): announce \"none\" → \"arp\""]),
        (
            web,
            format!("{web}\npersistence = {{ timeout = \"5m\" }}"),
            &["~ vip web (203.0.113.2 tcp 80): persistence.timeout none → \"300s\", persistence.netmask none → 32"],
        ),
        (web, format!("{web}\nconnection_limit = 9"), &["~ vip web (203.0.113.2 tcp 80): connection_limit none → 9"]),
        (
            "port = 53",
            "port = 53\none_packet = true".into(),
            &["~ vip dns (203.0.113.2 udp 53): one_packet false → true"],
        ),
        (
            web,
            format!("{web}\ntimeouts = {{ tcp_syn = \"5s\" }}"),
            &["~ vip web (203.0.113.2 tcp 80): timeouts.tcp_syn \"30s\" → \"5s\""],
        ),
        (web, format!("{web}\nenabled = false"), &["~ vip web (203.0.113.2 tcp 80): enabled true → false"]),
        (
            "[[pool]]\nname = \"web\"",
            "[[pool]]\nname = \"web\"\nscheduler = \"wlc\"\non_member_down = \"keep\"\nforward = \"ipip\"".into(),
            &["~ pool web: forward \"dr\" → \"ipip\", scheduler \"maglev\" → \"wlc\", on_member_down \"reselect\" → \
               \"keep\""],
        ),
        (
            "[[pool]]\nname = \"dns\"",
            "[[pool]]\nname = \"new\"\n[[pool.member]]\nname = \"n\"\naddress = \"198.51.100.5\"\n[[pool]]\nname = \
             \"dns\""
                .into(),
            &["+ pool new"],
        ),
        ("name = \"web1\"", "name = \"w1\"".into(), &["~ member web/w1 (198.51.100.1): name \"web1\" → \"w1\""]),
        (
            "\"198.51.100.1\"",
            "\"198.51.100.1\"\nport = 80".into(),
            &["~ member web/web1 (198.51.100.1): port none → 80"],
        ),
        (
            "\"198.51.100.1\"",
            "\"198.51.100.1\"\nweight = 0".into(),
            &["~ member web/web1 (198.51.100.1): weight 1 → 0"],
        ),
        (
            "\"198.51.100.1\"",
            "\"198.51.100.1\"\nupper_threshold = 9\nlower_threshold = 3".into(),
            &["~ member web/web1 (198.51.100.1): upper_threshold none → 9, lower_threshold none → 3"],
        ),
        (
            "\"198.51.100.1\"",
            "\"198.51.100.1\"\nenabled = false".into(),
            &["~ member web/web1 (198.51.100.1): enabled true → false"],
        ),
        (
            "\"198.51.100.1\"",
            "\"198.51.100.3\"".into(),
            &["+ member web/web1 (198.51.100.3)", "- member web/web1 (198.51.100.1)"],
        ),
        (
            "name = \"web1\"\naddress = \"198.51.100.1\"\n[[pool.member]]\nname = \"web2\"\naddress = \"198.51.100.2\"",
            "name = \"web2\"\naddress = \"198.51.100.2\"\n[[pool.member]]\nname = \"web1\"\naddress = \"198.51.100.1\""
                .into(),
            &["~ pool web: order of members [\"198.51.100.1\",\"198.51.100.2\"] → [\"198.51.100.2\",\"198.51.100.1\"]"],
        ),
    ]
}

#[test]
fn every_key_is_named_with_what_it_was_and_would_be() {
    for (from, to, expected) in rows() {
        let new = with(from, &to);
        assert_eq!(lines(&new), expected, "{from:?} → {to:?}");
        let is_same = Change::between(&model(BASE), &new, true).is_empty();
        assert_eq!(is_same, expected == ["nothing changes"]);
    }
}

#[test]
fn monitors_and_what_a_pool_makes_of_them() {
    const HTTP: &str = "[[pool.monitor]]\ntype = \"http\"\nheaders = { A = \"secret\" }\n";
    let old = format!("{BASE}{HTTP}");
    let rows: [(&str, String, &[&str]); 11] = [
        (HTTP, String::new(), &["- monitor dns/http"]),
        (HTTP, format!("{HTTP}path = \"/x\"\nrise = 3"), &["~ monitor dns/http: rise 2 → 3, path \"/\" → \"/x\""]),
        (
            HTTP,
            format!("{HTTP}interval = \"200ms\""),
            &["~ monitor dns/http: interval \"5s\" → \"200ms\", timeout \"2s\" → \"200ms\""],
        ),
        ("secret", "other".into(), &["~ monitor dns/http: headers differs (not shown)"]),
        (HTTP, format!("{HTTP}[[pool.monitor]]\ntype = \"ping\""), &["+ monitor dns/ping"]),
        ("type = \"http\"", "type = \"https\"\nverify = false".into(), &["+ monitor dns/https", "- monitor dns/http"]),
        // One in front of it leaves it as it is, and so does another order.
        (HTTP, format!("[[pool.monitor]]\ntype = \"http\"\npath = \"/x\"\n{HTTP}"), &["+ monitor dns/http /x"]),
        // What asks the same is the same, however often it does.
        (
            HTTP,
            format!("[[pool.monitor]]\ntype = \"http\"\npath = \"/x\"\n{HTTP}rise = 3\n"),
            &["+ monitor dns/http /x", "~ monitor dns/http /: rise 2 → 3"],
        ),
        (HTTP, format!("{HTTP}[[pool.monitor]]\ntype = \"tcp\"\nport = 8080"), &["+ monitor dns/tcp (port 8080)"]),
        (HTTP, format!("{HTTP}[[pool.monitor]]\ntype = \"http\"\nport = 8080"), &["+ monitor dns/http :8080/"]),
        (
            "name = \"dns\"\n[[pool.member]]",
            "name = \"dns\"\nsorry_pool = \"web\"\nslow_start = \"1m\"\n[[pool.member]]".into(),
            &["~ pool dns: sorry_pool none → \"web\", slow_start none → \"1m\""],
        ),
    ];
    for (from, to, expected) in rows {
        assert!(old.contains(from), "{from}");
        let change = Change::between(&model(&old), &model(&old.replacen(from, &to, 1)), true);
        let found: Vec<String> = change.to_string().lines().map(str::to_owned).collect();
        assert_eq!(found, expected, "{from:?} → {to:?}");
    }
    // The same index, another pool.
    let sorry =
        BASE.replacen("name = \"dns\"\n[[pool.member]]", "name = \"dns\"\nsorry_pool = \"web\"\n[[pool.member]]", 1);
    let swapped = sorry
        .replace("\"web\"\n[[pool.member]]\nname = \"web1\"", "\"www\"\n[[pool.member]]\nname = \"web1\"")
        .replace("pool = \"web\"", "pool = \"www\"");
    let change = Change::between(&model(&sorry), &model(&swapped), true);
    assert!(change.to_string().contains("~ pool dns: sorry_pool \"web\" → \"www\""), "{change}");
}

#[test]
fn the_order_of_vips_and_pools_means_nothing() {
    let (vips, pools) = BASE.split_at(BASE.find("[[pool]]").expect("pools"));
    let dns = pools.find("[[pool]]\nname = \"dns\"").expect("the second");
    let turned = format!("{vips}{}{}", &pools[dns..], &pools[..dns]);
    assert!(Change::between(&model(BASE), &model(&turned), true).is_empty());
}

#[test]
fn json_has_stable_keys() {
    let new = with("\"198.51.100.1\"", "\"198.51.100.1\"\nweight = 7");
    let change = Change::between(&model(BASE), &new, true);
    let expected = json!({
        "settings": [], "vips": [], "pools": [], "monitors": [], "edits_ended": [], "impact": [],
        "members": [{"what": "changed", "name": "web/web1", "identity": "198.51.100.1",
                     "keys": [{"key": "weight", "from": 1, "to": 7}]}],
    });
    assert_eq!(serde_json::to_value(&change).expect("plain data"), expected);
    let restart = Change::between(&model(BASE), &with("[node]", "[dataplane]\nbusy_poll = true\n[node]"), true);
    let setting = json!({"key": "dataplane.busy_poll", "from": false, "to": true, "effect": "restart"});
    assert_eq!(serde_json::to_value(&restart).expect("plain data")["settings"], json!([setting]));
    assert_eq!(restart.needs_restart().count(), 1);
}

#[test]
fn persistence_takes_its_memory_when_it_is_first_asked_for() {
    let new = with("[node]", "[dataplane]\npersistence_v4 = 1024\n[node]");
    assert_eq!(Change::between(&model(BASE), &new, false).needs_restart().count(), 0);
}

#[test]
fn the_summary_is_one_line_however_much_it_is() {
    let member = |index: u32| format!("[[pool.member]]\nname = \"m{index}\"\naddress = \"192.0.2.{index}\"\n");
    let many: String = (1..20).map(member).collect();
    let change = Change::between(&model(BASE), &model(&format!("{BASE}{many}")), true);
    let summary = change.summary();
    assert!(summary.starts_with("19 members added: dns/m1 (192.0.2.1), dns/m2 (192.0.2.2), "), "{summary}");
    assert!(summary.ends_with("dns/m5 (192.0.2.5) and 14 more"), "{summary}");
    let change = Change::between(&model(BASE), &with("\"198.51.100.1\"", "\"198.51.100.3\""), true);
    assert_eq!(change.summary(), "1 member added: web/web1 (198.51.100.3); 1 member removed: web/web1 (198.51.100.1)");
}

/// Everybody on the link.
fn network() -> Network {
    let link = Link { index: 2, mac: [2; 6], mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 };
    let source = Ipv4Addr::new(198, 51, 100, 254);
    let hop = NextHop { interface: "eth0".into(), mac: [4; 6], gateway: None, source, mtu: None };
    Network {
        links: [("eth0".to_owned(), link)].into(),
        next_hops: (1..20).map(|last| (Ipv4Addr::new(198, 51, 100, last), Ok(hop.clone()))).collect(),
        ..Network::default()
    }
}

#[test]
fn the_impact_is_that_of_the_tables_themselves() {
    let (old, interfaces) = (model(BASE), ["eth0".to_owned()]);
    let mut identities = Identities::default();
    let ids = identities.assign(&old).expect("room");
    identities.adopt(&old, &ids, 1);
    let mut before = Plan::with(old, ids, None);
    let tables = before.compile(&network(), &interfaces, 1).tables;
    // Ten established flows to web's members in turn, one that has only begun, three to dns.
    let (flows, _hands) = FlowTable::new(1024, 16).expect("memory");
    let begin = |client: u8, vip: u16, member: u32, is_established: bool| {
        let key = KeyV4::new(Ipv4Addr::new(192, 0, 2, client), 1000, VipId(vip), 0);
        let (place, now) = (flows.v4.place(&key), flows.now());
        flows.v4.insert((place, &key), MemberId(member), (Signal::Syn, now), &tables, |_| ());
        if is_established {
            flows.v4.advance(place, &key, (Signal::Segment, now, tables.timeouts_of(VipId(vip))), |_| ());
        }
    };
    (0..10).for_each(|client| begin(client, 0, u32::from(client % 2), true));
    begin(10, 0, 0, false);
    (0..3).for_each(|client| begin(client, 1, 2, true));

    let impact_of = |new: Model| {
        let ids = identities.assign(&new).expect("room");
        let mut after = Plan::with(new, ids, Some(&before));
        let compiled = after.compile(&network(), &interfaces, 2).tables;
        impact((&before, &tables), (&after, &compiled), &flows)
    };
    let web = |slots_moved, flows_reselected, flows_dropped| Impact {
        vip: "web".into(),
        slots: 65_537,
        slots_moved,
        flows: 11,
        flows_reselected,
        flows_dropped,
        flows_ended: 0,
    };
    let is_about = |found: usize, expected: f64| (found as f64 / expected - 1.0).abs() < 0.1;

    assert_eq!(impact_of(model(BASE)), []);
    // A member goes: its slots, which are half, and its flows.
    let gone = "[[pool.member]]\nname = \"web1\"\naddress = \"198.51.100.1\"\n";
    let found = impact_of(with(gone, ""));
    assert!(is_about(found[0].slots_moved, 65_537.0 / 2.0), "{found:?}");
    assert_eq!(found, [web(found[0].slots_moved, 6, 0)]);
    // The same under another policy: the flow that has only begun goes elsewhere all the same.
    let dropping = model(
        &BASE
            .replace(gone, "")
            .replace("[[pool]]\nname = \"web\"", "[[pool]]\nname = \"web\"\non_member_down = \"drop\""),
    );
    assert_eq!(impact_of(dropping), [web(found[0].slots_moved, 1, 5)]);
    // A member comes: a third of the slots, and no flow.
    let found = impact_of(with(gone, &format!("{gone}[[pool.member]]\nname = \"web3\"\naddress = \"198.51.100.3\"\n")));
    assert!(is_about(found[0].slots_moved, 65_537.0 / 3.0), "{found:?}");
    assert_eq!(found, [web(found[0].slots_moved, 0, 0)]);
    // A weight of 0 drains: its slots, but no flow.
    let found = impact_of(with("\"198.51.100.1\"", "\"198.51.100.1\"\nweight = 0"));
    assert!(is_about(found[0].slots_moved, 65_537.0 / 2.0), "{found:?}");
    assert_eq!(found, [web(found[0].slots_moved, 0, 0)]);
    // A VIP goes.
    let found = impact_of(with("port = 53", "port = 54"));
    let ended =
        Impact { vip: "dns".into(), slots: 65_537, slots_moved: 65_537, flows: 3, flows_ended: 3, ..Impact::default() };
    assert_eq!(found, [ended]);
    // Another seed.
    let found = impact_of(with("\"a\"", "\"b\""));
    assert_eq!(found.iter().map(|one| (one.slots_moved, one.flows_reselected)).collect::<Vec<_>>(), [(65_537, 0); 2]);
    let mut change = Change::between(&model(BASE), &with(gone, ""), true);
    change.impact = impact_of(with(gone, ""));
    let table = change.to_string();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[2], ["VIP", "slots", "moved", "flows", "other", "member", "dropped", "ended"]);
    assert_eq!((rows[3][0], &rows[3][4..]), ("web", &["11", "6", "0", "0"][..]), "{table}");
}

/// What was prepared is used while it holds, and nothing of it when it does not.
#[test]
fn what_was_prepared_is_taken_over_where_it_holds() {
    let (old, interfaces) = (model(BASE), ["eth0".to_owned()]);
    let mut identities = Identities::default();
    let ids = identities.assign(&old).expect("room");
    identities.adopt(&old, &ids, 1);
    let mut before = Plan::with(old, ids, None);
    before.compile(&network(), &interfaces, 1);
    let new = with("\"198.51.100.1\"", "\"198.51.100.1\"\nweight = 7");
    let ids = identities.assign(&new).expect("room");
    let mut prepared = Plan::with(new.clone(), ids.clone(), Some(&before));
    let slots_of = |plan: &mut Plan| plan.compile(&network(), &interfaces, 2).tables.vips[0].slots.clone();
    let laid = slots_of(&mut prepared);
    let taken = slots_of(&mut Plan::with_prepared(new.clone(), ids.clone(), Some(&before), Some(&prepared)));
    assert!(Arc::ptr_eq(&laid, &taken), "it is the same memory");
    assert_eq!(laid, slots_of(&mut Plan::with(new, ids, None)), "and what would be made anew");
    // Something else was proposed meanwhile.
    let other = with("\"198.51.100.1\"", "\"198.51.100.1\"\nweight = 3");
    let ids = identities.assign(&other).expect("room");
    let found = slots_of(&mut Plan::with_prepared(other.clone(), ids.clone(), Some(&before), Some(&prepared)));
    assert_eq!(found, slots_of(&mut Plan::with(other, ids, None)));
    assert_ne!(found, laid);
}
