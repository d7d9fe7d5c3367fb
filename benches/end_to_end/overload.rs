//! More than pointsman can take, for long: it must go on forwarding what it can, say where the rest went, and be as
//! good as new afterwards.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pointsman::lab::{InterfaceCounters, Namespace};
use serde_json::{Value, json};

use crate::contender::{Contender, Running, Site};
use crate::statistics::median;
use crate::traffic::{Counts, Rate, Traffic};
use crate::wire::Wire;

/// The search for the best rate: from here on up by this factor, until much is lost.
const FIRST_RATE: u32 = 200_000;
const NEXT_RATE: f64 = 1.2;
/// Beyond what is forwarded by so much, a rate is no candidate any more.
const TOO_MUCH: f64 = 2.0;
/// How long each rate is tried: what is looked for can be kept up, and is no lucky moment of a shared machine.
const TRY: Duration = Duration::from_secs(2);
/// What comes before, unmeasured.
const WARM_UP: Duration = Duration::from_millis(250);

/// The flood's parts: after each, the best rate is looked at again, since a shared machine's speed changes within the
/// minute.
const PART_SECONDS: u64 = 10;

/// The gentle rate: a part of the best that leaves a busy machine room to be busy.
const GENTLE: f64 = 0.1;
const GENTLE_SECONDS: u64 = 2;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The highest rate that was forwarded over `TRY`, before the flood or between its parts.
    best: f64,
    /// Forwarded in each part of the flood, as a share of the best rate just before and after it.
    parts: Vec<f64>,
    /// Forwarded in each second of the flood, and offered in all of them.
    seconds: Vec<f64>,
    offered: f64,
    /// Where frames went: all that were sent, from the first to the last.
    fate: Vec<(String, u64)>,
    sent: u64,
    /// At the gentle rate right after the flood.
    gentle: Gentle,
}

/// Frames at a rate that loses nothing in good times.
#[derive(Debug)]
struct Gentle {
    sent: u64,
    lost: u64,
    /// Of those lost, the ones that the veths' rings had no room for: the forwarder never had them.
    lost_on_wires: u64,
}

/// Floods for so many seconds.
pub(crate) fn run(wire: &Wire, traffic: &mut Traffic, site: &Site, seconds: u64) -> Result<Outcome> {
    let links = Links::of(wire)?;
    let before = traffic.counts()?;
    let running = Running::start(Contender::Pointsman, wire, site)?;
    let (best, rate) = best_rate(traffic)?;
    let flood = flood(traffic, rate, seconds)?;
    let gentle = gentle(traffic, wire, best)?;
    let links = Links::of(wire)?.since(&links);
    let log = running.stop()?;
    let counts = traffic.settle()?;
    let (sent, fate) = fate(&log, before, counts, &links)?;
    let Flood { best, parts, seconds, offered } = flood;
    Ok(Outcome { best, parts, seconds, offered, fate, sent, gentle })
}

/// The highest rate that is forwarded, and the rate that has to be offered for it.
fn best_rate(traffic: &mut Traffic) -> Result<(f64, Rate)> {
    let (mut best, mut at, mut rate) = (0.0_f64, 0.0, f64::from(FIRST_RATE));
    while best == 0.0 || rate < TOO_MUCH * best {
        let forwarded = kept_up(traffic, per_second_of(rate))?;
        if forwarded > best {
            (best, at) = (forwarded, rate);
        }
        rate *= NEXT_RATE;
        // Nothing comes through: the accounts will say why.
        if forwarded == 0.0 {
            break;
        }
    }
    Ok((best, per_second_of(at)))
}

/// What is forwarded of this rate.
fn kept_up(traffic: &mut Traffic, rate: Rate) -> Result<f64> {
    traffic.flood(rate, |traffic| {
        thread::sleep(WARM_UP);
        Ok(per_second(traffic, TRY)?.0)
    })
}

