//! Pointsman and another in interleaved pairs: packets per CPU-second of each, and the ratio of every pair.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::contender::{Contender, Running, Site};
use crate::cpu::CpuTimes;
use crate::statistics::{Median, median};
use crate::traffic::{Rate, Traffic};
use crate::wire::Wire;

/// A share of the window that others had of the forwarder's CPU and that makes a pair a disturbed one. The clock of
/// /proc/stat ticks in hundredths of a second: less than this may be rounding.
const DISTURBED: f64 = 0.05;

/// How to compare.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) pairs: usize,
    /// Whom pointsman is compared with.
    pub(crate) against: Contender,
    pub(crate) rates: Vec<Rate>,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// Measure one alone: there are no ratios then.
    pub(crate) only: Option<Contender>,
}

/// One window of one contender.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Packets that arrived as they should per second of CPU time: the figure of merit.
    per_cpu_second: f64,
    /// The same per second of the clock.
    per_second: f64,
    /// What the generator sent in that second.
    offered: f64,
    /// Frames that arrived and were not as they should be.
    bad: u64,
    /// The forwarder's share of its CPU, and that of everybody else together.
    cpu: f64,
    others: f64,
}

/// All windows at one rate: one of each contender per pair.
#[derive(Debug)]
pub(crate) struct Comparison {
    rate: Rate,
    against: Contender,
    other: Vec<Sample>,
    pointsman: Vec<Sample>,
}

/// Runs the pairs.
pub(crate) fn compare(wire: &Wire, traffic: &mut Traffic, site: &Site, plan: &Plan) -> Result<Vec<Comparison>> {
    let empty = |&rate| Comparison { rate, against: plan.against, other: Vec::new(), pointsman: Vec::new() };
    let mut comparisons: Vec<Comparison> = plan.rates.iter().map(empty).collect();
    for pair in 0..plan.pairs {
        let mut order = [plan.against, Contender::Pointsman];
        // Whatever drifts with time favours each of them as often as the other.
        order.rotate_left(pair % 2);
        for contender in order.into_iter().filter(|contender| plan.only.is_none_or(|only| only == *contender)) {
            let running = Running::start(contender, wire, site)?;
            for comparison in &mut comparisons {
                let sample = measure(traffic, &running, site, plan, comparison.rate)?;
                match contender {
                    Contender::Pointsman => comparison.pointsman.push(sample),
                    _ => comparison.other.push(sample),
                }
            }
            running.stop()?;
        }
    }
    Ok(comparisons)
}

fn measure(traffic: &mut Traffic, running: &Running<'_>, site: &Site, plan: &Plan, rate: Rate) -> Result<Sample> {
    let sample = traffic.flood(rate, |traffic| {
        thread::sleep(plan.warm_up);
        let look = || Ok::<_, anyhow::Error>((traffic.counts()?, running.accounts().run_time()?, Instant::now()));
        let machine_before = CpuTimes::read(site.cpu)?;
        let (counts_before, cpu_before, begin) = look()?;
        thread::sleep(plan.window);
        let (counts, cpu, end) = look()?;
        let machine = CpuTimes::read(site.cpu)?;

        let seconds = (end - begin).as_secs_f64();
        let good = (counts.good - counts_before.good) as f64;
        ensure!(good > 0.0, "nothing arrived of {} frames", counts.generated - counts_before.generated);
        let cpu = cpu.saturating_sub(cpu_before).as_secs_f64();
        let busy =
            machine.busy.saturating_sub(machine_before.busy) + machine.stolen.saturating_sub(machine_before.stolen);
        Ok(Sample {
            per_cpu_second: good / cpu,
            per_second: good / seconds,
            offered: (counts.generated - counts_before.generated) as f64 / seconds,
            bad: counts.bad - counts_before.bad,
            cpu: cpu / seconds,
            others: (busy.as_secs_f64() - cpu).max(0.0) / seconds,
        })
    })?;
    traffic.settle()?;
    Ok(sample)
}

