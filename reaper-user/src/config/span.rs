//! Durations as people write them: `30s`, `1m30s`, `250ms`.

use std::{fmt, str::FromStr, time::Duration};

use thiserror::Error;

use crate::text::Untrusted;

/// A duration that was written as numbers with units, the largest unit first: `1m30s`, `2.5s`, `250ms`.
/// Units are `d`, `h`, `m`, `s` and `ms`; the last number may have a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Text that is not a [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "\"{0}\" is not a duration: write numbers with units (d, h, m, s, ms), the largest first, such as \"30s\", \"1m30s\" or \"250ms\""
)]
pub struct SpanError(Untrusted);

/// Units and their nanoseconds, the largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        nanoseconds(text).map(|all| Self(Duration::from_nanos(all))).ok_or_else(|| SpanError(text.into()))
    }
}

impl fmt::Display for Span {
    /// Exact to the millisecond, in the form that is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if rest < 1_000_000 {
            return f.write_str("0s");
        }
        for (unit, nanoseconds) in UNITS {
            if rest >= nanoseconds {
                write!(f, "{}{unit}", rest / nanoseconds)?;
                rest %= nanoseconds;
            }
        }
        Ok(())
    }
}

fn nanoseconds(text: &str) -> Option<u64> {
    let mut units = UNITS.as_slice();
    let mut rest = text;
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let (number, tail) = split(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, tail) = split(tail, |c| !c.is_ascii_alphabetic());
        let place = units.iter().position(|(name, _)| *name == unit)?;
        let (_, nanoseconds) = *units.get(place)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.contains('.') && (fraction.is_empty() || !tail.is_empty()) {
            return None;
        }
        sum = sum
            .checked_add(whole.parse::<u64>().ok()?.checked_mul(nanoseconds)?)?
            .checked_add(part(fraction, nanoseconds)?)?;
        units = units.get(place + 1..)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

/// The digits behind a point, of a unit.
fn part(fraction: &str, unit: u64) -> Option<u64> {
    let mut sum = 0;
    let mut weight = unit;
    for digit in fraction.chars() {
        weight /= 10;
        sum += u64::from(digit.to_digit(10)?) * weight;
    }
    Some(sum)
}

fn split(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> Option<u128> {
        text.parse::<Span>().ok().map(|span| span.0.as_millis())
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(ms("5s"), Some(5_000));
        assert_eq!(ms("250ms"), Some(250));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("2.5s"), Some(2_500));
        assert_eq!(ms("1h0.25m"), Some(3_615_000));
        assert_eq!(ms("1d2h3m4s5ms"), Some(93_784_005));
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        let long = "9".repeat(40);
        for text in [
            "", "5", "s", "5 s", "-5s", "5s ago", "5sec", "1s1m", "1s1s", "1.5m3s", "1.s", "1.2.3s", "٣s",
            &long,
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
        assert_eq!(ms("99999999999d"), None);
    }

    #[test]
    fn a_refusal_shows_an_example_and_nothing_raw() {
        let refusal = "5\x1b[2J".parse::<Span>().unwrap_err().to_string();
        assert!(
            refusal.starts_with(r#""5\x1b[2J" is not a duration"#) && refusal.contains("1m30s"),
            "{refusal}"
        );
    }

    #[test]
    fn a_written_duration_reads_back() {
        for text in ["250ms", "30s", "1m30s", "2d1ms", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("2.5s".parse::<Span>().unwrap().to_string(), "2s500ms");
    }
}
