//! What is said of pools, in the log and as events: a line per change, not per look.

use std::time::SystemTime;

use tracing::{info, warn};

use super::Daemon;
use super::members::is_asked_for;
use crate::control::compile::{PoolState, PoolStatus};
use crate::control::model::Model;

/// VIPs that a line names; the rest is counted.
const MOST_NAMED: usize = 10;

/// What was last said of a pool, and when.
#[derive(Debug)]
pub(super) struct SaidOfPool {
    pub(super) state: PoolState,
    pub(super) since: SystemTime,
}

impl Daemon {
    /// Of a pool that is up when it is first seen, nothing is to be said; of one whose members are just being asked for,
    /// nothing yet.
    pub(super) fn say_pools(&mut self, pools: &[PoolStatus]) {
        let model = &self.plan.model;
        let mut members = self.members.iter();
        for (index, (pool, status)) in model.pools.iter().zip(pools).enumerate() {
            let before = self.said_of_pools.get(&pool.name).map(|said| said.state);
            let asked_for = members.by_ref().take(pool.members.len()).filter(|one| is_asked_for(&one.state)).count();
            let is_early = before.is_none() && status.state != PoolState::Up && asked_for > 0;
            if before == Some(status.state) || is_early {
                continue;
            }
            self.said_of_pools.insert(pool.name.clone(), SaidOfPool { state: status.state, since: SystemTime::now() });
            if before.unwrap_or(PoolState::Up) == status.state {
                continue;
            }
            let reason = format!("{}; {}", status.reason(), users(model, index));
            let word = status.state.name().replace('_', " ");
            if status.state > before.unwrap_or(PoolState::Up) {
                warn!("pool {} {word}: {reason}", pool.name);
            } else {
                let again = if status.state == PoolState::Up { " again" } else { "" };
                info!("pool {} {word}{again}: {reason}", pool.name);
            }
            let from = before.map(|state| state.name().to_owned());
            self.events.add("pool", &pool.name, (from, Some(status.state.name().to_owned())), reason);
        }
    }
}

/// Whom a pool's state concerns.
fn users(model: &Model, pool: usize) -> String {
    let vips: Vec<&str> = model.vips.iter().filter(|vip| vip.pool == pool).map(|vip| vip.name.as_str()).collect();
    let others = model.pools.iter().filter(|other| other.policy.sorry_pool == Some(pool));
    let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
    let named = |kind: &str, names: &[&str]| {
        let more = names.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let plural = if names.len() == 1 { "" } else { "s" };
        format!("{kind}{plural} {}{more}", names[..names.len().min(MOST_NAMED)].join(", "))
    };
    match (vips.is_empty(), others.is_empty()) {
        (false, _) => named("VIP", &vips),
        (true, false) => named("sorry pool of pool", &others),
        (true, true) => "no VIP uses it".to_owned(),
    }
}
