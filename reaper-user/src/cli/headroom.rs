//! `reaper headroom`: how workloads stand to their limits on processes, from the running daemon, else what can be known at once.

use std::{collections::HashMap, path::Path, sync::Arc};

use jiff::Timestamp;

use super::{Failure, args::HeadroomArgs, ls, start_log, written};
use crate::{
    config::{LogLevel, Output},
    control::{self, ControlError},
    exit_code,
    headroom::{Accounts, Ask, CgroupPath, Files, Seen, upwards},
    kernel::boot_now,
    report::{HeadroomEvent, Holding, Process, Reporter, ShownWorkload, Source, ZombieEvent},
    text::Untrusted,
    workload::{Cgroups, Hierarchy, Limits, RuntimeStates, Workloads},
};

/// Shows it.
pub(super) fn run(args: &HeadroomArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let name = args.workload.as_deref();
    let (source, rows) = match control::headroom(&control::socket(), name) {
        Ok(rows) => (Source::Daemon, rows),
        Err(ControlError::NoDaemon(_)) => (Source::Census, census(name)?),
        // Who may not ask the daemon may still hold the capabilities for a census.
        Err(error @ ControlError::NotRoot(_)) => {
            (Source::Census, census(name).map_err(|failure| failure.or_rather(error))?)
        }
        Err(error) => {
            tracing::warn!("{error}; taking a census instead");
            (Source::Census, census(name)?)
        }
    };
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

/// Zombies of one cgroup.
type Held = Vec<ZombieEvent>;

/// What a look at the kernel's processes and at the files of cgroups says: no rates, for those need two looks and some time.
fn census(name: Option<&str>) -> Result<Vec<HeadroomEvent>, Failure> {
    let mut cgroups = Cgroups::open(Path::new("/proc"), Limits::default());
    let Some((hierarchy, point)) = cgroups.pids().map(|(hierarchy, point)| (hierarchy, point.to_path_buf()))
    else {
        let message =
            "no mount shows the whole cgroup hierarchy with the pids controller: `reaper check` says more";
        return Err(Failure::new(exit_code::UNAVAILABLE, message.to_owned()));
    };
    let by_cgroup = zombies_by_cgroup(hierarchy)?;
    cgroups.walk();
    let paths: Vec<CgroupPath> = cgroups.paths(hierarchy).map(|(_, path)| Arc::clone(path)).collect();
    let mut workloads = Workloads::new(cgroups, RuntimeStates::at(Path::new("/")), Limits::default().entries);
    let wanted = match name {
        None => by_cgroup.keys().cloned().collect(),
        Some(name) => called(name, &paths, &by_cgroup, &mut workloads, hierarchy),
    };
    let below = |path: &[u8]| -> u64 {
        let is_below = |own: &CgroupPath| **own == *path || upwards(own).any(|level| *level == *path);
        by_cgroup.iter().filter(|(own, _)| is_below(own)).map(|(_, held)| held.len() as u64).sum()
    };
    let files = Files::at(hierarchy, &point, Path::new("/proc"));
    let mut accounts = Accounts::default();
    let now = boot_now();
    let mut holdings: HashMap<CgroupPath, Holding> = HashMap::new();
    for path in &wanted {
        let holding = by_cgroup.get(path).map(|held| holding(held)).unwrap_or_default();
        accounts.meet(path, below(path), holding.holder.as_ref().map(|(holder, _)| holder.pid), now);
        holdings.insert(Arc::clone(path), holding);
    }
    let holders = holdings.values().filter_map(|holding| Some(holding.holder.as_ref()?.0.pid)).collect();
    let ask =
        Ask { number: 0, cgroups: wanted.iter().map(|path| (Arc::clone(path), true)).collect(), holders };
    let all = by_cgroup.values().map(|held| held.len() as u64).sum();
    // One look disagrees with nobody.
    accounts.take(&wanted, Seen::now(&files, &ask), below, all, now);
    let time = Timestamp::now();
    let mut row = |path: &CgroupPath| {
        let shown = by_cgroup.get(path).and_then(|held| Some(held.first()?.workload.clone()));
        let shown =
            shown.unwrap_or_else(|| ShownWorkload::new(&workloads.at(hierarchy, path), &Default::default()));
        let holding = holdings.get(path).cloned().unwrap_or_default();
        HeadroomEvent::new(shown, &accounts.of(path), hierarchy, holding, Source::Census, 0, (now, time))
    };
    Ok(wanted.iter().map(&mut row).collect())
}

/// Those that stand, by the cgroup that they died in.
fn zombies_by_cgroup(hierarchy: Hierarchy) -> Result<HashMap<CgroupPath, Held>, Failure> {
    let mut by_cgroup: HashMap<CgroupPath, Held> = HashMap::new();
    for (ids, zombie) in ls::census_with_cgroups()? {
        let path = if hierarchy == Hierarchy::V2 { &ids[0] } else { &ids[1] };
        if let Some(path) = path {
            by_cgroup.entry(Arc::clone(path)).or_default().push(zombie);
        }
    }
    Ok(by_cgroup)
}

/// The outermost cgroups that are meant by a name.
fn called(
    name: &str,
    paths: &[CgroupPath],
    by_cgroup: &HashMap<CgroupPath, Held>,
    workloads: &mut Workloads,
    hierarchy: Hierarchy,
) -> Vec<CgroupPath> {
    let name = Untrusted::new(name.as_bytes());
    let mut is_meant = |path: &CgroupPath| {
        let named = by_cgroup.get(path).and_then(|held| Some(held.first()?.workload.clone()));
        let shown =
            named.unwrap_or_else(|| ShownWorkload::new(&workloads.at(hierarchy, path), &Default::default()));
        Untrusted::new(path) == name || shown.is_named(&name) || shown.shown() == name.as_str()
    };
    let meant: Vec<&CgroupPath> = paths.iter().filter(|path| is_meant(path)).collect();
    let is_below =
        |path: &CgroupPath| upwards(path).skip(1).any(|level| meant.iter().any(|other| other[..] == *level));
    meant.iter().filter(|path| !is_below(path)).map(|path| Arc::clone(path)).collect()
}

/// Who holds what of one cgroup.
fn holding(held: &[ZombieEvent]) -> Holding {
    let mut holders: HashMap<u32, (u64, &Process)> = HashMap::new();
    let mut causes = HashMap::new();
    for zombie in held {
        holders.entry(zombie.holder.pid).or_insert((0, &zombie.holder)).0 += 1;
        *causes.entry(zombie.cause).or_insert(0_u64) += 1;
    }
    Holding {
        reported: 0,
        holder: holders
            .into_values()
            .max_by_key(|(count, _)| *count)
            .map(|(count, holder)| (holder.clone(), count)),
        cause: causes.into_iter().max_by_key(|(_, count)| *count).map(|(cause, _)| cause),
        site: None,
    }
}
