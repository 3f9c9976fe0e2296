//! What is told: how a workload stands to its limits, and that a fork was refused.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use super::{NAMED, failures::Due};
use crate::{
    headroom::{CgroupPath, Limit, Use, upwards},
    identity::BootTime,
    report::{
        Event, ForkFailedEvent, HeadroomEvent, Holding, Process, ShownLimit, ShownWorkload, Source, ZombiesOf,
    },
    text::Untrusted,
    watch::{Watch, WatchError},
    workload::{CgroupId, Hierarchy, Workload},
    zombie::{Cause, Zombie},
};

impl Watch {
    /// Who holds what of each cgroup.
    pub(super) fn holdings(&mut self) -> HashMap<CgroupPath, Holding> {
        let mut sorted: HashMap<CgroupPath, Vec<u64>> = HashMap::new();
        for (id, path, _) in self.standing_by_path() {
            sorted.entry(path).or_default().push(id);
        }
        let zombies: HashMap<u64, &Zombie> =
            self.standing.iter().map(|(id, _, zombie)| (id, zombie)).collect();
        let of = |ids: Vec<u64>| {
            let mut holders: HashMap<u32, (u64, &Zombie)> = HashMap::new();
            let mut causes: HashMap<Cause, u64> = HashMap::new();
            let mut sites = HashMap::new();
            for id in &ids {
                let Some(zombie) = zombies.get(id) else { continue };
                holders.entry(zombie.holder.pid).or_insert((0, zombie)).0 += 1;
                *causes.entry(zombie.cause).or_default() += 1;
                if let Some(site) = self.sites.of_zombie(*id) {
                    *sites.entry(site.id).or_insert(0_u64) += 1;
                }
            }
            let holder = holders.into_values().max_by_key(|(count, _)| *count);
            Holding {
                reported: ids.len() as u64,
                holder: holder.map(|(count, zombie)| (Process::from(&zombie.holder), count)),
                cause: causes.into_iter().max_by_key(|(_, count)| *count).map(|(cause, _)| cause),
                site: sites.into_iter().max_by_key(|(_, count)| *count).map(|(site, _)| site),
            }
        };
        sorted.into_iter().map(|(path, ids)| (path, of(ids))).collect()
    }

    pub(super) fn headroom_event(
        &self,
        path: &CgroupPath,
        zombies: u64,
        holding: Option<&Holding>,
        now: BootTime,
    ) -> HeadroomEvent {
        let workload = self.headrooms.known.get(path).cloned().unwrap_or_else(Workload::unresolved);
        let shown = ShownWorkload::new(&workload, &self.describer.names.of(&workload));
        let mut headroom = self.headrooms.accounts.of(path);
        headroom.zombies = zombies;
        let holding = holding.cloned().unwrap_or_default();
        let failures = self.headrooms.failures.total(path);
        let moment = (now, Timestamp::now());
        HeadroomEvent::new(
            shown,
            &headroom,
            self.headrooms.hierarchy,
            holding,
            Source::Daemon,
            failures,
            moment,
        )
    }

    /// The headroom of whoever died in these cgroups, as it was last seen.
    pub(in crate::watch) fn headroom_of(
        &mut self,
        [v2, v1]: [u64; 2],
        now: BootTime,
    ) -> Option<HeadroomEvent> {
        let hierarchy = self.headrooms.hierarchy;
        let id = if hierarchy == Hierarchy::V2 { v2 } else { v1 };
        let path =
            (id != 0).then(|| self.describer.workloads.cgroups().path(CgroupId { hierarchy, id }))??;
        let headroom = self.headrooms.accounts.of(&path);
        if !self.headrooms.known.contains_key(&path) || headroom.uses.is_empty() {
            return None;
        }
        let holdings = self.holdings();
        Some(self.headroom_event(&path, headroom.zombies, holdings.get(&path), now))
    }

    pub(super) fn tell_refusal(&mut self, due: Due, now: BootTime) -> Result<(), WatchError> {
        let Due { refusal, count, total } = due;
        let hierarchy = self.headrooms.hierarchy;
        let path = refusal.forker.as_ref().unwrap_or(&refusal.path);
        let workload = self.describer.workloads.at(hierarchy, path);
        if !self.filter.matches_workload(&workload) {
            return Ok(());
        }
        let census = self.zombie_census(true)?;
        let limit = refusal.level().map(|level| Use {
            limit: Limit::PidsMax(Arc::clone(&level.path)),
            max: level.max,
            used: level.current,
            zombies: census.below(&level.path),
            threads: None,
            processes: None,
            rate: None,
            forecast: None,
        });
        let holdings = self.holdings();
        let below: Vec<_> = match &limit {
            Some(Use { limit: Limit::PidsMax(at), .. }) => {
                let is_below = |path: &[u8]| upwards(path).any(|level| *level == **at);
                census.own.iter().filter(|(path, _)| is_below(path)).collect()
            }
            _ => Vec::new(),
        };
        let shown = |workload: &Workload| ShownWorkload::new(workload, &self.describer.names.of(workload));
        let of = |(path, (zombies, workload)): (&CgroupPath, &(u64, Workload))| ZombiesOf {
            workload: shown(workload),
            zombies: *zombies,
            holder: holdings.get(path).and_then(|holding| Some(holding.holder.as_ref()?.0.clone())),
        };
        let mut zombies_of: Vec<ZombiesOf> = below.into_iter().map(of).collect();
        zombies_of.sort_by_key(|of| std::cmp::Reverse(of.zombies));
        zombies_of.truncate(NAMED);
        let share = limit.as_ref().map_or(0.0, Use::share);
        let named = self.describer.names.of(&workload);
        let event = ForkFailedEvent {
            time: Timestamp::now(),
            count,
            total,
            limit: limit.map(|limit| ShownLimit::new(&limit, hierarchy, now)),
            forker_cgroup: refusal.forker.as_ref().map(|path| Untrusted::new(path)),
            workload: ShownWorkload::new(&workload, &named),
            zombie_share: (share * 1e4).round() / 1e4,
            zombies_of,
            source: refusal.source,
        };
        self.outbox.send(Event::ForkFailed(Box::new(event)));
        Ok(())
    }
}
