//! `state.json`. It is written as a whole to another file, which then takes its place, and both are on the disk before
//! anybody is told that the change is made. So whenever the process ends, what is there is whole: the last change that
//! was confirmed, or the one after it.
//!
//! One that is there and cannot be used is set aside, never overwritten.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use nix::unistd::{Pid, gettid};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, statat};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{FORMAT, Running, Stored};
use crate::control::change::Change;
use crate::control::privileges;

/// The file's name.
pub(in crate::control) const NAME: &str = "state.json";
const NEW: &str = "state.json.new";
const BROKEN: &str = "state.json.broken";

/// Files that are set aside one after the other; with more than these somebody has not looked for long.
const MOST_BROKEN: u32 = 1000;

/// Between two attempts to save what could not be saved.
pub(in crate::control) const RETRY: Duration = Duration::from_secs(3);

/// What rules after a start, and what there is to say of how it came to.
#[derive(Debug)]
pub struct Restored {
    /// It.
    pub running: Running,
    /// For whoever reads events; the log has had it.
    pub said: Vec<String>,
}

/// The directory. Its path may lead nowhere once privileges are given up.
#[derive(Debug)]
pub struct Place(OwnedFd);

/// Why the file cannot be used, and the revision that it is known or taken to have.
struct Unusable {
    why: String,
    revision: u64,
}

impl Place {
    /// Opens it, for one process at a time. It is made if it is not there.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        let directory = File::open(state_dir)?;
        directory.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another pointsman keeps its state there"),
            TryLockError::Error(error) => error,
        })?;
        Ok(Self(directory.into()))
    }

    /// What rules after a start with this startup file.
    pub fn restore(&self, startup: Running, file: &str) -> Restored {
        let stored = match self.found() {
            Ok(Some(stored)) => stored,
            Ok(None) => return Restored { running: startup, said: Vec::new() },
            Err(Unusable { why, revision }) => {
                let kept = self.set_aside();
                let words = format!("{NAME} in node.state_dir cannot be used ({why}); {file} rules; {kept}");
                warn!("{words}");
                return Restored { running: later(startup, revision), said: vec![words] };
            }
        };
        if stored.startup != startup.startup {
            return startup_rules(startup, &stored, file);
        }
        match stored.running(&startup) {
            Ok(running) => {
                let said = running.changes().map(|changes| format!("changed at run time, and still so: {changes}"));
                if let Some(words) = &said {
                    info!("{words}");
                }
                Restored { running, said: said.into_iter().collect() }
            }
            Err(errors) => {
                for error in &errors {
                    error!("{error}");
                }
                let kept = self.set_aside();
                let plural = if errors.len() == 1 { "" } else { "s" };
                let words = format!(
                    "what was applied at run time is not valid any more: {} error{plural}; {file} rules, and this is \
                     dropped: {}; {kept}",
                    errors.len(),
                    stored.changes().unwrap_or_default()
                );
                warn!("{words}");
                Restored { running: later(startup, stored.revision), said: vec![words] }
            }
        }
    }

    /// Nothing, if there is no file.
    fn found(&self) -> Result<Option<Stored>, Unusable> {
        let mut file = match openat(&self.0, NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(Unusable { why: error.to_string(), revision: self.seconds() }),
        };
        let mut bytes = Vec::new();
        if let Err(error) = file.read_to_end(&mut bytes) {
            return Err(Unusable { why: error.to_string(), revision: self.seconds() });
        }
        let why = match serde_json::from_slice::<Stored>(&bytes) {
            Ok(stored) if stored.format == FORMAT => return Ok(Some(stored)),
            Ok(stored) => format!("format {}, this version reads {FORMAT}", stored.format),
            Err(error) => error.to_string(),
        };
        Err(Unusable { why, revision: revision_in(&bytes).unwrap_or_else(|| self.seconds()) })
    }

    /// When the file was last written, in seconds since 1970: beyond any revision that was counted up to it.
    fn seconds(&self) -> u64 {
        let written =
            statat(&self.0, NAME, AtFlags::SYMLINK_NOFOLLOW).ok().and_then(|file| file.st_mtime.try_into().ok());
        written.unwrap_or_else(|| UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()))
    }

    /// Under a name that no other has; says which.
    fn set_aside(&self) -> String {
        let names = (0..MOST_BROKEN).map(|number| match number {
            0 => BROKEN.to_owned(),
            number => format!("{BROKEN}.{number}"),
        });
        // Nobody else writes there: the directory is locked.
        let is_free = |name: &String| {
            statat(&self.0, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_err_and(|error| error == Errno::NOENT)
        };
        let Some(name) = names.into_iter().find(is_free) else {
            return format!("it is not kept: there are {MOST_BROKEN} of {BROKEN} already");
        };
        match renameat(&self.0, NAME, &self.0, name.as_str()) {
            Ok(()) => format!("it is kept as {name}"),
            Err(error) => format!("it could not be kept as {name}: {error}"),
        }
    }

    /// Whole or not at all, and on the disk.
    fn write(&self, stored: &Stored) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(stored)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, NEW, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)?);
        file.write_all(&text)?;
        file.sync_all()?;
        renameat(&self.0, NEW, &self.0, NAME)?;
        rustix::fs::fsync(&self.0)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn keep(&self, running: &Running) {
        self.write(&running.stored()).expect("written");
    }
}

