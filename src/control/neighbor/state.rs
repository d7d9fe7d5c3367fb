//! What is known about the network, as a value: events and answers go in, questions and snapshots come out. Pure: no
//! socket, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::entries::{Asked, Entries, Hop, Status, Why};
use super::{Link, Network, NextHop, Unresolved};

/// Something that the kernel said unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// An interface is so now.
    Link(LinkState),
    /// An interface is gone.
    LinkGone { index: u32 },
    /// This host has an address.
    Address(OwnAddress),
    /// This host lost an address.
    AddressGone(OwnAddress),
    /// What the kernel does with packets to this prefix may have changed.
    Routes { network: Ipv4Addr, length: u8 },
    /// An entry of the neighbour table.
    Neighbor { hop: Hop, status: Status },
    /// Events were lost.
    Overrun,
}

/// An interface, listed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) name: String,
    pub(super) link: Link,
    /// `IFF_UP` alone: without it the interface has no routes, without carrier it keeps them.
    pub(super) enabled: bool,
    pub(super) ethernet: bool,
}

/// An address of this host, with the prefix of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OwnAddress {
    pub(super) index: u32,
    pub(super) address: Ipv4Addr,
    pub(super) length: u8,
}

/// The kernel's answer to "how do you reach this?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) index: u32,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) source: Ipv4Addr,
    pub(super) mtu: Option<u32>,
}

/// What is known about the network.
#[derive(Debug)]
pub(super) struct State {
    listed: BTreeSet<String>,
    /// All interfaces of the host, by index: a route may leave by one that is not listed.
    links: BTreeMap<u32, LinkState>,
    addresses: BTreeSet<OwnAddress>,
    targets: BTreeMap<Ipv4Addr, Target>,
    /// Targets whose route must be asked for.
    questions: BTreeSet<Ipv4Addr>,
    entries: Entries,
    /// Routes or links changed: the entries that matter may be others.
    regroup: bool,
    overrun: bool,
    table_fulls: Option<u64>,
    table_overflows: u64,
    changed: bool,
}

#[derive(Debug, Default)]
struct Target {
    route: Option<Result<Route, Unresolved>>,
    /// The listed interface by which it was reached last.
    interface: Option<String>,
}

impl State {
    /// Knows nothing yet, and that it must read everything.
    pub(super) fn new(listed: BTreeSet<String>, targets: &BTreeSet<Ipv4Addr>) -> Self {
        let mut state = Self {
            listed,
            links: BTreeMap::new(),
            addresses: BTreeSet::new(),
            targets: BTreeMap::new(),
            questions: BTreeSet::new(),
            entries: Entries::default(),
            regroup: false,
            overrun: true,
            table_fulls: None,
            table_overflows: 0,
            changed: true,
        };
        state.watch(targets);
        state
    }

    /// Replaces the set of targets.
    pub(super) fn watch(&mut self, targets: &BTreeSet<Ipv4Addr>) {
        self.targets.retain(|target, _| targets.contains(target));
        self.questions.retain(|target| targets.contains(target));
        for &target in targets {
            self.targets.entry(target).or_insert_with(|| {
                self.questions.insert(target);
                Target::default()
            });
        }
        self.regroup = true;
        self.changed = true;
    }

    /// Takes in an event.
    pub(super) fn apply(&mut self, event: Event, now: Instant) {
        match event {
            Event::Link(link) => self.set_link(link),
            Event::LinkGone { index } => {
                if self.links.remove(&index).is_some() {
                    self.addresses.retain(|own| own.index != index);
                    self.links_changed();
                }
            }
            Event::Address(own) => {
                if self.addresses.insert(own) {
                    self.links_changed();
                }
            }
            Event::AddressGone(own) => {
                if self.addresses.remove(&own) {
                    self.links_changed();
                }
            }
            Event::Routes { network, length } => self.routes_changed(network, length),
            Event::Neighbor { hop, status } => self.changed |= self.entries.learn(hop, status, now),
            Event::Overrun => self.overrun = true,
        }
    }

    /// Whether links and addresses must be read anew, with [`replace`](Self::replace).
    pub(super) fn must_read_all(&self) -> bool {
        self.overrun
    }

    /// Takes in all links and addresses, in place of those known.
    pub(super) fn replace(&mut self, links: Vec<LinkState>, addresses: Vec<OwnAddress>) {
        self.links = links.into_iter().map(|link| (link.link.index, link)).collect();
        self.addresses = addresses.into_iter().collect();
        self.entries.doubt_all();
        self.overrun = false;
        self.links_changed();
    }

    /// Up to `limit` targets whose route must be looked up.
    pub(super) fn route_questions(&self, limit: usize) -> Vec<Ipv4Addr> {
        self.questions.iter().take(limit).copied().collect()
    }

    /// Takes in the route to a target.
    pub(super) fn route_answer(&mut self, address: Ipv4Addr, answer: Result<Route, Unresolved>) {
        self.questions.remove(&address);
        let Some(target) = self.targets.get_mut(&address) else { return };
        if let Ok(route) = &answer
            && let Some(link) = self.links.get(&route.index)
            && self.listed.contains(&link.name)
        {
            target.interface = Some(link.name.clone());
        }
        if target.route.as_ref() != Some(&answer) {
            target.route = Some(answer);
            self.regroup = true;
            self.changed = true;
        }
    }

    /// Up to `limit` neighbour entries to read.
    pub(super) fn entry_questions(&mut self, limit: usize) -> Vec<Hop> {
        self.regroup();
        self.entries.unread(limit)
    }

