//! The port's twin in plain memory: the same rings, no kernel, no root.
//!
//! What the kernel and the wire do is called by the test: [`MemoryPort::deliver`] puts a packet on the rx ring,
//! [`MemoryPort::collect`] takes packets off the tx ring and completes them.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{Port, RingStatistics};

/// Bytes before the packet in a fresh frame, as the kernel leaves for XDP (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// A frame: its memory goes where the token goes, so no two things can own it.
#[derive(Debug)]
pub struct MemoryFrame {
    chunk: Box<[u8]>,
    start: usize,
    length: usize,
}

/// Four rings of `ring` entries each.
#[derive(Debug)]
pub struct MemoryPort {
    ring: usize,
    fill: VecDeque<MemoryFrame>,
    rx: VecDeque<MemoryFrame>,
    tx: VecDeque<MemoryFrame>,
    completion: VecDeque<MemoryFrame>,
    statistics: RingStatistics,
}

/// `count` fresh frames of `size` bytes.
pub fn frames(count: usize, size: usize) -> Vec<MemoryFrame> {
    (0..count).map(|_| MemoryFrame { chunk: vec![0; size].into(), start: HEADROOM.min(size), length: 0 }).collect()
}

impl MemoryPort {
    /// A port with empty rings.
    pub fn new(ring: usize) -> Self {
        let queue = || VecDeque::with_capacity(ring);
        Self {
            ring,
            fill: queue(),
            rx: queue(),
            tx: queue(),
            completion: queue(),
            statistics: RingStatistics::default(),
        }
    }

    /// The wire brings a packet. `false`: it was lost, and counted as the kernel counts it.
    pub fn deliver(&mut self, packet: &[u8]) -> bool {
        if self.rx.len() == self.ring {
            self.statistics.rx_ring_full += 1;
            return false;
        }
        let Some(mut frame) = self.fill.pop_front() else {
            self.statistics.fill_ring_empty += 1;
            return false;
        };
        frame.start = HEADROOM.min(frame.chunk.len());
        let Some(room) = frame.chunk.get_mut(frame.start..frame.start + packet.len()) else {
            self.statistics.rx_dropped += 1;
            self.fill.push_front(frame);
            return false;
        };
        room.copy_from_slice(packet);
        frame.length = packet.len();
        self.rx.push_back(frame);
        true
    }

    /// The wire takes up to `limit` packets, each shown to `look`, and completes them; says how many.
    pub fn collect(&mut self, limit: usize, mut look: impl FnMut(&[u8])) -> usize {
        let count = limit.min(self.tx.len()).min(self.ring - self.completion.len());
        for frame in self.tx.drain(..count) {
            look(&frame.chunk[frame.start..frame.start + frame.length]);
            self.completion.push_back(frame);
        }
        count
    }
}

/// Moves up to `limit` elements from the front of `from` to the end of `to`.
fn transfer<T>(from: &mut VecDeque<T>, to: &mut Vec<T>, limit: usize) -> usize {
    let count = limit.min(from.len());
    to.extend(from.drain(..count));
    count
}

impl Port for MemoryPort {
    type Frame = MemoryFrame;

    fn receive(&mut self, frames: &mut Vec<MemoryFrame>, limit: usize) -> usize {
        transfer(&mut self.rx, frames, limit)
    }

    fn transmit(&mut self, frames: &mut Vec<MemoryFrame>) {
        let count = frames.len().min(self.ring - self.tx.len());
        self.tx.extend(frames.drain(..count));
    }

    fn flush(&mut self) -> bool {
        true
    }

    fn reclaim(&mut self, free: &mut Vec<MemoryFrame>) {
        transfer(&mut self.completion, free, usize::MAX);
    }

    fn refill(&mut self, free: &mut Vec<MemoryFrame>) {
        let count = free.len().min(self.ring - self.fill.len());
        self.fill.extend(free.drain(free.len() - count..));
    }

    fn bytes<'a>(&'a self, frame: &'a MemoryFrame) -> &'a [u8] {
        &frame.chunk[frame.start..frame.start + frame.length]
    }

    fn bytes_mut<'a>(&'a self, frame: &'a mut MemoryFrame) -> &'a mut [u8] {
        &mut frame.chunk[frame.start..frame.start + frame.length]
    }

    fn write(&self, frame: &mut MemoryFrame, bytes: &[u8]) -> bool {
        let Some(room) = frame.chunk.get_mut(frame.start..frame.start + bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        frame.length = bytes.len();
        true
    }

    fn headroom(&self, frame: &MemoryFrame) -> usize {
        frame.start
    }

    fn grow(&self, frame: &mut MemoryFrame, bytes: usize) -> bool {
        let Some(start) = frame.start.checked_sub(bytes) else { return false };
        frame.start = start;
        frame.length += bytes;
        true
    }

    fn truncate(&self, frame: &mut MemoryFrame, length: usize) {
        frame.length = frame.length.min(length);
    }

    fn held(&self) -> usize {
        self.fill.len() + self.rx.len() + self.tx.len() + self.completion.len()
    }

    fn is_starving(&self) -> bool {
        self.fill.is_empty()
    }

    fn in_kernel(&mut self) -> usize {
        0
    }

    fn statistics(&self) -> RingStatistics {
        self.statistics
    }

    fn wait(_ports: &mut [Self], _wake: BorrowedFd<'_>, _timeout: Duration) {}
}
