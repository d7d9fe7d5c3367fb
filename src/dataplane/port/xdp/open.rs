//! Opening a worker's ports: one memory, and a socket on each interface around it.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use super::super::shift::AddressField;
use super::{BATCH, CopyMode, FRAMES_PER_SEND, RING, XdpFrame, XdpPort};
use crate::dataplane::parse::ETHERNET_LENGTH;

/// Frames per port: one fill ring and one tx ring may be full at the same time.
const FRAMES_PER_PORT: u32 = 2 * RING;

/// Bytes that the kernel keeps free before a received packet (`XDP_PACKET_HEADROOM`, linux/bpf.h).
const HEADROOM: u32 = 256;

/// The largest frame that one chunk can hold: a page less the kernel's headroom. Packets in several chunks
/// (`XDP_USE_SG`) are not asked for.
pub const LARGEST_FRAME: u32 = 4096 - HEADROOM;

/// Between two looks at a queue that is still held.
const BUSY_QUEUE_RETRY: Duration = Duration::from_millis(20);

/// Microseconds that a receive call polls the driver, and packets it takes at most (Documentation/networking/napi.rst).
const BUSY_POLL_MICROSECONDS: libc::c_int = 20;
const BUSY_POLL_BUDGET: libc::c_int = 64;

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
    /// The interfaces' names, at most [`super::MOST_PORTS`].
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
        let frames_per_send = send_more_at_once(tx.fd().as_raw_fd());
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
            frames_per_send,
            busy_poll: options.busy_poll,
            copy_mode: mode,
            largest_mtu: chunk - HEADROOM - ETHERNET_LENGTH as u32,
            batch: Box::new([FrameDesc::default(); BATCH]),
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
    close_on_exec(rx.fd().as_raw_fd())?;
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

/// Has one `sendto` take as many frames as the tx ring holds, where the kernel can (Linux 6.17): a system call and a
/// softirq for a burst instead of two or more. Says how many it takes.
fn send_more_at_once(socket: RawFd) -> usize {
    /// `XDP_MAX_TX_SKB_BUDGET` (`linux/if_xdp.h`, since 6.17), which libc does not know yet.
    const MOST_FRAMES_PER_SEND: libc::c_int = 9;
    let frames: u32 = RING;
    // SAFETY: the option's value is a live u32, and its size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_XDP,
            MOST_FRAMES_PER_SEND,
            (&raw const frames).cast(),
            std::mem::size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { RING as usize } else { FRAMES_PER_SEND }
}

/// libxdp opens sockets without `SOCK_CLOEXEC`: a program that control starts would hold the queue, also when we are gone.
fn close_on_exec(socket: RawFd) -> io::Result<()> {
    // SAFETY: `F_SETFD` takes an int and touches no memory of ours.
    match unsafe { libc::fcntl(socket, libc::F_SETFD, libc::FD_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
