//! What was changed at run time, and what the startup file has to say to it.
//!
//! The startup file wins if it has changed since it last ruled: whoever edits it means it. If it has not, what was changed
//! at run time goes on, at a start and at a SIGHUP alike.
//!
//! `store` keeps it in `state.json` in `state_dir`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::model::{ConfigError, Model};

pub(super) use store::{NAME as STATE_FILE, RETRY};
pub use store::{Place, Restored, Store};

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

/// VIPs whose `enabled` is another than the configuration's: it, by name.
pub type VipEdits = BTreeMap<String, bool>;

impl Edit {
    /// `drain, weight 7`
    fn words(&self) -> String {
        let enabled = self.enabled.map(|enabled| if enabled { "enabled" } else { "disabled" }.to_owned());
        let weight = self.weight.map(|weight| format!("weight {weight}"));
        let drain = self.drain.then(|| "drain".to_owned());
        drain.into_iter().chain(enabled).chain(weight).collect::<Vec<_>>().join(", ")
    }

    /// Which of it another edit of the same member (or none) does not say, too.
    fn not_in(&self, other: Option<&Self>) -> impl Iterator<Item = String> {
        let nothing = Self::default();
        let other = other.unwrap_or(&nothing);
        let drain = (self.drain && !other.drain).then(|| "drain".to_owned());
        let enabled = self.enabled.filter(|_| self.enabled != other.enabled);
        let enabled = enabled.map(|enabled| format!("enabled = {enabled}"));
        let weight = self.weight.filter(|_| self.weight != other.weight).map(|weight| format!("weight {weight}"));
        drain.into_iter().chain(enabled).chain(weight)
    }
}

/// The configuration that rules: a text, and what was edited of it.
#[derive(Debug, Clone)]
pub struct Running {
    /// Without the edits.
    pub base: Arc<Model>,
    /// The startup file's text when it last ruled.
    pub file: Arc<str>,
    /// The text that was applied; the startup file's rules where `None`.
    pub applied: Option<Arc<str>>,
    /// What was edited of members since.
    pub edits: Edits,
    /// What was edited of VIPs since.
    pub vips: VipEdits,
    /// The startup file's text when it last ruled, as a hash.
    pub startup: String,
    /// Counts changes.
    pub revision: u64,
}

/// What the file on the disk has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    revision: u64,
    startup: String,
    config: Option<String>,
    edits: Edits,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    vips: VipEdits,
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
        Self {
            base: Arc::new(model),
            file: text.into(),
            applied: None,
            edits: Edits::new(),
            vips: VipEdits::new(),
            startup,
            revision: 1,
        }
    }

    /// The text that rules.
    pub fn text(&self) -> &Arc<str> {
        self.applied.as_ref().unwrap_or(&self.file)
    }

    /// With the edits.
    pub fn model(&self) -> Model {
        let mut model = (*self.base).clone();
        for vip in &mut model.vips {
            vip.enabled = self.vips.get(&vip.name).copied().unwrap_or(vip.enabled);
        }
        if self.edits.is_empty() {
            return model;
        }
        for pool in &mut model.pools {
            for member in &mut pool.members {
                let Some(edit) = self.edits.get(&format!("{}/{}", pool.name, member.name)) else { continue };
                member.drain = edit.drain;
                member.weight = edit.weight.unwrap_or(member.weight);
                member.enabled = edit.enabled.unwrap_or(member.enabled);
            }
        }
        model
    }

    /// What was changed at run time, all of it: `the applied configuration; http/member1: drain`. `None`: nothing was.
    pub fn changes(&self) -> Option<String> {
        changes(self.applied.is_some(), &self.edits, &self.vips)
    }

    /// The edits that are none under `next`: `drain of http/member1`.
    pub fn edits_ended(&self, next: &Self) -> Vec<String> {
        let ended = |(name, edit): (&String, &Edit)| {
            edit.not_in(next.edits.get(name)).map(|what| format!("{what} of {name}")).collect::<Vec<_>>()
        };
        let vips = self.vips.iter().filter(|(name, enabled)| next.vips.get(*name) != Some(enabled));
        let vips = vips.map(|(name, enabled)| format!("enabled = {enabled} of VIP {name}"));
        vips.chain(self.edits.iter().flat_map(ended)).collect()
    }

    /// The same without any edit.
    #[must_use]
    pub fn unedited(self) -> Self {
        Self { edits: Edits::new(), vips: VipEdits::new(), ..self }
    }

    /// How many members and VIPs are edited.
    pub fn edited(&self) -> usize {
        self.edits.len() + self.vips.len()
    }

    /// Whether the same text rules with the same edits, so that there is nothing to be saved.
    pub fn is_as(&self, other: &Self) -> bool {
        let Self { base: _, file: _, applied, edits, vips, startup, revision } = self;
        (applied, edits, vips) == (&other.applied, &other.edits, &other.vips)
            && (startup, revision) == (&other.startup, &other.revision)
    }

    fn stored(&self) -> Stored {
        let Self { applied, edits, vips, startup, revision, .. } = self;
        Stored {
            format: FORMAT,
            revision: *revision,
            startup: startup.clone(),
            config: applied.as_deref().map(str::to_owned),
            edits: edits.clone(),
            vips: vips.clone(),
        }
    }
}

fn changes(is_applied: bool, edits: &Edits, vips: &VipEdits) -> Option<String> {
    let applied = is_applied.then(|| "the applied configuration".to_owned());
    let edits = edits.iter().map(|(name, edit)| format!("{name}: {}", edit.words()));
    let word = |enabled: &bool| if *enabled { "enabled" } else { "disabled" };
    let vips = vips.iter().map(|(name, enabled)| format!("VIP {name}: {}", word(enabled)));
    let all: Vec<String> = applied.into_iter().chain(vips).chain(edits).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

impl Stored {
    /// What rules by it, if the startup file has not changed; or what is wrong with the text that was applied.
    fn running(&self, startup: &Running) -> Result<Running, Vec<ConfigError>> {
        let base = match &self.config {
            None => Arc::clone(&startup.base),
            Some(text) => Arc::new(Model::parse("the applied configuration", text)?),
        };
        Ok(Running {
            base,
            file: Arc::clone(&startup.file),
            applied: self.config.as_deref().map(Arc::from),
            edits: self.edits.clone(),
            vips: self.vips.clone(),
            startup: self.startup.clone(),
            revision: self.revision,
        })
    }

    /// As of [`Running::changes`].
    fn changes(&self) -> Option<String> {
        changes(self.config.is_some(), &self.edits, &self.vips)
    }
}

mod store;
#[cfg(test)]
mod tests;
