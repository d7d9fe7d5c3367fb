//! Where connections hand in what they want of the control thread.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::problem::Problem;
use super::shape::{MemberPatch, VipPatch};
use crate::control::change::Change;
use crate::control::daemon::Daemon;
use crate::control::model::Model;

/// Questions that wait; with more, whoever asks waits with them.
const WAITING: usize = 64;

/// Streams at a time, of each listener.
const STREAMS: usize = 32;

/// Large bodies that are read at a time.
const LARGE_BODIES: usize = 4;

/// Something to be answered from what the daemon knows, in a moment.
pub(in crate::control) type Question = Box<dyn FnOnce(&Daemon) + Send>;

/// What is to be changed.
#[derive(Debug)]
pub(in crate::control) struct Order {
    pub(in crate::control) wish: Wish,
    /// The revision that must rule.
    pub(in crate::control) revision: Option<u64>,
    pub(in crate::control) reply: Reply,
}

/// A change.
#[derive(Debug)]
pub(in crate::control) enum Wish {
    /// Another configuration, and its text.
    Apply { model: Box<Model>, text: Arc<str> },
    /// Something about one member.
    Edit { pool: String, member: String, patch: MemberPatch },
    /// Something about one VIP.
    EditVip { vip: String, patch: VipPatch },
}

/// What has changed, and the revision that rules now.
pub(in crate::control) type Outcome = Result<(Change, u64), Problem>;

/// Who waits for it.
pub(in crate::control) type Reply = oneshot::Sender<Outcome>;

/// The connections' side.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    orders: mpsc::Sender<Order>,
    questions: mpsc::Sender<Question>,
    streams: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
    plans: Arc<Semaphore>,
}

/// The control thread's side.
#[derive(Debug)]
pub(in crate::control) struct Clerk {
    /// What is asked.
    pub(in crate::control) questions: mpsc::Receiver<Question>,
    /// What is to be changed, one after the other.
    pub(in crate::control) orders: mpsc::Receiver<Order>,
}

/// Both sides.
pub(super) fn desk() -> (Desk, Clerk) {
    let (sender, questions) = mpsc::channel(WAITING);
    let (orders_sender, orders) = mpsc::channel(WAITING);
    (
        Desk {
            questions: sender,
            orders: orders_sender,
            streams: Arc::new(Semaphore::new(STREAMS)),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
            plans: Arc::new(Semaphore::new(1)),
        },
        Clerk { questions, orders },
    )
}

impl Desk {
    /// The same for other clients, whose streams are counted apart.
    pub(super) fn apart(&self) -> Self {
        Self { streams: Arc::new(Semaphore::new(STREAMS)), ..self.clone() }
    }

    /// A permit for each stream.
    pub(super) fn streams(&self) -> Arc<Semaphore> {
        Arc::clone(&self.streams)
    }

    /// A permit for each large body.
    pub(super) fn large_bodies(&self) -> Arc<Semaphore> {
        Arc::clone(&self.large_bodies)
    }

    /// A permit for each plan that is worked out.
    pub(super) fn plans(&self) -> Arc<Semaphore> {
        Arc::clone(&self.plans)
    }

    /// Has the daemon change something; returns when it is so, and on the disk.
    pub(super) async fn order(&self, wish: Wish, revision: Option<u64>) -> Outcome {
        let ends = || Problem::new(503, "the daemon is stopping");
        let (reply, outcome) = oneshot::channel();
        self.orders.send(Order { wish, revision, reply }).await.map_err(|_| ends())?;
        outcome.await.map_err(|_| ends())?
    }

    /// Has the daemon say something.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Daemon) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (sender, answer) = oneshot::channel();
        let ask = move |daemon: &Daemon| {
            // Whoever asked may have gone.
            let _ = sender.send(question(daemon));
        };
        let ends = || Problem::new(503, "the daemon is stopping");
        self.questions.send(Box::new(ask)).await.map_err(|_| ends())?;
        answer.await.map_err(|_| ends())
    }
}
