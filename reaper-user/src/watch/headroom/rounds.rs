//! Rounds: which workloads are looked at together, what is made of it, and whose zombies a remedy comes sooner for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{Headrooms, ROUNDS_APART, Round, census::Census};
use crate::{
    headroom::{Ask, CgroupPath, Seen, upwards},
    identity::BootTime,
    kernel::boot_now,
    report::{Event, Loss, ShownWorkload},
    text::Untrusted,
    watch::{Watch, WatchError},
    workload::{CgroupId, Hierarchy},
    zombie::Zombie,
};

impl Watch {
    pub(super) fn begin_round(&mut self, now: BootTime) -> Result<(), WatchError> {
        self.headrooms.not_before = Instant::now() + ROUNDS_APART;
        self.headrooms.stirred = false;
        let questions = std::mem::take(&mut self.headrooms.questions);
        let census = self.zombie_census(!questions.is_empty())?;
        let before: HashSet<CgroupPath> = self.headrooms.accounts.paths().cloned().collect();
        let Headrooms { accounts, known, free, .. } = &mut self.headrooms;
        for path in &census.aged {
            accounts.meet(path, census.below(path), None, now);
            if let Some((_, workload)) = census.own.get(path) {
                known.insert(Arc::clone(path), workload.clone());
            }
        }
        accounts.expire(now, |path| census.below(path));
        let kept: HashSet<&CgroupPath> = accounts.paths().collect();
        known.retain(|path, _| kept.contains(path));
        free.retain(|path, _| kept.contains(path));
        let new = kept.iter().any(|path| !before.contains(*path));
        if questions.iter().any(|(name, _)| name.is_none()) {
            accounts.hurry(now);
        }
        let due = accounts.due(now);
        if new || due.iter().any(|(_, list, _)| *list) {
            self.see_holders(&due, &census, now);
        }
        let mut cgroups: Vec<_> = due.iter().map(|(path, list, _)| (Arc::clone(path), *list)).collect();
        for name in questions.iter().filter_map(|(name, _)| name.as_ref()) {
            cgroups.extend(self.cgroups_called(name).into_iter().map(|path| (path, true)));
        }
        if cgroups.is_empty() && questions.is_empty() {
            return Ok(());
        }
        let holders: HashSet<u32> =
            due.iter().filter_map(|(path, ..)| self.headrooms.accounts.unread_holder(path)).collect();
        self.headrooms.rounds += 1;
        let number = self.headrooms.rounds;
        let paths = cgroups.iter().map(|(path, _)| Arc::clone(path)).collect();
        let ask = Ask { number, cgroups, holders: holders.into_iter().collect() };
        if self.headrooms.reader.ask(ask) {
            self.headrooms.round = Some(Round { number, at: Instant::now(), paths, census, questions });
        } else {
            self.headrooms.unread += 1;
        }
        Ok(())
    }

    /// Finds out who holds the zombies of those that are looked at.
    fn see_holders(&mut self, due: &[(CgroupPath, bool, Option<u32>)], census: &Census, now: BootTime) {
        let wanted: HashSet<&CgroupPath> = due.iter().map(|(path, ..)| path).collect();
        let mut held: HashMap<CgroupPath, HashMap<u32, u64>> = HashMap::new();
        for (_, path, zombie) in self.standing_by_path() {
            if wanted.contains(&path) {
                *held.entry(path).or_default().entry(zombie.holder.pid).or_default() += 1;
            }
        }
        for (path, holders) in held {
            let most = holders.into_iter().max_by_key(|(_, count)| *count).map(|(holder, _)| holder);
            self.headrooms.accounts.meet(&path, census.below(&path), most, now);
        }
    }

    /// Reported zombies with the cgroup that they died in.
    pub(super) fn standing_by_path(&mut self) -> Vec<(u64, CgroupPath, &Zombie)> {
        let hierarchy = self.headrooms.hierarchy;
        let cgroups = self.describer.workloads.cgroups();
        let mut paths: HashMap<u64, Option<CgroupPath>> = HashMap::new();
        let path_of = |(id, [v2, v1], zombie): (u64, [u64; 2], _)| {
            let own = if hierarchy == Hierarchy::V2 { v2 } else { v1 };
            let path = paths.entry(own).or_insert_with(|| {
                let id = CgroupId { hierarchy, id: own };
                if own == 0 { None } else { cgroups.path(id) }
            });
            Some((id, path.clone()?, zombie))
        };
        self.standing.iter().filter_map(path_of).collect()
    }

