//! A change in words: as a table for people, and in one line for the log.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::{Change, Effect, HIDDEN, Impact, Item, Key, Setting, What};

/// Names that a line of the log has of each kind; the rest is counted.
const MOST_NAMED: usize = 5;

impl fmt::Display for Change {
    /// A line per difference: `+` comes, `~` changes, `-` goes; then what it means for flows.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return formatter.write_str("nothing changes\n");
        }
        for setting in &self.settings {
            writeln!(formatter, "~ {setting}")?;
        }
        for (kind, items) in
            [("vip", &self.vips), ("pool", &self.pools), ("member", &self.members), ("monitor", &self.monitors)]
        {
            for item in items {
                writeln!(formatter, "{} {kind} {item}", item.what.sign())?;
            }
        }
        for edit in &self.edits_ended {
            writeln!(formatter, "- {edit} ended")?;
        }
        if !self.impact.is_empty() {
            let name = self.impact.iter().map(|impact| impact.vip.len()).max().unwrap_or(0).max("VIP".len());
            writeln!(
                formatter,
                "\n{:name$}  {:>8}  {:>8}  {:>7}  {:>9}  {:>12}  {:>8}  {:>6}",
                "VIP", "slots", "moved", "", "flows", "other member", "dropped", "ended"
            )?;
            for Impact { vip, slots, slots_moved, flows, flows_reselected, flows_dropped, flows_ended } in &self.impact
            {
                let percent = 100.0 * *slots_moved as f64 / (*slots).max(1) as f64;
                writeln!(
                    formatter,
                    "{vip:name$}  {slots:>8}  {slots_moved:>8}  {percent:>6.2}%  {flows:>9}  {flows_reselected:>12}  \
                     {flows_dropped:>8}  {flows_ended:>6}"
                )?;
            }
        }
        Ok(())
    }
}

impl What {
    fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Changed => '~',
            Self::Removed => '-',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        if !self.identity.is_empty() {
            write!(formatter, " ({})", self.identity)?;
        }
        for (index, key) in self.keys.iter().enumerate() {
            write!(formatter, "{} {key}", if index == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = match self.effect {
            Effect::Restart => " (needs a restart)",
            Effect::Interrupts => " (packets wait for a moment: the sockets are opened anew)",
            Effect::Live if self.reseeds() => {
                " (new flows are spread anew: with n members one in n stays where it was)"
            }
            Effect::Live => "",
        };
        write!(formatter, "{}{note}", self.key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == HIDDEN && self.to == HIDDEN {
            return write!(formatter, "{} differs {HIDDEN}", self.key);
        }
        write!(formatter, "{} {} → {}", self.key, Shown(&self.from), Shown(&self.to))
    }
}

struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => formatter.write_str("none"),
            value => write!(formatter, "{value}"),
        }
    }
}

impl Change {
    /// In one line, however much it is.
    pub fn summary(&self) -> String {
        let settings = self.settings.iter().map(ToString::to_string);
        let mut parts: Vec<String> = settings.collect();
        for (kind, items) in
            [("VIP", &self.vips), ("pool", &self.pools), ("member", &self.members), ("monitor", &self.monitors)]
        {
            for what in [What::Added, What::Changed, What::Removed] {
                let names: Vec<String> =
                    items.iter().filter(|item| item.what == what).map(ToString::to_string).collect();
                if !names.is_empty() {
                    parts.push(counted(kind, what.word(), &names));
                }
            }
        }
        if !self.edits_ended.is_empty() {
            parts.push(counted("edit", "ended", &self.edits_ended));
        }
        if parts.is_empty() { "nothing changes".to_owned() } else { parts.join("; ") }
    }
}

fn counted(kind: &str, what: &str, names: &[String]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    let mut text = format!("{} {kind}{plural} {what}: ", names.len());
    text.push_str(&names[..names.len().min(MOST_NAMED)].join(", "));
    if names.len() > MOST_NAMED {
        // Writing to a String cannot fail.
        let _ = write!(text, " and {} more", names.len() - MOST_NAMED);
    }
    text
}
