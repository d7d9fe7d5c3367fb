//! The real port: an AF_XDP socket on one queue of one interface, through xsk-rs. A worker's ports share one umem, so
//! that a frame can come in by one and leave by another.
//!
//! What xsk-rs asks its caller to promise is kept here, once: a descriptor reaches a ring only inside an
//! [`XdpFrame`], which cannot be copied, which only this module makes, and which remembers its umem.

#![expect(unsafe_code, reason = "xsk-rs hands out descriptors whose ownership it cannot check; XdpFrame does")]

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use thiserror::Error;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use super::shift::AddressField;
use super::{Port, RingStatistics};
use crate::dataplane::parse::ETHERNET_LENGTH;

/// Entries of each ring. At 1.5 million packets a second and core, 2048 are 1.4 ms of absence (a scheduler tick, a
/// health check on the same core); half of it loses packets then, twice as much only adds latency and memory.
pub const RING: u32 = 2048;

/// Frames per port: one fill ring and one tx ring may be full at the same time.
const FRAMES_PER_PORT: u32 = 2 * RING;

/// Bytes that the kernel keeps free before a received packet (`XDP_PACKET_HEADROOM`, linux/bpf.h).
const HEADROOM: u32 = 256;

/// The largest frame that one chunk can hold: a page less the kernel's headroom. Packets in several chunks
/// (`XDP_USE_SG`) are not asked for.
pub const LARGEST_FRAME: u32 = 4096 - HEADROOM;

/// Frames that one `sendto` takes in copy mode (`TX_BATCH_SIZE`, net/xdp/xsk.c, Linux 6.18).
const FRAMES_PER_SEND: usize = 32;

/// Descriptors moved between a ring and a list at a time.
const BATCH: usize = 64;

/// Interfaces that one worker can serve.
pub const MOST_PORTS: usize = 16;

/// Between two looks at a queue that is still held.
const BUSY_QUEUE_RETRY: Duration = Duration::from_millis(20);

/// Microseconds that a receive call polls the driver, and packets it takes at most (Documentation/networking/napi.rst).
const BUSY_POLL_MICROSECONDS: libc::c_int = 20;
const BUSY_POLL_BUDGET: libc::c_int = 64;

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

/// Which [`CopyMode`]s are acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedCopyMode {
    /// Zero-copy, else copy.
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// Copy.
    Copy,
}

/// What to open: one queue on each of several interfaces, around one memory.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The interfaces' names, at most [`MOST_PORTS`].
    pub interfaces: Vec<String>,
    /// The rx and tx queue on each of them, from 0.
    pub queue: u32,
    /// The largest of the interfaces' MTUs, bytes: frames must hold that and an Ethernet header.
    pub mtu: u32,
    /// Which copy mode.
    pub copy_mode: WantedCopyMode,
    /// Whether the socket shall poll the driver itself (`SO_PREFER_BUSY_POLL`).
    pub busy_poll: bool,
    /// How long to wait for a queue that is held. A closed socket gives its queue back from a work item of the
    /// kernel's, after an RCU grace period: usually within 20 ms, later on a loaded machine.
    pub patience: Duration,
}

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// An xsk-rs whose descriptors are not those that this program knows.
    #[error("this build's xsk-rs has no address field in its descriptors; build with xsk-rs 0.11")]
    Descriptor,
    /// The kernel would not give memory for the frames.
    #[error("memory for {bytes} bytes of frames: {source}{}", memory_advice(source))]
    Memory {
        /// How much was asked for.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else has the queue.
    #[error("{interface} queue {queue} is held by another AF_XDP socket (waited {} s for it)", patience.as_secs())]
    Busy {
        /// The interface's name.
        interface: String,
        /// The queue.
        queue: u32,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The kernel refused the socket.
    #[error("AF_XDP socket on {interface} queue {queue} ({mode}): {source}")]
    Socket {
        /// The interface's name.
        interface: String,
        /// The queue.
        queue: u32,
        /// The mode that was asked for.
        mode: CopyMode,
        /// What the kernel said.
        source: io::Error,
    },
}

fn memory_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // The kernel pins frames, and counts them against RLIMIT_MEMLOCK unless the process has CAP_IPC_LOCK.
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            " (is the limit on locked memory too low? raise it: ulimit -l unlimited, or give CAP_IPC_LOCK)"
        }
        Some(libc::EPERM) => " (needs root or CAP_NET_RAW)",
        _ => "",
    }
}

