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

/// So much is shown again of what one test printed: its end, where the reason stands.
const LINES: usize = 40;

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
        let left_out = lines.len().saturating_sub(LINES);
        let _infallible = writeln!(self.text, "---- {name} ----");
        if left_out > 0 {
            let _infallible = writeln!(self.text, "({left_out} lines above)");
        }
        for line in lines.iter().skip(left_out).filter(|line| !line.is_empty()) {
            let _infallible = writeln!(self.text, "{line}");
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
    fn of_a_long_text_the_end_is_shown() {
        let lines: String = (0..100).fold(String::new(), |mut text, line| {
            let _infallible = writeln!(text, "line {line}");
            text
        });
        let failures = Failures::read(&format!("---- a stdout ----\n{lines}\nfailures:\n    a\n"));
        assert!(failures.text().contains("line 99\n") && !failures.text().contains("line 50\n"));
        assert!(failures.text().contains("(61 lines above)"), "{}", failures.text());
    }
}
