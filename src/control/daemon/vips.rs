//! What becomes of VIPs, as events: one per change, not per look. (The log names them with their pools.)

use super::Daemon;
use crate::control::model::Vip;
use crate::dataplane::tables::VipId;

impl Daemon {
    /// Of a VIP that is up when it is first seen nothing is said, nor of one whose pool there is nothing to say of yet.
    pub(super) fn say_vips(&mut self) {
        let is_said = |vip: &Vip, state| self.said_of_vips.get(&vip.name) == Some(&state);
        let states = self.plan.vips().map(|(vip, id)| (vip, id, self.vip_state(vip, id)));
        let news: Vec<(String, &'static str, String)> = states
            .filter(|(vip, _, state)| !is_said(vip, *state))
            .map(|(vip, id, state)| {
                let reason = self.why(vip, self.has_slots(id)).unwrap_or_default();
                (vip.name.clone(), state, reason)
            })
            .collect();
        for (name, state, reason) in news {
            let before = self.said_of_vips.get(&name).copied();
            if before.is_none() && state == "down" && !self.is_said_of_pool_of(&name) {
                continue;
            }
            if before.is_some() || state != "up" {
                self.events.add("vip", &name, (before.map(str::to_owned), Some(state.to_owned())), reason);
            }
            self.said_of_vips.insert(name, state);
        }
    }

    fn is_said_of_pool_of(&self, vip: &str) -> bool {
        let model = &self.plan.model;
        let pool = model.vips.iter().find(|one| one.name == vip).map(|vip| &model.pools[vip.pool].name);
        pool.is_some_and(|pool| self.said_of_pools.contains_key(pool))
    }

    /// `up`, `down` or `disabled`.
    pub(super) fn vip_state(&self, vip: &Vip, id: VipId) -> &'static str {
        match (vip.enabled, self.has_slots(id)) {
            (false, _) => "disabled",
            (true, true) => "up",
            (true, false) => "down",
        }
    }

    /// Whether somebody serves it.
    pub(super) fn has_slots(&self, id: VipId) -> bool {
        self.plane
            .as_ref()
            .is_some_and(|plane| plane.tables().vips.get(usize::from(id.0)).is_some_and(|vip| !vip.slots.is_empty()))
    }
}
