//! Consistent hashing after Maglev (Eisenbud et al., NSDI 2016, §3.4), in two layers.
//!
//! **Layer 1** ([`Layout`]) lays all *configured* members over a table of M slots, weights by turn frequency. It
//! depends on the members' identities (address and port) and weights alone, not on their order or health.
//!
//! **Layer 2** ([`Layout::slots`]) lets what is not usable now give its slots away, each slot finding its stand-in by
//! itself: the owner of slot f₁(s), else of f₂(s), … the first that is usable. So the result depends on the slot and
//! the set of usable members only: a health change moves exactly the slots of the member concerned, its return
//! restores the same table, and nodes that share config and health agree without talking.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hasher;
use std::net::Ipv4Addr;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::dataplane::tables::MemberId;

/// Table sizes: primes, each just above a power of two. The first is Maglev's own (§5.3): large enough for 655 members
/// at 100 slots each, small enough to be built in a millisecond.
const SIZES: [u32; 8] = [65_537, 131_101, 262_147, 524_309, 1_048_583, 2_097_169, 4_194_319, 8_388_617];

/// Slots per member below which the shares of equal members differ by more than 1 % (Maglev §5.3).
const SLOTS_PER_MEMBER: usize = 100;

/// What a member's share is divided into while it grows: more would mean more tables to publish, fewer larger steps.
pub const PARTS: u32 = 32;

/// One configured member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its address, the first half of its identity.
    pub address: Ipv4Addr,
    /// Its port, the other half; 0 if it has none of its own.
    pub port: u16,
    /// Its weight; 0: it gets no slots.
    pub weight: u16,
    /// How the tables name it.
    pub id: MemberId,
}

/// Layer 1: which configured member owns which slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Indices into `members`; empty if nobody has a weight.
    owners: Box<[u32]>,
    members: Box<[MemberId]>,
}

impl Layout {
    /// Lays the candidates out, over the smallest table that gives each of them enough slots.
    pub fn new(candidates: &[Candidate]) -> Self {
        let wanted = candidates.len() * SLOTS_PER_MEMBER;
        let size = SIZES.iter().copied().find(|&size| size as usize >= wanted).unwrap_or(SIZES[SIZES.len() - 1]);
        Self::with_size(candidates, size)
    }

    /// Lays the candidates out over `size` slots, a prime that is no less than their number.
    pub fn with_size(candidates: &[Candidate], size: u32) -> Self {
        let mut candidates: Vec<_> = candidates.iter().filter(|candidate| candidate.weight > 0).collect();
        candidates.sort_by_key(|candidate| (candidate.address, candidate.port));
        Self {
            owners: lay_out(&candidates, size).into(),
            members: candidates.iter().map(|candidate| candidate.id).collect(),
        }
    }

    /// Layer 2: the member of each slot, given which members are usable. Empty if none is.
    pub fn slots(&self, usable: impl Fn(MemberId) -> bool) -> Arc<[MemberId]> {
        self.slots_by_parts(|member| if usable(member) { PARTS } else { 0 })
    }

    /// The same where a member may be usable for a part of the slots, of [`PARTS`]: for which ones depends on the slot
    /// alone, so a part that grows keeps those that it had. Parts are taken of the greatest that there is.
    pub fn slots_by_parts(&self, part: impl Fn(MemberId) -> u32) -> Arc<[MemberId]> {
        let mut parts: Vec<u32> = self.members.iter().map(|&member| part(member).min(PARTS)).collect();
        let greatest = parts.iter().copied().max().unwrap_or(0);
        if greatest == 0 {
            return Arc::new([]);
        }
        for part in &mut parts {
            // Nobody who is usable goes without.
            *part = (*part * PARTS).div_ceil(greatest);
        }
        let mut usable = (0..parts.len()).filter(|&member| parts[member] > 0);
        if let (Some(only), None) = (usable.next(), usable.next()) {
            return vec![self.members[only]; self.owners.len()].into();
        }
        let usable = Usable::new(&self.owners, &parts);
        (0..self.owners.len()).map(|slot| self.members[self.stand_in(slot, &parts, &usable)]).collect()
    }

