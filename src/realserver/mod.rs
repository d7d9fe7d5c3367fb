//! What a member needs.
//!
//! - [`decapsulate`]: the member's end of an IPIP tunnel, where the kernel has none
//!
//! The lab's members use it as any member could: nothing here knows of the lab, nor of the balancer.

pub mod decapsulate;
