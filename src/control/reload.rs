//! SIGHUP: the configuration is to be read again. It means nothing else from the process's first moment on, since to
//! one that does not listen it means death.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};

use super::model::{ConfigError, Model};
use super::state::Running;

/// What the file holds now, or all that is wrong with it.
pub type Loaded = Result<Running, Vec<ConfigError>>;

/// Has a SIGHUP wait until [`Reloads`] listens: to be called first of all, while there is one thread.
pub fn hold_hangups() -> io::Result<()> {
    Ok(hangup().thread_block()?)
}

fn hangup() -> SigSet {
    SigSet::from(Number::SIGHUP)
}

/// What [`Reloads::next`] has to say.
#[derive(Debug)]
pub enum Told {
    /// The file is being read.
    Asked,
    /// It has been read.
    Read(Box<Loaded>),
}

/// Reads the file whenever the process is told to.
#[derive(Debug)]
pub struct Reloads {
    file: PathBuf,
    hangups: Signal,
    /// A file is being read, on a thread of its own: a large one takes its time, and nothing else may wait for it.
    reading: Option<JoinHandle<Loaded>>,
}

impl Reloads {
    /// Listens from now on, and to what has waited since [`hold_hangups`]; inside a runtime, before other threads start.
    pub fn of(file: PathBuf) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        hangup().thread_unblock()?;
        Ok(Self { file, hangups, reading: None })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What comes next: the process is told to read the file, then it has been read. Signals that come meanwhile are one
    /// more of the first kind. May be dropped at any time.
    pub async fn next(&mut self) -> Told {
        let Some(reading) = &mut self.reading else {
            if self.hangups.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            let file = self.file.clone();
            self.reading =
                Some(spawn_blocking(move || Model::read(&file).map(|(model, text)| Running::startup(model, &text))));
            return Told::Asked;
        };
        let loaded = reading.await;
        self.reading = None;
        Told::Read(Box::new(loaded.unwrap_or_else(|error| {
            let file = self.file.display().to_string();
            Err(vec![ConfigError::unreadable(&file, format!("cannot be read: {error}"))])
        })))
    }
}
