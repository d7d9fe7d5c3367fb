use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::compile::Plan;
use super::super::neighbor::Network;
use super::*;
use crate::dataplane::flow::{FlowTable, Insertion, Key as _, KeyV4, Now, Signal, Sizes, TimeoutsOf as _};
use crate::dataplane::persistence::Remembered;
use crate::dataplane::tables::Tables;

/// VIPs 0 to 5 on ports 80 and on, each with a pool of its own; pool `i` has those of members 0 to 5 whose bit is set.
/// The second VIP is persistent, the flows of the third stay bound to members that are gone.
fn model(vips: &[(u8, u8)]) -> Model {
    let mut text = String::from("[[interface]]\nname = \"eth0\"\n");
    for (vip, members) in vips {
        let persistence = if *vip == 1 { "persistence = { timeout = \"5s\" }\n" } else { "" };
        let policy = if *vip == 2 { "keep" } else { "reselect" };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[vip]]\nname = \"v{vip}\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\nport = {}\npool = \"p{vip}\"\n\
             timeouts = {{ tcp_established = \"8s\", tcp_syn = \"8s\" }}\n{persistence}\
             [[pool]]\nname = \"p{vip}\"\non_member_down = \"{policy}\"\n",
            80 + u16::from(*vip)
        );
        for member in (0..6).filter(|member| members >> member & 1 == 1) {
            let _ =
                write!(text, "[[pool.member]]\nname = \"m{member}\"\naddress = \"198.51.100.{}\"\n", 10 * vip + member);
        }
    }
    Model::parse("test.toml", &text).expect("a valid configuration")
}

fn identities(vips: usize, members: usize) -> Identities {
    Identities { vips: Ids::of("VIPs", vips), members: Ids::of("members", members) }
}

/// Assigns and adopts.
fn take(identities: &mut Identities, model: &Model, generation: u64) -> Assignment {
    let assignment = identities.assign(model).expect("room");
    identities.adopt(model, &assignment, generation);
    assignment
}

#[test]
fn ids_stay_whatever_the_order_and_come_back_to_their_owner() {
    let mut identities = Identities::default();
    let first = take(&mut identities, &model(&[(0, 0b11), (1, 0b1)]), 1);
    assert_eq!((&first.vips[..], first.vips_end), (&[VipId(0), VipId(1)][..], 2));
    assert_eq!(first.members, [vec![MemberId(0), MemberId(1)], vec![MemberId(2)]]);
    // The other order, one VIP and two members more, one member less.
    let second = take(&mut identities, &model(&[(2, 0b1), (1, 0b11), (0, 0b10)]), 2);
    assert_eq!(second.vips, [VipId(2), VipId(1), VipId(0)]);
    assert_eq!(second.members, [vec![MemberId(3)], vec![MemberId(2), MemberId(4)], vec![MemberId(1)]]);
    let gone = second.gone();
    assert!(gone.members.contains(0) && (1..9).all(|id| !gone.members.contains(id)) && gone.vips.is_empty());
    assert_eq!(identities.waiting(), (0, 1));
    // It comes back before its id was free.
    assert_eq!(take(&mut identities, &model(&[(0, 0b11)]), 3).members, [vec![MemberId(0), MemberId(1)]]);
    assert_eq!(identities.waiting(), (2, 3));
}

#[test]
fn an_address_twice_in_a_pool_without_a_vip_is_two_members() {
    let text = "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\n\
                port = 80\npool = \"used\"\n[[pool]]\nname = \"used\"\n[[pool.member]]\nname = \"a\"\n\
                address = \"198.51.100.1\"\n[[pool]]\nname = \"spare\"\n\
                [[pool.member]]\nname = \"a\"\naddress = \"198.51.100.1\"\nport = 1\n\
                [[pool.member]]\nname = \"b\"\naddress = \"198.51.100.1\"\n\
                [[pool.member]]\nname = \"c\"\naddress = \"198.51.100.1\"\nport = 2\n";
    let model = Model::parse("test.toml", text).expect("a valid configuration");
    let members: Vec<MemberId> = take(&mut Identities::default(), &model, 1).members.concat();
    assert_eq!(members, (0..4).map(MemberId).collect::<Vec<_>>());
}

