//! What BPF programs cost, as the kernel counts it and bpftool shows it.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::Context as _;
use serde_json::Value;

use crate::{command, setup};

/// What a program has cost.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) nanoseconds: f64,
    pub(super) runs: f64,
}

impl std::ops::Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { nanoseconds: self.nanoseconds - before.nanoseconds, runs: self.runs - before.runs }
    }
}

/// The programs that a process has loaded, by name.
pub(super) fn costs(pid: u32) -> anyhow::Result<BTreeMap<String, Cost>> {
    let ids = loaded_by(pid)?;
    let bpftool = setup::program("bpftool").context("no bpftool: `cargo xtask setup bench`")?;
    let text = command::output(Command::new(bpftool).args(["-j", "prog", "show"]))?;
    let listed: Vec<Value> = serde_json::from_str(&text).context("bpftool did not write JSON")?;
    let ours = listed.iter().filter(|program| program["id"].as_u64().is_some_and(|id| ids.contains(&id)));
    Ok(ours
        .map(|program| {
            let count = |key: &str| program[key].as_f64().unwrap_or(0.0);
            let name = program["name"].as_str().unwrap_or_default().to_owned();
            (name, Cost { nanoseconds: count("run_time_ns"), runs: count("run_cnt") })
        })
        .collect())
}

/// Not by name: somebody else may have the same programs loaded.
fn loaded_by(pid: u32) -> anyhow::Result<Vec<u64>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut ids = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("could not list {folder}"))? {
        // One that was closed in between is no program.
        let Ok(text) = entry.and_then(|entry| fs::read_to_string(entry.path())) else { continue };
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u64>().ok()));
    }
    Ok(ids)
}
