//! Schedulers: which member a new flow goes to, with IPVS's semantics (Linux, `net/netfilter/ipvs/ip_vs_{rr,wrr,lc,
//! wlc,sh,sed,nq}.c`).
//!
//! They are asked about packets that begin a flow (a SYN, a first datagram) and about no others: one in mid-stream
//! that the connection table does not know goes by the pool's Maglev table under every scheduler, and so does a new
//! flow that is not entered into the connection table, since its later packets will.
//!
//! Choosing only reads. What it reads is shared by all workers: `turn` (`rr` and `wrr` stand where the last flow left
//! them) and [`Loads`] (`lc`, `wlc`, `sed` and `nq` compare how many flows members have). The
//! turn is taken when the flow is entered, by [`Pool::take_turn`].

mod least;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
mod turn;

pub use turn::Turns;

use super::flow::FlowState;
use super::ids::{MemberId, VipId};
use super::load::Loads;
use super::parse::FlowKey;
use super::select::{self, Seed};
use turn::Cycle;

/// How a new flow's member is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Maglev consistent hashing over addresses and ports.
    Maglev,
    /// Each member in its turn, whatever its weight.
    RoundRobin,
    /// Each member in its turn, the heavier ones in more rounds.
    WeightedRoundRobin,
    /// The member with the least overhead: 256 for an active flow, 1 for an inactive one.
    LeastConnections,
    /// The member with the least overhead for its weight.
    WeightedLeastConnections,
    /// Hashing over the source address alone.
    SourceHash,
    /// The member with the fewest active flows for its weight, the new one included.
    ShortestExpectedDelay,
    /// A member without active flows if there is one, else the shortest expected delay.
    NeverQueue,
}

/// What becomes of a flow's packets when its member cannot be reached any more, or is no member any more. (A TCP flow
/// of which only SYNs were seen is always selected again: it has nothing to lose.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMemberDown {
    /// The flow gets another member, by the pool's Maglev table.
    Reselect,
    /// The flow stays with its member; its packets are dropped for as long as nothing can be sent there.
    Keep,
    /// The packet is dropped and the flow forgotten: the next packet is that of an unknown flow.
    Drop,
}

/// A pool as new flows see it.
#[derive(Debug)]
pub struct Pool {
    scheduler: Scheduler,
    on_member_down: OnMemberDown,
    /// Every configured member, in the configuration's order: where `rr` stands means the same when one goes down.
    candidates: Box<[Candidate]>,
    cycle: Cycle,
}

/// A member of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in the tables.
    pub member: MemberId,
    /// Its weight; 0: it gets no new flows, because it is quiesced, disabled or cannot be reached.
    pub weight: u16,
}

/// What else a choice is made from.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The VIP, for its turn.
    pub vip: VipId,
    /// The pool's Maglev table.
    pub slots: &'a [MemberId],
    /// The selection hash's.
    pub seed: Seed,
    /// How many flows members have.
    pub loads: &'a Loads,
    /// Where the VIPs' round robins stand.
    pub turns: &'a Turns,
}

impl Pool {
    /// A pool of these members.
    pub fn new(scheduler: Scheduler, on_member_down: OnMemberDown, mut candidates: Vec<Candidate>) -> Self {
        if matches!(scheduler, Scheduler::RoundRobin | Scheduler::LeastConnections) {
            // All they want to know of a weight is whether it is 0.
            for candidate in &mut candidates {
                candidate.weight = candidate.weight.min(1);
            }
        }
        let cycle = Cycle::of(&candidates);
        Self { scheduler, on_member_down, candidates: candidates.into(), cycle }
    }

    /// What becomes of flows whose member is gone.
    pub fn on_member_down(&self) -> OnMemberDown {
        self.on_member_down
    }

    /// Whether a flow in this state stays bound to a member that is gone.
    pub fn keeps(&self, state: FlowState) -> bool {
        // Nothing but SYNs so far: the client has nothing to lose, and tries again.
        state != FlowState::Embryonic && self.on_member_down == OnMemberDown::Keep
    }

