//! TOML text to placed values: reads all of a file, reports all that is wrong, and knows none of its keys.
//!
//! serde stops at the first error. Here a table's keys are taken one by one, each as the type of the field that takes
//! it; what is wrong with one is reported and does not keep the others from being read.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::report::{Errors, Place, Scope};
use super::syntax;

/// A kind of value: what is allowed, and how it is read.
pub(super) trait Value: Sized {
    /// What is allowed, in words.
    fn allowed() -> String;
    /// The value, or why this is none.
    fn read(value: &DeValue<'_>) -> Result<Self, Wrong>;
}

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What was found and what is wrong with it.
    pub(super) what: String,
    /// What was probably meant.
    pub(super) meant: Option<String>,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), meant: None }
    }

    /// The full message.
    pub(super) fn message(&self, allowed: &str) -> String {
        let meant = self.meant.as_ref().map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
        format!("{} (allowed: {allowed}{meant})", self.what)
    }
}

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Field<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

/// Parses `text` and hands the root table to `read`.
pub(super) fn read_text<T>(text: &str, errors: &Errors<'_>, read: impl FnOnce(&mut Table<'_, '_>) -> T) -> T {
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    let root_place = Place::of_table("", 0);
    if syntax_errors.is_empty() {
        return Table::read_with(root_place, root.into_inner(), errors, read);
    }
    syntax::report(text, &syntax_errors, errors);
    // The parser's guesses at what was meant would be reported as if somebody had written them.
    let readable = errors.readable_text();
    let (root, _) = DeTable::parse_recoverable(&readable);
    Table::read_with(root_place, root.into_inner(), errors, read)
}

/// A table whose keys are taken one by one; what is left at the end is unknown.
pub(super) struct Table<'t, 'e> {
    place: Place,
    entries: DeTable<'t>,
    known: Vec<&'static str>,
    /// Keys that belong elsewhere, and where.
    misplaced: &'static [(&'static str, &'static str)],
    errors: &'e Errors<'t>,
}

impl<'t, 'e> Table<'t, 'e> {
    /// Where the table begins.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A key that must be there. `None` if it is not, or is wrong: that has been reported.
    pub(super) fn required<T: Value>(&mut self, name: &'static str) -> Option<Field<T>> {
        if !self.entries.contains_key(name) {
            let place = self.place.inside(name, self.place.at());
            self.errors.report_missing(&place, Scope::Table, format!("is missing (allowed: {})", T::allowed()));
        }
        self.optional(name)
    }

    /// A key that may be left out. `None` if it is, or is wrong: the latter has been reported.
    pub(super) fn optional<T: Value>(&mut self, name: &'static str) -> Option<Field<T>> {
        let (place, value) = self.take(name)?;
        read_value(place, &value, self.errors)
    }

    /// A key with a default. `None` if it is wrong: that has been reported.
    pub(super) fn with_default<T: Value>(&mut self, name: &'static str, default: T) -> Option<T> {
        if self.entries.contains_key(name) {
            self.optional(name).map(|field| field.value)
        } else {
            self.known.push(name);
            Some(default)
        }
    }

    /// A list that may be left out, but not be empty.
    pub(super) fn list<T: Value>(&mut self, name: &'static str) -> Option<Vec<Field<T>>> {
        let (place, value) = self.take(name)?;
        let DeValue::Array(elements) = value else {
            let wrong = Wrong::new(format!("{} is no array", describe(&value)));
            self.errors.report(&place, wrong.message(&format!("an array, each of {}", T::allowed())));
            return None;
        };
        if elements.is_empty() {
            let wrong = Wrong::new("the array is empty");
            self.errors
                .report(&place, wrong.message(&format!("at least one of {}; or leave the key out", T::allowed())));
        }
        let fields = elements.into_iter().enumerate().filter_map(|(index, element)| {
            let place = self.place.inside(format!("{name}[{index}]"), element.span().start);
            read_value(place, element.get_ref(), self.errors)
        });
        Some(fields.collect())
    }

    /// A table in one line whose keys are free, as HTTP headers are: every key as `K` reads it, with its value. Empty if
    /// it is left out.
    pub(super) fn pairs<K: Value, V: Value>(&mut self, name: &'static str, example: &str) -> Option<Vec<(K, V)>> {
        let Some((place, value)) = self.take(name) else { return Some(Vec::new()) };
        let DeValue::Table(entries) = value else {
            let wrong = Wrong::new(format!("{} is no table", describe(&value)));
            self.errors.report(&place, wrong.message(&format!("a table, such as {example}")));
            return None;
        };
        let table = Place::of_table(&self.path_of(name), place.at());
        let read = |(key, value): (Spanned<DeString<'t>>, Spanned<DeValue<'t>>)| {
            let at = key.span().start;
            let text = key.into_inner();
            let key_place = table.inside(bare_or_quoted(&text), at);
            let key = read_value::<K>(key_place, &DeValue::String(text.clone()), self.errors);
            let place = table.inside(bare_or_quoted(&text), value.span().start);
            let value = read_value::<V>(place, value.get_ref(), self.errors);
            Some((key?.value, value?.value))
        };
        // All of them are read before one that is wrong spoils the whole.
        let pairs: Vec<_> = entries.into_iter().map(read).collect();
        pairs.into_iter().collect()
    }

