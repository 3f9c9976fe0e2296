//! `cargo xtask vm`: the kernel-facing tests on the kernels we do not sit on, each booted in qemu.

mod boot;
mod cpio;
mod guest;
mod kernel;
mod report;
mod verdict;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};

use self::{
    boot::{Accelerator, Machine},
    guest::{Cgroup, Guest, Orders, Tests},
    kernel::{Cache, Kernel, Wanted},
    report::Row,
    verdict::Verdict,
};
use crate::{command, workspace::Workspace};

/// Boot Debian kernels in qemu and run the kernel-facing tests in them, as root.
///
/// Without arguments: every kernel of the matrix with cgroup v2; the oldest and the newest once more with
/// lockdown=confidentiality; one with cgroup v1 only and one with both. Kernels are fetched once, into target/vm. Changes
/// nothing outside target/ and needs no root.
///
/// Examples: `cargo xtask vm 6.1`, `cargo xtask vm 5.10 7 --lockdown confidentiality`, `cargo xtask vm -- it_attaches` (the
/// arguments go to the test program, here a filter), `cargo xtask vm --test ./load-all -- --verbose`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// 5.10, 6.1, 6.12, 7, or the path of a kernel image; all four if none is named.
    #[arg(value_name = "KERNEL", value_parser = kernel::parse)]
    kernels: Vec<Wanted>,
    /// Boot with lockdown=MODE.
    #[arg(long, value_name = "MODE", value_parser = ["integrity", "confidentiality"])]
    lockdown: Option<String>,
    /// How cgroups are mounted [v2 where this is not given].
    #[arg(long, value_enum)]
    cgroup: Option<Cgroup>,
    /// Set kernel.pid_max before the tests; the kernel takes 301 or more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(301..))]
    pid_max: Option<u32>,
    /// Run this statically linked program instead of the integration test `vm`; may be repeated.
    #[arg(long = "test", value_name = "PATH")]
    tests: Vec<PathBuf>,
    /// Further kernel parameters.
    #[arg(long, value_name = "PARAMETERS")]
    append: Option<String>,
    /// How qemu runs the guest.
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accelerator,
    /// Seconds a test program may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    timeout: u64,
    /// Fetch the kernels again, for newer ones.
    #[arg(long)]
    refresh: bool,
    /// A Debian archive's address, where this system's own apt sources name none.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Print everything that the tests print, as they print it.
    #[arg(long, short)]
    verbose: bool,
    /// For the test program; by default a filter and flags of Rust's test harness.
    #[arg(last = true, value_name = "TEST ARGS")]
    test_args: Vec<String>,
}

/// One boot of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Boot {
    wanted: Wanted,
    lockdown: Option<String>,
    cgroup: Cgroup,
}

impl Boot {
    fn mode(&self) -> String {
        let Self { wanted: _, lockdown, cgroup } = self;
        let lockdown = lockdown.as_ref().map(|mode| format!(", lockdown {mode}"));
        format!("cgroup {}{}", cgroup.as_str(), lockdown.unwrap_or_default())
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        bail!("the kernels and the guest's programs are x86_64: this task runs on x86_64 Linux only");
    }
    boot::require_qemu()?;
    let directory = workspace.target().join("vm");
    fs::create_dir_all(&directory)?;
    // Two at once would write each other's logs; the lock goes with the process.
    let lock = fs::File::create(directory.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!("another `cargo xtask vm` runs in this working tree");
    }

    let boots = matrix(args);
    let kernels = fetch(&Cache::at(directory.clone(), args.mirror.clone()), &boots, args.refresh)?;
    let tests = if args.tests.is_empty() { Tests::Own } else { Tests::Given(&args.tests) };
    let guest = Guest::build(workspace, &tests)?;

    let logs = directory.join("logs");
    if logs.exists() {
        fs::remove_dir_all(&logs)?;
    }
    let total = boots.len();
    let mut rows = Vec::new();
    for (number, (boot, kernel)) in (1..).zip(boots.iter().zip(&kernels)) {
        println!("vm: {number}/{total}: kernel {}, {}", kernel.name, boot.mode());
        let row = one(args, &guest, boot, kernel, &logs.join(number.to_string()))
            .with_context(|| format!("kernel {}, {}", kernel.name, boot.mode()))?;
        rows.push(row);
    }
    print!("{}", report::tables(&rows, &logs));
    let bad = rows.iter().filter(|row| !row.verdict.passed()).count();
    if bad > 0 {
        bail!("{bad} of {total} boots failed");
    }
    Ok(())
}

/// The images of the boots, in their order; each fetched at most once.
fn fetch(cache: &Cache, boots: &[Boot], refresh: bool) -> anyhow::Result<Vec<Kernel>> {
    let mut known: Vec<(&Wanted, Kernel)> = Vec::new();
    let mut kernels = Vec::new();
    for Boot { wanted, .. } in boots {
        let kernel = match known.iter().find(|(other, _)| *other == wanted) {
            Some((_, kernel)) => kernel.clone(),
            None => cache.kernel(wanted, refresh)?,
        };
        known.push((wanted, kernel.clone()));
        kernels.push(kernel);
    }
    Ok(kernels)
}

