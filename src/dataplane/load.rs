//! How many flows each member and each VIP has, and which members have too many: written by whoever begins, changes or
//! ends a flow, so shared by all workers; never touched by a packet that does none of this.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use zerocopy::FromZeros;

use super::flow::{Event, FlowState};
use super::ids::{MemberId, VipId};
use super::memory::zeroed;

/// One member's flows that are in the connection table, and whether they are too many.
///
/// One word: `inactive << 32 | active << 1 | overloaded`, the counts as signed numbers. So both counts and the bit that
/// follows from their sum change together, whoever else is counting. (A count is below 0 for a moment when a flow's end
/// is counted before its beginning, by another worker.)
///
/// Eight of them share a cache line: a line each would be 64 MiB for a million members, and flows are spread over them.
#[derive(Debug, Default, FromZeros)]
pub struct Load(AtomicU64);

const OVERLOADED: u64 = 1;
const ACTIVE: u64 = 1 << 1;
const INACTIVE: u64 = 1 << 32;

/// One VIP's flows; a cache line (of the pairs that x86-64 fetches), since workers begin flows of different VIPs.
#[derive(Debug, Default, FromZeros)]
#[repr(align(128))]
struct VipLoad(AtomicI64);

/// When a member has too many flows (IPVS: `u_threshold`, `l_threshold`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// With this many flows, active or not, it is overloaded.
    pub upper: NonZeroU32,
    /// With fewer than this it is no longer; `None`: with fewer than three quarters of `upper`.
    pub lower: Option<NonZeroU32>,
}

/// Every member's thresholds.
pub trait ThresholdsOf {
    /// This member's.
    fn thresholds_of(&self, member: MemberId) -> Option<&Thresholds>;
}

/// Every member's and every VIP's.
#[derive(Debug)]
pub struct Loads {
    members: Box<[Load]>,
    vips: Box<[VipLoad]>,
    /// Where a member without a place of its own is counted.
    unknown: Load,
}

impl Load {
    /// Flows of TCP that open or are established, and all of UDP (IPVS: `ActiveConn`).
    #[inline]
    pub fn active(&self) -> u32 {
        count(active(self.word()))
    }

    /// All others: closing ones of TCP (IPVS: `InActConn`).
    #[inline]
    pub fn inactive(&self) -> u32 {
        count(inactive(self.word()))
    }

    /// Whether it may have no new flows for now, because it has too many (IPVS: `IP_VS_DEST_F_OVERLOAD`).
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.word() & OVERLOADED != 0
    }

    /// Makes it overloaded or not, whatever counts.
    #[cfg(test)]
    pub(super) fn set_overloaded(&self, overloaded: bool) {
        let bit = if overloaded { OVERLOADED } else { 0 };
        self.0.store(self.word() & !OVERLOADED | bit, Ordering::Relaxed);
    }

    fn word(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, change: u64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    /// Makes the bit what counts and thresholds say. Whoever changes a count comes by here afterwards, and the bit is
    /// only ever written together with the counts that it follows from: so it does not stay wrong.
    fn settle(&self, thresholds: Option<&Thresholds>) {
        let settled = |word| {
            let right = if is_overloaded(word, thresholds) { word | OVERLOADED } else { word & !OVERLOADED };
            (right != word).then_some(right)
        };
        // An error says that nothing was to be changed.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, settled);
    }
}

/// A count as readers want it: never below 0.
fn count(flows: i64) -> u32 {
    u32::try_from(flows.max(0)).unwrap_or(u32::MAX)
}

/// Sign-extends the 31 bits.
fn active(word: u64) -> i64 {
    i64::from((word as u32 & !(OVERLOADED as u32)).cast_signed() >> 1)
}

/// What is left when the active ones are taken off.
fn inactive(word: u64) -> i64 {
    word.wrapping_sub(active(word).cast_unsigned().wrapping_mul(ACTIVE)).cast_signed() >> 32
}

/// The rule of `ip_vs_bind_dest` and `ip_vs_unbind_dest` (Linux, `net/netfilter/ipvs/ip_vs_conn.c`).
fn is_overloaded(word: u64, thresholds: Option<&Thresholds>) -> bool {
    let Some(Thresholds { upper, lower }) = thresholds else { return false };
    let flows = (active(word) + inactive(word)).max(0);
    let upper = i64::from(upper.get());
    let is_relieved = lower.map_or(flows * 4 < upper * 3, |lower| flows < i64::from(lower.get()));
    flows >= upper || (word & OVERLOADED != 0 && !is_relieved)
}

