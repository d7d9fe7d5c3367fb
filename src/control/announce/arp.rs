//! Gratuitous ARP when a VIP comes up, and the alarm when another host claims its address.
//!
//! The workers answer ARP requests by themselves (`dataplane::arp`); this is the part that needs a clock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::dataplane::arp::announcement;
use crate::dataplane::tables::InterfaceId;
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

/// An address, and the interface by which it is announced.
pub type Announcement = (Ipv4Addr, InterfaceId);

/// What is still to be announced.
#[derive(Debug, Default)]
pub struct Announcer {
    /// In turn: how often each is still to be said, and where.
    pending: VecDeque<(Announcement, u32)>,
    alarms: HashMap<(u32, [u8; 6]), Instant>,
}

impl Announcer {
    /// These addresses have just come up (or an interface has): announce them anew.
    pub fn came_up(&mut self, announcements: impl IntoIterator<Item = Announcement>) {
        let once: BTreeSet<_> = announcements.into_iter().collect();
        self.pending = once.into_iter().map(|announcement| (announcement, REPEAT)).collect();
    }

    /// Sends what is due, at most `PER_INTERVAL` of them; call once per [`INTERVAL`]. What `send` does not take is
    /// sent the next time, and so is what waits for an interface without a `mac`: one that is down.
    pub fn announce(
        &mut self,
        mac: impl Fn(InterfaceId) -> Option<[u8; 6]>,
        mut send: impl FnMut(InterfaceId, &[u8]) -> bool,
    ) {
        for _ in 0..self.pending.len().min(PER_INTERVAL) {
            let Some(((address, interface), left)) = self.pending.pop_front() else { return };
            let taken = mac(interface).is_some_and(|mac| send(interface, &announcement(address.into(), mac)));
            let left = left - u32::from(taken);
            if left > 0 {
                self.pending.push_back(((address, interface), left));
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
        let address = |last| (Ipv4Addr::new(192, 0, 2, last), InterfaceId(0));
        let addresses: Vec<_> = (0..200u8).map(address).collect();
        announcer.came_up(addresses.iter().chain(&addresses).copied());
        let mut sent: HashMap<[u8; 4], u32> = HashMap::new();
        for interval in 0..100 {
            let mut count = 0;
            announcer.announce(
                |_| Some([2; 6]),
                |_, frame| {
                    // Now and then the worker has no room.
                    let taken = (interval + count) % 3 > 0;
                    count += 1;
                    *sent.entry([frame[28], frame[29], frame[30], frame[31]]).or_default() += u32::from(taken);
                    taken
                },
            );
            assert!(count <= PER_INTERVAL);
        }
        assert_eq!(sent.len(), 200);
        assert!(sent.values().all(|&count| count == REPEAT));
    }

    #[test]
    fn an_interface_that_is_down_is_waited_for_and_the_other_is_not_held_up() {
        let mut announcer = Announcer::default();
        let address = Ipv4Addr::new(192, 0, 2, 1);
        announcer.came_up([(address, InterfaceId(0)), (address, InterfaceId(1))]);
        let mut sent = Vec::new();
        for _ in 0..10 {
            announcer.announce(
                |interface| (interface.0 == 1).then_some([2; 6]),
                |interface, _| {
                    sent.push(interface.0);
                    true
                },
            );
        }
        assert_eq!(sent, [1; REPEAT as usize]);
        announcer.announce(
            |_| Some([2; 6]),
            |interface, _| {
                sent.push(interface.0);
                true
            },
        );
        assert_eq!(sent.last(), Some(&0));
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
