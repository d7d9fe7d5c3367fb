//! The cases as criterion has them: one after the other, with its statistics and its memory of earlier runs. (A swap of
//! tables is a difference of two rounds, which criterion does not know: see `interleaved`.)

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use pointsman::control::maglev::Layout;

use super::cases::{Case, FLOOD_BUDGET};
use super::control::{Sweep, candidates};

/// Runs what criterion's own options ask for.
pub(super) fn run() {
    let mut criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).configure_from_args();
    packets(&mut criterion, Case::all());
    control(&mut criterion);
    criterion.final_summary();
}

/// An iteration is a packet.
fn packets(criterion: &mut Criterion, cases: Vec<Case>) {
    for case in cases {
        let mut contender = None;
        let name = case.name();
        let (group, rest) = name.split_once('/').expect("a room and a name");
        let mut group = criterion.benchmark_group(group);
        group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat).sample_size(20);
        group.bench_function(rest, |bencher| {
            // Only what the filter lets through takes memory.
            let contender = contender.get_or_insert_with(|| case.contender(FLOOD_BUDGET));
            bencher.iter_custom(|packets| {
                let (time, done) = contender.time(packets);
                // A turn may be longer than asked for.
                time.mul_f64(packets as f64 / done as f64)
            });
        });
        group.finish();
    }
}

fn control(criterion: &mut Criterion) {
    let candidates = candidates();
    criterion.bench_function("maglev/build/65537x1000", |bencher| {
        bencher.iter(|| Layout::with_size(&candidates, 65_537));
    });
    let layout = Layout::with_size(&candidates, 65_537);
    criterion.bench_function("maglev/one-down/65537x1000", |bencher| {
        bencher.iter(|| layout.slots(|member| member.0 != 7));
    });
    criterion.bench_function("maglev/one-up/65537x1000", |bencher| {
        bencher.iter(|| layout.slots(|member| member.0 == 7));
    });
    let mut sweep = None;
    criterion.bench_function("sweep/line/1m", |bencher| {
        let sweep = sweep.get_or_insert_with(Sweep::new);
        bencher.iter_custom(|lines| {
            let (mut time, mut done) = (Duration::ZERO, 0);
            while done < lines {
                let round = sweep.round();
                (time, done) = (time + round.0, done + round.1);
            }
            time.mul_f64(lines as f64 / done as f64)
        });
    });
}
