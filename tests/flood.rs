//! A flood of SYNs, through the worker: it ends no established flow and moves none, and what it is refused is counted.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::flow::{FlowState, FlowTable, KeyV4, Now};
use pointsman::dataplane::port::memory::{MemoryPort, frames};
use pointsman::dataplane::tables::{MemberId, Tables};
use pointsman::dataplane::worker::{BURST, Idle, Mailbox, NEW_FLOWS, Order, Parts, Worker};
use pointsman::lab::wait_until;
use support::{Frame, member_mac, tables};

const ESTABLISHED: usize = 100_000;
const MEMBERS: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a frame has what differs between packets: IPv4 header without options.
const SOURCE: usize = 14 + 12;
const SOURCE_PORT: usize = 14 + 20;
const FLAGS: usize = 14 + 20 + 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A worker over the in-memory port, and what it works with.
struct Rig {
    worker: Worker<MemoryPort>,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    flows: Arc<FlowTable>,
}

impl Rig {
    /// New flows are entered without limit.
    fn new(flows: usize) -> Self {
        let flows = FlowTable::new(flows, MEMBERS as usize * 2).expect("memory").0;
        Self::over(Arc::new(flows), Arc::new(Counters::new()), u64::MAX)
    }

    fn over(flows: Arc<FlowTable>, counters: Arc<Counters>, new_flows: u64) -> Self {
        let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
        let worker = Worker::new(Parts {
            ports: vec![MemoryPort::new(4 * BURST)],
            frames: frames(8 * BURST, 512),
            mailbox: Arc::clone(&mailbox),
            counters: Arc::clone(&counters),
            flows: Arc::clone(&flows),
            new_flows,
            idle: Idle::Spin,
        });
        Self { worker, mailbox, counters, flows }
    }

    /// The same table and counters under a worker with this budget.
    fn with_budget(self, new_flows: u64) -> Self {
        Self::over(self.flows, self.counters, new_flows)
    }

    fn publish(&mut self, tables: Tables) {
        self.mailbox.order(Order::Publish(Arc::new(tables))).expect("room");
        self.worker.round();
    }

    /// Sends packets of these clients, and shows what comes out, in the same order.
    fn send(&mut self, flags: u8, clients: impl Iterator<Item = (u32, u16)>, mut look: impl FnMut(&[u8])) {
        let mut frame = Frame::tcp(0, 80, 0).bytes();
        frame[FLAGS] = flags;
        let mut clients = clients.peekable();
        while clients.peek().is_some() {
            for (address, port) in clients.by_ref().take(BURST) {
                frame[SOURCE..SOURCE + 4].copy_from_slice(&address.to_be_bytes());
                frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
                assert!(self.worker.ports()[0].deliver(&frame));
            }
            self.worker.round();
            self.worker.ports()[0].collect(BURST, &mut look);
        }
    }

    /// The MACs that these clients' packets go to.
    fn members_of(&mut self, flags: u8, clients: impl Iterator<Item = (u32, u16)>) -> Vec<[u8; 6]> {
        let mut members = Vec::new();
        self.send(flags, clients, |frame| members.push(*frame.first_chunk().expect("a MAC")));
        members
    }

    /// Opens as many flows as there are to be, and one in a hundred more: the table need not fit the last few (see
    /// `benches/flow.rs`). Those that it fits are its clients.
    fn establish(&mut self) -> Vec<(u32, u16)> {
        self.send(SYN, clients().take(ESTABLISHED * 101 / 100), |_| {});
        let flows = self.flows.v4.iter(self.flows.now());
        let known = flows.map(|flow| (flow.key.client().to_bits(), flow.key.client_port()));
        let known: Vec<_> = known.take(ESTABLISHED).collect();
        self.send(ACK, known.iter().copied(), |_| {});
        known
    }

    /// Until what has come so far may make room for what comes now: the table's clock is so much further on.
    fn let_two_ticks_pass(&self) {
        /// ns, as `flow::time` has it.
        const TICK: u64 = 1 << 29;
        let later = Now(self.flows.now().0 + 2 * TICK);
        assert!(wait_until(PATIENCE, || self.flows.now() >= later));
    }