    /// The first usable owner along the slot's own walk over all slots. The walk visits every slot, since its step is
    /// below the prime M, every member with a weight owns a slot, and one is usable for all slots: it ends.
    fn stand_in(&self, slot: usize, parts: &[u32], usable: &Usable) -> usize {
        let owner = self.owners[slot] as usize;
        if parts[owner] == PARTS {
            return owner;
        }
        let size = self.owners.len();
        let hash = mix(slot as u64);
        // The step is taken from the hash's low end, so to speak; this is its high end.
        let threshold = (hash >> 32) as u32 % PARTS;
        let serves = |at: usize| parts[self.owners[at] as usize] > threshold;
        if serves(slot) {
            return owner;
        }
        let step = 1 + (hash % (size as u64 - 1)) as usize;
        if let Some(few) = &usable.few {
            return self.owners[few.first_on_walk(slot, step, serves)] as usize;
        }
        let mut at = slot;
        loop {
            at += step;
            if at >= size {
                at -= size;
            }
            if usable.is_usable(at) && serves(at) {
                return self.owners[at] as usize;
            }
        }
    }
}

/// The slots whose owners are usable, at least for a part: walks are long where these are few, and a bit is found sooner
/// than an owner and its part.
struct Usable {
    bits: Box<[u64]>,
    few: Option<Few>,
}

impl Usable {
    fn new(owners: &[u32], parts: &[u32]) -> Self {
        let mut bits = vec![0; owners.len().div_ceil(64)];
        let mut slots = Vec::new();
        for (slot, _) in (0_u32..).zip(owners).filter(|(_, owner)| parts[**owner as usize] > 0) {
            bits[slot as usize / 64] |= 1 << (slot % 64);
            slots.push(slot);
        }
        // A walk meets one of n after M / n steps; to compute where each of n lies on it costs about twice as much each.
        let are_few = 2 * slots.len() * slots.len() < owners.len();
        Self { bits: bits.into(), few: are_few.then(|| Few::new(slots, owners.len() as u64)) }
    }

    fn is_usable(&self, slot: usize) -> bool {
        self.bits[slot / 64] >> (slot % 64) & 1 == 1
    }
}

/// So few slots that each one's place on a walk is sooner computed than the walk is walked.
struct Few {
    slots: Vec<u32>,
    /// M, a prime.
    size: u64,
    /// 2^64 / M.
    reciprocal: u64,
    /// Of each step its inverse modulo M.
    inverses: Vec<u32>,
}

impl Few {
    fn new(slots: Vec<u32>, size: u64) -> Self {
        let mut inverses = vec![0, 1];
        for step in 2..size {
            // size = q · step + r, so 1/step = −q / r; r is below step.
            let (q, r) = (size / step, size % step);
            let inverse = (size - q) * u64::from(inverses[r as usize]) % size;
            inverses.push(inverse as u32);
        }
        Self { slots, size, reciprocal: u64::MAX / size, inverses }
    }

    /// Of those that serve, the one that the walk from `slot` by `step` comes to first: with the least k for which
    /// slot + k · step is it, modulo M. One of them does.
    fn first_on_walk(&self, slot: usize, step: usize, serves: impl Fn(usize) -> bool) -> usize {
        let inverse = u64::from(self.inverses[step]);
        let (mut least, mut first) = (u64::MAX, slot);
        for &one in &self.slots {
            let k = self.modulo((self.size + u64::from(one) - slot as u64) * inverse);
            if k < least && serves(one as usize) {
                (least, first) = (k, one as usize);
            }
        }
        first
    }

