//! The real port: an AF_XDP socket on one queue of one interface, through xsk-rs. A worker's ports share one umem, so
//! that a frame can come in by one and leave by another.
//!
//! - `open`: how it comes to be
//!
//! What xsk-rs asks its caller to promise is kept here, once: a descriptor reaches a ring only inside an
//! [`XdpFrame`], which cannot be copied, which only this module makes, and which remembers its umem.

#![expect(unsafe_code, reason = "xsk-rs hands out descriptors whose ownership it cannot check; XdpFrame does")]

mod open;

use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue, Umem};

pub use open::{
    LARGEST_FRAME, OpenError, OpenOptions, Opened, WantedCopyMode, ZeroCopyRefused, largest_mtu, memory_needed,
};

use super::shift::AddressField;
use super::{Port, RingStatistics};

/// Entries of each ring. At 1.5 million packets a second and core, 2048 are 1.4 ms of absence (a scheduler tick, a
/// health check on the same core); half of it loses packets then, twice as much only adds latency and memory.
pub const RING: u32 = 2048;

/// Frames that one `sendto` takes in copy mode unless it is asked for more (`TX_BATCH_SIZE`, net/xdp/xsk.c, Linux 6.18).
const FRAMES_PER_SEND: usize = 32;

/// Descriptors moved between a ring and a list at a time.
const BATCH: usize = 64;

/// Interfaces that one worker can serve.
pub const MOST_PORTS: usize = 16;

/// How the kernel moves packets between the driver and our frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// The driver works in our memory.
    ZeroCopy,
    /// The kernel copies every packet.
    Copy,
}

impl std::fmt::Display for CopyMode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        })
    }
}

/// The sole right to one frame of one umem.
#[derive(Debug)]
pub struct XdpFrame {
    descriptor: FrameDesc,
    umem: u32,
}

/// One queue of one interface on AF_XDP.
#[derive(Debug)]
pub struct XdpPort {
    umem: Umem,
    /// Tells this port's umem from every other one in the process.
    umem_id: u32,
    /// Bytes of a chunk, a power of two.
    chunk: usize,
    address: AddressField,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Of the shared frames, those in this port's fill ring, its rx ring, or being received into.
    receiving: usize,
    /// Frames in the tx ring, being sent, or in the completion ring.
    sending: usize,
    /// Frames put on the tx ring since the kernel was last told.
    unsent: usize,
    /// Frames that one `sendto` takes.
    frames_per_send: usize,
    busy_poll: bool,
    copy_mode: CopyMode,
    largest_mtu: u32,
    /// Descriptors on their way between a ring and a list; what stands here in between means nothing.
    batch: Box<[FrameDesc; BATCH]>,
}

impl XdpPort {
    /// The mode that was achieved.
    pub fn copy_mode(&self) -> CopyMode {
        self.copy_mode
    }

    /// The largest MTU whose frames fit into the port's chunks.
    pub fn largest_mtu(&self) -> u32 {
        self.largest_mtu
    }

    /// The socket, for the steering program's map.
    pub fn socket(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    #[inline]
    fn own(&self, frame: &XdpFrame) {
        assert_is_of(self.umem_id, frame);
    }

    /// The descriptors of frames of this umem, at most `BATCH`, side by side.
    #[inline]
    fn lay_out<'a>(room: &'a mut [FrameDesc; BATCH], umem: u32, frames: &[XdpFrame]) -> &'a [FrameDesc] {
        for (descriptor, frame) in room.iter_mut().zip(frames) {
            assert_is_of(umem, frame);
            *descriptor = frame.descriptor;
        }
        &room[..frames.len()]
    }

    fn adopt(umem: u32, descriptors: &[FrameDesc], frames: &mut Vec<XdpFrame>) {
        frames.extend(descriptors.iter().map(|&descriptor| XdpFrame { descriptor, umem }));
    }
}

#[inline]
fn assert_is_of(umem: u32, frame: &XdpFrame) {
    assert_eq!(frame.umem, umem, "a frame was brought to a port of another umem");
}