    /// The outermost cgroups that are meant by a name: a path, or what a workload is called.
    pub(super) fn cgroups_called(&mut self, name: &Untrusted) -> Vec<CgroupPath> {
        let hierarchy = self.headrooms.hierarchy;
        let all: Vec<CgroupPath> =
            self.describer.workloads.cgroups().paths(hierarchy).map(|(_, path)| Arc::clone(path)).collect();
        let mut meant: Vec<CgroupPath> = Vec::new();
        for path in all {
            let workload = self.describer.workloads.at(hierarchy, &path);
            let shown = ShownWorkload::new(&workload, &self.describer.names.of(&workload));
            if Untrusted::new(&path) == *name || shown.is_named(name) || shown.shown() == name.as_str() {
                self.headrooms.known.entry(Arc::clone(&path)).or_insert(workload);
                meant.push(path);
            }
        }
        let is_below = |path: &CgroupPath| {
            upwards(path).skip(1).any(|level| meant.iter().any(|other| other[..] == *level))
        };
        let outermost = meant.iter().filter(|path| !is_below(path)).cloned().collect();
        // Zombies of it may be further in.
        outermost
    }

    pub(super) fn take_round(&mut self, seen: Seen) -> Result<(), WatchError> {
        let now = boot_now();
        let Some(round) = self.headrooms.round.take_if(|round| round.number == seen.number) else {
            return Ok(());
        };
        let Round { paths, census, questions, .. } = round;
        let below = |path: &[u8]| census.below(path);
        let differing = self.headrooms.accounts.take(&paths, seen, below, census.all, now);
        for of in differing {
            tracing::warn!(
                cgroup = %Untrusted::new(&of.path),
                zombies = of.ledger,
                unlisted = of.unlisted,
                "the kernel keeps counting another number of dead tasks than there are zombies in the ledger"
            );
            self.losses.count(Loss::ZombiesDiffer);
        }
        self.see_what_is_left(&paths, now);
        for (name, reply) in questions {
            let paths = match name {
                None => self.headrooms.accounts.paths().cloned().collect(),
                Some(name) => self.cgroups_called(&name),
            };
            let holdings = self.holdings();
            let events = paths.iter().map(|path| {
                let zombies = census.below(path);
                Event::Headroom(Box::new(self.headroom_event(path, zombies, holdings.get(path), now)))
            });
            // Nobody waits for the answer any more: nothing to do.
            let _left = reply.send(events.collect());
        }
        Ok(())
    }

    /// Where less is left than a rule says, remedies come sooner.
    fn see_what_is_left(&mut self, paths: &[CgroupPath], now: BootTime) {
        let thresholds = self.remedies.policy().headroom_thresholds();
        let mut low: HashSet<CgroupPath> = HashSet::new();
        for path in paths {
            let Some(free) = self.headrooms.accounts.of(path).free() else { continue };
            let before = self.headrooms.free.insert(Arc::clone(path), free).unwrap_or(f64::INFINITY);
            if thresholds.iter().any(|below| before >= *below && free < *below) {
                low.insert(Arc::clone(path));
            }
        }
        if low.is_empty() {
            return;
        }
        let ids: Vec<u64> = self
            .standing_by_path()
            .into_iter()
            .filter(|(_, path, _)| low.contains(path))
            .map(|(id, ..)| id)
            .collect();
        self.remedies.bring_forward(&ids, now);
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
    }

    /// What is left of the nearest limit of whoever died in these cgroups.
    pub(in crate::watch) fn free_of(&mut self, [v2, v1]: [u64; 2]) -> Option<f64> {
        let hierarchy = self.headrooms.hierarchy;
        let id = if hierarchy == Hierarchy::V2 { v2 } else { v1 };
        let path =
            (id != 0).then(|| self.describer.workloads.cgroups().path(CgroupId { hierarchy, id }))??;
        self.headrooms.free(&path)
    }
}
