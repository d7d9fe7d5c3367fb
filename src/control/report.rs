//! Where an error stands and how it is said: byte offsets become lines and columns here, and nowhere else.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// One thing that is wrong with a configuration.
///
/// Shown as `FILE:LINE:COL: KEY: what is wrong, what was found, what is allowed`; a file that cannot be read at all
/// has neither position nor key, and a syntax error's key is `syntax`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {}{message}", position_suffix(*.position), key_prefix(.key))]
pub struct ConfigError {
    /// The file as the user named it.
    pub file: String,
    /// Line and column, both from 1; columns count characters.
    pub position: Option<(usize, usize)>,
    /// The dotted path, such as `pool[0].member[1].weight`.
    pub key: String,
    /// What is wrong, what was found, what is allowed.
    pub message: String,
}

impl ConfigError {
    /// An error about the file as a whole.
    pub(super) fn unreadable(file: &str, message: impl Into<String>) -> ConfigError {
        ConfigError { file: file.to_owned(), position: None, key: String::new(), message: message.into() }
    }
}

fn position_suffix(position: Option<(usize, usize)>) -> String {
    position.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"))
}

fn key_prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// A key's path and where it (or its value) stands in the text.
#[derive(Clone, Debug)]
pub(super) struct Place {
    table: Rc<str>,
    name: Cow<'static, str>,
    at: usize,
}

impl Place {
    /// A table itself; the root's path is empty.
    pub(super) fn of_table(path: &str, at: usize) -> Place {
        Place { table: path.into(), name: Cow::Borrowed(""), at }
    }

    /// Something in this table, at `at`.
    pub(super) fn inside(&self, name: impl Into<Cow<'static, str>>, at: usize) -> Place {
        Place { table: Rc::clone(&self.table), name: name.into(), at }
    }

    /// The dotted path.
    pub(super) fn key(&self) -> String {
        match (&*self.table, &*self.name) {
            ("", name) => name.to_owned(),
            (table, "") => table.to_owned(),
            (table, name) => format!("{table}.{name}"),
        }
    }

    /// The byte offset.
    pub(super) fn at(&self) -> usize {
        self.at
    }
}

/// Collects what is wrong with one text.
pub(super) struct Errors<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    found: RefCell<Vec<Found>>,
}

struct Found {
    at: usize,
    key: String,
    message: String,
    evidence: Evidence,
}

/// What an error was concluded from: it decides whether the error survives a syntax error nearby.
enum Evidence {
    /// The text is no TOML here.
    Syntax,
    /// Something that stands at the error's place.
    Presence,
    /// Something that was looked for in these bytes and not found.
    Absence(Range<usize>),
}

impl<'t> Errors<'t> {
    pub(super) fn new(text: &'t str) -> Errors<'t> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Errors { text, line_starts, found: RefCell::default() }
    }

    /// Something at `place` is wrong.
    pub(super) fn report(&self, place: &Place, message: impl Into<String>) {
        self.push(place.at, place.key(), message.into(), Evidence::Presence);
    }

    /// The text cannot be parsed at `at`.
    pub(super) fn report_syntax(&self, at: usize, message: impl Into<String>) {
        self.push(at, "syntax".to_owned(), message.into(), Evidence::Syntax);
    }

    /// A key is missing from the table that begins at `place`.
    pub(super) fn report_missing_key(&self, place: &Place, message: impl Into<String>) {
        let range = place.at..self.next_header(place.at);
        self.push(place.at, place.key(), message.into(), Evidence::Absence(range));
    }

    /// Something is missing that could stand anywhere in the text.
    pub(super) fn report_missing(&self, place: &Place, message: impl Into<String>) {
        self.push(place.at, place.key(), message.into(), Evidence::Absence(0..self.text.len() + 1));
    }

    /// The line on which `place` stands, from 1.
    pub(super) fn line(&self, place: &Place) -> usize {
        self.position(place.at).0
    }

