//! The tables at the end: what was booted, and what became of every test in every boot.

use std::{fmt::Write as _, path::Path, time::Duration};

use super::verdict::Verdict;
use crate::{
    command,
    table::{Cells, aligned},
    times::Times,
};

/// One boot, as the tables name it.
pub(crate) struct Row {
    /// As it was asked for, until the kernel has said its own version.
    pub(crate) kernel: String,
    pub(crate) mode: String,
    pub(crate) took: Duration,
    /// Of its tests.
    pub(crate) times: Times,
    pub(crate) verdict: Verdict,
}

/// Those that failed, with their numbers.
pub(crate) fn failed(rows: &[Row]) -> impl Iterator<Item = (usize, &Row)> {
    (1..).zip(rows).filter(|(_, row)| !row.verdict.passed())
}

/// One that failed: `3 (6.12.94, cgroup v2): clock::one, pins::two`.
pub(crate) fn in_short((number, row): (usize, &Row)) -> String {
    let Verdict { complaint, trouble, .. } = &row.verdict;
    let mut why = row.verdict.bad();
    why.extend([complaint, trouble].into_iter().flatten().map(String::as_str));
    let why = if why.is_empty() { "no test passed".to_owned() } else { why.join(", ") };
    format!("{number} ({}, {}): {why}", kernel(row), row.mode)
}

/// What the failed tests of one have printed.
pub(crate) fn said((number, row): (usize, &Row)) -> String {
    format!("==== boot {number} ({}, {}) ====\n{}", kernel(row), row.mode, row.verdict.said)
}

fn kernel(row: &Row) -> &str {
    row.verdict.release.as_deref().unwrap_or(&row.kernel)
}

/// Both tables, and a line for all that was wrong.
pub(crate) fn tables(rows: &[Row], logs: &Path) -> String {
    let mut text = String::from("\n");
    let mut boots =
        vec![["", "kernel", "mode", "time", "kernel's log", "result"].map(str::to_owned).to_vec()];
    for (number, row) in (1..).zip(rows) {
        let log = match &row.verdict {
            Verdict { complaint: Some(_), .. } => "COMPLAINT",
            // It never came so far that its own messages count.
            Verdict { release: None, .. } => "-",
            _ => "clean",
        };
        let result = if row.verdict.passed() { "ok" } else { "FAILED" };
        boots.push(vec![
            format!("{number}"),
            kernel(row).to_owned(),
            row.mode.clone(),
            command::human(row.took),
            log.to_owned(),
            result.to_owned(),
        ]);
    }
    text += &aligned(&boots, Cells::Left);
    text.push('\n');
    text += &aligned(&by_test(rows), Cells::Left);

    for (number, row) in failed(rows) {
        let Verdict { tests, complaint, trouble, .. } = &row.verdict;
        let bad = row.verdict.bad();
        let _ = write!(text, "\nboot {number} ({}, {}):", kernel(row), row.mode);
        if !bad.is_empty() {
            let _ = write!(text, "\n  failed: {}", bad.join(", "));
        }
        if tests.is_empty() {
            text += "\n  no test ran";
        }
        if let Some(complaint) = complaint {
            let _ = write!(text, "\n  kernel: {complaint}");
        }
        if let Some(trouble) = trouble {
            let _ = write!(text, "\n  {trouble}");
        }
        let _ = write!(text, "\n  logs: {}\n", logs.join(number.to_string()).display());
    }
    text
}

/// What took longest, over all boots: their numbers are before the names. Two machines run at a time: it is longer than it were alone.
pub(crate) fn slowest(rows: &[Row]) -> String {
    let mut all = Times::default();
    for (number, row) in (1..).zip(rows) {
        all.add(&format!("{number}: "), &row.times);
    }
    all.slowest()
}

fn by_test(rows: &[Row]) -> Vec<Vec<String>> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.verdict.tests) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let numbers = (1..=rows.len()).map(|number| number.to_string());
    let mut table = vec![std::iter::once("test".to_owned()).chain(numbers).collect::<Vec<_>>()];
    for name in names {
        let outcome = |row: &Row| {
            let found = row.verdict.tests.iter().find(|(test, _)| test == name);
            found.map_or("not run", |(_, outcome)| outcome.as_str()).to_owned()
        };
        table.push(std::iter::once(name.to_owned()).chain(rows.iter().map(outcome)).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{super::verdict::Outcome, *};

    fn row(kernel: &str, tests: &[(&str, Outcome)]) -> Row {
        let tests = tests.iter().map(|(name, outcome)| ((*name).to_owned(), outcome.clone())).collect();
        let verdict = Verdict { release: Some(kernel.to_owned()), tests, ..Verdict::default() };
        let took = Duration::from_secs(12);
        Row { kernel: "x".to_owned(), mode: "cgroup v2".to_owned(), took, times: Times::default(), verdict }
    }

    #[test]
    fn every_test_has_a_line_and_every_boot_a_column() {
        let rows = [
            row("6.1.0", &[("one", Outcome::Passed), ("two", Outcome::Failed)]),
            row("7.2.13", &[("one", Outcome::Passed)]),
        ];
        let text = tables(&rows, Path::new("logs"));
        let expected = "
   kernel  mode       time  kernel's log  result
1  6.1.0   cgroup v2  12s   clean         FAILED
2  7.2.13  cgroup v2  12s   clean         ok

test  1       2
one   ok      ok
two   FAILED  not run

boot 1 (6.1.0, cgroup v2):
  failed: two
  logs: logs/1
";
        assert_eq!(text, expected);
        let failed: Vec<String> = failed(&rows).map(in_short).collect();
        assert_eq!(failed, ["1 (6.1.0, cgroup v2): two"]);
    }
}
