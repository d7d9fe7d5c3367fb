//! How long packets stay with a worker: a histogram that its worker writes and anybody reads.
//!
//! [`Residence`] has the buckets of an HDR histogram (Gil Tene, `HdrHistogram`; two significant digits) as plain
//! counters of one writer, so recording is a shift and an addition, and a reader holds nobody up. Read, it becomes the
//! `hdrhistogram` crate's [`Histogram`], which knows how to add, subtract and tell percentiles.

use std::iter::repeat_with;

use hdrhistogram::Histogram;

use super::counters::Counter;

/// Each power of two is divided into 128 buckets, so a bucket is at most 1/128 of its value wide.
const HALF: usize = 1 << HALF_BITS;
const HALF_BITS: u32 = 7;

/// Two significant digits: what 128 buckets give.
const DIGITS: u8 = 2;

/// The longest time that is told from longer ones, ns: 2^36 (69 s). Nothing but a stopped machine takes so long; twice
/// as much would cost another kilobyte.
const LONGEST: u64 = (1 << LONGEST_BITS) - 1;
const LONGEST_BITS: u32 = 36;

const BUCKETS: usize = index(LONGEST) + 1;

/// The residence times of one worker's packets, ns, since the process began. 30 KiB, of which a steady load touches a
/// few lines.
#[derive(Debug)]
pub struct Residence {
    buckets: Box<[Counter]>,
}

impl Residence {
    /// Without any packet.
    pub fn new() -> Self {
        Self { buckets: repeat_with(Counter::default).take(BUCKETS).collect() }
    }

    /// Adds so many packets that took this long; more than 69 s count as that. Only the owning worker calls this.
    #[inline]
    pub fn record(&self, nanoseconds: u64, packets: usize) {
        // The index is below `BUCKETS` by construction; the compiler does not know.
        if let Some(bucket) = self.buckets.get(index(nanoseconds.min(LONGEST))) {
            bucket.add(packets as u64);
        }
    }

    /// Adds what has been recorded so far to a histogram made by [`histogram`]. The worker goes on meanwhile: a packet
    /// recorded during the call is in this reading or in the next.
    pub fn add_to(&self, sum: &mut Histogram<u64>) {
        for (index, bucket) in self.buckets.iter().enumerate() {
            let packets = bucket.get();
            if packets > 0 {
                sum.saturating_record_n(lowest(index), packets);
            }
        }
    }
}

impl Default for Residence {
    fn default() -> Self {
        Self::new()
    }
}

/// An empty histogram with the buckets of [`Residence`], ns.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("1 ns and two digits are within the crate's bounds")
}

/// The bucket of a time: below 256 ns one for each, from there 128 for each power of two.
#[inline]
const fn index(nanoseconds: u64) -> usize {
    let shift = (nanoseconds | HALF as u64).ilog2() - HALF_BITS;
    shift as usize * HALF + (nanoseconds >> shift) as usize
}

/// The shortest time in a bucket.
const fn lowest(index: usize) -> u64 {
    let shift = (index / HALF).saturating_sub(1);
    ((index - shift * HALF) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Values at and around every power of two, and some between.
    fn samples() -> impl Iterator<Item = u64> {
        (0..LONGEST_BITS).flat_map(|bit| {
            let power = 1u64 << bit;
            [power - 1, power, power + 1, power + power / 3, power + power / 128].into_iter()
        })
    }

    #[test]
    fn buckets_are_those_of_the_hdrhistogram_crate() {
        let oracle = histogram();
        for value in samples().chain([LONGEST]).filter(|value| *value <= LONGEST) {
            let lowest = lowest(index(value));
            assert_eq!(lowest, oracle.lowest_equivalent(value), "{value}");
            assert_eq!(index(oracle.highest_equivalent(value)), index(value), "{value}");
        }
        assert_eq!(BUCKETS, index(LONGEST) + 1);
        assert_eq!(BUCKETS * 8, 30 << 10);
    }

    #[test]
    fn what_is_read_is_what_the_crate_would_have_recorded() {
        let (residence, mut oracle) = (Residence::new(), histogram());
        for (packets, value) in (1..).zip(samples()) {
            residence.record(value, packets);
            oracle.saturating_record_n(value, packets as u64);
        }
        let mut read = histogram();
        residence.add_to(&mut read);
        assert_eq!(read.len(), oracle.len());
        for percent in [0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 100.0] {
            assert_eq!(read.value_at_percentile(percent), oracle.value_at_percentile(percent), "{percent}");
        }
    }

    #[test]
    fn a_stopped_machine_is_counted_as_the_longest_time() {
        let residence = Residence::new();
        residence.record(LONGEST + 1, 2);
        residence.record(u64::MAX, 1);
        let mut read = histogram();
        residence.add_to(&mut read);
        assert_eq!((read.len(), read.max()), (3, LONGEST));
    }

    #[test]
    fn workers_add_up_and_an_interval_is_a_difference() {
        let (one, other) = (Residence::new(), Residence::new());
        one.record(1000, 64);
        let mut before = histogram();
        one.add_to(&mut before);
        one.record(2000, 64);
        other.record(1_000_000, 1);
        let mut after = histogram();
        one.add_to(&mut after);
        other.add_to(&mut after);
        assert_eq!(after.len(), 129);
        after.subtract(&before).expect("what was, is still there");
        assert_eq!((after.len(), after.count_at(2000), after.count_at(1_000_000)), (65, 64, 1));
        assert!(after.equivalent(after.max(), 1_000_000), "{}", after.max());
    }

    #[test]
    fn a_reader_sees_no_less_than_before_and_in_the_end_everything() {
        /// Readings that found more than the one before: the worker was recording meanwhile.
        const GROWN: usize = 100;
        /// Some ten seconds of recording: if the reader has not seen it grow by then, it does not.
        const MOST_ROUNDS: u64 = 2_000_000_000;
        let (residence, is_done) = (Residence::new(), AtomicBool::new(false));
        let record = || {
            let is_wanted = |_: &u64| !is_done.load(Ordering::Relaxed);
            (0..MOST_ROUNDS).take_while(is_wanted).map(|round| residence.record(round, 3)).count() as u64
        };
        let (grown, rounds) = std::thread::scope(|scope| {
            let writer = scope.spawn(record);
            let (mut before, mut grown) = (histogram(), 0);
            while grown < GROWN && !writer.is_finished() {
                let mut now = histogram();
                residence.add_to(&mut now);
                if now.clone().subtract(&before).is_err() {
                    break;
                }
                grown += usize::from(now.len() > before.len());
                before = now;
            }
            is_done.store(true, Ordering::Relaxed);
            (grown, writer.join().expect("it does not panic"))
        });
        assert_eq!(grown, GROWN, "counts grow, and only grow");
        let mut all = histogram();
        residence.add_to(&mut all);
        assert_eq!(all.len(), rounds * 3);
    }
}
