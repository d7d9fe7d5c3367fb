//! The arithmetic of `benches/end_to_end`, against exact binomial sums: a bench has no tests of its own.

#[path = "../benches/end_to_end/statistics.rs"]
mod statistics;

use statistics::{Median, median};

#[test]
fn intervals_have_the_exact_ranks() {
    // Sample size, rank from below, confidence: 1 - 2 * (sum of the first `rank` binomial coefficients) / 2^size, as
    // tables of sign test intervals have it.
    let table = [(6, 1, 0.969), (8, 1, 0.992), (10, 2, 0.979), (15, 4, 0.965), (20, 6, 0.959), (30, 10, 0.957)];
    for (count, rank, confidence) in table {
        // Any order: descending here.
        let values: Vec<f64> = (1..=count).rev().map(f64::from).collect();
        let found = median(&values).unwrap();
        assert!((found.value - f64::from(count + 1) / 2.0).abs() < 1e-9, "{count}: {found:?}");
        assert!((found.low - f64::from(rank)).abs() < 1e-9, "{count}: {found:?}");
        assert!((found.high - f64::from(count + 1 - rank)).abs() < 1e-9, "{count}: {found:?}");
        assert!((found.confidence - confidence).abs() < 5e-4, "{count}: {found:?}");
    }
}

#[test]
fn few_values_get_what_they_can() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(Median { value: 3.0, low: 3.0, high: 3.0, confidence: 0.0 }));
    assert_eq!(median(&[3.0, 1.0]), Some(Median { value: 2.0, low: 1.0, high: 3.0, confidence: 0.5 }));
}
