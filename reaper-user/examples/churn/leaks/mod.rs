//! Leaks: children that stand unwaited, each kind made by a process of its own that writes the truth down.

mod held;
mod orphans;
mod own;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    stage::{Pace, Stage},
    sys::Pid,
};

type Body = fn(&Stage, Pace) -> Result<()>;

/// Kinds that cost one process a leak.
const CHEAP: [(&str, Body); 12] = [
    ("never-waited", own::never_waited),
    ("no-signal", own::no_signal),
    ("vfork", own::vfork),
    ("posix-spawn", own::posix_spawn),
    ("exec-from-thread", own::exec_from_thread),
    ("last-two-threads", own::last_two_threads),
    ("dead-leader", own::dead_leader),
    ("forked-by-thread", own::forked_by_thread),
    ("clone-parent", own::clone_parent),
    ("subreaper", orphans::subreaper),
    ("waited-late", held::waited_late),
    ("waited-in-time", held::waited_in_time),
];

/// Kinds that cost several processes a leak, some of which live to the end.
const COSTLY: [(&str, Body); 7] = [
    ("namespace-init", orphans::namespace_init),
    ("shell", orphans::shell),
    ("holder-dies", orphans::holder_dies),
    ("tracer", held::tracer),
    ("stopped-holder", held::stopped_holder),
    ("coalesced", held::coalesced),
    ("namespace-dying", held::namespace_dying),
];

/// Starts one process a kind (only those in `only`, where there are any), which together leak about `rate` children a
/// second, were they all: four in five of the cheap kinds.
pub(crate) fn start(stage: &Stage, rate: f64, only: &[String]) -> Result<Vec<Pid>> {
    let mut pids = Vec::new();
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let known = |only: &String| CHEAP.iter().chain(&COSTLY).any(|(name, _)| name == only);
    ensure!(only.iter().all(known), "there is no such kind in {only:?}");
    if rate <= 0.0 {
        return Ok(pids);
    }
    for (kinds, share) in [(&CHEAP[..], 0.8), (&COSTLY[..], 0.2)] {
        let number = u32::try_from(kinds.len())?;
        let interval = Duration::from_secs_f64(f64::from(number) / (rate * share));
        for (name, body) in kinds.iter().filter(|(name, _)| is_wanted(name)) {
            pids.push(stage.start(name, |stage| body(stage, Pace::new(interval)))?);
        }
    }
    Ok(pids)
}
