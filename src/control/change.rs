//! What another configuration would change: old model × new model → a value. Pure.
//!
//! VIPs are the same if address, protocol and port are, members if their pool and address are
//! ([`identity`](super::identity)), pools if their name is. Everything else about them is a key that may change while
//! they serve. [`Impact`] says what it comes to for flows; [`Change`] prints as a table and as JSON.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::identity::{MemberIdentity, VipIdentity};
use super::model::{Api, Dataplane, Interface, Member, Model, Node, Pool, Timeouts, Vip};

pub use impact::{Impact, impact};

/// Stands for what a log and a table had better not have: seeds, credentials. (That it differs is said.)
const HIDDEN: &str = "(not shown)";

/// The key whose change moves flows although it says nothing of them.
const HASH_SEED: &str = "node.hash_seed";

/// Everything that differs. As JSON its keys are stable.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Change {
    /// `[node]`, `[dataplane]`, `[timeouts]` and the list of interfaces.
    pub settings: Vec<Setting>,
    /// VIPs, in the order of the new configuration, then those that go.
    pub vips: Vec<Item>,
    /// Pools, in the same order.
    pub pools: Vec<Item>,
    /// Members of pools that stay, in the same order. (Those of pools that come or go do so with them.)
    pub members: Vec<Item>,
    /// Monitors of pools that stay, likewise.
    pub monitors: Vec<Item>,
    /// What was edited at run time and rules no longer, because another configuration does: `drain of web/web1`.
    pub edits_ended: Vec<String>,
    /// What it comes to for each VIP that stays or goes; empty unless it was asked for.
    pub impact: Vec<Impact>,
}

/// A setting of the node's that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// What differs.
    #[serde(flatten)]
    pub key: Key,
    /// When it takes effect.
    pub effect: Effect,
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    /// As in the configuration; a setting's with its table: `dataplane.cores`.
    pub key: String,
    /// What it is now; null if there is nothing.
    pub from: Value,
    /// What it would be.
    pub to: Value,
}

/// When a setting takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// At once, without an interruption.
    Live,
    /// At once; all packets wait for a moment while the sockets are opened anew.
    Interrupts,
    /// With the next start only: a configuration that changes it is refused as a whole.
    Restart,
}

/// A VIP, pool or member that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Item {
    /// What becomes of it.
    pub what: What,
    /// Its name in the new configuration, or the old one's if it goes; a member's with its pool's: `web/web1`.
    pub name: String,
    /// What it is beside its name: `203.0.113.2 tcp 80`, a member's address; empty for a pool.
    pub identity: String,
    /// The keys that differ, if it stays.
    pub keys: Vec<Key>,
}

/// What becomes of a VIP, pool or member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is new.
    Added,
    /// It stays, and some of its keys differ.
    Changed,
    /// It goes.
    Removed,
}

impl Change {
    /// What leads from one configuration to another. `is_persistent`: whether memory for persistence has been taken, so
    /// that its size cannot be chosen any more.
    pub fn between(old: &Model, new: &Model, is_persistent: bool) -> Self {
        // Taken apart, here and below, so that a new field is not forgotten here.
        let Model { node, api, dataplane, timeouts, interfaces, vips: _, pools } = old;
        let mut settings = Settings(Vec::new());
        settings.node(node, &new.node);
        settings.api(api, &new.api);
        settings.dataplane(dataplane, &new.dataplane, is_persistent);
        settings.timeouts(timeouts, &new.timeouts);
        let names = |interfaces: &[Interface]| interfaces.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        settings.add("interface", names(interfaces), names(&new.interfaces), Effect::Interrupts);
        let pools = pair(pools, &new.pools, |pool| pool.name.clone());
        Self {
            settings: settings.0,
            vips: vips(old, new),
            members: pools.iter().filter_map(|pair| members(pair.old?, pair.new?)).flatten().collect(),
            monitors: pools
                .iter()
                .filter_map(|pair| Some(monitors::monitors(pair.old?, pair.new?)))
                .flatten()
                .collect(),
            pools: pools
                .into_iter()
                .filter_map(|pair| {
                    pair.item(
                        |pool| pool.name.clone(),
                        |_| String::new(),
                        |before, after| pool((old, before), (new, after)),
                    )
                })
                .collect(),
            edits_ended: Vec::new(),
            impact: Vec::new(),
        }
    }

