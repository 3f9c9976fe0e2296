//! Durations as people read them: `250ms`, `2.5s`, `12s`, `4m12s`, `3h4m`, `2d3h`.

use std::time::Duration;

/// The duration with at most two units, rounded down: what is said to be so old is.
#[must_use]
pub fn shown(span: Duration) -> String {
    let (seconds, ms) = (span.as_secs(), span.subsec_millis());
    match seconds {
        0 => format!("{ms}ms"),
        1..10 if ms >= 100 => format!("{seconds}.{}s", ms / 100),
        1..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        // From 100 days on the hours no longer matter, and the column is six wide.
        86_400..8_640_000 => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most_and_round_down() {
        for (ms, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (999, "999ms"),
            (2_599, "2.5s"),
            (5_042, "5s"),
            (12_900, "12s"),
            (252_999, "4m12s"),
            (300_000, "5m"),
            (11_045_000, "3h4m"),
            (183_600_000, "2d3h"),
            (8_640_000_000, "100d"),
        ] {
            assert_eq!(shown(Duration::from_millis(ms)), text);
        }
    }
}
