//! The median, and an interval for it that assumes nothing about how values are distributed.

/// A median with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    /// The sample's median.
    pub(crate) value: f64,
    /// The interval's ends: values of the sample.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// The probability that such an interval holds the true median: at least 0.95, if the sample is large enough.
    pub(crate) confidence: f64,
}

/// The median of `values` and the interval between the k-th smallest and the k-th largest of them, for the largest k
/// that leaves at least 95 %.
///
/// The true median lies outside only if fewer than k of n values fell on one side of it, each with probability 1/2:
/// the sign test turned around (David and Nagaraja, Order Statistics, §7.1).
pub(crate) fn median(values: &[f64]) -> Option<Median> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let middle = *sorted.get(count / 2)?;
    let value = if count.is_multiple_of(2) { f64::midpoint(sorted[count / 2 - 1], middle) } else { middle };
    let mut rank = 1;
    while 2 * (rank + 1) <= count && confidence(count, rank + 1) >= 0.95 {
        rank += 1;
    }
    Some(Median { value, low: sorted[rank - 1], high: sorted[count - rank], confidence: confidence(count, rank) })
}

/// 1 − 2 · P(fewer than `rank` heads in `count` tosses).
fn confidence(count: usize, rank: usize) -> f64 {
    let mut probability = 0.5_f64.powf(count as f64);
    let mut tail = 0.0;
    for heads in 0..rank {
        tail += probability;
        probability *= (count - heads) as f64 / (heads + 1) as f64;
    }
    (1.0 - 2.0 * tail).max(0.0)
}
