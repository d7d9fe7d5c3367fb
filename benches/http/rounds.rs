//! Rounds in which everybody has a turn, the ratios of each round, and what is printed of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;
use pointsman::lab::{Lab, Topology};
use serde_json::{Map, Value, json};

use crate::balancer::{Balancer, PORT, Running, receive_on};
use crate::client;
use crate::cpu::{Accounts, CpuTimes};
use crate::statistics::{Median, median};

/// How to measure.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    pub(crate) connections: u32,
    pub(crate) body: u32,
    /// The balancer's CPU.
    pub(crate) cpu: usize,
}

/// One turn.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Answers a second of the clock, and per second of the balancer's CPU time.
    per_second: f64,
    per_cpu_second: f64,
    /// The balancer's share of its CPU, and what the machine had left to give, of all its CPUs.
    cpu: f64,
    idle: f64,
    p50_us: f64,
    p99_us: f64,
    failures: u64,
}

/// All turns: of each balancer as many as there were rounds.
#[derive(Debug)]
pub(crate) struct Report {
    turns: Vec<(Balancer, Vec<Sample>)>,
}

/// Runs the rounds. The first of `balancers` is the one that the others are compared with.
pub(crate) fn run(lab: &Lab, balancers: &[Balancer], plan: &Plan) -> Result<Report> {
    let threads = receive_on(lab, plan.cpu)?;
    let mut turns: Vec<_> = balancers.iter().map(|&balancer| (balancer, Vec::new())).collect();
    for round in 0..plan.rounds {
        for turn in 0..turns.len() {
            // Whatever drifts with time favours each of them as often as the others.
            let index = (round + turn) % turns.len();
            let (balancer, samples) = &mut turns[index];
            samples.push(measure(lab, *balancer, &threads, plan).with_context(|| balancer.name())?);
        }
    }
    Ok(Report { turns })
}

