//! Tables → workers, between two of their bursts. Retired tables come back and are freed here, never by a worker.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::dataplane::tables::{InterfaceId, Tables};
use crate::dataplane::verdict::Conflict;
use crate::dataplane::worker::{Mailbox, Order};

/// How long a worker may be kept from its core before it counts as stuck: far beyond what a scheduler does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Control's hand on all workers.
#[derive(Debug, Default)]
pub struct Publisher {
    mailboxes: Vec<Arc<Mailbox>>,
}

/// A worker has left orders lying: it does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("worker {0} has not taken its orders")]
pub struct WorkerStuck(pub usize);

impl Publisher {
    /// Speaks to the workers behind these mailboxes.
    pub fn new(mailboxes: Vec<Arc<Mailbox>>) -> Self {
        Self { mailboxes }
    }

    /// Has every worker work by these tables. Waits for one that has not taken many earlier ones yet.
    pub fn publish(&self, tables: &Arc<Tables>) -> Result<(), WorkerStuck> {
        let started = Instant::now();
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            while !mailbox.has_room() && started.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(1));
            }
            mailbox.order(Order::Publish(Arc::clone(tables))).map_err(|_| WorkerStuck(worker))?;
        }
        Ok(())
    }

    /// Has a worker send a frame; `false` if they all have enough orders lying already.
    pub fn send(&self, interface: InterfaceId, frame: &[u8]) -> bool {
        let free = self.mailboxes.iter().find(|mailbox| mailbox.has_room());
        free.is_some_and(|mailbox| mailbox.order(Order::Send(interface, frame.into())).is_ok())
    }

    /// Has every worker end.
    pub fn stop(&self) {
        for mailbox in &self.mailboxes {
            mailbox.stop();
        }
    }

    /// Frees what workers have retired.
    pub fn collect(&self) {
        for mailbox in &self.mailboxes {
            mailbox.collect_retired();
        }
    }

    /// Claims to VIPs' addresses that workers have seen.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.mailboxes.iter().flat_map(|mailbox| std::iter::from_fn(|| mailbox.conflict()))
    }
}
