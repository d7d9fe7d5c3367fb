//! The client: sends a load, checks every answer, and reports.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{interval, sleep_until, timeout};

use super::allow_open_files;
use crate::lab::load::Line;
use crate::lab::{Latency, Load, LoadReport, Mode, Progress};

mod exchange;

/// How often progress is told: often enough for an eye.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Failures that are told with their connection; the others are counted by kind.
const FIRST_FAILURES: usize = 5;
/// Files beside the connections: the runtime's, standard streams, and those of connections that are still closing.
const OPEN_FILES_BESIDE: u64 = 1024;

/// Sends the load; progress and report go to standard output, one JSON object a line.
pub(super) fn run(load: &Load) -> anyhow::Result<()> {
    allow_open_files(load.concurrency * 2 + OPEN_FILES_BESIDE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(LocalSet::new().run_until(send(load)))?;
    print(&Line::Report(report))
}

async fn send(load: &Load) -> anyhow::Result<LoadReport> {
    let client = Rc::new(Client::new(load.clone())?);
    let mut workers = JoinSet::new();
    for _ in 0..load.concurrency.min(load.connections) {
        workers.spawn_local(Rc::clone(&client).work());
    }
    let mut ticks = interval(PROGRESS_EVERY);
    let finish =
        timeout(Duration::from_secs(load.limit_seconds), async { while workers.join_next().await.is_some() {} });
    tokio::pin!(finish);
    loop {
        tokio::select! {
            _ = &mut finish => break,
            _ = ticks.tick() => print(&Line::Progress(client.progress()))?,
        }
    }
    Ok(client.report())
}

fn print(line: &Line) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, line)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

/// One client, shared by its workers on one thread.
struct Client {
    load: Load,
    started: Instant,
    next: Cell<u64>,
    open: Cell<u64>,
    tally: RefCell<Tally>,
}

/// What has happened so far.
struct Tally {
    report: LoadReport,
    latency_us: Histogram<u64>,
}

/// What a member said about itself and its client, in one answer.
struct Seen {
    member: String,
    client: String,
}

impl Client {
    fn new(load: Load) -> anyhow::Result<Self> {
        // Up to ten minutes, to three digits.
        let latency_us = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        Ok(Self {
            load,
            started: Instant::now(),
            next: Cell::new(0),
            open: Cell::new(0),
            tally: RefCell::new(Tally { report: LoadReport::default(), latency_us }),
        })
    }

    /// Makes one connection after the other until none is left to make.
    async fn work(self: Rc<Self>) {
        loop {
            let number = self.next.get();
            if number >= self.load.connections {
                return;
            }
            self.next.set(number + 1);
            // Until its turn comes.
            let turn = (number * 1_000_000)
                .checked_div(self.load.rate)
                .map_or(self.started, |micros| self.started + Duration::from_micros(micros));
            sleep_until(turn.into()).await;
            let patience = Duration::from_secs(self.load.patience_seconds);
            let outcome = timeout(patience, self.connection(number)).await;
            let outcome =
                outcome.unwrap_or_else(|_| Err(format!("not finished within {} s", self.load.patience_seconds)));
            let mut tally = self.tally.borrow_mut();
            match outcome {
                Ok(()) => tally.report.connections += 1,
                Err(failure) => {
                    tally.report.last_failure_ms = Some(self.started.elapsed().as_millis() as u64);
                    tally.report.fail(number, failure);
                }
            }
        }
    }

    async fn connection(&self, number: u64) -> Result<(), String> {
        match self.load.mode {
            Mode::Get => self.get(number).await,
            Mode::Transfer => self.transfer(number).await,
            Mode::Udp => self.datagram(number).await,
        }
    }

    /// The address to call from.
    fn source(&self, number: u64) -> Option<IpAddr> {
        let sources = &self.load.sources;
        let index = number.checked_rem(sources.len() as u64)?;
        Some(sources[index as usize].into())
    }

    /// Notes that a connection is open until the returned value is dropped.
    fn opened(&self) -> Opened<'_> {
        self.open.set(self.open.get() + 1);
        let mut tally = self.tally.borrow_mut();
        tally.report.concurrent_max = tally.report.concurrent_max.max(self.open.get());
        Opened(&self.open)
    }

    /// Checks that the member saw us, and counts the answer.
    fn answered(&self, first: bool, began: Instant, own: SocketAddr, seen: Seen) -> Result<(), String> {
        let Tally { report, latency_us } = &mut *self.tally.borrow_mut();
        latency_us.saturating_record(began.elapsed().as_micros() as u64);
        let address =
            seen.client.parse().map_or_else(|_| seen.client.clone(), |client: SocketAddr| client.ip().to_string());
        *report.requests_by_client.entry(address).or_default() += 1;
        if seen.client != own.to_string() {
            report.wrong_clients.insert(seen.client);
            return Err("the member saw another client".to_owned());
        }
        if first {
            *report.connections_by_member.entry(seen.member.clone()).or_default() += 1;
        }
        *report.requests_by_member.entry(seen.member).or_default() += 1;
        report.requests += 1;
        Ok(())
    }

    fn progress(&self) -> Progress {
        let report = &self.tally.borrow().report;
        Progress {
            connections: report.connections,
            requests: report.requests,
            failures: report.failures,
            elapsed_ms: self.started.elapsed().as_millis() as u64,
        }
    }

    fn report(&self) -> LoadReport {
        let Tally { report, latency_us } = &*self.tally.borrow();
        let mut report = report.clone();
        let unfinished = self.load.connections - report.connections - report.failures;
        if unfinished > 0 {
            let kind = format!("not finished within the limit of {} s", self.load.limit_seconds);
            report.failures += unfinished;
            report.failure_counts.insert(kind, unfinished);
        }
        report.latency = Latency {
            p50_us: latency_us.value_at_quantile(0.50),
            p99_us: latency_us.value_at_quantile(0.99),
            max_us: latency_us.max(),
        };
        report.elapsed_ms = self.started.elapsed().as_millis() as u64;
        report
    }
}

impl LoadReport {
    fn fail(&mut self, number: u64, failure: String) {
        self.failures += 1;
        if self.first_failures.len() < FIRST_FAILURES {
            self.first_failures.push(format!("connection {number}: {failure}"));
        }
        *self.failure_counts.entry(failure).or_default() += 1;
    }
}

/// Counts one open connection while it lives.
struct Opened<'a>(&'a Cell<u64>);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
