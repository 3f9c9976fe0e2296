//! `cargo xtask vm`: the kernel-facing tests on the kernels we do not sit on, each booted in qemu.

mod arch;
mod boot;
mod cpio;
mod guest;
mod kernel;
mod matrix;
mod policy;
mod program;
mod report;
mod systemd;
mod verdict;

use std::{
    fmt::Write as _,
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;

pub(crate) use self::{
    arch::Arch,
    kernel::are_all_there as has_kernels,
    program::{APPARMOR_PARSER, Program, QEMU, QEMU_AARCH64},
};
use self::{
    boot::{Accelerator, Booted, Machine},
    guest::{Cgroup, Guest, Orders},
    kernel::{Cache, Kernel, Wanted},
    matrix::Boot,
    program::Found,
    report::Row,
    verdict::Verdict,
};
use crate::{command, release::Release, times::Times, workspace::Workspace};

/// How many machines run at a time. Emulating one keeps one real processor busy.
const AT_ONCE: usize = 2;

/// Seconds a test program may take where nothing else is said: some 100 on a quiet machine.
const TIMEOUT: u64 = 900;

/// Boot Debian kernels in qemu and run the kernel-facing tests in them, as root.
///
/// Without arguments: every kernel of the matrix with cgroup v2; the oldest and the newest once more with
/// lockdown=confidentiality; one with cgroup v1 only and one with both (these three modes without the tests that they change nothing
/// about); one under systemd, for the deployed unit. qemu and the keys of Debian's archive are set up first where they are missing,
/// kernels are fetched once, into target/vm. The rest needs no root and changes nothing outside target/.
///
/// Cases of refused forks that are seldom and take long run on one of the kernels each (`ON_ONE` in xtask/src/vm/matrix.rs says which
/// and why). Nothing is left out where kernels or tests are named: `cargo xtask vm 5.10 6.1 6.12 7` runs all on every kernel.
///
/// Examples: `cargo xtask vm 6.1`, `cargo xtask vm 5.10 7 --lockdown confidentiality`, `cargo xtask vm -- it_attaches`
/// (the arguments go to the test program, here a filter), `cargo xtask vm --test ./load-all -- --verbose`,
/// `cargo xtask vm --arch aarch64 -- reap::`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// 5.10, 6.1, 6.12, 7, or the path of a kernel image; all four if none is named.
    #[arg(value_name = "KERNEL", value_parser = kernel::parse)]
    kernels: Vec<Wanted>,
    /// Which machines; for another architecture than this one everything is cross-compiled and emulated. No tier boots
    /// those, and without a kernel named it is 6.12.
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Boot with lockdown=MODE.
    #[arg(long, value_name = "MODE", value_parser = ["integrity", "confidentiality"])]
    lockdown: Option<String>,
    /// How cgroups are mounted. [default: v2]
    #[arg(long, value_enum)]
    cgroup: Option<Cgroup>,
    /// Boot Debian's systemd, and run the integration test `systemd` under it: the deployed unit. Without a kernel named on 6.12.
    #[arg(long, conflicts_with_all = ["arch", "cgroup", "tests", "pid_max"])]
    systemd: bool,
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
    #[arg(long, value_enum, default_value_t)]
    accel: Accelerator,
    /// Seconds a test program may take. [default: 900]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Fetch the kernels again, for newer ones.
    #[arg(long)]
    refresh: bool,
    /// A Debian archive's address. [default: what this system's own apt sources name]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Print everything that the tests print, as they print it.
    #[arg(long, short)]
    verbose: bool,
    /// For the test program; by default a filter and flags of Rust's test harness.
    #[arg(last = true, value_name = "TEST ARGS")]
    test_args: Vec<String>,
}

impl Args {
    /// The whole matrix, with these arguments for the test program.
    pub(crate) fn all_kernels(test_args: &[String]) -> Self {
        Self { test_args: test_args.to_vec(), ..Self::default() }
    }