impl Port for XdpPort {
    type Frame = XdpFrame;

    fn receive(&mut self, frames: &mut Vec<XdpFrame>, limit: usize) -> usize {
        let room = &mut self.batch[..limit.min(BATCH)];
        // SAFETY: the contract is that the descriptors' previous values may be forgotten: they mean nothing.
        let count = unsafe { self.rx.consume(room) };
        Self::adopt(self.umem_id, &self.batch[..count], frames);
        self.receiving -= count;
        if count == 0 && self.busy_poll {
            // A receive call on a socket that prefers busy polling runs the driver's receive function here and now.
            let _ = recv(self.socket(), &mut [], MsgFlags::MSG_DONTWAIT);
        }
        count
    }

    fn transmit(&mut self, frames: &mut Vec<XdpFrame>) {
        let mut taken = 0;
        for batch in frames.chunks(BATCH) {
            let descriptors = Self::lay_out(&mut self.batch, self.umem_id, batch);
            // SAFETY: the contract is that each descriptor is of this umem and owned by the caller: `lay_out` has checked
            // the first, and the tokens of those taken are destroyed below.
            let count = unsafe { self.tx.produce(descriptors) };
            taken += count;
            if count < batch.len() {
                break;
            }
        }
        frames.drain(..taken);
        self.sending += taken;
        self.unsent += taken;
    }

    fn flush(&mut self) -> bool {
        if self.unsent == 0 {
            return true;
        }
        if !self.tx.needs_wakeup() {
            self.unsent = 0;
            return true;
        }
        // The kernel takes so many per call, and says EAGAIN both for "there is more" and for "no more now".
        for _ in 0..self.unsent.div_ceil(self.frames_per_send) {
            let sent = nix::sys::socket::send(self.socket(), &[], MsgFlags::MSG_DONTWAIT);
            match sent {
                Ok(_) => {
                    self.unsent = 0;
                    return true;
                }
                // EBUSY: the device's queue dropped one frame, and the rest waits to be asked for.
                Err(Errno::EAGAIN | Errno::EBUSY) => {}
                // ENETDOWN, ENXIO: the link is down or gone; ENOBUFS: no memory for now. What is on the ring stays
                // there and is tried again.
                Err(_) => return false,
            }
        }
        false
    }

    fn reclaim(&mut self, free: &mut Vec<XdpFrame>) {
        while self.sending > 0 {
            // SAFETY: as in `receive`.
            let count = unsafe { self.completion.consume(&mut self.batch[..]) };
            Self::adopt(self.umem_id, &self.batch[..count], free);
            self.sending -= count;
            if count < BATCH {
                break;
            }
        }
    }

    fn refill(&mut self, free: &mut Vec<XdpFrame>) {
        let room = (RING as usize).saturating_sub(self.receiving).min(free.len());
        // Filling by the batch keeps the ring's shared cache line from moving for every packet.
        if room >= BATCH || (room > 0 && self.receiving < BATCH) {
            let first = free.len() - room;
            let mut taken = 0;
            for batch in free[first..].chunks(BATCH) {
                let descriptors = Self::lay_out(&mut self.batch, self.umem_id, batch);
                // SAFETY: as in `transmit`.
                let count = unsafe { self.fill.produce(descriptors) };
                taken += count;
                if count < batch.len() {
                    break;
                }
            }
            free.drain(first..first + taken);
            self.receiving += taken;
        }
        if self.fill.needs_wakeup() {
            let _ = recv(self.socket(), &mut [], MsgFlags::MSG_DONTWAIT);
        }
    }

    fn bytes<'a>(&'a self, frame: &'a XdpFrame) -> &'a [u8] {
        self.own(frame);
        // SAFETY: the frame is of this umem (checked), and the shared borrow of its token keeps writers away.
        unsafe { self.umem.data(&frame.descriptor) }.contents()
    }

