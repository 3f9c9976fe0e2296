//! Rounds: which workloads are looked at together, what is made of it, and whose zombies a remedy comes sooner for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{Headrooms, ROUNDS_APART, Round, census::Census};
use crate::{
    headroom::{Ask, CgroupPath, FORGOTTEN, Seen},
    identity::BootTime,
    kernel::boot_now,
    report::{Event, Loss, ShownWorkload, meant_by},
    text::Untrusted,
    watch::{Watch, WatchError},
    zombie::Zombie,
};

impl Watch {
    pub(super) fn begin_round(&mut self, now: BootTime) -> Result<(), WatchError> {
        self.headrooms.not_before = Instant::now() + ROUNDS_APART;
        self.headrooms.stirred = false;
        let questions = std::mem::take(&mut self.headrooms.questions);
        let census = self.zombie_census(!questions.is_empty())?;
        let Headrooms { accounts, known, free, .. } = &mut self.headrooms;
        let mut new = false;
        for path in &census.aged {
            new |= accounts.meet(path, census.below(path), None, now);
            if let Some((_, workload)) = census.own.get(path) {
                known.insert(Arc::clone(path), workload.clone());
            }
        }
        accounts.expire(now, |path| census.below(path));
        let kept: HashSet<&CgroupPath> = accounts.paths().collect();
        known.retain(|path, _| kept.contains(path));
        free.retain(|path, (seen, _)| kept.contains(path) && now.since(*seen) < FORGOTTEN);
        if questions.iter().any(|(name, _)| name.is_none()) {
            accounts.hurry(now);
        }
        let mut cgroups: HashMap<CgroupPath, bool> = accounts.due(now).into_iter().collect();
        let mut asked = Vec::new();
        for (name, reply) in questions {
            let called = name.map(|name| self.cgroups_called(&name));
            cgroups.extend(called.iter().flatten().map(|path| (Arc::clone(path), true)));
            asked.push((called, reply));
        }
        // Who asks is told of the holder as it is now.
        if new || !asked.is_empty() || cgroups.values().any(|list| *list) {
            self.see_holders(&cgroups, &census, now);
        }
        let accounts = &self.headrooms.accounts;
        let holders: HashSet<u32> = cgroups.keys().filter_map(|path| accounts.unread_holder(path)).collect();
        if cgroups.is_empty() && asked.is_empty() {
            return Ok(());
        }
        self.headrooms.rounds += 1;
        let number = self.headrooms.rounds;
        let paths = cgroups.keys().cloned().collect();
        let cgroups = cgroups.into_iter().collect();
        let ask = Ask { number, cgroups, holders: holders.into_iter().collect() };
        if self.headrooms.reader.ask(ask) {
            self.headrooms.round = Some(Round { number, at: Instant::now(), paths, census, asked });
        } else {
            self.headrooms.unread += 1;
        }
        Ok(())
    }

    /// Finds out who holds the zombies of those that are looked at.
    fn see_holders(&mut self, wanted: &HashMap<CgroupPath, bool>, census: &Census, now: BootTime) {
        let mut held: HashMap<CgroupPath, HashMap<u32, u64>> = HashMap::new();
        for (_, path, zombie) in self.standing_by_path() {
            if wanted.contains_key(&path) {
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
        let cgroups = self.describer.workloads.cgroups();
        let mut paths: HashMap<[u64; 2], Option<CgroupPath>> = HashMap::new();
        let path_of = |(id, ids, zombie): (u64, [u64; 2], _)| {
            let path = paths.entry(ids).or_insert_with(|| cgroups.pids_path(ids));
            Some((id, path.clone()?, zombie))
        };
        self.standing.iter().filter_map(path_of).collect()
    }

    /// The outermost cgroups that are meant by a name: a path, or what a workload is called.
    fn cgroups_called(&mut self, name: &Untrusted) -> Vec<CgroupPath> {
        let hierarchy = self.headrooms.hierarchy;
        let all = self.describer.workloads.of_all(hierarchy);
        // Nobody is asked about all that is on the node.
        let shown = |workload| ShownWorkload::new(workload, &self.describer.names.known(workload));
        let meant = meant_by(name, all.iter().map(|(path, workload)| (Arc::clone(path), shown(workload))));
        let mut workloads: HashMap<_, _> = all.into_iter().collect();
        for path in &meant {
            if let Some(workload) = workloads.remove(path) {
                self.headrooms.known.entry(Arc::clone(path)).or_insert(workload);
            }
        }
        meant
    }

    pub(super) fn take_round(&mut self, seen: Seen) -> Result<(), WatchError> {
        let now = boot_now();
        self.headrooms.unread += seen.unread;
        let Some(round) = self.headrooms.round.take_if(|round| round.number == seen.number) else {
            return Ok(());
        };
        let Round { paths, census, asked, .. } = round;
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
        if asked.is_empty() {
            return Ok(());
        }
        let holdings = self.holdings();
        for (paths, reply) in asked {
            let paths = paths.unwrap_or_else(|| self.headrooms.accounts.paths().cloned().collect());
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
            let Some(free) = self.headrooms.accounts.of(path).free_by_own() else {
                self.headrooms.free.remove(path);
                continue;
            };
            let before = self.headrooms.free.insert(Arc::clone(path), (now, free));
            let before = before.map_or(f64::INFINITY, |(_, free)| free);
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

    /// What is left of the nearest limit of whoever died in these cgroups, as it was seen a moment ago.
    pub(in crate::watch) fn free_of(&mut self, ids: [u64; 2], now: BootTime) -> Option<f64> {
        let path = self.describer.workloads.cgroups().pids_path(ids)?;
        self.headrooms.free(&path, now)
    }
}
