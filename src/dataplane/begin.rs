//! Flows that begin, and flows whose member is gone: a member is chosen here. Established flows never come by.
//!
//! [`choose`] only reads; [`enter`] and [`forget`] carry out what it found.

use super::flow::{FlowState, Hit, Insertion, Lookup, Now, Signal};
use super::process::{Ledger, Passenger, State};
use super::schedule::{OnMemberDown, Surroundings};
use super::tables::{MemberId, Vip};
use super::verdict::{DropReason, FlowEffect};

/// A member, or why there is none; and what becomes of the flow.
pub(super) type Choice = (Result<MemberId, DropReason>, FlowEffect);

/// For a packet whose flow the connection table does not know, or knows with a member that cannot be reached.
#[inline(never)]
pub(super) fn choose(state: &State<'_>, vip: &Vip, passenger: &Passenger, lookup: Lookup) -> Choice {
    let begins = passenger.signal.begins_as().is_some();
    match lookup {
        Lookup::Hit(hit) => choose_for_lost(state, vip, passenger, hit),
        Lookup::Miss | Lookup::Over if passenger.opens() => choose_for_new(state, vip, passenger, lookup),
        Lookup::Miss if begins => (hashed(state, vip, passenger), FlowEffect::Insert),
        Lookup::Over if begins => (hashed(state, vip, passenger), FlowEffect::TakeOver),
        Lookup::Miss | Lookup::Over => (hashed(state, vip, passenger), FlowEffect::None),
    }
}

/// The first packet of a flow: the scheduler is asked. (Persistence, which knows better, would be asked before it; a
/// limit on the VIP's flows would refuse before both.)
fn choose_for_new(state: &State<'_>, vip: &Vip, passenger: &Passenger, lookup: Lookup) -> Choice {
    let may_take = |member| may_take(state, member);
    let chosen = vip.pool.choose(&surroundings(state, vip, passenger), &passenger.flow(vip), may_take);
    let effect = match (lookup, vip.pool.takes_turns()) {
        (Lookup::Over, false) => FlowEffect::TakeOver,
        (Lookup::Over, true) => FlowEffect::TakeOverInTurn,
        (_, false) => FlowEffect::Insert,
        (_, true) => FlowEffect::InsertInTurn,
    };
    let reason = if vip.slots.is_empty() { DropReason::NoMember } else { DropReason::MembersOverloaded };
    (chosen.ok_or(reason), effect)
}

/// A flow whose member cannot be reached, or is none any more. An ICMP error about it changes nothing.
fn choose_for_lost(state: &State<'_>, vip: &Vip, passenger: &Passenger, hit: Hit) -> Choice {
    let policy = match hit.state {
        // Nothing but SYNs so far: the client has nothing to lose, and tries again.
        FlowState::Embryonic => OnMemberDown::Reselect,
        _ => vip.pool.on_member_down(),
    };
    let effect = |effect| if passenger.signal == Signal::Error { FlowEffect::None } else { effect };
    match policy {
        OnMemberDown::Reselect => (hashed(state, vip, passenger), effect(FlowEffect::Rebind)),
        OnMemberDown::Keep => (Err(DropReason::MemberDownKept), FlowEffect::None),
        OnMemberDown::Drop => (Err(DropReason::MemberDownDropped), effect(FlowEffect::Forget)),
    }
}

fn hashed(state: &State<'_>, vip: &Vip, passenger: &Passenger) -> Result<MemberId, DropReason> {
    let table = (state.tables.seed, &vip.slots[..]);
    vip.pool.hashed(table, &passenger.flow(vip)).ok_or(DropReason::NoMember)
}

fn surroundings<'a>(state: &State<'a>, vip: &'a Vip, passenger: &Passenger) -> Surroundings<'a> {
    let State { tables, flows } = *state;
    let (slots, seed) = (&vip.slots[..], tables.seed);
    Surroundings { vip: passenger.vip(), slots, seed, loads: &flows.loads, turns: &flows.turns }
}

/// Whether a member may have one more flow: every scheduler passes over those that may not.
fn may_take(state: &State<'_>, member: MemberId) -> bool {
    !state.flows.loads.of(member).is_overloaded()
}

/// Enters a flow that [`choose`] found a member for, if the budget and the table allow; the member that it has then,
/// perhaps another. One that is not entered goes where hashing puts its later packets.
pub(super) fn enter(
    (effect, chosen): (FlowEffect, MemberId),
    (passenger, signal): (&Passenger, Signal),
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> MemberId {
    let State { tables, flows } = *state;
    let Some(vip) = tables.vips.get(usize::from(passenger.vip().0)) else { return chosen };
    let hashed = || hashed(state, vip, passenger).unwrap_or(chosen);
    if matches!(effect, FlowEffect::Insert | FlowEffect::InsertInTurn) && !ledger.budget.take() {
        ledger.counters.flows_over_budget.add(1);
        return hashed();
    }
    let member = match effect {
        FlowEffect::InsertInTurn | FlowEffect::TakeOverInTurn => {
            let taken = vip.pool.take_turn(&flows.turns, passenger.vip(), |member| may_take(state, member));
            taken.unwrap_or(chosen)
        }
        _ => chosen,
    };
    let record = |event| flows.loads.record(event);
    match flows.v4.insert((passenger.place, &passenger.key), member, (signal, now), tables, record) {
        Insertion::Inserted => {
            ledger.counters.flows_begun.add(1);
            member
        }
        Insertion::Existing(theirs) if tables.is_reachable(theirs) => theirs,
        Insertion::Existing(_) => member,
        Insertion::NotInserted => {
            ledger.counters.flows_without_room.add(1);
            hashed()
        }
    }
}

/// Forgets a flow whose member cannot be reached any more, unless another worker has found it another.
pub(super) fn forget(passenger: &Passenger, state: &State<'_>, ledger: &Ledger<'_>, now: Now) {
    let State { tables, flows } = state;
    let timeouts = tables.timeouts_of_vip(passenger.vip());
    let at = (passenger.place, &passenger.key);
    let asked = (passenger.signal, now, timeouts);
    let Lookup::Hit(hit) = flows.v4.lookup(at.0, at.1, asked) else { return };
    let record = |event| flows.loads.record(event);
    if !tables.is_reachable(hit.member) && flows.v4.forget(at, hit.member, now, record) {
        ledger.counters.flows_forgotten.add(1);
    }
}
