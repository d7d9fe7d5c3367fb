//! `GET /v1/metrics`, as `OpenMetrics` has it; docs/api.md lists the names.

use std::fmt;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::super::desk::Desk;
use super::super::problem::Problem;
use super::super::shape::{Member, Monitor, Status, Vip};
use super::{Held, slices, write_down};
use crate::control::compile::{PoolState, PoolStatus};
use crate::control::daemon::Daemon;
use crate::control::health::{OfType, Pace, Times};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes() -> Router<Desk> {
    // Where Prometheus looks by default, too.
    Router::new().route("/v1/metrics", get(metrics)).route("/metrics", get(metrics))
}

async fn metrics(State(desk): State<Desk>, held: Held) -> Result<Response, Problem> {
    let (status, pace) = desk.ask(|daemon| (daemon.status(), daemon.pace())).await?;
    let known = Known {
        status,
        pace,
        vips: desk.list(Daemon::vips).await?.0,
        pools: desk.list(Daemon::pool_statuses).await?.0,
        members: desk.list(Daemon::members).await?.0,
        monitors: desk.list(Daemon::monitors_without_times).await?.0,
    };
    let (text, written) = write_down(held, move || {
        let mut registry = Registry::with_prefix("pointsman");
        registry.register_collector(Box::new(known));
        let mut text = String::new();
        text::encode(&mut text, &registry).map(|()| text.into_bytes())
    })
    .await?;
    let mut response = Response::new(slices(text, Some(written)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    Ok(response)
}

/// What the metrics are made of.
#[derive(Debug)]
struct Known {
    status: Status,
    vips: Vec<Vip>,
    /// With their names.
    pools: Vec<(String, PoolStatus)>,
    members: Vec<Member>,
    monitors: Vec<Monitor>,
    pace: Pace,
}

/// Upper bounds of the buckets that times are counted in, µs: from what a check on the local network takes to the
/// longest timeouts.
const BUCKETS: [u64; 14] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

type Labels = Vec<(&'static str, String)>;

/// One metric: its name, what it says, and its unit.
struct Metric<'e> {
    encoder: DescriptorEncoder<'e>,
}

impl Metric<'_> {
    fn counter(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        values: impl Iterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        values: impl Iterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn times<'t>(
        &mut self,
        (name, help): (&str, &str),
        values: impl Iterator<Item = (Labels, &'t Times)>,
    ) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, times) in values {
            let mut buckets = Vec::with_capacity(BUCKETS.len() + 1);
            // Each is to have its own; the encoder adds them up.
            let mut before = 0;
            for bound in BUCKETS {
                let up_to = times.up_to(Duration::from_micros(bound));
                buckets.push((bound as f64 / 1e6, up_to - before));
                before = up_to;
            }
            buckets.push((f64::MAX, times.count() - before));
            let mut encoder = family.encode_family(&labels)?;
            encoder.encode_histogram::<Labels>(times.sum().as_secs_f64(), times.count(), &buckets, None)?;
        }
        Ok(())
    }
}

impl Collector for Known {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = Metric { encoder };
        self.node(&mut metric)?;
        self.workers(&mut metric)?;
        self.vips(&mut metric)?;
        self.pools(&mut metric)?;
        self.members(&mut metric)?;
        self.monitors(&mut metric)?;
        self.checks(&mut metric)
    }
}

impl Known {
    fn node(&self, metric: &mut Metric<'_>) -> fmt::Result {
        let status = &self.status;
        let alone = |value: f64| std::iter::once((Labels::new(), value));
        let version = std::iter::once((vec![("version", status.version.clone())], 1.0));
        metric.gauge(("build_info", "The daemon's version", None), version)?;
        metric.gauge(
            ("uptime", "Since the daemon was ready", Some(Unit::Seconds)),
            alone(status.uptime_seconds as f64),
        )?;
        metric.gauge(("revision", "Changes of the configuration", None), alone(status.revision as f64))?;
        metric.gauge(("problems", "Problems that status lists", None), alone(status.problems.len() as f64))?;
        let family = |family: &str| vec![("family", family.to_owned())];
        let flows = [(family("v4"), status.flows.v4 as f64)];
        metric.gauge(("flows", "Flows in the connection table", None), flows.into_iter())?;
        let capacity = [(family("v4"), status.flows.capacity_v4 as f64)];
        metric.gauge(("flows_capacity", "Flows that fit", None), capacity.into_iter())
    }

    fn workers(&self, metric: &mut Metric<'_>) -> fmt::Result {
        let workers = &self.status.workers;
        let label = |id: usize| vec![("worker", id.to_string())];
        let each = |what: fn(&super::super::shape::Worker) -> u64| {
            workers.iter().map(move |worker| (label(worker.id), what(worker)))
        };
        metric.counter(("worker_received_packets", "Packets received", None), each(|one| one.packets))?;
        metric.counter(("worker_received", "Bytes received", Some(Unit::Bytes)), each(|one| one.bytes))?;
        metric.counter(("worker_transmitted_packets", "Packets sent", None), each(|one| one.transmitted))?;
        metric.counter(("worker_sleeps", "Times without packets", None), each(|one| one.sleeps))?;
        let drops = workers.iter().flat_map(|worker| {
            let reasons = worker.drops.iter();
            reasons.map(move |(reason, count)| {
                (vec![("worker", worker.id.to_string()), ("reason", reason.clone())], *count)
            })
        });
        metric.counter(("worker_dropped_packets", "Packets dropped, by reason (docs/drops.md)", None), drops)
    }