fn measure(lab: &Lab, balancer: Balancer, threads: &[Pid], plan: &Plan) -> Result<Sample> {
    let running = Running::start(balancer, lab, plan.cpu)?;
    let accounts = Accounts { processes: vec![running.process()], kernel_threads: threads.to_vec() };
    let mut load = Load::start(lab, plan)?;
    thread::sleep(plan.warm_up);
    let mut look = || Ok::<_, anyhow::Error>((load.answers()?, accounts.run_time()?, busy()?, Instant::now()));
    let (answers_before, cpu_before, busy_before, begin) = look()?;
    thread::sleep(plan.window);
    let (answers, cpu, busy, end) = look()?;
    let report = load.end()?;

    let seconds = (end - begin).as_secs_f64();
    let cpu = cpu.saturating_sub(cpu_before).as_secs_f64();
    let answered = (answers - answers_before) as f64;
    ensure!(answered > 0.0, "no answer in {seconds:.1} s, {} failures", report.failures);
    Ok(Sample {
        per_second: answered / seconds,
        per_cpu_second: answered / cpu,
        cpu: cpu / seconds,
        idle: (1.0 - busy.saturating_sub(busy_before).as_secs_f64() / seconds / cpus() as f64).max(0.0),
        p50_us: report.p50_us as f64,
        p99_us: report.p99_us as f64,
        failures: report.failures,
    })
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What all CPUs have done, or the hypervisor has taken.
fn busy() -> Result<Duration> {
    (0..cpus()).map(|cpu| CpuTimes::read(cpu).map(|times| times.busy + times.stolen)).sum()
}

/// The client at work; killed when this is dropped.
struct Load {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Load {
    fn start(lab: &Lab, plan: &Plan) -> Result<Self> {
        // A thread for each CPU: one alone might be what is measured.
        let limit = (plan.warm_up + plan.window).as_secs() + 30;
        let mut command = lab.client().command(std::env::current_exe()?);
        command.args(["client", "--target", &format!("{}:{PORT}", Topology::VIP)]);
        command.args(["--connections", &plan.connections.to_string(), "--threads", &cpus().to_string()]);
        command.args(["--body", &plan.body.to_string(), "--limit-seconds", &limit.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = lab.spawn(command)?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("the client has no stdout")?);
        Ok(Self { child, input, output })
    }

    /// Answers so far.
    fn answers(&mut self) -> Result<u64> {
        self.input.as_mut().context("the client's input is closed")?.write_all(b"\n")?;
        self.line()
    }

    /// Ends it.
    fn end(&mut self) -> Result<client::Report> {
        drop(self.input.take());
        self.line()
    }

    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the client said '{}'", line.trim_end()))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After `end` it has ended, or is about to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    /// Requests that failed, by whomever.
    pub(crate) fn failures(&self) -> u64 {
        self.turns.iter().flat_map(|(_, samples)| samples).map(|sample| sample.failures).sum()
    }

    /// The first balancer's figure divided by another's, round by round.
    fn ratios(&self, figure: impl Fn(&Sample) -> f64) -> Vec<(Balancer, Vec<f64>)> {
        let [(_, ours), others @ ..] = self.turns.as_slice() else { return Vec::new() };
        let of = |theirs: &[Sample]| ours.iter().zip(theirs).map(|(our, their)| figure(our) / figure(their)).collect();
        others.iter().map(|(balancer, theirs)| (*balancer, of(theirs))).collect()
    }

    /// Every ratio by its key: of requests a second, and (`/cpu`) of requests per CPU-second of the balancer.
    fn keyed(&self) -> Vec<(String, Median)> {
        let per_second = self.ratios(|sample| sample.per_second).into_iter().map(|ratio| ("", ratio));
        let per_cpu = self.ratios(|sample| sample.per_cpu_second).into_iter().map(|ratio| ("/cpu", ratio));
        per_second
            .chain(per_cpu)
            .filter_map(|(kind, (other, ratios))| Some((format!("e2e/http/{}{kind}", other.name()), median(&ratios)?)))
            .collect()
    }

    /// For people.
    pub(crate) fn print(&self) {
        println!("http, keep-alive");
        for (balancer, samples) in &self.turns {
            let middle = |figure: fn(&Sample) -> f64| {
                median(&samples.iter().map(figure).collect::<Vec<_>>()).map_or(f64::NAN, |median| median.value)
            };
            println!(
                "  {:<10} {:>8.0} requests a second; {:>8.0} per CPU-second of the balancer, {:>3.0} % of its CPU; \
                 p50 {:>5.0} µs, p99 {:>6.0} µs; machine idle {:.0} %",
                balancer.name(),
                middle(|sample| sample.per_second),
                middle(|sample| sample.per_cpu_second),
                100.0 * middle(|sample| sample.cpu),
                middle(|sample| sample.p50_us),
                middle(|sample| sample.p99_us),
                100.0 * middle(|sample| sample.idle),
            );
        }
        for (key, Median { value, low, high, confidence }) in self.keyed() {
            let rounds = self.turns.first().map_or(0, |(_, samples)| samples.len());
            println!("  {key:<22} {value:.3}, {low:.3} to {high:.3} ({:.1} %, {rounds} rounds)", 100.0 * confidence);
        }
        if self.failures() > 0 {
            println!("  WRONG: {} requests failed", self.failures());
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let (mut ratio, mut intervals) = (Map::new(), Map::new());
        for (key, Median { value, low, high, confidence }) in self.keyed() {
            ratio.insert(key.clone(), value.into());
            intervals.insert(key, json!({ "low": low, "high": high, "confidence": confidence }));
        }
        let row = |sample: &Sample| {
            json!({
                "per_second": sample.per_second,
                "per_cpu_second": sample.per_cpu_second,
                "cpu": sample.cpu,
                "idle": sample.idle,
                "p50_us": sample.p50_us,
                "p99_us": sample.p99_us,
                "failures": sample.failures,
            })
        };
        let cases: Map<String, Value> = self
            .turns
            .iter()
            .map(|(balancer, samples)| (balancer.name().to_owned(), samples.iter().map(row).collect()))
            .collect();
        json!({ "ratio": ratio, "intervals": intervals, "cases": { "e2e/http": cases } })
    }
}
