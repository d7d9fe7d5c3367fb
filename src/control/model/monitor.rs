//! A monitor: what it asks of members, and how often. The settings of every type, read from the file and kept in the
//! model.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::super::reader::{Field, Table, Value};
use super::super::value::{
    Argument, HeaderText, HostName, Pattern, Payload, QueryName, RecordName, RequestPath, StatusRange, Token,
};
use super::super::word::{MonitorType, Word};

/// A check that every member of a pool undergoes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Monitor {
    /// What is asked.
    pub probe: Probe,
    /// Between the beginnings of two checks of one member; 10 ms to 1 h.
    pub interval: Duration,
    /// How long a check may take; no longer than `interval`.
    pub timeout: Duration,
    /// Successes in a row after which a member that was down is up.
    pub rise: u16,
    /// Failures in a row after which a member that was up is down.
    pub fall: u16,
    /// Its own port.
    pub port: Option<u16>,
}

/// What is asked, and which answer is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// ICMP echo (RFC 792).
    Ping,
    /// A TCP connection, and perhaps a few words over it.
    Tcp(Exchange),
    /// A TLS handshake.
    Tls(Tls),
    /// An HTTP/1.1 request, over TLS where there is [`Http::tls`].
    Http(Http),
    /// A datagram.
    Udp(Exchange),
    /// A DNS query over UDP.
    Dns(Dns),
    /// A program.
    Script(Script),
}

/// What is sent, and what the answer must have in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Exchange {
    /// Sent first, if anything is.
    pub send: Option<String>,
    /// A regular expression that the answer's bytes match.
    pub expect: Option<String>,
}

/// How a member proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The name that is asked for and that the certificate must be for.
    pub sni: Option<String>,
    /// Whether the certificate must be valid.
    pub verify: bool,
    /// Who may have signed it (a PEM file); the system's authorities where `None`.
    pub ca: Option<PathBuf>,
}

/// A request and the response that is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// `https`.
    pub tls: Option<Tls>,
    /// Its method.
    pub method: String,
    /// Its target in origin form.
    pub path: String,
    /// Its `Host`; the member's address and port where `None`.
    pub host: Option<String>,
    /// Its other headers.
    pub headers: Vec<(String, String)>,
    /// Status codes that are good.
    pub expect_status: Vec<StatusRange>,
    /// A regular expression that the first 64 KiB of the body match.
    pub expect_body: Option<String>,
}

/// A query and the answer that is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dns {
    /// The name.
    pub query: String,
    /// The type of record, as zone files call it.
    pub record: String,
    /// The response code.
    pub rcode: Rcode,
    /// A record that the answer must have, as zone files write its data.
    pub answer: Option<String>,
}

/// A DNS response code (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rcode {
    /// No error.
    NoError,
    /// The name does not exist.
    NxDomain,
    /// The server will not answer.
    Refused,
    /// The server cannot answer.
    ServFail,
}

impl Rcode {
    /// Its number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Rcode::NoError => 0,
            Rcode::ServFail => 2,
            Rcode::NxDomain => 3,
            Rcode::Refused => 5,
        }
    }
}

impl Word for Rcode {
    const BUILT: &'static [Self] = &[Rcode::NoError, Rcode::NxDomain, Rcode::Refused, Rcode::ServFail];
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rcode::NoError => "NOERROR",
            Rcode::NxDomain => "NXDOMAIN",
            Rcode::Refused => "REFUSED",
            Rcode::ServFail => "SERVFAIL",
        })
    }
}

/// A program and how it says that a member is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Script {
    /// The program.
    pub command: PathBuf,
    /// What it is told; `%h` and `%p` stand for the member's address and port.
    pub arguments: Vec<String>,
    /// Written to its standard input.
    pub send: Option<String>,
    /// A regular expression that its standard output must match, besides exit status 0.
    pub expect: Option<String>,
    /// Whether an exit status of 2 to 255 means success and a weight of 0 to 253.
    pub dynamic_weight: bool,
}

impl Script {
    /// Whether it is told a port.
    pub fn wants_port(&self) -> bool {
        self.arguments.iter().any(|argument| argument.replace("%%", "").contains("%p"))
    }

    /// Its arguments for a member.
    pub fn arguments_for(&self, address: Ipv4Addr, port: Option<u16>) -> Vec<String> {
        let filled = |argument: &String| {
            let mut text = String::new();
            let mut letters = argument.chars();
            while let Some(letter) = letters.next() {
                match (letter, if letter == '%' { letters.next() } else { None }) {
                    ('%', Some('h')) => text += &address.to_string(),
                    ('%', Some('p')) => text += &port.map_or_else(String::new, |port| port.to_string()),
                    (letter, _) => text.push(letter),
                }
            }
            text
        };
        self.arguments.iter().map(filled).collect()
    }
}

