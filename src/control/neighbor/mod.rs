//! What the kernel knows that the data plane needs: links, own addresses, and the next hop of every member.
//!
//! The kernel stays the authority: routes are looked up in its FIB, MAC addresses come from its neighbour table, and
//! it sends the ARP requests. This module asks, listens and keeps an immutable [`Network`] up to date.
//!
//! An event's walk: `kernel` (netlink; asks with `questions`) → `decode` (message → event) → `state` (what is known; pure; with `entries`, the neighbour
//! entries that matter and when to ask for them) → `follow` (asks the kernel what `state` wants to know, publishes
//! the snapshot) → `report` (what changed, in words). `xdp` stands beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

mod decode;
mod entries;
mod follow;
mod kernel;
mod message;
mod questions;
mod report;
mod state;
mod xdp;

pub use xdp::xdp_programs;

/// What the kernel knows that the data plane needs. An immutable snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// The listed interfaces that exist now; one that is absent here does not exist.
    pub links: BTreeMap<String, Link>,
    /// Every IPv4 address of this host, on all its interfaces.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The subnets of the listed interfaces' addresses.
    pub subnets: BTreeSet<Subnet>,
    /// One entry for each watched target.
    pub next_hops: BTreeMap<Ipv4Addr, Result<NextHop, Unresolved>>,
    /// How often the kernel's neighbour table refused an entry because it was full, since the watcher started. All
    /// network namespaces of a machine share the table, so another one may have filled it.
    pub table_overflows: u64,
}

/// The addresses that an interface reaches without a router.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    /// The interface.
    pub interface: String,
    /// One of the addresses.
    pub address: Ipv4Addr,
    /// How many leading bits they share.
    pub length: u8,
}

impl Subnet {
    /// Whether the address is one of them.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let differing = u32::BITS.saturating_sub(self.length.into());
        (self.address.to_bits() ^ address.to_bits()).checked_shr(differing).unwrap_or(0) == 0
    }
}

impl Network {
    /// Whether this target has a next hop, or a definite reason why not.
    pub fn is_settled(&self, target: Ipv4Addr) -> bool {
        match self.next_hops.get(&target) {
            Some(Ok(_)) => true,
            Some(Err(reason)) => reason.is_definite(),
            None => false,
        }
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's interface index; another one means the interface was deleted and created again.
    pub index: u32,
    /// All zero where the interface has no Ethernet address.
    pub mac: [u8; 6],
    /// In bytes, without the Ethernet header.
    pub mtu: u32,
    /// Enabled and with carrier (`IFF_UP` and `IFF_LOWER_UP`).
    pub up: bool,
    /// Receive queues that the driver allocated. Fewer may be in use: see `ethtool -l`.
    pub rx_queues: u32,
    /// Transmit queues that the driver allocated. Fewer may be in use: see `ethtool -l`.
    pub tx_queues: u32,
}

/// Where a frame for a target goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// The listed interface by which the kernel's route leaves.
    pub interface: String,
    /// The Ethernet address of the target, or of the gateway in front of it.
    pub mac: [u8; 6],
    /// The router on the way; `None` when the target is on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The address that the kernel would send from; 0.0.0.0 where the host has none.
    pub source: Ipv4Addr,
    /// The route's own MTU, in bytes, where it has one (set by hand, or learned by path MTU discovery).
    pub mtu: Option<u32>,
}

/// Why a target has no next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// No route matches.
    NoRoute,
    /// A route of type `unreachable` matches.
    Unreachable,
    /// A route of type `prohibit` matches.
    Prohibited,
    /// A route of type `blackhole` matches.
    Blackhole,
    /// The target is an address of this host.
    LocalAddress {
        /// The target.
        address: Ipv4Addr,
    },
    /// The target is a broadcast or multicast address.
    NotUnicast {
        /// The target.
        address: Ipv4Addr,
    },
    /// The route's gateway has an IPv6 address.
    Ipv6Gateway,
    /// The route leaves by an interface that the configuration does not list.
    NotListed {
        /// That interface.
        interface: String,
    },
    /// The interface is disabled or has no carrier.
    LinkDown {
        /// That interface.
        interface: String,
    },
    /// The interface by which the target was reached does not exist any more.
    LinkMissing {
        /// That interface.
        interface: String,
    },
    /// The interface, or the neighbour on it, has no Ethernet address.
    NotEthernet {
        /// That interface.
        interface: String,
    },
    /// Not known yet: the kernel is asking.
    Resolving,
    /// The kernel asked by ARP and got no answer.
    NoAnswer {
        /// The gateway that did not answer; `None` when it was the target itself.
        gateway: Option<Ipv4Addr>,
    },
    /// The kernel had no room for another neighbour.
    TableFull,
    /// The kernel refused the question.
    Refused {
        /// Its error number.
        errno: i32,
    },
    /// The kernel's answer has a form that this program does not know.
    Unreadable,
}

impl Link {
    /// Whether its packets are in Ethernet frames.
    pub fn is_ethernet(&self) -> bool {
        self.mac != [0; 6]
    }
}

