//! Round robin, weighted or not: whose turn it is.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::ids::{MemberId, VipId};
use super::Candidate;

/// Where every VIP's round robin stands; shared by all workers, and carried on from one publication of tables to the
/// next.
#[derive(Debug)]
pub struct Turns(Box<[Turn]>);

/// Where one VIP's stands.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU64);

/// A position in the cycle, as it is stored: `required << 32 | passed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    /// The weight that a member must have to get a turn in this round; 0: the first round is to begin.
    required: u32,
    /// Members that this round has passed.
    passed: u32,
}

impl Turns {
    /// For every [`VipId`] that there can be: half a MiB.
    pub fn new() -> Self {
        Self(std::iter::repeat_with(Turn::default).take(VipId::MOST).collect())
    }

    /// Has a VIP's round robin begin with the first member.
    pub fn forget_vip(&self, vip: VipId) {
        self.of(vip).0.store(0, Ordering::Relaxed);
    }

    pub(super) fn of(&self, vip: VipId) -> &Turn {
        &self.0[usize::from(vip.0)]
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

impl Turn {
    pub(super) fn get(&self) -> At {
        At::unpack(self.0.load(Ordering::Relaxed))
    }

    /// Moves on by one turn: what `next` makes of a position, and whose the turn is. Of all workers only one takes
    /// it; the others take those after it. (The word is all there is to it: no other memory is published by it.)
    pub(super) fn take(&self, next: impl Fn(At) -> Option<(MemberId, At)>) -> Option<MemberId> {
        let mut taken = None;
        let advance = |word| {
            let (member, after) = next(At::unpack(word))?;
            taken = Some(member);
            Some(after.pack())
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance).ok()?;
        taken
    }
}

impl At {
    fn unpack(word: u64) -> Self {
        Self { required: (word >> 32) as u32, passed: word as u32 }
    }

    fn pack(self) -> u64 {
        u64::from(self.required) << 32 | u64::from(self.passed)
    }
}

/// The rounds that a pool's weights make, as in `ip_vs_wrr.c`: in each one, every member whose weight is at least the
/// round's requirement has one turn, in the configuration's order; the requirement falls from the greatest weight to
/// the least step, by steps of the weights' greatest common divisor, and begins again. Equal weights: plain round
/// robin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cycle {
    /// The greatest common divisor of all weights above 0, at least 1.
    step: u32,
    /// The first round's requirement: the greatest weight less `step - 1`, so that the last round's is 1. 0: nobody
    /// has a weight.
    first: u32,
}

impl Cycle {
    pub(super) fn of(candidates: &[Candidate]) -> Self {
        let weights = || candidates.iter().map(|candidate| u32::from(candidate.weight)).filter(|weight| *weight > 0);
        let step = weights().fold(0, greatest_common_divisor).max(1);
        Self { step, first: weights().max().map_or(0, |greatest| greatest - (step - 1)) }
    }

    /// Whose turn comes next, and where that leaves the cycle; `None`: no member has a weight and may take a flow.
    ///
    /// Rounds in which nobody has a turn (the heaviest are overloaded) are skipped in one go, so a look at every
    /// member three times is the worst.
    pub(super) fn next(
        self,
        candidates: &[Candidate],
        at: At,
        may_take: &impl Fn(MemberId) -> bool,
    ) -> Option<(MemberId, At)> {
        let required = self.required(at);
        let passed = if at.passed as usize > candidates.len() { 0 } else { at.passed };
        let fits = |candidate: &Candidate, required: u32| {
            u32::from(candidate.weight) >= required.max(1) && may_take(candidate.member)
        };
        let turn = |from: u32, required: u32| {
            let found = (from..).zip(candidates.get(from as usize..)?).find(|(_, one)| fits(one, required));
            found.map(|(index, one)| (one.member, At { required, passed: index + 1 }))
        };
        if let Some(found) = turn(passed, required) {
            return Some(found);
        }
        let heaviest = candidates.iter().filter(|one| fits(one, 1)).map(|one| u32::from(one.weight)).max()?;
        let highest = self.round_of(heaviest);
        let following = if required > self.step { (required - self.step).min(highest) } else { highest };
        // Should a member have become overloaded between these looks, the last round is for everybody left.
        turn(0, following).or_else(|| turn(0, 1))
    }

    /// The requirement of the round that a position is in. Weights may have changed since it was stored: then the
    /// round that `ip_vs_wrr_dest_changed` goes on with.
    fn required(self, at: At) -> u32 {
        match at.required {
            required if required == 0 || required > self.first => self.first,
            required if self.step > 1 => required / self.step * self.step + 1,
            required => required,
        }
    }

    /// The last round that asks for no more than this weight.
    fn round_of(self, weight: u32) -> u32 {
        weight.saturating_sub(1) / self.step * self.step + 1
    }
}

/// Euclid's.
fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
