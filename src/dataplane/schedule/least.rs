//! The least loaded member: the first of several that are equally loaded.

use super::super::ids::MemberId;
use super::super::load::{Load, Loads};
use super::Candidate;

/// `lc` and `wlc`: an active flow weighs as much as 256 inactive ones (`ip_vs_dest_conn_overhead`).
pub(super) fn overhead(
    candidates: &[Candidate],
    loads: &Loads,
    may_take: &impl Fn(MemberId) -> bool,
) -> Option<MemberId> {
    let overhead = |load: &Load| u64::from(load.active()) * 256 + u64::from(load.inactive());
    least(candidates, loads, may_take, overhead)
}

/// `sed`: active flows, the new one included, for the member's weight (Weinrib and Shenker, INFOCOM 1988).
pub(super) fn expected_delay(
    candidates: &[Candidate],
    loads: &Loads,
    may_take: &impl Fn(MemberId) -> bool,
) -> Option<MemberId> {
    least(candidates, loads, may_take, |load| u64::from(load.active()) + 1)
}

/// The first member without active flows.
pub(super) fn idle(candidates: &[Candidate], loads: &Loads, may_take: &impl Fn(MemberId) -> bool) -> Option<MemberId> {
    let fits = |one: &&Candidate| one.weight > 0 && loads.of(one.member).active() == 0 && may_take(one.member);
    candidates.iter().find(fits).map(|candidate| candidate.member)
}

/// The least load for its weight. Loads are compared crosswise, without a division: `h1 / w1 > h2 / w2` as
/// `h1 * w2 > h2 * w1`. That fits: 40 bits of overhead, 16 of weight.
fn least(
    candidates: &[Candidate],
    loads: &Loads,
    may_take: &impl Fn(MemberId) -> bool,
    load: impl Fn(&Load) -> u64,
) -> Option<MemberId> {
    let usable = candidates.iter().filter(|one| one.weight > 0 && may_take(one.member));
    let weighed = usable.map(|one| (one, load(loads.of(one.member))));
    let least = weighed.reduce(|least, one| {
        let is_less = least.1 * u64::from(one.0.weight) > one.1 * u64::from(least.0.weight);
        if is_less { one } else { least }
    });
    least.map(|(candidate, _)| candidate.member)
}
