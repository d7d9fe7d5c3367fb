//! Model + network + health → immutable tables, and what the steering program and the status need to know. Touches
//! nothing outside: what was compiled before (hysteresis, shares that grow, parts that did not change) is in the [`Plan`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::num::{NonZero, NonZeroU32};
use std::sync::Arc;
use std::time::Instant;
use std::{panic, thread};

use super::announce::arp::Announcement;
use super::health::{Finding, Health};
use super::identity::{Assignment, Identities};
use super::maglev::{Candidate, Layout, PARTS};
use super::model::{Announce, Forward, Member, Model, Pool, Protocol, Start, VipPort};
use super::neighbor::{Network, NextHop, Unresolved};
use super::serving::Standing;
pub use super::serving::{PoolState, PoolStatus};
use crate::dataplane::encap::{OUTER_LENGTH, Source, Template};
use crate::dataplane::flow::{Sizes, Timeouts};
use crate::dataplane::limits::{Gone, Limits, Policy};
use crate::dataplane::load::Thresholds;
use crate::dataplane::persistence::Persistence;
use crate::dataplane::schedule::{self, Pool as TablePool};
use crate::dataplane::select::Seed;
use crate::dataplane::service::{Destination, ServiceTable};
use crate::dataplane::tables::{
    Interface, InterfaceId, Member as TableMember, MemberId, Tables, Vip, VipAddress, VipId, Way,
};

/// A model, its ids, and what can be computed from these alone, once: Maglev layouts; and what is known of its members.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration.
    pub model: Model,
    ids: Assignment,
    gone: Gone,
    /// What the members' monitors have found.
    pub health: Health,
    /// The moment it is, for shares that grow.
    pub now: Instant,
    /// One per pool: a change of one pool leaves the others' tables as they are.
    layouts: Vec<PoolLayout>,
    /// By pool.
    standings: HashMap<String, Standing>,
    /// When a share next grows.
    next: Option<Instant>,
    made: Made,
}

/// What was last put into tables, and is put into the next ones if it comes to the same: workers have it in their caches.
#[derive(Debug, Clone)]
struct Made {
    served: Vec<(Destination, VipId)>,
    services: ServiceTable,
    members: Arc<[TableMember]>,
}

impl Made {
    fn nothing() -> Self {
        Self { served: Vec::new(), services: ServiceTable::new(&[]), members: Arc::default() }
    }

    fn services(&mut self, served: &[(Destination, VipId)]) -> ServiceTable {
        if self.served != served {
            self.services = ServiceTable::new(served);
            self.served = served.to_vec();
        }
        self.services.clone()
    }

    fn members(&mut self, members: Vec<TableMember>) -> Arc<[TableMember]> {
        if *self.members != *members {
            self.members = members.into();
        }
        Arc::clone(&self.members)
    }
}

/// A pool's layout, and what was last made of it.
#[derive(Debug, Clone)]
struct PoolLayout {
    /// What it was made from, in the pool's order.
    candidates: Vec<Candidate>,
    layout: Arc<Layout>,
    laid: Option<Laid>,
}

/// What a pool's usable members come to.
#[derive(Debug, Clone)]
struct Laid {
    parts: Vec<u32>,
    slots: Arc<[MemberId]>,
    pool: Arc<TablePool>,
}

/// What a model and the network's state come to.
#[derive(Debug)]
pub struct Compiled {
    /// For the workers.
    pub tables: Tables,
    /// For the steering program: the destinations that are served.
    pub services: Vec<Destination>,
    /// For the steering programs: those of the VIPs' addresses that are the host's own, too.
    pub host_addresses: BTreeSet<u32>,
    /// One per member, in the model's order.
    pub members: Vec<MemberStatus>,
    /// One per pool, in the model's order.
    pub pools: Vec<PoolStatus>,
    /// What is wrong with the configuration on this host.
    pub problems: Vec<String>,
}

