//! Where connections hand in what they want of the control thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

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

/// Lists that are made or written at a time, of each listener: some of the largest (tens of MB each) fit into memory.
const LISTS: usize = 8;

/// So long a list waits for others to be written.
const PATIENCE: Duration = Duration::from_secs(10);

/// A list is begun anew so often because the configuration has changed meanwhile.
const ATTEMPTS: usize = 5;

/// Something to be answered from what the daemon knows, in a moment.
pub(in crate::control) type Question = Box<dyn FnOnce(&Daemon) + Send>;

/// A part of a list, and where the next one begins.
pub(in crate::control) type Part<T> = (Vec<T>, Option<usize>);

/// What ids mean, by id.
#[derive(Debug)]
pub(in crate::control) struct Names {
    /// And the port, if it is one.
    pub(in crate::control) vips: Vec<Option<(String, Option<u16>)>>,
    /// `POOL/NAME`.
    pub(in crate::control) members: Vec<Option<String>>,
}

/// They, and the revision that they are of.
type NamesOf = (u64, Arc<Names>);

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
    lists: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    /// The newest.
    names: Arc<Mutex<Option<NamesOf>>>,
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
            lists: Arc::new(Semaphore::new(LISTS)),
            turn: Arc::new(Semaphore::new(1)),
            names: Arc::default(),
            plans: Arc::new(Semaphore::new(1)),
        },
        Clerk { questions, orders },
    )
}

impl Desk {
    /// The same for other clients, whose streams and lists are counted apart.
    pub(super) fn apart(&self) -> Self {
        Self {
            streams: Arc::new(Semaphore::new(STREAMS)),
            lists: Arc::new(Semaphore::new(LISTS)),
            turn: Arc::new(Semaphore::new(1)),
            ..self.clone()
        }
    }

    /// A place among the lists, to be kept until the answer has been written: clients that do not read have no more
    /// memory than that.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.lists).acquire_owned()).await;
        let taken = || Problem::new(503, format!("{LISTS} long answers are being written already; try again later"));
        place.ok().and_then(Result::ok).ok_or_else(taken)
    }

    /// To be held while something is asked and written down that takes more than a moment: one at a time, in the order
    /// in which they came.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.turn).acquire_owned().await.map_err(|_| ends())
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
        self.questions.send(Box::new(ask)).await.map_err(|_| ends())?;
        answer.await.map_err(|_| ends())
    }

    /// Has the daemon say a list, part by part, all of it of one revision; and which.
    pub(super) async fn list<T: Send + 'static>(
        &self,
        part: impl Fn(&Daemon, usize) -> Part<T> + Copy + Send + 'static,
    ) -> Result<(Vec<T>, u64), Problem> {
        for _ in 0..ATTEMPTS {
            if let Some(whole) = self.parts(part).await? {
                return Ok(whole);
            }
        }
        Err(Problem::new(503, "the configuration changes all the time; try again later"))
    }

    /// `None` if the revision changes meanwhile.
    async fn parts<T: Send + 'static>(
        &self,
        part: impl Fn(&Daemon, usize) -> Part<T> + Copy + Send + 'static,
    ) -> Result<Option<(Vec<T>, u64)>, Problem> {
        let ask = async |from| self.ask(move |daemon| (part(daemon, from), daemon.revision())).await;
        let ((mut all, mut next), revision) = ask(0).await?;
        while let Some(from) = next {
            // Whoever else is ready goes first.
            tokio::task::yield_now().await;
            let ((more, after), now) = ask(from).await?;
            if now != revision {
                return Ok(None);
            }
            all.extend(more);
            next = after;
        }
        Ok(Some((all, revision)))
    }

    /// What ids mean now; said anew only when the configuration has changed.
    pub(super) async fn names(&self) -> Result<Arc<Names>, Problem> {
        let known = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let revision = known.as_ref().map(|(revision, _)| *revision);
        let ask = move |daemon: &Daemon| {
            let now = daemon.revision();
            (revision != Some(now)).then(|| (now, Arc::new(daemon.names())))
        };
        match (self.ask(ask).await?, known) {
            (None, Some((_, known))) => Ok(known),
            (None, None) => Err(ends()),
            (Some(new), _) => {
                let names = Arc::clone(&new.1);
                *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
                Ok(names)
            }
        }
    }
}

fn ends() -> Problem {
    Problem::new(503, "the daemon is stopping")
}
