//! Nothing to do: what pointsman costs then, and how long the first packet after a pause takes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::contender::{Contender, Running, Site};
use crate::statistics::median;
use crate::traffic::Traffic;
use crate::wire::Wire;

/// Packets that each come after a pause, and the pause: longer than a worker's longest sleep, and not a multiple of
/// anything's period.
const PROBES: usize = 25;
const PAUSE: Duration = Duration::from_millis(2_130);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// CPU time of all the daemon's threads beside the clock.
    share: f64,
    seconds: f64,
    /// From the generator to the sink, in seconds.
    latencies: Vec<f64>,
    lost: usize,
}

/// Idles for so many seconds, then sends single packets.
pub(crate) fn run(wire: &Wire, traffic: &mut Traffic, site: &Site, seconds: u64) -> Result<Outcome> {
    let running = Running::start(Contender::Pointsman, wire, site)?;
    // Starting is not idling.
    thread::sleep(Duration::from_secs(1));
    let (before, begin) = (running.accounts().run_time()?, Instant::now());
    thread::sleep(Duration::from_secs(seconds));
    let cpu = running.accounts().run_time()?.saturating_sub(before).as_secs_f64();
    let seconds = begin.elapsed().as_secs_f64();

    let mut outcome = Outcome { share: cpu / seconds, seconds, latencies: Vec::new(), lost: 0 };
    for _ in 0..PROBES {
        thread::sleep(PAUSE);
        match traffic.probe()? {
            Some(latency) => outcome.latencies.push(latency.as_secs_f64()),
            None => outcome.lost += 1,
        }
    }
    running.stop()?;
    Ok(outcome)
}

impl Outcome {
    fn median_latency(&self) -> f64 {
        median(&self.latencies).map_or(f64::NAN, |median| median.value)
    }

    fn longest(&self) -> f64 {
        self.latencies.iter().copied().fold(f64::NAN, f64::max)
    }

    /// Packets that took more than a millisecond.
    fn late(&self) -> usize {
        self.latencies.iter().filter(|&&latency| latency > 1e-3).count()
    }

    /// For people.
    pub(crate) fn print(&self) {
        println!("idle");
        println!("  {:.0} s: {:.4} % of one CPU, all threads", self.seconds, 100.0 * self.share);
        println!(
            "  the first packet after {:.1} s: median {:.0} µs, longest {:.0} µs, {} of {PROBES} over 1 ms, {} lost",
            PAUSE.as_secs_f64(),
            1e6 * self.median_latency(),
            1e6 * self.longest(),
            self.late(),
            self.lost
        );
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "cpu": self.share,
            "seconds": self.seconds,
            "latency_seconds": self.latencies,
            "median_seconds": self.median_latency(),
            "longest_seconds": self.longest(),
            "over_a_millisecond": self.late(),
            "lost": self.lost,
        })
    }
}
