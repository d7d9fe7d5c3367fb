//! A fixed number of cache lines of atomic words.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use super::atomic::AtomicU64;
use super::mapping::Mapping;

/// Bytes in a cache line of x86-64 and of nearly all 64-bit ARM.
pub const LINE_BYTES: usize = 64;
/// Words in a line.
pub const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();

/// One cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; LINE_WORDS]);

/// What pages a mapping got; the larger, the fewer misses of the TLB come on top of the cache's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB pages that the operator reserved (`vm.nr_hugepages`).
    Huge2M,
    /// 2 MiB pages that the kernel put together by itself (transparent huge pages).
    Transparent,
    /// The processor's smallest, 4 KiB on x86-64.
    Small,
}

impl Pages {
    /// The word for it in logs and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Huge2M => "huge-2m",
            Self::Transparent => "transparent",
            Self::Small => "small",
        }
    }
}

/// Lines that are zero at first, all present from the start: touching one never waits for the kernel.
pub struct Lines {
    mapping: Mapping,
}

impl Lines {
    /// Maps `count` lines. An error says that the memory is not there.
    ///
    /// In this order: reserved huge pages, transparent ones, small ones. A memfd backs them unless only private
    /// memory gets transparent huge pages, as on kernels that keep them from shared memory
    /// (`/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `never` by default); with `must_share`, it always does.
    pub fn new(count: usize, must_share: bool) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::new(count, must_share)? })
    }

    /// What pages they are on.
    pub fn pages(&self) -> Pages {
        self.mapping.pages()
    }

    /// The memfd behind them, which another process can map; `None`: they are this process's own.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.mapping.descriptor()
    }
}

impl Deref for Lines {
    type Target = [Line];

    #[inline]
    fn deref(&self) -> &[Line] {
        self.mapping.lines()
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lines").field("count", &self.len()).field("pages", &self.pages()).finish()
    }
}

#[cfg(all(test, not(pointsman_loom)))]
mod tests {
    use super::super::atomic::Ordering;
    use super::*;

    #[test]
    fn lines_are_aligned_zero_and_as_many_as_asked_for() {
        for must_share in [false, true] {
            for count in [1, 63, 64, 65, 100_000] {
                let lines = Lines::new(count, must_share).expect("a few MiB");
                assert_eq!(lines.len(), count);
                assert_eq!(lines.as_ptr().addr() % LINE_BYTES, 0);
                assert!(lines.iter().flat_map(|line| &line.0).all(|word| word.load(Ordering::Relaxed) == 0));
                assert!(!must_share || lines.descriptor().is_some());
            }
        }
    }

    #[test]
    fn what_is_written_stays_in_its_line() {
        let lines = Lines::new(1000, true).expect("64 kB");
        for (index, line) in lines.iter().enumerate() {
            line.0[index % LINE_WORDS].store(index as u64, Ordering::Relaxed);
        }
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(line.0[index % LINE_WORDS].load(Ordering::Relaxed), index as u64);
        }
    }

    #[test]
    fn more_than_there_is_is_refused() {
        assert!(Lines::new(usize::MAX / LINE_BYTES, false).is_err());
        assert!(Lines::new(usize::MAX, true).is_err());
        assert!(Lines::new(0, true).is_err());
    }
}