    /// Whether nothing was reported.
    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Everything reported, in the order of the text.
    ///
    /// What a syntax error may have caused is left out: whatever stands on its line (or in its table, when the line
    /// is a table's header), and absences from the stretch of text that contains it.
    pub(super) fn into_errors(self, file: &str) -> Vec<ConfigError> {
        let mut found = self.found.take();
        found.sort_by_key(|error| error.at);
        let syntax: Vec<usize> =
            found.iter().filter(|error| matches!(error.evidence, Evidence::Syntax)).map(|error| error.at).collect();
        let spoilt = self.spoilt(&syntax);

        let mut last_syntax_line = 0;
        found.retain(|error| match &error.evidence {
            // The parser stumbles on after its first error on a line; what it says then helps nobody.
            Evidence::Syntax => {
                let line = self.position(error.at).0;
                std::mem::replace(&mut last_syntax_line, line) != line
            }
            Evidence::Presence => !covers(&spoilt, error.at),
            Evidence::Absence(range) => {
                let first_inside = syntax.partition_point(|&at| at < range.start);
                let disturbed = syntax.get(first_inside).is_some_and(|&at| at < range.end);
                !disturbed && !covers(&spoilt, error.at)
            }
        });
        found
            .into_iter()
            .map(|error| ConfigError {
                file: file.to_owned(),
                position: Some(self.position(error.at)),
                key: error.key,
                message: error.message,
            })
            .collect()
    }

    fn push(&self, at: usize, key: String, message: String, evidence: Evidence) {
        self.found.borrow_mut().push(Found { at, key, message, evidence });
    }

    /// Line and column of a byte offset, always inside the text: its end counts as the end of its last line.
    fn position(&self, at: usize) -> (usize, usize) {
        let end = self.text.strip_suffix('\n').unwrap_or(self.text).len();
        let at = self.text.floor_char_boundary(at.min(end));
        let line = self.line_starts.partition_point(|&start| start <= at);
        let start = self.line_starts[line - 1];
        (line, self.text[start..at].chars().count() + 1)
    }

    /// The bytes in which nothing can be believed, in order and apart.
    fn spoilt(&self, syntax: &[usize]) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for &at in syntax {
            let line = self.position(at).0;
            let start = self.line_starts[line - 1];
            let end_of_line = self.line_starts.get(line).copied().unwrap_or(self.text.len() + 1);
            let is_header = self.text[start..].trim_start_matches([' ', '\t']).starts_with('[');
            let end = if is_header { self.next_header(start) } else { end_of_line };
            match ranges.last_mut() {
                Some(last) if start < last.end => last.end = last.end.max(end),
                _ => ranges.push(start..end),
            }
        }
        ranges
    }

    /// Where the line of the next table's header after `at` begins, or the end.
    fn next_header(&self, at: usize) -> usize {
        let next_line = self.line_starts.partition_point(|&start| start <= at);
        self.line_starts[next_line..]
            .iter()
            .copied()
            .find(|&start| self.text[start..].trim_start_matches([' ', '\t']).starts_with('['))
            .unwrap_or(self.text.len() + 1)
    }
}

/// Whether one of `ranges` (in order, apart) contains `at`.
fn covers(ranges: &[Range<usize>], at: usize) -> bool {
    let after = ranges.partition_point(|range| range.start <= at);
    after > 0 && ranges[after - 1].contains(&at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let rows: &[(&str, &str, usize, (usize, usize))] = &[
            ("an empty text", "", 0, (1, 1)),
            ("the first byte", "ab\ncd", 0, (1, 1)),
            ("a line's end", "ab\ncd", 2, (1, 3)),
            ("the next line's first byte", "ab\ncd", 3, (2, 1)),
            ("the end without a newline", "ab\ncd", 5, (2, 3)),
            ("the end after a newline", "ab\ncd\n", 6, (2, 3)),
            ("far behind the end", "ab", 99, (1, 3)),
            ("characters, not bytes", "é = 1", 5, (1, 5)),
            ("inside a character", "é = 1", 1, (1, 1)),
            ("only newlines", "\n\n", 2, (2, 1)),
        ];
        for (what, text, at, expected) in rows {
            assert_eq!(Errors::new(text).position(*at), *expected, "{what}");
        }
    }

    #[test]
    fn an_error_shows_what_it_has() {
        let whole = ConfigError::unreadable("web.toml", "cannot be read");
        assert_eq!(whole.to_string(), "web.toml: cannot be read");
        let placed = ConfigError { position: Some((14, 10)), key: "vip[0].port".to_owned(), ..whole };
        assert_eq!(placed.to_string(), "web.toml:14:10: vip[0].port: cannot be read");
    }
}
