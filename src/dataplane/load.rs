//! How many flows each member has: written by whoever begins, changes or ends one, so shared by all workers; never
//! touched by a packet that does none of this.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::flow::{Event, FlowState};
use super::ids::MemberId;

/// One member's flows that are in the connection table.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicU32,
    inactive: AtomicU32,
    overloaded: AtomicBool,
}

/// Every member's.
#[derive(Debug)]
pub struct Loads {
    members: Box<[Load]>,
    /// Where a member without a place of its own is counted.
    unknown: Load,
}

impl Load {
    /// Flows of TCP that are established, and all of UDP (IPVS: `ActiveConn`).
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// All others: opening and closing ones of TCP (IPVS: `InActConn`).
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Ordering::Relaxed)
    }

    /// Whether it may have no new flows for now, because it has too many (IPVS: `IP_VS_DEST_F_OVERLOAD`).
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Says so, or takes it back.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.overloaded.store(overloaded, Ordering::Relaxed);
    }

    fn of(&self, state: FlowState) -> &AtomicU32 {
        if state.is_active() { &self.active } else { &self.inactive }
    }
}

impl Loads {
    /// For ids below this bound.
    pub fn new(members: usize) -> Self {
        Self { members: std::iter::repeat_with(Load::default).take(members).collect(), unknown: Load::default() }
    }

    /// A member's.
    #[inline]
    pub fn of(&self, member: MemberId) -> &Load {
        self.members.get(member.0 as usize).unwrap_or(&self.unknown)
    }

    /// Takes in what happened to a flow. The table tells each event once, so nothing is lost or counted twice; between
    /// the two halves of one a reader may see a flow in neither or both.
    pub fn record(&self, event: Event) {
        let begin = |member, state| self.of(member).of(state).fetch_add(1, Ordering::Relaxed);
        let end = |member, state| self.of(member).of(state).fetch_sub(1, Ordering::Relaxed);
        match event {
            Event::Began { member, state } => begin(member, state),
            Event::Ended { member, state } => end(member, state),
            Event::Changed { from, to, .. } if from.is_active() == to.is_active() => return,
            Event::Changed { member, from, to } => {
                begin(member, to);
                end(member, from)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_counted_where_it_is() {
        let loads = Loads::new(2);
        let (member, other) = (MemberId(1), MemberId(0));
        let count = |member| (loads.of(member).active(), loads.of(member).inactive());
        loads.record(Event::Began { member, state: FlowState::Embryonic });
        assert_eq!(count(member), (0, 1));
        loads.record(Event::Changed { member, from: FlowState::Embryonic, to: FlowState::Established });
        assert_eq!(count(member), (1, 0));
        loads.record(Event::Changed { member, from: FlowState::Established, to: FlowState::Closing });
        assert_eq!(count(member), (0, 1));
        loads.record(Event::Ended { member, state: FlowState::Closing });
        assert_eq!((count(member), count(other)), ((0, 0), (0, 0)));
        loads.record(Event::Began { member: MemberId(77), state: FlowState::Single });
        assert_eq!((count(member), count(other)), ((0, 0), (0, 0)));
    }
}
