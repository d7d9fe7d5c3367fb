//! Source-address affinity: which member a client's new flows go to. Shared by all workers without locks, of a fixed
//! size: a second [`Table`], whose entries IPVS would call templates (`ip_vs_sched_persist`, Linux
//! `net/netfilter/ipvs/ip_vs_core.c`).
//!
//! A template's key is a client (or the network that it is in, by the VIP's netmask) and a VIP; so all ports of a VIP
//! on any port go together. It begins with the client's first flow, and its timeout begins anew with every other one.
//! While flows of the client to the template's member live, it does: [`Templates::keep`] walks the connection table and
//! renews the templates of what it finds. So a client is forgotten when its last flow has been gone for the timeout;
//! up to 1/32 of it and the time between two walks later. (IPVS looks again every minute whether flows are left, and
//! forgets the client when the last one ends, should the timeout be over by then.)
//!
//! A template of which no flow is established yet makes room for others when the table is full, as an embryonic flow
//! does: clients that do not exist cannot push out those that do.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::flow::{
    Event, Fate, Flow, FlowState, Hand, Insertion, Key as _, KeyV4, Lookup, Now, Place, SWEEP_ROUND, Secret, Signal,
    Table, Timeouts, TimeoutsOf, lines_per_step,
};
use super::ids::{MemberId, VipId};
use super::tables::Tables;

/// How a VIP's clients are kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// The bits of a client's address that count.
    mask: u32,
    /// The same for every state.
    timeouts: Timeouts,
    /// Rounds of the sweep between two looks at a flow whose template is to be kept.
    stride: u32,
}

impl Persistence {
    /// `timeout` is that of a client without flows, `netmask` how many leading bits of its address count.
    pub fn new(timeout: Duration, netmask: u8) -> Self {
        /// A look costs a tenth of a microsecond; so a million flows take 0.3 % of control's time.
        const LONGEST_STRIDE: u64 = 15;
        let quarter = timeout.as_secs() / (4 * SWEEP_ROUND.as_secs());
        Self {
            mask: u32::MAX.checked_shl(32 - u32::from(netmask.min(32))).unwrap_or(0),
            timeouts: Timeouts::new(timeout, timeout, timeout, timeout),
            stride: quarter.clamp(1, LONGEST_STRIDE) as u32,
        }
    }

    /// Rounds between two looks, if each takes so many times longer.
    fn stride(&self, times_longer: usize) -> u32 {
        (self.stride / times_longer as u32).max(1)
    }

    /// The template of a flow's client.
    fn key_of(&self, flow: &KeyV4) -> KeyV4 {
        KeyV4::new(Ipv4Addr::from_bits(flow.client().to_bits() & self.mask), 0, flow.vip(), 0)
    }
}

/// The clients that are remembered, and their members.
#[derive(Debug)]
pub struct Templates {
    v4: Table<KeyV4>,
    live: AtomicI64,
}

/// Where the upkeep stands.
#[derive(Debug)]
pub struct Keeper {
    hand: Hand,
    next_line: u32,
    round: u32,
}

impl Keeper {
    /// What sweeps the templates.
    pub(super) fn hand(&self) -> &Hand {
        &self.hand
    }
}

/// What became of a client that was to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// It was new, and has the member that was given.
    Begun,
    /// It has this member already.
    Has(MemberId),
    /// It has this member now, in place of one that is not usable.
    Moved(MemberId),
    /// There is no room.
    NotRemembered,
}

impl Templates {
    /// A table that fits this many clients over IPv4, and what its upkeep needs.
    ///
    /// # Errors
    ///
    /// The memory is not there.
    pub fn new(clients_v4: usize) -> io::Result<(Self, Keeper)> {
        let (v4, hand) = Table::new(clients_v4, false, Secret::random())?;
        Ok((Self { v4, live: AtomicI64::new(0) }, Keeper { hand, next_line: 0, round: 0 }))
    }

    /// Clients that are remembered now, each once for every VIP.
    pub fn clients(&self) -> u64 {
        self.live.load(Ordering::Relaxed).max(0).cast_unsigned()
    }

    /// Lines of 64 bytes that the table has.
    pub fn lines(&self) -> usize {
        self.v4.lines()
    }

    /// The member that the client of this flow has; changes nothing.
    pub fn member(&self, persistence: &Persistence, flow: &KeyV4, now: Now) -> Option<MemberId> {
        let (place, key) = self.place(persistence, flow);
        match self.v4.lookup(place, &key, (Signal::Syn, now, &persistence.timeouts)) {
            Lookup::Hit(hit) => Some(hit.member),
            Lookup::Miss | Lookup::Over => None,
        }
    }

