//! The whole walk, through a worker on the in-memory port: no panic, no frame lost, no length changed, every packet
//! sent or dropped by name. The input is cut into frames: a length byte pair, then so many bytes.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pointsman::dataplane::counters::Counters;
use pointsman::dataplane::port::memory::{MemoryPort, frames};
use pointsman::dataplane::tables::Tables;
use pointsman::dataplane::worker::{NEW_FLOWS, Idle, Mailbox, Order, Parts, Worker};

#[path = "../../tests/support/mod.rs"]
mod support;

static TABLES: LazyLock<Arc<Tables>> = LazyLock::new(|| Arc::new(support::tables(3, 1500)));

const FRAMES: usize = 16;

fuzz_target!(|input: &[u8]| {
    let Ok(mailbox) = Mailbox::new() else { return };
    let mailbox = Arc::new(mailbox);
    let counters = Arc::new(Counters::new());
    let mut worker = Worker::new(Parts {
        ports: vec![MemoryPort::new(FRAMES / 2)],
        frames: frames(FRAMES, 2048),
        mailbox: Arc::clone(&mailbox),
        counters: Arc::clone(&counters),
        flows: Arc::new(support::flows()),
        new_flows: NEW_FLOWS,
        idle: Idle::Spin,
    });
    assert!(mailbox.order(Order::Publish(Arc::clone(&TABLES))).is_ok());
    worker.round();

    let mut rest = input;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)) % 1793;
        let (frame, after) = after.split_at(length.min(after.len()));
        rest = after;
        let delivered = worker.ports()[0].deliver(frame);
        assert_eq!(delivered, frame.len() <= 2048 - 256);
        worker.round();
        worker.ports()[0].collect(1, |sent| {
            // Answers keep the length; what is forwarded is cut where its packet ends, and may have an outer header.
            let packet = frame.get(16..18).map_or(0, |length| usize::from(u16::from_be_bytes([length[0], length[1]])));
            let cut = frame.len().min((14 + packet).max(60));
            assert!([frame.len(), cut, cut + 20].contains(&sent.len()), "{} of {}", sent.len(), frame.len());
            if sent.len() == cut + 20 {
                assert_eq!(support::checksum(&sent[14..34]), 0);
                assert_eq!(sent[34..], frame[14..cut]);
            }
        });
        worker.round();
        assert_eq!(worker.frames(), FRAMES);
    }
    assert_eq!(counters.received.packets.get(), counters.transmitted.packets.get() + counters.dropped());
});
