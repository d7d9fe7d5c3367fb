//! The TOML file as it is written: every table, every key, its type and its default.
//!
//! What arrives here is right one value at a time; whether the values fit together is `model`'s to say. A field is
//! `None` when its key was left out, or was wrong and has been reported. (This mirror is read by hand rather than by
//! serde, which gives up at the first error.)

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::model::DEFAULT_SOCKET;
use super::reader::{Field, Table, read_text};
use super::report::{Errors, Place};
use super::value::{
    Connections, Core, Flows, InterfaceName, ListenAddress, Name, PersistenceTimeout, Port, PrefixLength, SocketPath,
    Timeout, TunnelSource, VipPort, Weight,
};
use super::word::{Announce, Forward, OnMemberDown, Protocol, Scheduler, XdpMode, ZeroCopy};

/// Reads all of `text`; what is wrong with it is in `errors`.
pub(super) fn read(text: &str, errors: &Errors<'_>) -> File {
    read_text(text, errors, File::read)
}

/// The root table.
pub(super) struct File {
    pub(super) node: Node,
    pub(super) api: Api,
    pub(super) dataplane: Dataplane,
    pub(super) timeouts: Timeouts,
    pub(super) interfaces: Vec<Interface>,
    pub(super) vips: Vec<Vip>,
    pub(super) pools: Vec<Pool>,
}

impl File {
    fn read(table: &mut Table<'_, '_>) -> File {
        for (name, message) in [
            ("interface", "is missing (allowed: at least one [[interface]])"),
            ("vip", "is missing (allowed: at least one [[vip]])"),
        ] {
            if table.has_no(name) {
                table.report_missing_table(&table.place().inside(name, 0), message);
            }
        }
        table.misplaced(&[
            ("member", "[[pool.member]], below its [[pool]]"),
            ("members", "[[pool.member]], below its [[pool]]"),
            ("monitor", "[[pool.monitor]], below its [[pool]]"),
        ]);
        File {
            node: table.table("node", Node::read),
            api: table.table("api", Api::read),
            dataplane: table.table("dataplane", Dataplane::read),
            timeouts: table.table("timeouts", Timeouts::read),
            interfaces: table.tables("interface", Interface::read),
            vips: table.tables("vip", Vip::read),
            pools: table.tables("pool", Pool::read),
        }
    }
}

/// `[node]`
pub(super) struct Node {
    pub(super) name: Option<Field<Name>>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) hash_seed: Option<String>,
}

impl Node {
    fn read(table: &mut Table<'_, '_>) -> Node {
        Node {
            name: table.optional("name"),
            state_dir: table.with_default("state_dir", PathBuf::from("/var/lib/pointsman")),
            hash_seed: table.with_default("hash_seed", String::new()),
        }
    }
}

/// `[api]`
pub(super) struct Api {
    pub(super) socket: Option<SocketPath>,
    pub(super) group: Option<Field<Name>>,
    pub(super) listen: Option<Field<ListenAddress>>,
}

impl Api {
    fn read(table: &mut Table<'_, '_>) -> Api {
        Api {
            socket: table.with_default("socket", SocketPath(PathBuf::from(DEFAULT_SOCKET))),
            group: table.optional("group"),
            listen: table.optional("listen"),
        }
    }
}

/// `[dataplane]`
pub(super) struct Dataplane {
    pub(super) cores: Option<Vec<Field<Core>>>,
    pub(super) xdp_mode: Option<XdpMode>,
    pub(super) zero_copy: Option<ZeroCopy>,
    pub(super) busy_poll: Option<bool>,
    pub(super) tunnel_source: Option<Field<TunnelSource>>,
    pub(super) flows_v4: Option<Flows>,
    pub(super) persistence_v4: Option<Flows>,
}

impl Dataplane {
    fn read(table: &mut Table<'_, '_>) -> Dataplane {
        table.not_built(&["flows_v6"]);
        Dataplane {
            cores: table.list("cores"),
            xdp_mode: table.with_default("xdp_mode", XdpMode::Auto),
            zero_copy: table.with_default("zero_copy", ZeroCopy::Auto),
            busy_poll: table.with_default("busy_poll", false),
            tunnel_source: table.optional("tunnel_source"),
            flows_v4: table.with_default("flows_v4", Flows(1 << 20)),
            persistence_v4: table.with_default("persistence_v4", Flows(1 << 18)),
        }
    }
}

/// `[timeouts]`
pub(super) struct Timeouts {
    pub(super) tcp_established: Option<Timeout>,
    pub(super) tcp_syn: Option<Timeout>,
    pub(super) tcp_closing: Option<Timeout>,
    pub(super) udp: Option<Timeout>,
}

impl Timeouts {
    fn read(table: &mut Table<'_, '_>) -> Timeouts {
        let seconds = |seconds| Timeout(Duration::from_secs(seconds));
        Timeouts {
            tcp_established: table.with_default("tcp_established", seconds(15 * 60)),
            tcp_syn: table.with_default("tcp_syn", seconds(30)),
            tcp_closing: table.with_default("tcp_closing", seconds(10)),
            udp: table.with_default("udp", seconds(2 * 60)),
        }
    }
}