impl Unresolved {
    /// Whether this is an answer, and not merely the lack of one so far.
    pub fn is_definite(&self) -> bool {
        *self != Self::Resolving
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => write!(f, "no route to host"),
            Self::Unreachable => write!(f, "its route is of type unreachable"),
            Self::Prohibited => write!(f, "its route is of type prohibit"),
            Self::Blackhole => write!(f, "its route is of type blackhole"),
            Self::LocalAddress { address } => write!(f, "{address} is this host's own address"),
            Self::NotUnicast { address } => write!(f, "{address} is a broadcast or multicast address"),
            Self::Ipv6Gateway => write!(f, "its gateway has an IPv6 address, which is not supported"),
            Self::NotListed { interface } => write!(f, "route leaves by {interface}, which is not listed"),
            Self::LinkDown { interface } => write!(f, "{interface} is down"),
            Self::LinkMissing { interface } => write!(f, "{interface} does not exist"),
            Self::NotEthernet { interface } => write!(f, "no Ethernet address on {interface}"),
            Self::Resolving => write!(f, "resolving"),
            Self::NoAnswer { gateway: None } => write!(f, "no answer to ARP"),
            Self::NoAnswer { gateway: Some(gateway) } => write!(f, "no answer to ARP from its gateway {gateway}"),
            Self::TableFull => write!(f, "the kernel's neighbour table is full ({TABLE_SYSCTL})"),
            Self::Refused { errno } => {
                write!(f, "the kernel refused to look it up: {}", io::Error::from_raw_os_error(*errno))
            }
            Self::Unreadable => write!(f, "the kernel's answer about it could not be read"),
        }
    }
}

/// Why the kernel's network state cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The socket failed later.
    #[error("the netlink socket was closed")]
    Closed,
    /// The socket that asks failed later.
    #[error("the netlink socket failed: {0}")]
    Failed(#[source] io::Error),
    /// The kernel did not answer.
    #[error("the kernel did not answer a netlink request ({0}) within {time:?}", time = questions::ANSWER_WITHIN)]
    Silent(&'static str),
    /// The kernel refused a request that it must answer.
    #[error("the kernel refused a netlink request ({0}): {1}")]
    Refused(&'static str, #[source] io::Error),
}

/// What is to be followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    /// The listed interfaces.
    interfaces: BTreeSet<String>,
    targets: BTreeSet<Ipv4Addr>,
}

/// Follows the kernel's network state, for as long as it lives.
#[derive(Debug)]
pub struct Watcher {
    latest: watch::Receiver<Arc<Network>>,
    wanted: watch::Sender<Wanted>,
    returned: Arc<Network>,
    /// Ends with the watcher.
    _task: JoinSet<()>,
}

impl Watcher {
    /// Starts following; call it inside a tokio runtime, on a thread that is in the network namespace to follow.
    ///
    /// Returns after the first snapshot that has all links, addresses and routes, and the neighbours that the kernel
    /// knew already. An interface that does not exist is not an error: it may appear later.
    pub async fn start(interfaces: Vec<String>, targets: Vec<Ipv4Addr>) -> Result<Self, WatchError> {
        let first = Wanted { interfaces: interfaces.into_iter().collect(), targets: targets.into_iter().collect() };
        let (wanted, wanted_here) = watch::channel(first);
        let (publish, latest) = watch::channel(Arc::new(Network::default()));
        let follower = follow::Follower::start(wanted_here, publish).await?;
        let mut task = JoinSet::new();
        task.spawn(follower.run());
        let returned = latest.borrow().clone();
        Ok(Self { latest, wanted, returned, _task: task })
    }

    /// The latest snapshot.
    pub fn network(&self) -> Arc<Network> {
        self.latest.borrow().clone()
    }

    /// Waits for a snapshot that differs from the one this function returned last (at first: from the one that was
    /// there when the watcher started). May be dropped at any time without losing a change.
    pub async fn changed(&mut self) -> Arc<Network> {
        loop {
            let latest = self.latest.borrow_and_update().clone();
            if latest != self.returned {
                self.returned = Arc::clone(&latest);
                return latest;
            }
            if self.latest.changed().await.is_err() {
                tracing::error!("the kernel's network state is not followed any more");
                std::future::pending::<()>().await;
            }
        }
    }

    /// Replaces the set of targets. What is known about those that stay is kept.
    pub fn watch(&self, targets: impl IntoIterator<Item = Ipv4Addr>) {
        self.wanted.send_modify(|wanted| wanted.targets = targets.into_iter().collect());
    }

    /// Replaces the listed interfaces. All routes are looked up anew if they differ.
    pub fn list(&self, interfaces: impl IntoIterator<Item = String>) {
        self.wanted.send_modify(|wanted| wanted.interfaces = interfaces.into_iter().collect());
    }

    /// Waits until each target has a next hop or a definite reason why not, at most for `timeout`.
    ///
    /// A target that is silent takes as long as the kernel asks: 3 seconds, unless the host's sysctls say otherwise.
    pub async fn first_resolution(&self, timeout: Duration) -> Arc<Network> {
        let mut latest = self.latest.clone();
        let wanted = self.wanted.borrow().targets.clone();
        let settled = latest.wait_for(|network| wanted.iter().all(|target| network.is_settled(*target)));
        let _ = tokio::time::timeout(timeout, settled).await;
        self.network()
    }
}

/// The setting that makes room in the kernel's neighbour table.
const TABLE_SYSCTL: &str = "net.ipv4.neigh.default.gc_thresh3";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_sentences() {
        let interface = || "eth1".to_owned();
        let address = Ipv4Addr::new(198, 51, 100, 4);
        let table = [
            (Unresolved::NoRoute, "no route to host"),
            (Unresolved::NoAnswer { gateway: None }, "no answer to ARP"),
            (Unresolved::NoAnswer { gateway: Some(address) }, "no answer to ARP from its gateway 198.51.100.4"),
            (Unresolved::NotListed { interface: interface() }, "route leaves by eth1, which is not listed"),
            (Unresolved::LocalAddress { address }, "198.51.100.4 is this host's own address"),
            (Unresolved::LinkDown { interface: interface() }, "eth1 is down"),
            (Unresolved::Resolving, "resolving"),
            (Unresolved::TableFull, "the kernel's neighbour table is full (net.ipv4.neigh.default.gc_thresh3)"),
        ];
        for (reason, text) in table {
            assert_eq!(reason.to_string(), text);
        }
    }
}
