//! Arrays that are larger than what is used of them.

use zerocopy::FromZeros;

/// So many zeros, in pages that the kernel gives when they are first written to: what is not used costs addresses only.
///
/// Ends the process if there is no room for the addresses, as every allocation does.
pub fn zeroed<T: FromZeros>(count: usize) -> Box<[T]> {
    // The allocator asks the kernel for zero pages (`calloc`, `mmap`); below its threshold of 128 kB, it clears.
    match <[T]>::new_box_zeroed_with_elems(count) {
        Ok(zeros) => zeros,
        Err(_) => std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>()),
    }
}

/// All zero, in memory that is resident only where it has been written to.
pub fn all_zero<T: FromZeros>() -> Box<T> {
    match T::new_box_zeroed() {
        Ok(zeros) => zeros,
        Err(_) => std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const COUNT: usize = 1 << 30;

    #[test]
    fn untouched_pages_cost_nothing() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/statm").expect("proc");
            let pages = status.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
            pages.expect("a number") * 4096
        };
        let before = resident();
        let words: Box<[AtomicU64]> = zeroed(COUNT);
        words[COUNT / 2].store(1, Ordering::Relaxed);
        assert_eq!(words[COUNT - 1].load(Ordering::Relaxed), 0);
        let taken = resident().saturating_sub(before);
        assert!(taken < 1 << 30, "{taken} bytes of 8 GiB are there");
        assert!(zeroed::<AtomicU64>(0).is_empty());
    }
}