/// `[[interface]]`
pub(super) struct Interface {
    pub(super) place: Place,
    pub(super) name: Option<Field<InterfaceName>>,
}

impl Interface {
    fn read(table: &mut Table<'_, '_>) -> Interface {
        Interface { place: table.place().clone(), name: table.required("name") }
    }
}

/// `[[vip]]`
pub(super) struct Vip {
    pub(super) place: Place,
    pub(super) name: Option<Field<Name>>,
    pub(super) address: Option<Field<Ipv4Addr>>,
    pub(super) protocol: Option<Field<Protocol>>,
    pub(super) port: Option<Field<VipPort>>,
    pub(super) pool: Option<Field<Name>>,
    pub(super) announce: Option<Announce>,
    pub(super) persistence: Option<Persistence>,
    pub(super) connection_limit: Option<Field<Connections>>,
    pub(super) one_packet: Option<Field<bool>>,
    pub(super) timeouts: Option<VipTimeouts>,
    pub(super) enabled: Option<bool>,
}

impl Vip {
    fn read(table: &mut Table<'_, '_>) -> Vip {
        Vip {
            place: table.place().clone(),
            name: table.required("name"),
            address: table.required("address"),
            protocol: table.required("protocol"),
            port: table.required("port"),
            pool: table.required("pool"),
            announce: table.with_default("announce", Announce::None),
            persistence: table.inline("persistence", "{ timeout = \"5m\", netmask = 32 }", Persistence::read),
            connection_limit: table.optional("connection_limit"),
            one_packet: table.optional("one_packet"),
            timeouts: table.inline("timeouts", "{ tcp_established = \"15m\" }", VipTimeouts::read),
            enabled: table.with_default("enabled", true),
        }
    }
}

/// A VIP's `persistence`
pub(super) struct Persistence {
    pub(super) timeout: Option<PersistenceTimeout>,
    pub(super) netmask: Option<PrefixLength>,
}

impl Persistence {
    fn read(table: &mut Table<'_, '_>) -> Persistence {
        Persistence {
            timeout: table.with_default("timeout", PersistenceTimeout(Duration::from_mins(5))),
            netmask: table.with_default("netmask", PrefixLength(32)),
        }
    }
}

/// A VIP's `timeouts`
pub(super) struct VipTimeouts {
    pub(super) tcp_established: Option<Field<Timeout>>,
    pub(super) tcp_syn: Option<Field<Timeout>>,
    pub(super) tcp_closing: Option<Field<Timeout>>,
    pub(super) udp: Option<Field<Timeout>>,
}

impl VipTimeouts {
    fn read(table: &mut Table<'_, '_>) -> VipTimeouts {
        VipTimeouts {
            tcp_established: table.optional("tcp_established"),
            tcp_syn: table.optional("tcp_syn"),
            tcp_closing: table.optional("tcp_closing"),
            udp: table.optional("udp"),
        }
    }
}

/// `[[pool]]`
pub(super) struct Pool {
    pub(super) name: Option<Field<Name>>,
    pub(super) forward: Option<Forward>,
    pub(super) scheduler: Option<Scheduler>,
    pub(super) on_member_down: Option<OnMemberDown>,
    pub(super) policy: Policy,
    pub(super) members: Vec<Member>,
}

impl Pool {
    fn read(table: &mut Table<'_, '_>) -> Pool {
        if table.has_no("member") {
            table.report_missing_table(table.place(), "has no members (allowed: at least one [[pool.member]])");
        }
        Pool {
            name: table.required("name"),
            forward: table.with_default("forward", Forward::Dr),
            scheduler: table.with_default("scheduler", Scheduler::Maglev),
            on_member_down: table.with_default("on_member_down", OnMemberDown::Reselect),
            policy: Policy::read(table),
            members: table.tables("member", Member::read),
        }
    }
}

/// `[[pool.member]]`
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) name: Option<Field<Name>>,
    pub(super) address: Option<Field<Ipv4Addr>>,
    pub(super) port: Option<Field<Port>>,
    /// Whether there is a port, right or wrong.
    pub(super) has_port: bool,
    pub(super) weight: Option<Weight>,
    pub(super) upper_threshold: Option<Field<Connections>>,
    pub(super) lower_threshold: Option<Field<Connections>>,
    /// Whether there is an upper threshold, right or wrong.
    pub(super) has_upper_threshold: bool,
    pub(super) backup: Option<Field<bool>>,
    pub(super) enabled: Option<bool>,
}

impl Member {
    fn read(table: &mut Table<'_, '_>) -> Member {
        Member {
            has_upper_threshold: !table.has_no("upper_threshold"),
            has_port: table.has("port"),
            place: table.place().clone(),
            name: table.required("name"),
            address: table.required("address"),
            port: table.optional("port"),
            weight: table.with_default("weight", Weight(1)),
            upper_threshold: table.optional("upper_threshold"),
            lower_threshold: table.optional("lower_threshold"),
            backup: table.optional("backup"),
            enabled: table.with_default("enabled", true),
        }
    }
}

mod monitor;
pub(super) use monitor::{Monitor, Policy};
