//! The validated configuration: whoever holds a [`Model`] need not check again what is said here.
//!
//! `file` has judged each value by itself; this is where they are judged together, and the file is consumed.

use std::collections::HashMap;
use std::fs::File as OsFile;
use std::hash::Hash;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, File};
use super::reader::{Field, Wrong, nearest, quoted};
use super::report::{Errors, Place, Scope};
use super::value::{Name, Port};
use crate::dataplane::flow::MEMBERS;
use crate::dataplane::tables::InterfaceSet;

pub use super::report::ConfigError;
pub use super::value::{StatusRange, TunnelSource, VipPort, spelt};
pub use super::word::{
    Announce, Combine, Forward, MonitorType, OnMemberDown, Protocol, Scheduler, Start, XdpMode, ZeroCopy,
};
pub use monitor::Monitor;
pub use policy::{Damping, Policy};
pub use title::{Title, titles};

/// A configuration that holds together.
///
/// At least one VIP, at least one interface, every VIP's pool exists, every pool has a member; names, services
/// (address, protocol, port) and a pool's members are unique; no member and no tunnel's source has a VIP's address, and
/// no tunnel's source a member's. Only UDP VIPs have `one_packet`, and those no `connection_limit`; a member's lower
/// threshold is not above its upper one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// `[node]`
    pub node: Node,
    /// `[api]`
    pub api: Api,
    /// `[dataplane]`
    pub dataplane: Dataplane,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[[interface]]`, in the file's order.
    pub interfaces: Vec<Interface>,
    /// `[[vip]]`, in the file's order.
    pub vips: Vec<Vip>,
    /// `[[pool]]`, in the file's order.
    pub pools: Vec<Pool>,
}

/// This balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is called; the host's name where `None`.
    pub name: Option<String>,
    /// Where it keeps its state; an absolute path, perhaps not there yet.
    pub state_dir: PathBuf,
    /// Any text, the same on all nodes that share VIPs.
    pub hash_seed: String,
}

/// How people and programs talk to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The Unix socket; an absolute path of at most 107 bytes.
    pub socket: PathBuf,
    /// The group that may use it; the process's own where `None`.
    pub group: Option<String>,
    /// Where it can be read without changing anything, and metrics are; nowhere where `None`.
    pub listen: Option<SocketAddr>,
}

/// Where the API's socket is by default, and where clients look for it.
pub const DEFAULT_SOCKET: &str = "/run/pointsman/api.sock";

/// How packets are moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Worker *i* is pinned to the *i*-th of these, which are distinct and not none; spread over the allowed cores
    /// where `None`.
    pub cores: Option<Vec<usize>>,
    /// How the steering program is attached.
    pub xdp_mode: XdpMode,
    /// Whether the NIC writes to our memory itself.
    pub zero_copy: ZeroCopy,
    /// Workers never sleep and poll the driver themselves (`SO_PREFER_BUSY_POLL`).
    pub busy_poll: bool,
    /// Where tunnels come from; the address that the kernel would send from where `None`.
    pub tunnel_source: Option<TunnelSource>,
    /// How many flows over IPv4 the connection table fits.
    pub flows_v4: usize,
    /// How many clients over IPv4 persistence remembers, where a VIP asks for it.
    pub persistence_v4: usize,
}

/// How long flows live after their last packet; each 1 s to 13 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, when its client has answered the member's SYN-ACK.
    pub tcp_established: Duration,
    /// TCP, before that.
    pub tcp_syn: Duration,
    /// TCP, after a FIN or RST of its client's.
    pub tcp_closing: Duration,
    /// UDP.
    pub udp: Duration,
}

/// An interface that VIP traffic comes in by and leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// A name that the kernel could give; whether it has is not known here.
    pub name: String,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Unique among VIPs.
    pub name: String,
    /// Unicast.
    pub address: Ipv4Addr,
    /// Its layer-4 protocol.
    pub protocol: Protocol,
    /// Its port, or any.
    pub port: VipPort,
    /// Index into [`Model::pools`].
    pub pool: usize,
    /// How the network learns of it.
    pub announce: Announce,
    /// Whether a client's connections stay together, and how.
    pub persistence: Option<Persistence>,
    /// How many flows it may have at a time; any number where `None`.
    pub connection_limit: Option<u32>,
    /// UDP: every datagram finds its member anew.
    pub one_packet: bool,
    /// How long its flows live: `[timeouts]`, less what it has of its own.
    pub timeouts: Timeouts,
    /// Whether it is served.
    pub enabled: bool,
}

/// Source-address affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a client is remembered after its last flow; 5 s to 13 days.
    pub timeout: Duration,
    /// How many leading bits of their addresses clients share that count as one; 1 to 32.
    pub netmask: u8,
}

/// Members that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique among pools.
    pub name: String,
    /// How frames get to its members.
    pub forward: Forward,
    /// How a new flow's member is chosen.
    pub scheduler: Scheduler,
    /// What becomes of flows whose member cannot be reached any more.
    pub on_member_down: OnMemberDown,
    /// How its members are judged, and what it does when few are up.
    pub policy: Policy,
    /// In the file's order; never empty.
    pub members: Vec<Member>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Unique in its pool.
    pub name: String,
    /// Unicast, and no VIP's.
    pub address: Ipv4Addr,
    /// The VIP's port where `None`; under `dr` and `ipip`, if set, the port of every VIP that uses the pool.
    pub port: Option<u16>,
    /// Its share is weight ÷ the sum of weights; 0 gets nothing new.
    pub weight: u16,
    /// Told to by an operator, never by a file: it gets nothing new, whatever its weight, and has that again afterwards.
    pub drain: bool,
    /// How many flows it may have, and when it gets new ones again.
    pub thresholds: Option<Thresholds>,
    /// Whether it waits until too few of the others are up.
    pub backup: bool,
    /// Whether it may get new flows.
    pub enabled: bool,
}

impl Member {
    /// Its weight, or 0 while it drains.
    pub fn weight_now(&self) -> u16 {
        if self.drain { 0 } else { self.weight }
    }
}

/// When a member is overloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// With so many flows it is.
    pub upper: u32,
    /// With fewer than these it is no longer; with fewer than three quarters of `upper` where `None`.
    pub lower: Option<u32>,
}

impl Model {
    /// Reads and validates the file at `path`.
    pub fn load(path: &Path) -> Result<Model, Vec<ConfigError>> {
        Model::read(path).map(|(model, _)| model)
    }

    /// The same, and the text that it was read from.
    pub fn read(path: &Path) -> Result<(Model, String), Vec<ConfigError>> {
        let file_name = path.display().to_string();
        let bytes = read_bounded(path).map_err(|why| vec![ConfigError::unreadable(&file_name, why)])?;
        match String::from_utf8(bytes) {
            Ok(text) => Model::parse(&file_name, &text).map(|model| (model, text)),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                Err(not_utf8(&file_name, error.as_bytes(), valid))
            }
        }
    }

    /// Validates `text`; `file_name` is how errors call it.
    pub fn parse(file_name: &str, text: &str) -> Result<Model, Vec<ConfigError>> {
        // A byte order mark is no part of the first line.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let errors = Errors::new(text);
        let file = file::read(text, &errors);
        let pools = PoolIndex::new(&file.pools);
        check(&file, &pools, &errors);
        match model(file, &pools) {
            Some(model) if errors.is_empty() => Ok(model),
            _ => Err(errors.into_errors(file_name)),
        }
    }
}

/// A million members take about 100 MB; whoever points at `/dev/zero` gets an answer, too.
const MOST_BYTES: u64 = 256 << 20;

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = OsFile::open(path).map_err(|error| format!("cannot be read: {error}{}", owner_hint(&error)))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("cannot be read: more than {} MiB", MOST_BYTES >> 20));
    }
    Ok(bytes)
}

/// A service's user is another one than who wrote the file.
fn owner_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (whoever runs pointsman must be able to read it; for the service: chown root:pointsman FILE, chmod 640 FILE)"
        }
        _ => "",
    }
}

fn not_utf8(file_name: &str, bytes: &[u8], bad: usize) -> Vec<ConfigError> {
    // The replacement keeps the bad byte's line from ending before it.
    let readable = String::from_utf8_lossy(&bytes[..bad]) + "\u{fffd}";
    let errors = Errors::new(&readable);
    errors.report_syntax(bad, format!("the byte 0x{:02x} is no UTF-8 (allowed: UTF-8 text)", bytes[bad]));
    errors.into_errors(file_name)
}

/// The pools by name.
struct PoolIndex {
    by_name: HashMap<String, usize>,
}

impl PoolIndex {
    fn new(pools: &[file::Pool]) -> PoolIndex {
        let mut by_name = HashMap::new();
        for (index, pool) in pools.iter().enumerate() {
            if let Some(name) = &pool.name {
                // The first of two is meant; the second is reported elsewhere.
                by_name.entry(name.value.0.clone()).or_insert(index);
            }
        }
        PoolIndex { by_name }
    }

    fn of(&self, vip: &file::Vip) -> Option<usize> {
        self.by_name.get(&vip.pool.as_ref()?.value.0).copied()
    }
}

/// As many as a [`crate::dataplane::tables::VipId`] can tell apart.
const MOST_VIPS: usize = 65_535;

/// As many as the largest Maglev table gives a hundred slots each.
const MOST_MEMBERS: usize = 65_535;

/// Everything that can only be judged by looking at two places.
fn check(file: &File, pools: &PoolIndex, errors: &Errors<'_>) {
    check_cores(&file.dataplane, errors);
    check_interfaces(&file.interfaces, errors);
    check_vips(&file.vips, errors);
    file.vips.iter().for_each(|vip| limits::check_vip(vip, errors));
    file.pools.iter().flat_map(|pool| &pool.members).for_each(|member| limits::check_member(member, errors));
    check_pool_references(file, pools, errors);
    unique(errors, names(file.pools.iter().map(|pool| &pool.name)), |name| format!("{name} is already a pool's name"));

    let vip_addresses: HashMap<Ipv4Addr, &file::Vip> =
        file.vips.iter().rev().filter_map(|vip| Some((vip.address.as_ref()?.value, vip))).collect();
    check_tunnel_source(file, errors);
    check_member_count(file.pools.iter().flat_map(|pool| &pool.members).map(|member| &member.place), errors);
    for (pool, users) in file.pools.iter().zip(&policy::users(file, pools)) {
        check_members(pool, users, errors);
        policy::check_pool(pool, users, pools, &file.pools, errors);
        check_member_addresses(pool, &vip_addresses, errors);
    }
}

/// A flow names its member by so many bits.
fn check_member_count<'p>(members: impl Iterator<Item = &'p Place> + Clone, errors: &Errors<'_>) {
    if let Some(place) = members.clone().nth(MEMBERS as usize) {
        let found = members.count();
        errors.report(place, format!("{found} members in all pools are too many (allowed: {MEMBERS})"));
    }
}

fn check_cores(dataplane: &file::Dataplane, errors: &Errors<'_>) {
    let cores = dataplane.cores.iter().flatten().map(|core| (core.value.0, &core.place));
    unique(errors, cores, |core| format!("core {core} is already listed"));
}

fn check_interfaces(interfaces: &[file::Interface], errors: &Errors<'_>) {
    let listed = interfaces.iter().filter_map(|interface| {
        let name = interface.name.as_ref()?;
        Some((quoted(&name.value.0), &name.place))
    });
    unique(errors, listed, |name| format!("{name} is already listed"));
    if let Some(interface) = interfaces.get(InterfaceSet::MOST) {
        let found = interfaces.len();
        errors.report(&interface.place, format!("{found} interfaces are too many (allowed: {})", InterfaceSet::MOST));
    }
}

/// A VIP is many hosts; what the network says about a tunnel must come back to this one. A member is another host, and
/// what came from it would be dropped as if it had left the tunnel and come back.
fn check_tunnel_source(file: &File, errors: &Errors<'_>) {
    let Some(source) = &file.dataplane.tunnel_source else { return };
    let inside = |address: &Option<Field<Ipv4Addr>>| {
        address
            .as_ref()
            .filter(|address| source.value.contains(address.value))
            .map(|address| errors.line(&address.place))
    };
    let vip = file.vips.iter().find_map(|vip| Some((vip_title(vip), inside(&vip.address)?)));
    let members = file.pools.iter().flat_map(|pool| &pool.members);
    let member = members.into_iter().find_map(|member| Some((member_title(member), inside(&member.address)?)));
    for (title, line) in [vip, member].into_iter().flatten() {
        errors.report(
            &source.place,
            format!("holds the address of {title} (also at line {line}; allowed: addresses of this node's own)"),
        );
    }
}

fn check_vips(vips: &[file::Vip], errors: &Errors<'_>) {
    if let Some(vip) = vips.get(MOST_VIPS) {
        errors.report(&vip.place, format!("{} VIPs are too many (allowed: {MOST_VIPS})", vips.len()));
    }
    unique(errors, names(vips.iter().map(|vip| &vip.name)), |name| format!("{name} is already a VIP's name"));
    let services = vips.iter().filter_map(|vip| {
        let address = vip.address.as_ref()?;
        Some(((address.value, vip.protocol.as_ref()?.value, vip.port.as_ref()?.value), &address.place))
    });
    unique(errors, services, |(address, protocol, port)| {
        format!("{address} {protocol} port {port} is already another VIP's")
    });
}

fn check_pool_references(file: &File, pools: &PoolIndex, errors: &Errors<'_>) {
    /// More would bury the message; the nearest is named anyway.
    const MOST_LISTED: usize = 10;
    // A pool whose name cannot be read may be the one.
    let all_named = file.pools.iter().all(|pool| pool.name.is_some());
    let scope = if all_named { Scope::Tables } else { Scope::Text };
    let existing = || file.pools.iter().filter_map(|pool| pool.name.as_ref()).map(|name| name.value.0.as_str());
    for vip in &file.vips {
        let Some(wanted) = vip.pool.as_ref().filter(|_| pools.of(vip).is_none()) else { continue };
        let mut listed: Vec<String> = existing().take(MOST_LISTED).map(quoted).collect();
        match existing().count().saturating_sub(MOST_LISTED) {
            0 if listed.is_empty() => listed.push("the name of a [[pool]]".to_owned()),
            0 => {}
            more => listed.push(format!("and {more} more")),
        }
        let wrong = Wrong {
            what: format!("{} is no pool", quoted(&wanted.value.0)),
            meant: nearest(&wanted.value.0, existing()).map(quoted),
        };
        errors.report_missing(&wanted.place, scope, wrong.message(&listed.join(", ")));
    }
}

fn check_members(pool: &file::Pool, users: &[&file::Vip], errors: &Errors<'_>) {
    if let Some(member) = pool.members.get(MOST_MEMBERS) {
        let found = pool.members.len();
        errors.report(&member.place, format!("{found} members are too many for a pool (allowed: {MOST_MEMBERS})"));
    }
    unique(errors, names(pool.members.iter().map(|member| &member.name)), |name| {
        format!("{name} is already a member's name in this pool")
    });
    let ports: Vec<&Field<VipPort>> = users.iter().filter_map(|vip| vip.port.as_ref()).collect();
    let common = match ports.split_first() {
        Some((first, rest)) if rest.iter().all(|port| port.value == first.value) => match first.value {
            VipPort::Exact(port) => Some(port),
            VipPort::Any => None,
        },
        _ => None,
    };
    let members = pool.members.iter().filter_map(|member| {
        let address = member.address.as_ref()?;
        let port = member.port.as_ref().map(|port| port.value.0).or(common);
        Some(((address.value, port), &address.place))
    });
    unique(errors, members, |(address, port)| match port {
        Some(port) => format!("{address} port {port} is already a member of this pool"),
        None => format!("{address} is already a member of this pool"),
    });
    // Neither touches the packet: the member must listen on the VIP's port.
    if let Some(forward @ (Forward::Dr | Forward::Ipip)) = pool.forward {
        for port in pool.members.iter().filter_map(|member| member.port.as_ref()) {
            check_kept_port(port, forward, users, common, errors);
        }
    }
}

fn check_kept_port(
    port: &Field<Port>,
    forward: Forward,
    users: &[&file::Vip],
    common: Option<u16>,
    errors: &Errors<'_>,
) {
    let differing = users.iter().find_map(|vip| {
        let vip_port = vip.port.as_ref()?;
        (vip_port.value != VipPort::Exact(port.value.0)).then_some((vip, vip_port))
    });
    let Some((vip, vip_port)) = differing else { return };
    let takes = match vip_port.value {
        VipPort::Exact(port) => format!("port {port}"),
        VipPort::Any => "any port".to_owned(),
    };
    let allowed = common.map_or_else(|| "no port".to_owned(), |port| format!("{port}, or no port"));
    errors.report(
        &port.place,
        format!(
            "{} differs from {}, which takes {takes} (also at line {}; allowed under \"{forward}\": {allowed})",
            port.value.0,
            vip_title(vip),
            errors.line(&vip_port.place),
        ),
    );
}

fn check_member_addresses(pool: &file::Pool, vips: &HashMap<Ipv4Addr, &file::Vip>, errors: &Errors<'_>) {
    for address in pool.members.iter().filter_map(|member| member.address.as_ref()) {
        let Some(vip) = vips.get(&address.value) else { continue };
        let line = errors.line(vip.address.as_ref().map_or(&vip.place, |address| &address.place));
        errors.report(
            &address.place,
            format!(
                "{} is the address of {} (also at line {line}; allowed: the member's own address)",
                address.value,
                vip_title(vip),
            ),
        );
    }
}

fn vip_title(vip: &file::Vip) -> String {
    vip.name.as_ref().map_or_else(|| vip.place.key(), |name| format!("VIP {}", quoted(&name.value.0)))
}

fn member_title(member: &file::Member) -> String {
    member.name.as_ref().map_or_else(|| member.place.key(), |name| format!("member {}", quoted(&name.value.0)))
}

/// The names that could be read, quoted.
fn names<'f>(fields: impl Iterator<Item = &'f Option<Field<Name>>>) -> impl Iterator<Item = (String, &'f Place)> {
    fields.flatten().map(|name| (quoted(&name.value.0), &name.place))
}

/// Reports everything that stands there for a second time, with the line of the first.
fn unique<'f, T: Eq + Hash>(
    errors: &Errors<'_>,
    entries: impl Iterator<Item = (T, &'f Place)>,
    what: impl Fn(&T) -> String,
) {
    let mut first: HashMap<T, &Place> = HashMap::new();
    for (entry, place) in entries {
        if let Some(before) = first.get(&entry) {
            errors.report(place, format!("{} (also at line {})", what(&entry), errors.line(before)));
        } else {
            first.insert(entry, place);
        }
    }
}

/// `None` only if an error has been reported.
fn model(file: File, pools: &PoolIndex) -> Option<Model> {
    let service_ports: Vec<_> = policy::users(&file, pools).iter().map(|users| policy::service_port(users)).collect();
    let timeouts = Timeouts {
        tcp_established: file.timeouts.tcp_established?.0,
        tcp_syn: file.timeouts.tcp_syn?.0,
        tcp_closing: file.timeouts.tcp_closing?.0,
        udp: file.timeouts.udp?.0,
    };
    Some(Model {
        node: Node {
            name: file.node.name.map(|name| name.value.0),
            state_dir: file.node.state_dir?,
            hash_seed: file.node.hash_seed?,
        },
        api: Api {
            socket: file.api.socket?.0,
            group: file.api.group.map(|group| group.value.0),
            listen: file.api.listen.map(|listen| listen.value.0),
        },
        dataplane: Dataplane {
            cores: file.dataplane.cores.map(|cores| cores.into_iter().map(|core| core.value.0).collect()),
            xdp_mode: file.dataplane.xdp_mode?,
            zero_copy: file.dataplane.zero_copy?,
            busy_poll: file.dataplane.busy_poll?,
            tunnel_source: file.dataplane.tunnel_source.map(|source| source.value),
            flows_v4: file.dataplane.flows_v4?.0,
            persistence_v4: file.dataplane.persistence_v4?.0,
        },
        timeouts,
        interfaces: file
            .interfaces
            .into_iter()
            .map(|interface| Some(Interface { name: interface.name?.value.0 }))
            .collect::<Option<_>>()?,
        vips: file.vips.into_iter().map(|vip| vip_of(vip, pools, &timeouts)).collect::<Option<_>>()?,
        pools: file
            .pools
            .into_iter()
            .zip(service_ports)
            .map(|(pool, service_port)| pool_of(pool, pools, service_port))
            .collect::<Option<_>>()?,
    })
}

fn vip_of(vip: file::Vip, pools: &PoolIndex, timeouts: &Timeouts) -> Option<Vip> {
    Some(Vip {
        pool: pools.of(&vip)?,
        name: vip.name?.value.0,
        address: vip.address?.value,
        protocol: vip.protocol?.value,
        port: vip.port?.value,
        announce: vip.announce?,
        persistence: match vip.persistence {
            Some(persistence) => Some(Persistence { timeout: persistence.timeout?.0, netmask: persistence.netmask?.0 }),
            None => None,
        },
        connection_limit: vip.connection_limit.map(|limit| limit.value.0),
        one_packet: vip.one_packet.is_some_and(|one_packet| one_packet.value),
        timeouts: limits::timeouts_of(vip.timeouts.as_ref(), timeouts),
        enabled: vip.enabled?,
    })
}

fn pool_of(pool: file::Pool, pools: &PoolIndex, service_port: Option<u16>) -> Option<Pool> {
    Some(Pool {
        name: pool.name?.value.0,
        forward: pool.forward?,
        scheduler: pool.scheduler?,
        on_member_down: pool.on_member_down?,
        policy: policy::policy_of(pool.policy, pools, service_port)?,
        members: pool.members.into_iter().map(member_of).collect::<Option<_>>()?,
    })
}

fn member_of(member: file::Member) -> Option<Member> {
    Some(Member {
        name: member.name?.value.0,
        address: member.address?.value,
        port: member.port.map(|port| port.value.0),
        weight: member.weight?.0,
        drain: false,
        thresholds: member
            .upper_threshold
            .map(|upper| Thresholds { upper: upper.value.0, lower: member.lower_threshold.map(|lower| lower.value.0) }),
        backup: member.backup.is_some_and(|backup| backup.value),
        enabled: member.enabled?,
    })
}

mod limits;
pub mod monitor;
mod policy;
#[cfg(test)]
mod tests;
mod title;