#[expect(clippy::cast_sign_loss, reason = "rates are not negative")]
fn per_second_of(rate: f64) -> Rate {
    Rate::PerSecond(rate as u32)
}

/// Forwarded and generated a second, over so long.
fn per_second(traffic: &Traffic, window: Duration) -> Result<(f64, f64)> {
    let (before, begin) = (traffic.counts()?, Instant::now());
    thread::sleep(window);
    let (after, seconds) = (traffic.counts()?, begin.elapsed().as_secs_f64());
    Ok(((after.good - before.good) as f64 / seconds, (after.generated - before.generated) as f64 / seconds))
}

/// What was forwarded.
struct Flood {
    best: f64,
    parts: Vec<f64>,
    seconds: Vec<f64>,
    offered: f64,
}

/// As much as the generator can, for so many seconds; between their parts, the rate at which most was forwarded.
fn flood(traffic: &mut Traffic, best_at: Rate, seconds: u64) -> Result<Flood> {
    let mut before = kept_up(traffic, best_at)?;
    let mut flood = Flood { best: before, parts: Vec::new(), seconds: Vec::new(), offered: 0.0 };
    for _ in 0..seconds.div_ceil(PART_SECONDS) {
        let each = traffic.flood(Rate::FlatOut, |traffic| {
            (0..PART_SECONDS).map(|_| per_second(traffic, Duration::from_secs(1))).collect::<Result<Vec<_>>>()
        })?;
        let after = kept_up(traffic, best_at)?;
        let forwarded = each.iter().map(|&(forwarded, _)| forwarded).sum::<f64>() / each.len() as f64;
        flood.parts.push(forwarded / f64::midpoint(before, after));
        flood.seconds.extend(each.iter().map(|&(forwarded, _)| forwarded));
        flood.offered += each.iter().map(|&(_, offered)| offered).sum::<f64>();
        flood.best = flood.best.max(after);
        before = after;
    }
    flood.offered /= flood.seconds.len().max(1) as f64;
    Ok(flood)
}

/// A part of the best rate, from the moment that the flood is over.
fn gentle(traffic: &mut Traffic, wire: &Wire, best: f64) -> Result<Gentle> {
    // What the flood left in the rings is not the gentle rate's.
    let (before, links) = (traffic.settle()?, Links::of(wire)?);
    traffic.flood(per_second_of(best * GENTLE), |_| {
        thread::sleep(Duration::from_secs(GENTLE_SECONDS));
        Ok(())
    })?;
    let after = traffic.settle()?;
    let sent = after.generated - before.generated;
    Ok(Gentle {
        sent,
        lost: sent.saturating_sub(after.good - before.good),
        lost_on_wires: Links::of(wire)?.since(&links).iter().map(|&(_, count)| count).sum(),
    })
}

/// The counters of the veths at both ends of the forwarder.
#[derive(Debug, Clone, Copy)]
struct Links {
    source: InterfaceCounters,
    egress: InterfaceCounters,
}

impl Links {
    fn of(wire: &Wire) -> Result<Self> {
        let read = |namespace: &Namespace, interface: &str| namespace.interface_counters(interface);
        let (namespace, interface) = wire.source();
        let source = read(namespace, interface)?;
        let egress = read(wire.forwarder(), &wire.interfaces()[wire.way().egress()])?;
        Ok(Self { source, egress })
    }

