//! No frame is ever lost or owned twice: the worker over the in-memory port, under everything at once.

mod support;

use std::sync::Arc;

use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::port::Port;
use pointsman::dataplane::port::memory::{MemoryPort, frames};
use pointsman::dataplane::residence::histogram;
use pointsman::dataplane::tables::{Interface, InterfaceId, Tables};
use pointsman::dataplane::verdict::DropReason;
use pointsman::dataplane::worker::{Idle, Mailbox, NEW_FLOWS, Order, Parts, Worker};
use support::*;

const RING: usize = 256;
/// Frames per port.
const FRAMES: usize = 2 * RING;

struct Bench {
    worker: Worker<MemoryPort>,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
}

fn bench() -> Bench {
    bench_with(1)
}

fn bench_with(ports: usize) -> Bench {
    let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
    let counters = Arc::new(Counters::new());
    let worker = Worker::new(Parts {
        ports: (0..ports).map(|_| MemoryPort::new(RING)).collect(),
        frames: frames(ports * FRAMES, 2048),
        mailbox: Arc::clone(&mailbox),
        counters: Arc::clone(&counters),
        flows: Arc::new(support::flows()),
        new_flows: NEW_FLOWS,
        idle: Idle::Spin,
    });
    Bench { worker, mailbox, counters }
}

/// A small generator with a fixed seed (SplitMix64): the same run every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    }
}

#[test]
fn every_frame_is_accounted_for_after_ten_million_packets() {
    const PACKETS: u64 = 10_000_000;
    let Bench { mut worker, mailbox, counters } = bench();
    let mixture: Vec<Vec<u8>> = vec![
        Frame::tcp(40_000, 80, 0).bytes(),
        Frame::tcp(40_001, 80, 1400).bytes(),
        Frame::udp(40_002, 53, 100).bytes(),
        Frame::tcp(40_003, 80, 1461).bytes(), // oversize
        to_tunnel(Frame::tcp(40_005, 80, 1440)).bytes(),
        to_tunnel(Frame::tcp(40_006, 80, 1441)).bytes(), // oversize with its outer header
        Frame { padding: 300, ..Frame::udp(40_007, 53, 100) }.bytes(), // a trailer, to be cut off
        Frame::tcp(40_004, 81, 0).bytes(),               // no service
        Frame { fragment: 0x2000, ..Frame::tcp(1, 80, 0) }.bytes(), // fragment
        Frame { destination_mac: [2; 6], ..Frame::tcp(1, 80, 0) }.bytes(), // other host
        Frame::tcp(1, 80, 0).bytes()[..20].to_vec(),     // truncated
        Frame::echo(7, b"ping").bytes(),
        ArpFrame::request(CLIENT, VIP).bytes(),
        ArpFrame::request(VIP, VIP).bytes(), // conflict
    ];
    let snapshots: Vec<Arc<Tables>> = (0..4).map(|members| Arc::new(tables(members, 1500))).collect();
    let mut dice = Dice(1);
    let (mut offered, mut lost, mut collected, mut rounds) = (0, 0, 0, 0_u64);
    while offered < PACKETS {
        // Arrivals and departures come in fits: the rings run full and empty by turns.
        for _ in 0..dice.roll(200) {
            let packet = &mixture[dice.roll(mixture.len() as u64) as usize];
            offered += 1;
            lost += u64::from(!worker.ports()[0].deliver(packet));
        }
        match dice.roll(64) {
            0 => {
                let tables = Arc::clone(&snapshots[dice.roll(4) as usize]);
                mailbox.order(Order::Publish(tables)).expect("the worker takes its orders");
            }
            1 => {
                let frame = ArpFrame::request(VIP, VIP).bytes();
                mailbox.order(Order::Send(InterfaceId(0), frame.into())).expect("the worker takes its orders");
            }
            2 => {
                // More than a frame can hold: refused, and nothing is lost.
                mailbox.order(Order::Send(InterfaceId(0), vec![0; 4096].into())).expect("the worker takes its orders");
            }
            _ => {}
        }
        worker.round();
        // Sometimes the wire stands still, so that the tx ring fills.
        let limit = if rounds % 400 < 40 { 0 } else { dice.roll(160) as usize };
        collected += worker.ports()[0].collect(limit, |_| {}) as u64;
        while mailbox.conflict().is_some() {}
        rounds += 1;
        if rounds % 1000 == 0 {
            assert_eq!(worker.frames(), FRAMES, "after {offered} packets");
        }
    }
    // Let everything through.
    while worker.round() > 0 || worker.ports()[0].collect(usize::MAX, |_| collected += 1) > 0 {}
    assert_eq!(worker.frames(), FRAMES);

    let received = counters.received.packets.get();
    let dropped: u64 = counters.dropped();
    let sent = counters.transmitted.packets.get();
    assert_eq!(received, offered - lost, "every packet that the wire could deliver was received");
    assert_eq!(received + counters.injected.get(), sent + dropped, "every packet was sent or dropped by name");
    assert_eq!(sent, collected, "every packet that was sent arrived");
    for reason in [
        DropReason::Oversize,
        DropReason::TunnelOversize,
        DropReason::NoService,
        DropReason::Ipv4Fragment,
        DropReason::OtherHost,
        DropReason::Ipv4Truncated,
        DropReason::ArpConflict,
        DropReason::NoMember,
        DropReason::TxRingFull,
    ] {
        assert!(counters.dropped_for(reason).get() > 0, "the run did not come to {reason:?}");
    }
    assert!(lost > 0, "the run did not come to an empty fill ring");
    println!(
        "{offered} packets offered, {lost} lost for want of buffers, {received} received, {sent} sent, {dropped} dropped \
         ({} for a full tx ring); {FRAMES} of {FRAMES} frames accounted for",
        counters.dropped_for(DropReason::TxRingFull).get()
    );
}

