//! What a pool makes of its monitors, and whether they fit together.

use std::collections::HashMap;
use std::time::Duration;

use super::super::file;
use super::super::reader::{Field, Wrong, nearest, quoted};
use super::super::report::{Errors, Scope};
use super::super::value::{Interval, spelt};
use super::super::word::{Combine, Scheduler, Start};
use super::monitor::{Monitor, Probe};
use super::{PoolIndex, VipPort};

/// What a pool makes of its monitors, and what it does when few of its members are up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// In the file's order.
    pub monitors: Vec<Monitor>,
    /// How many of them must be content.
    pub combine: Combine,
    /// What a member counts as until they know.
    pub start: Start,
    /// What becomes of members that go up and down.
    pub damping: Option<Damping>,
    /// So many members must be usable, or backups and the sorry pool step in; at least 1.
    pub quorum: u32,
    /// So many below `quorum` lose it and so many above regain it; less than `quorum`.
    pub quorum_hysteresis: u32,
    /// Index into [`super::Model::pools`], not this one: who serves when too few are left.
    pub sorry_pool: Option<usize>,
    /// How long a member that came up takes to its full share; at once where `None`.
    pub slow_start: Option<Duration>,
    /// The one port that all VIPs which send here have, if it is one.
    pub service_port: Option<u16>,
}

/// When a member that goes up and down stays down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// So many times down …
    pub downs: u16,
    /// … in this time …
    pub within: Duration,
    /// … and it must be well for so long before it is up again.
    pub hold: Duration,
}

/// The least time that a check gets by default; less only if its interval is less.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Monitors and policy of one pool. `users` are the VIPs that send to it, as their pool or its sorry pool.
pub(super) fn check_pool(
    pool: &file::Pool,
    users: &[&file::Vip],
    pools: &PoolIndex,
    all: &[file::Pool],
    errors: &Errors<'_>,
) {
    for monitor in &pool.policy.monitors {
        check_timeout(monitor, errors);
        check_port(monitor, pool, users, errors);
    }
    check_repeated(&pool.policy.monitors, errors);
    check_needless(pool, errors);
    check_quorum(pool, errors);
    check_sorry_pool(pool, pools, all, errors);
    check_slow_start(pool, errors);
}

fn check_timeout(monitor: &file::Monitor, errors: &Errors<'_>) {
    let (Some(Interval(interval)), Some(timeout)) = (monitor.interval, &monitor.timeout) else { return };
    if timeout.value.0 > interval {
        let (found, allowed) = (spelt(timeout.value.0), spelt(interval));
        errors.report(
            &timeout.place,
            format!("\"{found}\" is more than the interval: a check ends before the next begins (allowed: up to \"{allowed}\")"),
        );
    }
}

fn check_port(monitor: &file::Monitor, pool: &file::Pool, users: &[&file::Vip], errors: &Errors<'_>) {
    let wants_port = monitor.probe.as_ref().is_some_and(Probe::wants_port);
    // A port that cannot be read may be the one.
    let unreadable = users.iter().any(|vip| vip.port.is_none());
    if !wants_port || monitor.has_port || unreadable || service_port(users).is_some() {
        return;
    }
    let Some(member) = pool.members.iter().find(|member| !member.has_port) else { return };
    let why = match users {
        [] => "no VIP uses the pool".to_owned(),
        _ if users.iter().any(|vip| vip.port.as_ref().is_some_and(|port| port.value == VipPort::Any)) => {
            "a VIP of it takes \"any\" port".to_owned()
        }
        _ => "its VIPs have different ports".to_owned(),
    };
    errors.report_missing(
        &monitor.place.inside("port", monitor.place.at()),
        Scope::Table,
        format!("is missing: {} has none either, and {why} (allowed: 1 to 65535)", super::member_title(member)),
    );
}

/// Twice the same would count as one.
fn check_repeated(monitors: &[file::Monitor], errors: &Errors<'_>) {
    for (index, monitor) in monitors.iter().enumerate() {
        let Some(probe) = &monitor.probe else { continue };
        let port = |monitor: &file::Monitor| monitor.port.as_ref().map(|port| port.value);
        let same = |other: &&file::Monitor| other.probe.as_ref() == Some(probe) && port(other) == port(monitor);
        if let Some(first) = monitors[..index].iter().find(same) {
            let line = errors.line(&first.place);
            errors
                .report(&monitor.place, format!("asks the same as another monitor of this pool (also at line {line})"));
        }
    }
}

/// Keys that say something about monitors that are not there.
fn check_needless(pool: &file::Pool, errors: &Errors<'_>) {
    let policy = &pool.policy;
    if !policy.monitors.is_empty() {
        return;
    }
    let places = [
        policy.combine.as_ref().map(|field| &field.place),
        policy.start.as_ref().map(|field| &field.place),
        policy.damping.as_ref().map(|damping| &damping.place),
    ];
    for place in places.into_iter().flatten() {
        errors.report_missing(
            place,
            Scope::Tables,
            "the pool has no monitors that it could be about (allowed: with at least one [[pool.monitor]])".to_owned(),
        );
    }
}

