//! Flows that begin, and flows whose member is gone: a member is chosen here. Established flows never come by.
//!
//! [`choose`] only reads; [`enter`] and [`forget`] carry out what it found.

use super::flow::{Event, FlowState, Hit, Insertion, Lookup, Now, Signal};
use super::limits::Policy;
use super::persistence::{Persistence, Remembered};
use super::process::{Ledger, Passenger, State};
use super::schedule::{OnMemberDown, Surroundings};
use super::select::{self, Seed};
use super::tables::{MemberId, Vip};
use super::verdict::{DropReason, FlowEffect};

/// A member, or why there is none; and what becomes of the flow.
pub(super) type Choice = (Result<MemberId, DropReason>, FlowEffect);

/// For a packet whose flow the connection table does not know, or knows with a member that cannot be reached.
#[inline]
pub(super) fn choose(state: &State<'_>, vip: &Vip, passenger: &Passenger, lookup: Lookup, now: Now) -> Choice {
    // What most VIPs ask for: the rest decides the same in three times the instructions.
    if lookup == Lookup::Miss
        && state.may_enter
        && let Some(member) = plainly_hashed(state, vip, passenger)
        && may_take(state, member)
    {
        return (Ok(member), FlowEffect::Insert);
    }
    choose_with_care(state, vip, passenger, lookup, now)
}

/// The member of a flow that begins, if its VIP asks for nothing but hashing.
#[inline]
pub(super) fn plainly_hashed(state: &State<'_>, vip: &Vip, passenger: &Passenger) -> Option<MemberId> {
    let is_plain =
        passenger.signal.begins_as().is_some() && vip.pool.is_maglev() && policy(state, passenger).asks_nothing();
    if is_plain { select::select(state.tables.seed, &vip.slots, &passenger.flow(vip)) } else { None }
}

#[inline(never)]
fn choose_with_care(state: &State<'_>, vip: &Vip, passenger: &Passenger, lookup: Lookup, now: Now) -> Choice {
    let begins = passenger.signal.begins_as().is_some();
    let policy = policy(state, passenger);
    let may_enter = state.may_enter || policy.one_packet;
    let hashed = || client_member(state, vip, passenger, now).map_or_else(|| hashed(state, vip, passenger), Ok);
    match lookup {
        Lookup::Hit(hit) => choose_for_lost(vip, passenger, hit, hashed),
        // One that is over makes room for its successor.
        Lookup::Miss if begins && policy.is_full(passenger.vip(), &state.flows.loads) => {
            (Err(DropReason::ConnectionLimit), FlowEffect::None)
        }
        Lookup::Miss if begins && !may_enter => with_effect(hashed(), FlowEffect::Hashed),
        Lookup::Miss | Lookup::Over if passenger.opens() => choose_for_new(state, vip, passenger, lookup, now),
        Lookup::Miss if begins => with_effect(hashed(), FlowEffect::Insert),
        Lookup::Miss | Lookup::Over => (hashed(), FlowEffect::None),
    }
}

/// The first packet of a flow: persistence knows where its client goes, or the scheduler is asked.
fn choose_for_new(state: &State<'_>, vip: &Vip, passenger: &Passenger, lookup: Lookup, now: Now) -> Choice {
    let Policy { one_packet: is_alone, ref persistence, .. } = *policy(state, passenger);
    let effect = |insert| match lookup {
        _ if is_alone => FlowEffect::Pass,
        Lookup::Over => FlowEffect::TakeOver,
        _ => insert,
    };
    if let Some(member) = client_member(state, vip, passenger, now) {
        return (Ok(member), effect(FlowEffect::Insert));
    }
    if is_alone && persistence.is_some() && !state.may_enter {
        // Its flow takes no room, but its client would.
        return with_effect(hashed(state, vip, passenger), FlowEffect::Hashed);
    }
    let may_take = |member| may_take(state, member);
    if let Some(member) = vip.pool.hashed_first(table(state, vip), &passenger.flow(vip)).filter(|id| may_take(*id)) {
        return (Ok(member), effect(FlowEffect::Insert));
    }
    let chosen = vip.pool.choose(&surroundings(state, vip, passenger), &passenger.flow(vip), may_take);
    let effect = match (lookup, vip.pool.takes_turns()) {
        (_, false) => effect(FlowEffect::InsertScheduled),
        (_, true) if is_alone => FlowEffect::PassInTurn,
        (Lookup::Over, true) => FlowEffect::TakeOverInTurn,
        (_, true) => FlowEffect::InsertInTurn,
    };
    let reason = if vip.slots.is_empty() { DropReason::NoMember } else { DropReason::MembersOverloaded };
    with_effect(chosen.ok_or(reason), effect)
}

