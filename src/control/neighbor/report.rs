//! What changed, in words for the log: one line for each real change.
//!
//! What follows from a change for members and interfaces that are served is said by the daemon, once: here it is only a
//! detail for whoever looks closer ([`Line::Debug`]).

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Link, Network, NextHop, TABLE_SYSCTL, Unresolved};

/// Lines about next hops, and about addresses, that one snapshot may cause; the rest is counted in one more. A link
/// that takes thousands of members with it must not bury the line that says so.
const LINES_AT_ONCE: usize = 20;

/// A table that stays full, or events that are lost again and again, are said this often.
const REPEAT_AFTER: Duration = Duration::from_mins(1);

/// Writes the log.
pub(super) struct Reporter {
    listed: BTreeSet<String>,
    last: Option<Arc<Network>>,
    overflow_said: Option<Instant>,
    reading_said: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(listed: BTreeSet<String>) -> Self {
        Self { listed, last: None, overflow_said: None, reading_said: None }
    }

    /// Says what is new in a snapshot. Returns whether anything differs from the last one at all.
    pub(super) fn report(&mut self, network: &Arc<Network>, now: Instant) -> bool {
        let before = self.last.take();
        if before.as_ref() == Some(network) {
            self.last = before;
            return false;
        }
        let lines = match &before {
            Some(before) => changes(before, network),
            None => first(&self.listed, network),
        };
        for line in lines {
            line.write();
        }
        let overflows_before = before.map_or(0, |before| before.table_overflows);
        if network.table_overflows > overflows_before && due(&mut self.overflow_said, now) {
            tracing::warn!(
                "the kernel's neighbour table is full ({} times since the start): raise {TABLE_SYSCTL}",
                network.table_overflows
            );
        }
        self.last = Some(Arc::clone(network));
        true
    }

    /// All is read again, because events were lost. (The first reading is none again.)
    pub(super) fn reading_all(&mut self) {
        if self.last.is_some() && due(&mut self.reading_said, Instant::now()) {
            tracing::warn!("missed some of the kernel's network events: reading links, addresses and neighbours again");
        }
    }
}

fn due(said: &mut Option<Instant>, now: Instant) -> bool {
    let due = said.is_none_or(|at| now >= at + REPEAT_AFTER);
    if due {
        *said = Some(now);
    }
    due
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Debug(String),
    Info(String),
    Warn(String),
}

impl Line {
    fn write(&self) {
        match self {
            Self::Debug(text) => tracing::debug!("{text}"),
            Self::Info(text) => tracing::info!("{text}"),
            Self::Warn(text) => tracing::warn!("{text}"),
        }
    }
}

fn first(listed: &BTreeSet<String>, network: &Network) -> Vec<Line> {
    let mut lines = Vec::new();
    for name in listed {
        match network.links.get(name) {
            Some(link) => lines.push(Line::Info(format!("{name}: {}", Described(link)))),
            None => lines.push(Line::Debug(format!("{name} does not exist"))),
        }
    }
    next_hops(&Network::default(), network, &mut lines);
    lines
}

fn changes(before: &Network, after: &Network) -> Vec<Line> {
    let mut lines = Vec::new();
    for name in before.links.keys().filter(|name| !after.links.contains_key(*name)) {
        lines.push(Line::Debug(format!("{name} is gone")));
    }
    for (name, link) in &after.links {
        match before.links.get(name) {
            Some(before) => link_changes(name, before, link, &mut lines),
            None => lines.push(Line::Info(format!("{name} appeared: {}", Described(link)))),
        }
    }
    addresses(before, after, &mut lines);
    next_hops(before, after, &mut lines);
    lines
}

fn link_changes(name: &str, before: &Link, after: &Link, lines: &mut Vec<Line>) {
    if before.index != after.index {
        lines.push(Line::Info(format!("{name} was deleted and created again: {}", Described(after))));
        return;
    }
    match (before.up, after.up) {
        (true, false) => lines.push(Line::Warn(format!("{name} is down"))),
        (false, true) => lines.push(Line::Info(format!("{name} is up"))),
        _ => {}
    }
    if before.mtu != after.mtu {
        lines.push(Line::Info(format!("{name}: MTU {}, was {}", after.mtu, before.mtu)));
    }
    if before.mac != after.mac {
        lines.push(Line::Info(format!("{name}: address {}, was {}", Mac(after.mac), Mac(before.mac))));
    }
    let queues = |link: &Link| (link.rx_queues, link.tx_queues);
    if queues(before) != queues(after) {
        lines.push(Line::Info(format!(
            "{name}: {} receive and {} transmit queues, were {} and {}",
            after.rx_queues, after.tx_queues, before.rx_queues, before.tx_queues
        )));
    }
}