/// The largest MTU whose frames fit into a chunk.
pub const fn largest_mtu() -> u32 {
    LARGEST_FRAME - ETHERNET_LENGTH as u32
}

/// Bytes of memory that the frames of one worker's `ports` take at this MTU.
pub fn memory_needed(ports: usize, mtu: u32) -> u64 {
    ports as u64 * u64::from(FRAMES_PER_PORT) * u64::from(chunk_size(mtu))
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
    busy_poll: bool,
    copy_mode: CopyMode,
    largest_mtu: u32,
}

/// One worker's ports, and the frames that they came with.
#[derive(Debug)]
pub struct Opened {
    /// One per interface, in the order that was asked for; their rings are empty.
    pub ports: Vec<XdpPort>,
    /// The frames that they share, all free.
    pub frames: Vec<XdpFrame>,
    /// Why they copy, where zero-copy would have been taken.
    pub zero_copy_refused: Option<ZeroCopyRefused>,
}

/// Who would not do zero-copy, and why.
#[derive(Debug)]
pub struct ZeroCopyRefused {
    /// The first interface that refused: all share the memory, and so the mode.
    pub interface: String,
    /// What the kernel said.
    pub cause: io::Error,
}

impl XdpPort {
    /// Opens a queue on each interface, with one umem for all of them.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. A queue that a dead process has not quite left yet is waited for.
    pub fn open(options: &OpenOptions) -> Result<Opened, OpenError> {
        match options.copy_mode {
            WantedCopyMode::ZeroCopy => open_patiently(options, CopyMode::ZeroCopy),
            WantedCopyMode::Copy => open_patiently(options, CopyMode::Copy),
            WantedCopyMode::Auto => match open_patiently(options, CopyMode::ZeroCopy) {
                Err(OpenError::Socket { source: cause, interface, .. }) => {
                    let opened = open_patiently(options, CopyMode::Copy)?;
                    Ok(Opened { zero_copy_refused: Some(ZeroCopyRefused { interface, cause }), ..opened })
                }
                opened => opened,
            },
        }
    }

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

    fn own(&self, frame: &XdpFrame) {
        assert_eq!(frame.umem, self.umem_id, "a frame was brought to a port of another umem");
    }

    fn adopt(umem: u32, descriptors: &[FrameDesc], frames: &mut Vec<XdpFrame>) {
        frames.extend(descriptors.iter().map(|&descriptor| XdpFrame { descriptor, umem }));
    }
}

/// Opens, and tries again from the start for as long as a dead owner's queue may be on its way back.
fn open_patiently(options: &OpenOptions, mode: CopyMode) -> Result<Opened, OpenError> {
    let deadline = Instant::now() + options.patience;
    loop {
        // After a failure libxdp's umem is not fit for another try: everything is made anew.
        match open_once(options, mode) {
            Err(OpenError::Socket { source, interface, queue, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
                if Instant::now() >= deadline {
                    return Err(OpenError::Busy { interface, queue, patience: options.patience });
                }
                std::thread::sleep(BUSY_QUEUE_RETRY);
            }
            result => return result,
        }
    }
}

fn open_once(options: &OpenOptions, mode: CopyMode) -> Result<Opened, OpenError> {
    static NEXT_UMEM: AtomicU32 = AtomicU32::new(0);

    let address = AddressField::find().ok_or(OpenError::Descriptor)?;
    let chunk = chunk_size(options.mtu);
    let bytes = memory_needed(options.interfaces.len(), options.mtu);
    let memory_error = |error: Box<dyn std::error::Error>| OpenError::Memory { bytes, source: os_error(&*error) };
    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(chunk).map_err(|error| memory_error(error.into()))?)
        .fill_queue_size(ring_size())
        .comp_queue_size(ring_size())
        .build()
        .map_err(|error| memory_error(error.into()))?;
    let count = NonZeroU32::new((bytes / u64::from(chunk)) as u32).unwrap_or(NonZeroU32::MIN);
    let (umem, descriptors) = Umem::new(umem_config, count, false).map_err(|error| memory_error(error.into()))?;
    let umem_id = NEXT_UMEM.fetch_add(1, Ordering::Relaxed);

    let ports = options.interfaces.iter().map(|interface| {
        let sockets = open_socket(options, interface, mode, &umem).map_err(|source| OpenError::Socket {
            interface: interface.clone(),
            queue: options.queue,
            mode,
            source,
        })?;
        let Sockets { rx, tx, fill, completion } = sockets;
        Ok(XdpPort {
            umem: umem.clone(),
            umem_id,
            chunk: chunk as usize,
            address,
            rx,
            tx,
            fill,
            completion,
            receiving: 0,
            sending: 0,
            unsent: 0,
            busy_poll: options.busy_poll,
            copy_mode: mode,
            largest_mtu: chunk - HEADROOM - ETHERNET_LENGTH as u32,
        })
    });
    let ports = ports.collect::<Result<_, OpenError>>()?;
    let mut frames = Vec::with_capacity(descriptors.len());
    XdpPort::adopt(umem_id, &descriptors, &mut frames);
    Ok(Opened { ports, frames, zero_copy_refused: None })
}

