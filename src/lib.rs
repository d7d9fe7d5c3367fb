//! pointsman: a layer-4 load balancer appliance in userspace.
//!
//! Everything in this crate hangs on two walks; each can be followed from file to file, forwards only.
//!
//! **A packet's walk** ([`dataplane`]):
//! `port` (rx ring) → `glance` | `parse` → `service` (which VIP?) → `flow` (seen before?) → `begin` (which member?) →
//! `rewrite` | `encap` → `port` (tx ring). `process` names these stages in this order; `worker` is the loop around it.
//!
//! **A config's walk** ([`control`]):
//! `file` (the TOML as it is written, every value with its place) → `model` (validated; errors name file, line, column and
//! key) → `identity` (which integers name its VIPs and members) → `compile` (model + neighbours + health → immutable
//! `Tables`; touches nothing) → `publish` (to each worker, between two bursts; retired tables come back to control to be
//! freed) → worker. A whole configuration enters at `file` (start, SIGHUP) or by `api`; an edit of one thing, by `api` too,
//! enters at the model, and `state` keeps it over a restart.
//!
//! Imports point one way: `dataplane` knows nothing of `control`; `control` knows `dataplane`'s tables; `cli` and
//! `main` know both.
//!
//! ```text
//! src/
//!   main.rs         start-up and exit codes; decides nothing
//!   cli/            one file per command
//!   dataplane/      the packet's walk: workers, rings, tables; no control, no serde. `unsafe` only in its rooms `port`
//!                   (rings) and `memory` (cache lines on huge pages)
//!   control/        the config's walk: one thread that decides what the workers' tables say
//!   realserver/     what a member needs: decapsulation
//!   lab/            network namespaces, real clients and members: for the demo and the tests
//! bpf/              the steering and decapsulation programs (C), compiled by build.rs
//! ```

pub mod cli;
pub mod control;
pub mod dataplane;
pub mod lab;
pub mod realserver;