fn check_quorum(pool: &file::Pool, errors: &Errors<'_>) {
    let is_backup = |member: &&file::Member| member.backup.as_ref().is_some_and(|backup| backup.value);
    let members = pool.members.iter().filter(|member| !is_backup(member)).count() as u32;
    let quorum = pool.policy.quorum.as_ref();
    if let Some(quorum) = quorum.filter(|quorum| quorum.value.0 > members && members > 0) {
        let found = quorum.value.0;
        errors.report(
            &quorum.place,
            format!("{found} is more than the pool has members that are no backups (allowed: 1 to {members})"),
        );
        return;
    }
    if let Some(hysteresis) = &pool.policy.quorum_hysteresis {
        if quorum.is_none() && pool.policy.has_quorum {
            return;
        }
        let quorum = quorum.map_or(1, |quorum| quorum.value.0);
        let most = (quorum - 1).min(members.saturating_sub(quorum));
        if hysteresis.value.0 > most {
            errors.report(
                &hysteresis.place,
                format!(
                    "with {} around a quorum of {quorum}, {members} members could never lose or never regain it (allowed: 0 to {most})",
                    hysteresis.value.0
                ),
            );
        }
    }
    if let Some(backup) = pool.members.first().filter(|_| members == 0).and_then(|first| first.backup.as_ref()) {
        errors.report(
            &backup.place,
            "every member of the pool is a backup (allowed: at least one that is none)".to_owned(),
        );
    }
}

fn check_sorry_pool(pool: &file::Pool, pools: &PoolIndex, all: &[file::Pool], errors: &Errors<'_>) {
    let Some(sorry) = &pool.policy.sorry_pool else { return };
    let name = &sorry.value.0;
    if pool.name.as_ref().is_some_and(|own| own.value.0 == *name) {
        errors.report(&sorry.place, format!("{} is this pool itself (allowed: another pool)", quoted(name)));
    } else if !pools.by_name.contains_key(name) {
        let existing = || all.iter().filter_map(|pool| pool.name.as_ref()).map(|name| name.value.0.as_str());
        let scope = if all.iter().all(|pool| pool.name.is_some()) { Scope::Tables } else { Scope::Text };
        let meant = nearest(name, existing()).map(quoted);
        let wrong = Wrong { what: format!("{} is no pool", quoted(name)), meant };
        errors.report_missing(&sorry.place, scope, wrong.message("the name of another [[pool]]"));
    }
}

fn check_slow_start(pool: &file::Pool, errors: &Errors<'_>) {
    let Some(slow_start) = &pool.policy.slow_start else { return };
    if let Some(scheduler @ (Scheduler::RoundRobin | Scheduler::LeastConnections)) = pool.scheduler {
        errors.report(
            &slow_start.place,
            format!("scheduler \"{scheduler}\" knows no shares that could grow (allowed under every other one)"),
        );
    }
}

/// The port that all of these have, if it is one.
pub(super) fn service_port(users: &[&file::Vip]) -> Option<u16> {
    let mut ports = users.iter().map(|vip| match vip.port.as_ref()?.value {
        VipPort::Exact(port) => Some(port),
        VipPort::Any => None,
    });
    let first = ports.next()??;
    ports.all(|port| port == Some(first)).then_some(first)
}

/// The pools that each pool's VIPs may come to: its own, and where too few members are left another.
pub(super) fn users<'f>(file: &'f file::File, pools: &PoolIndex) -> Vec<Vec<&'f file::Vip>> {
    let mut users: Vec<Vec<&file::Vip>> = vec![Vec::new(); file.pools.len()];
    let sorry: HashMap<usize, usize> = (0..)
        .zip(&file.pools)
        .filter_map(|(index, pool)| Some((index, *pools.by_name.get(&pool.policy.sorry_pool.as_ref()?.value.0)?)))
        .collect();
    for vip in &file.vips {
        let Some(pool) = pools.of(vip) else { continue };
        users[pool].push(vip);
        if let Some(sorry) = sorry.get(&pool).filter(|sorry| **sorry != pool) {
            users[*sorry].push(vip);
        }
    }
    users
}

/// `None` only if an error has been reported.
pub(super) fn policy_of(policy: file::Policy, pools: &PoolIndex, service_port: Option<u16>) -> Option<Policy> {
    let value = |field: Option<Field<Combine>>| field.map_or(Combine::All, |field| field.value);
    Some(Policy {
        monitors: policy.monitors.into_iter().map(monitor_of).collect::<Option<_>>()?,
        combine: value(policy.combine),
        start: policy.start.map_or(Start::Up, |start| start.value),
        damping: match policy.damping {
            Some(damping) => {
                Some(Damping { downs: damping.downs?.0, within: damping.within?.0, hold: damping.hold?.0 })
            }
            None => None,
        },
        quorum: policy.quorum.map_or(1, |quorum| quorum.value.0),
        quorum_hysteresis: policy.quorum_hysteresis.map_or(0, |hysteresis| hysteresis.value.0),
        sorry_pool: match policy.sorry_pool {
            Some(name) => Some(*pools.by_name.get(&name.value.0)?),
            None => None,
        },
        slow_start: policy.slow_start.map(|slow_start| slow_start.value.0),
        service_port,
    })
}

fn monitor_of(monitor: file::Monitor) -> Option<Monitor> {
    let interval = monitor.interval?.0;
    Some(Monitor {
        probe: monitor.probe?,
        interval,
        timeout: monitor.timeout.map_or(TIMEOUT.min(interval), |timeout| timeout.value.0),
        rise: monitor.rise?.0,
        fall: monitor.fall?.0,
        port: monitor.port.map(|port| port.value.0),
    })
}