    fn established(&self) -> HashMap<KeyV4, MemberId> {
        let flows = self.flows.v4.iter(self.flows.now());
        flows.filter(|flow| flow.state == FlowState::Established).map(|flow| (flow.key, flow.member)).collect()
    }
}

/// Clients of 10.0.0.0/8.
fn clients() -> impl Iterator<Item = (u32, u16)> {
    (0..).map(|index| (0x0a00_0000 + index / 40, 1024 + (index % 40) as u16))
}

/// As many others as there are, in no order, none of them twice: an odd factor permutes the 2^40 clients of
/// 128.0.0.0/8 and its ports.
fn strangers() -> impl Iterator<Item = (u32, u16)> {
    let scrambled = (0u64..).map(|index| index.wrapping_mul(0x9e_3779_b97f) & 0xff_ffff_ffff);
    scrambled.map(|client| (0x8000_0000 | (client >> 16) as u32, client as u16))
}

/// Published after the flows began: hashing alone would have all of them go to the last member.
fn all_to_the_last() -> Tables {
    let mut tables = tables(MEMBERS, 1500);
    for vip in &mut tables.vips {
        vip.slots = vip.slots.iter().map(|_| MemberId(MEMBERS - 1)).collect();
    }
    tables
}

/// What became of a flood's packets.
#[derive(Debug)]
struct Flooded {
    /// That the table has.
    entries: u64,
    entered: u64,
    over_budget: u64,
    without_room: u64,
}

/// Establishes flows, lets the flood come over them, and looks at what is left; `syns` in two halves with two ticks
/// between them, so that the second may displace what the first has brought.
fn flood(table: usize, new_flows: u64, syns: usize) -> Flooded {
    let mut rig = Rig::new(table);
    rig.publish(tables(MEMBERS, 1500));
    let clients = rig.establish();
    let members = rig.members_of(ACK, clients.iter().copied());
    let before = rig.established();
    assert_eq!(before.len(), ESTABLISHED);

    let mut rig = rig.with_budget(new_flows);
    rig.publish(all_to_the_last());
    let (begun, without_room) = (rig.counters.flows_begun.get(), rig.counters.flows_without_room.get());
    let started = Instant::now();
    let mut passed_on = 0;
    let mut strangers = strangers();
    for part in [syns / 2, syns - syns / 2] {
        rig.let_two_ticks_pass();
        rig.send(SYN, strangers.by_ref().take(part), |frame| {
            passed_on += 1;
            assert_eq!(frame[..6], member_mac(MEMBERS as u8 - 1), "a stranger goes where it is hashed to");
        });
    }

    assert_eq!(passed_on, syns, "every one is passed on");
    assert!(rig.established() == before, "established flows, and their members, are what they were");
    assert!(rig.members_of(ACK, clients.iter().copied()) == members, "and their packets go there");
    let counters = &rig.counters;
    let flooded = Flooded {
        entries: rig.flows.v4.lines() as u64 * 4,
        entered: counters.flows_begun.get() - begun,
        over_budget: counters.flows_over_budget.get(),
        without_room: counters.flows_without_room.get() - without_room,
    };
    println!("{syns} SYNs in {:?}: {flooded:?}", started.elapsed());
    let all = flooded.entered + flooded.over_budget + flooded.without_room;
    assert_eq!(all, syns as u64, "what was not entered is counted");
    assert_eq!(counters.dropped(), 0);
    flooded
}

#[test]
fn a_hundred_thousand_flows_survive_ten_million_syns() {
    let flooded = flood(1 << 20, NEW_FLOWS, 10_000_000);
    assert!(flooded.over_budget > 0, "a flood is more than the budget");
}

#[test]
fn they_survive_in_a_table_that_is_full_and_without_a_budget() {
    let flooded = flood(2 * ESTABLISHED, u64::MAX, 2_000_000);
    assert_eq!(flooded.over_budget, 0);
    assert!(flooded.without_room > 0, "a flood is more than the table");
    assert!(flooded.entered > flooded.entries, "what a flood has brought makes room for more of it");
}
