//! Names, addresses and numbers that a configuration may hold, each right by itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use super::reader::{Value, Wrong, describe, nearest, quoted};

impl Value for bool {
    fn allowed() -> String {
        "true or false".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<bool, Wrong> {
        value.as_bool().ok_or_else(|| Wrong::new(format!("{} is no boolean", describe(value))))
    }
}

/// Any text.
impl Value for String {
    fn allowed() -> String {
        "a string".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<String, Wrong> {
        string(value).map(str::to_owned)
    }
}

/// A directory. Relative ones would depend on where the service was started.
impl Value for PathBuf {
    fn allowed() -> String {
        "an absolute path".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
        let text = string(value)?;
        if text.starts_with('/') && !text.contains('\0') {
            Ok(PathBuf::from(text))
        } else {
            Err(Wrong::new(format!("{} is no absolute path", quoted(text))))
        }
    }
}

/// Where a Unix socket is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketPath(pub(super) PathBuf);

impl Value for SocketPath {
    fn allowed() -> String {
        "an absolute path of at most 107 bytes".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<SocketPath, Wrong> {
        /// `sun_path` (unix(7)) is 108 and counts the terminating zero.
        const MOST: usize = 107;
        let path = PathBuf::read(value)?;
        match path.as_os_str().len() {
            0..=MOST => Ok(SocketPath(path)),
            found => Err(Wrong::new(format!("the path has {found} bytes"))),
        }
    }
}

/// Where the read-only API listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListenAddress(pub(super) SocketAddr);

impl Value for ListenAddress {
    fn allowed() -> String {
        "an address and a port, such as \"127.0.0.1:9190\" or \"[::1]:9190\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<ListenAddress, Wrong> {
        let text = string(value)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => Ok(ListenAddress(address)),
            Ok(_) => Err(Wrong::new(format!("{} has port 0", quoted(text)))),
            Err(_) if text.parse::<IpAddr>().is_ok() => Err(Wrong::new(format!("{} has no port", quoted(text)))),
            Err(_) => Err(Wrong::new(format!("{} is no address with a port", quoted(text)))),
        }
    }
}

/// The name of a node, VIP, pool or member: `POOL/NAME` on the command line and a label in metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(pub(super) String);

impl Value for Name {
    fn allowed() -> String {
        "a name of the characters A-Z a-z 0-9 . _ -".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Name, Wrong> {
        let text = string(value)?;
        let odd = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'));
        match odd {
            _ if text.is_empty() => Err(Wrong::new("the name is empty")),
            Some(odd) => Err(Wrong::new(format!("{} has the character {odd:?}", quoted(text)))),
            None => Ok(Name(text.to_owned())),
        }
    }
}

/// A network interface's name, as far as that can be judged without the interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct InterfaceName(pub(super) String);

impl Value for InterfaceName {
    fn allowed() -> String {
        "an interface name of 1 to 15 bytes without \"/\", \":\" and whitespace, such as \"eth0\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<InterfaceName, Wrong> {
        let text = string(value)?;
        if is_interface_name(text) {
            Ok(InterfaceName(text.to_owned()))
        } else {
            Err(Wrong::new(format!("{} is no interface name", quoted(text))))
        }
    }
}

/// `dev_valid_name` (Linux 6.1, net/core/dev.c); its `isspace` is Latin-1's, byte by byte.
fn is_interface_name(text: &str) -> bool {
    /// `IFNAMSIZ` is 16 and counts the terminating zero.
    const MOST: usize = 15;
    let odd = |byte: u8| matches!(byte, b'/' | b':' | b' ' | b'\t'..=b'\r' | 0xa0 | 0);
    (1..=MOST).contains(&text.len()) && text != "." && text != ".." && !text.bytes().any(odd)
}

/// The address of a VIP or a member: unicast, and one that another host can have.
impl Value for Ipv4Addr {
    fn allowed() -> String {
        "a unicast IPv4 address".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Ipv4Addr, Wrong> {
        let text = string(value)?;
        let found = quoted(text);
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return match unusable(address) {
                Some(why) => Err(Wrong::new(format!("{found} is {why}"))),
                None => Ok(address),
            };
        }
        if let Ok(with_port) = text.parse::<SocketAddrV4>() {
            let meant = Some(quoted(&with_port.ip().to_string()));
            return Err(Wrong { what: format!("{found} has a port"), meant });
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        match (IpAddr::from_str(address), prefix) {
            (Ok(IpAddr::V4(_)), Some(_)) => {
                Err(Wrong { what: format!("{found} has a prefix length"), meant: Some(quoted(address)) })
            }
            (Ok(IpAddr::V6(_)), _) => Err(Wrong::new(format!("{found} is IPv6, and IPv6 is not built yet"))),
            _ => Err(Wrong::new(format!("{found} is no IP address"))),
        }
    }
}

/// Why no VIP and no member can have this address.
fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        // RFC 1122 §3.2.1.3 (a), (b).
        [0, ..] => Some("in 0.0.0.0/8, which is unspecified"),
        [127, ..] => Some("in 127.0.0.0/8, which is loopback"),
        // RFC 5771 §3.
        [224..=239, ..] => Some("in 224.0.0.0/4, which is multicast"),
        [255, 255, 255, 255] => Some("the broadcast address"),
        // RFC 1112 §4.
        [240..=255, ..] => Some("in 240.0.0.0/4, which is reserved"),
        _ => None,
    }
}

/// How long flows live after their last packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Duration);

impl Timeout {
    /// The connection table's clock goes by half seconds.
    const SHORTEST: Duration = Duration::from_secs(1);
    /// What the clock can tell apart from the future.
    const LONGEST: Duration = Duration::from_hours(13 * 24);
}

impl Value for Timeout {
    fn allowed() -> String {
        "1s to 13d; units: s, m, h, d".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Timeout, Wrong> {
        duration(value, Timeout::SHORTEST..=Timeout::LONGEST, &COARSE).map(Timeout)
    }
}

/// How long a client is remembered after its last connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PersistenceTimeout(pub(super) Duration);

impl PersistenceTimeout {
    /// Control looks every two seconds which clients have connections.
    const SHORTEST: Duration = Duration::from_secs(5);
}

impl Value for PersistenceTimeout {
    fn allowed() -> String {
        "5s to 13d; units: s, m, h, d".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<PersistenceTimeout, Wrong> {
        duration(value, PersistenceTimeout::SHORTEST..=Timeout::LONGEST, &COARSE).map(PersistenceTimeout)
    }
}

/// A unit of time and its milliseconds.
type Unit = (&'static str, u64);

const COARSE: [Unit; 4] = [("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A duration in one of these units.
fn duration(value: &DeValue<'_>, allowed: RangeInclusive<Duration>, units: &[Unit]) -> Result<Duration, Wrong> {
    let Some(text) = value.as_str() else {
        let meant = value.as_integer().map(|seconds| quoted(&format!("{}s", seconds.as_str())));
        return Err(Wrong { what: format!("{} is no duration", describe(value)), meant });
    };
    let found = quoted(text);
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if unit.is_empty() && digits > 0 {
        return Err(Wrong { what: format!("{found} has no unit"), meant: Some(quoted(&format!("{text}s"))) });
    }
    let milliseconds = units.iter().find(|(name, _)| *name == unit).map(|(_, milliseconds)| *milliseconds);
    let Some(milliseconds) = milliseconds.filter(|_| !number.is_empty()) else {
        return Err(Wrong::new(format!("{found} is no duration")));
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds));
    match total.map(Duration::from_millis) {
        Some(total) if total < *allowed.start() => {
            Err(Wrong::new(format!("{found} is less than {}", spelt(*allowed.start()))))
        }
        Some(total) if total <= *allowed.end() => Ok(total),
        _ => Err(Wrong::new(format!("{found} is more than {}", spelt(*allowed.end())))),
    }
}

/// In the largest unit that it is a whole number of; so a configuration may have it.
pub fn spelt(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let fits = units.into_iter().find(|(_, unit)| milliseconds >= *unit && milliseconds.is_multiple_of(*unit));
    fits.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", milliseconds / unit))
}

/// How many flows over IPv4 the connection table fits, or how many clients persistence remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flows(pub(super) usize);

impl Flows {
    /// Fewer would save nothing worth having.
    const FEWEST: usize = 1024;
    /// 2^28: 9 GiB.
    const MOST: usize = 1 << 28;
}

impl Value for Flows {
    fn allowed() -> String {
        format!("{} to {}", Flows::FEWEST, Flows::MOST)
    }

    fn read(value: &DeValue<'_>) -> Result<Flows, Wrong> {
        integer(value, Flows::FEWEST..=Flows::MOST).map(Flows)
    }
}

/// A number of connections that is not to be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connections(pub(super) u32);

impl Connections {
    /// As many as the largest connection table fits.
    const MOST: u32 = Flows::MOST as u32;
}

impl Value for Connections {
    fn allowed() -> String {
        format!("1 to {}", Connections::MOST)
    }

    fn read(value: &DeValue<'_>) -> Result<Connections, Wrong> {
        integer(value, 1..=Connections::MOST).map(Connections)
    }
}

/// How many leading bits of an address count; not 0, which would make all clients one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefixLength(pub(super) u8);

impl Value for PrefixLength {
    fn allowed() -> String {
        "1 to 32".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<PrefixLength, Wrong> {
        if let Some(text) = value.as_str() {
            let found = quoted(text);
            let meant = text.parse::<Ipv4Addr>().ok().and_then(mask_length).map(|length| length.to_string());
            return Err(Wrong { what: format!("{found} is no prefix length"), meant });
        }
        integer(value, 1..=32).map(PrefixLength)
    }
}

/// The prefix length of a netmask in dotted decimals, as LVS has it.
fn mask_length(mask: Ipv4Addr) -> Option<u32> {
    let ones = mask.to_bits().leading_ones();
    (ones > 0 && mask.to_bits().count_ones() == ones).then_some(ones)
}

/// Where tunnels come from: an address, or a block of addresses of which every flow gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSource {
    /// The address, or the block's first.
    pub address: Ipv4Addr,
    /// The block's prefix length; 32 for a single address.
    pub length: u8,
}

impl TunnelSource {
    /// A block of 65 536: more than any NIC has queues to spread flows over.
    const SHORTEST: u8 = 16;

    /// The bits in which the block's addresses differ.
    pub fn varying(self) -> u32 {
        u32::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }

    /// Whether a packet in a tunnel may come from this address.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & !self.varying() == 0
    }
}

impl fmt::Display for TunnelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            32 => self.address.fmt(f),
            length => write!(f, "{}/{length}", self.address),
        }
    }
}

impl Value for TunnelSource {
    fn allowed() -> String {
        format!("a unicast IPv4 address, or a block of them with a prefix length of {} to 32", Self::SHORTEST)
    }

