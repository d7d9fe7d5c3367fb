//! Which integers name which VIPs and members, across configurations.
//!
//! A VIP is its address, protocol and port; a member is its pool, address and port. Names may change, and so may all
//! else: the id stays, and with it flows and counters. An id whose owner has left the configuration is not given to
//! another while a flow, a client that persistence remembers, or a worker may still name it; its owner may have it back at
//! any time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::sync::Arc;

use thiserror::Error;

use super::model::{Model, Pool, Protocol, Vip, VipPort};
use crate::dataplane::flow::Hands;
use crate::dataplane::limits::Gone;
use crate::dataplane::tables::{IdSet, MemberId, VipId};

/// Whole rounds of the sweep that an id waits for after the workers have left it. In one, everything that named it has
/// been ended or seen; the second makes a mistake about the first's beginning harmless.
const ROUNDS: u64 = 2;

/// What makes a VIP the same one in another configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VipIdentity {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port, or any.
    pub port: VipPort,
}

impl VipIdentity {
    /// This VIP's.
    pub fn of(vip: &Vip) -> Self {
        Self { address: vip.address, protocol: vip.protocol, port: vip.port }
    }
}

/// What makes a member the same one in another configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemberIdentity {
    /// Its pool's name.
    pub pool: Arc<str>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port; 0 where forwarding leaves the port as it is, and so writing it down or not is the same.
    pub port: u16,
}

impl MemberIdentity {
    /// Those of a pool's members, in its order; all differ.
    pub fn of_pool(pool: &Pool) -> Vec<Self> {
        let name: Arc<str> = pool.name.as_str().into();
        let mut taken = HashSet::new();
        let has_twins = has_twins(pool);
        let identity = |member: &super::model::Member| {
            let mut port = 0;
            // A pool that no VIP uses may have an address twice, with ports that nobody has asked for yet.
            if has_twins && !taken.insert((member.address, port)) {
                port = member.port.unwrap_or(1);
                while !taken.insert((member.address, port)) {
                    port = port.wrapping_add(1);
                }
            }
            Self { pool: Arc::clone(&name), address: member.address, port }
        };
        pool.members.iter().map(identity).collect()
    }
}

fn has_twins(pool: &Pool) -> bool {
    let mut addresses: Vec<Ipv4Addr> = pool.members.iter().map(|member| member.address).collect();
    addresses.sort_unstable();
    addresses.windows(2).any(|pair| pair[0] == pair[1])
}

/// There are more VIPs or members than ids, with those that are not free yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "there is no room for {new} new {what}: {live} are served and {waiting} that were removed may still be named by \
     flows, of {most} in all; try again in some seconds"
)]
pub struct NoIds {
    what: &'static str,
    new: usize,
    live: usize,
    waiting: usize,
    most: usize,
}

/// A model's ids, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// One per VIP.
    pub vips: Vec<VipId>,
    /// One per member of each pool.
    pub members: Vec<Vec<MemberId>>,
    /// Every VIP's id that was ever given is below.
    pub vips_end: usize,
    /// Every member's id that was ever given is below.
    pub members_end: usize,
}

impl Assignment {
    /// The ids that nobody has.
    pub fn gone(&self) -> Gone {
        let others = |ids: &mut dyn Iterator<Item = usize>, end| -> IdSet {
            let mut is_taken = vec![false; end];
            for id in ids {
                is_taken[id] = true;
            }
            (0..end).filter(|&id| !is_taken[id]).collect()
        };
        Gone {
            vips: others(&mut self.vips.iter().map(|id| usize::from(id.0)), self.vips_end),
            members: others(&mut self.members.iter().flatten().map(|id| id.0 as usize), self.members_end),
        }
    }
}

/// Ids that are somebody else's from now on than they were: what was counted for them is to be forgotten.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reused {
    /// VIPs'.
    pub vips: Vec<VipId>,
    /// Members'.
    pub members: Vec<MemberId>,
}

/// Who has which id, and which ids are not free yet.
#[derive(Debug)]
pub struct Identities {
    vips: Ids<VipIdentity>,
    members: Ids<MemberIdentity>,
}

impl Default for Identities {
    fn default() -> Self {
        Self { vips: Ids::of("VIPs", VipId::MOST), members: Ids::of("members", MemberId::MOST) }
    }
}

impl Identities {
    /// The ids that this model's VIPs and members would have; changes nothing.
    pub fn assign(&self, model: &Model) -> Result<Assignment, NoIds> {
        let vips = self.vips.assign(&vips_of(model))?;
        let members = self.members.assign(&members_of(model))?;
        let ends = (self.vips.end_with(&vips), self.members.end_with(&members));
        let mut rest = members.into_iter().map(MemberId);
        Ok(Assignment {
            vips: vips.into_iter().map(|id| VipId(id as u16)).collect(),
            members: model.pools.iter().map(|pool| rest.by_ref().take(pool.members.len()).collect()).collect(),
            vips_end: ends.0,
            members_end: ends.1,
        })
    }