    /// Lost before the forwarder's interface, and behind it: rings of the veths that were full.
    fn since(&self, before: &Self) -> [(&'static str, u64); 2] {
        [
            ("wire.before (veth ring full)", self.source.tx_dropped - before.source.tx_dropped),
            ("wire.behind (veth ring full)", self.egress.tx_dropped - before.egress.tx_dropped),
        ]
    }
}

/// Accounts for every frame that was sent, by what the veths and the daemon's last line of statistics say.
fn fate(log: &str, before: Counts, after: Counts, links: &[(&str, u64)]) -> Result<(u64, Vec<(String, u64)>)> {
    let line = log.lines().rev().find_map(|line| line.split_once("statistics ")).context("no statistics line")?.1;
    let said: BTreeMap<&str, u64> = line
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect();
    let number = |key: &str| said.get(key).copied().unwrap_or(0);
    let mut fate = vec![
        ("forwarded".to_owned(), after.good - before.good),
        ("forwarded wrongly".to_owned(), after.bad - before.bad),
    ];
    fate.extend(links.iter().map(|&(name, count)| (name.to_owned(), count)));
    for key in ["xdp.passed", "xdp.unserved", "xdp.no_socket", "ring.rx_ring_full"] {
        fate.push((key.to_owned(), number(key)));
    }
    // Copy mode counts a frame for which there was no chunk in both (xp_alloc and __xsk_rcv, net/xdp).
    let (empty, dropped) = (number("ring.fill_ring_empty"), number("ring.rx_dropped"));
    fate.push(("ring.fill_ring_empty".to_owned(), empty));
    fate.push(("ring.rx_dropped (other causes)".to_owned(), dropped.saturating_sub(empty)));
    let drops = said.iter().filter(|(key, _)| key.starts_with("drop."));
    fate.extend(drops.map(|(key, &count)| ((*key).to_owned(), count)));
    Ok((after.generated - before.generated, fate))
}

impl Outcome {
    fn unaccounted(&self) -> f64 {
        let accounted: u64 = self.fate.iter().map(|(_, count)| count).sum();
        self.sent.abs_diff(accounted) as f64 / self.sent.max(1) as f64
    }

    /// The share of the best rate that was forwarded over the whole flood.
    fn mean(&self) -> f64 {
        self.seconds.iter().sum::<f64>() / self.seconds.len().max(1) as f64 / self.best
    }

    fn worst_second(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min) / self.best
    }

    fn median_second(&self) -> f64 {
        median(&self.seconds).map_or(f64::NAN, |median| median.value / self.best)
    }

    fn seconds_below(&self, share: f64) -> usize {
        self.seconds.iter().filter(|&&forwarded| forwarded < share * self.best).count()
    }

    /// For people.
    pub(crate) fn print(&self) {
        println!("overload");
        println!("  best rate {:.0} packets a second", self.best);
        println!(
            "  {} s of {:.0} a second ({:.1} × the best): forwarded {:.3} of the best; median second {:.3}, worst {:.3}, \
             {} below 0.9",
            self.seconds.len(),
            self.offered,
            self.offered / self.best,
            self.mean(),
            self.median_second(),
            self.worst_second(),
            self.seconds_below(0.9)
        );
        let parts: Vec<String> = self.parts.iter().map(|part| format!("{part:.3}")).collect();
        println!("  each {PART_SECONDS} s beside the best rate just before and after: {}", parts.join(" "));
        println!("  {} frames sent, of which", self.sent);
        for (name, count) in self.fate.iter().filter(|(_, count)| *count > 0) {
            println!("    {count:>12} {name}");
        }
        println!("  unaccounted: {:.4} %", 100.0 * self.unaccounted());
        let Gentle { sent, lost, lost_on_wires } = self.gentle;
        println!(
            "  afterwards, gently: {sent} sent, {lost} lost, of which {lost_on_wires} before and behind the forwarder"
        );
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "best": self.best,
            "offered": self.offered,
            "seconds": self.seconds,
            "parts": self.parts,
            "mean": self.mean(),
            "median_second": self.median_second(),
            "worst_second": self.worst_second(),
            "sent": self.sent,
            "fate": self.fate.iter().cloned().collect::<BTreeMap<_, _>>(),
            "unaccounted": self.unaccounted(),
            "gentle": {
                "sent": self.gentle.sent,
                "lost": self.gentle.lost,
                "lost_on_wires": self.gentle.lost_on_wires,
            },
        })
    }
}
