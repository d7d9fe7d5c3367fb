//! A worker with a loop for a port, tables with one VIP of 100 members, and a connection table.

use std::ops::Range;
use std::sync::Arc;

use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::encap::{Source, Template};
use pointsman::dataplane::flow::{FlowTable, KeyV4, Lookup, Signal, Timeouts};
use pointsman::dataplane::limits::Limits;
use pointsman::dataplane::schedule::{Candidate, OnMemberDown, Pool, Scheduler};
use pointsman::dataplane::select::Seed;
use pointsman::dataplane::service::{Destination, ServiceTable};
use pointsman::dataplane::tables::{Interface, InterfaceId, Member, MemberId, Tables, Vip, VipAddress, VipId, Way};
use pointsman::dataplane::worker::{Idle, Mailbox, Order, Parts, Worker};

use super::generator::Loop;
use super::packet::{MAC, PORT, VIP, client};

const MEMBERS: u32 = 100;
const SLOTS: u32 = 65_537;

/// How packets get to the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forward {
    Direct,
    Ipip,
}

/// What a walk starts with.
pub(super) struct Start<'a> {
    pub(super) forward: Forward,
    /// Flows that fit.
    pub(super) capacity: usize,
    /// New flows per second that are entered.
    pub(super) new_flows: u64,
    /// Flows that are established already.
    pub(super) known: &'a mut dyn Iterator<Item = u64>,
}

/// What a walk counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) received: u64,
    pub(super) transmitted: u64,
    pub(super) begun: u64,
    pub(super) over_budget: u64,
    pub(super) without_room: u64,
}

/// The walk, whole.
pub(super) struct Walk {
    worker: Worker<Loop>,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
}

/// What every frame's MACs become.
pub(super) fn macs() -> [u8; 12] {
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&MAC);
    macs[6..].copy_from_slice(&MAC);
    macs
}

/// A member that is reached at `address` if in a tunnel.
pub(super) fn member(forward: Forward, address: u32) -> Member {
    let source = Source { address: 0xc633_640a, varying: 0 };
    let way = match forward {
        Forward::Direct => Way::Direct(macs()),
        Forward::Ipip => Way::Ipip(macs(), Template::new(source, address)),
    };
    Member { way, egress: InterfaceId(0), largest: 1500 }
}

/// A pool that goes by its Maglev table.
pub(super) fn pool(ids: Range<u32>) -> Arc<Pool> {
    let candidates = ids.map(|id| Candidate { member: MemberId(id), weight: 1 }).collect();
    Arc::new(Pool::new(Scheduler::Maglev, OnMemberDown::Reselect, candidates))
}

fn tables(forward: Forward) -> Tables {
    let destination = Destination { address: VIP.into(), protocol: 6, port: PORT };
    let slots: Arc<[MemberId]> = (0..SLOTS).map(|slot| MemberId(slot % MEMBERS)).collect();
    Tables {
        generation: 1,
        services: ServiceTable::new(&[(destination, VipId(0))]),
        vips: [Vip { slots, timeouts: Timeouts::default(), destination, pool: pool(0..MEMBERS) }].into(),
        members: (0..MEMBERS).map(|id| member(forward, 0x0a63_0000 + id)).collect(),
        interfaces: [Interface { mac: MAC }].into(),
        addresses: [VipAddress { address: VIP.into(), announced: [InterfaceId(0)].into_iter().collect() }].into(),
        seed: Seed::from_text("bench"),
        timeouts: Timeouts::default(),
        limits: Limits::default(),
    }
}

impl Walk {
    /// With one VIP.
    pub(super) fn new(port: Loop, start: Start<'_>) -> Self {
        let (flows, _hand) = FlowTable::new(start.capacity, MEMBERS as usize).expect("memory");
        for flow in start.known {
            establish(&flows, flow);
        }
        let counters = Arc::new(Counters::new());
        Self::with(port, (flows, counters), tables(start.forward), start.new_flows)
    }

    /// With any tables.
    pub(super) fn with(port: Loop, (flows, counters): (FlowTable, Arc<Counters>), tables: Tables, new: u64) -> Self {
        let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
        let worker = Worker::new(Parts {
            ports: vec![port],
            frames: Vec::new(),
            mailbox: Arc::clone(&mailbox),
            counters: Arc::clone(&counters),
            flows: Arc::new(flows),
            new_flows: new,
            idle: Idle::Spin,
        });
        let walk = Self { worker, mailbox, counters };
        walk.publish(Arc::new(tables));
        walk
    }

    /// The worker takes these tables at the beginning of its next round.
    pub(super) fn publish(&self, tables: Arc<Tables>) {
        assert!(self.mailbox.order(Order::Publish(tables)).is_ok(), "the worker takes its orders");
    }

    /// One round of the worker; says how many packets there were.
    #[inline]
    pub(super) fn round(&mut self) -> usize {
        self.worker.round()
    }

    /// Hands the frames over to another walk.
    pub(super) fn swap_frames(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.worker.ports()[0], &mut other.worker.ports()[0]);
    }

    pub(super) fn counted(&self) -> Counted {
        Counted {
            received: self.counters.received.packets.get(),
            transmitted: self.counters.transmitted.packets.get(),
            begun: self.counters.flows_begun.get(),
            over_budget: self.counters.flows_over_budget.get(),
            without_room: self.counters.flows_without_room.get(),
        }
    }
}

impl Counted {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received - earlier.received,
            transmitted: self.transmitted - earlier.transmitted,
            begun: self.begun - earlier.begun,
            over_budget: self.over_budget - earlier.over_budget,
            without_room: self.without_room - earlier.without_room,
        }
    }
}

/// Enters a flow as two of its packets would.
fn establish(flows: &FlowTable, flow: u64) {
    let (address, port) = client(flow);
    let key = KeyV4::new(address, port, VipId(0), 0);
    let (place, now, timeouts) = (flows.v4.place(&key), flows.now(), Timeouts::default());
    let member = MemberId((flow % u64::from(MEMBERS)) as u32);
    flows.v4.insert((place, &key), member, (Signal::Syn, now), &timeouts, |event| flows.loads.record(event, &None));
    let packet = (Signal::Segment, now, &timeouts);
    if let Lookup::Hit(_) = flows.v4.lookup(place, &key, packet) {
        flows.v4.advance(place, &key, packet, |event| flows.loads.record(event, &None));
    }
}