    fn vips(&self, metric: &mut Metric<'_>) -> fmt::Result {
        let each =
            |what: fn(&Vip) -> u64| self.vips.iter().map(move |vip| (vec![("vip", vip.name.clone())], what(vip)));
        let is_up = |vip: &Vip| u64::from(vip.state == "up");
        let gauges = |what: fn(&Vip) -> u64| each(what).map(|(labels, value)| (labels, value as f64));
        metric.gauge(("vip_up", "1 if somebody serves it", None), gauges(is_up))?;
        metric.gauge(("vip_flows", "Its flows in the connection table", None), gauges(|vip| vip.active_flows))?;
        metric.counter(("vip_new_flows", "Flows begun", None), each(|vip| vip.new_flows))?;
        metric.counter(("vip_packets", "Packets received for it", None), each(|vip| vip.packets))?;
        metric.counter(("vip", "Bytes received for it", Some(Unit::Bytes)), each(|vip| vip.bytes))
    }

    fn pools(&self, metric: &mut Metric<'_>) -> fmt::Result {
        let each = |what: fn(&PoolStatus) -> u32| {
            self.pools.iter().map(move |(name, pool)| (vec![("pool", name.clone())], f64::from(what(pool))))
        };
        metric.gauge(
            ("pool_up", "1 if it has its quorum without backups", None),
            each(|one| (one.state == PoolState::Up).into()),
        )?;
        metric.gauge(("pool_usable_members", "Members that may get new flows", None), each(|one| one.usable))?;
        metric.gauge(("pool_quorum", "So many must be usable", None), each(|one| one.quorum))
    }

    fn members(&self, metric: &mut Metric<'_>) -> fmt::Result {
        let labels = |one: &Member| vec![("pool", one.pool.clone()), ("member", one.name.clone())];
        let each = |what: fn(&Member) -> u64| self.members.iter().map(move |one| (labels(one), what(one)));
        let gauges = |what: fn(&Member) -> u64| each(what).map(|(labels, value)| (labels, value as f64));
        metric.gauge(("member_up", "1 if it is up", None), gauges(|one| u64::from(one.state == "up")))?;
        metric.gauge(("member_weight", "Its weight", None), gauges(|one| one.weight.into()))?;
        metric.gauge(("member_active_flows", "Flows that are not closing", None), gauges(|one| one.active_flows))?;
        metric.gauge(("member_inactive_flows", "Flows that are closing", None), gauges(|one| one.inactive_flows))?;
        metric.counter(("member_new_flows", "Flows begun", None), each(|one| one.new_flows))?;
        metric.counter(("member_packets", "Packets sent to it", None), each(|one| one.packets))?;
        metric.counter(("member", "Bytes sent to it", Some(Unit::Bytes)), each(|one| one.bytes))
    }

    fn monitors(&self, metric: &mut Metric<'_>) -> fmt::Result {
        let labels = |one: &Monitor| {
            vec![
                ("pool", one.pool.clone()),
                ("member", one.member.clone()),
                ("type", one.kind.clone()),
                ("monitor", one.name.clone()),
            ]
        };
        let labelled: Vec<(Labels, &Monitor)> = self.monitors.iter().map(|one| (labels(one), one)).collect();
        let each = |what: fn(&Monitor) -> u64| labelled.iter().map(move |(labels, one)| (labels.clone(), what(one)));
        let is_up = |one: &Monitor| u64::from(one.state == "up");
        metric
            .gauge(("monitor_up", "1 if it is content", None), each(is_up).map(|(labels, up)| (labels, up as f64)))?;
        metric.counter(("monitor_checks", "Checks that counted", None), each(|one| one.checks))?;
        metric.counter(("monitor_failures", "Checks that failed", None), each(|one| one.failures))?;
        metric.counter(("monitor_skipped", "Checks that this host could not make", None), each(|one| one.skipped))?;
        let took = labelled.iter().filter_map(|(labels, one)| Some((labels.clone(), one.last_milliseconds? / 1000.0)));
        metric.gauge(("monitor_last_duration", "How long the last check took", Some(Unit::Seconds)), took)
    }

    fn checks(&self, metric: &mut Metric<'_>) -> fmt::Result {
        let pace = &self.pace;
        let labels = |one: &OfType| vec![("type", one.kind.to_string())];
        let each = |what: fn(&OfType) -> u64| pace.types.iter().map(move |one| (labels(one), what(one)));
        metric.counter(("checks", "Checks that counted", None), each(|one| one.checks))?;
        metric.counter(("checks_failed", "Checks that failed", None), each(|one| one.failures))?;
        metric.counter(("checks_skipped", "Checks that this host could not make", None), each(|one| one.skipped))?;
        let durations = pace.types.iter().map(|one| (labels(one), &one.durations));
        metric.times(("check_duration", "How long checks took, failed ones too"), durations)?;
        let lateness = std::iter::once((Labels::new(), &pace.lateness));
        metric.times(("check_lateness", "How much later than due checks began"), lateness)
    }
}
