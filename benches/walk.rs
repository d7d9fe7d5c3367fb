//! Nanoseconds per packet of the walk, in process: parse alone, then the whole worker over the in-memory port.
//!
//! `cargo bench --bench walk`

#![allow(missing_docs, reason = "criterion's macros")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman::control::maglev::{Candidate, Layout};
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::parse::parse;
use pointsman::dataplane::port::memory::{MemoryPort, frames};
use pointsman::dataplane::tables::MemberId;
use pointsman::dataplane::worker::{BURST, Idle, Mailbox, NEW_FLOWS, Order, Parts, Worker};
use support::{Frame, tables};

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in [("v4-tcp", Frame::tcp(40_000, 80, 0)), ("v4-udp", Frame::udp(40_000, 53, 0))] {
        let bytes = frame.bytes();
        group.bench_function(name, |bencher| bencher.iter(|| parse(black_box(&bytes))));
    }
    group.finish();
}

/// One burst through a worker: deliver, process, collect. The port's own copies are part of the time.
fn processing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("process");
    group.throughput(Throughput::Elements(BURST as u64));
    for flows in [1u16, 1000] {
        let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
        let mut worker = Worker::new(Parts {
            ports: vec![MemoryPort::new(256)],
            frames: frames(512, 2048),
            mailbox: Arc::clone(&mailbox),
            counters: Arc::new(Counters::new(5, 200)),
            flows: Arc::new(support::flows()),
            new_flows: NEW_FLOWS,
            idle: Idle::Spin,
        });
        mailbox.order(Order::Publish(Arc::new(tables(100, 1500)))).expect("room");
        worker.round();
        let packets: Vec<_> = (0..flows).map(|flow| Frame::tcp(1024 + flow, 80, 0).bytes()).collect();
        let mut next = packets.iter().cycle();
        group.bench_function(format!("established/v4/dr/{flows}"), |bencher| {
            bencher.iter(|| {
                for packet in next.by_ref().take(BURST) {
                    worker.ports()[0].deliver(packet);
                }
                worker.round();
                worker.ports()[0].collect(BURST, |frame| {
                    black_box(frame);
                })
            });
        });
    }
    group.finish();
}

fn maglev(criterion: &mut Criterion) {
    let candidates: Vec<_> = (0..1000)
        .map(|index| Candidate { address: (0x0a00_0001 + index).into(), port: 80, weight: 1, id: MemberId(index) })
        .collect();
    criterion.bench_function("maglev/build/65537x1000", |bencher| {
        bencher.iter(|| Layout::with_size(black_box(&candidates), 65_537));
    });
    let layout = Layout::with_size(&candidates, 65_537);
    criterion.bench_function("maglev/one-of-1000-down", |bencher| {
        bencher.iter(|| layout.slots(|member| member.0 != 7));
    });
    criterion.bench_function("maglev/999-of-1000-down", |bencher| {
        bencher.iter(|| layout.slots(|member| member.0 == 7));
    });
}

criterion_group!(benches, parsing, processing, maglev);
criterion_main!(benches);
