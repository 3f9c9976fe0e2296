//! The live tier: reaper-user/tests on the kernel that runs, as root, one test at a time, because each of them
//! watches the whole machine.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, bail};

use super::Session;
use crate::{
    pythons,
    release::{DAEMON, Release},
    root,
    times::Times,
    vm::Arch,
};

/// The test programs of other tiers: those that `cargo xtask vm` takes into virtual machines, and the one for what is shipped.
const OTHERS: [&str; 3] = ["vm", "systemd", "dist"];

pub(super) fn run(session: &mut Session<'_>) -> anyhow::Result<()> {
    let workspace = session.workspace;
    pythons::fetch(workspace)?;
    println!("test: building what is tested as it is shipped: for release, statically linked");
    // What the source gives is what is tested, where that is not the committed object.
    let object = session.rebuilt.as_deref();
    let release = Release::build(workspace, Arch::X86, object, Some(session.deadline))?;

    let targets = targets(&workspace.root().join("reaper-user/tests"))?;
    run_as_root(session, &release.program(DAEMON)?, &targets)
}

/// Runs these test programs as root, one test at a time, and tells them which daemon is tested.
pub(super) fn run_as_root(
    session: &mut Session<'_>,
    reaper: &Path,
    targets: &[String],
) -> anyhow::Result<()> {
    let workspace = session.workspace;
    let mut tests = workspace.cargo_with(session.rebuilt.as_deref());
    tests.args(["test", "--locked", "--no-fail-fast", "--package", "reaper-user"]);
    tests.args(targets.iter().flat_map(|target| ["--test", target]));
    let variables = variables(reaper, session.full);
    if root::is_root() {
        tests.envs(variables);
    } else {
        println!("test: the live tests load programs into the kernel: they run through sudo -n");
        tests.args(["--config", &runner(&root::command("env")?, &variables)?]);
    }
    tests.args(["--", "--test-threads=1"]).args(session.args);
    let mut times = Times::default();
    let result = session.run_tests_timed(&mut tests, &mut times);
    for line in times.slowest().lines() {
        println!("test: {line}");
    }
    result
}

/// The test programs in a folder, but those of other tiers. Cargo has a
/// glob for all and none for all but some.
fn targets(folder: &Path) -> anyhow::Result<Vec<String>> {
    let cannot_list = || format!("could not list {}", folder.display());
    let mut targets = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot_list)? {
        let path = entry.with_context(cannot_list)?.path();
        let is_target = path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
        let name = path.file_stem().and_then(OsStr::to_str);
        targets.extend(name.filter(|name| is_target && !OTHERS.contains(name)).map(str::to_owned));
    }
    if targets.is_empty() {
        bail!("{} holds no live tests", folder.display());
    }
    targets.sort();
    Ok(targets)
}

/// What the tests are told.
fn variables(reaper: &Path, full: bool) -> Vec<(&'static str, OsString)> {
    let mut variables = vec![("REAPER_BIN", reaper.into())];
    if full {
        variables.push(("REAPER_TEST_FULL", "1".into()));
    }
    variables
}

/// A cargo setting that runs each test binary through another command. sudo drops the environment, so the
/// variables become arguments of `env`.
fn runner(env: &Command, variables: &[(&str, OsString)]) -> anyhow::Result<String> {
    let assignments = variables.iter().map(|(name, value)| {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        assignment
    });
    let words =
        std::iter::once(env.get_program()).chain(env.get_args()).map(OsString::from).chain(assignments);
    let quoted = words
        .map(|word| {
            Ok(format!("{:?}", word.to_str().with_context(|| format!("{} is not UTF-8", word.display()))?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(format!("target.'cfg(all())'.runner = [{}]", quoted.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_other_tiers_does_not_run_here() {
        let names = targets(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../reaper-user/tests"))).unwrap();
        assert!(names.iter().any(|name| name == "live"), "{names:?}");
        assert!(!names.iter().any(|name| OTHERS.contains(&name.as_str())), "{names:?}");
    }

    #[test]
    fn the_runner_hands_variables_through_sudo() {
        let mut env = Command::new("sudo");
        env.args(["-n", "--", "env"]);
        let variables = [("REAPER_BIN", "/a tree/reaper".into())];
        assert_eq!(
            runner(&env, &variables).unwrap(),
            r#"target.'cfg(all())'.runner = ["sudo", "-n", "--", "env", "REAPER_BIN=/a tree/reaper"]"#
        );
    }
}