fn addresses(before: &Network, after: &Network, lines: &mut Vec<Line>) {
    let gained = after.addresses.difference(&before.addresses).map(|address| (address, "gained"));
    let lost = before.addresses.difference(&after.addresses).map(|address| (address, "lost"));
    let mut all = gained.chain(lost);
    for (address, verb) in all.by_ref().take(LINES_AT_ONCE) {
        lines.push(Line::Info(format!("this host {verb} the address {address}")));
    }
    let rest = all.count();
    if rest > 0 {
        lines.push(Line::Info(format!("this host gained or lost {rest} more addresses")));
    }
}

fn next_hops(before: &Network, after: &Network, lines: &mut Vec<Line>) {
    let mut said = 0;
    let (mut more_resolved, mut more_unresolved) = (0, 0);
    for (target, now) in &after.next_hops {
        let Some(line) = next_hop(*target, before.next_hops.get(target), now) else { continue };
        said += 1;
        match (&line, said <= LINES_AT_ONCE) {
            (_, true) => lines.push(line),
            (Line::Info(_), false) => more_resolved += 1,
            (Line::Debug(_) | Line::Warn(_), false) => more_unresolved += 1,
        }
    }
    if more_unresolved > 0 {
        lines.push(Line::Debug(format!("{more_unresolved} more targets have no next hop")));
    }
    if more_resolved > 0 {
        lines.push(Line::Info(format!("{more_resolved} more targets have a new next hop")));
    }
}

type Known = Result<NextHop, Unresolved>;

fn next_hop(target: Ipv4Addr, before: Option<&Known>, now: &Known) -> Option<Line> {
    if before == Some(now) {
        return None;
    }
    match (before, now) {
        (_, Err(Unresolved::Resolving)) => None,
        (_, Err(reason)) => Some(Line::Debug(format!("{target}: no next hop: {reason}"))),
        (Some(Ok(before)), Ok(now)) if before.mac != now.mac && before.interface == now.interface => {
            Some(Line::Info(format!("{target}: next hop {}, was {}", Hop(now), Mac(before.mac))))
        }
        (_, Ok(now)) => Some(Line::Info(format!("{target}: next hop {}", Hop(now)))),
    }
}

struct Described<'a>(&'a Link);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = self.0;
        let state = if link.up { "up" } else { "down" };
        write!(f, "{state}, MTU {}, address {}, index {}", link.mtu, Mac(link.mac), link.index)
    }
}

struct Hop<'a>(&'a NextHop);