/// A flow whose member cannot be reached, or is none any more. An ICMP error about it changes nothing.
fn choose_for_lost(
    vip: &Vip,
    passenger: &Passenger,
    hit: Hit,
    hashed: impl Fn() -> Result<MemberId, DropReason>,
) -> Choice {
    let policy = match hit.state {
        // Nothing but SYNs so far: the client has nothing to lose, and tries again.
        FlowState::Embryonic => OnMemberDown::Reselect,
        _ => vip.pool.on_member_down(),
    };
    let effect = |effect| if passenger.signal == Signal::Error { FlowEffect::None } else { effect };
    match policy {
        OnMemberDown::Reselect => with_effect(hashed(), effect(FlowEffect::Rebind)),
        OnMemberDown::Keep => (Err(DropReason::MemberDownKept), FlowEffect::None),
        OnMemberDown::Drop => (Err(DropReason::MemberDownDropped), effect(FlowEffect::Forget)),
    }
}

fn hashed(state: &State<'_>, vip: &Vip, passenger: &Passenger) -> Result<MemberId, DropReason> {
    vip.pool.hashed(table(state, vip), &passenger.flow(vip)).ok_or(DropReason::NoMember)
}

fn table<'a>(state: &State<'_>, vip: &'a Vip) -> (Seed, &'a [MemberId]) {
    (state.tables.seed, &vip.slots)
}

/// A packet that finds no member leaves nothing behind.
fn with_effect(chosen: Result<MemberId, DropReason>, effect: FlowEffect) -> Choice {
    let effect = if chosen.is_ok() { effect } else { FlowEffect::None };
    (chosen, effect)
}

/// The member that persistence has for the flow's client, if that is usable. (It may be overloaded: as in IPVS, a
/// client stays together at that price.)
#[inline]
fn client_member(state: &State<'_>, vip: &Vip, passenger: &Passenger, now: Now) -> Option<MemberId> {
    // Most VIPs have none, and need not pay a call for it.
    let persistence = policy(state, passenger).persistence.as_ref()?;
    remembered_member(persistence, (state, vip), passenger, now)
}

#[inline(never)]
fn remembered_member(
    persistence: &Persistence,
    (state, vip): (&State<'_>, &Vip),
    passenger: &Passenger,
    now: Now,
) -> Option<MemberId> {
    let member = state.flows.templates.get()?.member(persistence, &passenger.key, now)?;
    vip.pool.admits(member).then_some(member)
}

fn policy<'a>(state: &State<'a>, passenger: &Passenger) -> &'a Policy {
    state.tables.limits.policy_of(passenger.vip())
}

fn surroundings<'a>(state: &State<'a>, vip: &'a Vip, passenger: &Passenger) -> Surroundings<'a> {
    let State { tables, flows, .. } = *state;
    let (slots, seed) = (&vip.slots[..], tables.seed);
    Surroundings { vip: passenger.vip(), slots, seed, loads: &flows.loads, turns: &flows.turns }
}

/// Whether a member may have one more flow: every scheduler passes over those that may not.
fn may_take(state: &State<'_>, member: MemberId) -> bool {
    !state.flows.loads.of(member).is_overloaded()
}

