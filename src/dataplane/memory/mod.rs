//! Memory as the hot path wants it: cache lines of atomic words, on huge pages where the host has them.
//!
//! Small safe wrappers. Beside `port`, this is the only room of the data plane that is `unsafe`.

mod atomic;
mod lines;
mod mapping;
mod prefetch;
mod zeroed;

pub(crate) use atomic::full_barrier;
pub use atomic::{AtomicU64, Ordering};
pub use lines::{LINE_BYTES, LINE_WORDS, Line, Lines, Pages};
pub use prefetch::prefetch;
pub use zeroed::{all_zero, zeroed};
