//! The closed sets of words that a configuration may hold.

use std::fmt;

use toml::de::DeValue;

use super::reader::{Value, Wrong, nearest, quoted};
use super::value::string;
pub use crate::dataplane::schedule::{OnMemberDown, Scheduler};

/// How the steering program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native first; generic as a reported fallback.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic path, which every driver has.
    Generic,
}

/// Whether the NIC writes to our memory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Tried first; copying is the reported fallback.
    Auto,
    /// Zero-copy, or not at all.
    On,
    /// The kernel copies.
    Off,
}

/// A VIP's layer-4 protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How the network learns that this node owns a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// Not by us: a route or a static neighbour entry points here.
    None,
    /// We answer ARP for it and announce it when it comes up.
    Arp,
}

/// How a frame gets to its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Direct routing: only the MACs are rewritten; the member has the VIP on `lo` and answers the client itself.
    Dr,
    /// IP in IP: the packet travels in an IPv4 tunnel to the member, which may be behind routers, takes the outer header
    /// off, has the VIP and answers the client itself.
    Ipip,
}

/// How a monitor looks at a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorType {
    /// ICMP echo.
    Ping,
    /// A connection is accepted.
    Tcp,
    /// A TLS handshake succeeds.
    Tls,
    /// An HTTP request is answered as expected.
    Http,
    /// The same over TLS.
    Https,
    /// A datagram is answered, or at least not refused.
    Udp,
    /// A DNS query is answered as expected.
    Dns,
    /// A program says so.
    Script,
}

/// How many of a pool's monitors must be content with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Every one.
    All,
    /// One is enough.
    Any,
}

/// What a member counts as until its monitors know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Up, and the first failure takes it down.
    Up,
    /// Down, until it has succeeded `rise` times.
    Down,
}

/// A closed set of words, written as `Display` shows them.
pub(super) trait Word: Copy + fmt::Display + 'static {
    /// The words of this version.
    const BUILT: &'static [Self];
    /// Words that the design knows and this version does not.
    const NOT_BUILT: &'static [&'static str] = &[];
}

impl Word for XdpMode {
    const BUILT: &'static [Self] = &[XdpMode::Auto, XdpMode::Native, XdpMode::Generic];
}

impl Word for ZeroCopy {
    const BUILT: &'static [Self] = &[ZeroCopy::Auto, ZeroCopy::On, ZeroCopy::Off];
}

impl Word for Protocol {
    const BUILT: &'static [Self] = &[Protocol::Tcp, Protocol::Udp];
}

impl Word for Announce {
    const BUILT: &'static [Self] = &[Announce::None, Announce::Arp];
    const NOT_BUILT: &'static [&'static str] = &["vrrp", "bgp"];
}

impl Word for Forward {
    const BUILT: &'static [Self] = &[Forward::Dr, Forward::Ipip];
    const NOT_BUILT: &'static [&'static str] = &["gre", "gue", "nat", "fullnat"];
}

impl Word for Scheduler {
    const BUILT: &'static [Self] = &[
        Scheduler::Maglev,
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::LeastConnections,
        Scheduler::WeightedLeastConnections,
        Scheduler::SourceHash,
        Scheduler::ShortestExpectedDelay,
        Scheduler::NeverQueue,
    ];
}

impl Word for OnMemberDown {
    const BUILT: &'static [Self] = &[OnMemberDown::Reselect, OnMemberDown::Keep, OnMemberDown::Drop];
}

impl Word for MonitorType {
    const BUILT: &'static [Self] = &[
        MonitorType::Ping,
        MonitorType::Tcp,
        MonitorType::Tls,
        MonitorType::Http,
        MonitorType::Https,
        MonitorType::Udp,
        MonitorType::Dns,
        MonitorType::Script,
    ];
}

impl Word for Combine {
    const BUILT: &'static [Self] = &[Combine::All, Combine::Any];
}

impl Word for Start {
    const BUILT: &'static [Self] = &[Start::Up, Start::Down];
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

impl fmt::Display for ZeroCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ZeroCopy::Auto => "auto",
            ZeroCopy::On => "on",
            ZeroCopy::Off => "off",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

impl fmt::Display for Announce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Announce::None => "none",
            Announce::Arp => "arp",
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forward::Dr => "dr",
            Forward::Ipip => "ipip",
        })
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheduler::Maglev => "maglev",
            Scheduler::RoundRobin => "rr",
            Scheduler::WeightedRoundRobin => "wrr",
            Scheduler::LeastConnections => "lc",
            Scheduler::WeightedLeastConnections => "wlc",
            Scheduler::SourceHash => "sh",
            Scheduler::ShortestExpectedDelay => "sed",
            Scheduler::NeverQueue => "nq",
        })
    }
}

impl fmt::Display for OnMemberDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnMemberDown::Reselect => "reselect",
            OnMemberDown::Keep => "keep",
            OnMemberDown::Drop => "drop",
        })
    }
}

impl fmt::Display for MonitorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MonitorType::Ping => "ping",
            MonitorType::Tcp => "tcp",
            MonitorType::Tls => "tls",
            MonitorType::Http => "http",
            MonitorType::Https => "https",
            MonitorType::Udp => "udp",
            MonitorType::Dns => "dns",
            MonitorType::Script => "script",
        })
    }
}

impl fmt::Display for Combine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Combine::All => "all",
            Combine::Any => "any",
        })
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Start::Up => "up",
            Start::Down => "down",
        })
    }
}

impl<T: Word> Value for T {
    fn allowed() -> String {
        T::BUILT.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
    }

    fn read(value: &DeValue<'_>) -> Result<T, Wrong> {
        let text = string(value)?;
        if let Some(word) = T::BUILT.iter().find(|word| word.to_string() == text) {
            return Ok(*word);
        }
        if T::NOT_BUILT.contains(&text) {
            return Err(Wrong::new(format!("{} is not built yet", quoted(text))));
        }
        let words: Vec<String> = T::BUILT.iter().map(T::to_string).collect();
        let meant = nearest(text, words.iter().map(String::as_str)).map(quoted);
        Err(Wrong { what: format!("{} is unknown", quoted(text)), meant })
    }
}