    fn read(value: &DeValue<'_>) -> Result<TunnelSource, Wrong> {
        let text = string(value)?;
        let Some((address, length)) = text.split_once('/') else {
            return Ipv4Addr::read(value).map(|address| TunnelSource { address, length: 32 });
        };
        let found = quoted(text);
        let address = address.parse::<Ipv4Addr>().map_err(|_| Wrong::new(format!("{found} is no IPv4 block")))?;
        if let Some(why) = unusable(address) {
            return Err(Wrong::new(format!("{found} is {why}")));
        }
        let in_range = |length: &u8| (Self::SHORTEST..=32).contains(length);
        let Some(length) = length.parse::<u8>().ok().filter(in_range) else {
            return Err(Wrong::new(format!("{found} has the prefix length {}", shortened(length))));
        };
        let block = TunnelSource { address, length };
        let first = Ipv4Addr::from_bits(address.to_bits() & !block.varying());
        if first != address {
            let meant = Some(quoted(&format!("{first}/{length}")));
            return Err(Wrong { what: format!("{found} has bits beyond its prefix"), meant });
        }
        Ok(block)
    }
}

/// The port or ports that a VIP serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VipPort {
    /// One port, never 0; it beats `Any` on the same address.
    Exact(u16),
    /// Every port that no exact VIP of the same address and protocol serves.
    Any,
}

impl fmt::Display for VipPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VipPort::Exact(port) => port.fmt(f),
            VipPort::Any => f.write_str("any"),
        }
    }
}