    /// Neighbours that the kernel should resolve or verify now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Hop> {
        self.regroup();
        self.changed |= self.entries.expire(now);
        self.entries.due(now)
    }

    /// Takes in what came of asking for one of them.
    pub(super) fn asked(&mut self, hop: Hop, outcome: Asked, now: Instant) {
        self.changed |= self.entries.asked(hop, outcome, now);
    }

    /// When [`due`](Self::due) should be called again, if nothing happens before.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.entries.next_due(now)
    }

    /// Takes in the kernel's count of full neighbour tables, which is as old as the machine.
    pub(super) fn table_fulls(&mut self, count: u64) {
        let before = *self.table_fulls.get_or_insert(count);
        if count != before {
            self.table_overflows += count.saturating_sub(before);
            self.table_fulls = Some(count);
            self.changed = true;
        }
    }

    /// Whether a route or an entry is to be asked for, without which a snapshot would be incomplete.
    pub(super) fn has_questions(&self) -> bool {
        self.regroup || !self.questions.is_empty() || self.entries.has_unread()
    }

    /// Whether a snapshot may differ from that at the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All that is known.
    pub(super) fn snapshot(&self) -> Network {
        let listed = self.links.values().filter(|link| self.listed.contains(&link.name));
        Network {
            links: listed.map(|link| (link.name.clone(), link.link.clone())).collect(),
            addresses: self.addresses.iter().map(|own| own.address).collect(),
            next_hops: (self.targets.iter())
                .map(|(&address, target)| (address, self.next_hop(address, target)))
                .collect(),
            table_overflows: self.table_overflows,
        }
    }

    fn set_link(&mut self, link: LinkState) {
        if self.links.get(&link.link.index) == Some(&link) {
            return;
        }
        // A name belongs to one interface: should the old one's end have been missed, this is it.
        self.links.retain(|_, known| known.name != link.name);
        self.links.insert(link.link.index, link);
        self.links_changed();
    }

    /// The kernel says nothing about the routes that come and go with links and addresses.
    fn links_changed(&mut self) {
        self.questions.extend(self.targets.keys());
        self.regroup = true;
        self.changed = true;
    }

    fn routes_changed(&mut self, network: Ipv4Addr, length: u8) {
        let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
        let first = network.to_bits() & mask;
        let range = Ipv4Addr::from_bits(first)..=Ipv4Addr::from_bits(first | !mask);
        self.questions.extend(self.targets.range(range).map(|(target, _)| target));
    }

    /// Tells `entries` which of them matter.
    fn regroup(&mut self) {
        if !std::mem::take(&mut self.regroup) {
            return;
        }
        let mut hops = BTreeSet::new();
        for (&address, target) in &self.targets {
            if let Some(Ok(route)) = &target.route
                && self.usable_link(route.index).is_ok()
            {
                hops.insert(hop(address, route));
            }
        }
        self.entries.want(&hops);
    }

    fn usable_link(&self, index: u32) -> Result<&LinkState, Unresolved> {
        // A route by an interface that is not known yet: the event about it is on its way.
        let link = self.links.get(&index).ok_or(Unresolved::Resolving)?;
        let interface = || link.name.clone();
        if !self.listed.contains(&link.name) {
            Err(Unresolved::NotListed { interface: interface() })
        } else if !link.link.up {
            Err(Unresolved::LinkDown { interface: interface() })
        } else if !link.ethernet {
            Err(Unresolved::NotEthernet { interface: interface() })
        } else {
            Ok(link)
        }
    }

    fn next_hop(&self, address: Ipv4Addr, target: &Target) -> Result<NextHop, Unresolved> {
        let route = match &target.route {
            None => return Err(Unresolved::Resolving),
            Some(Err(Unresolved::NoRoute)) => return Err(self.why_no_route(address, target)),
            Some(Err(reason)) => return Err(reason.clone()),
            Some(Ok(route)) => route,
        };
        let link = self.usable_link(route.index)?;
        let known = self.entries.known(hop(address, route)).unwrap_or(Err(Why::Resolving));
        let mac = known.map_err(|why| match why {
            Why::Resolving => Unresolved::Resolving,
            Why::NoAnswer => Unresolved::NoAnswer { gateway: route.gateway },
            Why::NotEthernet => Unresolved::NotEthernet { interface: link.name.clone() },
            Why::TableFull => Unresolved::TableFull,
            Why::Refused(errno) => Unresolved::Refused { errno },
        })?;
        Ok(NextHop { interface: link.name.clone(), mac, gateway: route.gateway, source: route.source, mtu: route.mtu })
    }

    /// A disabled or deleted interface takes its routes along; "no route" would send the reader to the wrong place.
    fn why_no_route(&self, address: Ipv4Addr, target: &Target) -> Unresolved {
        let disabled_link = self.addresses.iter().find_map(|own| {
            let link = self.links.get(&own.index)?;
            let bits = 32 - u32::from(own.length.min(32));
            let inside = (own.address.to_bits() ^ address.to_bits()).checked_shr(bits).unwrap_or(0) == 0;
            (inside && !link.enabled && self.listed.contains(&link.name)).then(|| link.name.clone())
        });
        if let Some(interface) = disabled_link {
            return Unresolved::LinkDown { interface };
        }
        let Some(interface) = target.interface.clone() else { return Unresolved::NoRoute };
        match self.links.values().find(|link| link.name == interface) {
            None => Unresolved::LinkMissing { interface },
            Some(link) if !link.link.up => Unresolved::LinkDown { interface },
            Some(_) => Unresolved::NoRoute,
        }
    }
}

fn hop(address: Ipv4Addr, route: &Route) -> Hop {
    Hop { index: route.index, address: route.gateway.unwrap_or(address) }
}
