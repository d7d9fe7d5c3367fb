//! Gratuitous ARP when a VIP comes up, and the alarm when another host claims its address.
//!
//! The workers answer ARP requests by themselves (`dataplane::arp`); this is the part that needs a clock.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::dataplane::arp::announcement;
use crate::dataplane::process::Conflict;

/// Announcements per address and occasion, one per [`INTERVAL`]: keepalived's `vrrp_garp_master_repeat`. One alone may
/// be lost while a switch port is still learning.
const REPEAT: u32 = 5;

/// Between two announcements of the same address (RFC 5227 §1.1 `ANNOUNCE_INTERVAL` is 2 s; keepalived sends at once).
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Between two alarms about the same pair of address and MAC: loud enough to be seen, not so loud as to fill a disk.
const ALARM_INTERVAL: Duration = Duration::from_mins(1);

/// Pairs that are remembered for [`ALARM_INTERVAL`]; somebody who makes up more of them gets no more lines.
const MOST_ALARMS: usize = 1024;

/// What is still to be announced.
#[derive(Debug, Default)]
pub struct Announcer {
    pending: HashMap<Ipv4Addr, u32>,
    alarms: HashMap<(u32, [u8; 6]), Instant>,
}

impl Announcer {
    /// These addresses have just come up (or their interface has): announce them anew.
    pub fn came_up(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        self.pending = addresses.into_iter().map(|address| (address, REPEAT)).collect();
    }

    /// Whether [`Announcer::frames`] has something to say.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The frames to send now; call once per [`INTERVAL`].
    pub fn frames(&mut self, mac: [u8; 6]) -> Vec<[u8; 60]> {
        let frames = self.pending.keys().map(|&address| announcement(address.into(), mac)).collect();
        self.pending.retain(|_, left| {
            *left -= 1;
            *left > 0
        });
        frames
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
    fn an_address_is_announced_five_times() {
        let mut announcer = Announcer::default();
        announcer.came_up([Ipv4Addr::new(192, 0, 2, 1)]);
        let sent: usize = (0..10).map(|_| announcer.frames([2; 6]).len()).sum();
        assert_eq!(sent, 5);
        assert!(!announcer.is_pending());
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