impl Comparison {
    fn sides(&self) -> [(Contender, &[Sample]); 2] {
        [(self.against, &self.other), (Contender::Pointsman, &self.pointsman)]
    }

    fn ratios(&self) -> Vec<f64> {
        let pairs = self.other.iter().zip(&self.pointsman);
        pairs.map(|(other, pointsman)| pointsman.per_cpu_second / other.per_cpu_second).collect()
    }

    /// Pairs of which one half had to share its CPU.
    fn disturbed(&self) -> usize {
        let is_disturbed =
            |samples: &[Sample], pair: usize| samples.get(pair).is_some_and(|one| one.others > DISTURBED);
        let pairs = self.other.len().max(self.pointsman.len());
        (0..pairs).filter(|&pair| self.sides().iter().any(|(_, samples)| is_disturbed(samples, pair))).count()
    }

    /// Frames that arrived wrong, from either.
    pub(crate) fn bad(&self) -> u64 {
        self.sides().iter().flat_map(|(_, samples)| samples.iter()).map(|sample| sample.bad).sum()
    }

    /// What `case` is called against this one at this rate.
    pub(crate) fn key(&self, case: &str) -> String {
        let name = match (self.against, case) {
            (Contender::Baseline, case) => case.to_owned(),
            (peer, "stick") => peer.name().to_owned(),
            (peer, case) => format!("{}/{case}", peer.name()),
        };
        match self.rate {
            Rate::FlatOut => format!("e2e/{name}"),
            Rate::PerSecond(rate) => format!("e2e/{name}@{rate}"),
        }
    }

    /// The median of the pairs' ratios.
    pub(crate) fn ratio(&self) -> Option<Median> {
        median(&self.ratios())
    }

    /// For people.
    pub(crate) fn print(&self, case: &str) {
        println!("{}", self.key(case));
        for (contender, samples) in self.sides().into_iter().filter(|(_, samples)| !samples.is_empty()) {
            println!(
                "  {:<10} {:>9.0} packets per CPU-second; {:>9.0} a second of {:>9.0} offered; {:>3.0} % of its CPU, \
                 others {:.0} %",
                contender.name(),
                middle(samples, |sample| sample.per_cpu_second),
                middle(samples, |sample| sample.per_second),
                middle(samples, |sample| sample.offered),
                100.0 * middle(samples, |sample| sample.cpu),
                100.0 * middle(samples, |sample| sample.others),
            );
        }
        let pairs = self.ratios().len();
        if let Some(Median { value, low, high, confidence }) = self.ratio() {
            println!("  ratio      {value:.3}, {low:.3} to {high:.3} ({:.1} %, {pairs} pairs)", 100.0 * confidence);
        }
        if self.disturbed() > 0 {
            let percent = 100.0 * DISTURBED;
            println!("  the machine was busy: others had over {percent} % of the CPU in {} pairs", self.disturbed());
        }
        if self.bad() > 0 {
            println!("  WRONG: {} frames arrived that were not what they should be", self.bad());
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let side = |samples: &[Sample]| {
            let row = |sample: &Sample| {
                json!({
                    "per_cpu_second": sample.per_cpu_second,
                    "per_second": sample.per_second,
                    "offered": sample.offered,
                    "cpu": sample.cpu,
                    "others": sample.others,
                    "bad": sample.bad,
                })
            };
            samples.iter().map(row).collect::<Vec<_>>()
        };
        let interval =
            self.ratio().map(|ratio| json!({ "low": ratio.low, "high": ratio.high, "confidence": ratio.confidence }));
        json!({
            "interval": interval,
            "disturbed": self.disturbed(),
            self.against.name(): side(&self.other),
            "pointsman": side(&self.pointsman),
        })
    }
}

fn middle(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let values: Vec<f64> = samples.iter().map(figure).collect();
    median(&values).map_or(f64::NAN, |median| median.value)
}
