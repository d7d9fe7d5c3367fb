//! The connection table by itself: what fits, and nanoseconds per packet, in bursts as a worker sees them.
//!
//! `cargo bench --bench flow` prints tables; `-- 4m` only the rows with that in their name. Times are the least and
//! the median of several rounds that take turns, so that a neighbour's load shows in the spread and not in one row.

use std::hint::black_box;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use pointsman::dataplane::flow::{
    Insertion, Key, KeyV4, KeyV6, Lookup, NewFlowBudget, Now, Place, Secret, Signal, Table, Timeouts,
};
use pointsman::dataplane::tables::{MemberId, VipId};

/// Packets in a burst, as in the worker.
const BURST: usize = 64;

/// Packets between asking for a line and using it: as many misses as a core has under way at once. With all of a burst
/// asked for first, memory would rest while packets are decided.
const AHEAD: usize = 24;

/// Rounds of every case.
const ROUNDS: usize = 7;

/// What a worker needs for a packet at best, ns: how fast the cases' clock runs.
const PACKET: u64 = 30;

const MILLION: usize = 1 << 20;

/// `SplitMix64`: a permutation of 64-bit numbers, so different indices are different flows.
fn scramble(index: u64) -> u64 {
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Client `index`: 2^16 addresses with consecutive ports, as clients have them.
fn v4(index: u64) -> KeyV4 {
    KeyV4::new(Ipv4Addr::from_bits(0x0a00_0000 + (index & 0xffff) as u32), 1024 + (index >> 16) as u16, VipId(0), 0)
}

fn v6(index: u64) -> KeyV6 {
    let address = 0x2001_0db8_u128 << 96 | u128::from(index & 0xffff);
    KeyV6::new(Ipv6Addr::from_bits(address), 1024 + (index >> 16) as u16, VipId(0), 0)
}

/// `count` packets of `flows` flows in random order, each flow equally often if there are as many as flows.
fn packets<K>(flows: usize, count: usize, key: fn(u64) -> K) -> Vec<K> {
    let mut order: Vec<u64> = (0..flows as u64).collect();
    for index in (1..order.len()).rev() {
        order.swap(index, (scramble(index as u64) % (index as u64 + 1)) as usize);
    }
    order.into_iter().cycle().take(count).map(key).collect()
}

/// A worker's part in the table: bursts of packets, looked up, written down, inserted.
struct Walk<K> {
    table: Table<K>,
    timeouts: Timeouts,
    budget: NewFlowBudget,
    /// How many packets ahead of its use a line is asked for.
    ahead: usize,
    now: u64,
    hits: u64,
    inserted: u64,
    refused: u64,
}

impl<K: Key> Walk<K> {
    fn new(flows: usize, per_second: u64) -> Self {
        let (table, _) = Table::new(flows, false, Secret::random()).expect("memory");
        let now = 1 << 40;
        let budget = NewFlowBudget::new(per_second, Now(now));
        Self { table, timeouts: Timeouts::default(), budget, ahead: AHEAD, now, hits: 0, inserted: 0, refused: 0 }
    }

    /// With these flows in it, established.
    fn with(mut self, keys: &[K]) -> Self {
        for key in keys {
            let place = self.table.place(key);
            let packet = (Signal::Syn, Now(self.now));
            self.table.insert((place, key), MemberId(7), packet, &self.timeouts, |_| {});
        }
        self.run(keys, Signal::Segment);
        self
    }

    #[inline(never)]
    fn run(&mut self, keys: &[K], signal: Signal) {
        let mut places = [Place::default(); BURST];
        for burst in keys.chunks(BURST) {
            self.now += PACKET * BURST as u64;
            let now = Now(self.now);
            self.budget.refill(now);
            for (place, key) in places.iter_mut().zip(burst) {
                *place = self.table.place(key);
            }
            for place in places.iter().take(self.ahead) {
                self.table.prefetch(*place);
            }
            for (index, key) in burst.iter().enumerate() {
                if let Some(place) = places.get(index + self.ahead) {
                    self.table.prefetch(*place);
                }
                black_box(self.packet(places[index], key, signal, now));
            }
        }
    }

    #[inline]
    fn packet(&mut self, place: Place, key: &K, signal: Signal, now: Now) -> MemberId {
        let chosen = MemberId(3);
        match self.table.lookup(place, key, (signal, now, &self.timeouts)) {
            Lookup::Hit(hit) => {
                self.hits += 1;
                if hit.is_news {
                    self.table.advance(place, key, (signal, now, &self.timeouts), |event| {
                        black_box(event);
                    });
                }
                hit.member
            }
            Lookup::Miss if !self.budget.has_left() => {
                self.refused += 1;
                chosen
            }
            Lookup::Miss | Lookup::Over => {
                self.budget.take();
                let count = |event| {
                    black_box(event);
                };
                match self.table.insert((place, key), chosen, (signal, now), &self.timeouts, count) {
                    Insertion::Inserted => self.inserted += 1,
                    Insertion::Existing(member) => return member,
                    Insertion::NotInserted => self.refused += 1,
                }
                chosen
            }
        }
    }
}

/// One row: a case and what it took, ns per packet.
struct Row {
    name: String,
    round: Box<dyn FnMut() -> f64>,
    times: Vec<f64>,
}

fn row(name: &str, round: impl FnMut() -> f64 + 'static) -> Row {
    Row { name: name.to_owned(), round: Box::new(round), times: Vec::new() }
}

fn timed(packets: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / packets as f64
}

fn established<K: Key + 'static>(name: &str, flows: usize, key: fn(u64) -> K) -> Row {
    let count = (2 * MILLION).max(flows);
    let mut made = None;
    let name = name.to_owned();
    row(&name, move || {
        let (walk, keys) = made.get_or_insert_with(|| {
            let keys = packets(flows, count, key);
            (Walk::new(flows.max(1024), u64::MAX).with(&keys[..flows]), keys)
        });
        let before = walk.hits;
        let time = timed(count, || walk.run(keys, Signal::Segment));
        assert!((walk.hits - before) as f64 > 0.99 * count as f64, "these flows are known");
        time
    })
}

