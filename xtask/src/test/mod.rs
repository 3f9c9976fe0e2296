//! `cargo xtask test`: every tier in order, each with a fixed time budget. [`tier`] is the table; a tier is a
//! function that runs commands until its deadline.

mod dist;
mod lint;
mod live;
mod tier;
mod unit;
mod vm;

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::bail;

use self::tier::Tier;
use crate::{command, failures::Failures, setup, times::Times, workspace::Workspace};

/// What the short forms are meant to take, all together.
const WHOLE: Duration = Duration::from_mins(30);

/// Runs the tests; CI runs exactly this.
///
/// Tiers: lint (formatting, clippy, aarch64, licences, the object against its source), unit, live (as root, on this kernel), vm
/// (on other kernels), dist (what is shipped). What is missing is set up first, on nobody's budget. A tier that fails or runs out of time fails
/// the whole, after the later tiers have run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The tiers to run; all where nothing is named.
    #[arg(value_name = "TIER")]
    tiers: Vec<Tier>,

    /// The long forms: as many rounds as the claims are made for, and longer budgets.
    #[arg(long)]
    full: bool,

    /// Stop at the first tier that fails.
    #[arg(long)]
    fail_fast: bool,

    /// Arguments for the test programs: a part of a test's name, `--nocapture`.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// What a tier is given.
struct Session<'a> {
    workspace: &'a Workspace,
    full: bool,
    /// For the test programs.
    args: &'a [String],
    deadline: Instant,
    /// The object the lint tier built, where it is not the committed one: a tier that loads one takes this.
    rebuilt: Option<PathBuf>,
    /// What failed in the tier's test programs.
    failures: String,
}

impl Session<'_> {
    /// Runs test programs. What failed in them is in the error by name, and is shown again at the end.
    fn run_tests(&mut self, tests: &mut Command) -> anyhow::Result<()> {
        self.run_tests_timed(tests, &mut Times::default())
    }

    /// The same for programs whose tests run one at a time: how long each took is noted.
    fn run_tests_timed(&mut self, tests: &mut Command, times: &mut Times) -> anyhow::Result<()> {
        let (output, result) =
            command::run_and_read_until(tests, self.deadline, |line| times.line(line, Instant::now()));
        let Err(error) = result else { return Ok(()) };
        let failures = Failures::read(&output);
        self.failures.push_str(failures.text());
        Err(match failures.names() {
            Some(names) => error.context(names),
            None => error,
        })
    }
}

struct Outcome {
    tier: Tier,
    took: Duration,
    error: Option<anyhow::Error>,
    failures: String,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    // In their own order, whatever order they were named in: later tiers use what earlier ones built.
    let asked = |tier: &Tier| args.tiers.is_empty() || args.tiers.contains(tier);
    let tiers: Vec<Tier> = Tier::ALL.iter().copied().filter(asked).collect();
    let groups: Vec<_> = tiers.iter().flat_map(|tier| tier.needs()).copied().collect();
    setup::ensure(workspace, &groups)?;

    let mut rebuilt = None;
    let mut outcomes = Vec::new();
    for tier in tiers {
        let budget = tier.budget(args.full);
        println!("test: {} ({}), at most {}", tier.name(), tier.about(), command::human(budget));
        let started = Instant::now();
        let deadline = started + budget;
        let failures = String::new();
        let mut session =
            Session { workspace, full: args.full, args: &args.args, deadline, rebuilt, failures };
        let error = tier.run(&mut session).err();
        let failures = session.failures;
        rebuilt = session.rebuilt;
        let outcome = Outcome { tier, took: started.elapsed(), error, failures };
        println!("{outcome}");
        let failed = outcome.error.is_some();
        outcomes.push(outcome);
        if failed && args.fail_fast {
            break;
        }
    }
    // Where it happened it has scrolled away.
    for outcome in outcomes.iter().filter(|outcome| outcome.error.is_some()) {
        println!("{outcome}");
        print!("{}", outcome.failures);
    }
    let summary = summary(&outcomes);
    if outcomes.iter().any(|outcome| outcome.error.is_some()) {
        bail!("{summary}");
    }
    println!("test: {summary}");
    let whole: Duration = outcomes.iter().map(|outcome| outcome.took).sum();
    if !args.full && whole > WHOLE {
        println!("test: that was more than the {} it is meant to take", command::human(WHOLE));
    }
    Ok(())
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tier, took, error, failures: _ } = self;
        write!(f, "test: {:<5} {:<6} {:>6}", tier.name(), word(error.as_ref()), command::human(*took))?;
        if let Some(error) = error {
            write!(f, "  {error:#}")?;
        }
        Ok(())
    }
}

fn word(error: Option<&anyhow::Error>) -> &'static str {
    if error.is_some() { "FAILED" } else { "ok" }
}

/// `lint ok, unit FAILED, live ok, vm ok; 17m02s in all`
fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for Outcome { tier, error, .. } in outcomes {
        let _infallible = write!(text, "{} {}, ", tier.name(), word(error.as_ref()));
    }
    let all = outcomes.iter().map(|outcome| outcome.took).sum();
    format!("{}; {} in all", text.trim_end_matches(", "), command::human(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_every_tier_that_ran() {
        let outcome =
            |tier, error| Outcome { tier, took: Duration::from_secs(30), error, failures: String::new() };
        let outcomes = [outcome(Tier::Lint, None), outcome(Tier::Unit, Some(anyhow::anyhow!("no")))];
        assert_eq!(summary(&outcomes), "lint ok, unit FAILED; 1m00s in all");
        assert_eq!(outcomes[1].to_string(), "test: unit  FAILED    30s  no");
    }
}