/// How a member does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// `POOL/NAME`.
    pub name: String,
    /// Its state.
    pub state: MemberState,
    /// How much of its share of new flows it takes, of [`PARTS`]: less than all in slow start, nothing if others serve.
    pub part: u32,
}

/// A member's operational state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberState {
    /// Takes traffic.
    Up,
    /// Its monitors have not come to anything yet; until then it counts as this.
    Starting(Start),
    /// Gets nothing new.
    Drain {
        /// Told to at run time; otherwise its weight is 0.
        by_operator: bool,
    },
    /// `enabled = false`.
    Disabled,
    /// Cannot be reached, and why.
    Unresolved(NotReachable),
    /// Its monitors say that it is not well, and why.
    Down {
        /// `http: 503, expected 200-299`
        reason: Arc<str>,
    },
}

/// Why a member cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReachable {
    /// The kernel does not know how.
    Unresolved(Unresolved),
    /// The kernel would send through a gateway, and direct routing needs the member's own MAC.
    BehindGateway(Ipv4Addr),
    /// The kernel would send by a listed interface on which no data plane is, for the reason that was said of it.
    NotServed {
        /// That interface.
        interface: String,
    },
    /// The host has no address of its own that a tunnel to the member could come from.
    NoTunnelSource,
}

impl fmt::Display for NotReachable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(reason) => write!(formatter, "{reason}"),
            Self::BehindGateway(gateway) => {
                write!(formatter, "behind gateway {gateway}; forward = \"dr\" needs the member on-link")
            }
            Self::NotServed { interface } => write!(formatter, "route leaves by {interface}, which is not served now"),
            Self::NoTunnelSource => formatter.write_str(
                "this host has no address to send a tunnel's packets from; give it one, or set dataplane.tunnel_source",
            ),
        }
    }
}

impl MemberState {
    /// Whether it may get new flows.
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Up | Self::Starting(Start::Up))
    }

    /// What there is to say of [`MemberState::Starting`].
    pub(super) fn starting(start: Start) -> &'static str {
        match start {
            Start::Up => "not checked yet; gets new flows meanwhile (start = \"up\")",
            Start::Down => "not well for long enough yet; gets no new flows until then (start = \"down\")",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => formatter.write_str("up"),
            Self::Starting(start) => write!(formatter, "starting: {}", Self::starting(*start)),
            Self::Drain { by_operator: true } => formatter.write_str("drain (by an operator)"),
            Self::Drain { by_operator: false } => formatter.write_str("drain (weight 0)"),
            Self::Disabled => formatter.write_str("disabled"),
            Self::Unresolved(reason) => write!(formatter, "unresolved: {reason}"),
            Self::Down { reason } => write!(formatter, "down: {reason}"),
        }
    }
}

impl Compiled {
    /// What this node announces by ARP now: on interfaces that are up, each with its MAC.
    pub fn announcements(&self, network: &Network, interfaces: &[String]) -> BTreeMap<Announcement, [u8; 6]> {
        let link = |name: &String| network.links.get(name).filter(|link| link.up);
        let up = (0..).map(InterfaceId).zip(interfaces).filter_map(|(id, name)| Some((id, link(name)?.mac)));
        let here = |(id, mac)| {
            let announced = self.tables.addresses.iter().filter(move |vip| vip.announced.contains(id));
            announced.map(move |vip| ((vip.address.into(), id), mac))
        };
        up.flat_map(here).collect()
    }
}

impl Plan {
    /// Gives every VIP and member an id, as if there had been none before, and lays every pool out.
    pub fn new(model: Model) -> Self {
        // A model has no more of them than there are ids.
        let ids = Identities::default().assign(&model).expect("a model's VIPs and members fit");
        Self::with(model, ids, None)
    }

    /// The same with these ids for the model; what does not differ from an earlier plan is taken from it, and so is what
    /// it knew.
    pub fn with(model: Model, ids: Assignment, before: Option<&Self>) -> Self {
        Self::with_prepared(model, ids, before, None)
    }