/// What the memory takes by itself: hash, prefetch, and one load from the flow's first line.
fn floor(name: &str, flows: usize) -> Row {
    let count = (2 * MILLION).max(flows);
    let mut made = None;
    row(name, move || {
        let (table, keys) = made.get_or_insert_with(|| {
            (Table::<KeyV4>::new(flows, false, Secret::random()).expect("memory").0, packets(flows, count, v4))
        });
        let mut places = [Place::default(); BURST];
        timed(count, || {
            for burst in keys.chunks(BURST) {
                for (place, key) in places.iter_mut().zip(burst) {
                    *place = table.place(key);
                    table.prefetch(*place);
                }
                for place in &places[..burst.len()] {
                    black_box(table.is_marked(*place));
                }
            }
        })
    })
}

fn rows() -> Vec<Row> {
    let mut rows = vec![
        floor("floor/v4/1m", MILLION),
        floor("floor/v4/4m", 4 * MILLION),
        established("established/v4/1", 1, v4),
        established("established/v4/1k", 1 << 10, v4),
        established("established/v4/64k", 1 << 16, v4),
        established("established/v4/1m", MILLION, v4),
        established("established/v4/4m", 4 * MILLION, v4),
        established("established/v6/1m", MILLION, v6),
    ];
    rows.push(row("new/v4/1m (table for 1 M)", || {
        let keys = packets(MILLION, MILLION, v4);
        let mut walk = Walk::new(MILLION, u64::MAX);
        // The budget is the bench's, not the case's: as many tokens as there are packets.
        walk.budget = unlimited();
        let time = timed(MILLION, || walk.run(&keys, Signal::Syn));
        assert!(walk.inserted > 995 * MILLION as u64 / 1000, "{} inserted", walk.inserted);
        time
    }));
    let mut flood = None;
    rows.push(row("flood/v4/4m (1 M established, 125 k new/s)", move || {
        let (walk, keys) = flood.get_or_insert_with(|| {
            let established = packets(MILLION, MILLION, v4);
            let sources = packets(4 * MILLION, 4 * MILLION, |index| v4(index + (1 << 30)));
            (Walk::new(MILLION, 125_000).with(&established), sources)
        });
        timed(keys.len(), || walk.run(keys, Signal::Syn))
    }));
    for (name, per_second) in [("125 k new/s", 125_000), ("no budget", u64::MAX)] {
        let mut thrash = None;
        rows.push(row(&format!("thrash/v4/4m (table for 100 k, {name})"), move || {
            let (walk, keys) = thrash.get_or_insert_with(|| {
                let mut walk = Walk::new(100_000, per_second);
                if per_second == u64::MAX {
                    walk.budget = unlimited();
                }
                (walk, packets(4 * MILLION, 4 * MILLION, v4))
            });
            timed(keys.len(), || walk.run(keys, Signal::Segment))
        }));
    }
    let mut swept = None;
    rows.push(row("sweep/v4/1m (per line)", move || {
        let (table, hand) = swept.get_or_insert_with(|| {
            let (table, hand) = Table::new(MILLION, false, Secret::random()).expect("memory");
            let now = Now(1 << 40);
            for key in packets(MILLION, MILLION, v4) {
                let place = table.place(&key);
                table.insert((place, &key), MemberId(1), (Signal::Syn, now), &Timeouts::default(), |_| {});
            }
            (table, hand)
        });
        let lines = table.lines();
        timed(lines, || table.sweep(hand, Now(1 << 40), lines, &Timeouts::default(), |_| {}))
    }));
    rows
}

