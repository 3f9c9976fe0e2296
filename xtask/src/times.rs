//! How long each test took, where tests run one at a time, so that it is seen what makes a tier slow.
//!
//! From when the lines come that Rust's test harness prints: `test NAME ... ` comes before a test runs and the rest of the line after
//! it, so that a line is complete when its test is over.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use crate::command;

/// So many are shown.
const SHOWN: usize = 10;

/// Of one run of test programs, or of several.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    tests: Vec<(String, Duration)>,
    /// When the test began that runs now.
    since: Option<Instant>,
    /// Whose name has come in a line that its outcome does not end: the test itself printed something.
    running: Option<String>,
}

impl Times {
    /// Takes a line of the tests' output at the time that it is complete.
    pub(crate) fn line(&mut self, line: &str, now: Instant) {
        let over = match line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            Some((name, outcome)) => {
                self.running = Some(name.to_owned());
                is_outcome(outcome)
            }
            None => is_outcome(line),
        };
        if over && let Some((name, since)) = self.running.take().zip(self.since) {
            self.tests.push((name, now.saturating_duration_since(since)));
            self.since = Some(now);
        } else if self.running.is_none() && line.starts_with("running ") {
            self.since = Some(now);
        }
    }

    /// Adds those of another run, whose names get this before them.
    pub(crate) fn add(&mut self, before: &str, other: &Self) {
        self.tests.extend(other.tests.iter().map(|(name, took)| (format!("{before}{name}"), *took)));
    }

    /// A line for each of the slowest, below one that says what part of all they are. Nothing where no test was timed.
    pub(crate) fn slowest(&self) -> String {
        let mut tests: Vec<_> = self.tests.iter().collect();
        tests.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let all: Duration = tests.iter().map(|(_, took)| *took).sum();
        if all.is_zero() {
            return String::new();
        }
        tests.truncate(SHOWN);
        let slowest: Duration = tests.iter().map(|(_, took)| *took).sum();
        let mut text = format!(
            "the {} slowest of {} tests took {} of {} ({:.0} %)\n",
            tests.len(),
            self.tests.len(),
            command::human(slowest),
            command::human(all),
            slowest.as_secs_f64() / all.as_secs_f64() * 100.0
        );
        for (name, took) in tests {
            let _infallible = writeln!(text, "  {:>6}  {name}", command::human(*took));
        }
        text
    }
}

/// An outcome may have a reason behind it.
fn is_outcome(text: &str) -> bool {
    text == "ok" || text == "FAILED" || text == "ignored" || text.starts_with("ignored, ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of lines, each with the second at which it is complete.
    fn of(lines: &[(u64, &str)]) -> Times {
        let start = Instant::now();
        let mut times = Times::default();
        for (second, line) in lines {
            times.line(line, start + Duration::from_secs(*second));
        }
        times
    }

    #[test]
    fn a_test_takes_from_the_end_of_the_one_before_to_its_own() {
        let times = of(&[
            (100, "   Compiling a test"),
            (200, "running 3 tests"),
            (201, "test a::quick ... ok"),
            (231, "test a::slow ... FAILED"),
            (231, "test b ... ignored, because"),
            (232, "test result: FAILED. 1 passed; 1 failed"),
            (300, "running 1 test"),
            (302, "test c ... ok"),
        ]);
        let expected = "the 4 slowest of 4 tests took 33s of 33s (100 %)\n     30s  a::slow\n    2.0s  c\n    1.0s  \
                        a::quick\n    0.0s  b\n";
        assert_eq!(times.slowest(), expected);
    }

    #[test]
    fn what_a_test_prints_is_no_end_of_it() {
        let times = of(&[
            (0, "running 1 test"),
            (1, "test a ... it prints"),
            (2, "test is what it prints"),
            (3, "ok"),
            (9, "ok"),
        ]);
        assert_eq!(times.tests, [("a".to_owned(), Duration::from_secs(3))]);
    }

    #[test]
    fn of_many_the_ten_slowest_are_shown_with_their_part_of_all() {
        let mut all = Times::default();
        for run in 1..=20 {
            all.add(&format!("{run}: "), &of(&[(0, "running 1 test"), (run, "test a ... ok")]));
        }
        let text = all.slowest();
        assert_eq!(text.lines().next(), Some("the 10 slowest of 20 tests took 2m35s of 3m30s (74 %)"));
        assert_eq!(text.lines().nth(1), Some("     20s  20: a"));
        assert_eq!(text.lines().last(), Some("     11s  11: a"));
    }

    #[test]
    fn where_no_test_ran_nothing_is_said() {
        assert_eq!(of(&[(0, "running 0 tests"), (1, "test result: ok. 0 passed")]).slowest(), "");
    }
}