    /// Barrett's reduction: the quotient is at most one too small for what is below 2^48.
    fn modulo(&self, value: u64) -> u64 {
        let quotient = ((u128::from(value) * u128::from(self.reciprocal)) >> 64) as u64;
        let rest = value - quotient * self.size;
        if rest >= self.size { rest - self.size } else { rest }
    }
}

/// Every candidate walks its own permutation of the slots and takes, at each of its turns, the next free one.
fn lay_out(candidates: &[&Candidate], size: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    if candidates.is_empty() {
        return Vec::new();
    }
    let mut walks: Vec<Walk> = candidates.iter().map(|candidate| Walk::new(candidate, size)).collect();
    let mut owners = vec![FREE; size as usize];
    let mut turns = Turns::new(candidates);
    for _ in 0..size {
        let member = turns.next();
        let walk = &mut walks[member];
        let mut slot = walk.next(size);
        while owners[slot as usize] != FREE {
            slot = walk.next(size);
        }
        owners[slot as usize] = member as u32;
    }
    owners
}

/// A member's permutation of the slots: offset, offset + skip, offset + 2 · skip, … modulo M (Maglev §3.4).
struct Walk {
    at: u32,
    skip: u32,
}

impl Walk {
    fn new(candidate: &Candidate, size: u32) -> Self {
        let mut hasher = SipHasher24::new();
        hasher.write(&candidate.address.octets());
        hasher.write(&candidate.port.to_be_bytes());
        let hash = hasher.finish128();
        let size = u64::from(size);
        Self { at: (hash.h1 % size) as u32, skip: 1 + (hash.h2 % (size - 1)) as u32 }
    }

    fn next(&mut self, size: u32) -> u32 {
        let slot = self.at;
        self.at += self.skip;
        if self.at >= size {
            self.at -= size;
        }
        slot
    }
}

/// Whose turn it is. The heaviest member has a turn in every round, one of half its weight in every other, and each
/// has one in the first, so that nobody with a weight goes without a slot. Within a round: canonical order.
enum Turns {
    Equal { next: usize, members: usize },
    Weighted { heap: BinaryHeap<Reverse<Turn>>, weights: Vec<u64>, heaviest: u64 },
}

/// Ordered by round, then by member.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    round: u64,
    member: usize,
    taken: u64,
}

impl Turns {
    fn new(candidates: &[&Candidate]) -> Self {
        let weights: Vec<u64> = candidates.iter().map(|candidate| u64::from(candidate.weight)).collect();
        let heaviest = weights.iter().copied().max().unwrap_or(0);
        if weights.iter().all(|&weight| weight == heaviest) {
            return Self::Equal { next: 0, members: weights.len() };
        }
        let heap = (0..weights.len()).map(|member| Reverse(Turn { round: 0, member, taken: 0 })).collect();
        Self::Weighted { heap, weights, heaviest }
    }