    /// Whether both configurations are the same, and no edit has ended.
    pub fn is_empty(&self) -> bool {
        let items = [&self.vips, &self.pools, &self.members, &self.monitors];
        self.settings.is_empty() && self.edits_ended.is_empty() && items.into_iter().all(Vec::is_empty)
    }

    /// The settings that only a restart changes.
    pub fn needs_restart(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter().filter(|setting| setting.effect == Effect::Restart)
    }

    /// Whether the hash seed is another, so that hashing gives nearly every flow another member.
    pub fn reseeds(&self) -> bool {
        self.settings.iter().any(Setting::reseeds)
    }
}

impl Setting {
    fn reseeds(&self) -> bool {
        self.key.key == HASH_SEED
    }
}

/// The settings that differ, so far.
struct Settings(Vec<Setting>);

impl Settings {
    fn add<T: PartialEq + Into<Value>>(&mut self, key: &str, from: T, to: T, effect: Effect) {
        let mut keys = Keys(Vec::new());
        keys.add(key, from, to);
        self.0.extend(keys.0.into_iter().map(|key| Setting { key, effect }));
    }

    fn node(&mut self, Node { name, state_dir, hash_seed }: &Node, new: &Node) {
        let path = |path: &std::path::Path| path.display().to_string();
        self.add("node.name", name.clone(), new.name.clone(), Effect::Live);
        self.add("node.state_dir", path(state_dir), path(&new.state_dir), Effect::Restart);
        let mut seed = Keys(Vec::new());
        seed.add_shown(HASH_SEED, *hash_seed != new.hash_seed, HIDDEN.into(), HIDDEN.into());
        self.0.extend(seed.0.into_iter().map(|key| Setting { key, effect: Effect::Live }));
    }

    /// Its sockets are made before privileges are given up.
    fn api(&mut self, Api { socket, group, listen }: &Api, new: &Api) {
        let path = |path: &std::path::Path| path.display().to_string();
        let address = |address: &Option<std::net::SocketAddr>| address.map(|address| address.to_string());
        self.add("api.socket", path(socket), path(&new.socket), Effect::Restart);
        self.add("api.group", group.clone(), new.group.clone(), Effect::Restart);
        self.add("api.listen", address(listen), address(&new.listen), Effect::Restart);
    }

    fn dataplane(&mut self, old: &Dataplane, new: &Dataplane, is_persistent: bool) {
        let Dataplane { cores, xdp_mode, zero_copy, busy_poll, tunnel_source, flows_v4, persistence_v4 } = old;
        let restart = Effect::Restart;
        // Sockets, threads and programs are made with these, and the table once and for all.
        self.add("dataplane.cores", cores.clone(), new.cores.clone(), restart);
        self.add("dataplane.xdp_mode", xdp_mode.to_string(), new.xdp_mode.to_string(), restart);
        self.add("dataplane.zero_copy", zero_copy.to_string(), new.zero_copy.to_string(), restart);
        self.add("dataplane.busy_poll", *busy_poll, new.busy_poll, restart);
        self.add("dataplane.flows_v4", *flows_v4, new.flows_v4, restart);
        let persistence = if is_persistent { restart } else { Effect::Live };
        self.add("dataplane.persistence_v4", *persistence_v4, new.persistence_v4, persistence);
        let source = |source: &Option<_>| source.map(|source: super::model::TunnelSource| source.to_string());
        self.add("dataplane.tunnel_source", source(tunnel_source), source(&new.tunnel_source), Effect::Live);
    }

