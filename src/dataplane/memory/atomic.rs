//! The atomics that shared tables are made of; under the model checker, its own.

#[cfg(pointsman_loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(pointsman_loom))]
pub use std::sync::atomic::{AtomicU64, Ordering};

/// Stands between a sequentially consistent read-modify-write and loads that must not overtake it. On x86-64 none does
/// (Intel SDM volume 3, §9.2.3.9: loads are not reordered with locked instructions), and only the compiler is to be told;
/// elsewhere, and in the language, acquiring loads might.
#[inline]
pub(crate) fn full_barrier() {
    #[cfg(pointsman_loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(all(not(pointsman_loom), target_arch = "x86_64"))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(all(not(pointsman_loom), not(target_arch = "x86_64")))]
    std::sync::atomic::fence(Ordering::SeqCst);
}
