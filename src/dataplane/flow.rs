//! Seen before? The place of the connection table in the packet's walk.
//!
//! It remembers nothing yet: every packet of a flow is hashed to the same slot of the same Maglev table, so a flow
//! stays with its member for as long as the pool's usable members do not change.

use super::ids::{MemberId, VipId};
use super::parse::FlowKey;

/// A moment, in nanoseconds of the monotonic clock; read once per burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

/// What is known of flows.
#[derive(Debug, Default)]
pub struct FlowTable {}

impl FlowTable {
    /// The member that this flow's earlier packets went to.
    #[inline]
    pub fn find(&self, _vip: VipId, _key: &FlowKey, _now: Now) -> Option<MemberId> {
        None
    }
}