fn matrix(args: &Args) -> Vec<Boot> {
    let Args { kernels, lockdown, cgroup, .. } = args;
    let lines = kernel::LINES.map(Wanted::Line);
    let plain = |wanted: &Wanted| Boot { wanted: wanted.clone(), lockdown: None, cgroup: Cgroup::V2 };
    if kernels.is_empty() && lockdown.is_none() && cgroup.is_none() {
        let [oldest, second, _, newest] = &lines;
        let locked = |wanted| Boot { lockdown: Some("confidentiality".to_owned()), ..plain(wanted) };
        let special = [
            locked(oldest),
            locked(newest),
            // v1 alone is what machines with old kernels have.
            Boot { cgroup: Cgroup::V1, ..plain(oldest) },
            Boot { cgroup: Cgroup::Both, ..plain(second) },
        ];
        return lines.iter().map(plain).chain(special).collect();
    }
    let chosen = if kernels.is_empty() { &lines[..] } else { &kernels[..] };
    let boot = |wanted: &Wanted| Boot {
        wanted: wanted.clone(),
        lockdown: lockdown.clone(),
        cgroup: cgroup.unwrap_or(Cgroup::V2),
    };
    chosen.iter().map(boot).collect()
}

fn one(
    args: &Args,
    guest: &Guest,
    boot: &Boot,
    kernel: &Kernel,
    logs: &std::path::Path,
) -> anyhow::Result<Row> {
    fs::create_dir_all(logs)?;
    let own = args.tests.is_empty();
    // The guest's tests change the whole machine: one at a time.
    let harness = ["--include-ignored", "--test-threads=1", "--color=never"].map(str::to_owned);
    let harness = if own { harness.to_vec() } else { Vec::new() };
    let test_args: Vec<String> = harness.into_iter().chain(args.test_args.iter().cloned()).collect();
    let timeout = Duration::from_secs(args.timeout);
    let orders = Orders { cgroup: boot.cgroup, pid_max: args.pid_max, timeout, args: &test_args };
    let initramfs = logs.join("initramfs");
    fs::write(&initramfs, guest.initramfs(&orders)?)?;

    let lockdown = boot.lockdown.as_ref().map(|mode| format!("lockdown={mode} "));
    let programs = u32::try_from(args.tests.len().max(1))?;
    let machine = Machine {
        image: &kernel.image,
        initramfs: &initramfs,
        append: lockdown.unwrap_or_default() + args.append.as_deref().unwrap_or_default(),
        accelerator: args.accel,
        logs,
        // The init minds the tests' time; this is for a machine that hangs, with time to boot and to power off.
        timeout: timeout * programs + Duration::from_secs(60),
    };
    let booted = machine.boot(|line| {
        if args.verbose || line.starts_with("test ") {
            println!("  {line}");
        }
    })?;
    fs::remove_file(&initramfs)?;
    let verdict = Verdict::of(&booted);
    if !verdict.passed() {
        if !args.verbose {
            println!("{}", tail(&booted.tests, 60));
        }
        println!("vm: the kernel's last messages:\n{}", tail(&booted.console, 40));
    }
    println!("vm: {number} in {took}", number = kernel.name, took = command::human(booted.took));
    Ok(Row { kernel: kernel.name.clone(), mode: boot.mode(), took: booted.took, verdict })
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(words: &[&str]) -> Args {
        Cli::try_parse_from(std::iter::once(&"vm").chain(words))
            .unwrap_or_else(|error| panic!("{error}"))
            .args
    }

    #[test]
    fn the_whole_matrix_has_lockdown_at_both_ends_and_every_cgroup_layout() {
        let boots = matrix(&parsed(&[]));
        let modes: Vec<String> = boots.iter().map(Boot::mode).collect();
        assert_eq!(modes.len(), 8);
        assert_eq!(modes.iter().filter(|mode| mode.contains("confidentiality")).count(), 2);
        assert!(modes.contains(&"cgroup v1".to_owned()) && modes.contains(&"cgroup both".to_owned()));
    }

    #[test]
    fn named_kernels_are_booted_as_the_flags_say() {
        let boots = matrix(&parsed(&["5.10", "7.x", "--cgroup", "v1", "--lockdown", "integrity"]));
        assert_eq!(boots.len(), 2);
        assert!(boots.iter().all(|boot| boot.mode() == "cgroup v1, lockdown integrity"));
        assert_eq!(matrix(&parsed(&["--lockdown", "confidentiality"])).len(), 4);
    }

    #[test]
    fn a_pid_max_that_the_kernel_would_refuse_is_refused_here() {
        assert!(Cli::try_parse_from(["vm", "--pid-max", "300"]).is_err());
        assert_eq!(parsed(&["--pid-max", "301"]).pid_max, Some(301));
    }
}
