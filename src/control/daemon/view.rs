//! What there is and how it does, for whoever asks by the API.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;

use super::{Daemon, problems};
use crate::control::api::desk::{Names, Part};
use crate::control::api::routes::few;
use crate::control::api::shape::{self, Event, PortOrAny, UpOf};
use crate::control::compile::{MemberState, MemberStatus, PoolState, PoolStatus};
use crate::control::health::{Condition, MonitorStatus, Pace};
use crate::control::maglev::PARTS;
use crate::control::model::{Member, Pool, Vip, VipPort};
use crate::control::state::Running;
use crate::control::time::rfc3339;
use crate::dataplane::counters::Counters;
use crate::dataplane::flow::FlowTable;
use crate::dataplane::tables::{MemberId, VipId};
use crate::dataplane::verdict::DropReason;

/// Problems of one kind that `status` names; the rest is counted.
const MOST_NAMED: usize = 20;

/// So many things of a list are told at a time: some tenths of a millisecond, for which health checks wait.
const PART: usize = 256;

impl Daemon {
    /// Which change of the configuration rules.
    pub(in crate::control) fn revision(&self) -> u64 {
        self.running.revision
    }

    /// The table.
    pub(in crate::control) fn flows(&self) -> Arc<FlowTable> {
        Arc::clone(&self.shared.flows)
    }

    /// What ids mean.
    pub(in crate::control) fn names(&self) -> Names {
        let ids = self.plan.ids();
        let (mut vips, mut members) = (vec![None; ids.vips_end], vec![None; ids.members_end]);
        for (vip, id) in self.plan.vips() {
            let port = match vip.port {
                VipPort::Exact(port) => Some(port),
                VipPort::Any => None,
            };
            vips[usize::from(id.0)] = Some((vip.name.clone(), port));
        }
        for (pool, member, id) in self.plan.members() {
            members[id.0 as usize] = Some(format!("{}/{}", pool.name, member.name));
        }
        Names { vips, members }
    }

    /// The newest event's id, events after this one that are remembered, and all that will come.
    pub(in crate::control) fn events_after(&self, id: u64) -> (u64, Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let (found, coming) = self.events.after(id);
        (self.events.newest(), found, coming)
    }

    fn sum(&self, what: impl Fn(&Counters) -> u64) -> u64 {
        self.shared.counters.iter().map(|worker| what(worker)).sum()
    }

