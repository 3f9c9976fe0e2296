//! What a boot's two logs say: which tests passed, and whether the kernel complained.

use super::boot::Booted;
use crate::failures::Failures;

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Ignored,
    /// It began and nothing more was heard of it.
    Died,
}

impl Outcome {
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::Ignored => "ignored",
            Self::Died => "DIED",
        }
    }

    pub(crate) const fn is_bad(&self) -> bool {
        matches!(self, Self::Failed | Self::Died)
    }
}

/// What a boot showed.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The kernel's own version, once it had said it.
    pub(crate) release: Option<String>,
    /// In the order they ran; a program that is no Rust test program counts as one test by its exit code.
    pub(crate) tests: Vec<(String, Outcome)>,
    /// The kernel's first complaint.
    pub(crate) complaint: Option<String>,
    /// What else is wrong with the boot as a whole.
    pub(crate) trouble: Option<String>,
    /// What the failed tests printed.
    pub(crate) said: String,
}

impl Verdict {
    /// Reads a boot's logs.
    pub(crate) fn of(booted: &Booted) -> Self {
        let Booted { tests, console, late, took } = booted;
        let mut verdict = Self::read(tests);
        verdict.said = Failures::read(tests).text().to_owned();
        verdict.complaint =
            console.lines().find(|line| is_complaint(line)).map(|line| line.trim().to_owned());
        if *late {
            verdict.trouble = Some(format!("still running after {} s, switched off", took.as_secs()));
        }
        verdict
    }

    /// Of a machine that could not be booted at all.
    pub(crate) fn unbooted(why: String) -> Self {
        Self { trouble: Some(why), ..Self::default() }
    }

    pub(crate) fn passed(&self) -> bool {
        let Self { release: _, tests, complaint, trouble, said: _ } = self;
        let ran = tests.iter().any(|(_, outcome)| *outcome == Outcome::Passed);
        ran && complaint.is_none() && trouble.is_none() && !tests.iter().any(|(_, outcome)| outcome.is_bad())
    }

    /// The tests that did not pass.
    pub(crate) fn bad(&self) -> Vec<&str> {
        self.tests.iter().filter(|(_, outcome)| outcome.is_bad()).map(|(name, _)| name.as_str()).collect()
    }

    /// Reads what the init and the tests printed.
    fn read(text: &str) -> Self {
        let mut verdict = Self::default();
        let mut done = false;
        // The program that runs, and where its tests begin.
        let mut running: Option<(&str, usize)> = None;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("vm: ") {
                match rest.split_once(' ').unwrap_or((rest, "")) {
                    ("kernel", release) => verdict.release = Some(release.to_owned()),
                    ("run", path) => running = Some((path, verdict.tests.len())),
                    ("end", ended) => verdict.end(&mut running, ended.split_once(' ').unwrap_or_default().1),
                    ("FAILED", what) => verdict.trouble = Some(format!("the init failed: {what}")),
                    ("done", _) => done = true,
                    _ => {}
                }
            } else if running.is_some() {
                verdict.test_output(line);
            }
        }
        if !done && verdict.trouble.is_none() {
            verdict.trouble = Some("it ended before the tests did".to_owned());
        }
        verdict
    }

    fn test_output(&mut self, line: &str) {
        match (test_line(line), self.tests.last_mut()) {
            (Some(test), _) => self.tests.push(test),
            // With --nocapture, what the test prints stands between its name and its outcome.
            (None, Some((_, outcome @ Outcome::Died))) if line == "ok" => *outcome = Outcome::Passed,
            (None, Some((_, outcome @ Outcome::Died))) if line == "FAILED" => *outcome = Outcome::Failed,
            (None, _) => {}
        }
    }

    fn end(&mut self, running: &mut Option<(&str, usize)>, how: &str) {
        let Some((path, first)) = running.take() else { return };
        let name = path.rsplit('/').next().unwrap_or(path);
        let tests = self.tests.get(first..).unwrap_or_default();
        let any_bad = tests.iter().any(|(_, outcome)| outcome.is_bad());
        if how == "timeout" {
            self.trouble = Some(format!("{name} was out of time"));
        } else if how != "0" && !tests.is_empty() && !any_bad {
            self.trouble = Some(format!("{name} ended with {how} though none of its tests failed"));
        }
        if tests.is_empty() {
            // Not a Rust test program, or none of its tests ran.
            self.tests.push((name.to_owned(), if how == "0" { Outcome::Passed } else { Outcome::Failed }));
        }
    }
}