/// A budget that no case can spend: refilled long before it is empty.
fn unlimited() -> NewFlowBudget {
    NewFlowBudget::new(u64::MAX, Now(0))
}

fn capacity<K: Key>(name: &str, flows: usize, key: fn(u64) -> K) {
    let (table, _) = Table::<K>::new(flows, false, Secret::random()).expect("memory");
    let (mut inserted, mut second, mut missed_second) = (0, 0, 0);
    for index in 0..flows as u64 {
        let key = key(index);
        let packet = (Signal::Syn, Now(1 << 40));
        let insertion = table.insert((table.place(&key), &key), MemberId(1), packet, &Timeouts::default(), |_| {});
        inserted += usize::from(insertion == Insertion::Inserted);
    }
    for index in 0..flows as u64 {
        second += usize::from(table.is_in_second_line(&key(index)) == Some(true));
        missed_second += usize::from(table.is_marked(table.place(&key(index + (1 << 40)))));
    }
    let percent = |number: usize| 100.0 * number as f64 / flows as f64;
    println!(
        "{name:<12} {:>8.1} MiB per million   insertable {:>8.4} %   second line: hits {:>5.2} %, misses {:>5.2} %   pages {}",
        (table.lines() * 64) as f64 / flows as f64 * 1e6 / f64::from(1 << 20),
        percent(inserted),
        percent(second),
        percent(missed_second),
        table.pages().name(),
    );
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if wanted.is_empty() {
        capacity("v4, 1 M", MILLION, v4);
        capacity("v4, 4 M", 4 * MILLION, v4);
        capacity("v4, 100 k", 100_000, v4);
        capacity("v6, 1 M", MILLION, v6);
    }
    let mut rows = rows();
    rows.retain(|row| wanted.is_empty() || wanted.iter().any(|word| row.name.contains(word)));
    let begun = Instant::now();
    for round in 0..=ROUNDS {
        for row in &mut rows {
            let time = (row.round)();
            // The first round warms up.
            if round > 0 {
                row.times.push(time);
            }
        }
        if begun.elapsed() > Duration::from_secs(1) {
            eprint!("\rround {round} of {ROUNDS} ");
            std::io::stderr().flush().expect("a terminal or a file");
        }
    }
    eprintln!();
    println!("{:<52} {:>8} {:>8}  ns per packet", "", "least", "median");
    for row in &mut rows {
        row.times.sort_by(f64::total_cmp);
        println!("{:<52} {:>8.1} {:>8.1}", row.name, row.times[0], row.times[row.times.len() / 2]);
    }
}