    fn bytes_mut<'a>(&'a self, frame: &'a mut XdpFrame) -> &'a mut [u8] {
        self.own(frame);
        // SAFETY: the frame is of this umem (checked), and the exclusive borrow of its only token keeps all others away.
        let mut data = unsafe { self.umem.data_mut(&mut frame.descriptor) };
        let bytes: *mut [u8] = data.contents_mut();
        // SAFETY: xsk-rs ties the slice to its wrapper, which ends here; the memory lives as long as the umem (borrowed
        // by `self`) and is the token's alone for as long as its exclusive borrow lasts: both for 'a.
        unsafe { &mut *bytes }
    }

    fn length(&self, frame: &XdpFrame) -> usize {
        frame.descriptor.lengths().data()
    }

    fn write(&self, frame: &mut XdpFrame, bytes: &[u8]) -> bool {
        self.own(frame);
        // SAFETY: as in `bytes_mut`.
        let mut data = unsafe { self.umem.data_mut(&mut frame.descriptor) };
        let mut cursor = data.cursor();
        if cursor.buf_len() < bytes.len() {
            return false;
        }
        cursor.set_pos(0);
        cursor.write_all(bytes).is_ok()
    }

    fn headroom(&self, frame: &XdpFrame) -> usize {
        frame.descriptor.addr() & (self.chunk - 1)
    }

    fn grow(&self, frame: &mut XdpFrame, bytes: usize) -> bool {
        self.own(frame);
        if self.headroom(frame) < bytes {
            return false;
        }
        let length = frame.descriptor.lengths().data();
        // SAFETY: as in `bytes_mut`.
        if unsafe { self.umem.data_mut(&mut frame.descriptor) }.cursor().buf_len() < length {
            // A descriptor that says more than its chunk holds; below, xsk-rs would cut the packet and say nothing.
            return false;
        }
        let address = frame.descriptor.addr() - bytes;
        // The kernel finds a chunk by its address's upper bits alone (`xp_aligned_extract_addr`,
        // include/net/xsk_buff_pool.h), so a frame that comes back from the completion ring with this address still
        // is the frame it was.
        self.address.set(&mut frame.descriptor, address);
        // SAFETY: as in `bytes_mut`; the address is in the same chunk as before, whose end has not moved: there is room
        // for so many bytes more.
        unsafe { self.umem.data_mut(&mut frame.descriptor) }.cursor().set_pos(length + bytes);
        true
    }

    fn truncate(&self, frame: &mut XdpFrame, length: usize) {
        self.own(frame);
        if length < frame.descriptor.lengths().data() {
            // SAFETY: as in `bytes_mut`.
            unsafe { self.umem.data_mut(&mut frame.descriptor) }.cursor().set_pos(length);
        }
    }

    fn held(&self) -> usize {
        self.receiving + self.sending
    }

    fn is_starving(&self) -> bool {
        self.receiving < BATCH
    }

    fn in_kernel(&mut self) -> usize {
        let filled = RING.saturating_sub(self.fill.nb_free_exact()) as usize;
        let visible = filled + self.rx.nb_avail_exact() as usize + self.completion.nb_avail_exact() as usize;
        self.held().saturating_sub(visible)
    }

    fn statistics(&self) -> RingStatistics {
        self.rx.fd().xdp_statistics().map_or_else(
            |_| RingStatistics::default(),
            |kernel| RingStatistics {
                rx_dropped: kernel.rx_dropped(),
                rx_ring_full: kernel.rx_ring_full(),
                fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
                invalid_descriptors: kernel.rx_invalid_descs() + kernel.tx_invalid_descs(),
            },
        )
    }

    fn wait(ports: &mut [Self], wake: BorrowedFd<'_>, timeout: Duration) {
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut entries = [entry(-1); MOST_PORTS + 1];
        entries[0] = entry(wake.as_raw_fd());
        for (entry_of_port, port) in entries[1..].iter_mut().zip(ports.iter()) {
            *entry_of_port = entry(port.socket());
        }
        let milliseconds = timeout.as_millis().min(1_000_000) as libc::c_int;
        // SAFETY: the array is live and its length is passed; entries with descriptor -1 are ignored (poll(2)). Errors
        // (EINTR) need no handling: the caller looks at its rings after every sleep.
        unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, milliseconds) };
    }
}
