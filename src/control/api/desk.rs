//! Where connections hand in what they want of the control thread.

use tokio::sync::{mpsc, oneshot};

use super::problem::Problem;
use crate::control::daemon::Daemon;

/// Questions that wait; with more, whoever asks waits with them.
const WAITING: usize = 64;

/// Something to be answered from what the daemon knows, in a moment.
pub(in crate::control) type Question = Box<dyn FnOnce(&Daemon) + Send>;

/// The connections' side.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    questions: mpsc::Sender<Question>,
}

/// The control thread's side.
#[derive(Debug)]
pub(in crate::control) struct Clerk {
    /// What is asked.
    pub(in crate::control) questions: mpsc::Receiver<Question>,
}

/// Both sides.
pub(super) fn desk() -> (Desk, Clerk) {
    let (sender, questions) = mpsc::channel(WAITING);
    (Desk { questions: sender }, Clerk { questions })
}

impl Desk {
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