    /// Leaves everything that has not been taken unjudged: what is allowed depends on something that is wrong.
    pub(super) fn ignore_rest(&mut self) {
        self.entries = DeTable::new();
    }

    /// A table, `[name]`; read as an empty one if it is left out.
    pub(super) fn table<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Table<'t, 'e>) -> T) -> T {
        let (at, entries) = match self.take(name) {
            Some((place, DeValue::Table(entries))) => (place.at(), entries),
            Some((place, value)) => {
                let wrong = Wrong::new(format!("{} is no table", describe(&value)));
                self.errors.report(&place, wrong.message(&format!("a table, [{name}]")));
                (place.at(), DeTable::new())
            }
            None => (self.place.at(), DeTable::new()),
        };
        Table::read_with(Place::of_table(&self.path_of(name), at), entries, self.errors, read)
    }

    /// A table that is written in one line, `name = { … }`, and may be left out. `None` if it is, or is no table: the
    /// latter has been reported.
    pub(super) fn inline<T>(
        &mut self,
        name: &'static str,
        example: &str,
        read: impl FnOnce(&mut Table<'t, 'e>) -> T,
    ) -> Option<T> {
        let (place, value) = self.take(name)?;
        let DeValue::Table(entries) = value else {
            let wrong = Wrong::new(format!("{} is no table", describe(&value)));
            self.errors.report(&place, wrong.message(&format!("a table, such as {example}")));
            return None;
        };
        let place = Place::of_table(&self.path_of(name), place.at());
        Some(Table::read_with(place, entries, self.errors, read))
    }

    /// An array of tables, `[[name]]`; empty if it is left out.
    pub(super) fn tables<T>(&mut self, name: &'static str, mut read: impl FnMut(&mut Table<'t, 'e>) -> T) -> Vec<T> {
        let Some((place, value)) = self.take(name) else { return Vec::new() };
        let path = self.path_of(name);
        // A header is the path without its indices.
        let header = path.replace(|c: char| c.is_ascii_digit() || c == '[' || c == ']', "");
        let allowed = format!("an array of tables, [[{header}]]");
        let DeValue::Array(elements) = value else {
            let meant = matches!(value, DeValue::Table(_)).then(|| format!("[[{header}]] for [{header}]"));
            let wrong = Wrong { what: format!("{} is no array of tables", describe(&value)), meant };
            // A table may be all that is left of an array whose headers cannot be read: `[[pool.member]]` alone.
            match value {
                DeValue::Table(_) => self.errors.report_missing(&place, Scope::Tables, wrong.message(&allowed)),
                _ => self.errors.report(&place, wrong.message(&allowed)),
            }
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, element) in elements.into_iter().enumerate() {
            let place = Place::of_table(&format!("{path}[{index}]"), element.span().start);
            match element.into_inner() {
                DeValue::Table(entries) => tables.push(Table::read_with(place, entries, self.errors, &mut read)),
                value => {
                    let wrong = Wrong::new(format!("{} is no table", describe(&value)));
                    self.errors.report(&place, wrong.message(&allowed));
                }
            }
        }
        tables
    }

    /// Whether the key is there, right or wrong; to be asked before it is taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Whether nothing at all is listed under `name`; to be asked before it is taken.
    pub(super) fn has_no(&self, name: &str) -> bool {
        match self.entries.get(name).map(Spanned::get_ref) {
            Some(DeValue::Array(elements)) => elements.is_empty(),
            Some(_) => false,
            None => true,
        }
    }

    /// Keys that the design knows and this version does not: refused by name, never ignored.
    pub(super) fn not_built(&mut self, names: &[&'static str]) {
        for &name in names {
            if let Some((key, _)) = self.entries.remove_entry(name) {
                let place = self.place.inside(name, key.span().start);
                self.errors.report(&place, "is not built yet; leave it out");
            }
        }
    }

    /// Keys that are unknown here and known elsewhere, each with what was probably meant.
    pub(super) fn misplaced(&mut self, keys: &'static [(&'static str, &'static str)]) {
        self.misplaced = keys;
    }

    /// Reports that a table is missing from this one.
    pub(super) fn report_missing_table(&self, place: &Place, message: &str) {
        self.errors.report_missing(place, Scope::Tables, message);
    }

    fn read_with<T>(
        place: Place,
        entries: DeTable<'t>,
        errors: &'e Errors<'t>,
        read: impl FnOnce(&mut Table<'t, 'e>) -> T,
    ) -> T {
        let mut table = Table { place, entries, known: Vec::new(), misplaced: &[], errors };
        let result = read(&mut table);
        table.report_unknown_keys();
        result
    }

    fn report_unknown_keys(&self) {
        for key in self.entries.keys() {
            let name = key.get_ref();
            let elsewhere = self.misplaced.iter().find(|(misplaced, _)| misplaced == name);
            let meant = match elsewhere {
                Some((_, meant)) => Some((*meant).to_owned()),
                None => nearest(name, self.known.iter().copied()).map(quoted),
            };
            let wrong = Wrong { what: "unknown key".to_owned(), meant };
            let place = self.place.inside(bare_or_quoted(name), key.span().start);
            self.errors.report(&place, wrong.message(&self.known.join(", ")));
        }
    }

    /// The value under `name`, placed where it (for a table: its header) stands.
    fn take(&mut self, name: &'static str) -> Option<(Place, DeValue<'t>)> {
        self.known.push(name);
        let value = self.entries.remove(name)?;
        Some((self.place.inside(name, value.span().start), value.into_inner()))
    }

    fn path_of(&self, name: &'static str) -> String {
        self.place.inside(name, 0).key()
    }
}

