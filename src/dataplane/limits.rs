//! What VIPs and members ask for that few of them do: looked at when a flow begins or ends, so kept apart from what
//! every packet looks at.

use std::num::NonZeroU32;

use super::ids::{IdSet, MemberId, VipId};
use super::load::{Loads, Thresholds, ThresholdsOf};
use super::persistence::Persistence;

/// Every VIP's policy and every member's thresholds.
#[derive(Debug, Default)]
pub struct Limits {
    /// Indexed by [`VipId`]; a VIP beyond its end has none.
    pub policies: Box<[Policy]>,
    /// Indexed by [`MemberId`]; a member beyond its end has none.
    pub thresholds: Box<[Option<Thresholds>]>,
    /// Who is no more.
    pub gone: Gone,
}

/// VIPs and members that the configuration has no longer, but whose ids flows may still name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone {
    /// By [`VipId`].
    pub vips: IdSet,
    /// By [`MemberId`].
    pub members: IdSet,
}

impl Gone {
    /// Whether either of them is no more.
    #[inline]
    pub fn names(&self, vip: VipId, member: MemberId) -> bool {
        self.vips.contains(usize::from(vip.0)) || self.members.contains(member.0 as usize)
    }
}

/// What a VIP asks for besides a member for each flow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// How many flows it may have in the connection table.
    pub connection_limit: Option<NonZeroU32>,
    /// Whether each packet is a flow of its own, which nothing remembers (IPVS: `IP_VS_SVC_F_ONEPACKET`).
    pub one_packet: bool,
    /// Whether a client's flows go to one member.
    pub persistence: Option<Persistence>,
}

impl Limits {
    /// A VIP's policy.
    #[inline]
    pub fn policy_of(&self, vip: VipId) -> &Policy {
        const NONE: &Policy = &Policy { connection_limit: None, one_packet: false, persistence: None };
        self.policies.get(usize::from(vip.0)).unwrap_or(NONE)
    }
}

impl Policy {
    /// Whether all it asks for is a member for each flow, as most do.
    #[inline]
    pub fn asks_nothing(&self) -> bool {
        self.connection_limit.is_none() && !self.one_packet && self.persistence.is_none()
    }

    /// Whether the VIP has as many flows as it may have. (Workers that look at the same moment may each let one more
    /// in.)
    pub fn is_full(&self, vip: VipId, loads: &Loads) -> bool {
        self.connection_limit.is_some_and(|limit| loads.flows_of_vip(vip) >= limit.get())
    }
}

impl ThresholdsOf for Limits {
    #[inline]
    fn thresholds_of(&self, member: MemberId) -> Option<&Thresholds> {
        self.thresholds.get(member.0 as usize)?.as_ref()
    }
}
