//! The mapping under [`Lines`](super::Lines).

#[cfg(not(pointsman_loom))]
pub(super) use kernel::Mapping;
#[cfg(pointsman_loom)]
pub(super) use model::Mapping;

/// The real one.
#[cfg(not(pointsman_loom))]
#[expect(unsafe_code, reason = "a mapping is a range of addresses that the compiler knows nothing of")]
mod kernel {
    use std::ffi::c_void;
    use std::io;
    use std::num::NonZeroUsize;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::ptr::NonNull;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
    use nix::unistd::ftruncate;

    use super::super::lines::{LINE_BYTES, Line, Pages};

    /// Bytes in a huge page of x86-64; lengths are rounded up to it, so that no page of the mapping need be small.
    const HUGE_PAGE: usize = 2 << 20;

    const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

    pub(in super::super) struct Mapping {
        start: NonNull<c_void>,
        /// Bytes that are mapped: a multiple of [`HUGE_PAGE`].
        length: NonZeroUsize,
        lines: usize,
        pages: Pages,
        file: Option<OwnedFd>,
    }

    // SAFETY: the mapping belongs to this value alone, no thread has a part in where it lies.
    unsafe impl Send for Mapping {}
    // SAFETY: a shared reference gives out nothing but `Line`s, which are atomics.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        pub(in super::super) fn new(lines: usize, must_share: bool) -> io::Result<Self> {
            let length = lines
                .checked_mul(LINE_BYTES)
                .and_then(|bytes| bytes.checked_next_multiple_of(HUGE_PAGE))
                .filter(|&bytes| isize::try_from(bytes).is_ok())
                .and_then(NonZeroUsize::new)
                .ok_or(io::ErrorKind::InvalidInput)?;
            // Reserved huge pages are rare; not getting them is no error.
            if let Ok(mapping) = Self::shared(lines, length, MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB) {
                return Ok(mapping);
            }
            let shared = Self::shared(lines, length, MFdFlags::empty());
            match shared {
                Ok(mapping) if must_share || mapping.pages != Pages::Small => Ok(mapping),
                Err(error) if must_share => Err(error),
                shared => {
                    drop(shared);
                    Self::private(lines, length)
                }
            }
        }

        fn shared(lines: usize, length: NonZeroUsize, huge: MFdFlags) -> io::Result<Self> {
            let file = memfd_create(c"pointsman-flows", MFdFlags::MFD_CLOEXEC | huge)?;
            ftruncate(&file, i64::try_from(length.get()).map_err(|_| io::ErrorKind::InvalidInput)?)?;
            // SAFETY: the kernel chooses the place, so nothing that is mapped is replaced.
            let start = unsafe { mmap(None, length, READ_WRITE, MapFlags::MAP_SHARED, &file, 0) }?;
            let mapping = Self { start, length, lines, pages: Pages::Small, file: Some(file) };
            if huge.is_empty() { mapping.populate() } else { mapping.populate_reserved() }
        }

        fn private(lines: usize, length: NonZeroUsize) -> io::Result<Self> {
            // SAFETY: the kernel chooses the place, so nothing that is mapped is replaced.
            let start = unsafe { mmap_anonymous(None, length, READ_WRITE, MapFlags::MAP_PRIVATE) }?;
            Self { start, length, lines, pages: Pages::Small, file: None }.populate()
        }

        fn populate_reserved(mut self) -> io::Result<Self> {
            self.advise(MmapAdvise::MADV_POPULATE_WRITE)?;
            self.pages = Pages::Huge2M;
            Ok(self)
        }

        /// Has every page put in place now, huge if the kernel can.
        fn populate(mut self) -> io::Result<Self> {
            // Not possible where the kernel was built without: small pages then.
            let _ = self.advise(MmapAdvise::MADV_HUGEPAGE);
            self.advise(MmapAdvise::MADV_POPULATE_WRITE)?;
            self.pages = if self.mostly_huge() { Pages::Transparent } else { Pages::Small };
            Ok(self)
        }

        fn advise(&self, advice: MmapAdvise) -> nix::Result<()> {
            // SAFETY: the range is this mapping, and neither of the advices used changes what it holds.
            unsafe { madvise(self.start, self.length.get(), advice) }
        }

        /// Whether most of the mapping is on huge pages, as `/proc/self/smaps` has it (proc(5)).
        fn mostly_huge(&self) -> bool {
            let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return false };
            let begin = self.start.addr().get();
            let end = begin + self.length.get();
            // The kernel may show neighbouring mappings of the same kind as one.
            let overlaps = |from: &str, to: &str| {
                let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
                hexadecimal(from).is_some_and(|from| from < end) && hexadecimal(to).is_some_and(|to| to > begin)
            };
            let mut inside = false;
            let mut huge = 0;
            for line in maps.lines() {
                let mut words = line.split_ascii_whitespace();
                let first = words.next().unwrap_or_default();
                if let Some((from, to)) = first.split_once('-') {
                    inside = overlaps(from, to);
                } else if inside && matches!(first, "AnonHugePages:" | "ShmemPmdMapped:") {
                    huge += words.next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) << 10;
                }
            }
            huge > self.length.get() / 2
        }

        pub(in super::super) fn pages(&self) -> Pages {
            self.pages
        }

        pub(in super::super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            self.file.as_ref().map(AsFd::as_fd)
        }

        #[inline]
        pub(in super::super) fn lines(&self) -> &[Line] {
            // SAFETY: the mapping starts on a page, holds at least `lines` lines and lives as long as `self`; it is
            // zero at first and all atomics are valid whatever they hold; nothing but such slices refers to it.
            unsafe { std::slice::from_raw_parts(self.start.cast::<Line>().as_ptr(), self.lines) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the range was mapped by this value and every borrow of it has ended.
            // There is nothing to do about a failure: the range stays mapped.
            let _ = unsafe { munmap(self.start, self.length.get()) };
        }
    }
}

/// Its twin for the model checker, whose atomics are not plain memory.
#[cfg(pointsman_loom)]
mod model {
    use std::io;
    use std::os::fd::BorrowedFd;

    use super::super::lines::{Line, Pages};

    pub(in super::super) struct Mapping(Box<[Line]>);

    impl Mapping {
        pub(in super::super) fn new(lines: usize, _must_share: bool) -> io::Result<Self> {
            Ok(Self((0..lines).map(|_| Line::default()).collect()))
        }

        pub(in super::super) fn pages(&self) -> Pages {
            Pages::Small
        }

        pub(in super::super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        pub(in super::super) fn lines(&self) -> &[Line] {
            &self.0
        }
    }
}