/// `test NAME ... ok`. With only the beginning of such a line, the test is not over.
fn test_line(line: &str) -> Option<(String, Outcome)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ").or_else(|| {
        // The blank at the end may be lost with the power.
        Some((line.strip_prefix("test ")?.strip_suffix(" ...")?, ""))
    })?;
    if name.contains(' ') && !name.ends_with(" - should panic") {
        return None;
    }
    let outcome = match outcome.split([',', ' ', '<']).next().unwrap_or_default() {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored,
        _ => Outcome::Died,
    };
    Some((name.to_owned(), outcome))
}

/// Whether a line of the kernel's log says that the kernel itself is not well.
fn is_complaint(line: &str) -> bool {
    // The last three come without any of the first.
    const SIGNS: [&str; 8] = [
        "BUG:",
        "WARNING:",
        "Oops",
        "Kernel panic",
        "general protection fault",
        "blocked for more than",
        "detected stall",
        "self-detected stall",
    ];
    SIGNS.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "vm: kernel 6.1.0-50-cloud-amd64\nvm: run /vm/vm\n\nrunning 2 tests\n\
        test one ... ok\ntest two ... ignored, because\n\ntest result: ok. 1 passed\n\nvm: end /vm/vm 0\nvm: done\n";

    fn outcomes(text: &str) -> Vec<(String, Outcome)> {
        Verdict::read(text).tests
    }

    #[test]
    fn tests_are_read_with_their_outcomes() {
        let verdict = Verdict::read(PASSED);
        assert_eq!(verdict.release.as_deref(), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(
            verdict.tests,
            [("one".to_owned(), Outcome::Passed), ("two".to_owned(), Outcome::Ignored)]
        );
        assert!(verdict.passed());
    }

    #[test]
    fn a_test_in_which_the_machine_died_is_named() {
        let text = "vm: kernel 7\nvm: run /vm/vm\nrunning 2 tests\ntest one ... ok\ntest two ... ";
        let verdict = Verdict::read(text);
        assert_eq!(verdict.tests[1], ("two".to_owned(), Outcome::Died));
        assert_eq!(verdict.trouble.as_deref(), Some("it ended before the tests did"));
        assert!(!verdict.passed());
    }

    #[test]
    fn a_program_without_tests_is_one_test_by_its_exit_code() {
        let run =
            |how: &str| outcomes(&format!("vm: run /vm/load\nhello\n\nvm: end /vm/load {how}\nvm: done\n"));
        assert_eq!(run("0"), [("load".to_owned(), Outcome::Passed)]);
        assert_eq!(run("signal 11"), [("load".to_owned(), Outcome::Failed)]);
    }

    #[test]
    fn a_test_program_that_fails_without_a_failed_test_is_not_passed() {
        let verdict = Verdict::read(&PASSED.replace("end /vm/vm 0", "end /vm/vm signal 9"));
        assert!(!verdict.passed());
        assert!(verdict.trouble.unwrap().contains("ended with signal 9"));
    }

    #[test]
    fn a_test_that_was_out_of_time_is_named() {
        let verdict = Verdict::read("vm: run /vm/vm\ntest one ... \nvm: end /vm/vm timeout\nvm: done\n");
        assert_eq!(verdict.tests, [("one".to_owned(), Outcome::Died)]);
        assert_eq!(verdict.trouble.as_deref(), Some("vm was out of time"));
    }

    #[test]
    fn what_a_test_prints_may_stand_between_its_name_and_its_outcome() {
        let text =
            "vm: run /vm/vm\ntest one ... hello\nok\nok\ntest two ... FAILED\nvm: end /vm/vm 101\nvm: done\n";
        assert_eq!(
            outcomes(text),
            [("one".to_owned(), Outcome::Passed), ("two".to_owned(), Outcome::Failed)]
        );
    }

    #[test]
    fn no_test_at_all_is_not_a_success() {
        assert!(!Verdict::read("vm: kernel 7\nvm: done\n").passed());
    }

    #[test]
    fn a_passed_test_does_not_hide_what_the_kernel_says() {
        let booted = |console: &str| Booted {
            tests: PASSED.to_owned(),
            console: console.to_owned(),
            late: false,
            took: std::time::Duration::from_secs(5),
        };
        assert!(Verdict::of(&booted("[    1.2] reboot: Power down\n")).passed());
        let verdict = Verdict::of(&booted("[ 3.1] BUG: kernel NULL pointer dereference, address: 0\n"));
        assert!(!verdict.passed());
        assert!(verdict.complaint.unwrap().contains("NULL pointer"));
    }

    #[test]
    fn what_tests_print_is_not_taken_for_tests() {
        assert_eq!(test_line("test result: ok. 1 passed; 0 failed"), None);
        assert_eq!(test_line("testing ... ok"), None);
        assert_eq!(test_line("test a b c ... ok"), None);
        assert_eq!(test_line("test a ... ok <0.123s>"), Some(("a".to_owned(), Outcome::Passed)));
    }
}
