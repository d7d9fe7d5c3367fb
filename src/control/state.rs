//! What was changed at run time, kept so that a restart finds it: `state.json` in `state_dir`.
//!
//! It is written as a whole to another file, which then takes its place, and both are on the disk before anybody is told
//! that the change is made. So whenever the process ends, what is there is whole: the last change that was confirmed, or
//! the one after it.
//!
//! The startup file wins if it has changed since: whoever edits it means it.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::fs::{Mode, OFlags, openat, renameat};
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::change::Change;
use super::model::Model;
use super::privileges;

const NAME: &str = "state.json";
const NEW: &str = "state.json.new";
const BROKEN: &str = "state.json.broken";

/// The format of the file; another one is not read.
const FORMAT: u32 = 1;

/// What was edited of one member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Another weight than the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Another `enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// It gets nothing new, and keeps its weight for later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

/// By `POOL/MEMBER`.
pub type Edits = BTreeMap<String, Edit>;

/// The configuration that rules: a text, and what was edited of it.
#[derive(Debug, Clone)]
pub struct Running {
    /// Without the edits.
    pub base: Arc<Model>,
    /// The text that was applied; the startup file's rules where `None`.
    pub applied: Option<Arc<str>>,
    /// What was edited since.
    pub edits: Edits,
    /// The startup file's text when it last ruled, as a hash.
    pub startup: String,
    /// Counts changes.
    pub revision: u64,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    revision: u64,
    startup: String,
    config: Option<String>,
    edits: Edits,
}

/// 128 bits, in hexadecimal. Whoever writes the file may choose it as they like: nothing is proven by it.
pub fn hash_of(text: &str) -> String {
    let mut hasher = SipHasher13::new();
    std::hash::Hasher::write(&mut hasher, text.as_bytes());
    format!("{:032x}", hasher.finish128().as_u128())
}

impl Running {
    /// A startup file's, as if nothing had ever been changed.
    pub fn startup(model: Model, text: &str) -> Self {
        let startup = hash_of(text);
        Self { base: Arc::new(model), applied: None, edits: Edits::new(), startup, revision: 1 }
    }

    /// With the edits.
    pub fn model(&self) -> Model {
        let mut model = (*self.base).clone();
        if self.edits.is_empty() {
            return model;
        }
        for pool in &mut model.pools {
            for member in &mut pool.members {
                let Some(edit) = self.edits.get(&format!("{}/{}", pool.name, member.name)) else { continue };
                member.weight = if edit.drain { 0 } else { edit.weight.unwrap_or(member.weight) };
                member.enabled = edit.enabled.unwrap_or(member.enabled);
            }
        }
        model
    }

    fn stored(&self) -> Stored {
        let Self { applied, edits, startup, revision, .. } = self;
        Stored {
            format: FORMAT,
            revision: *revision,
            startup: startup.clone(),
            config: applied.as_deref().map(str::to_owned),
            edits: edits.clone(),
        }
    }

    /// What is kept of `before` where the startup file has changed: its count. Says what is dropped.
    fn instead_of(mut self, before: &Stored, file: &str) -> Self {
        self.revision = before.revision + 1;
        let stored = before.running(&self);
        match stored {
            Ok(stored) if before.config.is_some() || !before.edits.is_empty() => {
                let change = Change::between(&stored.model(), &self.model(), false);
                warn!("{file} has changed: what was changed at run time is dropped: {}", change.summary());
            }
            Ok(_) => {}
            Err(why) => warn!("{file} has changed: what was changed at run time is dropped ({why})"),
        }
        self
    }
}

impl Stored {
    /// What rules by it, if `startup` is what the startup file says.
    fn running(&self, startup: &Running) -> Result<Running, String> {
        let base = match &self.config {
            None => Arc::clone(&startup.base),
            Some(text) => Arc::new(
                Model::parse("the applied configuration", text)
                    .map_err(|errors| errors.first().map_or_else(|| "it is not valid".into(), ToString::to_string))?,
            ),
        };
        Ok(Running {
            base,
            applied: self.config.as_deref().map(Arc::from),
            edits: self.edits.clone(),
            startup: self.startup.clone(),
            revision: self.revision,
        })
    }
}

/// Keeps the file. Saves are made one after the other, on a thread of their own: a disk takes its time.
#[derive(Debug)]
pub struct Store {
    saves: mpsc::Sender<Save>,
}

/// What is to be saved, and who waits for it.
#[derive(Debug)]
struct Save {
    stored: Stored,
    done: oneshot::Sender<io::Result<()>>,
}

