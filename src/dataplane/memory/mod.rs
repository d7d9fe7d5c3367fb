//! Small safe wrappers around what the processor's memory offers.

mod prefetch;

pub use prefetch::prefetch;
