//! Medians, their spread and their confidence.

/// A median with the least and the greatest value.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(values: &[f64]) -> Self {
        let sorted = sorted(values);
        let edge = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self { median: median_of(&sorted), least: edge(sorted.first()), greatest: edge(sorted.last()) }
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    median_of(&sorted(values))
}

/// The value that this share of the values does not exceed.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a short list")]
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The 95 % interval of the median, from order statistics: it assumes nothing about how the values are distributed
/// but that they are independent.
pub(super) fn median_interval(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let outside = outside(sorted.len());
    match (sorted.get(outside), sorted.iter().rev().nth(outside)) {
        (Some(&low), Some(&high)) => (low, high),
        _ => (f64::NAN, f64::NAN),
    }
}

/// How many of the least and of the greatest of `number` values lie outside that interval.
fn outside(number: usize) -> usize {
    let mut term = 0.5_f64.powi(i32::try_from(number).unwrap_or(i32::MAX));
    let mut below = 0.0;
    let mut outside = 0;
    for successes in 0..number / 2 {
        below += term;
        if below > 0.025 {
            break;
        }
        outside = successes + 1;
        term *= (number - successes) as f64 / (successes + 1) as f64;
    }
    // With k values left out at each end the interval misses with the probability of fewer than k below, twice.
    outside.saturating_sub(1)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median_of(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted {
        [] => f64::NAN,
        _ if sorted.len() % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median_is_the_tables() {
        // Tables of order statistics: n = 10 → 2nd to 9th, n = 30 → 10th to 21st, n = 60 → 22nd to 39th.
        for (number, rank) in [(10, 2), (30, 10), (60, 22)] {
            let values: Vec<f64> = (1..=number).map(f64::from).collect();
            assert_eq!(median_interval(&values), (f64::from(rank), f64::from(number + 1 - rank)), "{number}");
        }
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (100.0, 198.0));
        assert_eq!((median(&values), median(&[3.0, 1.0, 2.0])), (100.5, 2.0));
    }
}