impl Value for VipPort {
    fn allowed() -> String {
        "1 to 65535, or \"any\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<VipPort, Wrong> {
        match value {
            DeValue::String(text) if text == "any" => Ok(VipPort::Any),
            DeValue::String(text) => {
                let meant = match text.parse::<u16>() {
                    Ok(1..) => Some(format!("{text}, without quotes")),
                    _ => nearest(text, std::iter::once("any")).map(quoted),
                };
                Err(Wrong { what: format!("{} is unknown", quoted(text)), meant })
            }
            _ => integer(value, 1..=u16::MAX).map(VipPort::Exact),
        }
    }
}

/// A member's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub(super) u16);

impl Value for Port {
    fn allowed() -> String {
        "1 to 65535".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Port, Wrong> {
        integer(value, 1..=u16::MAX).map(Port)
    }
}

/// A member's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight(pub(super) u16);

impl Value for Weight {
    fn allowed() -> String {
        "0 to 65535".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Result<Weight, Wrong> {
        integer(value, 0..=u16::MAX).map(Weight)
    }
}

/// A CPU's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Core(pub(super) usize);

impl Core {
    /// `CPU_SETSIZE` (glibc, sched.h) is 1024: a higher CPU cannot be named when a thread is pinned.
    const LAST: usize = 1023;
}

impl Value for Core {
    fn allowed() -> String {
        format!("0 to {}", Core::LAST)
    }

