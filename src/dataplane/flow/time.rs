//! The table's coarse clock, and how long flows live by it.

use std::time::Duration;

/// A moment, in nanoseconds of the monotonic clock; read once per burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

/// A moment in units of 2^29 ns (0.537 s), modulo 2^23 of them (52 days).
///
/// Shorter ticks would wrap sooner than flows may be idle, longer ones could not tell a timeout of a second. Half of
/// the circle is the past, half the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick(u32);

impl Tick {
    /// Bits of a tick.
    pub(super) const BITS: u32 = 23;
    pub(super) const MASK: u32 = (1 << Self::BITS) - 1;
    /// A tick is 2^29 ns: shifting costs nothing, dividing would.
    const SHIFT: u32 = 29;
    /// Nanoseconds in a tick.
    pub(super) const NANOSECONDS: u64 = 1 << Self::SHIFT;

    #[inline]
    pub(super) const fn at(now: Now) -> Self {
        Self((now.0 >> Self::SHIFT) as u32 & Self::MASK)
    }

    #[inline]
    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::MASK)
    }

    #[inline]
    pub(super) const fn get(self) -> u32 {
        self.0
    }

    /// Ticks since an earlier one; 0 if it is not earlier: another worker's clock is read at another moment.
    #[inline]
    pub(super) const fn since(self, earlier: Self) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0) & Self::MASK;
        if difference > Self::MASK / 2 { 0 } else { difference }
    }

    /// The later of two.
    #[inline]
    pub(super) const fn or_later(self, other: Self) -> Self {
        if other.since(self) > 0 { other } else { self }
    }
}

/// The longest timeout, ticks: a quarter of the circle, 13 days. So the sweep, which comes by every few seconds, has
/// as long again to end a flow before its tick could be mistaken for the future.
pub(super) const LONGEST: u32 = 1 << (Tick::BITS - 2);

/// A flow's moment is written anew when this part of its timeout has passed, not at every tick, so that lines stay
/// clean: 1 / 2^5. Its price is that idle flows live up to 3 % longer than their timeout.
const REFRESH_SHIFT: u32 = 5;

/// How long a VIP's flows live after their last packet, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// In ticks, by phase. A flow is expired when it is older than this and the refresh granule together.
    limits: [u32; 8],
    /// The parts of them after which a moment is written anew.
    granules: [u32; 8],
}

impl Timeouts {
    /// From one duration each for TCP flows that are embryonic, established and closing, and for UDP's.
    ///
    /// No flow expires before its timeout (but an evictable one may have to make room before); it may live longer by 1/32
    /// of it and two ticks (1.1 s). More than 13 days count as that.
    pub fn new(embryonic: Duration, established: Duration, closing: Duration, udp: Duration) -> Self {
        // One more, since a packet's tick may have begun up to a tick before it.
        let ticks = |timeout: Duration| {
            let ticks = timeout.as_nanos().div_ceil(1 << Tick::SHIFT) + 1;
            u32::try_from(ticks).map_or(LONGEST, |ticks| ticks.min(LONGEST))
        };
        let [embryonic, established, closing, udp] = [embryonic, established, closing, udp].map(ticks);
        // Slots that are nobody's or in the making do not expire.
        let never = Tick::MASK;
        let limits = [never, never, never, embryonic, established, closing, udp, udp];
        Self { limits, granules: limits.map(|limit| limit >> REFRESH_SHIFT) }
    }

    /// Whether an entry of this phase and age is expired.
    #[inline]
    pub(super) fn is_expired(&self, phase: usize, age: u32) -> bool {
        let limit = self.limits[phase & 7];
        age > limit + self.granules[phase & 7]
    }

    /// Whether an entry of this phase, last seen in that tick, is certainly not to be refreshed. In one comparison:
    /// what lies ahead is left to [`Tick::since`].
    #[inline]
    pub(super) fn is_fresh(&self, phase: usize, now: Tick, seen: Tick) -> bool {
        now.0.wrapping_sub(seen.0) & Tick::MASK <= self.granules[phase & 7]
    }

    /// Whether an entry of this phase and age is to be refreshed by a packet.
    #[inline]
    pub(super) fn is_stale(&self, phase: usize, age: u32) -> bool {
        age > self.granules[phase & 7]
    }
}

impl Default for Timeouts {
    /// The configuration's defaults.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self::new(seconds(30), seconds(15 * 60), seconds(10), seconds(2 * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::super::word::Phase;
    use super::*;

    const TICK: u64 = 1 << Tick::SHIFT;

    #[test]
    fn time_wraps() {
        let last = Tick::from_bits(Tick::MASK);
        let first = Tick::at(Now(TICK << Tick::BITS));
        assert_eq!(first.get(), 0);
        assert_eq!(first.since(last), 1);
        assert_eq!(last.since(first), 0, "what is ahead is not old");
        assert_eq!(first.or_later(last), first);
        assert_eq!(last.or_later(first), first);
        assert_eq!(last.or_later(last), last);
        assert_eq!(Tick::from_bits(LONGEST * 2 - 1).since(Tick::from_bits(0)), LONGEST * 2 - 1);
    }

    #[test]
    fn no_flow_ends_before_its_timeout_and_few_long_after() {
        let established = Phase::Established as usize;
        for seconds in [1, 2, 10, 30, 120, 900, 86_400] {
            let timeout = Duration::from_secs(seconds);
            let timeouts = Timeouts::new(timeout, timeout, timeout, timeout);
            let nanos = timeout.as_nanos() as u64;
            for seen in [0, 1, TICK - 1] {
                let seen_at = Tick::at(Now(7 * TICK + seen));
                let age = |later: u64| Tick::at(Now(7 * TICK + seen + later)).since(seen_at);
                // A packet that did not refresh came at most a granule after the one that did.
                let granule = (0..LONGEST).take_while(|&age| !timeouts.is_stale(established, age)).last().expect("one");
                let unseen = u64::from(granule) * TICK;
                assert!(!timeouts.is_expired(established, age(nanos)), "{seconds} s");
                assert!(granule == 0 || !timeouts.is_expired(established, age(unseen + nanos)), "{seconds} s");
                let late = nanos + nanos / 32 + 3 * TICK;
                assert!(timeouts.is_expired(established, age(late)), "{seconds} s");
            }
        }
    }

    #[test]
    fn the_longest_timeout_leaves_room_on_the_circle() {
        let long = Duration::from_secs(u64::MAX);
        let timeouts = Timeouts::new(long, long, long, long);
        assert!(timeouts.is_expired(4, LONGEST + LONGEST / 32 + 1));
        assert!(!timeouts.is_expired(4, LONGEST));
        const { assert!(LONGEST + LONGEST / 32 < Tick::MASK / 2) };
    }

    #[test]
    fn slots_without_a_flow_do_not_expire() {
        for phase in [Phase::Free, Phase::Busy, Phase::Pending] {
            assert!(!Timeouts::default().is_expired(phase as usize, Tick::MASK));
        }
    }
}