    /// The machines'.
    pub(crate) const fn arch(&self) -> Arch {
        self.arch
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    boot_all(workspace, args, None, None)?.verdict()
}

/// Fetches the kernels of the matrix that are not there yet.
pub(crate) fn fetch_kernels(workspace: &Workspace) -> anyhow::Result<()> {
    let cache = Cache::open(workspace, None)?;
    fetch(&cache, &matrix::of(&Args::default()), Arch::X86, false)?;
    cache.systemd(false).map(drop)
}

/// What became of the boots.
pub(crate) struct Boots {
    rows: Vec<Row>,
    /// With those that were not begun.
    total: usize,
}

impl Boots {
    /// Fails where one did, and where a deadline left some unbooted.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        let bad: Vec<String> = report::failed(&self.rows).map(report::in_short).collect();
        let (count, bad, total) = (bad.len(), bad.join("; "), self.total);
        match total - self.rows.len() {
            0 if count == 0 => Ok(()),
            0 => bail!("{count} of {total} boots failed: {bad}"),
            left => bail!("out of time: {left} of {total} boots were not begun, {count} failed: {bad}"),
        }
    }

    /// What the failed tests printed.
    pub(crate) fn failures(&self) -> String {
        report::failed(&self.rows).map(report::said).collect()
    }
}

