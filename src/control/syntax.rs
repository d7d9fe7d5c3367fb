//! What the TOML parser complains of, in this crate's words and where it can be mended.

use toml::de::Error;

use super::reader::{escaped, is_bare};
use super::report::Errors;

/// Reports the parser's errors about `text`.
pub(super) fn report(text: &str, syntax: &[Error], errors: &Errors<'_>) {
    let start = |error: &Error| error.span().unwrap_or_default().start;
    let open = syntax.iter().filter(|error| is_left_open(text, error)).map(start).min();
    for error in syntax {
        let at = start(error);
        let orphans = orphans(text, error);
        if !orphans.is_empty() {
            // Without these the rest is as it should be.
            for (at, message) in orphans {
                errors.report_syntax(at, message);
            }
            continue;
        }
        match open {
            // Whatever was left open takes the rest of the file for its own.
            Some(open) if at > open => errors.report_aftermath(at),
            Some(open) if at == open => {
                let found = escaped(line_from(text, at));
                errors.report_syntax(
                    at,
                    format!("what stands before this does not end, found `{found}` (allowed: `,`, `]`, `}}`)"),
                );
            }
            _ => {
                let (at, message) = syntax_message(text, error);
                errors.report_syntax(at, message);
            }
        }
    }
}

/// `[[pool.monitor]]` above the first `[[pool]]` makes `pool` a table, and the parser then calls each `[[pool]]` a duplicate
/// key: what stands too high, and what is said of it.
fn orphans(text: &str, error: &Error) -> Vec<(usize, String)> {
    let Some(parent) = error.span().and_then(|span| text.get(span)) else { return Vec::new() };
    let header = format!("[[{parent}]]");
    let at = error.span().unwrap_or_default().start;
    let line = text.get(..at).and_then(|before| before.rsplit('\n').next()).unwrap_or_default().trim_start();
    if !error.message().starts_with("duplicate key") || line != "[[" {
        return Vec::new();
    }
    let child = format!("[[{parent}.");
    let mut orphans = Vec::new();
    let mut start = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let code = line.trim_start();
        if code.starts_with(&header) {
            let place = |at| {
                let child = line_from(text, at).split_inclusive("]]").next().unwrap_or_default();
                let message = format!(
                    "`{child}` stands above the first `{header}`, which is on line {number} (allowed: below the \
                     `{header}` that it belongs to)"
                );
                (at, message)
            };
            return orphans.into_iter().map(place).collect();
        }
        if code.starts_with(&child) {
            orphans.push(start + line.len() - code.len());
        }
        start += line.len();
    }
    Vec::new()
}

/// Whether the next element of an array or inline table is what should follow it: then its end is missing.
fn is_left_open(text: &str, error: &Error) -> bool {
    let at = error.span().unwrap_or_default().start;
    let begins_line =
        text.get(..at).is_some_and(|before| before.rsplit('\n').next().is_none_or(|s| s.trim().is_empty()));
    let next = line_from(text, at);
    let is_key = next.split_once('=').is_some_and(|(key, _)| is_bare(key.trim_end()));
    begins_line
        && match error.message() {
            message if message.starts_with("missing comma between array elements") => is_key || next.starts_with('['),
            message if message.starts_with("missing key for inline table element") => next.starts_with('['),
            _ => false,
        }
}

/// The parser's message in this crate's words, and where it belongs: what is wrong, what was found, what is allowed.
fn syntax_message(text: &str, error: &Error) -> (usize, String) {
    let span = error.span().unwrap_or_default();
    let at = span.start;
    let (what, expected) = error.message().split_once(", expected ").unwrap_or((error.message(), "nothing"));
    let unexpected = text.get(span).filter(|found| !found.is_empty()).unwrap_or(line_from(text, at));
    let found = match unexpected {
        "" if text.get(at..).is_none_or(|rest| rest.trim().is_empty()) => "the file's end".to_owned(),
        "" => "the line's end".to_owned(),
        unexpected => format!("`{}`", escaped(unexpected)),
    };
    match what {
        "string values must be quoted" => (at, no_value(&found)),
        // A bare word or an address: the parser goes by the first letter, and complains of a later one.
        "invalid boolean" | "invalid float" => {
            let (at, word) = word_around(text, at);
            (at, no_value(&format!("`{}`", escaped(word))))
        }
        // Noticed at the file's end; what is needed is the beginning, which is the last of its kind.
        "invalid multi-line basic string" if found == "the file's end" => {
            (text.rfind("\"\"\"").unwrap_or(at), format!("a string does not end, found {found} (allowed: `\"\"\"`)"))
        }
        "invalid multi-line literal string" if found == "the file's end" => {
            (text.rfind("'''").unwrap_or(at), format!("a string does not end, found {found} (allowed: `'''`)"))
        }
        _ if expected == "nothing" => (at, format!("{what}, found {found}")),
        _ => (at, format!("{what}, found {found} (allowed: {expected})")),
    }
}

fn no_value(found: &str) -> String {
    format!("no value, found {found} (allowed: text in quotes, a number, true, false, an array, a table)")
}

/// The rest of the line from `at`.
fn line_from(text: &str, at: usize) -> &str {
    text.get(at..).and_then(|rest| rest.lines().next()).unwrap_or_default().trim()
}

/// The value that `at` is in the midst of, and where it begins.
fn word_around(text: &str, at: usize) -> (usize, &str) {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '=' | ',' | '[' | ']' | '{' | '}' | '#');
    let begun = text.get(..at).and_then(|before| before.rsplit(is_end).next()).unwrap_or_default();
    let start = at - begun.len();
    let rest = text.get(start..).unwrap_or_default();
    (start, rest.split(is_end).next().unwrap_or_default())
}
