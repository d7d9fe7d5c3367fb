//! What went wrong, as RFC 9457 has it: `application/problem+json`.

use serde::{Deserialize, Serialize};

use crate::control::model::ConfigError;

/// The media type.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not done. With it nothing has changed, unless `detail` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What was found, and what was expected.
    pub detail: String,
    /// The field, parameter or header that is wrong, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// A configuration's errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One of a configuration's errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The dotted path: `pool[0].member[1].weight`.
    pub field: String,
    /// From 1.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong, what was found, what is allowed.
    pub detail: String,
}

impl Problem {
    /// A problem of this status.
    pub fn new(status: u16, detail: impl Into<String>) -> Self {
        let title = match status {
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            410 => "Gone",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            422 => "Unprocessable Content",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        Self { status, title: title.into(), detail: detail.into(), field: None, errors: Vec::new() }
    }

    /// The same, about this field.
    #[must_use]
    pub fn about(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// A configuration with these errors.
    pub fn of_config(errors: &[ConfigError]) -> Self {
        let count = errors.len();
        let detail =
            format!("the configuration has {count} error{}; nothing has changed", if count == 1 { "" } else { "s" });
        let errors = errors.iter().map(|error| FieldError {
            field: error.key.clone(),
            line: error.position.map(|(line, _)| line),
            column: error.position.map(|(_, column)| column),
            detail: error.message.clone(),
        });
        Self { errors: errors.collect(), ..Self::new(422, detail) }
    }
}
