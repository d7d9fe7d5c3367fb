//! What is known about the network, as a value: events and answers go in, questions and snapshots come out. Pure: no
//! socket, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::entries::{Asked, Entries, Hop, Status, Why};
use super::{Link, Network, NextHop, Subnet, Unresolved};

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

    /// Replaces the listed interfaces.
    pub(super) fn list(&mut self, interfaces: &BTreeSet<String>) {
        if self.listed != *interfaces {
            self.listed.clone_from(interfaces);
            self.links_changed();
        }
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
            subnets: self.addresses.iter().filter_map(|own| self.subnet(own)).collect(),
            next_hops: (self.targets.iter())
                .map(|(&address, target)| (address, self.next_hop(address, target)))
                .collect(),
            table_overflows: self.table_overflows,
        }
    }

    fn subnet(&self, own: &OwnAddress) -> Option<Subnet> {
        let link = self.links.get(&own.index).filter(|link| self.listed.contains(&link.name))?;
        Some(Subnet { interface: link.name.clone(), address: own.address, length: own.length })
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

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn link(index: u32, name: &str) -> LinkState {
        let link = Link { index, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 };
        LinkState { name: name.to_owned(), link, enabled: true, ethernet: true }
    }

    fn disabled(mut link: LinkState) -> LinkState {
        link.enabled = false;
        link.link.up = false;
        link
    }

    fn without_carrier(mut link: LinkState) -> LinkState {
        link.link.up = false;
        link
    }

    fn route(index: u32, gateway: Option<Ipv4Addr>) -> Route {
        Route { index, gateway, source: OWN, mtu: None }
    }

    fn neighbor(index: u32, address: Ipv4Addr, status: Status) -> Event {
        Event::Neighbor { hop: Hop { index, address }, status }
    }

    fn own(address: Ipv4Addr, length: u8) -> OwnAddress {
        OwnAddress { index: 1, address, length }
    }

    /// A kernel that answers route lookups from a list, and has no neighbours.
    struct World {
        state: State,
        routes: BTreeMap<Ipv4Addr, Result<Route, Unresolved>>,
        now: Instant,
    }

    impl World {
        /// `eth0` with 10.0.0.1/24 and a default route; `eth1`, not listed.
        fn new() -> Self {
            let mut state = State::new(["eth0".to_owned()].into(), &[MEMBER, REMOTE].into());
            assert!(state.must_read_all());
            state.replace(vec![link(1, "eth0"), link(2, "eth1")], vec![own(OWN, 24)]);
            let routes = [(MEMBER, Ok(route(1, None))), (REMOTE, Ok(route(1, Some(GATEWAY))))].into();
            let mut world = Self { state, routes, now: Instant::now() };
            world.answer();
            world
        }

        fn resolved() -> Self {
            let mut world = Self::new();
            world.event(neighbor(1, MEMBER, Status::Settled(MAC)));
            world.event(neighbor(1, GATEWAY, Status::Settled(MAC)));
            world
        }

        /// Answers all questions. Returns the targets of which the route was asked.
        fn answer(&mut self) -> Vec<Ipv4Addr> {
            let asked = self.state.route_questions(usize::MAX);
            for &target in &asked {
                self.state.route_answer(target, self.routes[&target].clone());
            }
            for hop in self.state.entry_questions(usize::MAX) {
                self.state.apply(Event::Neighbor { hop, status: Status::Absent }, self.now);
            }
            assert!(!self.state.has_questions());
            asked
        }

        fn event(&mut self, event: Event) -> Vec<Ipv4Addr> {
            self.state.apply(event, self.now);
            self.answer()
        }

        fn reason(&self, target: Ipv4Addr) -> String {
            self.state.snapshot().next_hops[&target]
                .as_ref()
                .map_or_else(ToString::to_string, |_| "resolved".to_owned())
        }
    }

    #[test]
    fn a_resolved_network() {
        let snapshot = World::resolved().state.snapshot();
        assert_eq!(Vec::from_iter(snapshot.links), [("eth0".to_owned(), link(1, "eth0").link)]);
        assert_eq!(snapshot.addresses, [OWN].into());
        assert_eq!(snapshot.subnets, [Subnet { interface: "eth0".into(), address: OWN, length: 24 }].into());
        let near = NextHop { interface: "eth0".to_owned(), mac: MAC, gateway: None, source: OWN, mtu: None };
        let far = NextHop { gateway: Some(GATEWAY), ..near.clone() };
        assert_eq!(snapshot.next_hops, [(MEMBER, Ok(near)), (REMOTE, Ok(far))].into());
    }

    #[test]
    fn why_a_target_has_no_next_hop() {
        type Change = fn(&mut World);
        let gone = |world: &mut World| {
            world.routes = [(MEMBER, Err(Unresolved::NoRoute)), (REMOTE, Err(Unresolved::NoRoute))].into();
        };
        let table: &[(&str, Change, &str, &str)] = &[
            ("all is well", |_| {}, "resolved", "resolved"),
            (
                "silent",
                |world| {
                    world.event(neighbor(1, MEMBER, Status::Failed));
                    world.event(neighbor(1, GATEWAY, Status::Failed));
                },
                "no answer to ARP",
                "no answer to ARP from its gateway 10.0.0.254",
            ),
            (
                "the neighbour on another link is another one",
                |world| drop(world.event(neighbor(2, MEMBER, Status::Failed))),
                "resolved",
                "resolved",
            ),
            (
                "no carrier",
                |world| drop(world.event(Event::Link(without_carrier(link(1, "eth0"))))),
                "eth0 is down",
                "eth0 is down",
            ),
            (
                "renamed to what is not listed",
                |world| drop(world.event(Event::Link(link(1, "eth7")))),
                "route leaves by eth7, which is not listed",
                "route leaves by eth7, which is not listed",
            ),
            (
                "another route",
                |world| {
                    world.routes.insert(REMOTE, Ok(route(2, None)));
                    world.event(Event::Routes { network: REMOTE, length: 32 });
                },
                "resolved",
                "route leaves by eth1, which is not listed",
            ),
            (
                "a route by an unknown interface",
                |world| {
                    world.routes.insert(REMOTE, Ok(route(9, None)));
                    world.event(Event::Routes { network: REMOTE, length: 32 });
                },
                "resolved",
                "resolving",
            ),
            (
                "no Ethernet",
                |world| drop(world.event(Event::Link(LinkState { ethernet: false, ..link(1, "eth0") }))),
                "no Ethernet address on eth0",
                "no Ethernet address on eth0",
            ),
        ];
        for (description, change, near, far) in table {
            let mut world = World::resolved();
            change(&mut world);
            assert_eq!((world.reason(MEMBER).as_str(), world.reason(REMOTE).as_str()), (*near, *far), "{description}");
        }

        // Where the route is gone, the link may be the reason.
        let table: &[(&str, Event, &str)] = &[
            ("disabled", Event::Link(disabled(link(1, "eth0"))), "eth0 is down"),
            ("deleted", Event::LinkGone { index: 1 }, "eth0 does not exist"),
            ("merely no route", Event::Routes { network: Ipv4Addr::UNSPECIFIED, length: 0 }, "no route to host"),
        ];
        for (description, event, reason) in table {
            let mut world = World::resolved();
            gone(&mut world);
            world.event(event.clone());
            assert_eq!(
                (world.reason(MEMBER).as_str(), world.reason(REMOTE).as_str()),
                (*reason, *reason),
                "{description}"
            );
        }
    }

    #[test]
    fn a_disabled_link_is_named_for_targets_never_reached() {
        let mut state = State::new(["eth0".to_owned()].into(), &[MEMBER, REMOTE].into());
        state.replace(vec![disabled(link(1, "eth0"))], vec![own(OWN, 24)]);
        let routes = [(MEMBER, Err(Unresolved::NoRoute)), (REMOTE, Err(Unresolved::NoRoute))].into();
        let mut world = World { state, routes, now: Instant::now() };
        world.answer();
        assert_eq!(world.reason(MEMBER), "eth0 is down");
        assert_eq!(world.reason(REMOTE), "no route to host");
    }

    #[test]
    fn which_routes_are_asked_for_again() {
        let routes = |network, length| Event::Routes { network, length };
        let table: &[(&str, Event, &[Ipv4Addr])] = &[
            ("all", routes(Ipv4Addr::UNSPECIFIED, 0), &[MEMBER, REMOTE]),
            ("a prefix with one", routes(Ipv4Addr::new(10, 0, 0, 0), 24), &[MEMBER]),
            ("its host", routes(REMOTE, 32), &[REMOTE]),
            ("a prefix with none", routes(Ipv4Addr::new(172, 16, 0, 0), 12), &[]),
            ("a prefix with host bits and an absurd length", routes(REMOTE, 200), &[REMOTE]),
            ("a link's new state", Event::Link(without_carrier(link(2, "eth1"))), &[MEMBER, REMOTE]),
            ("a link as it was", Event::Link(link(1, "eth0")), &[]),
            ("a new address", Event::Address(own(MEMBER, 32)), &[MEMBER, REMOTE]),
            ("a known address", Event::Address(own(OWN, 24)), &[]),
            ("a lost address", Event::AddressGone(own(OWN, 24)), &[MEMBER, REMOTE]),
            ("an unknown lost address", Event::AddressGone(own(MEMBER, 24)), &[]),
            ("an unknown lost link", Event::LinkGone { index: 77 }, &[]),
            ("a neighbour", neighbor(1, MEMBER, Status::Failed), &[]),
        ];
        for (description, event, expected) in table {
            assert_eq!(World::resolved().event(event.clone()), *expected, "{description}");
        }
    }

    #[test]
    fn a_link_that_comes_back_has_its_neighbours_read_again() {
        let mut world = World::resolved();
        world.event(Event::Link(without_carrier(link(1, "eth0"))));
        world.event(Event::Link(link(1, "eth0")));
        assert_eq!(world.reason(MEMBER), "resolving");
        assert_eq!(world.state.due(world.now).len(), 2);
    }

    #[test]
    fn a_link_created_again_replaces_the_old_one_even_if_its_end_was_missed() {
        let mut world = World::resolved();
        world.routes = [(MEMBER, Ok(route(8, None))), (REMOTE, Ok(route(8, Some(GATEWAY))))].into();
        world.event(Event::Link(link(8, "eth0")));
        assert_eq!(world.state.snapshot().links["eth0"].index, 8);
        world.event(neighbor(8, MEMBER, Status::Settled(MAC)));
        assert_eq!(world.reason(MEMBER), "resolved");
    }

    #[test]
    fn invisible_changes_cause_no_snapshot() {
        let mut world = World::resolved();
        world.state.take_changed();
        for event in [
            neighbor(1, MEMBER, Status::Stale(MAC)),
            neighbor(1, MEMBER, Status::Absent),
            neighbor(1, MEMBER, Status::Incomplete),
            neighbor(1, MEMBER, Status::Settled(MAC)),
            neighbor(1, Ipv4Addr::new(10, 0, 0, 77), Status::Settled(MAC)),
            Event::Link(link(1, "eth0")),
            Event::Routes { network: MEMBER, length: 32 },
        ] {
            world.event(event.clone());
            assert!(!world.state.take_changed(), "{event:?}");
        }
    }

    #[test]
    fn lost_events_leave_all_in_use_until_it_is_read_again() {
        let mut world = World::resolved();
        world.event(Event::Overrun);
        assert!(world.state.must_read_all());
        assert_eq!(world.reason(MEMBER), "resolved");
        world.state.replace(vec![link(1, "eth0")], vec![own(OWN, 24)]);
        assert!(!world.state.must_read_all());
        assert_eq!(world.state.entry_questions(10).len(), 2);
        assert_eq!(world.reason(MEMBER), "resolved");
    }

    #[test]
    fn targets_come_and_go() {
        let mut world = World::resolved();
        let new = Ipv4Addr::new(10, 0, 0, 3);
        world.routes.insert(new, Ok(route(1, None)));
        world.state.watch(&[MEMBER, new].into());
        assert_eq!(world.answer(), [new]);
        assert!(world.state.snapshot().next_hops.keys().eq([&MEMBER, &new]));
        assert_eq!((world.reason(MEMBER).as_str(), world.reason(new).as_str()), ("resolved", "resolving"));
    }

    #[test]
    fn a_full_table_is_counted_from_the_start() {
        let mut world = World::resolved();
        world.state.table_fulls(1000);
        assert_eq!(world.state.snapshot().table_overflows, 0);
        world.state.table_fulls(1003);
        world.state.table_fulls(1004);
        assert_eq!(world.state.snapshot().table_overflows, 4);

        let hop = Hop { index: 1, address: MEMBER };
        world.event(neighbor(1, MEMBER, Status::Failed));
        world.state.asked(hop, Asked::TableFull, world.now);
        assert_eq!(world.reason(MEMBER), "the kernel's neighbour table is full (net.ipv4.neigh.default.gc_thresh3)");
    }
}
