//! A workload that makes processes live and die in every way that matters to `reaper`, and writes down which of
//! them nobody waited for, as /proc shows it. It knows nothing of `reaper`.
//!
//! `churn load --rate 2000 --leaks 20 --seconds 60 --threshold 2000 --truth FILE` prints a JSON line when it has
//! started, one when it makes nothing new any more (`settled`), then keeps its zombies until standard input ends,
//! and prints a last one when all are gone. A line on standard input lets it settle before its time.
//! `--only KIND` leaks one kind, or several where it is repeated; `--rate 0` leads no healthy lives.

mod healthy;
mod leaks;
mod procfile;
mod stage;
mod sys;
mod truth;

use std::{
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use serde_json::json;

use crate::{
    stage::{End, Stage, Wire, child},
    sys::Pid,
    truth::{Leak, Truth},
};

#[derive(Parser)]
#[command(about = "Makes processes live and die in every way, and writes down which were never waited for")]
struct Options {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Healthy lives and leaks of every kind.
    Load {
        /// Healthy lives a second.
        #[arg(long, default_value_t = 2200.0)]
        rate: f64,
        /// Leaks a second.
        #[arg(long, default_value_t = 20.0)]
        leaks: f64,
        /// Leaks of this kind only; may be repeated.
        #[arg(long)]
        only: Vec<String>,
        /// How long to make new ones, unless a line on standard input comes first.
        #[arg(long, default_value_t = 20.0)]
        seconds: f64,
        /// The age at which a zombie will be reported, ms.
        #[arg(long, default_value_t = 2000)]
        threshold: u64,
        /// How long those stand that are released later, ms; twice the threshold where it is not said.
        #[arg(long)]
        stands: Option<u64>,
        /// Processes that lead the healthy lives.
        #[arg(long, default_value_t = 6)]
        workers: u32,
        /// Where to write the truth.
        #[arg(long)]
        truth: Option<PathBuf>,
    },
    /// Healthy lives only, until standard input ends.
    Idle {
        /// Lives a second.
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// Processes that lead them.
        #[arg(long, default_value_t = 4)]
        workers: u32,
    },
    /// One holder forks this many children as fast as it can and waits for none, until standard input ends.
    Standing {
        /// How many.
        zombies: u64,
        /// Where to write the truth.
        #[arg(long)]
        truth: Option<PathBuf>,
    },
    /// Exits with a code: the program that other modes exec.
    #[command(hide = true)]
    ExitWith {
        /// The code.
        code: u8,
    },
    /// As above, after a byte or the end of standard input.
    #[command(hide = true)]
    Helper {
        /// The code.
        code: u8,
    },
}

fn main() -> Result<()> {
    match Options::parse().mode {
        Mode::Load { rate, leaks, only, seconds, threshold, stands, workers, truth } => {
            let [threshold, stands] = [threshold, stands.unwrap_or(threshold * 2)].map(Duration::from_millis);
            let stage = Stage::new(Truth::new(truth.as_deref())?, threshold, stands)?;
            let started = begin()?;
            let mut pids = leaks::start(&stage, leaks, &only)?;
            if rate > 0.0 {
                pids.extend(healthy::start(&stage, rate, workers)?);
            }
            let number = u64::try_from(pids.len())?;
            watch(|| started.elapsed().as_secs_f64() >= seconds || input_came());
            let lived = started.elapsed();
            stage.stop();
            watch(|| stage.settled() + stage.failed() >= number || input_ended());
            finish(&stage, lived)
        }
        Mode::Idle { rate, workers } => {
            let stage = Stage::new(Truth::new(None)?, Duration::ZERO, Duration::ZERO)?;
            begin()?;
            let number = u64::try_from(healthy::start(&stage, rate, workers)?.len())?;
            // Each kind has had its turn several times: every program that runs has run.
            watch(|| stage.lives().all(|(_, lives)| lives >= 3) || stage.failed() > 0);
            // What it says in the end is about the time from here on.
            stage.count_anew();
            let warm = Instant::now();
            say(&json!({ "event": "warm" }))?;
            watch(input_ended);
            let lived = warm.elapsed();
            stage.stop();
            watch(|| stage.settled() + stage.failed() >= number || input_ended());
            finish(&stage, lived)
        }
        Mode::Standing { zombies, truth } => {
            let stage = Stage::new(Truth::new(truth.as_deref())?, Duration::ZERO, Duration::ZERO)?;
            let started = begin()?;
            let forked = Wire::new()?;
            let holder = stage.start("holder", |stage| stand(stage, zombies, &forked))?;
            forked.wait()?;
            say(&json!({ "event": "forked", "holder": holder, "zombies": zombies }))?;
            let lived = started.elapsed();
            watch(|| stage.settled() + stage.failed() >= 1 || input_ended());
            finish(&stage, lived)
        }
        Mode::ExitWith { code } => sys::exit_now(code),
        Mode::Helper { code } => {
            let _ = io::stdin().read(&mut [0])?;
            sys::exit_now(code)
        }
    }
}

fn begin() -> Result<Instant> {
    // What is orphaned below comes here and is waited for.
    sys::adopt_orphans()?;
    say(&json!({ "event": "started", "pid": process::id() }))?;
    Ok(Instant::now())
}

fn stand(stage: &Stage, zombies: u64, forked: &Wire) -> Result<()> {
    let mut children = Vec::with_capacity(usize::try_from(zombies)?);
    for round in 0..zombies {
        let before = sys::boot_now();
        children.push((child(|| End::Code(End::code_of(round)).happen())?, before));
    }
    forked.open()?;
    for (pid, before) in children {
        if stage.truth.is_kept() {
            stage.truth.leak(&Leak::own("standing", pid, before))?;
        } else {
            truth::wait_until_dead(pid)?;
        }
        stage.leaked();
    }
    Ok(())
}

fn say(line: &serde_json::Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Reaps until `enough`.
fn watch(mut enough: impl FnMut() -> bool) {
    while !enough() {
        while matches!(sys::reap_one(), Ok(Some(_))) {}
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn input_ended() -> bool {
    input_is(|read| matches!(read, Ok(0) | Err(_)))
}

/// A line, or the end.
fn input_came() -> bool {
    input_is(|_| true)
}

fn input_is(what: impl FnOnce(io::Result<usize>) -> bool) -> bool {
    sys::readable(io::stdin().as_fd(), Duration::ZERO) && what(io::stdin().read(&mut [0; 64]))
}

/// Says what was made, keeps it until standard input ends, then ends every process below this one.
fn finish(stage: &Stage, lived: Duration) -> Result<()> {
    let lives: u64 = stage.lives().map(|(_, lives)| lives).sum();
    #[expect(clippy::cast_precision_loss, reason = "a rate to be read by people")]
    let rate = lives as f64 / lived.as_secs_f64();
    say(&json!({
        "event": "settled",
        "lives": lives,
        "seconds": lived.as_secs_f64(),
        "rate": rate,
        "leaks": stage.leaks(),
        "failed": stage.failed(),
        "by_kind": stage.lives().collect::<std::collections::BTreeMap<_, _>>(),
    }))?;
    watch(input_ended);
    let own = Pid::try_from(process::id())?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match sys::reap_one() {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => break,
        }
        // Holders die with their parents; what they leave is adopted here and ends here.
        for pid in procfile::children(own)? {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        if Instant::now() > deadline {
            bail!("could not end all processes");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    say(&json!({ "event": "finished" }))?;
    if stage.failed() > 0 {
        bail!("{} processes failed, see above", stage.failed());
    }
    Ok(())
}