    /// Remembers that the client of this flow, which begins now, has a member: `chosen`, unless it has a usable one
    /// already. Its timeout begins anew.
    pub fn remember(
        &self,
        (persistence, flow): (&Persistence, &KeyV4),
        chosen: MemberId,
        now: Now,
        tables: &Tables,
        is_usable: impl Fn(MemberId) -> bool,
    ) -> Remembered {
        let (place, key) = self.place(persistence, flow);
        let packet = (Signal::Syn, now, &persistence.timeouts);
        let remembered = match self.v4.lookup(place, &key, packet) {
            Lookup::Hit(hit) if is_usable(hit.member) => Remembered::Has(hit.member),
            Lookup::Hit(hit) => {
                Remembered::Moved(self.v4.rebind((place, &key), (hit.member, chosen), now, |state| state, |_| {}))
            }
            Lookup::Miss | Lookup::Over => return self.begin((place, &key), chosen, now, tables),
        };
        self.v4.advance(place, &key, packet, |event| self.record(event));
        remembered
    }

    fn begin(&self, at: (Place, &KeyV4), member: MemberId, now: Now, tables: &Tables) -> Remembered {
        match self.v4.insert(at, member, (Signal::Syn, now), &OfTemplates(tables), |event| self.record(event)) {
            Insertion::Inserted => Remembered::Begun,
            Insertion::Existing(theirs) => Remembered::Has(theirs),
            Insertion::NotInserted => Remembered::NotRemembered,
        }
    }

    /// Takes note that the client of this flow exists: the flow is established.
    pub fn confirm(&self, persistence: &Persistence, flow: &KeyV4, now: Now) {
        let (place, key) = self.place(persistence, flow);
        self.v4.advance(place, &key, (Signal::Segment, now, &persistence.timeouts), |event| self.record(event));
    }

    /// Ends what has expired in one of `steps` parts of the table, and renews the templates of the flows in one of
    /// `steps` parts of the connection table: those that are due in this round. All steps together are a round.
    pub fn keep(&self, keeper: &mut Keeper, flows: &Table<KeyV4>, now: Now, steps: usize, tables: &Tables) {
        let (lines, _) = lines_per_step(self.v4.lines(), steps);
        self.v4.sweep(&mut keeper.hand, now, lines, &OfTemplates(tables), |event| self.record(event));
        let (lines, times_longer) = lines_per_step(flows.lines(), steps);
        for _ in 0..lines {
            for flow in flows.line(keeper.next_line, now) {
                if let Some(persistence) = &tables.limits.policy_of(flow.key.vip()).persistence
                    && keeper.next_line.wrapping_add(keeper.round).is_multiple_of(persistence.stride(times_longer))
                {
                    self.renew(persistence, &flow, now, tables);
                }
            }
            keeper.next_line += 1;
            if keeper.next_line as usize == flows.lines() {
                keeper.next_line = 0;
                keeper.round = keeper.round.wrapping_add(1);
            }
        }
    }

    /// A flow whose client has gone to another member since does not count; one that is not established counts as much
    /// as when it began.
    fn renew(&self, persistence: &Persistence, flow: &Flow<KeyV4>, now: Now, tables: &Tables) {
        let (place, key) = self.place(persistence, &flow.key);
        // What one datagram or SYN from a forged address leaves does not confirm its client, and neither does an RST after.
        let signal = if flow.state.is_confirmed() { Signal::Segment } else { Signal::Syn };
        match self.v4.lookup(place, &key, (signal, now, &persistence.timeouts)) {
            Lookup::Hit(hit) if hit.member == flow.member && hit.is_news => {
                self.v4.advance(place, &key, (signal, now, &persistence.timeouts), |event| self.record(event));
            }
            Lookup::Hit(_) => {}
            // It had to make room, or the VIP has not been persistent for long.
            Lookup::Miss | Lookup::Over => {
                if tables.vips.get(usize::from(key.vip().0)).is_some_and(|vip| vip.pool.admits(flow.member)) {
                    self.begin((place, &key), flow.member, now, tables);
                }
            }
        }
    }

    fn place(&self, persistence: &Persistence, flow: &KeyV4) -> (Place, KeyV4) {
        let key = persistence.key_of(flow);
        (self.v4.place(&key), key)
    }

    fn record(&self, event: Event) {
        let change = match event {
            Event::Began { .. } => 1,
            Event::Ended { .. } => -1,
            Event::Changed { .. } => return,
        };
        self.live.fetch_add(change, Ordering::Relaxed);
    }
}

/// How long templates live.
struct OfTemplates<'a>(&'a Tables);

impl TimeoutsOf for OfTemplates<'_> {
    fn timeouts_of(&self, vip: VipId) -> &Timeouts {
        // Of a VIP that is persistent no more.
        let others = &self.0.timeouts;
        self.0.limits.policy_of(vip).persistence.as_ref().map_or(others, |persistence| &persistence.timeouts)
    }

    /// A template leads new flows, and none may go to a member that is no more.
    fn fate_of(&self, vip: VipId, member: MemberId, _state: FlowState) -> Fate {
        if self.0.limits.gone.names(vip, member) { Fate::Ends } else { Fate::Lives }
    }
}

#[cfg(test)]
mod tests;