/// The same, after that revision.
fn later(running: Running, revision: u64) -> Running {
    Running { revision: revision.saturating_add(1), ..running }
}

/// The startup file has changed: says what it ends.
fn startup_rules(startup: Running, before: &Stored, file: &str) -> Restored {
    let mut said = Vec::new();
    if let Some(changes) = before.changes() {
        // What another text meant is not to be seen from its name.
        let old = before.running(&startup).ok().filter(|_| before.config.is_some());
        let comes = old.map(|old| Change::between(&old.model(), &startup.model(), false).summary());
        let comes = comes.map_or_else(String::new, |summary| format!(" (what comes of it: {summary})"));
        let words = format!("{file} has changed: what was changed at run time is dropped: {changes}{comes}");
        warn!("{words}");
        said.push(words);
    }
    Restored { running: later(startup, before.revision), said }
}

/// The revision of a file that is none of ours, or no longer.
fn revision_in(bytes: &[u8]) -> Option<u64> {
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) {
        return value["revision"].as_u64();
    }
    let text = String::from_utf8_lossy(bytes);
    let (_, rest) = text.split_once("\"revision\":")?;
    // A number at the end may have had more digits.
    let (number, _) = rest.split_once(|one: char| one != ' ' && !one.is_ascii_digit())?;
    number.trim().parse().ok()
}

/// Keeps the file. Saves are made one after the other, on a thread of their own: a disk takes its time.
#[derive(Debug)]
pub struct Store {
    saves: mpsc::Sender<Save>,
    thread: Pid,
    failure: Arc<Mutex<Option<String>>>,
}

/// What is to be saved, and who waits for it.
#[derive(Debug)]
struct Save {
    stored: Stored,
    done: oneshot::Sender<io::Result<()>>,
}

impl Store {
    /// Keeps it there from now on.
    pub fn start(place: Place) -> io::Result<Self> {
        let (sender, saves) = mpsc::channel::<Save>();
        let (say, said) = mpsc::channel();
        let failure = Arc::default();
        let mut keeper = Saver { place, unsaved: None, failure: Arc::clone(&failure) };
        thread::Builder::new().name("state".into()).spawn(move || {
            privileges::confine_helper();
            let _ = say.send(gettid());
            while keeper.next(&saves) {}
        })?;
        let thread = said.recv().map_err(|_| io::Error::other("the thread that saves changes has died"))?;
        Ok(Self { saves: sender, thread, failure })
    }

    /// The thread that writes.
    pub fn thread(&self) -> Pid {
        self.thread
    }

    /// Saves what rules now; the end of it comes by what is returned. What fails is tried again, until it is saved or
    /// something later is to be.
    pub fn save(&self, running: &Running) -> oneshot::Receiver<io::Result<()>> {
        let (done, end) = oneshot::channel();
        // The thread ends with the store.
        let _ = self.saves.send(Save { stored: running.stored(), done });
        end
    }

    /// Why what rules is not saved, as far as is known by now.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The thread.
struct Saver {
    place: Place,
    /// What could not be saved.
    unsaved: Option<Stored>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Saver {
    /// Saves what comes next, or what could not be saved. Whether there may be more.
    fn next(&mut self, saves: &mpsc::Receiver<Save>) -> bool {
        let next = match self.unsaved {
            None => saves.recv().map_err(mpsc::RecvTimeoutError::from),
            Some(_) => saves.recv_timeout(RETRY),
        };
        match (next, self.unsaved.take()) {
            (Ok(Save { stored, done }), _) => {
                // Nobody may wait for it.
                let _ = done.send(self.save(stored));
                true
            }
            (Err(mpsc::RecvTimeoutError::Timeout), Some(stored)) => {
                // What has failed has been said.
                let _ = self.save(stored);
                true
            }
            (Err(_), _) => false,
        }
    }

    fn save(&mut self, stored: Stored) -> io::Result<()> {
        let result = self.place.write(&stored);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let now = result.as_ref().err().map(ToString::to_string);
        match (&now, &*failure) {
            (Some(error), before) if before.as_ref() != Some(error) => warn!(
                "what was changed is in force, and not saved: {NAME} in node.state_dir: {error} (tried again every \
                 {RETRY:?})"
            ),
            (None, Some(_)) => info!("what was changed is saved now"),
            _ => {}
        }
        *failure = now;
        self.unsaved = result.is_err().then_some(stored);
        result
    }
}
