//! One member and what its checks come to.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use super::Finding;
use super::check::Check;
use super::damping::Damped;
use super::status::Condition;
use crate::control::model::{Combine, Damping, Member, Pool, Start};
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
    /// Whether that reason is of other checks than those of now.
    pub(super) is_outdated: bool,
}

/// What one of its checks says now.
pub(super) struct Word<'a> {
    is_up: bool,
    is_decided: bool,
    /// Whether something was wrong when it last looked: it may be well again, and not for long enough.
    is_failing: bool,
    weight: Option<u16>,
    check: Option<&'a Check>,
}

impl<'a> Word<'a> {
    pub(super) fn of(check: &'a Check) -> Word<'a> {
        Word {
            is_up: check.count.is_up(),
            is_decided: check.count.is_decided(),
            is_failing: check.is_failing(),
            weight: check.weight,
            check: Some(check),
        }
    }

    /// `http: 503, expected 200-299`
    fn text(&self) -> String {
        self.check.map_or_else(String::new, Check::words)
    }
}

impl Subject {
    /// What was known of the member stays known, under the policy of now.
    pub(super) fn of(pool: &Pool, member: &Member, old: Option<Subject>) -> Subject {
        let (damped, condition, finding) = match old {
            Some(Subject { damped, condition, finding, .. }) if condition != Condition::Unknown => {
                (damped, condition, finding)
            }
            _ => (Damped::default(), Condition::Unknown, Finding::Starting(pool.policy.start)),
        };
        Subject {
            pool: pool.name.clone(),
            member: member.name.clone(),
            address: member.address,
            port: member.port,
            combine: pool.policy.combine,
            damping: pool.policy.damping,
            damped,
            condition,
            finding,
            is_outdated: false,
        }
    }

    /// Takes in what its checks say.
    pub(super) fn judge(&mut self, words: &[Word<'_>], now: Instant) {
        let is_well = match self.combine {
            Combine::All => words.iter().all(|word| word.is_up),
            Combine::Any => words.iter().any(|word| word.is_up),
        };
        // `any` of several knows enough when one is content, `all` when one is not. Whoever is known stays known: checks
        // that are new begin with that.
        let decisive = |word: &Word<'_>| word.is_decided && word.is_up == (self.combine == Combine::Any);
        let is_known = self.condition != Condition::Unknown
            || words.iter().all(|word| word.is_decided)
            || words.iter().any(decisive);
        let was_up = matches!(self.finding, Finding::Up { .. });
        let held = if is_known && is_well && !was_up { self.hold(now) } else { None };
        self.finding = match (is_known, is_well, held) {
            (false, true, _) => Finding::Starting(Start::Up),
            (false, false, _) => Finding::Starting(Start::Down),
            (true, true, Some(held)) => held,
            (true, true, None) => Finding::Up { weight: words.iter().filter_map(|word| word.weight).min() },
            (true, false, _) => self.not_well(words, was_up, now),
        };
        self.condition = match &self.finding {
            Finding::Starting(_) => Condition::Unknown,
            Finding::Up { .. } => Condition::Up,
            Finding::Down(_) => Condition::Down,
        };
    }

    /// Down, for the reason for which it went down.
    fn not_well(&mut self, words: &[Word<'_>], was_up: bool, now: Instant) -> Finding {
        let was_well = was_up || self.damped.held_until().is_some();
        if let Some(damping) = self.damping.as_ref().filter(|_| was_well) {
            self.damped.went_down(damping, now);
        }
        let is_refreshed = self.is_outdated && words.iter().any(|word| word.is_failing);
        self.is_outdated &= !is_refreshed;
        match &self.finding {
            Finding::Down(_) if !was_well && !is_refreshed => self.finding.clone(),
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
    let against = || words.iter().filter(|word| !word.is_up);
    let first = against().find(|word| word.is_failing).or_else(|| against().next());
    let first = first.map_or_else(|| "not checked yet".to_owned(), Word::text);
    match against().count() {
        0 | 1 => first.into(),
        2 => format!("{first} (and one more)").into(),
        more => format!("{first} (and {} more)", more - 1).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::model::Model;

    fn subject(keys: &str) -> Subject {
        let text = format!(
            "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\n\
             port = 80\npool = \"p\"\n[[pool]]\nname = \"p\"\n{keys}\n[[pool.monitor]]\ntype = \"tcp\"\n\
             [[pool.member]]\nname = \"m\"\naddress = \"10.0.0.1\"\n"
        );
        let model = Model::parse("p.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        Subject::of(&model.pools[0], &model.pools[0].members[0], None)
    }

    /// What checks say: `?` nothing yet, `u` assumed up, `U` up, `D` down.
    fn words(letters: &str) -> Vec<Word<'static>> {
        let word = |letter: char| Word {
            is_up: matches!(letter, 'u' | 'U'),
            is_decided: letter.is_ascii_uppercase(),
            is_failing: letter == 'D',
            weight: None,
            check: None,
        };
        letters.chars().map(word).collect()
    }

    #[test]
    fn a_member_is_starting_until_its_checks_have_decided() {
        // Keys, what its checks say one after the other, and what it is then: s starting and served, n starting and not,
        // U up, D down.
        let rows = [
            ("", &["u", "U", "D", "U"][..], "sUDU"),
            ("", &["u", "D", "U"], "sDU"),
            ("", &["uu", "Uu", "UU"], "ssU"),
            ("", &["uu", "Du", "DU"], "sDD"),
            ("start = \"down\"", &["?", "U"], "nU"),
            ("start = \"down\"", &["??", "U?", "UU"], "nnU"),
            ("start = \"down\"", &["?", "D", "U"], "nDU"),
            ("monitors = \"any\"", &["uu", "Du", "DU"], "ssU"),
            ("monitors = \"any\"", &["uu", "Uu"], "sU"),
            // New checks of a member that is known.
            ("", &["U", "u", "uu", "D"], "UUUD"),
        ];
        for (keys, steps, expected) in rows {
            let mut subject = subject(keys);
            let mut found = String::new();
            for step in steps {
                subject.judge(&words(step), Instant::now());
                found.push(match subject.finding {
                    Finding::Starting(Start::Up) => 's',
                    Finding::Starting(Start::Down) => 'n',
                    Finding::Up { .. } => 'U',
                    Finding::Down(_) => 'D',
                });
            }
            assert_eq!(found, expected, "{keys:?} {steps:?}");
        }
    }

    #[test]
    fn one_that_goes_down_too_often_is_held_and_says_so() {
        let mut subject = subject("damping = { downs = 2, within = \"1m\", hold = \"10s\" }");
        let start = Instant::now();
        let mut at = |second, letters| {
            subject.judge(&words(letters), start + Duration::from_secs(second));
            match &subject.finding {
                Finding::Down(why) => Some(why.to_string()),
                _ => None,
            }
        };
        let held = Some("went down 2 times within 1m; up again when it has been well for 10s".to_owned());
        // That it was down when it was first looked at is no flap.
        for (second, letters, expected) in [
            (0, "D", Some(String::new())),
            (1, "U", None),
            (2, "D", Some(String::new())),
            (3, "U", None),
            (4, "D", Some(String::new())),
            (5, "U", held.clone()),
            (14, "U", held.clone()),
            (15, "U", None),
        ] {
            assert_eq!(at(second, letters), expected, "second {second}");
        }
    }
}
