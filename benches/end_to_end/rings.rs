//! `AF_XDP` rings without a library between: one umem, sockets on it, and the four rings of each, as
//! `Documentation/networking/af_xdp.rst` describes them. The baseline's only `unsafe`.

#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

/// Entries of each ring and chunks of the umem: with one chunk per entry every ring always has room for all of them.
pub(crate) const RING: u32 = pointsman::dataplane::port::xdp::RING;
/// Bytes of a chunk.
const CHUNK: u32 = 2048;

/// An anonymous mapping or one of a ring, unmapped at the end.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

impl Mapping {
    /// Maps `length` bytes of the ring that `fd` has at `offset`; without them, of fresh memory.
    fn new(length: NonZeroUsize, ring: Option<(RawFd, libc::off_t)>) -> io::Result<Self> {
        let (flags, (fd, offset)) = match ring {
            Some(ring) => (libc::MAP_SHARED | libc::MAP_POPULATE, ring),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, (-1, 0)),
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), length.get(), protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and whatever points into it is dropped with its owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length.get()) };
    }
}

/// The memory that frames live in.
#[derive(Debug)]
pub(crate) struct Umem(Mapping);

impl Umem {
    /// [`RING`] chunks.
    pub(crate) fn new() -> io::Result<Self> {
        let length = NonZeroUsize::new((RING * CHUNK) as usize).ok_or(Errno::EINVAL)?;
        Mapping::new(length, None).map(Self)
    }

    /// The addresses of all chunks.
    pub(crate) fn chunks() -> impl Iterator<Item = u64> {
        (0..RING).map(|chunk| u64::from(chunk * CHUNK))
    }

    /// Writes over a frame: one that a ring has given us and that we have not given back.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) {
        let at = address as usize;
        assert!(at.saturating_add(bytes.len()) <= self.0.length.get(), "a frame beyond the umem");
        // SAFETY: `at` lies inside the mapping (checked).
        let target = unsafe { self.0.start.add(at) };
        // SAFETY: all of the target lies inside the mapping (checked); `bytes` cannot, since nobody is given a
        // reference into it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
    }
}

/// One ring: an array of descriptors between two free-running indices, one of which is ours to move.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    /// The index that we move, and the one that the kernel moves.
    ours: NonNull<AtomicU32>,
    kernels: NonNull<AtomicU32>,
    descriptors: NonNull<T>,
    /// Where we are, and where the kernel was when we last looked.
    position: u32,
    kernels_position: u32,
    /// How far we may be ahead of the kernel's index: as the producer by a whole ring, as the consumer not at all.
    lead: u32,
    _mapping: Mapping,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Producer,
    Consumer,
}

/// Descriptors are plain numbers: any bytes are one, so that the kernel may write what it likes.
pub(crate) trait Descriptor: Copy {}
impl Descriptor for u64 {}
impl Descriptor for libc::xdp_desc {}

impl<T: Descriptor> Ring<T> {
    fn map(socket: RawFd, page: libc::off_t, offsets: &libc::xdp_ring_offset, role: Role) -> io::Result<Self> {
        let length = offsets.desc as usize + RING as usize * size_of::<T>();
        let mapping = Mapping::new(NonZeroUsize::new(length).ok_or(Errno::EINVAL)?, Some((socket, page)))?;
        // SAFETY: the kernel's offsets lie inside the ring that has been mapped.
        let producer = unsafe { mapping.start.add(offsets.producer as usize) }.cast();
        // SAFETY: as above.
        let consumer = unsafe { mapping.start.add(offsets.consumer as usize) }.cast();
        // SAFETY: as above.
        let descriptors = unsafe { mapping.start.add(offsets.desc as usize) }.cast();
        let (ours, kernels, lead) = match role {
            Role::Producer => (producer, consumer, RING),
            Role::Consumer => (consumer, producer, 0),
        };
        Ok(Self { ours, kernels, descriptors, position: 0, kernels_position: 0, lead, _mapping: mapping })
    }

    /// How many entries may be read (by the consumer) or written (by the producer) now; at most `wanted`. The shared
    /// index is looked at only if what was seen last is not enough.
    pub(crate) fn ready(&mut self, wanted: u32) -> u32 {
        let known = |ring: &Self| ring.kernels_position.wrapping_add(ring.lead).wrapping_sub(ring.position);
        if known(self) < wanted {
            // SAFETY: the index lies inside the mapping, aligned by the kernel, and both sides access it atomically.
            self.kernels_position = unsafe { self.kernels.as_ref() }.load(Ordering::Acquire);
        }
        known(self).min(wanted)
    }

    /// Reads the entry `index` after our position: below what [`Self::ready`] said.
    pub(crate) fn read(&self, index: u32) -> T {
        let entry = self.entry(index);
        // SAFETY: the entry lies inside the mapping, and any bytes are a descriptor.
        unsafe { entry.read() }
    }

