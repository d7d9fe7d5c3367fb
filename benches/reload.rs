//! What it costs control to change one member of 1000 VIPs with 10 members each, from the file's text to the moment in
//! which the worker has the new tables.
//!
//! `cargo bench --bench reload`
//!
//! All members are resolved, a million flows are in the connection table. Each number is the median over all changes,
//! beside the longest. What comes on top in the daemon: reading the file from the disk, and the steering program's maps,
//! which a change of a member does not touch.

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "../tests/support/fleet.rs"]
mod fleet;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::control::change::{Change, impact};
use pointsman::control::compile::Plan;
use pointsman::control::identity::Identities;
use pointsman::control::model::Model;
use pointsman::control::publish::Publisher;
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::flow::{FlowTable, KeyV4, Signal};
use pointsman::dataplane::port::memory::{MemoryPort, frames};
use pointsman::dataplane::tables::{Tables, VipId};
use pointsman::dataplane::worker::{BURST, Idle, Mailbox, Parts, Worker};

const VIPS: u32 = 1000;
const MEMBERS: u32 = 10;
const FLOWS: u32 = 1_000_000;
const CHANGES: usize = 30;

/// The configuration with another weight for one member of the VIP in the middle, or with another member in its place.
fn changed(base: &str, round: usize) -> String {
    let member = format!("address = \"{}\"\n", fleet::member(VIPS / 2, 3));
    let weight = format!("{member}weight = {}\n", 2 + round % 7);
    assert!(base.contains(&member));
    base.replacen(&member, &weight, 1)
}

/// Steps of a change, in this order.
const STEPS: [&str; 6] = ["parse and validate", "compare", "ids", "lay out", "compile", "publish until taken"];

struct Control {
    identities: Identities,
    plan: Plan,
    tables: Arc<Tables>,
    generation: u64,
}

impl Control {
    fn change(&mut self, text: &str, publisher: &Publisher, counters: &Counters) -> [Duration; STEPS.len()] {
        let mut at = Instant::now();
        let mut lap = || {
            let took = at.elapsed();
            at = Instant::now();
            took
        };
        let interfaces = [fleet::INTERFACE.to_owned()];
        let model = Model::parse("fleet.toml", text).expect("valid");
        let parse = lap();
        let change = Change::between(&self.plan.model, &model, false);
        assert_eq!((change.members.len(), change.vips.len()), (1, 0));
        let compare = lap();
        let ids = self.identities.assign(&model).expect("room");
        self.generation += 1;
        self.identities.adopt(&model, &ids, self.generation);
        let assign = lap();
        let mut plan = Plan::with(model, ids, Some(&self.plan));
        let lay_out = lap();
        let network = fleet::network(&plan.model);
        lap();
        let tables = Arc::new(plan.compile(&network, &interfaces, self.generation).tables);
        let compile = lap();
        publisher.publish(&tables).expect("a worker");
        while counters.generation.get() < self.generation {
            std::hint::spin_loop();
        }
        let publish = lap();
        (self.plan, self.tables) = (plan, tables);
        publisher.collect();
        [parse, compare, assign, lay_out, compile, publish]
    }
}

fn begin_flows(flows: &FlowTable, tables: &Tables) {
    for number in 0..FLOWS {
        let vip = VipId((number % VIPS) as u16);
        let key = KeyV4::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + number), 1024, vip, 0);
        let slots = &tables.vips[usize::from(vip.0)].slots;
        let member = slots[number as usize % slots.len()];
        flows.v4.insert((flows.v4.place(&key), &key), member, (Signal::Syn, flows.now()), tables, |_| ());
    }
}

fn main() {
    let base = fleet::text(VIPS, MEMBERS);
    let mut identities = Identities::default();
    let started = Instant::now();
    let model = Model::parse("fleet.toml", &base).expect("valid");
    let ids = identities.assign(&model).expect("room");
    identities.adopt(&model, &ids, 1);
    let mut plan = Plan::with(model, ids, None);
    let network = fleet::network(&plan.model);
    let tables = Arc::new(plan.compile(&network, &[fleet::INTERFACE.to_owned()], 1).tables);
    println!("{VIPS} VIPs × {MEMBERS} members, from text to the first tables: {:.0?}", started.elapsed());

    let (flows, _hands) = FlowTable::of_sizes(&plan.sizes()).expect("memory");
    begin_flows(&flows, &tables);
    let (flows, mailbox) = (Arc::new(flows), Arc::new(Mailbox::new().expect("an eventfd")));
    let counters = Arc::new(Counters::new());
    let parts = Parts {
        ports: vec![MemoryPort::new(4 * BURST)],
        frames: frames(8 * BURST, 2048),
        mailbox: Arc::clone(&mailbox),
        counters: Arc::clone(&counters),
        flows: Arc::clone(&flows),
        new_flows: u64::MAX,
        idle: Idle::Sleep,
    };
    let publisher = Publisher::new(vec![Arc::clone(&mailbox)]);
    publisher.publish(&tables).expect("a worker");
    let mut control = Control { identities, plan, tables, generation: 1 };
    let mut laps: Vec<[Duration; STEPS.len()]> = std::thread::scope(|scope| {
        scope.spawn(|| Worker::new(parts).run());
        let laps = (0..CHANGES).map(|round| control.change(&changed(&base, round), &publisher, &counters)).collect();
        publisher.stop();
        laps
    });
    for (index, step) in STEPS.iter().enumerate() {
        laps.sort_by_key(|lap| lap[index]);
        println!("{step:22} {:8.2?}  longest {:8.2?}", laps[CHANGES / 2][index], laps[CHANGES - 1][index]);
    }
    let mut totals: Vec<Duration> = laps.iter().map(|lap| lap.iter().sum()).collect();
    totals.sort();
    println!("{:22} {:8.2?}  longest {:8.2?}", "all of it", totals[CHANGES / 2], totals[CHANGES - 1]);

    // What a plan adds: the walk over all flows.
    let started = Instant::now();
    let model = Model::parse("fleet.toml", &base.replacen("name = \"m3\"", "enabled = false\nname = \"m3\"", 1));
    let model = model.expect("valid");
    let ids = control.identities.assign(&model).expect("room");
    let mut plan = Plan::with(model, ids, Some(&control.plan));
    let network = fleet::network(&plan.model);
    let after = plan.compile(&network, &[fleet::INTERFACE.to_owned()], 0).tables;
    let found = impact((&control.plan, &control.tables), (&plan, &after), &flows);
    println!("{:22} {:8.2?}  ({} VIPs, {FLOWS} flows looked at)", "a plan, all of it", started.elapsed(), found.len());
}
