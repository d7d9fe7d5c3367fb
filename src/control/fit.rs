//! Which of the listed interfaces one data plane can be on together: cheap questions, asked every second, that touch
//! nothing. What does not fit is left out and named, so that it takes none of the others with it.

use std::collections::BTreeMap;

use thiserror::Error;

use super::model::Model;
use super::neighbor::Network;
use super::occupant;
use super::plane::Place;
use crate::dataplane::port::nic;
use crate::dataplane::port::xdp::largest_mtu;

/// What is said of an interface without an Ethernet address.
pub const NOT_ETHERNET: &str = "it has no Ethernet address, and frames are what is forwarded (tun interfaces, tunnels \
                                and lo carry none; a tap interface does)";

/// Why an interface is left out for now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// It does not exist.
    #[error("it does not exist; nothing is served by it until it does")]
    Missing,
    /// It carries bare packets (tun, tunnels) or none (`lo`).
    #[error("not served: {NOT_ETHERNET}")]
    NotEthernet,
    /// Its packets do not fit into a chunk.
    #[error("not served: its MTU {mtu} is more than {largest} (set it with: ip link set {interface} mtu {largest})",
        largest = largest_mtu())]
    Mtu {
        /// The interface's name.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
    /// Somebody else's XDP program is on it.
    #[error("not served: {0}")]
    Occupied(String),
    /// More queues than cores.
    #[error("not served: it has {}, and dataplane.cores names {cores} cores (name more, or: {command})", counted(*.queues))]
    TooFewCores {
        /// How many queues it has.
        queues: u32,
        /// How many cores are named.
        cores: usize,
        /// What gives it no more than that.
        command: String,
    },
    /// A worker has the same queue of every interface.
    #[error(
        "not served: it has {}, and the workers have {wanted} of each interface (set it with: {command})",
        counted(*.queues)
    )]
    Queues {
        /// How many it has.
        queues: u32,
        /// How many the others have.
        wanted: u32,
        /// What gives it as many.
        command: String,
    },
    /// It was tried, and did not take us.
    #[error("not served: {0}; trying again, ever more rarely")]
    Refused(String),
}

/// What is asked of an interface that exists.
#[derive(Debug)]
pub struct Facts<'a> {
    place: Place<'a>,
    queues: u32,
    /// Somebody else's XDP programs.
    occupant: Option<String>,
    /// Why it did not take us a moment ago.
    refused: Option<String>,
}

/// The interfaces that fit, in the order in which they are listed, and the others.
#[derive(Debug, PartialEq, Eq)]
pub struct Fit<'a> {
    /// A plane can be on all of these.
    pub places: Vec<Place<'a>>,
    /// Each that is listed and left out.
    pub unfit: BTreeMap<String, Unfit>,
}

