//! The packet's walk.
//!
//! ```text
//!  port (rx ring)
//!    → glance | parse    bytes → flow key and lengths, or why not
//!    → service   destination → VIP
//!    → flow      seen before? Nearly always, and then nothing else is looked at
//!    → begin     not seen, or its member is gone: limits, persistence, schedule and select say which member
//!    → rewrite | encap   MACs, and an outer header for a tunnel
//!    → port (tx ring)
//! ```
//!
//! [`process`] names these stages in this order on one screen; [`worker`] is the loop around it. ARP and ICMP leave
//! the walk after `parse` for rooms of their own. Nothing here knows of [`crate::control`], and nothing but [`port`]
//! and [`memory`] is `unsafe`.

pub mod arp;
mod begin;
pub mod counters;
pub mod encap;
pub mod flow;
pub mod glance;
mod icmp;
mod ids;
pub mod limits;
pub mod load;
pub mod memory;
pub mod parse;
pub mod persistence;
pub mod port;
pub mod process;
pub mod residence;
mod rewrite;
pub mod schedule;
pub mod select;
pub mod service;
pub mod tables;
pub mod verdict;
pub mod worker;
