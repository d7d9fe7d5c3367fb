//! Nanoseconds per packet of the whole walk, in process: `cargo bench --bench process`.

mod bare;
mod generator;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bare::Bare;
use generator::Loop;
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::encap::{Source, Template};
use pointsman::dataplane::flow::{FlowTable, Timeouts};
use pointsman::dataplane::select::Seed;
use pointsman::dataplane::service::{Destination, ServiceTable};
use pointsman::dataplane::tables::{Interface, InterfaceId, Member, MemberId, Tables, Vip, VipAddress, VipId, Way};
use pointsman::dataplane::worker::{BURST, Idle, Mailbox, Order, Parts, Worker};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const MEMBERS: u32 = 100;

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

fn packet(flow: u64, flags: u8) -> Vec<u8> {
    let mut frame = Vec::with_capacity(54);
    frame.extend(MAC);
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 61, 6, 0, 0]);
    frame.extend((0x0a00_0000 + (flow / 50_000) as u32).to_be_bytes());
    frame.extend(VIP.octets());
    frame.extend((1024 + (flow % 50_000) as u16).to_be_bytes());
    frame.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// The flows, in random order; with fewer than a ring's worth each several times.
fn order(flows: usize) -> Vec<u64> {
    let mut order: Vec<u64> = (0..flows.max(512)).map(|at| (at % flows) as u64).collect();
    let mut dice = Dice(7);
    for at in (1..order.len()).rev() {
        order.swap(at, dice.roll(at as u64 + 1) as usize);
    }
    order
}

fn macs() -> [u8; 12] {
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&MAC);
    macs[6..].copy_from_slice(&MAC);
    macs
}

fn tables(ipip: bool) -> Tables {
    let destination = Destination { address: VIP.into(), protocol: 6, port: 80 };
    let slots: Arc<[MemberId]> = (0..65_537).map(|slot| MemberId(slot % MEMBERS)).collect();
    let source = Source { address: 0xc633_640a, varying: 0 };
    let member = |id: u32| Member {
        way: if ipip { Way::Ipip(macs(), Template::new(source, 0x0a63_0000 + id)) } else { Way::Direct(macs()) },
        egress: InterfaceId(0),
        largest: 1500,
    };
    Tables {
        generation: 1,
        services: ServiceTable::new(&[(destination, VipId(0))]),
        vips: [Vip { slots, timeouts: Timeouts::default(), destination }].into(),
        members: (0..MEMBERS).map(member).collect(),
        interfaces: [Interface { mac: MAC }].into(),
        addresses: [VipAddress { address: VIP.into(), announced: [InterfaceId(0)].into_iter().collect() }].into(),
        seed: Seed::from_text("bench"),
        timeouts: Timeouts::default(),
    }
}

struct Walk {
    worker: Worker<Loop>,
    counters: Arc<Counters>,
}

fn walk(flows: usize, capacity: usize, flags: u8, ipip: bool, new_flows: u64) -> Walk {
    let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
    let counters = Arc::new(Counters::new(1, MEMBERS as usize));
    let (table, _hand) = FlowTable::new(capacity, MEMBERS as usize).expect("memory");
    let port = Loop::new(order(flows).into_iter().map(|flow| packet(flow, flags)));
    let mut worker = Worker::new(Parts {
        ports: vec![port],
        frames: Vec::new(),
        mailbox: Arc::clone(&mailbox),
        counters: Arc::clone(&counters),
        flows: Arc::new(table),
        new_flows,
        idle: Idle::Spin,
    });
    assert!(mailbox.order(Order::Publish(Arc::new(tables(ipip)))).is_ok());
    worker.round();
    Walk { worker, counters }
}

/// Nanoseconds per packet of so many rounds.
fn time(rounds: usize, mut round: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        round();
    }
    start.elapsed().as_nanos() as f64 / (rounds * BURST) as f64
}