    fn next(&mut self) -> usize {
        match self {
            Self::Equal { next, members } => {
                let member = *next;
                *next = if member + 1 == *members { 0 } else { member + 1 };
                member
            }
            Self::Weighted { heap, weights, heaviest } => {
                let Some(mut first) = heap.peek_mut() else { return 0 };
                let Reverse(turn) = &mut *first;
                turn.taken += 1;
                // The k-th turn (from 0) falls in the first round in which k / weight is due.
                turn.round = turn.taken * *heaviest / weights[turn.member];
                turn.member
            }
        }
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input reaches every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const M: u32 = SIZES[0];

    fn candidate(index: u32, weight: u16) -> Candidate {
        Candidate { address: Ipv4Addr::from(0x0a00_0001 + index), port: 80, weight, id: MemberId(index) }
    }

    fn candidates(weights: &[u16]) -> Vec<Candidate> {
        weights.iter().zip(0..).map(|(&weight, index)| candidate(index, weight)).collect()
    }

    fn counts(slots: &[MemberId]) -> BTreeMap<MemberId, usize> {
        let mut counts = BTreeMap::new();
        for member in slots {
            *counts.entry(*member).or_default() += 1;
        }
        counts
    }

    fn all(_: MemberId) -> bool {
        true
    }

    #[test]
    fn sizes_are_primes_in_order() {
        for size in SIZES {
            assert!((2..size).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size} is not a prime");
        }
        assert!(SIZES.is_sorted());
        assert!(SIZES[SIZES.len() - 1] as usize >= usize::from(u16::MAX) * SLOTS_PER_MEMBER);
    }

    #[test]
    fn the_order_of_the_configuration_does_not_matter() {
        let members = candidates(&[1, 2, 3, 0, 5, 1, 1]);
        let mut reversed = members.clone();
        reversed.reverse();
        assert_eq!(Layout::new(&members).slots(all), Layout::new(&reversed).slots(all));
    }

    #[test]
    fn shares_follow_weights_within_one_percent_or_one_slot() {
        let skewed: Vec<u16> = (0..655).map(|i| if i == 0 { 65_535 } else { 1 }).collect();
        let rising: Vec<u16> = (1..=655).collect();
        let mixed: Vec<u16> = (0..600).map(|i| [1, 2, 3, 7, 100][i % 5]).collect();
        let cases: [&[u16]; 9] =
            [&[1; 3], &[1, 2, 3], &[65_535, 1], &[1; 655], &rising, &mixed, &skewed, &[7], &[3, 3, 3, 1]];
        for weights in cases {
            let slots = Layout::with_size(&candidates(weights), M).slots(all);
            assert_eq!(slots.len(), M as usize, "every slot is filled");
            let counts = counts(&slots);
            let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (index, &weight) in weights.iter().enumerate() {
                let ideal = f64::from(M) * f64::from(weight) / sum;
                let got = counts.get(&MemberId(index as u32)).copied().unwrap_or(0) as f64;
                let allowed = (ideal * 0.01).max(1.0);
                assert!(
                    (got - ideal).abs() <= allowed || (weight > 0 && ideal < 1.0 && got <= 1.0),
                    "{} members, weight {weight}: {got} slots, ideal {ideal}",
                    weights.len()
                );
            }
        }
    }

    #[test]
    fn a_member_of_weight_zero_gets_nothing_and_a_light_one_something() {
        let counts = counts(&Layout::new(&candidates(&[65_535, 65_535, 1, 0])).slots(all));
        assert!(!counts.contains_key(&MemberId(3)));
        assert!(counts[&MemberId(2)] >= 1);
        assert!(Layout::new(&candidates(&[0, 0])).slots(all).is_empty());
        assert!(Layout::new(&[]).slots(all).is_empty());
    }

    #[test]
    fn equal_turns_are_the_weighted_ones_with_equal_weights() {
        let members = candidates(&[5; 100]);
        let members: Vec<_> = members.iter().collect();
        let mut equal = Turns::new(&members);
        let weights = vec![5; 100];
        let heap = (0..100).map(|member| Reverse(Turn { round: 0, member, taken: 0 })).collect();
        let mut weighted = Turns::Weighted { heap, weights, heaviest: 5 };
        for _ in 0..1000 {
            assert_eq!(equal.next(), weighted.next());
        }
    }

    #[test]
    fn removing_one_member_of_a_hundred_changes_few_slots() {
        let members = candidates(&[1; 100]);
        let before = Layout::with_size(&members, M).slots(all);
        let (mut worst, mut sum) = (0.0_f64, 0.0);
        for removed in 0..100 {
            let mut fewer = members.clone();
            fewer.remove(removed);
            let after = Layout::with_size(&fewer, M).slots(all);
            let changed = before.iter().zip(after.iter()).filter(|(a, b)| a != b).count();
            let share = changed as f64 * 100.0 / f64::from(M);
            worst = worst.max(share);
            sum += share;
        }
        println!(
            "1 member of 100 removed from the configuration: mean {:.2} %, worst {worst:.2} % of slots change",
            sum / 100.0
        );
        assert!(worst <= 2.5, "{worst} % of the slots change");
    }

    /// Printed by `tests/oracle/selection.py`, which follows `docs/hashing.md`. If this test fails, nodes of different
    /// versions would disagree: do not adjust the numbers, mend the code.
    #[test]
    fn golden_digests() {
        let layout = Layout::new(&candidates(&[1, 2, 3, 0, 7]));
        let digest = |down: &[u32]| {
            let mut hasher = SipHasher24::new();
            for member in layout.slots(|member| !down.contains(&member.0)).iter() {
                hasher.write(&member.0.to_le_bytes());
            }
            let hash = hasher.finish128();
            (hash.h1, hash.h2)
        };
        assert_eq!(digest(&[]), (0x218e_e4f7_e620_d8cb, 0x9bc4_0bab_a1de_0b71));
        assert_eq!(digest(&[1]), (0x50f5_558d_87fd_6419, 0x53e5_a744_911e_95c6));
        assert_eq!(digest(&[0, 4]), (0x9b7c_d6c2_856f_28ee, 0x6e73_2b9c_c5f9_0fbc));
    }

    /// The table of slots by the definition in the module's documentation, written down naively.
    fn naive(layout: &Layout, down: &[u32]) -> Vec<MemberId> {
        let size = layout.owners.len() as u64;
        (0..size)
            .map(|slot| {
                let step = 1 + mix(slot) % (size - 1);
                (0..size)
                    .map(|k| layout.members[layout.owners[((slot + k * step) % size) as usize] as usize])
                    .find(|member| !down.contains(&member.0))
                    .expect("one member is usable")
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn a_health_change_moves_exactly_the_slots_of_the_member_concerned(
            weights in prop::collection::vec(1u16..20, 2..12),
            down in prop::collection::btree_set(0u32..12, 0..10),
            changed in 0u32..12,
        ) {
            let count = weights.len() as u32;
            let changed = changed % count;
            let down: Vec<u32> = down.into_iter().filter(|&member| member < count && member != changed).collect();
            let layout = Layout::with_size(&candidates(&weights), 2503);
            let before = layout.slots(|member| !down.contains(&member.0));
            prop_assert_eq!(&before[..], &naive(&layout, &down)[..]);
            let without = layout.slots(|member| !down.contains(&member.0) && member.0 != changed);
            if without.is_empty() {
                prop_assert_eq!(down.len() as u32, count - 1);
            } else {
                for (slot, (was, is)) in before.iter().zip(without.iter()).enumerate() {
                    prop_assert_eq!(was != is, was.0 == changed, "slot {}: {:?} became {:?}", slot, was, is);
                }
            }
            prop_assert_eq!(&before, &layout.slots(|member| !down.contains(&member.0)), "its return restores the table");
        }
    }

    /// The definition of parts, naively: a slot goes to the first along its walk whose part is above its threshold.
    fn naive_by_parts(layout: &Layout, parts: &[u32]) -> Vec<MemberId> {
        let size = layout.owners.len() as u64;
        let walk = |slot: u64| {
            let (step, threshold) = (1 + mix(slot) % (size - 1), (mix(slot) >> 32) % 32);
            let owner = move |k| layout.members[layout.owners[((slot + k * step) % size) as usize] as usize];
            (0..size).map(owner).find(|id| u64::from(parts[id.0 as usize]) > threshold).expect("one is whole")
        };
        (0..size).map(walk).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn a_part_that_grows_keeps_what_it_had_and_takes_from_others_only(
            weights in prop::collection::vec(1u16..20, 2..8),
            part in 0u32..PARTS,
        ) {
            let layout = Layout::with_size(&candidates(&weights), 2503);
            let parts = |of_first: u32| {
                let mut parts = vec![PARTS; weights.len()];
                parts[0] = of_first;
                parts
            };
            let slots = |of_first: u32| layout.slots_by_parts(|member| parts(of_first)[member.0 as usize]);
            let (before, after) = (slots(part), slots(part + 1));
            prop_assert_eq!(&before[..], &naive_by_parts(&layout, &parts(part))[..]);
            for (was, is) in before.iter().zip(after.iter()) {
                prop_assert!(was == is || (is.0 == 0 && was.0 != 0), "{:?} became {:?}", was, is);
            }
            prop_assert_eq!(&slots(PARTS), &layout.slots(all), "whole, it is as if nothing had been");
            prop_assert_eq!(&slots(0), &layout.slots(|member| member.0 != 0));
        }
    }

    #[test]
    fn a_part_is_that_part_of_the_share_and_equal_parts_are_whole() {
        let layout = Layout::with_size(&candidates(&[1, 1, 2]), M);
        let whole = counts(&layout.slots(all));
        for part in [1, 8, 16, 31] {
            let slots = layout.slots_by_parts(|member| if member.0 == 2 { part } else { PARTS });
            let got = counts(&slots)[&MemberId(2)] as f64 / whole[&MemberId(2)] as f64;
            let ideal = f64::from(part) / f64::from(PARTS);
            // Stand-ins take it in, too, where it is above the threshold: of others' slots none is free.
            assert!((got - ideal).abs() < 0.02, "{part}: {got} of {ideal}");
            assert_eq!(layout.slots_by_parts(|_| part), layout.slots(all), "all of them alike");
        }
    }

    /// They are found another way than by walking.
    #[test]
    fn few_that_are_left_stand_in_as_many_do() {
        // Of so many members these are usable, for these parts.
        let rows: [(u16, &[(u32, u32)]); 6] = [
            (300, &[(7, PARTS)]),
            (300, &[(7, PARTS), (250, PARTS)]),
            (300, &[(7, PARTS), (250, 5), (99, 1)]),
            (300, &[(7, 3), (250, 1)]),
            (60, &[(7, PARTS), (59, PARTS)]),
            (20, &[(7, PARTS), (19, PARTS)]),
        ];
        for (members, usable) in rows {
            let layout = Layout::with_size(&candidates(&vec![1; members.into()]), 2503);
            let mut parts = vec![0; members.into()];
            for (member, part) in usable {
                parts[*member as usize] = *part;
            }
            let slots = layout.slots_by_parts(|member| parts[member.0 as usize]);
            // As it is said in words: parts are of the greatest.
            let greatest = parts.iter().copied().max().unwrap_or(0);
            let whole: Vec<u32> = parts.iter().map(|part| (part * PARTS).div_ceil(greatest)).collect();
            assert_eq!(&slots[..], &naive_by_parts(&layout, &whole)[..], "{usable:?} of {members}");
        }
    }

    #[test]
    fn remainders_are_true_for_every_size() {
        for size in SIZES.map(u64::from) {
            let few = Few { slots: Vec::new(), size, reciprocal: u64::MAX / size, inverses: Vec::new() };
            let values = [0, 1, size - 1, size, size + 1, 2 * size * size - 1, 2 * size * (size - 1)];
            let random = (0..1000).map(|seed| mix(seed) % (2 * size * size));
            for value in values.into_iter().chain(random) {
                assert_eq!(few.modulo(value), value % size, "{value} modulo {size}");
            }
        }
    }

    #[test]
    fn what_is_left_shares_the_slots_of_what_failed() {
        let layout = Layout::with_size(&candidates(&[1; 100]), M);
        let counts = counts(&layout.slots(|member| member.0 >= 50));
        let ideal = f64::from(M) / 50.0;
        for (member, count) in counts {
            let deviation = (count as f64 - ideal).abs() / ideal;
            assert!(deviation < 0.12, "{member:?} has {count} slots of {ideal}");
        }
    }
}