impl Probe {
    /// What the configuration calls it.
    pub fn kind(&self) -> MonitorType {
        match self {
            Probe::Ping => MonitorType::Ping,
            Probe::Tcp(_) => MonitorType::Tcp,
            Probe::Tls(_) => MonitorType::Tls,
            Probe::Http(Http { tls: None, .. }) => MonitorType::Http,
            Probe::Http(Http { tls: Some(_), .. }) => MonitorType::Https,
            Probe::Udp(_) => MonitorType::Udp,
            Probe::Dns(_) => MonitorType::Dns,
            Probe::Script(_) => MonitorType::Script,
        }
    }

    /// Whether there must be a port to ask.
    pub fn wants_port(&self) -> bool {
        match self {
            Probe::Ping => false,
            Probe::Script(script) => script.wants_port(),
            _ => true,
        }
    }

    /// Reads the keys of one type. `None` if one is wrong or missing: that has been reported. All keys are taken before
    /// the first that is wrong spoils the whole.
    pub(in crate::control) fn read(kind: MonitorType, table: &mut Table<'_, '_>) -> Option<Probe> {
        match kind {
            MonitorType::Ping => Some(Probe::Ping),
            MonitorType::Tcp => Exchange::read(table).map(Probe::Tcp),
            MonitorType::Tls => Tls::read(table).map(Probe::Tls),
            MonitorType::Http => Http::read(table, false).map(Probe::Http),
            MonitorType::Https => Http::read(table, true).map(Probe::Http),
            MonitorType::Udp => Exchange::read(table).map(Probe::Udp),
            MonitorType::Dns => Dns::read(table).map(Probe::Dns),
            MonitorType::Script => Script::read(table).map(Probe::Script),
        }
    }
}

/// A key that may be left out: `None` if it is wrong, `Some(None)` if it is left out.
#[expect(clippy::option_option, reason = "outside: whether all is well; inside: whether it is there")]
fn maybe<T: Value>(table: &mut Table<'_, '_>, name: &'static str) -> Option<Option<T>> {
    let is_there = table.has(name);
    let field = table.optional::<T>(name);
    if is_there { field.map(|field| Some(field.value)) } else { Some(None) }
}

impl Exchange {
    fn read(table: &mut Table<'_, '_>) -> Option<Exchange> {
        let send = maybe(table, "send");
        let expect = maybe(table, "expect");
        Some(Exchange { send: send?.map(|Payload(text)| text), expect: expect?.map(|Pattern(text)| text) })
    }
}

impl Tls {
    fn read(table: &mut Table<'_, '_>) -> Option<Tls> {
        let sni = maybe(table, "sni");
        let verify = table.with_default("verify", true);
        let ca = maybe(table, "ca");
        Some(Tls { sni: sni?.map(|HostName(name)| name), verify: verify?, ca: ca? })
    }
}

impl Http {
    fn read(table: &mut Table<'_, '_>, is_https: bool) -> Option<Http> {
        let method = table.with_default("method", Token("GET".to_owned()));
        let path = table.with_default("path", RequestPath("/".to_owned()));
        let host = maybe(table, "host");
        let headers = table.pairs("headers", "{ X-Probe = \"pointsman\" }");
        let expect_status = if table.has("expect_status") {
            table.list("expect_status").map(|codes| codes.into_iter().map(|Field { value, .. }| value).collect())
        } else {
            table.list::<StatusRange>("expect_status");
            Some(vec![StatusRange(200, 299)])
        };
        let expect_body = maybe(table, "expect_body");
        let tls = if is_https { Tls::read(table).map(Some) } else { Some(None) };
        Some(Http {
            tls: tls?,
            method: method?.0,
            path: path?.0,
            host: host?.map(|HeaderText(text)| text),
            headers: headers?.into_iter().map(|(Token(name), HeaderText(text))| (name, text)).collect(),
            expect_status: expect_status?,
            expect_body: expect_body?.map(|Pattern(text)| text),
        })
    }
}

impl Dns {
    fn read(table: &mut Table<'_, '_>) -> Option<Dns> {
        let query = table.required::<QueryName>("query");
        let record = table.with_default("record", RecordName("A".to_owned()));
        let rcode = table.with_default("expect_rcode", Rcode::NoError);
        let answer = maybe::<String>(table, "expect_answer");
        Some(Dns { query: query?.value.0, record: record?.0, rcode: rcode?, answer: answer? })
    }
}

impl Script {
    fn read(table: &mut Table<'_, '_>) -> Option<Script> {
        let command = table.required::<PathBuf>("command");
        let arguments = if table.has("args") {
            table.list("args").map(|all| all.into_iter().map(|Field { value: Argument(text), .. }| text).collect())
        } else {
            table.list::<Argument>("args");
            Some(Vec::new())
        };
        let send = maybe(table, "send");
        let expect = maybe(table, "expect");
        let dynamic_weight = table.with_default("dynamic_weight", false);
        Some(Script {
            command: command?.value,
            arguments: arguments?,
            send: send?.map(|Payload(text)| text),
            expect: expect?.map(|Pattern(text)| text),
            dynamic_weight: dynamic_weight?,
        })
    }
}