#[test]
fn an_id_is_free_two_rounds_after_the_workers_left_it() {
    let (flows, mut hands) = FlowTable::new(1024, 100).expect("memory");
    let mut identities = identities(2, 2);
    let both = take(&mut identities, &model(&[(0, 1), (1, 1)]), 1);
    let only = take(&mut identities, &model(&[(0, 1)]), 2);
    let third = model(&[(0, 1), (2, 1)]);
    let refused = NoIds { what: "VIPs", new: 1, live: 1, waiting: 1, most: 2 };
    let mut round = |identities: &mut Identities, taken| {
        flows.sweep(&mut hands, Now(0), 1, &Tables::empty());
        identities.release(taken, &hands);
    };
    for taken in [1, 1, 1, 1, 2, 2, 2] {
        assert_eq!(identities.assign(&third), Err(refused), "a worker has tables {taken}");
        round(&mut identities, taken);
    }
    round(&mut identities, 2);
    assert_eq!(identities.waiting(), (0, 0));
    let assignment = identities.assign(&third).expect("room");
    assert_eq!((assignment.vips[1], assignment.members[1][0]), (both.vips[1], both.members[1][0]));
    let changed_hands = identities.adopt(&third, &assignment, 3);
    assert_eq!(changed_hands, Reused { vips: vec![both.vips[1]], members: vec![both.members[1][0]] });
    assert_eq!(only.vips_end, 2, "tables cover the ids of those that are gone");
}

/// What may happen.
#[derive(Debug, Clone)]
enum Step {
    /// Another configuration, if its ids are there.
    Apply(Vec<(u8, u8)>),
    /// The worker takes the newest tables.
    Take,
    /// A flow begins at the worker, at a VIP and a member of its tables.
    Begin { client: u8, vip: usize, member: usize },
    /// So many parts of a round.
    Sweep(u8),
    /// Tenths of a second.
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let vips = proptest::sample::subsequence((0..6).collect::<Vec<u8>>(), 1..5).prop_shuffle();
    let vips = vips.prop_flat_map(|vips| {
        let members = proptest::collection::vec(1..64u8, vips.len());
        members.prop_map(move |members| vips.iter().copied().zip(members).collect())
    });
    let step = prop_oneof![
        2 => vips.prop_map(Step::Apply),
        2 => Just(Step::Take),
        6 => (0..20u8, any::<usize>(), any::<usize>()).prop_map(|(client, vip, member)| Step::Begin { client, vip, member }),
        6 => (1..25u8).prop_map(Step::Sweep),
        1 => (1..100u8).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..200)
}

/// One control thread, one worker that lags behind, and who owned the ids when each flow and template began.
struct World {
    identities: Identities,
    plan: Plan,
    generation: u64,
    /// The newest tables, and those that the worker has.
    tables: Tables,
    worker: (Plan, Tables),
    flows: FlowTable,
    hands: Hands,
    now: u64,
    begun: HashMap<KeyV4, (VipIdentity, MemberIdentity)>,
    remembered: HashMap<(KeyV4, VipIdentity), MemberIdentity>,
    /// How many ids have changed hands.
    reused: usize,
}

/// Parts of a round.
const PARTS: usize = 8;

impl World {
    fn new() -> Self {
        let mut identities = identities(7, 24);
        let model = model(&[(0, 1)]);
        let ids = take(&mut identities, &model, 1);
        let compiled = |plan: &mut Plan| plan.compile(&Network::default(), &[], 1).tables;
        let plan = || Plan::with(model.clone(), ids.clone(), None);
        let sizes = Sizes { flows_v4: 1024, persistence_v4: Some(1024), members: 24, vips: 7 };
        let (flows, hands) = FlowTable::of_sizes(&sizes).expect("memory");
        let (begun, remembered) = (HashMap::new(), HashMap::new());
        let (tables, worker) = (compiled(&mut plan()), (plan(), compiled(&mut plan())));
        Self {
            identities,
            plan: plan(),
            generation: 1,
            tables,
            worker,
            flows,
            hands,
            now: 1 << 40,
            begun,
            remembered,
            reused: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(vips) => self.apply(model(&vips)),
            Step::Take => {
                let mut plan = Plan::with(self.plan.model.clone(), self.plan.ids().clone(), None);
                let tables = plan.compile(&Network::default(), &[], self.generation).tables;
                self.worker = (plan, tables);
            }
            Step::Begin { client, vip, member } => self.begin(client, vip, member),
            Step::Sweep(parts) => {
                for _ in 0..parts {
                    self.flows.sweep(&mut self.hands, Now(self.now), PARTS, &self.tables);
                    self.identities.release(self.worker.1.generation, &self.hands);
                    self.now += 250_000_000;
                }
            }
            Step::Wait(tenths) => self.now += u64::from(tenths) * 100_000_000,
        }
        self.check();
    }