    /// The same; pools that do differ are taken from a plan that was prepared for this, as far as it still holds.
    pub fn with_prepared(model: Model, ids: Assignment, before: Option<&Self>, prepared: Option<&Self>) -> Self {
        let health = before.map(|before| before.health.clone()).unwrap_or_default();
        let old: HashMap<&str, (&Pool, &PoolLayout)> = before
            .into_iter()
            .flat_map(|before| before.model.pools.iter().zip(&before.layouts))
            .map(|(pool, layout)| (pool.name.as_str(), (pool, layout)))
            .collect();
        let prepared: HashMap<&str, (&Pool, &[MemberId], &PoolLayout)> = prepared
            .into_iter()
            .flat_map(|prepared| prepared.model.pools.iter().zip(&prepared.ids.members).zip(&prepared.layouts))
            .map(|((pool, ids), layout)| (pool.name.as_str(), (pool, ids.as_slice(), layout)))
            .collect();
        let lay_out = |pool: &Pool, ids: &[MemberId]| {
            let candidates = candidates(pool, &weights(pool, &health), ids);
            match old.get(pool.name.as_str()) {
                Some((before, layout)) if layout.candidates == candidates => {
                    let chooses_alike =
                        (before.scheduler, before.on_member_down) == (pool.scheduler, pool.on_member_down);
                    PoolLayout { laid: layout.laid.clone().filter(|_| chooses_alike), ..(*layout).clone() }
                }
                _ => match prepared.get(pool.name.as_str()) {
                    Some(&(same, of, layout)) if (same, of) == (pool, ids) && layout.candidates == candidates => {
                        layout.clone()
                    }
                    _ => PoolLayout { layout: Arc::new(Layout::new(&candidates)), candidates, laid: None },
                },
            }
        };
        // Later the workers have the cores, and only what differs is laid out.
        let threads = if before.is_none() { thread::available_parallelism().map_or(1, NonZero::get) } else { 1 };
        let layouts = lay_out_all(&model.pools, &ids.members, threads, lay_out);
        let mut standings = before.map(|before| before.standings.clone()).unwrap_or_default();
        let names: HashSet<&str> = model.pools.iter().map(|pool| pool.name.as_str()).collect();
        standings.retain(|name, _| names.contains(name.as_str()));
        let made = before.map_or_else(Made::nothing, |before| before.made.clone());
        Self { gone: ids.gone(), model, ids, health, now: Instant::now(), layouts, standings, next: None, made }
    }

    /// Every VIP and its id, in the model's order.
    pub fn vips(&self) -> impl Iterator<Item = (&super::model::Vip, VipId)> {
        self.model.vips.iter().zip(self.ids.vips.iter().copied())
    }

    /// Every member with its pool and its id, in the model's order.
    pub fn members(&self) -> impl Iterator<Item = (&Pool, &Member, MemberId)> {
        let pools = self.model.pools.iter().zip(&self.ids.members);
        pools.flat_map(|(pool, ids)| pool.members.iter().zip(ids).map(move |(member, id)| (pool, member, *id)))
    }

    /// The ids of all of them.
    pub fn ids(&self) -> &Assignment {
        &self.ids
    }

    /// The addresses whose next hops [`Plan::compile`] wants to know.
    pub fn targets(&self) -> Vec<Ipv4Addr> {
        self.model.pools.iter().flat_map(|pool| &pool.members).map(|member| member.address).collect()
    }