#[test]
fn retired_tables_come_back_and_are_freed_by_control() {
    let Bench { mut worker, mailbox, .. } = bench();
    let first = Arc::new(tables(1, 1500));
    mailbox.order(Order::Publish(Arc::clone(&first))).expect("room");
    worker.round();
    assert_eq!(Arc::strong_count(&first), 2, "the worker works by it");
    mailbox.order(Order::Publish(Arc::new(tables(2, 1500)))).expect("room");
    worker.round();
    assert_eq!(Arc::strong_count(&first), 2, "retired, not freed by the worker");
    mailbox.collect_retired();
    assert_eq!(Arc::strong_count(&first), 1);
}

#[test]
fn a_worker_is_stopped_whatever_orders_lie_there() {
    let Bench { mut worker, mailbox, counters } = bench();
    mailbox.order(Order::Publish(Arc::new(tables(3, 1500)))).expect("room");
    worker.round();
    while mailbox.order(Order::Send(InterfaceId(0), vec![0; 60].into())).is_ok() {}
    for _ in 0..RING {
        worker.ports()[0].deliver(&Frame::tcp(40_000, 80, 0).bytes());
    }
    mailbox.stop();
    worker.run();
    assert_eq!(counters.received.packets.get(), RING as u64, "what had come in was still sent on");
    assert_eq!(worker.frames(), FRAMES);
}

#[test]
fn a_worker_that_takes_no_orders_gives_them_back() {
    let Bench { mailbox, .. } = bench();
    let frame = || Order::Send(InterfaceId(0), vec![0; 60].into());
    let refused = (0..1000).filter(|_| mailbox.order(frame()).is_err()).count();
    assert_eq!(refused, 1000 - 64);
}