/// The candidate that `text` was probably meant to be, if one is near enough.
pub(crate) fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    candidates
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            // A third of the letters may be wrong: more, and the suggestion is a guess.
            let limit = (letters.len() / 3).max(1);
            // Bounds the work for absurdly long texts, too.
            if letters.len().abs_diff(text.len()) > limit {
                return None;
            }
            let distance = edit_distance(&text, &letters);
            (distance <= limit).then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// `text` in quotes, on one line and of a bearable length.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// What was found where something else should be.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) => format!("the integer {number}"),
        DeValue::Float(number) => format!("the float {number}"),
        DeValue::Boolean(truth) => format!("the boolean {truth}"),
        DeValue::Datetime(time) => format!("the date or time {time}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn read_value<T: Value>(place: Place, value: &DeValue<'_>, errors: &Errors<'_>) -> Option<Field<T>> {
    match T::read(value) {
        Ok(value) => Some(Field { place, value }),
        Err(wrong) => {
            errors.report(&place, wrong.message(&T::allowed()));
            None
        }
    }
}

/// A key as it would stand in a dotted path.
fn bare_or_quoted(key: &str) -> String {
    if is_bare(key) { key.to_owned() } else { quoted(key) }
}

/// Whether a key needs no quotes.
pub(super) fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// `text` on one line and of a bearable length.
pub(super) fn escaped(text: &str) -> String {
    /// Longer texts say nothing more and push the rest of the message out of sight.
    const MOST: usize = 60;
    // Both kinds of quotes stay as they are: what is shown is for reading, and nothing parses it.
    let on_one_line = |text: &str| -> String {
        text.chars()
            .map(|c| if matches!(c, '"' | '\'') { c.to_string() } else { c.escape_debug().to_string() })
            .collect()
    };
    match text.char_indices().nth(MOST) {
        Some((end, _)) => on_one_line(&text[..end]) + "…",
        None => on_one_line(text),
    }
}

/// Damerau's distance between neighbours only ("optimal string alignment"), row by row: letters added, left out,
/// replaced, or swapped with the next one.
fn edit_distance(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = above[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut distance = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                distance = distance.min(before[j - 2] + 1);
            }
            row.push(distance);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_or_none() {
        let rows: &[(&str, Option<&str>)] = &[
            ("drr", Some("dr")),
            ("DR", Some("dr")),
            ("rd", Some("dr")),
            ("mglev", Some("maglev")),
            ("magleev", Some("maglev")),
            ("round-robin", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(nearest(text, ["dr", "maglev"].into_iter()), *expected, "{text:?}");
        }
    }

    #[test]
    fn distances_match_known_examples() {
        // The two that every treatment of Levenshtein's distance gives; and of the swap, where "ca" to "abc" tells
        // this distance (3) from the unrestricted one (2).
        let rows =
            [("kitten", "sitting", 3), ("sunday", "saturday", 3), ("", "abc", 3), ("wbe", "web", 1), ("ca", "abc", 3)];
        for (from, to, expected) in rows {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!(edit_distance(&letters(from), &letters(to)), expected, "{from} {to}");
        }
    }

    #[test]
    fn what_was_found_stays_on_one_short_line() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(&"x".repeat(100)), format!("\"{}…\"", "x".repeat(60)));
    }
}