    /// Whether a member is usable: of this pool, up, and with a weight.
    pub fn admits(&self, member: MemberId) -> bool {
        // A pool's ids follow each other, but nothing else rests on that.
        let first = self.candidates.first().map_or(0, |first| first.member.0);
        let nearby = member.0.checked_sub(first).and_then(|index| self.candidates.get(index as usize));
        let found = nearby.filter(|one| one.member == member);
        found.or_else(|| self.candidates.iter().find(|one| one.member == member)).is_some_and(|one| one.weight > 0)
    }

    /// Whether the scheduler is Maglev's hashing.
    #[inline]
    pub fn is_maglev(&self) -> bool {
        self.scheduler == Scheduler::Maglev
    }

    /// Whether a flow that is entered takes a turn.
    pub fn takes_turns(&self) -> bool {
        matches!(self.scheduler, Scheduler::RoundRobin | Scheduler::WeightedRoundRobin)
    }

    /// The member of the Maglev slot that the flow hashes to: for packets of unknown flows in mid-stream, and flows
    /// that are not entered into the connection table. Under `sh` it is the source alone that is hashed, so that
    /// these, too, go where their flow went. `None`: no member is usable.
    #[inline]
    pub fn hashed(&self, (seed, slots): (Seed, &[MemberId]), flow: &FlowKey) -> Option<MemberId> {
        select::select(seed, slots, &self.identity(flow))
    }

    /// The same for a flow that begins, where hashing is the scheduler's choice.
    #[inline]
    pub fn hashed_first(&self, table: (Seed, &[MemberId]), flow: &FlowKey) -> Option<MemberId> {
        let hashes = matches!(self.scheduler, Scheduler::Maglev | Scheduler::SourceHash);
        hashes.then(|| self.hashed(table, flow)).flatten()
    }

    /// The member for a flow that begins; `None`: there is none that is usable and that `may_take` admits. Changes
    /// nothing: where [`Pool::takes_turns`], the flow's entry is what takes the turn.
    #[inline(never)]
    pub fn choose(
        &self,
        surroundings: &Surroundings<'_>,
        flow: &FlowKey,
        may_take: impl Fn(MemberId) -> bool,
    ) -> Option<MemberId> {
        let Surroundings { vip, slots, seed, loads, turns } = *surroundings;
        match self.scheduler {
            Scheduler::Maglev | Scheduler::SourceHash => {
                let spare = |nth: &dyn Fn(usize) -> usize| self.spare(nth(self.candidates.len()), &may_take);
                select::select_among(seed, slots, &self.identity(flow), &may_take, spare)
            }
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => {
                let next = self.cycle.next(&self.candidates, turns.of(vip).get(), &may_take);
                next.map(|(member, _)| member)
            }
            Scheduler::LeastConnections | Scheduler::WeightedLeastConnections => {
                least::overhead(&self.candidates, loads, &may_take)
            }
            Scheduler::ShortestExpectedDelay => least::expected_delay(&self.candidates, loads, &may_take),
            Scheduler::NeverQueue => least::idle(&self.candidates, loads, &may_take)
                .or_else(|| least::expected_delay(&self.candidates, loads, &may_take)),
        }
    }

    /// Takes the VIP's next turn, which no other worker takes; the member whose it is. (The one that was chosen,
    /// unless another worker has taken that turn since.) `None`: nobody's.
    pub fn take_turn(&self, turns: &Turns, vip: VipId, may_take: impl Fn(MemberId) -> bool) -> Option<MemberId> {
        turns.of(vip).take(|at| self.cycle.next(&self.candidates, at, &may_take))
    }

    /// What of a flow is hashed.
    #[inline]
    fn identity(&self, flow: &FlowKey) -> FlowKey {
        match self.scheduler {
            Scheduler::SourceHash => {
                FlowKey { source: flow.source, destination: 0, source_port: 0, destination_port: 0, protocol: 0 }
            }
            _ => *flow,
        }
    }

    /// The first usable member that may take a flow, from this one on.
    fn spare(&self, first: usize, may_take: &impl Fn(MemberId) -> bool) -> Option<MemberId> {
        let (before, from) = self.candidates.split_at_checked(first)?;
        let fits = |candidate: &&Candidate| candidate.weight > 0 && may_take(candidate.member);
        from.iter().chain(before).find(fits).map(|candidate| candidate.member)
    }
}
