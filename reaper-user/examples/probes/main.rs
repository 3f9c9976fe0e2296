//! The instruments of `cargo xtask bench`: each mode does one thing to be measured, says when it is ready and obeys
//! standard input, whose end is its own. What they say is JSON, one object a line.

mod attach;
#[path = "../../src/kernel/btf.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library's own file, which keeps this to itself")]
mod btf;
mod crowd;
mod delay;
mod forks;
mod lives;
#[path = "../../src/kernel/offsets.rs"]
mod offsets;
#[path = "../../src/kernel/patch.rs"]
#[expect(unreachable_pub, reason = "likewise")]
mod patch;
#[path = "../churn/sys.rs"]
#[expect(dead_code, reason = "shared with the other load, which does more kinds of things")]
mod sys;
mod usage;

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "What `cargo xtask bench` measures with")]
struct Options {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Attach a set of programs.
    Attach {
        /// Which.
        set: attach::Set,
        /// The benchmark's own object.
        #[arg(long)]
        object: PathBuf,
        /// Attach the on-demand programs too, with this process on probation.
        #[arg(long)]
        probation: Option<u32>,
    },
    /// Lead lives (fork, exec, exit, wait), as many as each line of standard input says.
    Lives {
        /// Cool the caches between a life's events by walking this many MiB.
        #[arg(long, default_value_t = 0)]
        walk: usize,
        /// Leave exec out.
        #[arg(long)]
        no_exec: bool,
    },
    /// Have the kernel count what everybody's programs cost.
    Count,
    /// Say what the running daemon has lost, by kind.
    Losses,
    /// Fork, wherever the stack is so deep, and wait: for each line of standard input as many as it says, at so many a second.
    Forks {
        /// KiB of stack.
        kib: usize,
    },
    /// Be this many sleeping processes.
    Crowd {
        /// How many.
        processes: usize,
    },
    /// Measure the time from a zombie's age to its report.
    Delay {
        /// The daemon.
        #[arg(long)]
        reaper: PathBuf,
        /// The age, ms.
        #[arg(long)]
        age: u64,
        /// How many zombies.
        #[arg(long)]
        leaks: usize,
    },
}

fn main() -> Result<()> {
    // Before anything else: this is what the lives exec.
    if lives::is_life() {
        return Ok(());
    }
    match Options::parse().mode {
        Mode::Attach { set, object, probation } => attach::run(set, &object, probation),
        Mode::Lives { walk, no_exec } => lives::run(walk, !no_exec),
        Mode::Count => attach::count(),
        Mode::Losses => losses(),
        Mode::Forks { kib } => forks::run(kib),
        Mode::Crowd { processes } => crowd::run(processes),
        Mode::Delay { reaper, age, leaks } => delay::run(&reaper, age, leaks),
    }
}

fn losses() -> Result<()> {
    let lost = reaper::control::losses(&reaper::control::socket())?;
    let by_kind: serde_json::Map<_, _> =
        lost.iter().map(|lost| (lost.what.as_str().to_owned(), lost.total.into())).collect();
    say(&by_kind.into())
}

fn say(line: &serde_json::Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Returns when standard input ends.
fn wait_for_end() -> Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}