    pub(in crate::control) fn status(&self) -> shape::Status {
        let model = &self.plan.model;
        let is_up = |state: &MemberState| *state == MemberState::Up;
        let members =
            UpOf { up: self.members.iter().filter(|member| is_up(&member.state)).count(), total: self.members.len() };
        shape::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: model.node.name.clone(),
            revision: self.running.revision,
            uptime_seconds: self.ready.elapsed().as_secs(),
            interfaces: self.interfaces_view(),
            flows: shape::Flows {
                v4: self.plan.vips().map(|(_, id)| u64::from(self.shared.flows.loads.flows_of_vip(id))).sum(),
                v6: 0,
                capacity_v4: model.dataplane.flows_v4 as u64,
                capacity_v6: 0,
            },
            workers: self.workers(),
            members,
            pools: UpOf {
                up: self.pools.iter().filter(|pool| pool.state == PoolState::Up).count(),
                total: self.pools.len(),
            },
            problems: self.problems_view(),
            notes: self.notes_view(),
            vips: UpOf {
                up: self.plan.vips().filter(|(vip, id)| vip.enabled && self.has_slots(*id)).count(),
                total: model.vips.len(),
            },
        }
    }

    fn interfaces_view(&self) -> Vec<shape::Interface> {
        let Some(plane) = &self.plane else { return Vec::new() };
        let each = plane.interfaces().iter().zip(plane.modes());
        each.map(|(name, (xdp_mode, copy_mode))| shape::Interface {
            name: name.clone(),
            xdp_mode: xdp_mode.to_string(),
            copy_mode: copy_mode.to_string(),
            queues: plane.queues(),
        })
        .collect()
    }

    /// The gravest first: what concerns all traffic, then VIPs, then members.
    fn problems_view(&self) -> Vec<String> {
        let model = &self.plan.model;
        let mut problems = self.problems.clone();
        if self.plane.is_none() {
            problems.push("no interface is served: nothing is forwarded".into());
        }
        problems.extend(self.store.failure().map(|why| problems::not_saved(&why)));
        problems.extend(self.unfit.iter().map(|(name, why)| format!("interface {name}: {why}")));
        let down = self.plan.vips().filter(|(vip, id)| vip.enabled && !self.has_slots(*id));
        let why = |vip: &Vip| self.why(vip, false).unwrap_or_default();
        name_some(&mut problems, "VIPs", down, |(vip, _)| format!("VIP {} down: {}", vip.name, why(vip)));
        let mut is_asked_for = vec![false; model.pools.len()];
        model.vips.iter().filter(|vip| vip.enabled).for_each(|vip| is_asked_for[vip.pool] = true);
        let pools = model.pools.iter().zip(&self.pools).enumerate();
        let worse = pools.filter(|(index, (_, status))| match status.state {
            PoolState::Up => false,
            // Its VIPs have been named.
            PoolState::Down => !is_asked_for[*index],
            PoolState::Backup | PoolState::BelowQuorum | PoolState::Sorry => true,
        });
        let words = |(_, (pool, status)): (usize, (&Pool, &PoolStatus))| {
            format!("pool {} {}: {}", pool.name, status.state.name().replace('_', " "), status.reason())
        };
        name_some(&mut problems, "pools", worse, words);
        let wrong =
            |member: &&MemberStatus| matches!(member.state, MemberState::Down { .. } | MemberState::Unresolved(_));
        let members = self.members.iter().filter(wrong);
        name_some(&mut problems, "members", members, |member| format!("member {} {}", member.name, member.state));
        problems
    }

    /// What is not wrong, and not as the file has it either, or gets no traffic on purpose.
    fn notes_view(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let edits = self.running.edits.len();
        let edits = (edits > 0).then(|| format!("{edits} edit{}", if edits == 1 { "" } else { "s" }));
        let applied = self.running.applied.as_ref().map(|_| "applied configuration".to_owned());
        let differs: Vec<String> = applied.into_iter().chain(edits).collect();
        if !differs.is_empty() {
            notes.push(format!("differs from {}: {}", self.file, differs.join(", ")));
        }
        let is_quiet = |state: &MemberState| matches!(state, MemberState::Drain { .. } | MemberState::Disabled);
        name_some(&mut notes, "members", self.members.iter().filter(|member| is_quiet(&member.state)), |member| {
            let (word, reason) = state_of(&member.state);
            format!("member {} {word}: {}", member.name, reason.unwrap_or_default())
        });
        notes
    }

    /// The text that rules, and what was edited of it.
    pub(in crate::control) fn configuration(&self) -> shape::Config {
        let Running { applied, edits, revision, .. } = &self.running;
        shape::Config {
            revision: *revision,
            source: if applied.is_some() { "applied" } else { "file" }.into(),
            file: self.file.clone(),
            text: self.running.text().to_string(),
            edits: edits.clone(),
        }
    }

    pub(in crate::control) fn workers(&self) -> Vec<shape::Worker> {
        let Some(plane) = &self.plane else { return Vec::new() };
        let worker = |(id, (core, counters)): (usize, (&usize, &std::sync::Arc<Counters>))| shape::Worker {
            id,
            core: *core,
            ports: plane
                .interfaces()
                .iter()
                .map(|interface| shape::Port { interface: interface.clone(), queue: id as u32 })
                .collect(),
            packets: counters.received.packets.get(),
            bytes: counters.received.bytes.get(),
            transmitted: counters.transmitted.packets.get(),
            drops: drops(counters),
            sleeps: counters.sleeps.get(),
        };
        plane.cores().iter().zip(&self.shared.counters).enumerate().map(worker).collect()
    }

    pub(in crate::control) fn vips(&self, from: usize) -> Part<shape::Vip> {
        let vips = self.plan.vips().skip(from).take(PART).map(|(vip, id)| self.vip(vip, id));
        part(vips.collect(), from + PART, self.plan.model.vips.len())
    }

    /// The one of that name; else names of which it may be meant.
    pub(in crate::control) fn vip_named(&self, name: &str) -> Result<shape::Vip, Vec<String>> {
        let found = self.plan.vips().find(|(vip, _)| vip.name == name);
        found.map(|(vip, id)| self.vip(vip, id)).ok_or_else(|| few(self.plan.model.vips.iter().map(|vip| &vip.name)))
    }

    fn vip(&self, vip: &Vip, id: VipId) -> shape::Vip {
        let pool = &self.plan.model.pools[vip.pool];
        shape::Vip {
            name: vip.name.clone(),
            address: vip.address.to_string(),
            protocol: vip.protocol.to_string(),
            port: match vip.port {
                VipPort::Exact(port) => PortOrAny::Port(port),
                VipPort::Any => PortOrAny::Any("any".into()),
            },
            pool: pool.name.clone(),
            forward: pool.forward.to_string(),
            scheduler: pool.scheduler.to_string(),
            enabled: vip.enabled,
            state: self.vip_state(vip, id).into(),
            reason: self.why(vip, self.has_slots(id)),
            active_flows: self.shared.flows.loads.flows_of_vip(id).into(),
            new_flows: self.sum(|worker| worker.flows_of_vip(id)),
            packets: self.sum(|worker| worker.vip(id).packets.get()),
            bytes: self.sum(|worker| worker.vip(id).bytes.get()),
        }
    }

    /// Why a VIP is not up, or not as it should be.
    pub(super) fn why(&self, vip: &Vip, is_served: bool) -> Option<String> {
        let (pool, status) = (&self.plan.model.pools[vip.pool], self.pools.get(vip.pool)?);
        match (vip.enabled, status.state) {
            (false, _) => Some("enabled = false".into()),
            (true, PoolState::Up) if is_served => None,
            (true, PoolState::Up) => Some("no interface is served".into()),
            (true, _) => Some(format!("pool {}: {}", pool.name, status.reason())),
        }
    }

    pub(in crate::control) fn members(&self, from: usize) -> Part<shape::Member> {
        let pools = self.pools_from(from);
        let end = pools.end;
        let members = self.wholes(pools).into_iter().flat_map(|whole| self.members_of(&whole));
        part(members.collect(), end, self.plan.model.pools.len())
    }

    /// The one of that name; else names of which it may be meant.
    pub(in crate::control) fn member_named(&self, pool: &str, name: &str) -> Result<shape::Member, Vec<String>> {
        let pools = &self.plan.model.pools;
        let names = |pool: &Pool| few(pool.members.iter().map(|member| format!("{}/{}", pool.name, member.name)));
        let Some(index) = pools.iter().position(|one| one.name == pool) else {
            // The pool's name is wrong, and perhaps only that.
            return Err(few(pools.iter().map(|pool| format!("{}/{name}", pool.name))));
        };
        let whole = self.whole(index);
        let found = whole.pool.members.iter().position(|member| member.name == name);
        let found = found.and_then(|at| self.member_at(&whole, at));
        found.ok_or_else(|| names(whole.pool))
    }

    /// So many pools from there on as together have members for a part.
    fn pools_from(&self, from: usize) -> Range<usize> {
        let pools = &self.plan.model.pools;
        // There may be fewer than there were.
        let from = from.min(pools.len());
        let mut things = 0;
        let fits = |pool: &&Pool| {
            let fits = things < PART;
            things += 1 + pool.members.len();
            fits
        };
        from..from + pools[from..].iter().take_while(fits).count()
    }

    fn wholes(&self, pools: Range<usize>) -> Vec<Whole<'_>> {
        let model = &self.plan.model;
        let mut vips = vec![Vec::new(); pools.len()];
        for vip in model.vips.iter().filter(|vip| pools.contains(&vip.pool)) {
            vips[vip.pool - pools.start].push(vip);
        }
        let mut first: usize = model.pools[..pools.start].iter().map(|pool| pool.members.len()).sum();
        let whole = |(index, vips)| {
            let pool = &model.pools[index];
            let whole = Whole { index, pool, first, vips };
            first += pool.members.len();
            whole
        };
        pools.zip(vips).map(whole).collect()
    }

    fn whole(&self, index: usize) -> Whole<'_> {
        let model = &self.plan.model;
        Whole {
            index,
            pool: &model.pools[index],
            first: model.pools[..index].iter().map(|pool| pool.members.len()).sum(),
            vips: model.vips.iter().filter(|vip| vip.pool == index).collect(),
        }
    }

    fn members_of(&self, whole: &Whole<'_>) -> Vec<shape::Member> {
        (0..whole.pool.members.len()).filter_map(|at| self.member_at(whole, at)).collect()
    }

    fn member_at(&self, whole: &Whole<'_>, at: usize) -> Option<shape::Member> {
        let member = (&whole.pool.members[at], *self.plan.ids().members.get(whole.index)?.get(at)?);
        Some(self.member(whole.pool, member, whole.service_port(), self.members.get(whole.first + at)?))
    }

    fn member(
        &self,
        pool: &Pool,
        (member, id): (&Member, MemberId),
        service_port: Option<u16>,
        status: &MemberStatus,
    ) -> shape::Member {
        let load = self.shared.flows.loads.of(id);
        let (state, reason) = state_of(&status.state);
        let since = self.said.get(&status.name).map_or_else(SystemTime::now, |said| said.since);
        shape::Member {
            pool: pool.name.clone(),
            name: member.name.clone(),
            address: member.address.to_string(),
            port: member.port.or(service_port),
            weight: member.weight,
            enabled: member.enabled,
            drain: member.drain,
            state: state.into(),
            reason,
            since: rfc3339(since),
            share: f64::from(status.part) / f64::from(PARTS),
            active_flows: load.active().into(),
            inactive_flows: load.inactive().into(),
            new_flows: self.sum(|worker| worker.flows_of_member(id)),
            packets: self.sum(|worker| worker.member(id).packets.get()),
            bytes: self.sum(|worker| worker.member(id).bytes.get()),
        }
    }

    pub(in crate::control) fn pools(&self, from: usize) -> Part<shape::Pool> {
        let pools = self.pools_from(from);
        let end = pools.end;
        let pools = self.wholes(pools).into_iter().filter_map(|whole| self.pool(&whole));
        part(pools.collect(), end, self.plan.model.pools.len())
    }

    /// The one of that name; else names of which it may be meant.
    pub(in crate::control) fn pool_named(&self, name: &str) -> Result<shape::Pool, Vec<String>> {
        let pools = &self.plan.model.pools;
        let index = pools.iter().position(|pool| pool.name == name);
        let found = index.and_then(|index| self.pool(&self.whole(index)));
        found.ok_or_else(|| few(pools.iter().map(|pool| &pool.name)))
    }

    fn pool(&self, whole: &Whole<'_>) -> Option<shape::Pool> {
        let (pool, status) = (whole.pool, self.pools.get(whole.index)?);
        let members = self.members_of(whole);
        let since = self.said_of_pools.get(&pool.name).map_or_else(SystemTime::now, |said| said.since);
        Some(shape::Pool {
            name: pool.name.clone(),
            forward: pool.forward.to_string(),
            scheduler: pool.scheduler.to_string(),
            on_member_down: pool.on_member_down.to_string(),
            vips: whole.vips.iter().map(|vip| vip.name.clone()).collect(),
            monitors: pool.policy.monitors.len(),
            state: status.state.name().to_owned(),
            reason: (status.state != PoolState::Up).then(|| status.reason()),
            since: rfc3339(since),
            up: members.iter().filter(|member| member.state == "up").count(),
            usable: status.usable,
            quorum: status.quorum,
            sorry_pool: pool.policy.sorry_pool.map(|sorry| self.plan.model.pools[sorry].name.clone()),
            active_flows: members.iter().map(|member| member.active_flows).sum(),
            members,
        })
    }

    /// Pools by name, without what belongs to them.
    pub(in crate::control) fn pool_statuses(&self, from: usize) -> Part<(String, PoolStatus)> {
        let all = self.plan.model.pools.iter().zip(&self.pools).skip(from).take(PART);
        let all = all.map(|(pool, status)| (pool.name.clone(), status.clone()));
        part(all.collect(), from + PART, self.plan.model.pools.len())
    }

    pub(in crate::control) fn monitors(&self, from: usize) -> Part<shape::Monitor> {
        self.monitors_with(from, true)
    }

    /// The same, but how long half of the checks took, and nearly all, is left out: that has to be added up.
    pub(in crate::control) fn monitors_without_times(&self, from: usize) -> Part<shape::Monitor> {
        self.monitors_with(from, false)
    }

    fn monitors_with(&self, from: usize, with_times: bool) -> Part<shape::Monitor> {
        let found: Vec<_> = self.checker.monitors(with_times).skip(from).take(PART).map(|one| monitor(&one)).collect();
        let is_last = found.len() < PART;
        (found, (!is_last).then_some(from + PART))
    }

    pub(in crate::control) fn pace(&self) -> Pace {
        self.checker.pace().clone()
    }
}

