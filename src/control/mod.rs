//! The config's walk, on one thread.
//!
//! ```text
//!  file         the TOML as it is written, every value with its place
//!    → model    validated; errors name file, line, column and key
//!    → identity which integers name its VIPs and members, as before where they are the same
//!    → compile  model + network + health → immutable tables (with serving: who serves, for how large a part? and maglev)
//!    → publish  to each worker, between two bursts
//! ```
//!
//! Another configuration goes the same way while packets are forwarded: [`reload`] reads it, [`change`] says what it would
//! change, and `daemon::apply` makes the difference; what is large is worked out beside the control thread before
//! (`daemon::draft`). By [`api`] somebody else than the file has something changed, and asks; [`state`] keeps such changes over
//! a restart, `events` remembers what has happened.
//!
//! [`health`] looks whether members are well ([`model::monitor`]: what it asks them), [`neighbor`] follows the kernel's network
//! state, [`announce`] tells the network who owns a VIP, [`statistics`] is what is counted, in a line. [`plane`] brings the
//! data plane up and down ([`fit`]: on which interfaces? [`occupant`]: who else is on them? [`memory`]: is there enough?);
//! [`cores`] is who runs where, [`privileges`] what the threads may still do then; [`daemon`] is the loop around all of it.

pub mod announce;
pub mod api;
pub mod change;
pub mod compile;
pub mod cores;
pub mod daemon;
pub mod file;
pub mod fit;
pub mod health;
pub mod identity;
pub mod maglev;
pub mod memory;
pub mod model;
pub mod neighbor;
pub mod occupant;
pub mod plane;
pub mod privileges;
pub mod publish;
pub mod reload;
pub mod state;
pub mod statistics;

mod events;
pub(crate) mod reader;
mod report;
mod serving;
mod syntax;
mod time;
mod value;
mod word;
