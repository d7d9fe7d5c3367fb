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

/// Where something was looked for in vain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    /// Among the keys of the table that begins at the error's place.
    Table,
    /// Among all tables.
    Tables,
    /// Everywhere.
    Text,
}

/// What an error was concluded from: it decides whether the error survives a syntax error nearby.
enum Evidence {
    /// The text is no TOML here.
    Syntax,
    /// No TOML either, but only because of a syntax error before.
    Aftermath,
    /// Something that stands at the error's place.
    Presence,
    /// A key that was looked for in these bytes and not found.
    NoKey(Range<usize>),
    /// A table that was looked for and not found.
    NoTable,
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

    /// The text cannot be parsed at `at` either, but that says nothing new.
    pub(super) fn report_aftermath(&self, at: usize) {
        self.push(at, String::new(), String::new(), Evidence::Aftermath);
    }

    /// The text without what its syntax errors make unreadable, every other byte where it was: the line of each, and
    /// where that is a table's header, the table.
    pub(super) fn readable_text(&self) -> String {
        let mut text = String::with_capacity(self.text.len());
        for spoilt in self.spoilt() {
            text.push_str(&self.text[text.len()..spoilt.start]);
            text.extend(self.text[spoilt].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        }
        text.push_str(&self.text[text.len()..]);
        text
    }

    /// Something is missing that was looked for in `scope`.
    pub(super) fn report_missing(&self, place: &Place, scope: Scope, message: impl Into<String>) {
        let evidence = match scope {
            Scope::Table => {
                let end = self.next_header(place.at);
                // An error at the text's very end counts as inside its last table.
                Evidence::NoKey(place.at..if end == self.text.len() { end + 1 } else { end })
            }
            Scope::Tables => Evidence::NoTable,
            Scope::Text => Evidence::NoKey(0..self.text.len() + 1),
        };
        self.push(place.at, place.key(), message.into(), evidence);
    }

    /// The line on which `place` stands, from 1.
    pub(super) fn line(&self, place: &Place) -> usize {
        self.position(place.at).0
    }

    /// Whether nothing was reported.
    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Everything reported, in the order of the text; but no absence from a stretch of text that could not be read.
    pub(super) fn into_errors(self, file: &str) -> Vec<ConfigError> {
        let syntax = self.syntax_errors();
        let tables_lost = syntax.iter().any(|&at| self.loses_tables(at));
        let mut found = self.found.take();
        found.sort_by_key(|error| error.at);
        let mut last_syntax_line = 0;
        found.retain(|error| match &error.evidence {
            Evidence::Presence => true,
            Evidence::Aftermath => false,
            // The parser stumbles on after its first error on a line; what it says then helps nobody.
            Evidence::Syntax => {
                let line = self.position(error.at).0;
                std::mem::replace(&mut last_syntax_line, line) != line
            }
            Evidence::NoTable => !tables_lost,
            Evidence::NoKey(range) => {
                let first_inside = syntax.partition_point(|&at| at < range.start);
                syntax.get(first_inside).is_none_or(|&at| at >= range.end)
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

    /// Where the text is no TOML, in order.
    fn syntax_errors(&self) -> Vec<usize> {
        let found = self.found.borrow();
        let syntax = found.iter().filter(|error| matches!(error.evidence, Evidence::Syntax | Evidence::Aftermath));
        let mut offsets: Vec<usize> = syntax.map(|error| error.at).collect();
        offsets.sort_unstable();
        offsets
    }

    /// The lines and tables that syntax errors make unreadable, in order and apart.
    fn spoilt(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for at in self.syntax_errors() {
            let line = self.position(at).0;
            let start = self.line_starts[line - 1];
            if ranges.last().is_some_and(|last| start < last.end) {
                continue;
            }
            let end = if self.is_header(start) {
                self.next_header(start)
            } else {
                self.line_starts.get(line).copied().unwrap_or(self.text.len())
            };
            ranges.push(start..end);
        }
        ranges
    }

    /// Whether a syntax error at `at` may hide whole tables: in a header, or in something that did not end before the
    /// file did.
    fn loses_tables(&self, at: usize) -> bool {
        self.is_header(self.line_starts[self.position(at).0 - 1]) || at >= self.text.trim_end().len()
    }

    /// Whether the line that begins at `start` is a table's header, or looks like a failed one.
    fn is_header(&self, start: usize) -> bool {
        let line = self.text[start..].lines().next().unwrap_or_default();
        line.trim_start().starts_with('[') || (line.trim_end().ends_with(']') && !line.contains('='))
    }

    /// Where the line of the next table's header after `at` begins, or the end.
    fn next_header(&self, at: usize) -> usize {
        let next_line = self.line_starts.partition_point(|&start| start <= at);
        self.line_starts[next_line..].iter().copied().find(|&start| self.is_header(start)).unwrap_or(self.text.len())
    }
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