    fn read(value: &DeValue<'_>) -> Result<Core, Wrong> {
        integer(value, 0..=Core::LAST).map(Core)
    }
}

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| Wrong::new(format!("{} is no string", describe(value))))
}

pub(super) fn integer<T>(value: &DeValue<'_>, allowed: RangeInclusive<T>) -> Result<T, Wrong>
where
    T: Copy + fmt::Display + PartialOrd + TryFrom<i128> + TryInto<i128>,
{
    let Some(number) = value.as_integer() else {
        let number = value.as_str().and_then(|text| text.trim().parse::<i128>().ok());
        let inside = number.and_then(|n| T::try_from(n).ok()).filter(|n| allowed.contains(n));
        let meant = inside.map(|number| format!("{number}, without quotes"));
        return Err(Wrong { what: format!("{} is no integer", describe(value)), meant });
    };
    // Without i128's range the sign alone says on which side it lies.
    let parsed = i128::from_str_radix(number.as_str(), number.radix());
    if let Some(inside) = parsed.clone().ok().and_then(|n| T::try_from(n).ok()).filter(|n| allowed.contains(n)) {
        return Ok(inside);
    }
    let is_low = match parsed {
        Ok(number) => (*allowed.start()).try_into().is_ok_and(|start: i128| number < start),
        Err(_) => number.as_str().starts_with('-'),
    };
    let found = parsed.map_or_else(|_| shortened(number.as_str()), |n| n.to_string());
    Err(Wrong::new(if is_low {
        format!("{found} is less than {}", allowed.start())
    } else {
        format!("{found} is more than {}", allowed.end())
    }))
}

fn shortened(digits: &str) -> String {
    const MOST: usize = 40;
    digits.get(..MOST).map_or_else(|| digits.to_owned(), |start| format!("{start}…"))
}

mod monitor;
pub use monitor::StatusRange;
pub(super) use monitor::{
    Argument, HeaderText, HostName, Interval, Members, Pattern, Payload, QueryName, RecordName, RequestPath, Stretch,
    Times, Token,
};