    fn apply(&mut self, model: Model) {
        let before: HashMap<_, _> = owners(&self.plan);
        let Ok(ids) = self.identities.assign(&model) else { return };
        let reused = self.identities.adopt(&model, &ids, self.generation + 1);
        self.generation += 1;
        self.reused += reused.vips.len() + reused.members.len();
        self.plan = Plan::with(model, ids, Some(&self.plan));
        self.tables = self.plan.compile(&Network::default(), &[], self.generation).tables;
        for (id, owner) in owners(&self.plan) {
            if let Some((other, _)) = before.iter().find(|(_, before)| **before == owner) {
                assert_eq!(*other, id, "{owner:?} has kept its id");
            }
        }
    }

    /// A worker chooses among those that its own tables name, however old these are.
    fn begin(&mut self, client: u8, vip: usize, member: usize) {
        let (plan, tables) = &self.worker;
        let vips: Vec<_> = plan.vips().collect();
        let (vip, vip_id) = vips[vip % vips.len()];
        let pool = &plan.model.pools[vip.pool];
        let ids = &plan.ids().members[vip.pool];
        let at = member % ids.len();
        let (owner, member) = (MemberIdentity::of_pool(pool)[at].clone(), ids[at]);
        let key = KeyV4::new(Ipv4Addr::new(192, 0, 2, client), 1000, vip_id, 0);
        let (place, now) = (self.flows.v4.place(&key), Now(self.now));
        if self.flows.v4.insert((place, &key), member, (Signal::Syn, now), tables, |_| ()) == Insertion::Inserted {
            self.begun.insert(key, (VipIdentity::of(vip), owner.clone()));
        }
        self.flows.v4.advance(place, &key, (Signal::Segment, now, tables.timeouts_of(vip_id)), |_| ());
        if let (Some(persistence), Some(templates)) =
            (&tables.limits.policy_of(vip_id).persistence, self.flows.templates.get())
        {
            let found = templates.remember((persistence, &key), member, now, tables, |_| true);
            let client = (key, VipIdentity::of(vip));
            if found == Remembered::Begun {
                self.remembered.insert(client, owner);
            } else if let Remembered::Has(has) = found
                && let Some(owner) = self.remembered.get(&client)
            {
                let known = owners(&self.worker.0).remove(&Id::Member(has));
                let is_its_own = known.as_ref().is_none_or(|known| *known == Owner::Member(owner.clone()));
                assert!(is_its_own, "{owner:?} became {known:?}");
            }
        }
    }

    /// What a flow names is whom it was begun with, or nobody.
    fn check(&self) {
        let owners = owners(&self.plan);
        assert_eq!(owners.len(), self.plan.vips().count() + self.plan.members().count(), "no id has two owners");
        for flow in self.flows.v4.iter(Now(self.now)) {
            let Some((vip, member)) = self.begun.get(&flow.key) else { panic!("{flow:?} was not begun here") };
            let found = (owners.get(&Id::Vip(flow.key.vip())), owners.get(&Id::Member(flow.member)));
            assert!(found.0.is_none_or(|one| *one == Owner::Vip(*vip)), "{flow:?} of {vip:?} is {:?}'s", found.0);
            let is_its_own = found.1.is_none_or(|one| *one == Owner::Member(member.clone()));
            assert!(is_its_own, "{flow:?} to {member:?} goes to {:?}", found.1);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Id {
    Vip(VipId),
    Member(MemberId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Vip(VipIdentity),
    Member(MemberIdentity),
}

fn owners(plan: &Plan) -> HashMap<Id, Owner> {
    let vips = plan.vips().map(|(vip, id)| (Id::Vip(id), Owner::Vip(VipIdentity::of(vip))));
    let pools = plan.model.pools.iter().zip(&plan.ids().members);
    let members = pools.flat_map(|(pool, ids)| ids.iter().copied().zip(MemberIdentity::of_pool(pool)));
    vips.chain(members.map(|(id, member)| (Id::Member(id), Owner::Member(member)))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 2000 }))]

    #[test]
    fn a_reused_id_inherits_no_flow(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }
}

/// So that the property above is not true for want of cases.
#[test]
fn ids_are_reused_while_flows_come_and_go() {
    let mut world = World::new();
    for round in 0..60u8 {
        let vips = [(round % 6, 1 << (round % 5)), ((round + 1) % 6, 0b10_0001)];
        world.step(Step::Apply(vips.to_vec()));
        for client in 0..10 {
            world.step(Step::Begin { client, vip: client.into(), member: client.into() });
        }
        world.step(Step::Take);
        for client in 10..20 {
            world.step(Step::Begin { client, vip: client.into(), member: client.into() });
        }
        world.step(Step::Sweep(PARTS as u8 * 3));
    }
    assert!(world.reused > 20, "{} ids changed hands", world.reused);
    assert!(world.begun.len() >= 40, "{} flows", world.begun.len());
}