    /// Takes this model's VIPs and members for those that there are, with the ids of [`Identities::assign`]. The ids of
    /// those that are there no more wait until every worker has the tables of this `generation`, or later ones.
    pub fn adopt(&mut self, model: &Model, assignment: &Assignment, generation: u64) -> Reused {
        let vips = assignment.vips.iter().map(|id| u32::from(id.0));
        let members = assignment.members.iter().flatten().map(|id| id.0);
        let vips = self.vips.adopt(vips_of(model).into_iter().zip(vips), generation);
        let members = self.members.adopt(members_of(model).into_iter().zip(members), generation);
        Reused {
            vips: vips.into_iter().map(|id| VipId(id as u16)).collect(),
            members: members.into_iter().map(MemberId).collect(),
        }
    }

    /// Frees the ids that nothing names any more. `taken`: the generation of the oldest tables that a worker has.
    pub fn release(&mut self, taken: u64, hands: &Hands) {
        self.vips.release(taken, hands.rounds(), |id| hands.has_seen_vip(VipId(id as u16)));
        self.members.release(taken, hands.rounds(), |id| hands.has_seen_member(MemberId(id)));
    }

    /// How many ids of VIPs and of members are not free yet.
    pub fn waiting(&self) -> (usize, usize) {
        (self.vips.waiting.len(), self.members.waiting.len())
    }
}

fn vips_of(model: &Model) -> Vec<VipIdentity> {
    model.vips.iter().map(VipIdentity::of).collect()
}

fn members_of(model: &Model) -> Vec<MemberIdentity> {
    model.pools.iter().flat_map(MemberIdentity::of_pool).collect()
}

/// One kind's.
#[derive(Debug)]
struct Ids<K> {
    what: &'static str,
    most: usize,
    live: HashMap<K, u32>,
    waiting: HashMap<K, Waiting>,
    /// Somebody had them, and nothing names them.
    free: BTreeSet<u32>,
    /// Nobody ever had this one or a higher one.
    next: u32,
}

/// An id whose owner is gone.
#[derive(Debug)]
struct Waiting {
    id: u32,
    /// That of the first tables without it.
    generation: u64,
    /// The sweep's whole rounds when every worker had those tables; `None`: some have older ones.
    since: Option<u64>,
}

impl<K: Clone + Eq + Hash> Ids<K> {
    fn of(what: &'static str, most: usize) -> Self {
        Self { what, most, live: HashMap::new(), waiting: HashMap::new(), free: BTreeSet::new(), next: 0 }
    }

    fn assign(&self, identities: &[K]) -> Result<Vec<u32>, NoIds> {
        // The lowest first: tables are as long as the highest.
        let mut fresh = self.free.iter().copied().chain(self.next..self.most as u32);
        let known = |identity| {
            let waiting = || self.waiting.get(identity).map(|waiting| waiting.id);
            self.live.get(identity).copied().or_else(waiting)
        };
        let ids: Option<Vec<u32>> = identities.iter().map(|one| known(one).or_else(|| fresh.next())).collect();
        ids.ok_or_else(|| NoIds {
            what: self.what,
            new: identities.iter().filter(|one| known(one).is_none()).count(),
            live: self.live.len(),
            waiting: self.waiting.len(),
            most: self.most,
        })
    }

    fn end_with(&self, ids: &[u32]) -> usize {
        ids.iter().map(|id| id + 1).max().unwrap_or(0).max(self.next) as usize
    }

    /// Says which of the ids were somebody else's before.
    fn adopt(&mut self, owners: impl Iterator<Item = (K, u32)>, generation: u64) -> Vec<u32> {
        let mut left = std::mem::take(&mut self.live);
        let mut reused = Vec::new();
        for (identity, id) in owners {
            left.remove(&identity);
            self.waiting.remove(&identity);
            if self.free.remove(&id) {
                reused.push(id);
            }
            self.next = self.next.max(id + 1);
            self.live.insert(identity, id);
        }
        for (identity, id) in left {
            self.waiting.insert(identity, Waiting { id, generation, since: None });
        }
        reused
    }

    fn release(&mut self, taken: u64, rounds: u64, is_named: impl Fn(u32) -> bool) {
        let free = &mut self.free;
        self.waiting.retain(|_, waiting| {
            if waiting.since.is_none() && taken >= waiting.generation {
                waiting.since = Some(rounds);
            }
            // The round that was under way when it began to wait does not count.
            let is_over = waiting.since.is_some_and(|since| rounds > since + ROUNDS) && !is_named(waiting.id);
            if is_over {
                free.insert(waiting.id);
            }
            !is_over
        });
    }
}

#[cfg(test)]
mod tests;
