//! Where frames come from and go to. Knows frames, not headers.
//!
//! [`Port`] is one queue of one interface: four rings around a memory of equal-sized frames, which all ports of one
//! worker share. [`xdp`] is the real one,
//! on AF_XDP; [`memory`] is its twin in plain memory, for tests, benches and replay without root.
//!
//! **Ownership.** A frame is owned by exactly one thing: the worker's list of free frames, one of a port's rings, or a
//! list that the worker holds for a moment. The token ([`Port::Frame`]) cannot be copied, and what cannot be taken is
//! left with the caller. [`Port::held`] lets a test account for every one.

pub mod memory;
pub mod nic;
mod shift;
pub mod steering;
pub mod xdp;

use super::memory::prefetch;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// One queue of one interface.
pub trait Port {
    /// The sole right to one frame's bytes.
    type Frame;

    /// Moves up to `limit` received frames to the end of `frames`; says how many.
    fn receive(&mut self, frames: &mut Vec<Self::Frame>, limit: usize) -> usize;

    /// Takes frames from the front of `frames` for sending; what the tx ring has no room for stays.
    fn transmit(&mut self, frames: &mut Vec<Self::Frame>);

    /// Has the kernel send what the tx ring holds. `false`: some of it must wait, ask again.
    fn flush(&mut self) -> bool;

    /// Moves frames that have been sent to `free`.
    fn reclaim(&mut self, free: &mut Vec<Self::Frame>);

    /// Gives frames from `free` to the kernel to receive into, as many as it takes.
    fn refill(&mut self, free: &mut Vec<Self::Frame>);

    /// A frame's bytes: the packet, from the first byte of its Ethernet header.
    fn bytes<'a>(&'a self, frame: &'a Self::Frame) -> &'a [u8];

    /// A frame's bytes, to be changed.
    fn bytes_mut<'a>(&'a self, frame: &'a mut Self::Frame) -> &'a mut [u8];

    /// How many bytes that are.
    #[inline]
    fn length(&self, frame: &Self::Frame) -> usize {
        self.bytes(frame).len()
    }

    /// Asks for the first cache line of a frame's bytes.
    #[inline]
    fn prefetch(&self, frame: &Self::Frame) {
        if let Some(first) = self.bytes(frame).first() {
            prefetch(first);
        }
    }

    /// Makes a free frame hold these bytes. `false`, and the frame is unchanged: they are more than it has room for.
    fn write(&self, frame: &mut Self::Frame, bytes: &[u8]) -> bool;

    /// Bytes in front of the packet that it can [`grow`](Port::grow) by.
    fn headroom(&self, frame: &Self::Frame) -> usize;

    /// Has the packet start this many bytes earlier, in the frame's headroom; what stands there is to be overwritten.
    /// `false`, and the frame is unchanged: there are not so many.
    fn grow(&self, frame: &mut Self::Frame, bytes: usize) -> bool;

    /// Cuts the packet off after this many bytes; a shorter one is left as it is.
    fn truncate(&self, frame: &mut Self::Frame, length: usize);

    /// How many frames this port's rings own now.
    fn held(&self) -> usize;

    /// Whether the kernel is about to run out of frames to receive into: no time for a long sleep.
    fn is_starving(&self) -> bool;

    /// How many of those no ring shows: the kernel or the device works on them. 0 on a copying port without traffic.
    fn in_kernel(&mut self) -> usize;

    /// What the kernel counted for this port since it was opened.
    fn statistics(&self) -> RingStatistics;

    /// Sleeps until one of `ports` may have work, `wake` is written to, or `timeout` is over.
    fn wait(ports: &mut [Self], wake: BorrowedFd<'_>, timeout: Duration)
    where
        Self: Sized;
}

/// What the kernel counts per AF_XDP socket (`struct xdp_statistics` of `linux/if_xdp.h`, since 5.9).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingStatistics {
    /// Dropped for reasons other than the two below.
    pub rx_dropped: u64,
    /// Dropped because the rx ring was full.
    pub rx_ring_full: u64,
    /// Not delivered because the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Descriptors of ours that the kernel refused, in either direction.
    pub invalid_descriptors: u64,
}

impl std::ops::Add for RingStatistics {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rx_dropped: self.rx_dropped + other.rx_dropped,
            rx_ring_full: self.rx_ring_full + other.rx_ring_full,
            fill_ring_empty: self.fill_ring_empty + other.fill_ring_empty,
            invalid_descriptors: self.invalid_descriptors + other.invalid_descriptors,
        }
    }
}