fn one(state: FlowState) -> u64 {
    if state.is_active() { ACTIVE } else { INACTIVE }
}

impl Loads {
    /// For ids below these bounds; memory is taken as they are first counted (see `Counters::new`).
    pub fn new(members: usize, vips: usize) -> Self {
        Self { members: zeroed(members), vips: zeroed(vips), unknown: Load::default() }
    }

    /// A member's.
    #[inline]
    pub fn of(&self, member: MemberId) -> &Load {
        self.members.get(member.0 as usize).unwrap_or(&self.unknown)
    }

    /// Has a member be overloaded or not by thresholds that are others than they were: nothing else need happen to its
    /// flows for a while.
    pub fn settle(&self, member: MemberId, thresholds: &impl ThresholdsOf) {
        self.of(member).settle(thresholds.thresholds_of(member));
    }

    /// Has a member begin without flows. Only while the connection table names it nowhere.
    pub fn forget_member(&self, member: MemberId) {
        self.of(member).0.store(0, Ordering::Relaxed);
    }

    /// Has a VIP begin without flows, under the same condition.
    pub fn forget_vip(&self, vip: VipId) {
        if let Some(vip) = self.vips.get(usize::from(vip.0)) {
            vip.0.store(0, Ordering::Relaxed);
        }
    }

    /// How many flows a VIP has in the connection table; 0 for one without a place of its own.
    #[inline]
    pub fn flows_of_vip(&self, vip: VipId) -> u32 {
        let flows = self.vips.get(usize::from(vip.0)).map_or(0, |vip| vip.0.load(Ordering::Relaxed));
        count(flows)
    }

    /// Takes in what happened to a flow. The table tells each event once, so nothing is lost or counted twice; between
    /// the two halves of one a reader may see a flow in neither or both.
    pub fn record(&self, event: Event, thresholds: &impl ThresholdsOf) {
        let (vip, member, change) = match event {
            Event::Began { vip, member, state } => (Some((vip, 1)), member, one(state)),
            Event::Ended { vip, member, state } => (Some((vip, -1)), member, one(state).wrapping_neg()),
            Event::Changed { from, to, .. } if from.is_active() == to.is_active() => return,
            Event::Changed { member, from, to } => (None, member, one(to).wrapping_sub(one(from))),
        };
        let load = self.of(member);
        load.add(change);
        if let Some((vip, change)) = vip {
            load.settle(thresholds.thresholds_of(member));
            if let Some(vip) = self.vips.get(usize::from(vip.0)) {
                vip.0.fetch_add(change, Ordering::Relaxed);
            }
        }
    }
}