    /// How much of everything there is to be for as long as the process lives: any later plan's ids fit.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            flows_v4: self.model.dataplane.flows_v4,
            persistence_v4: self.persistent_clients(),
            members: MemberId::MOST,
            vips: VipId::MOST,
        }
    }

    /// How many clients persistence must be able to remember; `None`: no VIP is persistent.
    pub fn persistent_clients(&self) -> Option<usize> {
        let is_persistent = self.model.vips.iter().any(|vip| vip.persistence.is_some());
        is_persistent.then_some(self.model.dataplane.persistence_v4)
    }

    /// Compiles the tables for the network and the members' health as they are now. `interfaces` are those of the listed
    /// ones that are served, in
    /// the order of [`InterfaceId`].
    pub fn compile(&mut self, network: &Network, interfaces: &[String], generation: u64) -> Compiled {
        let mut members = vec![TableMember::NOBODY; self.ids.members_end];
        let mut statuses = Vec::with_capacity(members.len());
        for (pool, member, id) in self.members() {
            let (entry, status) = self.compile_member(pool, member, network, interfaces);
            members[id.0 as usize] = entry;
            statuses.push(status);
        }
        let (laid, pools) = self.lay(&mut statuses);
        let timeouts = timeouts(&self.model.timeouts);
        // A disabled VIP keeps its id and its address; it is just not served, and so dropped as that.
        let mut vips = vec![Vip::nobody(); self.ids.vips_end];
        for (vip, id) in self.vips() {
            let Laid { slots, pool, .. } = laid[vip.pool].clone();
            vips[usize::from(id.0)] =
                Vip { slots, timeouts: self::timeouts(&vip.timeouts), destination: destination(vip), pool };
        }
        let served: Vec<(Destination, VipId)> = self
            .vips()
            .filter(|(vip, _)| vip.enabled && !cuts_off(vip, network))
            .map(|(vip, id)| (destination(vip), id))
            .collect();
        let problems = self.problems(network);
        Compiled {
            tables: Tables {
                generation,
                services: self.made.services(&served),
                vips: vips.into(),
                members: self.made.members(members),
                interfaces: compile_interfaces(network, interfaces),
                addresses: self.addresses(network, interfaces),
                seed: Seed::from_text(&self.model.node.hash_seed),
                timeouts,
                limits: self.limits(),
            },
            services: served.into_iter().map(|(destination, _)| destination).collect(),
            host_addresses: self.host_addresses(network),
            members: statuses,
            pools,
            problems,
        }
    }

    /// When tables compiled then would say something else than now: a share has grown.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Every pool's slots and candidates, made anew only where its members' parts or weights have changed; where too few
    /// members are left, its sorry pool's. Says how they do, and takes down what each member takes of its share.
    fn lay(&mut self, statuses: &mut [MemberStatus]) -> (Vec<Laid>, Vec<PoolStatus>) {
        let mut rest = &*statuses;
        let mut all = Vec::with_capacity(self.layouts.len());
        let mut servings = Vec::with_capacity(self.layouts.len());
        self.next = None;
        let pools = self.model.pools.iter().zip(&self.ids.members);
        for ((pool, ids), PoolLayout { candidates: laid_out, layout, laid }) in pools.zip(&mut self.layouts) {
            let (members, after) = rest.split_at(pool.members.len());
            rest = after;
            let states: Vec<&MemberState> = members.iter().map(|member| &member.state).collect();
            let standing = self.standings.entry(pool.name.clone()).or_default();
            let serving = standing.follow(pool, &states, self.now);
            self.next = [self.next, serving.next].into_iter().flatten().min();
            let parts = serving.parts.clone();
            let weights = weights(pool, &self.health);
            let candidates = candidates(pool, &weights, ids);
            if *laid_out != candidates {
                *layout = Arc::new(Layout::new(&candidates));
                *laid_out = candidates;
                *laid = None;
            }
            if laid.as_ref().is_none_or(|laid| laid.parts != parts) {
                let part_of: HashMap<MemberId, u32> = ids.iter().copied().zip(parts.iter().copied()).collect();
                let slots = layout.slots_by_parts(|id| part_of.get(&id).copied().unwrap_or(0));
                let pool = Arc::new(schedulable(pool, ids, &parts, &weights));
                *laid = Some(Laid { parts, slots, pool });
            }
            all.extend(laid.clone());
            servings.push(serving);
        }
        let has_slots = |index: usize| !all[index].slots.is_empty();
        let sorry = |index: usize| {
            let pool = &self.model.pools[index];
            pool.policy.sorry_pool.filter(|sorry| servings[index].is_sorry && has_slots(*sorry))
        };
        let pools = (0..all.len()).map(|index| {
            let sorry = sorry(index).map(|sorry| self.model.pools[sorry].name.as_str());
            PoolStatus::of(&self.model.pools[index], &servings[index], has_slots(index), sorry)
        });
        let pools = pools.collect();
        let parts = servings.iter().enumerate().flat_map(|(index, serving)| {
            let serves = sorry(index).is_none();
            serving.parts.iter().map(move |part| if serves { *part } else { 0 })
        });
        statuses.iter_mut().zip(parts).for_each(|(member, part)| member.part = part);
        ((0..all.len()).map(|index| all[sorry(index).unwrap_or(index)].clone()).collect(), pools)
    }

    fn compile_member(
        &self,
        pool: &Pool,
        member: &Member,
        network: &Network,
        interfaces: &[String],
    ) -> (TableMember, MemberStatus) {
        let way = self.way_to(pool.forward, member, network, interfaces);
        let finding = self.health.of(&pool.name, &member.name);
        let state = match (&way, finding) {
            _ if !member.enabled => MemberState::Disabled,
            (Err(reason), _) if member.weight_now() > 0 => MemberState::Unresolved(reason.clone()),
            (_, Some(Finding::Down(reason))) if member.weight_now() > 0 => {
                MemberState::Down { reason: Arc::clone(reason) }
            }
            (_, Some(Finding::Starting(start))) if member.weight_now() > 0 => MemberState::Starting(*start),
            _ if member.drain => MemberState::Drain { by_operator: true },
            (_, Some(Finding::Up { weight: Some(0) })) => MemberState::Drain { by_operator: false },
            _ if member.weight == 0 => MemberState::Drain { by_operator: false },
            _ => MemberState::Up,
        };
        // Whoever serves nobody has no use for the flows that it has, whatever its state is called.
        let is_down = matches!(finding, Some(Finding::Down(_) | Finding::Starting(Start::Down)));
        let way = way.ok().filter(|_| !is_down);
        let entry = way.unwrap_or(TableMember::NOBODY);
        (entry, MemberStatus { name: format!("{}/{}", pool.name, member.name), state, part: 0 })
    }

    /// How frames get to a member.
    fn way_to(
        &self,
        forward: Forward,
        member: &Member,
        network: &Network,
        interfaces: &[String],
    ) -> Result<TableMember, NotReachable> {
        let hop = match network.next_hops.get(&member.address) {
            Some(Ok(hop)) => hop,
            Some(Err(reason)) => return Err(NotReachable::Unresolved(reason.clone())),
            None => return Err(NotReachable::Unresolved(Unresolved::Resolving)),
        };
        let not_served = || NotReachable::NotServed { interface: hop.interface.clone() };
        let egress = interfaces.iter().position(|name| *name == hop.interface).ok_or_else(not_served)?;
        let link = network.links.get(&hop.interface).ok_or_else(not_served)?;
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&hop.mac);
        macs[6..].copy_from_slice(&link.mac);
        let mtu = hop.mtu.unwrap_or(u32::MAX).min(link.mtu);
        let (way, overhead) = match (forward, hop.gateway) {
            (Forward::Dr, Some(gateway)) => return Err(NotReachable::BehindGateway(gateway)),
            (Forward::Dr, None) => (Way::Direct(macs), 0),
            (Forward::Ipip, _) => {
                let source = self.tunnel_source(hop).ok_or(NotReachable::NoTunnelSource)?;
                (Way::Ipip(macs, Template::new(source, member.address.into())), OUTER_LENGTH as u32)
            }
        };
        let largest = mtu.saturating_sub(overhead).min(u16::MAX.into()) as u16;
        Ok(TableMember { way, egress: InterfaceId(egress as u8), largest })
    }

    /// The configured source, else the one that the kernel would take.
    fn tunnel_source(&self, hop: &NextHop) -> Option<Source> {
        match self.model.dataplane.tunnel_source {
            Some(source) => Some(Source { address: source.address.into(), varying: source.varying() }),
            None => (!hop.source.is_unspecified()).then(|| Source { address: hop.source.into(), varying: 0 }),
        }
    }

    /// Every address that a VIP has, sorted, and where it is announced.
    fn addresses(&self, network: &Network, interfaces: &[String]) -> Box<[VipAddress]> {
        let mut addresses: BTreeMap<Ipv4Addr, bool> = BTreeMap::new();
        for vip in &self.model.vips {
            *addresses.entry(vip.address).or_default() |= vip.enabled && vip.announce == Announce::Arp;
        }
        let entry = |(address, by_arp): (Ipv4Addr, bool)| VipAddress {
            address: address.into(),
            announced: announcing(address, network, interfaces).filter(|_| by_arp).collect(),
        };
        addresses.into_iter().map(entry).collect()
    }

    fn host_addresses(&self, network: &Network) -> BTreeSet<u32> {
        let vips = self.model.vips.iter().map(|vip| vip.address);
        vips.filter(|address| network.addresses.contains(address)).map(u32::from).collect()
    }

    /// What few VIPs and members ask for; nothing as long as none does.
    fn limits(&self) -> Limits {
        let policy = |vip: &super::model::Vip| Policy {
            connection_limit: vip.connection_limit.and_then(NonZeroU32::new),
            one_packet: vip.one_packet,
            persistence: vip.persistence.map(|persistence| Persistence::new(persistence.timeout, persistence.netmask)),
        };
        let thresholds_of = |member: &Member| {
            let thresholds = member.thresholds?;
            let lower = thresholds.lower.and_then(NonZeroU32::new);
            Some(Thresholds { upper: NonZeroU32::new(thresholds.upper)?, lower })
        };
        let mut policies = vec![Policy::default(); self.ids.vips_end];
        for (vip, id) in self.vips() {
            policies[usize::from(id.0)] = policy(vip);
        }
        let has_thresholds = self.members().any(|(_, member, _)| member.thresholds.is_some());
        let mut thresholds = vec![None; if has_thresholds { self.ids.members_end } else { 0 }];
        for (_, member, id) in self.members() {
            if let Some(entry) = thresholds.get_mut(id.0 as usize) {
                *entry = thresholds_of(member);
            }
        }
        Limits { policies: policies.into(), thresholds: thresholds.into(), gone: self.gone.clone() }
    }

    fn problems(&self, network: &Network) -> Vec<String> {
        problems(&self.model, network)
    }
}