/// A part of a list that has so many things.
fn part<T>(things: Vec<T>, next: usize, all: usize) -> Part<T> {
    (things, (next < all).then_some(next))
}

/// A pool and what belongs to it.
struct Whole<'d> {
    index: usize,
    pool: &'d Pool,
    /// Its first member, among all.
    first: usize,
    vips: Vec<&'d Vip>,
}

impl Whole<'_> {
    /// The port that its VIPs have in common.
    fn service_port(&self) -> Option<u16> {
        let port = |vip: &&Vip| match vip.port {
            VipPort::Exact(port) => Some(port),
            VipPort::Any => None,
        };
        let common = self.vips.first().and_then(port)?;
        self.vips.iter().all(|vip| port(vip) == Some(common)).then_some(common)
    }
}

/// The first of them, and how many more there are.
fn name_some<T>(problems: &mut Vec<String>, kind: &str, mut all: impl Iterator<Item = T>, words: impl Fn(T) -> String) {
    problems.extend(all.by_ref().take(MOST_NAMED).map(words));
    let more = all.count();
    if more > 0 {
        problems.push(format!("and {more} more {kind}"));
    }
}

fn drops(counters: &Counters) -> BTreeMap<String, u64> {
    let each = DropReason::ALL.iter().map(|&reason| (reason.name().to_owned(), counters.dropped_for(reason).get()));
    each.filter(|(_, count)| *count > 0).collect()
}