/// The directory. Its path may lead nowhere once privileges are given up.
#[derive(Debug)]
pub struct Place(OwnedFd);

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
    pub fn restore(&self, startup: Running, file: &str) -> Running {
        let text = match self.read() {
            Ok(Some(text)) => text,
            Ok(None) => return startup,
            Err(error) => {
                warn!("{NAME} in node.state_dir cannot be read: {error}; {file} rules");
                return startup;
            }
        };
        let stored = match serde_json::from_str::<Stored>(&text) {
            Ok(stored) if stored.format == FORMAT => stored,
            other => {
                let why = other.map_or_else(|error| error.to_string(), |stored| format!("format {}", stored.format));
                let _ = renameat(&self.0, NAME, &self.0, BROKEN);
                warn!("{NAME} in node.state_dir is not ours ({why}); {file} rules; the other is kept as {BROKEN}");
                return startup;
            }
        };
        if stored.startup != startup.startup {
            return startup.instead_of(&stored, file);
        }
        match stored.running(&startup) {
            Ok(running) => {
                if running.applied.is_some() || !running.edits.is_empty() {
                    let change = Change::between(&startup.model(), &running.model(), false);
                    info!("changed at run time, and still so: {}", change.summary());
                }
                running
            }
            Err(why) => {
                warn!("what was applied at run time is not valid any more: {why}; {file} rules");
                Running { revision: stored.revision + 1, ..startup }
            }
        }
    }

    fn read(&self) -> io::Result<Option<String>> {
        let file = match openat(&self.0, NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        File::from(file).read_to_string(&mut text)?;
        Ok(Some(text))
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
}

impl Store {
    /// Keeps it there from now on.
    pub fn start(place: Place) -> io::Result<Self> {
        let (sender, saves) = mpsc::channel::<Save>();
        thread::Builder::new().name("state".into()).spawn(move || {
            privileges::confine_helper();
            for Save { stored, done } in saves {
                let result = place.write(&stored);
                if let Err(error) = &result {
                    warn!("what was changed is in force, and not saved: {NAME} in node.state_dir: {error}");
                }
                // Nobody may wait for it.
                let _ = done.send(result);
            }
        })?;
        Ok(Self { saves: sender })
    }

    /// Saves what rules now; the end of it comes by what is returned.
    pub fn save(&self, running: &Running) -> oneshot::Receiver<io::Result<()>> {
        let (done, end) = oneshot::channel();
        // The thread ends with the store.
        let _ = self.saves.send(Save { stored: running.stored(), done });
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"203.0.113.2\"\n\
                          protocol = \"tcp\"\nport = 80\npool = \"p\"\n[[pool]]\nname = \"p\"\n[[pool.member]]\n\
                          name = \"m\"\naddress = \"203.0.113.4\"\nweight = 3\n";

    fn startup(text: &str) -> Running {
        Running::startup(Model::parse("a.toml", text).expect("valid"), text)
    }

    fn member(running: &Running) -> (u16, bool) {
        let model = running.model();
        (model.pools[0].members[0].weight, model.pools[0].members[0].enabled)
    }

    #[test]
    fn what_was_changed_is_found_again_unless_the_startup_file_has_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || Place::open(directory.path()).expect("open");
        let mut running = open().restore(startup(CONFIG), "a.toml");
        assert_eq!((member(&running), running.revision), ((3, true), 1));
        let edit = Edit { weight: Some(9), enabled: Some(false), drain: false };
        running.edits.insert("p/m".into(), edit);
        running.revision = 5;
        open().write(&running.stored()).expect("written");
        let found = open().restore(startup(CONFIG), "a.toml");
        assert_eq!((member(&found), found.revision), ((9, false), 5));
        // A drained member's weight is remembered.
        running.edits.insert("p/m".into(), Edit { weight: Some(9), enabled: None, drain: true });
        assert_eq!(member(&running), (0, true));
        // A text that was applied, and edits of it.
        let applied = CONFIG.replace("weight = 3", "weight = 4");
        running.base = startup(&applied).base;
        running.applied = Some(applied.into());
        running.edits.clear();
        open().write(&running.stored()).expect("written");
        assert_eq!(member(&open().restore(startup(CONFIG), "a.toml")), (4, true));
        let other = open().restore(startup(&CONFIG.replace("weight = 3", "weight = 7")), "a.toml");
        assert_eq!((member(&other), other.revision), ((7, true), 6));
        assert!(other.applied.is_none() && other.edits.is_empty());
    }

    #[test]
    fn a_directory_is_one_processs() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Place::open(&directory.path().join("deep/er")).expect("it is made");
        let error = Place::open(&directory.path().join("deep/er")).expect_err("a second one");
        assert_eq!(error.to_string(), "another pointsman keeps its state there");
        drop(place);
        Place::open(&directory.path().join("deep/er")).expect("it is free");
    }

    #[test]
    fn what_is_not_ours_is_set_aside() {
        for text in ["", "{", "{\"format\":2,\"revision\":1,\"startup\":\"\",\"config\":null,\"edits\":{}}"] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::write(directory.path().join(NAME), text).expect("written");
            let found = Place::open(directory.path()).expect("open").restore(startup(CONFIG), "a.toml");
            assert_eq!((member(&found), found.revision), ((3, true), 1), "{text}");
            assert_eq!(fs::read_to_string(directory.path().join(BROKEN)).expect("kept"), text);
        }
    }
}
