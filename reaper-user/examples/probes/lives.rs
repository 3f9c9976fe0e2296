//! Process lives one after the other: fork, exec, exit, wait.

use std::{env, hint::black_box, io, process, time::Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    say,
    sys::{self, Fork},
    usage,
};

const LIFE: &str = "life";
const MIB: usize = 1 << 20;
const CACHE_LINE: usize = 64;

/// True where this process is what a life execs; then it has done what it was told to.
pub(crate) fn is_life() -> bool {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(LIFE) {
        return false;
    }
    if let Some(mib) = arguments.next().and_then(|word| word.parse::<usize>().ok()) {
        walk(&vec![1; mib * MIB]);
    }
    true
}

fn walk(memory: &[u8]) {
    for line in memory.chunks(CACHE_LINE) {
        black_box(line.first());
    }
    let sum: u64 = memory.iter().step_by(CACHE_LINE).map(|&byte| u64::from(byte)).sum();
    black_box(sum);
}

pub(crate) fn run(mib: usize, exec: bool) -> Result<()> {
    let program = env::current_exe()?.into_os_string().into_string().ok().context("our path is not UTF-8")?;
    let word = mib.to_string();
    // The lighter the life, the more a probe's share of it.
    let (program, arguments): (&str, &[&str]) =
        if mib == 0 { ("/bin/true", &[]) } else { (&program, &[LIFE, &word]) };
    let memory = vec![1; mib * MIB];
    say(&json!({ "event": "ready", "pid": process::id() }))?;
    for line in io::stdin().lines() {
        let lives: u32 = line?.trim().parse()?;
        let (cpu, wall) = (usage::cpu(), Instant::now());
        let mut each = Vec::with_capacity(lives as usize);
        for _ in 0..lives {
            let born = Instant::now();
            walk(&memory);
            match sys::fork()? {
                Fork::Child => {
                    walk(&memory);
                    if exec {
                        sys::exec(program, arguments);
                        sys::exit_now(127);
                    }
                    sys::exit_now(0);
                }
                Fork::Parent(pid) => {
                    walk(&memory);
                    ensure!(sys::wait_for(pid)? == 0, "a life failed");
                    each.push(born.elapsed());
                }
            }
        }
        let (cpu, wall) = (usage::cpu() - cpu, wall.elapsed());
        each.sort_unstable();
        let median = each.get(each.len() / 2).copied().unwrap_or_default();
        say(&json!({
            "lives": lives,
            "seconds": wall.as_secs_f64(),
            "cpu_seconds": cpu.as_secs_f64(),
            "median_seconds": median.as_secs_f64(),
        }))?;
    }
    Ok(())
}
