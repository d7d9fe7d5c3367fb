//! One member and what its checks come to.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use super::Finding;
use super::count::Count;
use super::damping::Damped;
use super::status::Condition;
use crate::control::model::{Combine, Damping};
use crate::control::value::spelt;

/// A member, as its monitors see it.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) pool: String,
    pub(super) member: String,
    pub(super) address: Ipv4Addr,
    pub(super) port: Option<u16>,
    pub(super) combine: Combine,
    pub(super) damping: Option<Damping>,
    pub(super) damped: Damped,
    pub(super) condition: Condition,
    /// What was last found; a reason stays that of the moment at which it went down.
    pub(super) finding: Finding,
}

/// What one of its checks says now.
pub(super) struct Word<'a> {
    pub(super) count: &'a Count,
    /// `http: 503, expected 200-299`
    pub(super) reason: &'a dyn Fn() -> String,
    /// Whether that is what was wrong when it last looked: it may be well again, and not for long enough.
    pub(super) is_failing: bool,
    pub(super) weight: Option<u16>,
}

impl Subject {
    /// Takes in what its checks say; whether it is up or down now, or its weight, has changed.
    pub(super) fn judge(&mut self, words: &[Word<'_>], now: Instant) -> bool {
        let is_well = match self.combine {
            Combine::All => words.iter().all(|word| word.count.is_up()),
            Combine::Any => words.iter().any(|word| word.count.is_up()),
        };
        // `any` of several knows enough when one is content, `all` when one is not.
        let decisive = |word: &&Word<'_>| word.count.is_known() && word.count.is_up() == (self.combine == Combine::Any);
        let is_known = words.iter().all(|word| word.count.is_known()) || words.iter().any(|word| decisive(&word));
        let was_up = matches!(self.finding, Finding::Up { .. });
        let held = if is_well && !was_up { self.hold(now) } else { None };
        let finding = match (is_well, held) {
            (true, Some(held)) => held,
            (true, None) => Finding::Up { weight: words.iter().filter_map(|word| word.weight).min() },
            (false, _) => self.not_well(words, was_up, now),
        };
        let condition = match (is_known, &finding) {
            (false, _) => Condition::Unknown,
            (true, Finding::Up { .. }) => Condition::Up,
            (true, Finding::Down(_)) => Condition::Down,
        };
        let changed = finding != self.finding || condition != self.condition;
        self.finding = finding;
        self.condition = condition;
        changed
    }

    /// Down, for the reason for which it went down.
    fn not_well(&mut self, words: &[Word<'_>], was_up: bool, now: Instant) -> Finding {
        let was_well = was_up || self.damped.held_until().is_some();
        if let Some(damping) = self.damping.as_ref().filter(|_| was_well) {
            self.damped.went_down(damping, now);
        }
        let has_no_reason = self.condition == Condition::Unknown && words.iter().any(|word| word.is_failing);
        match &self.finding {
            Finding::Down(_) if !was_well && !has_no_reason => self.finding.clone(),
            _ => Finding::Down(reason(words)),
        }
    }

    /// What holds it down although it is well.
    fn hold(&mut self, now: Instant) -> Option<Finding> {
        let damping = self.damping.as_ref()?;
        if self.damped.held_until().is_some() {
            let is_over = self.damped.release(now);
            return (!is_over).then(|| self.finding.clone());
        }
        self.damped.came_up(damping, now)?;
        let Damping { downs, within, hold } = damping;
        let (within, hold) = (spelt(*within), spelt(*hold));
        let why = format!("went down {downs} times within {within}; up again when it has been well for {hold}");
        Some(Finding::Down(why.into()))
    }
}

/// The first check that is not content speaks for all; best one that fails now.
fn reason(words: &[Word<'_>]) -> Arc<str> {
    let against = || words.iter().filter(|word| !word.count.is_up());
    let first = against().find(|word| word.is_failing).or_else(|| against().next());
    let first = first.map_or_else(|| "not checked yet".to_owned(), |word| (word.reason)());
    match against().count() {
        0 | 1 => first.into(),
        2 => format!("{first} (and one more)").into(),
        more => format!("{first} (and {} more)", more - 1).into(),
    }
}