/// Enters a flow that [`choose`] found a member for, if the budget and the table allow; the member that it has then,
/// perhaps another. One that is not entered goes where its later packets will.
pub(super) fn enter(
    (effect, chosen): (FlowEffect, MemberId),
    (passenger, signal): (&Passenger, Signal),
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> MemberId {
    let State { tables, flows, .. } = *state;
    if matches!(effect, FlowEffect::Insert | FlowEffect::InsertScheduled | FlowEffect::InsertInTurn) {
        ledger.budget.take();
    }
    let member = pass((effect, chosen), passenger, state, ledger, now);
    let record = |event| flows.loads.record(event, &tables.limits);
    match flows.v4.insert((passenger.place, &passenger.key), member, (signal, now), tables, record) {
        Insertion::Inserted => {
            ledger.counters.begin_flow(passenger.vip(), member);
            member
        }
        Insertion::Existing(theirs) if tables.is_reachable(theirs) => theirs,
        Insertion::Existing(_) => member,
        Insertion::NotInserted => {
            ledger.counters.flows_without_room.add(1);
            if effect == FlowEffect::Insert { member } else { unentered(member, passenger, state, now) }
        }
    }
}

/// Where the later packets of a flow go that is not entered, and whose member neither hashing nor persistence chose.
#[inline(never)]
fn unentered(chosen: MemberId, passenger: &Passenger, state: &State<'_>, now: Now) -> MemberId {
    let Some(vip) = state.tables.vips.get(usize::from(passenger.vip().0)) else { return chosen };
    let theirs = client_member(state, vip, passenger, now);
    theirs.or_else(|| hashed(state, vip, passenger).ok()).unwrap_or(chosen)
}

/// Takes the VIP's turn if that is what was decided, and has persistence remember the client; the member that the flow
/// goes to then, perhaps another than was chosen.
#[inline]
pub(super) fn pass(
    (effect, chosen): (FlowEffect, MemberId),
    passenger: &Passenger,
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> MemberId {
    let member = match effect {
        FlowEffect::InsertInTurn | FlowEffect::TakeOverInTurn | FlowEffect::PassInTurn => {
            take_turn(state, passenger).unwrap_or(chosen)
        }
        _ => chosen,
    };
    match policy(state, passenger).persistence {
        None => member,
        Some(_) => remember_client(member, passenger, state, ledger, now),
    }
}

#[inline(never)]
fn take_turn(state: &State<'_>, passenger: &Passenger) -> Option<MemberId> {
    let vip = state.tables.vips.get(usize::from(passenger.vip().0))?;
    vip.pool.take_turn(&state.flows.turns, passenger.vip(), |member| may_take(state, member))
}

/// Has persistence remember that the client's flows go to this member, and begins its timeout anew; the member that
/// they do go to: another worker may have been quicker.
#[inline(never)]
pub(super) fn remember_client(
    member: MemberId,
    passenger: &Passenger,
    state: &State<'_>,
    ledger: &mut Ledger<'_>,
    now: Now,
) -> MemberId {
    let State { tables, flows, .. } = state;
    let policy = policy(state, passenger);
    let (Some(persistence), Some(templates)) = (&policy.persistence, flows.templates.get()) else {
        return member;
    };
    let Some(vip) = tables.vips.get(usize::from(passenger.vip().0)) else { return member };
    let is_usable = |member| vip.pool.admits(member);
    let remembered = templates.remember((persistence, &passenger.key), member, now, tables, is_usable);
    let (count, has) = match remembered {
        Remembered::Begun => (&ledger.counters.persistence_begun, member),
        Remembered::Has(has) => (&ledger.counters.persistence_followed, has),
        Remembered::Moved(has) => (&ledger.counters.persistence_moved, has),
        Remembered::NotRemembered => (&ledger.counters.persistence_without_room, member),
    };
    count.add(1);
    if policy.one_packet {
        // No flow will do either: what begins here takes room, and a client that comes again exists.
        match remembered {
            Remembered::Begun => ledger.budget.take(),
            _ => templates.confirm(persistence, &passenger.key, now),
        }
    }
    if is_usable(has) { has } else { member }
}

/// Has persistence take a flow's client for a real one as soon as the flow is established.
pub(super) fn confirm(event: Event, passenger: &Passenger, state: &State<'_>, now: Now) {
    if let Event::Changed { to, .. } = event
        && to.is_confirmed()
        && let Some(templates) = state.flows.templates.get()
        && let Some(persistence) = &policy(state, passenger).persistence
    {
        templates.confirm(persistence, &passenger.key, now);
    }
}

/// Forgets a flow whose member cannot be reached any more, unless another worker has found it another.
pub(super) fn forget(passenger: &Passenger, state: &State<'_>, ledger: &Ledger<'_>, now: Now) {
    let State { tables, flows, .. } = state;
    let timeouts = tables.timeouts_of_vip(passenger.vip());
    let at = (passenger.place, &passenger.key);
    let asked = (passenger.signal, now, timeouts);
    let Lookup::Hit(hit) = flows.v4.lookup(at.0, at.1, asked) else { return };
    let record = |event| flows.loads.record(event, &tables.limits);
    if !tables.is_reachable(hit.member) && flows.v4.forget(at, hit.member, now, record) {
        ledger.counters.flows_forgotten.add(1);
    }
}