/// Pools that are worth a thread of their own: laying one out takes a millisecond, starting a thread a tenth of one.
const POOLS_PER_THREAD: usize = 16;

/// Has `lay_out` lay each pool out with its members' ids, on so many threads at most.
fn lay_out_all<R: Send>(
    pools: &[Pool],
    ids: &[Vec<MemberId>],
    threads: usize,
    lay_out: impl Fn(&Pool, &[MemberId]) -> R + Sync,
) -> Vec<R> {
    let threads = threads.min(pools.len() / POOLS_PER_THREAD).max(1);
    let part = |pools: &[Pool], ids: &[Vec<MemberId>]| -> Vec<R> {
        pools.iter().zip(ids).map(|(pool, ids)| lay_out(pool, ids)).collect()
    };
    if threads == 1 {
        return part(pools, ids);
    }
    let size = pools.len().div_ceil(threads);
    thread::scope(|scope| {
        let parts = pools.chunks(size).zip(ids.chunks(size));
        let running: Vec<_> = parts.map(|(pools, ids)| scope.spawn(|| part(pools, ids))).collect();
        let parts = running.into_iter().map(|part| part.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        parts.flatten().collect()
    })
}

/// What is wrong with a configuration on a host in this network.
pub fn problems(model: &Model, network: &Network) -> Vec<String> {
    let cutting = model.vips.iter().filter(|vip| cuts_off(vip, network));
    let words = cutting.map(|vip| {
        format!(
            "VIP {}: port \"any\" on {}, which is also this host's own address: it would cut the host off, so it is \
             not served; name the ports, or take the address off the host",
            vip.name, vip.address
        )
    });
    words.collect()
}

fn timeouts(timeouts: &super::model::Timeouts) -> Timeouts {
    Timeouts::new(timeouts.tcp_syn, timeouts.tcp_established, timeouts.tcp_closing, timeouts.udp)
}

fn compile_interfaces(network: &Network, interfaces: &[String]) -> Box<[Interface]> {
    let mac = |name: &String| network.links.get(name).map_or([0; 6], |link| link.mac);
    interfaces.iter().map(|name| Interface { mac: mac(name) }).collect()
}

/// The interfaces by which a VIP's address is announced: those in whose subnet it is, where its clients' routers ask
/// for it; of several subnets around each other, the narrowest, as for a route. An address of no subnet may be asked for
/// anywhere. The subnet of an interface that is not served counts: its VIPs are not wanted elsewhere.
fn announcing(address: Ipv4Addr, network: &Network, interfaces: &[String]) -> impl Iterator<Item = InterfaceId> {
    let around = move || network.subnets.iter().filter(move |subnet| subnet.contains(address));
    let narrowest = around().map(|subnet| subnet.length).max();
    let is_there = move |name: &String| {
        narrowest.is_none_or(|length| around().any(|subnet| subnet.length == length && subnet.interface == *name))
    };
    (0..).map(InterfaceId).zip(interfaces).filter(move |(_, name)| is_there(name)).map(|(id, _)| id)
}

/// Whether serving this VIP would take all of the host's own traffic on its address.
fn cuts_off(vip: &super::model::Vip, network: &Network) -> bool {
    vip.enabled && vip.port == VipPort::Any && network.addresses.contains(&vip.address)
}

/// The configured weights, but for members that a script has given another. (One of 0 is a state, not a weight: whoever
/// drains keeps its slots for later.)
fn weights(pool: &Pool, health: &Health) -> Vec<u16> {
    let weight = |member: &Member| match health.of(&pool.name, &member.name) {
        Some(Finding::Up { weight: Some(weight @ 1..) }) if member.weight_now() > 0 => *weight,
        _ => member.weight_now(),
    };
    pool.members.iter().map(weight).collect()
}

fn candidates(pool: &Pool, weights: &[u16], ids: &[MemberId]) -> Vec<Candidate> {
    let members = pool.members.iter().zip(weights).zip(ids);
    let candidate = |((member, &weight), &id): ((&Member, _), _)| Candidate {
        address: member.address,
        // Under direct routing and in tunnels a member's port is its VIPs', written down or not: no part of its
        // identity.
        port: 0,
        weight,
        id,
    };
    members.map(candidate).collect()
}

/// The pool as its scheduler sees it: every member, in the file's order, those that get no new flows with weight 0.
fn schedulable(pool: &Pool, ids: &[MemberId], parts: &[u32], weights: &[u16]) -> TablePool {
    // Weights are whole numbers: a part of 1 is to be one of several, too, where that fits.
    let heaviest = weights.iter().copied().max().map_or(0, u32::from);
    let is_partial = parts.iter().any(|part| !matches!(*part, 0 | PARTS));
    let scale = if is_partial && heaviest * PARTS <= u16::MAX.into() { PARTS } else { 1 };
    let weigh = |((part, weight), &id): ((&u32, &u16), _)| {
        let weight = (u32::from(*weight) * scale * part).div_ceil(PARTS);
        schedule::Candidate { member: id, weight: weight as u16 }
    };
    let candidates = parts.iter().zip(weights).zip(ids).map(weigh).collect();
    TablePool::new(pool.scheduler, pool.on_member_down, candidates)
}

fn destination(vip: &super::model::Vip) -> Destination {
    Destination {
        address: vip.address.into(),
        protocol: match vip.protocol {
            Protocol::Tcp => libc::IPPROTO_TCP as u8,
            Protocol::Udp => libc::IPPROTO_UDP as u8,
        },
        port: match vip.port {
            VipPort::Exact(port) => port,
            VipPort::Any => 0,
        },
    }
}

#[cfg(test)]
mod tests;
