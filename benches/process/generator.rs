//! A port whose wire is a loop: what is sent comes in again, so that nothing but the walk takes time. One frame per
//! flow, in random order, in one memory on huge pages, as a umem is; a frame is its own cache line with another in
//! front for an outer header.

#![expect(unsafe_code, reason = "a real port does not check what it knows; this one would cost more than it")]

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use pointsman::dataplane::port::{Port, RingStatistics};

/// Two cache lines: headroom, and the packet.
const CHUNK: usize = 128;
const HEADROOM: usize = 64;

/// A frame: where its packet starts in the port's memory, and its length. Only the loop copies one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    at: u32,
    length: u32,
}

/// The port.
pub(super) struct Loop {
    waiting: VecDeque<Frame>,
    memory: NonNull<u8>,
    size: NonZeroUsize,
    /// Where in its chunk every packet comes in: at a line's start, if a line is enough for it.
    origin: usize,
    /// What a frame's Ethernet header is when it comes in again.
    ethernet: [u8; 14],
}

impl Loop {
    /// These packets, all of one length, one frame each, come in over and over.
    pub(super) fn new(packets: impl ExactSizeIterator<Item = Vec<u8>>) -> Self {
        let size = NonZeroUsize::new((packets.len() * CHUNK).next_multiple_of(1 << 21)).expect("packets");
        // SAFETY: a fresh private mapping is nobody else's.
        let memory =
            unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) };
        let memory = memory.expect("memory");
        // SAFETY: the range is the mapping's; the advice changes nothing but its pages' size. Without huge pages it is
        // merely slower.
        let _ = unsafe { madvise(memory, size.get(), MmapAdvise::MADV_HUGEPAGE) };
        let mut port =
            Self { waiting: VecDeque::new(), memory: memory.cast(), size, origin: HEADROOM, ethernet: [0; 14] };
        for (index, packet) in packets.enumerate() {
            assert!(packet.len() <= CHUNK, "the packet fits its chunk");
            port.origin = HEADROOM.min(CHUNK - packet.len());
            let mut frame = Frame { at: (index * CHUNK + port.origin) as u32, length: packet.len() as u32 };
            port.bytes_mut(&mut frame).copy_from_slice(&packet);
            port.ethernet.copy_from_slice(&packet[..14]);
            port.waiting.push_back(frame);
        }
        port
    }

    /// Puts frames at the end of the loop.
    #[inline]
    pub(super) fn give_back(&mut self, frames: &mut Vec<Frame>) {
        for frame in frames.iter_mut() {
            // What has grown shrinks again.
            let start = frame.at / CHUNK as u32 * CHUNK as u32 + self.origin as u32;
            frame.length -= start - frame.at;
            frame.at = start;
            let ethernet = self.ethernet;
            if let Some(head) = self.bytes_mut(frame).first_chunk_mut() {
                *head = ethernet;
            }
        }
        self.waiting.extend(frames.drain(..));
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // SAFETY: the mapping is this port's, and no slice of it outlives the port.
        let _ = unsafe { munmap(self.memory.cast(), self.size.get()) };
    }
}

impl Port for Loop {
    type Frame = Frame;

    #[inline]
    fn receive(&mut self, frames: &mut Vec<Frame>, limit: usize) -> usize {
        let count = limit.min(self.waiting.len());
        let (head, tail) = self.waiting.as_slices();
        let first = count.min(head.len());
        frames.extend_from_slice(&head[..first]);
        frames.extend_from_slice(&tail[..count - first]);
        self.waiting.drain(..count);
        count
    }

    #[inline]
    fn transmit(&mut self, frames: &mut Vec<Frame>) {
        self.give_back(frames);
    }

    fn flush(&mut self) -> bool {
        true
    }

    fn reclaim(&mut self, _free: &mut Vec<Frame>) {}

    fn refill(&mut self, free: &mut Vec<Frame>) {
        self.give_back(free);
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: frames lie inside the memory: `new` makes them, and `grow` and `truncate` keep to the chunk.
        let start = unsafe { self.memory.as_ptr().add(frame.at as usize) };
        // SAFETY: as above; and nobody writes to a frame while its token is borrowed.
        unsafe { std::slice::from_raw_parts(start, frame.length as usize) }
    }

    #[inline]
    fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `bytes`.
        let start = unsafe { self.memory.as_ptr().add(frame.at as usize) };
        // SAFETY: as in `bytes`; and the token is borrowed exclusively: only the loop copies tokens.
        unsafe { std::slice::from_raw_parts_mut(start, frame.length as usize) }
    }

    #[inline]
    fn length(&self, frame: &Frame) -> usize {
        frame.length as usize
    }

    fn write(&self, _frame: &mut Frame, _bytes: &[u8]) -> bool {
        false
    }

    #[inline]
    fn headroom(&self, frame: &Frame) -> usize {
        frame.at as usize % CHUNK
    }

    #[inline]
    fn grow(&self, frame: &mut Frame, bytes: usize) -> bool {
        let fits = bytes <= self.headroom(frame);
        if fits {
            frame.at -= bytes as u32;
            frame.length += bytes as u32;
        }
        fits
    }

    fn truncate(&self, frame: &mut Frame, length: usize) {
        frame.length = frame.length.min(length as u32);
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
