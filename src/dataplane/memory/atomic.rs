//! The atomics that shared tables are made of; under the model checker, its own.

#[cfg(pointsman_loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(pointsman_loom))]
pub use std::sync::atomic::{AtomicU64, Ordering};

/// Stands between a sequentially consistent read-modify-write and the sequentially consistent loads that must not
/// overtake it. The language promises that order, so this is nothing, except under loom, which treats sequentially
/// consistent accesses as acquire and release ones and knows only the fence.
#[inline]
pub(crate) fn full_barrier() {
    #[cfg(pointsman_loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