/// The same for all.
impl ThresholdsOf for Option<Thresholds> {
    fn thresholds_of(&self, _member: MemberId) -> Option<&Thresholds> {
        self.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const VIP: VipId = VipId(0);
    const MEMBER: MemberId = MemberId(1);

    fn began(state: FlowState) -> Event {
        Event::Began { vip: VIP, member: MEMBER, state }
    }

    fn ended(state: FlowState) -> Event {
        Event::Ended { vip: VIP, member: MEMBER, state }
    }

    fn changed(from: FlowState, to: FlowState) -> Event {
        Event::Changed { member: MEMBER, from, to }
    }

    fn thresholds(upper: u32, lower: Option<u32>) -> Thresholds {
        Thresholds { upper: NonZeroU32::new(upper).expect("not 0"), lower: lower.and_then(NonZeroU32::new) }
    }

    #[test]
    fn a_flow_is_counted_where_it_is() {
        use FlowState::{Closing, Embryonic, Established, Single};
        let loads = Loads::new(2, 1);
        let count = |member| (loads.of(member).active(), loads.of(member).inactive(), loads.flows_of_vip(VIP));
        let record = |event| loads.record(event, &None);
        let steps = [
            (began(Embryonic), (1, 0, 1)),
            (changed(Embryonic, Established), (1, 0, 1)),
            (began(Embryonic), (2, 0, 2)),
            (changed(Established, Closing), (1, 1, 2)),
            (ended(Closing), (1, 0, 1)),
            (ended(Embryonic), (0, 0, 0)),
            // Counted by another worker before it began.
            (ended(Established), (0, 0, 0)),
            (began(Closing), (0, 1, 0)),
            (began(Established), (0, 1, 1)),
            (ended(Closing), (0, 0, 0)),
        ];
        for (event, expected) in steps {
            record(event);
            assert_eq!(count(MEMBER), expected, "{event:?}");
        }
        record(Event::Began { vip: VipId(9), member: MemberId(77), state: Single });
        assert_eq!((count(MEMBER), count(MemberId(0))), ((0, 0, 0), (0, 0, 0)));
        assert_eq!(loads.flows_of_vip(VipId(9)), 0);
    }

    #[test]
    fn overloaded_from_the_upper_threshold_until_below_the_lower() {
        use FlowState::{Closing, Established};
        // Upper, lower, flows at which it is overloaded when they grow, flows at which it is not when they shrink.
        // The last three follow ip_vs_conn.c's `flows * 4 < upper * 3`.
        for (upper, lower, overloaded, relieved) in [
            (10, Some(3), 10, 2),
            (10, Some(10), 10, 9),
            (1, Some(1), 1, 0),
            (10, None, 10, 7),
            (8, None, 8, 5),
            (1, None, 1, 0),
        ] {
            let (loads, thresholds) = (Loads::new(2, 1), Some(thresholds(upper, lower)));
            let is_overloaded = || loads.of(MEMBER).is_overloaded();
            for flows in 1..=upper + 2 {
                // Active and inactive ones count alike.
                loads.record(began(Established), &thresholds);
                if flows % 2 == 1 {
                    loads.record(changed(Established, Closing), &thresholds);
                }
                assert_eq!(is_overloaded(), flows >= overloaded, "{flows} flows, {upper}, {lower:?}");
            }
            for flows in (0..upper + 2).rev() {
                loads.record(ended(if flows % 2 == 0 { Closing } else { Established }), &thresholds);
                assert_eq!(is_overloaded(), flows > relieved, "{flows} flows left, {upper}, {lower:?}");
            }
        }
    }

    #[test]
    fn without_thresholds_nothing_is_too_many() {
        let loads = Loads::new(2, 1);
        for _ in 0..1000 {
            loads.record(began(FlowState::Established), &None);
        }
        assert!(!loads.of(MEMBER).is_overloaded());
        // Taken away while it was overloaded: relieved by the next flow that begins or ends.
        loads.record(began(FlowState::Established), &Some(thresholds(10, None)));
        assert!(loads.of(MEMBER).is_overloaded());
        loads.record(ended(FlowState::Established), &None);
        assert!(!loads.of(MEMBER).is_overloaded());
    }

    #[test]
    fn other_thresholds_count_at_once() {
        let loads = Loads::new(2, 1);
        let under = |thresholds| {
            loads.settle(MEMBER, &thresholds);
            loads.of(MEMBER).is_overloaded()
        };
        for _ in 0..10 {
            loads.record(began(FlowState::Established), &None);
        }
        let rows = [
            (None, false),
            (Some(thresholds(10, None)), true),
            (Some(thresholds(20, None)), false),
            (Some(thresholds(5, None)), true),
            (None, false),
        ];
        for (thresholds, expected) in rows {
            assert_eq!(under(thresholds), expected, "{thresholds:?}");
        }
        loads.forget_member(MEMBER);
        assert!(!under(Some(thresholds(1, None))) && loads.of(MEMBER).active() == 0);
    }

    /// However threads' events fall: the counts come out even, and the bit says what they say.
    #[test]
    fn threads_leave_true_counts_and_a_true_bit() {
        use FlowState::{Closing, Embryonic, Established};
        const THREADS: u32 = 4;
        let (loads, thresholds) = (Loads::new(2, 1), Some(thresholds(3, Some(2))));
        for round in 0..50 {
            // Each leaves one flow in every other round, and takes it away in the next.
            let event = if round % 2 == 0 { began(Established) } else { ended(Established) };
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        for _ in 0..500 {
                            loads.record(began(Embryonic), &thresholds);
                            loads.record(changed(Embryonic, Established), &thresholds);
                            loads.record(changed(Established, Closing), &thresholds);
                            loads.record(ended(Closing), &thresholds);
                        }
                        loads.record(event, &thresholds);
                    });
                }
            });
            let left = if round % 2 == 0 { THREADS } else { 0 };
            let load = loads.of(MEMBER);
            assert_eq!((load.active(), load.inactive(), loads.flows_of_vip(VIP)), (left, 0, left));
            assert_eq!(load.is_overloaded(), left > 0, "round {round}");
        }
    }
}