    /// Writes the entry `index` after our position: below what [`Self::ready`] said.
    pub(crate) fn write(&mut self, index: u32, descriptor: T) {
        let entry = self.entry(index);
        // SAFETY: the entry lies inside the mapping.
        unsafe { entry.write(descriptor) };
    }

    /// Gives the kernel the next `count` entries, read or written.
    pub(crate) fn advance(&mut self, count: u32) {
        self.position = self.position.wrapping_add(count);
        // SAFETY: as in `ready`.
        unsafe { self.ours.as_ref() }.store(self.position, Ordering::Release);
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        const { assert!(RING.is_power_of_two()) };
        let slot = self.position.wrapping_add(index) & (RING - 1);
        // SAFETY: the slot is below the ring's number of entries, all of which are mapped.
        unsafe { self.descriptors.add(slot as usize) }
    }
}

/// An `AF_XDP` socket on queue 0 of an interface.
#[derive(Debug)]
pub(crate) struct Socket {
    // Rings are unmapped before their socket is closed.
    pub(crate) fill: Ring<u64>,
    pub(crate) completion: Ring<u64>,
    pub(crate) rx: Ring<libc::xdp_desc>,
    pub(crate) tx: Ring<libc::xdp_desc>,
    /// Frames that one `sendto` takes.
    pub(crate) frames_per_send: u32,
    fd: OwnedFd,
}

impl Socket {
    /// Opens a socket in copy mode: on a umem of its own, or on the one that `sharing` was opened with.
    pub(crate) fn open(interface: u32, umem: &Umem, sharing: Option<&Self>) -> io::Result<Self> {
        // SAFETY: socket(2) takes three numbers.
        let fd = Errno::result(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the kernel has just made this descriptor, and only this function has seen it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = fd.as_raw_fd();
        let (flags, shared) = match sharing {
            None => {
                register(socket, umem)?;
                (libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP, 0)
            }
            // The flags are the first socket's.
            Some(first) => (libc::XDP_SHARED_UMEM, first.fd.as_raw_fd().cast_unsigned()),
        };
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            set_option(socket, ring, &RING)?;
        }
        // `XDP_MAX_TX_SKB_BUDGET` (`linux/if_xdp.h`, since 6.17), as pointsman does; before, `TX_BATCH_SIZE`
        // (net/xdp/xsk.c).
        let frames_per_send = if set_option(socket, 9, &RING).is_ok() { RING } else { 32 };
        let offsets = offsets(socket)?;
        let (fill, completion) = (libc::XDP_UMEM_PGOFF_FILL_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING);
        let opened = Self {
            fill: Ring::map(socket, fill.cast_signed(), &offsets.fr, Role::Producer)?,
            completion: Ring::map(socket, completion.cast_signed(), &offsets.cr, Role::Consumer)?,
            rx: Ring::map(socket, libc::XDP_PGOFF_RX_RING, &offsets.rx, Role::Consumer)?,
            tx: Ring::map(socket, libc::XDP_PGOFF_TX_RING, &offsets.tx, Role::Producer)?,
            frames_per_send,
            fd,
        };
        bind(socket, interface, flags, shared)?;
        Ok(opened)
    }

    /// The socket's descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

fn register(socket: RawFd, umem: &Umem) -> io::Result<()> {
    let region = libc::xdp_umem_reg {
        addr: umem.0.start.as_ptr() as u64,
        len: umem.0.length.get() as u64,
        chunk_size: CHUNK,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(socket, libc::XDP_UMEM_REG, &region)
}

fn set_option<T>(socket: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let (start, length) = (ptr::from_ref(value).cast::<c_void>(), size_of::<T>() as libc::socklen_t);
    // SAFETY: `value` is live, and its size is passed.
    Errno::result(unsafe { libc::setsockopt(socket, libc::SOL_XDP, option, start, length) })?;
    Ok(())
}

fn offsets(socket: RawFd) -> io::Result<libc::xdp_mmap_offsets> {
    const NONE: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: NONE, tx: NONE, fr: NONE, cr: NONE };
    let mut length = size_of_val(&offsets) as libc::socklen_t;
    let target = (&raw mut offsets).cast::<c_void>();
    // SAFETY: the target is live, and its size is passed.
    let status = unsafe { libc::getsockopt(socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, target, &raw mut length) };
    Errno::result(status)?;
    Ok(offsets)
}

fn bind(socket: RawFd, interface: u32, flags: u16, shared: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: shared,
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is live, and its size is passed.
    Errno::result(unsafe { libc::bind(socket, (&raw const address).cast(), length) })?;
    Ok(())
}
