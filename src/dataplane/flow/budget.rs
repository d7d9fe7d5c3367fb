//! How many new flows a worker may enter.

use super::time::Now;

/// A token bucket: above its rate, new flows are hashed and not entered, so that a flood of SYNs takes little of the
/// time of packets whose flows are known. (That no established flow has to make room for a new one is the table's
/// own rule.) Whether anything is left is asked before a burst, so a burst may run it into debt.
#[derive(Debug)]
pub struct NewFlowBudget {
    per_second: u64,
    /// In billionths of a flow, so that a refill loses nothing to rounding; below 0: debt.
    tokens: i64,
    refilled: Now,
}

/// Billionths in one: at `n` flows a second, `n` of them accrue every nanosecond.
const FLOW: i64 = 1_000_000_000;

impl NewFlowBudget {
    /// This many flows a second, a tenth of a second's worth at once. More than 2^32 count as that.
    pub fn new(per_second: u64, now: Now) -> Self {
        let per_second = per_second.min(1 << 32);
        Self { per_second, tokens: Self::most(per_second), refilled: now }
    }

    /// At most a tenth of a second's worth accrues: enough for a burst of clients that come together, not enough to
    /// let a quiet second pay for a flood. But one flow at least.
    fn most(per_second: u64) -> i64 {
        per_second.cast_signed() * (FLOW / 10) + FLOW
    }

    /// Adds what has accrued; once in a burst.
    #[inline]
    pub fn refill(&mut self, now: Now) {
        let elapsed = now.0.saturating_sub(self.refilled.0);
        let accrued = elapsed.saturating_mul(self.per_second).min(i64::MAX.cast_unsigned()).cast_signed();
        self.tokens = self.tokens.saturating_add(accrued).min(Self::most(self.per_second));
        self.refilled = self.refilled.max(now);
    }

    /// Whether a flow's worth is left.
    #[inline]
    pub fn has_left(&self) -> bool {
        self.tokens >= FLOW
    }

    /// Takes one flow's worth.
    #[inline]
    pub fn take(&mut self) {
        self.tokens = self.tokens.saturating_sub(FLOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &mut NewFlowBudget, wanted: usize) -> usize {
        let mut take = || budget.has_left().then(|| budget.take()).is_some();
        (0..wanted).filter(|_| take()).count()
    }

    #[test]
    fn a_second_of_flood_gets_a_seconds_worth() {
        for per_second in [1, 10, 125_000, 1_000_000, 1 << 32] {
            let mut budget = NewFlowBudget::new(per_second, Now(0));
            let mut total = 0;
            // Bursts of 64 every microsecond and a bit.
            for burst in 0..900_000u64 {
                budget.refill(Now(burst * 1111));
                total += taken(&mut budget, 64) as u64;
            }
            let most = per_second * 11 / 10 + 1;
            let offered = 900_000 * 64;
            assert!(total <= most, "{per_second}: {total}");
            assert!(total >= (per_second * 999 / 1000).min(offered), "{per_second}: {total}");
        }
    }

    #[test]
    fn a_quiet_hour_saves_up_a_tenth_of_a_second() {
        let mut budget = NewFlowBudget::new(1000, Now(0));
        budget.refill(Now(3_600_000_000_000));
        assert_eq!(taken(&mut budget, 100_000), 101);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let mut budget = NewFlowBudget::new(1000, Now(5_000_000_000));
        taken(&mut budget, 100_000);
        for now in [5_000_000_000, 4_000_000_000, 5_000_000_000] {
            budget.refill(Now(now));
            assert!(!budget.has_left());
        }
        budget.refill(Now(5_001_000_000));
        assert_eq!(taken(&mut budget, 10), 1);
    }

    #[test]
    fn a_debt_is_paid_before_anything_is_left() {
        let mut budget = NewFlowBudget::new(1000, Now(0));
        (0..101 + 64).for_each(|_| budget.take());
        budget.refill(Now(64_000_000));
        assert!(!budget.has_left());
        budget.refill(Now(65_000_000));
        assert_eq!(taken(&mut budget, 10), 1);
        // A long time at once, too: with one flow a second, two of debt take two seconds.
        let mut slow = NewFlowBudget::new(1, Now(0));
        (0..3).for_each(|_| slow.take());
        slow.refill(Now(2_900_000_000));
        assert_eq!(taken(&mut slow, 10), 1);
    }

    #[test]
    fn no_budget_inserts_next_to_nothing() {
        let mut budget = NewFlowBudget::new(0, Now(0));
        budget.refill(Now(1 << 40));
        assert_eq!(taken(&mut budget, 100), 1);
    }
}