impl fmt::Display for Hop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", Mac(self.0.mac), self.0.interface)?;
        if let Some(gateway) = self.0.gateway {
            write!(f, " (gateway {gateway})")?;
        }
        if let Some(mtu) = self.0.mtu {
            write!(f, " (MTU {mtu})")?;
        }
        Ok(())
    }
}

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first @ .., last] = self.0;
        for byte in first {
            write!(f, "{byte:02x}:")?;
        }
        write!(f, "{last:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32) -> Link {
        Link { index, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 }
    }

    fn next_hop(last_byte: u8) -> NextHop {
        NextHop {
            interface: "eth0".to_owned(),
            mac: [2, 0, 0, 0, 0, last_byte],
            gateway: None,
            source: Ipv4Addr::new(10, 0, 0, 1),
            mtu: None,
        }
    }

    fn network(link: Option<Link>, known: Option<Known>) -> Network {
        Network {
            links: link.map(|link| ("eth0".to_owned(), link)).into_iter().collect(),
            next_hops: known.map(|known| (Ipv4Addr::new(10, 0, 0, 2), known)).into_iter().collect(),
            ..Network::default()
        }
    }

    fn debug(text: &str) -> Line {
        Line::Debug(text.to_owned())
    }

    fn info(text: &str) -> Line {
        Line::Info(text.to_owned())
    }

    fn warn(text: &str) -> Line {
        Line::Warn(text.to_owned())
    }

    #[test]
    fn one_line_for_each_change() {
        let down = Link { up: false, ..link(3) };
        let changed = Link { mtu: 9000, mac: [2, 0, 0, 0, 0, 9], rx_queues: 4, ..link(3) };
        let silent = || Err(Unresolved::NoAnswer { gateway: None });
        let gateway = NextHop { gateway: Some(Ipv4Addr::new(10, 0, 0, 254)), mtu: Some(1400), ..next_hop(4) };
        let table = [
            ("nothing", network(Some(link(3)), None), network(Some(link(3)), None), vec![]),
            ("down", network(Some(link(3)), None), network(Some(down.clone()), None), vec![warn("eth0 is down")]),
            ("up", network(Some(down), None), network(Some(link(3)), None), vec![info("eth0 is up")]),
            ("gone", network(Some(link(3)), None), network(None, None), vec![debug("eth0 is gone")]),
            (
                "came",
                network(None, None),
                network(Some(link(3)), None),
                vec![info("eth0 appeared: up, MTU 1500, address 02:00:00:00:00:01, index 3")],
            ),
            (
                "deleted and created again",
                network(Some(link(3)), None),
                network(Some(link(8)), None),
                vec![info("eth0 was deleted and created again: up, MTU 1500, address 02:00:00:00:00:01, index 8")],
            ),
            (
                "settings",
                network(Some(link(3)), None),
                network(Some(changed), None),
                vec![
                    info("eth0: MTU 9000, was 1500"),
                    info("eth0: address 02:00:00:00:00:09, was 02:00:00:00:00:01"),
                    info("eth0: 4 receive and 1 transmit queues, were 1 and 1"),
                ],
            ),
            ("resolving", network(None, None), network(None, Some(Err(Unresolved::Resolving))), vec![]),
            (
                "resolved",
                network(None, Some(Err(Unresolved::Resolving))),
                network(None, Some(Ok(next_hop(4)))),
                vec![info("10.0.0.2: next hop 02:00:00:00:00:04 on eth0")],
            ),
            (
                "moved",
                network(None, Some(Ok(next_hop(4)))),
                network(None, Some(Ok(next_hop(5)))),
                vec![info("10.0.0.2: next hop 02:00:00:00:00:05 on eth0, was 02:00:00:00:00:04")],
            ),
            (
                "another route",
                network(None, Some(Ok(next_hop(4)))),
                network(None, Some(Ok(gateway))),
                vec![info("10.0.0.2: next hop 02:00:00:00:00:04 on eth0 (gateway 10.0.0.254) (MTU 1400)")],
            ),
            (
                "silent",
                network(None, Some(Ok(next_hop(4)))),
                network(None, Some(silent())),
                vec![debug("10.0.0.2: no next hop: no answer to ARP")],
            ),
            ("still silent", network(None, Some(silent())), network(None, Some(silent())), vec![]),
            ("not watched any more", network(None, Some(silent())), network(None, None), vec![]),
        ];
        for (description, before, after, expected) in table {
            assert_eq!(changes(&before, &after), expected, "{description}");
        }
    }

    #[test]
    fn own_addresses_come_and_go() {
        let mut before = Network::default();
        before.addresses.insert(Ipv4Addr::new(10, 0, 0, 1));
        let mut after = Network::default();
        after.addresses.insert(Ipv4Addr::new(10, 0, 0, 2));
        let expected = [info("this host gained the address 10.0.0.2"), info("this host lost the address 10.0.0.1")];
        assert_eq!(changes(&before, &after), expected);
    }

    #[test]
    fn the_first_snapshot_names_missing_interfaces() {
        let lines = first(&["eth0".to_owned(), "eth1".to_owned()].into(), &network(Some(link(3)), None));
        let expected = [info("eth0: up, MTU 1500, address 02:00:00:00:00:01, index 3"), debug("eth1 does not exist")];
        assert_eq!(lines, expected);
    }

    #[test]
    fn thousands_of_changes_are_summed_up() {
        let after = Network {
            next_hops: (0..3000u32)
                .map(|n| {
                    let known = if n % 3 == 0 { Ok(next_hop(1)) } else { Err(Unresolved::NoRoute) };
                    (Ipv4Addr::from_bits(n), known)
                })
                .collect(),
            ..Network::default()
        };
        let lines = changes(&Network::default(), &after);
        assert_eq!(lines.len(), LINES_AT_ONCE + 2);
        let summary = [debug("1987 more targets have no next hop"), info("993 more targets have a new next hop")];
        assert_eq!(lines[LINES_AT_ONCE..], summary);
    }

    #[test]
    fn repeated_alarms_are_paced() {
        let (mut said, start) = (None, Instant::now());
        assert!(due(&mut said, start));
        assert!(!due(&mut said, start + Duration::from_secs(59)));
        assert!(due(&mut said, start + Duration::from_mins(1)));
    }
}
