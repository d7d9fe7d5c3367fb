//! What is accepted, and what is understood by it.

use super::*;

#[test]
fn the_good_one_takes_every_default() {
    let model = Model::parse("web.toml", &good()).expect("a good configuration");
    let member = |name: &str, last| Member {
        name: name.to_owned(),
        address: Ipv4Addr::new(203, 0, 113, last),
        port: None,
        weight: 1,
        drain: false,
        thresholds: None,
        backup: false,
        enabled: true,
    };
    let timeouts = Timeouts {
        tcp_established: Duration::from_mins(15),
        tcp_syn: Duration::from_secs(30),
        tcp_closing: Duration::from_secs(10),
        udp: Duration::from_mins(2),
    };
    let expected = Model {
        node: Node { name: None, state_dir: PathBuf::from("/var/lib/pointsman"), hash_seed: String::new() },
        api: Api { socket: PathBuf::from(DEFAULT_SOCKET), group: None, listen: None },
        dataplane: Dataplane {
            cores: None,
            xdp_mode: XdpMode::Auto,
            zero_copy: ZeroCopy::Auto,
            busy_poll: false,
            tunnel_source: None,
            flows_v4: 1 << 20,
            persistence_v4: 1 << 18,
        },
        timeouts,
        interfaces: vec![Interface { name: "eth0".to_owned() }],
        vips: vec![Vip {
            name: "web".to_owned(),
            address: Ipv4Addr::new(203, 0, 113, 2),
            protocol: Protocol::Tcp,
            port: VipPort::Exact(80),
            pool: 0,
            announce: Announce::None,
            persistence: None,
            connection_limit: None,
            one_packet: false,
            timeouts,
            enabled: true,
        }],
        pools: vec![Pool {
            name: "web".to_owned(),
            forward: Forward::Dr,
            scheduler: Scheduler::Maglev,
            on_member_down: OnMemberDown::Reselect,
            policy: Policy {
                monitors: Vec::new(),
                combine: Combine::All,
                start: Start::Up,
                damping: None,
                quorum: 1,
                quorum_hysteresis: 0,
                sorry_pool: None,
                slow_start: None,
                service_port: Some(80),
            },
            members: vec![member("web1", 4), member("web2", 5)],
        }],
    };
    assert_eq!(model, expected);
}

#[test]
fn the_sample_says_everything_and_is_understood() {
    let text = include_str!("../../../../tests/fixtures/config/sample.toml");
    let model = Model::parse("sample.toml", text).expect("the sample");
    assert_eq!(model.node.name.as_deref(), Some("lb1"));
    assert_eq!(model.node.hash_seed, "any text");
    assert_eq!(model.dataplane.cores, Some(vec![2, 3]));
    let vips: Vec<_> = model.vips.iter().map(|vip| (vip.port, vip.protocol, vip.pool, vip.announce)).collect();
    assert_eq!(
        vips,
        [(VipPort::Exact(80), Protocol::Tcp, 0, Announce::Arp), (VipPort::Any, Protocol::Udp, 1, Announce::None),]
    );
    let weights: Vec<_> =
        model.pools.iter().flat_map(|pool| &pool.members).map(|member| (member.weight, member.enabled)).collect();
    assert_eq!(weights, [(1, true), (3, true), (1, true), (1, false), (1, true), (1, true), (0, true)]);
}

#[test]
fn every_scheduler_and_every_answer_to_a_member_that_is_down() {
    let pool_with = |line: &str| {
        let text = good().replace("[[pool]]\n", &format!("[[pool]]\n{line}\n"));
        let model = Model::parse("web.toml", &text).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
        (model.pools[0].scheduler, model.pools[0].on_member_down)
    };
    for (word, scheduler) in [
        ("maglev", Scheduler::Maglev),
        ("rr", Scheduler::RoundRobin),
        ("wrr", Scheduler::WeightedRoundRobin),
        ("lc", Scheduler::LeastConnections),
        ("wlc", Scheduler::WeightedLeastConnections),
        ("sh", Scheduler::SourceHash),
        ("sed", Scheduler::ShortestExpectedDelay),
        ("nq", Scheduler::NeverQueue),
    ] {
        assert_eq!(pool_with(&format!("scheduler = \"{word}\"")), (scheduler, OnMemberDown::Reselect));
    }
    for (word, answer) in
        [("reselect", OnMemberDown::Reselect), ("keep", OnMemberDown::Keep), ("drop", OnMemberDown::Drop)]
    {
        assert_eq!(pool_with(&format!("on_member_down = \"{word}\"")), (Scheduler::Maglev, answer));
    }
}

/// What looks odd and is allowed.
#[test]
fn accepted() {
    let rows: &[(&str, &str, &str)] = &[
        ("a byte order mark", "[[interface]]", "\u{feff}[[interface]]"),
        (
            "another port on the same address",
            "\n[[pool]]",
            "\n[[vip]]\nname = \"b\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\nport = 443\npool = \"web\"\n\n[[pool]]",
        ),
        (
            "any port beside an exact one",
            "\n[[pool]]",
            "\n[[vip]]\nname = \"b\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\nport = \"any\"\npool = \"web\"\n\n[[pool]]",
        ),
        (
            "the same port by another protocol",
            "\n[[pool]]",
            "\n[[vip]]\nname = \"b\"\naddress = \"203.0.113.2\"\nprotocol = \"udp\"\nport = 80\npool = \"web\"\n\n[[pool]]",
        ),
        (
            "a pool that no VIP uses",
            "\n[[pool]]",
            "\n[[pool]]\nname = \"b\"\nmember = [{ name = \"a\", address = \"203.0.113.4\", port = 1 }]\n\n[[pool]]",
        ),
        ("inline tables", INTERFACE, "interface = [{ name = \"eth0\" }]\n"),
        ("dotted keys", INTERFACE, "node.name = \"lb1\"\ndataplane.busy_poll = true\n[[interface]]\nname = \"eth0\"\n"),
        ("a member's port that is the VIP's", "\"203.0.113.5\"", "\"203.0.113.5\"\nport = 80"),
        ("the greatest weight", "\"203.0.113.5\"", "\"203.0.113.5\"\nweight = 65_535"),
        ("a weight of nothing", "\"203.0.113.5\"", "\"203.0.113.5\"\nweight = 0"),
        ("the greatest port", "port = 80", "port = 0xffff"),
        ("the last core", INTERFACE, "[dataplane]\ncores = [0, 1023]\n[[interface]]\nname = \"eth0\"\n"),
        ("an interface name of 15 bytes", "eth0", "abcdefghijklmno"),
        ("carriage returns", "name = \"eth0\"\n", "name = \"eth0\"\r\n"),
        ("every character of a name", "name = \"web1\"", "name = \"-A.z_09\""),
        ("an address next to the multicast ones", "203.0.113.5", "223.255.255.255"),
        ("the first address of all", "203.0.113.5", "1.0.0.0"),
    ];
    for (what, from, to) in rows {
        assert_eq!(good().matches(from).count(), 1, "{what}: what is replaced stands there once");
        assert_eq!(errors_of(&good().replace(from, to)), [""; 0], "{what}");
    }
}
