//! Contenders that take turns, so that a neighbour's load meets all of them alike, and their ratios to `bare`, each
//! from the same turn. Criterion measures one after the other and cannot do that.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::cases::{Case, Contender, FLOOD_BUDGET, Kind, Protocol};
use super::control;
use super::statistics::{Median, median};
use super::walk::Forward;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The goals' cases only, and shorter.
    pub(super) quick: bool,
}

impl Plan {
    /// Turns of every contender, at least: what an interval of 95 % needs that is worth printing.
    fn turns(self) -> usize {
        if self.quick { 11 } else { 31 }
    }

    /// How long a group's turns go on, at least.
    fn time(self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { 8 })
    }

    /// What takes turns, `bare` first.
    fn groups(self) -> Vec<Vec<Case>> {
        use Kind::{Bare, Established, Flood, IcmpError, New, Thrash};
        let group = |kind, flows| {
            let [direct, ipip] = [Forward::Direct, Forward::Ipip].map(|forward| Case::Process { kind, forward, flows });
            let bare = [Forward::Direct, Forward::Ipip].map(|forward| Case::Process { kind: Bare, forward, flows });
            let bare = if kind == Established { &bare[..] } else { &bare[..1] };
            [bare, &[direct, ipip]].concat()
        };
        let mut groups: Vec<_> =
            [1, 1000, 64_000, 1_000_000, 4_000_000].into_iter().map(|flows| group(Established, flows)).collect();
        groups.extend([group(New, 1_000_000), group(Flood, 4_000_000), group(Thrash, 4_000_000)]);
        groups.push(group(IcmpError, 64_000));
        if !self.quick {
            groups.extend([1000, 64_000, 4_000_000].map(|flows| group(New, flows)));
            groups.extend(
                [Flood, Thrash].into_iter().flat_map(|kind| [64_000, 1_000_000].map(|flows| group(kind, flows))),
            );
            groups.extend([1, 1000, 1_000_000, 4_000_000].map(|flows| group(IcmpError, flows)));
        }
        groups.push([Protocol::Tcp, Protocol::Udp, Protocol::VlanTcp].map(Case::Parse).to_vec());
        groups
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    per_packet: Map<String, Value>,
    ns: Map<String, Value>,
    maglev_ms: Map<String, Value>,
    ratio: Map<String, Value>,
}

/// Measures everything; prints it as a table, or as one object to which `others` adds its ratios.
pub(super) fn run(plan: Plan, as_json: bool, others: &[Map<String, Value>]) {
    let mut report = Report::default();
    say(
        as_json,
        &format!(
            "{:<34} {:>7}  {:<17} {:>7}  ratio to bare (95 %)",
            "ns of CPU time per packet", "median", "(95 %)", "least"
        ),
    );
    for group in plan.groups() {
        measure(&group, plan, as_json, &mut report);
    }
    for (name, value) in [control::sweep(), control::swap()] {
        say(as_json, &format!("{name:<34} {:>7.1}  ({:.1} - {:.1})  ns", value.value, value.low, value.high));
        report.ns.insert(name, rounded(value.value));
    }
    for (name, value) in control::maglev() {
        say(as_json, &format!("{name:<34} {:>7.3}  ({:.3} - {:.3})  ms", value.value, value.low, value.high));
        report.maglev_ms.insert(name, rounded(value.value));
    }
    let Report { per_packet: mut whole, ns, maglev_ms, mut ratio } = report;
    for others in others.iter().filter_map(|other| other.get("ratio")?.as_object()) {
        ratio.extend(others.clone());
    }
    whole.extend([("ns".into(), ns.into()), ("maglev_ms".into(), maglev_ms.into()), ("ratio".into(), ratio.into())]);
    if as_json {
        println!("{}", Value::from(whole));
    }
}

/// Tables are for readers, and progress for those who wait for JSON.
fn say(as_json: bool, line: &str) {
    if as_json { eprintln!("{line}") } else { println!("{line}") }
}

/// To a thousandth.
fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// One group's turns.
fn measure(group: &[Case], plan: Plan, as_json: bool, report: &mut Report) {
    let mut contenders: Vec<Contender> = group.iter().map(|case| case.contender(FLOOD_BUDGET)).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); group.len()];
    let packets = group.iter().map(|case| turn_of(*case)).max().unwrap_or(0);
    // A turn that nobody measures fills the caches and spends what the budget for new flows has saved up.
    for contender in &mut contenders {
        contender.time(packets);
    }
    let begun = Instant::now();
    while times[0].len() < plan.turns() || begun.elapsed() < plan.time() {
        let is_reversed = times[0].len() % 2 == 1;
        for step in 0..group.len() {
            let at = if is_reversed { group.len() - 1 - step } else { step };
            let (time, done) = contenders[at].time(packets);
            times[at].push(time.as_nanos() as f64 / done as f64);
        }
    }
    let has_baseline = matches!(group[0], Case::Process { kind: Kind::Bare, .. });
    for (at, case) in group.iter().enumerate() {
        let ratios: Vec<f64> = times[at].iter().zip(&times[0]).map(|(own, bare)| own / bare).collect();
        let ratio = if has_baseline && at > 0 { median(&ratios) } else { None };
        let Some(found) = median(&times[at]) else { continue };
        let least = times[at].iter().copied().fold(f64::INFINITY, f64::min);
        say(as_json, &row(&case.name(), found, least, ratio));
        report.ratio.extend(ratio.map(|ratio| (case.name(), rounded(ratio.value))));
        // The first group with so many flows says what `bare` takes; later ones repeat it for their own ratios.
        report.per_packet.entry(case.name()).or_insert_with(|| rounded(found.value));
    }
}

/// Packets of a turn: some milliseconds, and enough flows for memory to be what is measured.
fn turn_of(case: Case) -> u64 {
    match case {
        Case::Process { flows, .. } => flows.clamp(200_000, 1_000_000) as u64,
        Case::Parse(_) => 1_000_000,
    }
}

fn row(name: &str, found: Median, least: f64, ratio: Option<Median>) -> String {
    let interval = |of: Median, digits| format!("({:.digits$} - {:.digits$})", of.low, of.high);
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{:.3} {}", ratio.value, interval(ratio, 3)));
    format!("{name:<34} {:>7.1}  {:<17} {least:>7.1}  {ratio}", found.value, interval(found, 1)).trim_end().to_owned()
}
