//! What is told: how a workload stands to its limits, and that a fork was refused.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    among::{Among, Zombies},
    census::{Census, Own, largest},
    failures::Due,
};
use crate::{
    headroom::{CgroupPath, Found, Limit, Refusal, Use, is_within},
    identity::BootTime,
    report::{
        Event, ForkFailedEvent, HeadroomEvent, Holding, NoLimit, ShownForker, ShownLimit, ShownWorkload,
        Source, ZombiesOf,
    },
    text::Untrusted,
    watch::{Watch, WatchError, sweep::cpu_time},
    workload::Workload,
    zombie::Zombie,
};

/// Telling takes one part in so many of a CPU, at most, as long as
const TELL_SHARE: u32 = 20;
/// it is no later for that than this.
const TOLD_BY: Duration = Duration::from_secs(1);

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
            Holding::of(ids.iter().filter_map(|id| {
                let zombie = zombies.get(id)?;
                let site = self.sites.of_zombie(*id).map(|site| site.id);
                Some((zombie.holder.pid, &zombie.holder, zombie.cause, site))
            }))
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
        // It may have been read a while ago.
        let seen = headroom.seen.unwrap_or(now);
        let moment = (seen, Timestamp::now() - now.since(seen));
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
    pub(in crate::watch) fn headroom_of(&mut self, ids: [u64; 2], now: BootTime) -> Option<HeadroomEvent> {
        let path = self.describer.workloads.cgroups().pids_path(ids)?;
        let headroom = self.headrooms.accounts.of(&path);
        if !self.headrooms.known.contains_key(&path) || headroom.uses.is_empty() {
            return None;
        }
        let holdings = self.holdings();
        Some(self.headroom_event(&path, headroom.zombies, holdings.get(&path), now))
    }

    /// Tells what is due of refused forks. After it has taken long the next time is later, and for more of them together: how many
    /// cgroups there are to be refused in, and how many zombies to look at, is up to those who are refused.
    pub(super) fn tell_refusals(&mut self, now: BootTime) -> Result<(), WatchError> {
        if Instant::now() < self.headrooms.tell_after {
            return Ok(());
        }
        let before = cpu_time();
        let told = self.tell_due_refusals(now);
        let took = cpu_time().saturating_sub(before);
        self.headrooms.tell_after = Instant::now() + (took * TELL_SHARE).min(TOLD_BY);
        told
    }

    pub(super) fn tell_due_refusals(&mut self, now: BootTime) -> Result<(), WatchError> {
        let mut due = self.headrooms.failures.due(now);
        due.retain(|due| self.filter.matches_workload(&due.workload));
        if due.is_empty() {
            self.note_told();
            return Ok(());
        }
        // One look at the ledger is enough for all of them.
        let census = match self.zombie_census(true) {
            Ok(census) => census,
            Err(error) => {
                self.headrooms.failures.put_back(due);
                return Err(error);
            }
        };
        let holdings = self.holdings();
        let (mut due, mut zombies) = (due.into_iter(), None);
        while let Some(next) = due.next() {
            if let Err(error) = self.tell_refusal(&next, &census, &mut zombies, &holdings, now) {
                self.headrooms.failures.put_back(std::iter::once(next).chain(due).collect());
                return Err(error);
            }
        }
        self.note_told();
        Ok(())
    }

    fn tell_refusal(
        &mut self,
        due: &Due,
        census: &Census,
        zombies: &mut Option<Zombies>,
        holdings: &HashMap<CgroupPath, Holding>,
        now: BootTime,
    ) -> Result<(), WatchError> {
        let Due { refusal, workload, count, hooked: _, total } = due;
        let (limit, own) = self.limit_of(refusal, census, zombies, now)?;
        // Nobody is asked for the names of those that are not told of.
        let shown = |workload: &Workload| ShownWorkload::new(workload, &self.describer.names.of(workload));
        let of = |(path, (zombies, workload)): &(CgroupPath, Own)| ZombiesOf {
            workload: shown(workload),
            zombies: *zombies,
            holder: holdings.get(path).and_then(|holding| Some(holding.holder.as_ref()?.0.clone())),
        };
        let zombies_of = own.iter().map(of).collect();
        let share = limit.as_ref().and_then(|limit| limit.zombie_share);
        let no_limit = match &refusal.found {
            _ if limit.is_some() => None,
            Found::Unknown => Some(NoLimit::NoneFull),
            Found::Unread => Some(NoLimit::NotRead),
            Found::PidsMax | Found::Other(..) => Some(NoLimit::Gone),
        };
        let event = ForkFailedEvent {
            time: Timestamp::now(),
            count: *count,
            total: *total,
            zombie_share: share,
            limit,
            no_limit,
            forker: refusal.who.as_ref().map(ShownForker::from),
            forker_cgroup: refusal.forker.as_ref().map(|path| Untrusted::new(path)),
            workload: shown(workload),
            zombies_of,
            source: refusal.source,
        };
        self.outbox.send(Event::ForkFailed(Box::new(event)));
        self.headrooms.told_share(workload, share);
        Ok(())
    }

    /// The limit that refused a fork, and the cgroups whose zombies count against it.
    fn limit_of(
        &mut self,
        refusal: &Refusal,
        census: &Census,
        zombies: &mut Option<Zombies>,
        now: BootTime,
    ) -> Result<Limited, WatchError> {
        let (limit, max, used) = match &refusal.found {
            Found::Unknown | Found::Unread => return Ok((None, Vec::new())),
            Found::Other(limit, max, used) => (limit.clone(), Some(*max), *used),
            Found::PidsMax => match refusal.level() {
                Some(level) => (Limit::PidsMax(Arc::clone(&level.path)), level.max, level.current),
                None => return Ok((None, Vec::new())),
            },
        };
        let (count, own) = match &limit {
            Limit::PidsMax(at) => {
                let below = census.own.iter().filter(|(path, _)| is_within(path, at));
                (Some(census.below(at)), largest(below))
            }
            Limit::PidMax | Limit::ThreadsMax => (Some(census.all), largest(census.own.iter())),
            Limit::PidMaxOf(_) | Limit::Nproc(_) | Limit::NprocWithin(_) => {
                let zombies = match zombies {
                    Some(zombies) => zombies,
                    None => zombies.insert(Zombies::of(&self.describer, now)?),
                };
                let Among { all, own } = zombies.among(&limit, &mut self.describer);
                (all, own)
            }
        };
        let of = Use::new(limit, max, used, count.unwrap_or(0));
        let shown = ShownLimit::new(&of, self.headrooms.hierarchy, now);
        let shown = if count.is_some() { shown } else { shown.without_zombies() };
        Ok((Some(shown), own))
    }
}

/// A limit, and the cgroups that have the most of its zombies.
type Limited = (Option<ShownLimit>, Vec<(CgroupPath, Own)>);
