//! The immutable snapshot that workers read.
//!
//! Control compiles a new one at every change and publishes it whole; nobody ever writes to one that a worker can
//! see. What did not change is not made anew: a worker has it in its cache. All integers are in host byte order unless a
//! field says otherwise.

use std::sync::Arc;

use super::encap::Template;
use super::flow::{Fate, FlowState, Timeouts, TimeoutsOf};
pub use super::ids::{Egress, IdSet, InterfaceId, InterfaceSet, MemberId, VipId};
use super::limits::Limits;
use super::schedule::{OnMemberDown, Pool, Scheduler};
use super::select::Seed;
use super::service::{Destination, ServiceTable};

/// Everything that decides about packets, as of one moment.
#[derive(Debug)]
pub struct Tables {
    /// Grows by one with every publication.
    pub generation: u64,
    /// Destination (address, protocol, port) → VIP.
    pub services: ServiceTable,
    /// Indexed by [`VipId`]; where there is no such VIP, one that nobody is steered to.
    pub vips: Box<[Vip]>,
    /// Indexed by [`MemberId`]; where there is no such member, one that cannot be reached.
    pub members: Arc<[Member]>,
    /// Indexed by [`InterfaceId`].
    pub interfaces: Box<[Interface]>,
    /// The VIPs' addresses, sorted by address, each once.
    pub addresses: Box<[VipAddress]>,
    /// Seeds the selection hash; the same on every node that shares a config.
    pub seed: Seed,
    /// How long flows live whose VIP these tables do not name.
    pub timeouts: Timeouts,
    /// What few VIPs and members ask for.
    pub limits: Limits,
}

/// One virtual service.
#[derive(Debug, Clone)]
pub struct Vip {
    /// The Maglev table: the member of each slot. Empty if no member is usable. VIPs with the same pool share one.
    pub slots: Arc<[MemberId]>,
    /// How long its flows live.
    pub timeouts: Timeouts,
    /// What it serves.
    pub destination: Destination,
    /// How its new flows find a member, and what becomes of those that lose theirs.
    pub pool: Arc<Pool>,
}

/// What is needed to send a packet to one member: one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(64))]
pub struct Member {
    /// How frames get to it.
    pub way: Way,
    /// The interface that its next hop is on.
    pub egress: InterfaceId,
    /// The largest IPv4 packet (header included, bytes) that can be sent to it; an outer header has been taken off.
    pub largest: u16,
}

/// How frames get to a member. The first twelve bytes of every frame to it are its MACs: destination, then source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not at all: it cannot be reached now.
    None,
    /// By direct routing: the MACs are the member's and the egress interface's, and nothing else changes.
    Direct([u8; 12]),
    /// In an IPv4 tunnel: the MACs are those of the next hop on the way to the tunnel's end.
    Ipip([u8; 12], Template),
}

/// One listed interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// One address that has VIPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VipAddress {
    /// The IPv4 address.
    pub address: u32,
    /// Where this node answers ARP for it.
    pub announced: InterfaceSet,
}

impl Member {
    /// Stands where an id is nobody's.
    pub const NOBODY: Self = Self { way: Way::None, egress: InterfaceId(0), largest: 0 };
}

impl Vip {
    /// Stands where an id is nobody's.
    pub fn nobody() -> Self {
        Self {
            slots: std::sync::Arc::new([]),
            timeouts: Timeouts::default(),
            destination: Destination { address: 0, protocol: 0, port: 0 },
            pool: std::sync::Arc::new(Pool::new(Scheduler::Maglev, OnMemberDown::Reselect, Vec::new())),
        }
    }
}

impl Tables {
    /// Tables that serve nothing: what a worker starts with.
    pub fn empty() -> Self {
        Self {
            generation: 0,
            services: ServiceTable::new(&[]),
            vips: Box::default(),
            members: Arc::default(),
            interfaces: Box::default(),
            addresses: Box::default(),
            seed: Seed::from_text(""),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        }
    }

    /// Whether packets can be sent to this member.
    #[inline]
    pub fn is_reachable(&self, id: MemberId) -> bool {
        self.members.get(id.0 as usize).is_some_and(|member| !matches!(member.way, Way::None))
    }

    /// How long this VIP's flows live.
    #[inline]
    pub fn timeouts_of_vip(&self, vip: VipId) -> &Timeouts {
        self.vips.get(usize::from(vip.0)).map_or(&self.timeouts, |vip| &vip.timeouts)
    }

    /// The entry of an address that has VIPs.
    pub fn vip_address(&self, address: u32) -> Option<&VipAddress> {
        let index = self.addresses.binary_search_by_key(&address, |entry| entry.address).ok()?;
        self.addresses.get(index)
    }
}

impl TimeoutsOf for Tables {
    #[inline]
    fn timeouts_of(&self, vip: VipId) -> &Timeouts {
        self.timeouts_of_vip(vip)
    }

    #[inline]
    fn fate_of(&self, vip: VipId, member: MemberId, state: FlowState) -> Fate {
        let gone = &self.limits.gone;
        if !gone.names(vip, member) {
            return Fate::Lives;
        }
        let keeps = || self.vips.get(usize::from(vip.0)).is_some_and(|vip| vip.pool.keeps(state));
        if !gone.vips.contains(usize::from(vip.0)) && keeps() { Fate::Lingers } else { Fate::Ends }
    }
}
