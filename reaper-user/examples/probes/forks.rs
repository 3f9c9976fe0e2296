//! Forks from a stack that is so deep, as fast as can be or at a pace. The children end at once and are waited for.

use std::{
    fs,
    hint::black_box,
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    say,
    sys::{self, Fork},
};

/// Of which a stack is made: less than a page, or the compiler has it probed.
const FRAME: usize = 1 << 10;

pub(crate) fn run(kib: usize) -> Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).context("no stack")?;
    let end = stack.split(['-', ' ']).nth(1).context("a mapping without an end")?;
    let from = usize::from_str_radix(end, 16)?.saturating_sub(kib << 10);
    say(&json!({ "event": "ready" }))?;
    for line in io::stdin().lines() {
        let line = line?;
        let (forks, rate) = line.trim().split_once(' ').context("how many, and at what pace?")?;
        let (forks, rate): (u32, u32) = (forks.parse()?, rate.parse()?);
        let seconds = descend(from, &mut || fork(forks, rate))?;
        say(&json!({ "forks": forks, "seconds": seconds }))?;
    }
    Ok(())
}

/// Calls it where the stack has grown down to `from`.
#[inline(never)]
fn descend(from: usize, call: &mut dyn FnMut() -> Result<f64>) -> Result<f64> {
    let frame = black_box([1_u8; FRAME]);
    let done = if frame.as_ptr().addr() > from { descend(from, call) } else { call() };
    black_box(frame);
    done
}

fn fork(forks: u32, rate: u32) -> Result<f64> {
    let began = Instant::now();
    for number in 0..forks {
        if let Some(apart) = Duration::from_secs(1).checked_div(rate) {
            thread::sleep((apart * number).saturating_sub(began.elapsed()));
        }
        match sys::fork()? {
            Fork::Child => sys::exit_now(0),
            Fork::Parent(pid) => sys::wait_for(pid)?,
        };
    }
    Ok(began.elapsed().as_secs_f64())
}
