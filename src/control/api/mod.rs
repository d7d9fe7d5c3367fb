//! What people and programs ask the daemon, and have it do: HTTP and JSON on a Unix socket.
//!
//! ```text
//!  door    the sockets, made before privileges are given up
//!    → serve   connections: bounded in number, size and time (activity: which of them wait for their clients)
//!    → routes  by subject; what is wrong is a problem (RFC 9457)
//!    → desk    questions to the control thread, one at a time
//! ```
//!
//! Connections are tasks on the control thread. None of them waits inside it: a question is answered from what is known
//! and a client that is slow to send or to read is waited for by its own task. Long lists are asked for in parts, one list
//! at a time of each listener, and written down on another thread: between two parts health checks have their turn.
//! [`shape`] is the JSON, for both ends.

pub mod door;
pub mod problem;
pub mod shape;

mod activity;
pub(super) mod desk;
pub(super) mod routes;
pub(super) mod serve;