    fn timeouts(&mut self, old: &Timeouts, new: &Timeouts) {
        let mut keys = Keys(Vec::new());
        keys.timeouts(old, new);
        self.0.extend(keys.0.into_iter().map(|key| Setting { key, effect: Effect::Live }));
    }
}

/// The keys that differ, so far.
struct Keys(Vec<Key>);

impl Keys {
    fn add<T: PartialEq + Into<Value>>(&mut self, key: &str, from: T, to: T) {
        if from != to {
            self.0.push(Key { key: key.to_owned(), from: from.into(), to: to.into() });
        }
    }

    /// What is not shown as it is.
    fn add_shown(&mut self, key: &str, differs: bool, from: Value, to: Value) {
        if differs {
            self.0.push(Key { key: key.to_owned(), from, to });
        }
    }

    fn timeouts(&mut self, old: &Timeouts, new: &Timeouts) {
        let Timeouts { tcp_established, tcp_syn, tcp_closing, udp } = old;
        let rows = [
            ("tcp_established", tcp_established, &new.tcp_established),
            ("tcp_syn", tcp_syn, &new.tcp_syn),
            ("tcp_closing", tcp_closing, &new.tcp_closing),
            ("udp", udp, &new.udp),
        ];
        for (key, from, to) in rows {
            self.add(&format!("timeouts.{key}"), seconds(*from), seconds(*to));
        }
    }
}

/// As a configuration may have it.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// One thing in both configurations, or in one of them.
struct Pair<'m, T> {
    old: Option<&'m T>,
    new: Option<&'m T>,
}

impl<T> Pair<'_, T> {
    /// `keys` are those that differ if it stays; with none it does not differ at all.
    fn item(
        &self,
        name: impl Fn(&T) -> String,
        identity: impl Fn(&T) -> String,
        keys: impl Fn(&T, &T) -> Keys,
    ) -> Option<Item> {
        let (what, which, keys) = match (self.old, self.new) {
            (Some(old), Some(new)) => (What::Changed, new, keys(old, new).0),
            (None, Some(new)) => (What::Added, new, Vec::new()),
            (old, None) => (What::Removed, old?, Vec::new()),
        };
        let differs = what != What::Changed || !keys.is_empty();
        differs.then(|| Item { what, name: name(which), identity: identity(which), keys })
    }
}

/// Pairs what is the same by `identity`: in the new order, then what goes.
fn pair<'m, T, I: Eq + Hash>(old: &'m [T], new: &'m [T], identity: impl Fn(&T) -> I) -> Vec<Pair<'m, T>> {
    pair_by(old.iter().map(|one| (identity(one), one)), new.iter().map(|one| (identity(one), one)))
}

fn pair_by<'m, T, I: Eq + Hash>(
    old: impl Iterator<Item = (I, &'m T)>,
    new: impl Iterator<Item = (I, &'m T)>,
) -> Vec<Pair<'m, T>> {
    let old: Vec<_> = old.collect();
    let known: HashMap<&I, &'m T> = old.iter().map(|(identity, one)| (identity, *one)).collect();
    let mut stay = HashSet::new();
    let mut pairs = Vec::new();
    for (identity, one) in new {
        pairs.push(Pair { old: known.get(&identity).copied(), new: Some(one) });
        stay.insert(identity);
    }
    pairs.extend(old.iter().filter(|(one, _)| !stay.contains(one)).map(|(_, one)| Pair { old: Some(*one), new: None }));
    pairs
}