/// The word for it and the reason.
pub(super) fn state_of(state: &MemberState) -> (&'static str, Option<String>) {
    match state {
        MemberState::Up => ("up", None),
        MemberState::Starting(start) => ("starting", Some(MemberState::starting(*start).into())),
        MemberState::Drain { by_operator: true } => ("drain", Some("drained by an operator: gets nothing new".into())),
        MemberState::Drain { by_operator: false } => ("drain", Some("weight 0: gets nothing new".into())),
        MemberState::Disabled => ("disabled", Some("enabled = false".into())),
        MemberState::Unresolved(reason) => ("unresolved", Some(reason.to_string())),
        MemberState::Down { reason } => ("down", Some(reason.to_string())),
    }
}

fn monitor(status: &MonitorStatus) -> shape::Monitor {
    let milliseconds = |duration: Option<Duration>| duration.map(|duration| duration.as_micros() as f64 / 1000.0);
    shape::Monitor {
        pool: status.pool.clone(),
        member: status.member.clone(),
        kind: status.kind.to_string(),
        name: status.name.clone(),
        port: status.port,
        state: match status.state {
            Condition::Unknown => "unknown",
            Condition::Up => "up",
            Condition::Down => "down",
        }
        .into(),
        reason: status.reason.to_string(),
        since: rfc3339(status.since),
        last_milliseconds: milliseconds(status.last_duration),
        p50_milliseconds: milliseconds(status.p50),
        p99_milliseconds: milliseconds(status.p99),
        checks: status.checks,
        failures: status.failures,
        skipped: status.skipped,
    }
}
