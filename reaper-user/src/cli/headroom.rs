//! `reaper headroom`: how workloads stand to their limits on processes, from the running daemon, else what can be known at once.

use std::{collections::HashMap, path::Path, sync::Arc};

use jiff::Timestamp;

use super::{Failure, args::HeadroomArgs, ls, source::daemon_else_census, start_log, written};
use crate::{
    config::{LogLevel, Output},
    control, exit_code,
    headroom::{Accounts, Ask, CgroupPath, Files, Seen, is_within},
    kernel::boot_now,
    report::{HeadroomEvent, Holding, Reporter, ShownWorkload, Source, ZombieEvent, meant_by},
    text::Untrusted,
    workload::Hierarchy,
};

/// Shows it.
pub(super) fn run(args: &HeadroomArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let name = args.workload.as_deref();
    let (source, rows) = daemon_else_census(control::headroom(&control::socket(), name), || census(name))?;
    if rows.is_empty()
        && let Some(name) = name
    {
        let name = Untrusted::new(name.as_bytes());
        let message =
            format!("no workload is called {name}: `reaper headroom` lists those that have zombies");
        return Err(Failure::new(exit_code::UNAVAILABLE, message));
    }
    Reporter::stdout(output).without_head().headrooms(source, &rows, name.is_some()).map_err(written)?;
    Ok(exit_code::OK)
}

/// Those that stand, by the cgroup that they died in.
type ByCgroup = HashMap<CgroupPath, Vec<ZombieEvent>>;

/// What a look at the kernel's processes and at the files of cgroups says: no rates, for those need two looks and some time.
fn census(name: Option<&str>) -> Result<Vec<HeadroomEvent>, Failure> {
    let (mut describer, zombies) = ls::described()?;
    let cgroups = describer.workloads.cgroups();
    let Some((hierarchy, point)) = cgroups.pids().map(|(hierarchy, point)| (hierarchy, point.to_path_buf()))
    else {
        let message =
            "no mount shows the whole cgroup hierarchy with the pids controller: `reaper check` says more";
        return Err(Failure::new(exit_code::UNAVAILABLE, message.to_owned()));
    };
    let mut by_cgroup = ByCgroup::new();
    for (ids, zombie) in zombies {
        if let Some(path) = cgroups.pids_path(ids) {
            by_cgroup.entry(path).or_default().push(zombie);
        }
    }
    let wanted: Vec<(CgroupPath, ShownWorkload)> = match name {
        None => by_cgroup.iter().filter_map(shown).collect(),
        Some(name) => {
            let all = describer.workloads.of_all(hierarchy).into_iter().map(|(path, workload)| {
                let known = by_cgroup.get_key_value(&path).and_then(shown);
                let of_it = || ShownWorkload::new(&workload, &describer.names.known(&workload));
                known.unwrap_or_else(|| (path, of_it()))
            });
            let mut all: HashMap<CgroupPath, ShownWorkload> = all.collect();
            let meant = meant_by(&Untrusted::new(name.as_bytes()), all.clone());
            meant.into_iter().filter_map(|path| all.remove_entry(&path)).collect()
        }
    };
    Ok(rows(wanted, &by_cgroup, &Files::at(hierarchy, &point, Path::new("/proc")), hierarchy))
}

fn shown((path, held): (&CgroupPath, &Vec<ZombieEvent>)) -> Option<(CgroupPath, ShownWorkload)> {
    Some((Arc::clone(path), held.first()?.workload.clone()))
}

/// A row for each of these.
fn rows(
    wanted: Vec<(CgroupPath, ShownWorkload)>,
    by_cgroup: &ByCgroup,
    files: &Files,
    hierarchy: Hierarchy,
) -> Vec<HeadroomEvent> {
    let below = |path: &[u8]| -> u64 {
        by_cgroup.iter().filter(|(own, _)| is_within(own, path)).map(|(_, held)| held.len() as u64).sum()
    };
    let (now, time) = (boot_now(), Timestamp::now());
    let mut accounts = Accounts::default();
    let mut ask = Ask::default();
    let mut holdings = Vec::new();
    for (path, _) in &wanted {
        let holding = holding(by_cgroup.get(path).map(Vec::as_slice).unwrap_or_default());
        let holder = holding.holder.as_ref().map(|(holder, _)| holder.pid);
        accounts.meet(path, below(path), holder, now);
        ask.cgroups.push((Arc::clone(path), true));
        ask.holders.extend(holder);
        holdings.push(holding);
    }
    let paths: Vec<CgroupPath> = ask.cgroups.iter().map(|(path, _)| Arc::clone(path)).collect();
    let all = by_cgroup.values().map(|held| held.len() as u64).sum();
    // One look disagrees with nobody.
    accounts.take(&paths, Seen::read(files, &ask), below, all, now);
    let row = |((path, workload), holding): ((CgroupPath, ShownWorkload), Holding)| {
        HeadroomEvent::new(workload, &accounts.of(&path), hierarchy, holding, Source::Census, 0, (now, time))
    };
    wanted.into_iter().zip(holdings).map(row).collect()
}

/// Who holds what of one cgroup. A census reports none.
fn holding(held: &[ZombieEvent]) -> Holding {
    let of = |zombie: &ZombieEvent| (zombie.holder.pid, zombie.holder.clone(), zombie.cause, None);
    Holding { reported: 0, ..Holding::of(held.iter().map(of)) }
}