fn vips(old: &Model, new: &Model) -> Vec<Item> {
    let identity = |vip: &Vip| format!("{} {} {}", vip.address, vip.protocol, vip.port);
    let keys = |before: &Vip, after: &Vip| {
        let Vip {
            name,
            address: _,
            protocol: _,
            port: _,
            pool,
            announce,
            persistence,
            connection_limit,
            one_packet,
            timeouts,
            enabled,
        } = before;
        let mut keys = Keys(Vec::new());
        keys.add("name", name.clone(), after.name.clone());
        keys.add("pool", old.pools[*pool].name.clone(), new.pools[after.pool].name.clone());
        keys.add("announce", announce.to_string(), after.announce.to_string());
        let (was, is) = (persistence, &after.persistence);
        keys.add("persistence.timeout", was.map(|one| seconds(one.timeout)), is.map(|one| seconds(one.timeout)));
        keys.add("persistence.netmask", was.map(|one| one.netmask), is.map(|one| one.netmask));
        keys.add("connection_limit", *connection_limit, after.connection_limit);
        keys.add("one_packet", *one_packet, after.one_packet);
        // Those that are `[timeouts]`'s are said there, once.
        if (timeouts, &after.timeouts) != (&old.timeouts, &new.timeouts) {
            keys.timeouts(timeouts, &after.timeouts);
        }
        keys.add("enabled", *enabled, after.enabled);
        keys
    };
    let pairs = pair(&old.vips, &new.vips, VipIdentity::of);
    pairs.into_iter().filter_map(|pair| pair.item(|vip| vip.name.clone(), identity, keys)).collect()
}

fn pool((old_model, old): (&Model, &Pool), (new_model, new): (&Model, &Pool)) -> Keys {
    let mut keys = Keys(Vec::new());
    // Another pool may have the sorry pool's place now.
    if old == new && old.policy.sorry_pool.is_none() {
        return keys;
    }
    let Pool { name: _, forward, scheduler, on_member_down, policy, members: _ } = old;
    keys.add("forward", forward.to_string(), new.forward.to_string());
    keys.add("scheduler", scheduler.to_string(), new.scheduler.to_string());
    keys.add("on_member_down", on_member_down.to_string(), new.on_member_down.to_string());
    monitors::policy(&mut keys, (old_model, policy), (new_model, &new.policy));
    // Round robin goes by it, and of equal members the first is taken.
    let order = |pool: &Pool, other: &Pool| -> Vec<String> {
        let both: HashSet<MemberIdentity> = MemberIdentity::of_pool(other).into_iter().collect();
        let members = pool.members.iter().zip(MemberIdentity::of_pool(pool));
        members.filter(|(_, one)| both.contains(one)).map(|(member, _)| member.address.to_string()).collect()
    };
    keys.add("order of members", order(old, new), order(new, old));
    keys
}

fn identified(pool: &Pool) -> impl Iterator<Item = (MemberIdentity, &Member)> {
    MemberIdentity::of_pool(pool).into_iter().zip(&pool.members)
}

/// `None`: the pool is one without a difference.
fn members(old: &Pool, new: &Pool) -> Option<Vec<Item>> {
    if old == new {
        return None;
    }
    let keys = |before: &Member, after: &Member| {
        let Member { name, address: _, port, weight, drain, thresholds, backup, enabled } = before;
        let mut keys = Keys(Vec::new());
        keys.add("name", name.clone(), after.name.clone());
        keys.add("port", *port, after.port);
        // One that drains has it again afterwards.
        keys.add(if after.drain { "remembered weight" } else { "weight" }, *weight, after.weight);
        keys.add("drain", *drain, after.drain);
        let (was, is) = (thresholds, &after.thresholds);
        keys.add("upper_threshold", was.map(|one| one.upper), is.map(|one| one.upper));
        keys.add("lower_threshold", was.and_then(|one| one.lower), is.and_then(|one| one.lower));
        keys.add("backup", *backup, after.backup);
        keys.add("enabled", *enabled, after.enabled);
        keys
    };
    let name = |member: &Member| format!("{}/{}", new.name, member.name);
    let pairs = pair_by(identified(old), identified(new));
    Some(pairs.into_iter().filter_map(|pair| pair.item(name, |one| one.address.to_string(), keys)).collect())
}

mod impact;
mod monitors;
mod text;

#[cfg(test)]
mod tests;
