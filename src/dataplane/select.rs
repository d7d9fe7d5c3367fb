//! Flow → member, for flows that nobody has seen before.
//!
//! The selection hash is the same on every node that shares `[node] hash_seed`, and stays the same across versions:
//! the golden vectors below pin it.

#![expect(clippy::inline_always, reason = "called with a key in registers, which a call would take through memory")]

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

use super::ids::MemberId;
use super::parse::FlowKey;

/// What makes the selection hash this installation's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed([u64; 2]);

impl Seed {
    /// Derives the seed from `[node] hash_seed`: SipHash-2-4 (128 bits) of the text under an all-zero key.
    pub fn from_text(text: &str) -> Self {
        let mut hasher = SipHasher24::new();
        hasher.write(text.as_bytes());
        let hash = hasher.finish128();
        Self([hash.h1, hash.h2])
    }
}

/// The member of the slot that this flow hashes to; `None` if there are no slots: the pool has no usable member.
#[inline]
pub fn select(seed: Seed, slots: &[MemberId], key: &FlowKey) -> Option<MemberId> {
    slots.get(slot(hash(seed, key), slots.len())).copied()
}

/// The same for a flow that begins, if not every usable member may take one: the member of the first of a few slots
/// that may, each named by hashing again; after these `spare`'s, whom it asks for by mapping a hash onto any range.
#[inline]
pub fn select_among(
    seed: Seed,
    slots: &[MemberId],
    key: &FlowKey,
    may_take: impl Fn(MemberId) -> bool,
    spare: impl FnOnce(&dyn Fn(usize) -> usize) -> Option<MemberId>,
) -> Option<MemberId> {
    /// With half of the slots' members in the way, one flow in 256 needs the spare.
    const LOOKS: usize = 8;
    let mut hash = hash(seed, key);
    for _ in 0..LOOKS {
        let member = *slots.get(slot(hash, slots.len()))?;
        if may_take(member) {
            return Some(member);
        }
        hash = fold(hash ^ SECRET[0], SECRET[1]);
    }
    spare(&|count| slot(hash, count))
}

/// Maps a hash evenly onto `0..slots` without a division (Lemire, "Fast random integer generation in an interval",
/// 2019, §3).
#[inline]
fn slot(hash: u64, slots: usize) -> usize {
    ((u128::from(hash) * slots as u128) >> 64) as usize
}

/// wyhash's default secret: odd, with 32 bits set in balance.
const SECRET: [u64; 2] = [0x2d35_8dcc_aa6c_78a5, 0x8bb8_4b93_962e_acc9];

/// Two rounds of multiply-and-fold over the five-tuple, as in wyhash's short-key path (Wang Yi, wyhash final version
/// 4): about 2 ns, and every bit of the key reaches every bit of the result.
#[inline(always)]
fn hash(Seed([first, second]): Seed, key: &FlowKey) -> u64 {
    let addresses = u64::from(key.source) << 32 | u64::from(key.destination);
    let rest = u64::from(key.source_port) << 32 | u64::from(key.destination_port) << 16 | u64::from(key.protocol);
    fold(SECRET[0] ^ first, fold(addresses ^ SECRET[1] ^ second, rest ^ first))
}

/// The 128-bit product's halves, xored.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn key(i: u32) -> FlowKey {
        FlowKey {
            source: 0xc000_0201 + i % 4,
            destination: 0xcb00_7102,
            source_port: (1024 + i % 64_000) as u16,
            destination_port: 80,
            protocol: 6,
        }
    }

    /// Printed by `tests/oracle/selection.py`, which follows `docs/hashing.md`. If this test fails, nodes of
    /// different versions would disagree: do not adjust the numbers, mend the code.
    #[test]
    fn golden_vectors() {
        let empty = Seed::from_text("");
        let named = Seed::from_text("any text");
        let vectors: Vec<u64> =
            [(empty, 0), (empty, 1), (named, 0), (named, 77_777)].map(|(seed, i)| hash(seed, &key(i))).to_vec();
        assert_eq!(vectors, GOLDEN);
    }

    const GOLDEN: [u64; 4] =
        [0x7929_d7a6_a83e_4a6e, 0x88a4_3246_9970_fdf8, 0xe966_ceea_1eff_5582, 0xf5ea_cacd_d8c8_91f9];

    /// Printed by the same; nodes would disagree here, too.
    #[test]
    fn overloaded_members_are_passed_over_in_a_fixed_order() {
        let slots: Vec<MemberId> = (0..65_537).map(MemberId).collect();
        let asked = RefCell::new(Vec::new());
        let refuse = |member: MemberId| {
            asked.borrow_mut().push(member.0);
            false
        };
        let spare = |place: &dyn Fn(usize) -> usize| Some(MemberId(place(1000) as u32));
        let last = select_among(Seed::from_text("any text"), &slots, &key(0), refuse, spare);
        assert_eq!(asked.into_inner(), [59_751, 11_811, 214, 8064, 20_189, 29_796, 26_030, 5545]);
        assert_eq!(last, Some(MemberId(508)));
    }

    #[test]
    fn consecutive_ports_spread_evenly_over_the_slots() {
        // 64 000 flows of few clients over 64 cells: chi-square with 63 degrees of freedom; 120 is beyond 1 in 10^5.
        let seed = Seed::from_text("spread");
        let mut cells = [0u32; 64];
        for i in 0..64_000 {
            cells[slot(hash(seed, &key(i)), cells.len())] += 1;
        }
        let expected = 64_000.0 / 64.0;
        let chi_square: f64 = cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        assert!(chi_square < 120.0, "chi-square {chi_square}");
    }

    #[test]
    fn another_seed_is_another_order() {
        let (a, b) = (Seed::from_text("a"), Seed::from_text("b"));
        let same = (0..10_000).filter(|&i| slot(hash(a, &key(i)), 1000) == slot(hash(b, &key(i)), 1000)).count();
        assert!(same < 50, "{same} of 10 000 flows share a slot under both seeds");
    }

    #[test]
    fn the_highest_hash_is_still_inside() {
        assert_eq!(slot(u64::MAX, 65_537), 65_536);
        assert_eq!(slot(0, 65_537), 0);
        assert_eq!(slot(u64::MAX, 0), 0);
    }
}
