//! Gratuitous ARP when a VIP comes up, and the alarm when another host claims its address.
//!
//! The workers answer ARP requests by themselves (`dataplane::arp`); this is the part that needs a clock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::dataplane::arp::announcement;
use crate::dataplane::verdict::Conflict;

/// Announcements per address and occasion, one per [`INTERVAL`]: keepalived's `vrrp_garp_master_repeat`. One alone may
/// be lost while a switch port is still learning.
const REPEAT: u32 = 5;

/// Between two announcements of the same address (RFC 5227 §1.1 `ANNOUNCE_INTERVAL` is 2 s; keepalived sends at once).
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Announcements per [`INTERVAL`]: half of the orders that a worker lets lie.
const PER_INTERVAL: usize = 32;

/// Between two alarms about the same pair of address and MAC: loud enough to be seen, not so loud as to fill a disk.
const ALARM_INTERVAL: Duration = Duration::from_mins(1);

/// Pairs that are remembered for [`ALARM_INTERVAL`]; somebody who makes up more of them gets no more lines.
const MOST_ALARMS: usize = 1024;

/// What is still to be announced.
#[derive(Debug, Default)]
pub struct Announcer {
    /// In turn: how often each is still to be said.
    pending: VecDeque<(Ipv4Addr, u32)>,
    alarms: HashMap<(u32, [u8; 6]), Instant>,
}

impl Announcer {
    /// These addresses have just come up (or their interface has): announce them anew.
    pub fn came_up(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        let once: BTreeSet<_> = addresses.into_iter().collect();
        self.pending = once.into_iter().map(|address| (address, REPEAT)).collect();
    }

    /// Sends what is due, at most `PER_INTERVAL` of them; call once per [`INTERVAL`]. What `send` does not take is
    /// sent the next time.
    pub fn announce(&mut self, mac: [u8; 6], mut send: impl FnMut(&[u8]) -> bool) {
        for _ in 0..self.pending.len().min(PER_INTERVAL) {
            let Some((address, left)) = self.pending.pop_front() else { return };
            let left = left - u32::from(send(&announcement(address.into(), mac)));
            if left > 0 {
                self.pending.push_back((address, left));
            }
        }
    }

    /// Whether this claim deserves an alarm now: the first of its kind in a while.
    pub fn is_alarming(&mut self, conflict: &Conflict, now: Instant) -> bool {
        self.alarms.retain(|_, raised| now.duration_since(*raised) < ALARM_INTERVAL);
        if self.alarms.len() >= MOST_ALARMS {
            return false;
        }
        let mut is_new = false;
        self.alarms.entry((conflict.address, conflict.mac)).or_insert_with(|| {
            is_new = true;
            now
        });
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_announced_five_times_and_few_at_a_time() {
        let mut announcer = Announcer::default();
        let addresses: Vec<_> = (0..200u8).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
        announcer.came_up(addresses.iter().chain(&addresses).copied());
        let mut sent: HashMap<[u8; 4], u32> = HashMap::new();
        for interval in 0..100 {
            let mut count = 0;
            announcer.announce([2; 6], |frame| {
                // Now and then the worker has no room.
                let taken = (interval + count) % 3 > 0;
                count += 1;
                *sent.entry([frame[28], frame[29], frame[30], frame[31]]).or_default() += u32::from(taken);
                taken
            });
            assert!(count <= PER_INTERVAL);
        }
        assert_eq!(sent.len(), 200);
        assert!(sent.values().all(|&count| count == REPEAT));
    }

    #[test]
    fn one_alarm_a_minute_per_claimant() {
        let mut announcer = Announcer::default();
        let (start, claim) = (Instant::now(), Conflict { address: 1, mac: [1; 6] });
        assert!(announcer.is_alarming(&claim, start));
        assert!(!announcer.is_alarming(&claim, start + Duration::from_secs(59)));
        assert!(announcer.is_alarming(&Conflict { mac: [2; 6], ..claim }, start));
        assert!(announcer.is_alarming(&claim, start + Duration::from_secs(61)));
    }
}