fn median(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2])
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let unlimited = 1 << 32;
    if let Ok(case) = std::env::var("CG") {
        let rounds: usize = std::env::var("N").unwrap().parse().unwrap();
        let f: usize = std::env::var("F").unwrap_or("1".into()).parse().unwrap();
        let mut w = match case.as_str() {
            "dr" => walk(f, f.max(1024), 0x10, false, unlimited),
            "ipip" => walk(f, f.max(1024), 0x10, true, unlimited),
            "new" => walk(1_000_000, 1_000_000, 0x02, false, unlimited),
            "flood" => walk(1_000_000, 250_000, 0x02, false, 125_000),
            "bare" => {
                let mut bare = Bare::new(Loop::new(order(f).into_iter().map(|flow| packet(flow, 0x10))), f, macs());
                for _ in 0..3 {
                    let t = time(rounds, || bare.round());
                    if std::env::var("T").is_ok() {
                        println!("{t}");
                    } else {
                        break;
                    }
                }
                return;
            }
            _ => unreachable!(),
        };
        if std::env::var("T").is_ok() {
            println!("{}", time(rounds, || w.worker.round_ignored()));
            println!("{}", time(rounds, || w.worker.round_ignored()));
            println!("{}", time(rounds, || w.worker.round_ignored()));
        } else {
            time(rounds, || w.worker.round_ignored());
        }
        return;
    }
    for (name, flows) in [("1", 1), ("1k", 1000), ("64k", 64_000), ("1m", 1_000_000), ("4m", 4_000_000)] {
        let mut bare = Bare::new(Loop::new(order(flows).into_iter().map(|flow| packet(flow, 0x10))), flows, macs());
        let mut direct = walk(flows, flows.max(1024), 0x10, false, unlimited);
        let mut ipip = walk(flows, flows.max(1024), 0x10, true, unlimited);
        let rounds = (flows / BURST).clamp(2000, 20_000);
        let once = flows.max(512) / BURST + 1;
        for _ in 0..2 {
            time(once, || direct.worker.round_ignored());
            time(once, || ipip.worker.round_ignored());
        }
        let mut results = [Vec::new(), Vec::new(), Vec::new()];
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            results[0].push(time(rounds, || bare.round()));
            results[1].push(time(rounds, || direct.worker.round_ignored()));
            results[2].push(time(rounds, || ipip.worker.round_ignored()));
        }
        let [bare, direct_result, ipip_result] = results.map(median);
        println!(
            "established {name:>4}: bare {:5.1} ({:5.1})  dr {:5.1} ({:5.1}) = {:.2}  ipip {:5.1} ({:5.1}); begun {} without room {}",
            bare.1,
            bare.0,
            direct_result.1,
            direct_result.0,
            direct_result.1 / bare.1,
            ipip_result.1,
            ipip_result.0,
            direct.counters.flows_begun.get(),
            direct.counters.flows_without_room.get()
        );
    }
    // New: each flow once, into an empty table.
    let mut news = Vec::new();
    for _ in 0..5 {
        let mut fresh = walk(1_000_000, 1_000_000, 0x02, false, unlimited);
        news.push(time(1_000_000 / BURST - 1, || fresh.worker.round_ignored()));
    }
    println!("new 1m: {:?}", median(news));
    let mut flood = walk(4_000_000, 1_000_000, 0x02, false, 125_000);
    let floods = (0..7).map(|_| time(20_000, || flood.worker.round_ignored())).collect();
    println!(
        "flood: {:?} begun {} over {}",
        median(floods),
        flood.counters.flows_begun.get(),
        flood.counters.flows_over_budget.get()
    );
    let mut thrash = walk(4_000_000, 100_000, 0x10, false, unlimited);
    let thrashs = (0..7).map(|_| time(20_000, || thrash.worker.round_ignored())).collect();
    println!(
        "thrash: {:?} begun {} no room {}",
        median(thrashs),
        thrash.counters.flows_begun.get(),
        thrash.counters.flows_without_room.get()
    );
    black_box(&thrash.counters);
}

trait RoundIgnored {
    fn round_ignored(&mut self);
}

impl RoundIgnored for Worker<Loop> {
    fn round_ignored(&mut self) {
        black_box(self.round());
    }
}
