//! Gratuitous ARP when a VIP comes up, and the alarm when another host claims its address.
//!
//! The workers answer ARP requests by themselves (`dataplane::arp`); this is the part that needs a clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::dataplane::arp::announcement;
use crate::dataplane::tables::InterfaceId;
use crate::dataplane::verdict::Conflict;

/// Announcements per address and occasion, the first at once, then one per [`INTERVAL`]: keepalived's
/// `vrrp_garp_master_repeat`. One alone may be lost while a switch port is still learning.
const REPEAT: u32 = 5;

/// Between two announcements of the same address (RFC 5227 §1.1 `ANNOUNCE_INTERVAL` is 2 s; keepalived sends at once).
const INTERVAL: Duration = Duration::from_secs(1);

/// Between two batches, of as many announcements as the workers take orders: a worker has them sent in far less. Longer,
/// and hundreds of addresses wait for each other; shorter, and switches see their control plane's queues fill.
const PACE: Duration = Duration::from_millis(10);

/// Between two alarms about the same pair of address and MAC: loud enough to be seen, not so loud as to fill a disk.
const ALARM_INTERVAL: Duration = Duration::from_mins(1);

/// Pairs that are remembered for [`ALARM_INTERVAL`]; somebody who makes up more of them gets no more lines.
const MOST_ALARMS: usize = 1024;

/// An address, and the interface by which it is announced.
pub type Announcement = (Ipv4Addr, InterfaceId);

/// What is announced, and what of it is still to be said.
#[derive(Debug, Default)]
pub struct Announcer {
    /// The MAC that each is announced with.
    announced: BTreeMap<Announcement, [u8; 6]>,
    /// In turn: those that have not been said yet.
    first: VecDeque<Announcement>,
    /// In the order in which they are due: when, what, and how often it is still to be said.
    repeats: VecDeque<(Instant, Announcement, u32)>,
    /// The next batch is not before.
    paced: Option<Instant>,
    alarms: HashMap<(u32, [u8; 6]), Instant>,
}

impl Announcer {
    /// Whoever knew these addresses may have forgotten: what is followed next is announced anew, all of it.
    pub fn forget(&mut self) {
        self.announced.clear();
    }

    /// These are the announcements from now on, each with its MAC: what is new, or has another MAC, is announced; what
    /// is not among them any more is not repeated.
    pub fn follow(&mut self, announcements: BTreeMap<Announcement, [u8; 6]>) {
        let is_new = |(announcement, mac): &(&Announcement, &[u8; 6])| self.announced.get(*announcement) != Some(*mac);
        let new: BTreeSet<_> = announcements.iter().filter(is_new).map(|(announcement, _)| *announcement).collect();
        let goes_on = |one: &Announcement| announcements.contains_key(one) && !new.contains(one);
        self.first.retain(goes_on);
        self.repeats.retain(|(_, one, _)| goes_on(one));
        self.first.extend(new);
        self.announced = announcements;
    }

    /// When [`Announcer::announce`] is to be called next; `None` if nothing is left to be said.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let due = if self.first.is_empty() { self.repeats.front()?.0 } else { now };
        Some(self.paced.map_or(due, |paced| due.max(paced)))
    }

    /// Sends what is due, for as long as `send` takes it.
    pub fn announce(&mut self, now: Instant, mut send: impl FnMut(InterfaceId, &[u8]) -> bool) {
        self.paced = Some(now + PACE);
        let announced = &self.announced;
        let mut say = |one: Announcement| {
            let (address, interface) = one;
            announced.get(&one).is_none_or(|mac| send(interface, &announcement(address.into(), *mac)))
        };
        while let Some(&one) = self.first.front() {
            if !say(one) {
                return;
            }
            self.first.pop_front();
            self.repeats.push_back((now + INTERVAL, one, REPEAT - 1));
        }
        while let Some(&(due, one, left)) = self.repeats.front() {
            if due > now || !say(one) {
                return;
            }
            self.repeats.pop_front();
            if left > 1 {
                self.repeats.push_back((now + INTERVAL, one, left - 1));
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

    const MAC: [u8; 6] = [2; 6];

    fn address(index: u16) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xc000_0200 + u32::from(index))
    }

    fn on(interfaces: &[u8], addresses: u16) -> BTreeMap<Announcement, [u8; 6]> {
        let on = |&id| (0..addresses).map(move |index| ((address(index), InterfaceId(id)), MAC));
        interfaces.iter().flat_map(on).collect()
    }

    /// What is sent, and when, until nothing is left; a worker takes as many orders at a time.
    fn say(announcer: &mut Announcer, start: Instant, orders: usize) -> Vec<(Duration, Announcement)> {
        let (mut now, mut said) = (start, Vec::new());
        while let Some(due) = announcer.due(now) {
            now = now.max(due);
            let mut room = orders;
            announcer.announce(now, |interface, frame| {
                let address = Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]);
                let taken = room > 0;
                if taken {
                    room -= 1;
                    said.push((now - start, (address, interface)));
                }
                taken
            });
            assert!(now < start + Duration::from_mins(1), "it does not come to an end");
        }
        said
    }

    #[test]
    fn hundreds_are_announced_at_once_and_then_once_a_second() {
        let mut announcer = Announcer::default();
        announcer.follow(on(&[0, 1], 400));
        let mut times: BTreeMap<Announcement, Vec<Duration>> = BTreeMap::new();
        for (at, what) in say(&mut announcer, Instant::now(), 32) {
            times.entry(what).or_default().push(at);
        }
        assert_eq!(times.len(), 800);
        for times in times.values() {
            assert_eq!(times.len(), REPEAT as usize);
            assert!(times[0] <= Duration::from_millis(250), "{times:?}");
            assert!(
                times.windows(2).all(|pair| (1000..1300).contains(&pair[1].abs_diff(pair[0]).as_millis())),
                "{times:?}"
            );
        }
    }

    #[test]
    fn only_what_is_new_is_announced_and_what_is_over_is_not_repeated() {
        let (mut announcer, start) = (Announcer::default(), Instant::now());
        announcer.follow(on(&[0], 2));
        let twice = |interface| [0, 1].map(|index| (address(index), InterfaceId(interface)));
        let mut said = Vec::new();
        let mut once = |announcer: &mut Announcer, at: Instant| {
            said.clear();
            announcer.announce(at, |interface, frame| {
                said.push((Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]), interface));
                true
            });
            said.clone()
        };
        assert_eq!(once(&mut announcer, start), twice(0));
        // The same again is nothing new.
        announcer.follow(on(&[0], 2));
        assert_eq!(once(&mut announcer, start), []);
        // The subnet moves to the other interface.
        announcer.follow(on(&[1], 2));
        assert_eq!(once(&mut announcer, start), twice(1));
        assert_eq!(once(&mut announcer, start + INTERVAL), twice(1));
        // Another MAC.
        announcer.follow(on(&[1], 2).into_keys().map(|one| (one, [4; 6])).collect());
        assert_eq!(once(&mut announcer, start + INTERVAL), twice(1));
        // An interface that comes up; then all that were there may have been forgotten.
        announcer.follow(BTreeMap::new());
        assert_eq!(announcer.due(start), None);
        announcer.follow(on(&[1], 1));
        assert_eq!(once(&mut announcer, start + INTERVAL), twice(1)[..1]);
        announcer.forget();
        announcer.follow(on(&[1], 1));
        assert_eq!(say(&mut announcer, start + INTERVAL, 32).len(), REPEAT as usize);
        assert_eq!(announcer.due(start), None);
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