#[test]
fn frames_that_come_in_by_one_interface_and_leave_by_the_other_come_back() {
    // Nine of ten packets come in by the first interface; members are on both, and the second stands still by times.
    const PACKETS: u64 = 1_000_000;
    let Bench { mut worker, mailbox, counters } = bench_with(2);
    let mut tables = tables(4, 1500);
    for (index, member) in Arc::make_mut(&mut tables.members).iter_mut().enumerate() {
        member.egress = InterfaceId(u8::from(index % 4 != 0));
    }
    tables.interfaces = [tables.interfaces[0], Interface { mac: SECOND_MAC }].into();
    mailbox.order(Order::Publish(Arc::new(tables))).expect("room");
    let by = |destination_mac, frame: Frame| Frame { destination_mac, ..frame };
    let mut dice = Dice(2);
    let (mut offered, mut lost, mut collected, mut rounds) = (0, 0, [0; 2], 0_u64);
    while offered < PACKETS {
        for _ in 0..dice.roll(200) {
            let port = usize::from(dice.roll(10) == 0);
            let mac = [LB_MAC, SECOND_MAC][port];
            let flow = Frame::tcp(1024 + dice.roll(50_000) as u16, 80, 0);
            let packet = if dice.roll(2) == 0 { by(mac, flow) } else { by(mac, to_tunnel(flow)) };
            offered += 1;
            lost += u64::from(!worker.ports()[port].deliver(&packet.bytes()));
        }
        worker.round();
        for (port, collected) in collected.iter_mut().enumerate() {
            let stands_still = rounds % 400 < [20, 100][port];
            let limit = if stands_still { 0 } else { dice.roll(200) as usize };
            *collected += worker.ports()[port].collect(limit, |_| {}) as u64;
        }
        rounds += 1;
        assert_eq!(worker.frames(), 2 * FRAMES, "after {offered} packets");
    }
    let mut rest = true;
    while rest {
        rest = worker.round() > 0;
        for (port, collected) in collected.iter_mut().enumerate() {
            let count = worker.ports()[port].collect(usize::MAX, |_| {});
            *collected += count as u64;
            rest |= count > 0;
        }
    }
    worker.round();
    // Every frame is where it is needed: both fill rings are full again.
    for port in worker.ports() {
        assert_eq!(port.held(), RING, "a full fill ring, and nothing else");
    }
    let [received, sent] = [&counters.received, &counters.transmitted].map(|traffic| traffic.packets.get());
    let full = counters.dropped_for(DropReason::TxRingFull).get();
    assert_eq!((received, received), (offered - lost, sent + full));
    assert_eq!(sent, collected.iter().sum::<u64>());
    assert!(lost > 0 && full > 0, "the run did not come to full rings: {lost} lost, {full} dropped");
    println!("{offered} offered, {lost} lost, {collected:?} sent by each, {full} dropped for a full tx ring");
}

#[test]
fn every_received_packet_has_a_residence_time_and_an_empty_round_has_none() {
    let Bench { mut worker, mailbox, counters } = bench();
    mailbox.order(Order::Publish(Arc::new(tables(3, 1500)))).expect("room");
    worker.round();
    let recorded = || {
        let mut residence = histogram();
        counters.residence.add_to(&mut residence);
        residence
    };
    assert!(recorded().is_empty());
    let mut longest = 0;
    for number in [1_u16, 64, 65, 200] {
        for port in 0..number {
            // Those that are dropped were there, too.
            let destination = if port % 2 == 0 { 80 } else { 81 };
            assert!(worker.ports()[0].deliver(&Frame::tcp(1024 + port, destination, 0).bytes()));
        }
        let started = std::time::Instant::now();
        assert_eq!(worker.round(), usize::from(number));
        longest = longest.max(started.elapsed().as_nanos() as u64);
        worker.ports()[0].collect(usize::MAX, |_| {});
        worker.round();
    }
    let residence = recorded();
    assert_eq!(residence.len(), 1 + 64 + 65 + 200);
    assert!(residence.min() > 0 && residence.max() <= residence.highest_equivalent(longest), "{longest} ns at most");
}