/// The four rings of one socket.
struct Sockets {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

fn open_socket(options: &OpenOptions, interface: &str, mode: CopyMode, umem: &Umem) -> io::Result<Sockets> {
    // Of sockets that share a umem the first one's flags hold for all (libxdp, xsk_socket__create_shared).
    let config = SocketConfig::builder()
        .rx_queue_size(ring_size())
        .tx_queue_size(ring_size())
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(
            BindFlags::XDP_USE_NEED_WAKEUP
                | match mode {
                    CopyMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
                    CopyMode::Copy => BindFlags::XDP_COPY,
                },
        )
        .build();
    let interface: Interface = interface.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the contract is that a queue of an interface is bound once per umem, or else that libxdp loads no program
    // of its own: it loads none, and every port of a umem is on another interface.
    let created = unsafe { Socket::new(config, umem, &interface, options.queue) };
    let (tx, rx, rings) = created.map_err(|error| os_error(&error))?;
    let (fill, completion) =
        rings.ok_or_else(|| io::Error::other("the interface's queue is in use by this process"))?;
    if options.busy_poll {
        prefer_busy_poll(rx.fd().as_raw_fd())?;
    }
    Ok(Sockets { rx, tx, fill, completion })
}

/// A chunk holds the kernel's headroom and the largest frame of the interface; 2048 where that is enough, since twice
/// the chunk is twice the cache footprint.
fn chunk_size(mtu: u32) -> u32 {
    let needed = HEADROOM + ETHERNET_LENGTH as u32 + mtu;
    needed.next_power_of_two().max(2048)
}

fn ring_size() -> QueueSize {
    const { assert!(RING.is_power_of_two()) };
    QueueSize::new(RING).unwrap_or_else(|_| unreachable!("RING is a power of two"))
}

/// The operating system's error inside one of xsk-rs's.
fn os_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let inner = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

fn prefer_busy_poll(socket: RawFd) -> io::Result<()> {
    for (option, value) in [
        (libc::SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, BUSY_POLL_MICROSECONDS),
        (libc::SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET),
    ] {
        // SAFETY: the option's value is a live c_int, and its size is passed.
        let result = unsafe {
            libc::setsockopt(
                socket,
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                std::mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl Port for XdpPort {
    type Frame = XdpFrame;

    fn receive(&mut self, frames: &mut Vec<XdpFrame>, limit: usize) -> usize {
        let mut descriptors = [FrameDesc::default(); BATCH];
        let room = &mut descriptors[..limit.min(BATCH)];
        // SAFETY: the contract is that the descriptors' previous values may be forgotten: they are defaults.
        let count = unsafe { self.rx.consume(room) };
        Self::adopt(self.umem_id, &descriptors[..count], frames);
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
            let mut descriptors = [FrameDesc::default(); BATCH];
            for (descriptor, frame) in descriptors.iter_mut().zip(batch) {
                self.own(frame);
                *descriptor = frame.descriptor;
            }
            // SAFETY: the contract is that each descriptor is of this umem and owned by the caller: `own` has checked
            // the first, and the tokens of those taken are destroyed below.
            let count = unsafe { self.tx.produce(&descriptors[..batch.len()]) };
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
        for _ in 0..self.unsent.div_ceil(FRAMES_PER_SEND) {
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
        let mut descriptors = [FrameDesc::default(); BATCH];
        while self.sending > 0 {
            // SAFETY: the contract is that the descriptors' previous values may be forgotten: they were adopted, or
            // are defaults.
            let count = unsafe { self.completion.consume(&mut descriptors) };
            Self::adopt(self.umem_id, &descriptors[..count], free);
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
                let mut descriptors = [FrameDesc::default(); BATCH];
                for (descriptor, frame) in descriptors.iter_mut().zip(batch) {
                    self.own(frame);
                    *descriptor = frame.descriptor;
                }
                // SAFETY: as in `transmit`.
                let count = unsafe { self.fill.produce(&descriptors[..batch.len()]) };
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