/// Asks all listed interfaces. `is_ours` says on which a running plane is, and `refused` which are not to be tried now.
pub fn ask<'a>(
    model: &Model,
    network: &'a Network,
    is_ours: impl Fn(&Place<'_>) -> bool,
    refused: impl Fn(&Place<'_>) -> Option<String>,
) -> Vec<(String, Option<Facts<'a>>)> {
    let ask = |name: &String| {
        let (name, link) = network.links.get_key_value(name)?;
        let place = Place { name, link };
        let queues = match nic::receive_queues(name) {
            // It has gone since; the kernel will say so in a moment.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return None,
            answer => answer.ok().flatten().unwrap_or(place.link.rx_queues).max(1),
        };
        let occupant = if is_ours(&place) { None } else { occupant::describe(name) };
        Some(Facts { place, queues, occupant, refused: refused(&place) })
    };
    model.interfaces.iter().map(|interface| (interface.name.clone(), ask(&interface.name))).collect()
}

/// Chooses. The number of queues is that of the plane which ran last, as long as any interface has it, so that a change
/// of one interface leaves the others served; else the first listed interface's that fits otherwise.
pub fn choose(facts: Vec<(String, Option<Facts<'_>>)>, last_queues: Option<u32>, cores: Option<usize>) -> Fit<'_> {
    let mut unfit = BTreeMap::new();
    let mut candidates = Vec::new();
    for (name, facts) in facts {
        match facts.ok_or(Unfit::Missing).and_then(|facts| facts.fits_alone(cores)) {
            Ok(facts) => candidates.push(facts),
            Err(why) => {
                unfit.insert(name, why);
            }
        }
    }
    let all: Vec<u32> = candidates.iter().map(|facts| facts.queues).collect();
    let wanted = last_queues.filter(|last| all.contains(last)).or(all.first().copied()).unwrap_or(1);
    let mut places = Vec::new();
    for Facts { place, queues, .. } in candidates {
        if queues == wanted {
            places.push(place);
        } else {
            let command = nic::queues_command(place.name, wanted);
            unfit.insert(place.name.to_owned(), Unfit::Queues { queues, wanted, command });
        }
    }
    Fit { places, unfit }
}

impl Facts<'_> {
    fn fits_alone(self, cores: Option<usize>) -> Result<Self, Unfit> {
        let Self { place, queues, occupant, refused } = &self;
        let interface = place.name.to_owned();
        if place.link.mtu > largest_mtu() {
            return Err(Unfit::Mtu { interface, mtu: place.link.mtu });
        }
        if !place.link.is_ethernet() {
            return Err(Unfit::NotEthernet);
        }
        if let Some(occupant) = occupant {
            return Err(Unfit::Occupied(occupant.clone()));
        }
        if let Some(cores) = cores.filter(|&cores| cores < *queues as usize) {
            let command = nic::queues_command(&interface, cores as u32);
            return Err(Unfit::TooFewCores { queues: *queues, cores, command });
        }
        if let Some(why) = refused {
            return Err(Unfit::Refused(why.clone()));
        }
        Ok(self)
    }
}

/// A number of queues, in words.
pub fn counted(queues: u32) -> String {
    if queues == 1 { "1 queue".to_owned() } else { format!("{queues} queues") }
}

#[cfg(test)]
mod tests {
    use super::super::neighbor::Link;
    use super::*;

    const LINK: Link = Link { index: 1, mac: [2; 6], mtu: 1500, up: true, rx_queues: 1, tx_queues: 1 };
    static PLAIN: Link = LINK;
    static BARE: Link = Link { mac: [0; 6], ..LINK };
    static HUGE: Link = Link { mtu: 3900, ..LINK };

    fn facts(name: &'static str, queues: u32) -> (&'static str, Option<Facts<'static>>) {
        let place = Place { name, link: &PLAIN };
        (name, Some(Facts { place, queues, occupant: None, refused: None }))
    }

    fn chosen(facts: Vec<(&'static str, Option<Facts<'static>>)>, last: Option<u32>) -> (Vec<&'static str>, String) {
        let facts = facts.into_iter().map(|(name, facts)| (name.to_owned(), facts)).collect();
        let fit = choose(facts, last, Some(4));
        let words = fit.unfit.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>();
        (fit.places.iter().map(|place| place.name).collect(), words.join("; "))
    }

    #[test]
    fn the_number_of_queues_stays_what_it_was_while_anybody_has_it() {
        let unequal = || vec![facts("a", 2), facts("b", 1)];
        let (places, words) = chosen(unequal(), Some(1));
        assert_eq!(places, ["b"]);
        let found =
            "a: not served: it has 2 queues, and the workers have 1 of each interface (set it with: ethtool -L a";
        assert!(words.starts_with(found), "{words}");
        assert_eq!(chosen(unequal(), Some(2)).0, ["a"]);
        // Nobody has it any more, or there was none: the first one counts.
        assert_eq!(chosen(unequal(), Some(3)).0, ["a"]);
        assert_eq!(chosen(unequal(), None).0, ["a"]);
        assert_eq!(chosen(vec![facts("a", 2), facts("b", 2)], Some(1)), (vec!["a", "b"], String::new()));
    }

    #[test]
    fn what_does_not_fit_alone_has_no_say_and_is_named() {
        let of = |(name, facts): (&'static str, Option<Facts<'static>>), change: fn(&mut Facts<'static>)| {
            let mut facts = facts.expect("facts");
            change(&mut facts);
            (name, Some(facts))
        };
        let rows = [
            (("a", None), "a: it does not exist; nothing is served by it until it does"),
            (
                of(facts("a", 2), |facts| facts.place.link = &BARE),
                "a: not served: it has no Ethernet address, and frames are what is forwarded (tun interfaces, tunnels \
                 and lo carry none; a tap interface does)",
            ),
            (
                of(facts("a", 2), |facts| facts.place.link = &HUGE),
                "a: not served: its MTU 3900 is more than 3826 (set it with: ip link set a mtu 3826)",
            ),
            (
                of(facts("a", 2), |facts| facts.occupant = Some("another XDP program is attached".into())),
                "a: not served: another XDP program is attached",
            ),
            (
                facts("a", 5),
                "a: not served: it has 5 queues, and dataplane.cores names 4 cores (name more, or: ethtool -L a \
                 combined 4)",
            ),
            (
                of(facts("a", 2), |facts| facts.refused = Some("no".into())),
                "a: not served: no; trying again, ever more rarely",
            ),
        ];
        for (unfit, words) in rows {
            assert_eq!(chosen(vec![unfit, facts("b", 1)], None), (vec!["b"], words.to_owned()));
        }
    }
}
