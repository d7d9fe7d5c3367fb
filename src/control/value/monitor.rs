//! What monitors and pools' policies are written in, each value right by itself.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::rr::{Name as DnsName, RecordType};
use toml::de::DeValue;

use super::super::reader::{Value, Wrong, describe, nearest, quoted};
use super::{Unit, duration, integer, string};

const FINE: [Unit; 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// Between two looks at a member, or how long one may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct Interval(pub(in crate::control) Duration);

impl Interval {
    /// Timers go by milliseconds: below ten, jitter would be most of it.
    const SHORTEST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_hours(1);
}

impl Value for Interval {
    fn allowed() -> String {
        "10ms to 1h; units: ms, s, m, h".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Interval, Wrong> {
        duration(value, Interval::SHORTEST..=Interval::LONGEST, &FINE).map(Interval)
    }
}

/// A stretch of time that people notice: slow start, damping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct Stretch(pub(in crate::control) Duration);

impl Value for Stretch {
    fn allowed() -> String {
        "1s to 1h; units: s, m, h".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Stretch, Wrong> {
        duration(value, Duration::from_secs(1)..=Interval::LONGEST, &FINE).map(Stretch)
    }
}

/// So many in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct Times(pub(in crate::control) u16);

impl Value for Times {
    fn allowed() -> String {
        "1 to 1000".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Times, Wrong> {
        integer(value, 1..=1000).map(Times)
    }
}

/// A number of members; whether there are so many is not judged here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct Members<const LEAST: u32>(pub(in crate::control) u32);

impl<const LEAST: u32> Value for Members<LEAST> {
    fn allowed() -> String {
        format!("{LEAST} to the number of members")
    }

    fn read(value: &DeValue<'_>) -> Result<Self, Wrong> {
        integer(value, LEAST..=65_535).map(Members)
    }
}

/// HTTP status codes, the first and the last of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusRange(pub u16, pub u16);

impl StatusRange {
    /// Whether a code lies in it.
    pub fn contains(self, code: u16) -> bool {
        (self.0..=self.1).contains(&code)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StatusRange(first, last) if first == last => first.fmt(f),
            StatusRange(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl Value for StatusRange {
    fn allowed() -> String {
        "100 to 599, or a range such as \"200-299\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<StatusRange, Wrong> {
        let Some(text) = value.as_str() else {
            return integer(value, 100..=599).map(|code| StatusRange(code, code));
        };
        let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (100..=599).contains(code));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (code(first), code(last)) {
            (Some(first), Some(last)) if first <= last => Ok(StatusRange(first, last)),
            (Some(first), Some(last)) => {
                let meant = Some(quoted(&format!("{last}-{first}")));
                Err(Wrong { what: format!("{} ends before it begins", quoted(text)), meant })
            }
            _ => Err(Wrong::new(format!("{} is no status", quoted(text)))),
        }
    }
}

/// A regular expression, looked for anywhere in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Pattern(pub(in crate::control) String);

impl Value for Pattern {
    fn allowed() -> String {
        "a regular expression of Rust's crate regex".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Pattern, Wrong> {
        let text = string(value)?;
        match regex::bytes::Regex::new(text) {
            Ok(_) => Ok(Pattern(text.to_owned())),
            Err(regex::Error::CompiledTooBig(_)) => Err(Wrong::new(format!("{} grows too large", quoted(text)))),
            Err(error) => {
                // Its last line says what is wrong; those before draw it.
                let words = error.to_string();
                let why = words.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Err(Wrong::new(format!("{} is none: {why}", quoted(text))))
            }
        }
    }
}

/// A method or a header's name (RFC 9110 §5.6.2, `token`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Token(pub(in crate::control) String);

impl Value for Token {
    fn allowed() -> String {
        "letters, digits and !#$%&'*+-.^_`|~".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Token, Wrong> {
        let text = string(value)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        match text.chars().find(|c| !fits(*c)) {
            _ if text.is_empty() => Err(Wrong::new("it is empty")),
            Some(odd) => Err(Wrong::new(format!("{} has the character {odd:?}", quoted(text)))),
            None => Ok(Token(text.to_owned())),
        }
    }
}

/// A header's value, or the host that is asked for (RFC 9110 §5.5, less what is obsolete).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct HeaderText(pub(in crate::control) String);

impl Value for HeaderText {
    fn allowed() -> String {
        "printable ASCII".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<HeaderText, Wrong> {
        let text = string(value)?;
        match text.chars().find(|c| !matches!(c, ' '..='~')) {
            Some(odd) => Err(Wrong::new(format!("{} has the character {odd:?}", quoted(text)))),
            None => Ok(HeaderText(text.to_owned())),
        }
    }
}

/// A request's target in origin form (RFC 9112 §3.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct RequestPath(pub(in crate::control) String);

impl Value for RequestPath {
    fn allowed() -> String {
        "a path that begins with \"/\", such as \"/healthz\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<RequestPath, Wrong> {
        let text = string(value)?;
        let found = quoted(text);
        if !text.starts_with('/') {
            let meant = (!text.contains("://")).then(|| quoted(&format!("/{text}")));
            return Err(Wrong { what: format!("{found} does not begin with \"/\""), meant });
        }
        if text.contains('#') || text.parse::<hyper::Uri>().is_err() {
            return Err(Wrong::new(format!("{found} is no path of a URL")));
        }
        Ok(RequestPath(text.to_owned()))
    }
}

/// The name that a certificate is for: a host's name or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct HostName(pub(in crate::control) String);

impl Value for HostName {
    fn allowed() -> String {
        "a host's name or an IP address".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<HostName, Wrong> {
        let text = string(value)?;
        match rustls::pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(HostName(text.to_owned())),
            Err(_) => Err(Wrong::new(format!("{} is neither", quoted(text)))),
        }
    }
}

/// A name to ask a DNS server for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct QueryName(pub(in crate::control) String);

impl Value for QueryName {
    fn allowed() -> String {
        "a name of the DNS, such as \"www.example.org\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<QueryName, Wrong> {
        let text = string(value)?;
        match DnsName::from_ascii(text) {
            Ok(_) if !text.is_empty() => Ok(QueryName(text.to_owned())),
            _ => Err(Wrong::new(format!("{} is no name", quoted(text)))),
        }
    }
}

/// A type of DNS record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct RecordName(pub(in crate::control) String);

impl RecordName {
    const USUAL: [&'static str; 10] = ["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "CAA"];
}

impl Value for RecordName {
    fn allowed() -> String {
        Self::USUAL.map(quoted).join(", ")
    }

    fn read(value: &DeValue<'_>) -> Result<RecordName, Wrong> {
        let text = string(value)?;
        if Self::USUAL.contains(&text) && RecordType::from_str(text).is_ok() {
            return Ok(RecordName(text.to_owned()));
        }
        let meant = nearest(text, Self::USUAL.into_iter()).map(quoted);
        Err(Wrong { what: format!("{} is unknown", quoted(text)), meant })
    }
}

/// A script's argument; `%h` is the member's address, `%p` its port, `%%` a per cent sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Argument(pub(in crate::control) String);

impl Value for Argument {
    fn allowed() -> String {
        "text in which % is followed by h (address), p (port) or %".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Argument, Wrong> {
        let text = string(value)?;
        if text.contains('\0') {
            return Err(Wrong::new(format!("{} has the character '\\0'", quoted(text))));
        }
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('%') {
            let Some(letter) = after.chars().next().filter(|c| matches!(c, 'h' | 'p' | '%')) else {
                return Err(Wrong::new(format!("{} has a % with another meaning", quoted(text))));
            };
            rest = &after[letter.len_utf8()..];
        }
        Ok(Argument(text.to_owned()))
    }
}

/// What is sent: text with TOML's own escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Payload(pub(in crate::control) String);

impl Payload {
    /// What one datagram carries on any network.
    const MOST: usize = 1200;
}

impl Value for Payload {
    fn allowed() -> String {
        format!("1 to {} bytes of text", Payload::MOST)
    }

    fn read(value: &DeValue<'_>) -> Result<Payload, Wrong> {
        let text = value.as_str().ok_or_else(|| Wrong::new(format!("{} is no string", describe(value))))?;
        match text.len() {
            0 => Err(Wrong::new("it is empty")),
            length if length > Payload::MOST => Err(Wrong::new(format!("{length} bytes are too many"))),
            _ => Ok(Payload(text.to_owned())),
        }
    }
}
