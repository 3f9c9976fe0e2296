//! What failed in a run of test programs, from what they print: their names for the summary, and what they said, to be shown
//! again when all tiers have run.

use std::fmt::Write as _;

/// Of all test programs of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// Names of tests, in order. A test that was running when the time was over is one of them.
    names: Vec<String>,
    /// What they printed.
    text: String,
}

/// So many lines are shown again of what one test printed before it gave its reason, and of the reason at either end.
const LINES: usize = 10;

/// And so much of a line.
const CHARACTERS: usize = 400;

/// Where the reason begins.
const PANIC: &str = " panicked at ";

/// What is left out: the frames of a stack.
const STACK: [&str; 2] = ["stack backtrace:", "note: Some details are omitted"];

impl Failures {
    /// From the standard output of test programs.
    pub(crate) fn read(output: &str) -> Self {
        let mut failures = Self::default();
        let mut said: Option<(&str, Vec<&str>)> = None;
        for line in output.lines() {
            let section = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----"));
            // After what each has printed comes a list of all names.
            if section.is_some() || line == "failures:" || line.starts_with("test result: ") {
                failures.keep(said.take());
            }
            if let Some(name) = section {
                said = Some((name, Vec::new()));
            } else if let Some((_, lines)) = &mut said {
                lines.push(line);
            }
        }
        failures.keep(said);
        let last = output.lines().next_back().unwrap_or_default();
        if let Some(name) =
            last.strip_prefix("test ").and_then(|line| line.split_once(" ... ")).map(|(name, _)| name)
            && !output.ends_with('\n')
        {
            failures.names.push(format!("{name} (running)"));
        }
        failures
    }

    fn keep(&mut self, said: Option<(&str, Vec<&str>)>) {
        let Some((name, lines)) = said else { return };
        self.names.push(name.to_owned());
        let mut is_frame = false;
        let mut lines = lines;
        lines.retain(|line| {
            is_frame = is_frame && !line.starts_with(STACK[1]) || line.starts_with(STACK[0]);
            !(is_frame || line.is_empty() || line.starts_with(STACK[1]))
        });
        // Rust puts the thread's name and number before it.
        let reason = |line: &&str| line.starts_with("thread '") && line.contains(PANIC);
        let (before, reason) = lines.split_at(lines.iter().position(reason).unwrap_or(lines.len()));
        let _infallible = writeln!(self.text, "---- {name} ----");
        let (above, before) = before.split_at(before.len().saturating_sub(LINES));
        let (begins, reason) = reason.split_at(reason.len().min(LINES));
        let (between, ends) = reason.split_at(reason.len().saturating_sub(LINES));
        self.left_out(above);
        self.lines(before);
        self.lines(begins);
        self.left_out(between);
        self.lines(ends);
    }

    fn left_out(&mut self, lines: &[&str]) {
        if !lines.is_empty() {
            let _infallible = writeln!(self.text, "({} lines)", lines.len());
        }
    }

    fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            let mut characters = line.chars();
            let line: String = characters.by_ref().take(CHARACTERS).collect();
            let more = if characters.next().is_some() { "…" } else { "" };
            let _infallible = writeln!(self.text, "{line}{more}");
        }
    }

    /// For the summary: `a::b, c::d`. `None` where nothing failed by name.
    pub(crate) fn names(&self) -> Option<String> {
        (!self.names.is_empty()).then(|| self.names.join(", "))
    }

    /// What they said.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a::works ... ok
test a::fails ... FAILED
test b ... FAILED

failures:

---- a::fails stdout ----

thread 'a::fails' panicked at tests/a.rs:3:5:
two zombies

---- b stdout ----
none


failures:
    a::fails
    b

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn failed_tests_are_named_with_what_they_said() {
        let failures = Failures::read(OUTPUT);
        assert_eq!(failures.names().as_deref(), Some("a::fails, b"));
        assert_eq!(
            failures.text(),
            "---- a::fails ----\nthread 'a::fails' panicked at tests/a.rs:3:5:\ntwo zombies\n---- b ----\nnone\n"
        );
    }

    #[test]
    fn a_test_that_ran_out_of_time_is_named() {
        let failures = Failures::read("running 2 tests\ntest a ... ok\ntest b::hangs ... ");
        assert_eq!(failures.names().as_deref(), Some("b::hangs (running)"));
    }

    #[test]
    fn success_names_nothing() {
        let passed = "test a ... ok\n\ntest result: ok. 1 passed; 0 failed\n";
        assert_eq!(Failures::read(passed).names(), None);
    }

    #[test]
    fn of_a_long_text_the_reason_is_shown_with_what_came_just_before() {
        let lines = |what: &str| (0..100).map(|line| format!("{what} {line}\n")).collect::<String>();
        let (printed, said, frames) = (lines("printed"), lines("said"), lines("frame"));
        let panic = "thread 'a' (17) panicked at tests/a.rs:3:5:";
        let long = "x".repeat(1_000);
        let stack = format!("stack backtrace:\n{frames}note: Some details are omitted, run again\n");
        let output = format!(
            "---- a stdout ----\n{printed}\n{panic}\n{long}\n{said}{stack}behind\n\nfailures:\n    a\n"
        );
        let failures = Failures::read(&output);
        let lines: Vec<_> = failures.text().lines().collect();
        assert_eq!(lines[..3], ["---- a ----", "(90 lines)", "printed 90"]);
        assert_eq!(lines[11..14], ["printed 99", panic, &format!("{}…", "x".repeat(400))]);
        assert_eq!(lines[21..24], ["said 7", "(83 lines)", "said 91"]);
        assert_eq!(lines[31..], ["said 99", "behind"]);
    }
}
