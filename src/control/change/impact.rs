//! What a change comes to for the VIPs that there are: slots that move, and live flows that would not stay where they
//! are.

use std::sync::Arc;

use serde::Serialize;

use super::super::compile::Plan;
use super::super::identity::VipIdentity;
use crate::dataplane::flow::{FlowState, FlowTable, Key as _};
use crate::dataplane::schedule::OnMemberDown;
use crate::dataplane::tables::{MemberId, Tables, VipId};

/// For one VIP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Impact {
    /// Its name now.
    pub vip: String,
    /// Slots of its Maglev table; 0 if no member is usable.
    pub slots: usize,
    /// Slots that would lead to another member than now.
    pub slots_moved: usize,
    /// Its flows in the connection table.
    pub flows: usize,
    /// Those whose next packet would find another member, because theirs goes.
    pub flows_reselected: usize,
    /// Those whose packets would be dropped as `on_member_down` has it, because their member goes.
    pub flows_dropped: usize,
    /// Those that would end, because the VIP goes.
    pub flows_ended: usize,
}

impl Impact {
    /// Whether nothing would happen to this VIP.
    pub fn is_none(&self) -> bool {
        (self.slots_moved, self.flows_reselected, self.flows_dropped, self.flows_ended) == (0, 0, 0, 0)
    }
}

/// What becomes of each VIP of the `before` plan that does not come away unchanged. Walks the connection table without
/// holding anybody up: what comes or goes meanwhile may be counted or not.
pub fn impact(before: (&Plan, &Tables), after: (&Plan, &Tables), flows: &FlowTable) -> Vec<Impact> {
    let stays: std::collections::HashSet<VipIdentity> = after.0.vips().map(|(vip, _)| VipIdentity::of(vip)).collect();
    let mut impacts = vec![Impact::default(); before.1.vips.len()];
    let mut listed = Vec::new();
    for (vip, id) in before.0.vips() {
        let stays = stays.contains(&VipIdentity::of(vip));
        let Some(impact) = impacts.get_mut(usize::from(id.0)) else { continue };
        let slots = |tables: &Tables| tables.vips.get(usize::from(id.0)).map(|vip| Arc::clone(&vip.slots));
        let (old, new) = (slots(before.1).unwrap_or_default(), slots(after.1).unwrap_or_default());
        impact.vip.clone_from(&vip.name);
        (impact.slots, impact.slots_moved) = match stays {
            true if before.1.seed == after.1.seed => (new.len(), moved(&old, &new)),
            // Every flow hashes to another slot.
            true => (new.len(), new.len()),
            false => (old.len(), old.len()),
        };
        listed.push((id, stays));
    }
    let mut is_listed = vec![None; impacts.len()];
    for &(id, stays) in &listed {
        is_listed[usize::from(id.0)] = Some(stays);
    }
    for flow in flows.v4.iter(flows.now()) {
        let index = usize::from(flow.key.vip().0);
        let Some(Some(stays)) = is_listed.get(index) else { continue };
        let impact = &mut impacts[index];
        impact.flows += 1;
        let is_lost = before.1.is_reachable(flow.member) && !after.1.is_reachable(flow.member);
        if !stays {
            impact.flows_ended += 1;
        } else if is_lost {
            match policy(after.1, flow.key.vip(), flow.state) {
                OnMemberDown::Reselect => impact.flows_reselected += 1,
                OnMemberDown::Keep | OnMemberDown::Drop => impact.flows_dropped += 1,
            }
        }
    }
    let mut result: Vec<Impact> =
        listed.into_iter().map(|(id, _)| std::mem::take(&mut impacts[usize::from(id.0)])).collect();
    result.retain(|impact| !impact.is_none());
    result
}

fn policy(tables: &Tables, vip: VipId, state: FlowState) -> OnMemberDown {
    let policy = tables.vips.get(usize::from(vip.0)).map(|vip| vip.pool.on_member_down());
    // A flow of which only SYNs were seen is always selected again.
    policy.filter(|_| state != FlowState::Embryonic).unwrap_or(OnMemberDown::Reselect)
}

/// How many of the new slots lead to another member. With another number of slots, each is compared with the old one
/// that the middle of its range of hashes fell into.
fn moved(old: &Arc<[MemberId]>, new: &Arc<[MemberId]>) -> usize {
    if Arc::ptr_eq(old, new) {
        return 0;
    }
    let before = |slot: usize| old.get((2 * slot + 1) * old.len() / (2 * new.len()));
    new.iter().enumerate().filter(|(slot, member)| before(*slot) != Some(member)).count()
}
