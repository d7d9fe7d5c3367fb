//! A port whose wire is a loop: what is sent comes in again, so that nothing but the walk takes time. One frame per
//! flow, in random order; a frame's memory is its own cache line with another in front for an outer header.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use pointsman::dataplane::port::{Port, RingStatistics};

/// Two cache lines: headroom, and the packet.
#[repr(align(64))]
struct Chunk([u8; 128]);

const HEADROOM: usize = 64;

/// A frame.
pub(super) struct Frame {
    chunk: Box<Chunk>,
    /// Where the packet begins when it comes in.
    origin: u16,
    start: u16,
    end: u16,
}

/// The port.
pub(super) struct Loop {
    waiting: VecDeque<Frame>,
    /// What a frame's Ethernet header is when it comes in again.
    ethernet: [u8; 14],
}

impl Loop {
    /// These packets, one frame each, come in over and over.
    pub(super) fn new(packets: impl Iterator<Item = Vec<u8>>) -> Self {
        let frame = |packet: Vec<u8>| {
            let mut chunk = Box::new(Chunk([0; 128]));
            // What is longer than a line has less headroom.
            let start = HEADROOM.min(chunk.0.len() - packet.len());
            chunk.0[start..start + packet.len()].copy_from_slice(&packet);
            Frame { chunk, origin: start as u16, start: start as u16, end: (start + packet.len()) as u16 }
        };
        let waiting: VecDeque<_> = packets.map(frame).collect();
        let first = &waiting[0];
        let ethernet = first.chunk.0[usize::from(first.start)..].first_chunk().copied().unwrap_or_default();
        Self { waiting, ethernet }
    }

    /// Puts frames at the end of the loop.
    pub(super) fn give_back(&mut self, frames: impl Iterator<Item = Frame>) {
        for mut frame in frames {
            frame.start = frame.origin;
            let start = usize::from(frame.start);
            frame.chunk.0[start..start + 14].copy_from_slice(&self.ethernet);
            self.waiting.push_back(frame);
        }
    }
}

impl Port for Loop {
    type Frame = Frame;

    #[inline]
    fn receive(&mut self, frames: &mut Vec<Frame>, limit: usize) -> usize {
        let count = limit.min(self.waiting.len());
        frames.extend(self.waiting.drain(..count));
        count
    }

    #[inline]
    fn transmit(&mut self, frames: &mut Vec<Frame>) {
        let mut taken = std::mem::take(frames);
        self.give_back(taken.drain(..));
        *frames = taken;
    }

    fn flush(&mut self) -> bool {
        true
    }

    fn reclaim(&mut self, _free: &mut Vec<Frame>) {}

    fn refill(&mut self, free: &mut Vec<Frame>) {
        let mut all = std::mem::take(free);
        self.give_back(all.drain(..));
        *free = all;
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        &frame.chunk.0[usize::from(frame.start)..usize::from(frame.end)]
    }

    #[inline]
    fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        &mut frame.chunk.0[usize::from(frame.start)..usize::from(frame.end)]
    }

    fn write(&self, _frame: &mut Frame, _bytes: &[u8]) -> bool {
        false
    }

    #[inline]
    fn headroom(&self, frame: &Frame) -> usize {
        usize::from(frame.start)
    }

    #[inline]
    fn grow(&self, frame: &mut Frame, bytes: usize) -> bool {
        let Some(start) = usize::from(frame.start).checked_sub(bytes) else { return false };
        frame.start = start as u16;
        true
    }

    fn truncate(&self, frame: &mut Frame, length: usize) {
        frame.end = frame.end.min(frame.start + length as u16);
    }

    fn held(&self) -> usize {
        self.waiting.len()
    }

    fn is_starving(&self) -> bool {
        false
    }

    fn in_kernel(&mut self) -> usize {
        0
    }

    fn statistics(&self) -> RingStatistics {
        RingStatistics::default()
    }

    fn wait(_ports: &mut [Self], _wake: BorrowedFd<'_>, _timeout: Duration) {}
}
