//! What there is and how it does, for whoever asks by the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;

use super::{Daemon, problems};
use crate::control::api::shape::{self, Event, PortOrAny, UpOf};
use crate::control::compile::{MemberState, MemberStatus, PoolState, PoolStatus};
use crate::control::health::{Condition, MonitorStatus, Pace};
use crate::control::maglev::PARTS;
use crate::control::model::{Member, Model, Pool, Vip, VipPort};
use crate::control::state::Running;
use crate::control::time::rfc3339;
use crate::dataplane::counters::Counters;
use crate::dataplane::flow::FlowTable;
use crate::dataplane::tables::{MemberId, VipId};
use crate::dataplane::verdict::DropReason;

/// Problems of one kind that `status` names; the rest is counted.
const MOST_NAMED: usize = 20;

impl Daemon {
    /// Which change of the configuration rules.
    pub(in crate::control) fn revision(&self) -> u64 {
        self.running.revision
    }

    /// The table, and the names of what its ids mean: by id, a VIP's with its port.
    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    pub(in crate::control) fn flows_and_names(
        &self,
    ) -> (Arc<FlowTable>, Vec<Option<(String, Option<u16>)>>, Vec<Option<String>>) {
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
        (Arc::clone(&self.shared.flows), vips, members)
    }

    /// Events after this one that are remembered, and all that will come.
    pub(in crate::control) fn events_after(&self, id: u64) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        self.events.after(id)
    }

    fn sum(&self, what: impl Fn(&Counters) -> u64) -> u64 {
        self.shared.counters.iter().map(|worker| what(worker)).sum()
    }

    pub(in crate::control) fn status(&self) -> shape::Status {
        let model = &self.plan.model;
        let vips = self.vips();
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
                v4: vips.iter().map(|vip| vip.active_flows).sum(),
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
            problems: self.problems_view(&vips),
            notes: self.notes_view(),
            vips: UpOf { up: vips.iter().filter(|vip| vip.state == "up").count(), total: vips.len() },
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
    fn problems_view(&self, vips: &[shape::Vip]) -> Vec<String> {
        let mut problems = self.problems.clone();
        if self.plane.is_none() {
            problems.push("no interface is served: nothing is forwarded".into());
        }
        problems.extend(self.store.failure().map(|why| problems::not_saved(&why)));
        problems.extend(self.unfit.iter().map(|(name, why)| format!("interface {name}: {why}")));
        let down = vips.iter().filter(|vip| vip.state == "down");
        let why = |vip: &shape::Vip| vip.reason.clone().unwrap_or_default();
        name_some(&mut problems, "VIPs", down.map(|vip| format!("VIP {} down: {}", vip.name, why(vip))));
        // Of one that is down its VIPs have been named.
        let pools = self.plan.model.pools.iter().zip(&self.pools).enumerate();
        let worse = pools.filter(|(index, (_, status))| match status.state {
            PoolState::Up => false,
            PoolState::Down => self.plan.model.vips.iter().all(|vip| vip.pool != *index || !vip.enabled),
            PoolState::Backup | PoolState::BelowQuorum | PoolState::Sorry => true,
        });
        let words = |(_, (pool, status)): (usize, (&Pool, &PoolStatus))| {
            format!("pool {} {}: {}", pool.name, status.state.name().replace('_', " "), status.reason())
        };
        name_some(&mut problems, "pools", worse.map(words));
        let wrong =
            |member: &&MemberStatus| matches!(member.state, MemberState::Down { .. } | MemberState::Unresolved(_));
        let members = self.members.iter().filter(wrong);
        name_some(&mut problems, "members", members.map(|member| format!("member {} {}", member.name, member.state)));
        problems
    }

    /// What is not wrong, and not as the file has it either, or gets no traffic on purpose.
    fn notes_view(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let edits = self.running.edited();
        let edits = (edits > 0).then(|| format!("{edits} edit{}", if edits == 1 { "" } else { "s" }));
        let applied = self.running.applied.as_ref().map(|_| "applied configuration".to_owned());
        let differs: Vec<String> = applied.into_iter().chain(edits).collect();
        if !differs.is_empty() {
            notes.push(format!("differs from {}: {}", self.file, differs.join(", ")));
        }
        let disabled = self.plan.model.vips.iter().filter(|vip| !vip.enabled);
        name_some(&mut notes, "VIPs", disabled.map(|vip| format!("VIP {} disabled: enabled = false", vip.name)));
        let quiet = self.members.iter().filter_map(|member| match &member.state {
            state @ (MemberState::Drain { .. } | MemberState::Disabled) => {
                let (word, reason) = state_of(state);
                Some(format!("member {} {word}: {}", member.name, reason.unwrap_or_default()))
            }
            _ => None,
        });
        name_some(&mut notes, "members", quiet);
        notes
    }

    /// The text that rules, and what was edited of it.
    pub(in crate::control) fn configuration(&self) -> shape::Config {
        let Running { applied, edits, vips, revision, .. } = &self.running;
        shape::Config {
            revision: *revision,
            source: if applied.is_some() { "applied" } else { "file" }.into(),
            file: self.file.clone(),
            text: self.running.text().to_string(),
            edits: edits.clone(),
            vips: vips.clone(),
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

    pub(in crate::control) fn vips(&self) -> Vec<shape::Vip> {
        let model = &self.plan.model;
        let vip = |(vip, id): (&Vip, VipId)| {
            let pool = &model.pools[vip.pool];
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
        };
        self.plan.vips().map(vip).collect()
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

    pub(in crate::control) fn members(&self) -> Vec<shape::Member> {
        let ports: Vec<Option<u16>> = service_ports(&self.plan.model);
        let pools =
            self.plan.model.pools.iter().zip(ports).flat_map(|(pool, port)| pool.members.iter().map(move |_| port));
        self.plan
            .members()
            .zip(pools)
            .zip(&self.members)
            .map(|(((pool, member, id), port), status)| self.member(pool, (member, id), port, status))
            .collect()
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

    pub(in crate::control) fn pools(&self) -> Vec<shape::Pool> {
        let model = &self.plan.model;
        let mut members = self.members().into_iter();
        let pool = |(index, (pool, status)): (usize, (&Pool, &PoolStatus))| {
            let members: Vec<shape::Member> = members.by_ref().take(pool.members.len()).collect();
            let since = self.said_of_pools.get(&pool.name).map_or_else(SystemTime::now, |said| said.since);
            shape::Pool {
                name: pool.name.clone(),
                forward: pool.forward.to_string(),
                scheduler: pool.scheduler.to_string(),
                on_member_down: pool.on_member_down.to_string(),
                vips: model.vips.iter().filter(|vip| vip.pool == index).map(|vip| vip.name.clone()).collect(),
                monitors: pool.policy.monitors.len(),
                state: status.state.name().to_owned(),
                reason: (status.state != PoolState::Up).then(|| status.reason()),
                since: rfc3339(since),
                up: members.iter().filter(|member| member.state == "up").count(),
                usable: status.usable,
                quorum: status.quorum,
                sorry_pool: pool.policy.sorry_pool.map(|sorry| model.pools[sorry].name.clone()),
                active_flows: members.iter().map(|member| member.active_flows).sum(),
                members,
            }
        };
        model.pools.iter().zip(&self.pools).enumerate().map(pool).collect()
    }

    pub(in crate::control) fn monitors(&self) -> Vec<shape::Monitor> {
        self.checker.monitors().iter().map(monitor).collect()
    }

    pub(in crate::control) fn pace(&self) -> Pace {
        self.checker.pace().clone()
    }
}

/// The first of them, and how many more there are.
fn name_some(problems: &mut Vec<String>, kind: &str, all: impl Iterator<Item = String> + Clone) {
    let more = all.clone().count().saturating_sub(MOST_NAMED);
    problems.extend(all.take(MOST_NAMED));
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

/// For each pool the port that its VIPs have in common.
fn service_ports(model: &Model) -> Vec<Option<u16>> {
    let mut ports: Vec<Option<Option<u16>>> = vec![None; model.pools.len()];
    for vip in &model.vips {
        let port = match vip.port {
            VipPort::Exact(port) => Some(port),
            VipPort::Any => None,
        };
        let common = &mut ports[vip.pool];
        *common = Some(if common.is_none_or(|one| one == port) { port } else { None });
    }
    ports.into_iter().map(Option::flatten).collect()
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