/// With what [`crate::setup`] brings for it: boots what is asked for and prints what became of every test in every boot.
/// `object`: what reaper loads, where that is not the committed object.
pub(crate) fn boot_all(
    workspace: &Workspace,
    args: &Args,
    object: Option<&Path>,
    deadline: Option<Instant>,
) -> anyhow::Result<Boots> {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        bail!("what is built is built on x86_64: this task runs on x86_64 Linux only");
    }
    let qemu = args.arch.qemu().get(workspace)?;
    let cache = Cache::open(workspace, args.mirror.clone())?;
    let boots = matrix::of(args);
    let kernels = fetch(&cache, &boots, args.arch, args.refresh)?;
    let systemd =
        if boots.iter().any(|boot| boot.systemd) { Some(cache.systemd(args.refresh)?) } else { None };
    println!("vm: building the guest's programs, statically linked");
    let release = Release::build(workspace, args.arch, object, deadline)?;
    let guest = Guest::new(workspace, &release, &args.tests, systemd)?;
    let logs = cache.directory().join("logs");
    if logs.exists() {
        fs::remove_dir_all(&logs)?;
    }

    let total = boots.len();
    let rig = &Rig { args, qemu, guest, logs, total, deadline };
    let boots = Mutex::new((1..).zip(boots.iter().zip(&kernels)));
    // Apart, so that the lock is free again while a machine runs.
    let next = || boots.lock().unwrap_or_else(PoisonError::into_inner).next();
    // Whichever machine is free takes the next boot.
    let work = || {
        let mut rows = Vec::new();
        while deadline.is_none_or(|deadline| Instant::now() < deadline)
            && let Some((number, (boot, kernel))) = next()
        {
            rows.push((number, rig.row(number, boot, kernel)));
        }
        rows
    };
    let mut rows: Vec<(usize, Row)> = thread::scope(|scope| {
        let machines: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        machines
            .into_iter()
            .flat_map(|machine| machine.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    rows.sort_by_key(|(number, _)| *number);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    print!("{}\n{}", report::tables(&rows, &rig.logs), report::slowest(&rows));
    Ok(Boots { rows, total })
}

/// The images of the boots, in their order; each fetched at most once.
fn fetch(cache: &Cache, boots: &[Boot], arch: Arch, refresh: bool) -> anyhow::Result<Vec<Kernel>> {
    let mut known: Vec<(&Wanted, Kernel)> = Vec::new();
    let mut kernels = Vec::new();
    for Boot { wanted, .. } in boots {
        let kernel = match known.iter().find(|(other, _)| *other == wanted) {
            Some((_, kernel)) => kernel.clone(),
            None => cache.kernel(wanted, arch, refresh)?,
        };
        known.push((wanted, kernel.clone()));
        kernels.push(kernel);
    }
    Ok(kernels)
}

/// What all boots share.
struct Rig<'a> {
    args: &'a Args,
    qemu: Found,
    guest: Guest,
    logs: PathBuf,
    total: usize,
    deadline: Option<Instant>,
}

impl Rig<'_> {
    /// Boots and says how it went. A machine that cannot be booted is a failed boot: the others may tell more.
    fn row(&self, number: usize, boot: &Boot, kernel: &Kernel) -> Row {
        let Kernel { name, image } = kernel;
        let (mode, total) = (boot.mode(), self.total);
        println!("vm: {number}/{total}: kernel {name}, {mode}");
        let started = Instant::now();
        let mut times = Times::default();
        let verdict = self.verdict(number, boot, image, &mut times);
        let took = started.elapsed();
        let result = if verdict.passed() { "ok" } else { "FAILED" };
        println!("vm: {number}/{total}: kernel {name}, {mode}: {result} in {}", command::human(took));
        Row { kernel: name.clone(), mode, took, times, verdict }
    }

    fn verdict(&self, number: usize, boot: &Boot, image: &Path, times: &mut Times) -> Verdict {
        match self.boot(number, boot, image, times) {
            Ok(booted) => {
                let verdict = Verdict::of(&booted);
                if !verdict.passed() {
                    print!("{}", self.last_words(number, &booted));
                }
                verdict
            }
            Err(error) => Verdict::unbooted(format!("{error:#}")),
        }
    }

    fn boot(&self, number: usize, boot: &Boot, image: &Path, times: &mut Times) -> anyhow::Result<Booted> {
        let Self { args, qemu, guest, logs, total: _, deadline } = self;
        let logs = logs.join(number.to_string());
        fs::create_dir_all(&logs)?;
        // The guest's tests change the whole machine: one at a time.
        let harness = ["--include-ignored", "--test-threads=1", "--color=never"].map(str::to_owned);
        let harness = if args.tests.is_empty() { harness.to_vec() } else { Vec::new() };
        let skips = boot.skips.iter().flat_map(|test| ["--skip".to_owned(), (*test).to_owned()]);
        // Who names tests has them run.
        let harness =
            harness.into_iter().chain(skips.filter(|_| args.tests.is_empty() && args.test_args.is_empty()));
        let test_args: Vec<String> = harness.chain(args.test_args.iter().cloned()).collect();
        let timeout = Duration::from_secs(args.timeout.unwrap_or(TIMEOUT));
        let orders = Orders {
            cgroup: boot.cgroup,
            systemd: boot.systemd,
            pid_max: args.pid_max,
            timeout,
            args: &test_args,
        };
        let initramfs = logs.join("initramfs");
        fs::write(&initramfs, guest.initramfs(&orders)?)?;

        let lockdown = boot.lockdown.as_ref().map(|mode| format!("lockdown={mode} "));
        let programs = u32::try_from(args.tests.len().max(1))?;
        // The init minds the tests' time; this is for a machine that hangs, with time to boot and to power off.
        let patience = timeout * programs + Duration::from_secs(60);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let machine = Machine {
            arch: args.arch,
            qemu,
            image,
            initramfs: &initramfs,
            append: lockdown.unwrap_or_default() + args.append.as_deref().unwrap_or_default(),
            accelerator: args.accel,
            logs: &logs,
            timeout: left.map_or(patience, |left| left.min(patience)),
        };
        let booted = machine.boot(|line| {
            times.line(line, Instant::now());
            if args.verbose || line.starts_with("test ") {
                println!("  {number}: {line}");
            }
        })?;
        fs::remove_file(&initramfs)?;
        Ok(booted)
    }

    /// The ends of a boot's two logs, but not of what was printed as it came.
    fn last_words(&self, number: usize, booted: &Booted) -> String {
        let mut text = String::new();
        if !self.args.verbose {
            let _ = writeln!(text, "vm: {number}: the tests' last lines:\n{}", tail(&booted.tests, 60));
        }
        let _ = writeln!(text, "vm: {number}: the kernel's last messages:\n{}", tail(&booted.console, 40));
        text
    }
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

    pub(super) fn parsed(words: &[&str]) -> Args {
        Cli::try_parse_from(std::iter::once(&"vm").chain(words))
            .unwrap_or_else(|error| panic!("{error}"))
            .args
    }

    #[test]
    fn a_pid_max_that_the_kernel_would_refuse_is_refused_here() {
        assert!(Cli::try_parse_from(["vm", "--pid-max", "300"]).is_err());
        assert_eq!(parsed(&["--pid-max", "301"]).pid_max, Some(301));
    }

    #[test]
    fn the_tests_boot_what_the_task_boots_without_arguments() {
        let all = Args::all_kernels(&["filter".to_owned()]);
        assert_eq!(matrix::of(&all), matrix::of(&parsed(&[])));
        assert_eq!(all.test_args, ["filter"]);
    }
}
