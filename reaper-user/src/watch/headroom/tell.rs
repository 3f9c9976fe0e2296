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
        let due = self.headrooms.failures.due(now);
        if due.is_empty() {
            self.note_told();
            return Ok(());
        }
        // One look at the ledger is enough for all of them.
        let census = match self.zombie_census(true) {
            Ok(census) => census,
            Err(error) => {
                self.headrooms.failures.put_back(due.into_iter().flatten());
                return Err(error);
            }
        };
        let holdings = self.holdings();
        let (mut due, mut zombies) = (due.into_iter(), None);
        while let Some(next) = due.next() {
            if let Err(error) = self.tell_together(&next, &census, &mut zombies, &holdings, now) {
                self.headrooms.failures.put_back(next.into_iter().chain(due.flatten()));
                return Err(error);
            }
        }
        self.note_told();
        Ok(())
    }

    /// Tells of refused forks in one event: of a limit, or of several that there are too many of.
    fn tell_together(
        &mut self,
        together: &[Due],
        census: &Census,
        zombies: &mut Option<Zombies>,
        holdings: &HashMap<CgroupPath, Holding>,
        now: BootTime,
    ) -> Result<(), WatchError> {
        let Some(named) = together.iter().max_by_key(|due| due.count) else { return Ok(()) };
        let Due { refusal, workload, .. } = named;
        let mut limits = Vec::new();
        for due in together.iter().filter(|due| due.is_of_one()) {
            limits.push((due, self.limit_of(&due.refusal, census, zombies, now)?));
        }
        let is_of_one = together.len() == 1 && named.is_of_one();
        let (mut shown_limit, mut own) = (None, Vec::new());
        if is_of_one && let Some((_, Some((limit, shown)))) = limits.first() {
            own = self.most_of(limit, census, zombies, now)?;
            shown_limit = Some(shown.clone());
        }
        // Nobody is asked for the names of those that are not told of.
        let shown = |workload: &Workload| ShownWorkload::new(workload, &self.describer.names.of(workload));
        let of = |(path, (zombies, workload)): &(CgroupPath, Own)| ZombiesOf {
            workload: shown(workload),
            zombies: *zombies,
            holder: holdings.get(path).and_then(|holding| Some(holding.holder.as_ref()?.0.clone())),
        };
        let zombies_of = own.iter().map(of).collect();
        let no_limit = match &refusal.found {
            _ if shown_limit.is_some() => None,
            _ if !is_of_one => Some(NoLimit::Several),
            Found::Unknown => Some(NoLimit::NoneFull),
            Found::Unread => Some(NoLimit::NotRead),
            Found::PidsMax | Found::Other(..) => Some(NoLimit::Gone),
        };
        let event = ForkFailedEvent {
            time: Timestamp::now(),
            count: together.iter().map(|due| due.count).sum(),
            total: together.iter().map(|due| due.total).sum(),
            cgroups: Due::cgroups(together),
            zombie_share: shown_limit.as_ref().and_then(|limit| limit.zombie_share),
            limit: shown_limit,
            no_limit,
            forker: refusal.who.as_ref().map(ShownForker::from),
            forker_cgroup: refusal.forker.as_ref().map(|path| Untrusted::new(path)),
            workload: shown(workload),
            zombies_of,
            source: refusal.source,
        };
        self.outbox.send(Event::ForkFailed(Box::new(event)));
        for (due, limit) in limits {
            let share = limit.and_then(|(_, shown)| shown.zombie_share);
            for workload in due.workloads() {
                self.headrooms.told_share(workload, share);
            }
        }
        Ok(())
    }

    /// The limit that refused a fork; `None` where it is not known.
    fn limit_of(
        &mut self,
        refusal: &Refusal,
        census: &Census,
        zombies: &mut Option<Zombies>,
        now: BootTime,
    ) -> Result<Option<(Limit, ShownLimit)>, WatchError> {
        let (limit, max, used) = match &refusal.found {
            Found::Unknown | Found::Unread => return Ok(None),
            Found::Other(limit, max, used) => (limit.clone(), Some(*max), *used),
            Found::PidsMax => match refusal.level() {
                Some(level) => (Limit::PidsMax(Arc::clone(&level.path)), level.max, level.current),
                None => return Ok(None),
            },
        };
        let count = match &limit {
            Limit::PidsMax(at) => Some(census.below(at)),
            Limit::PidMax | Limit::ThreadsMax => Some(census.all),
            Limit::PidMaxOf(_) | Limit::Nproc(_) | Limit::NprocWithin(_) => {
                self.among(&limit, zombies, now)?.all
            }
        };
        let of = Use::new(limit.clone(), max, used, count.unwrap_or(0));
        let shown = ShownLimit::new(&of, self.headrooms.hierarchy, now);
        let shown = if count.is_some() { shown } else { shown.without_zombies() };
        Ok(Some((limit, shown)))
    }

    /// The cgroups that have the most of the zombies which count against a limit.
    fn most_of(
        &mut self,
        limit: &Limit,
        census: &Census,
        zombies: &mut Option<Zombies>,
        now: BootTime,
    ) -> Result<Vec<(CgroupPath, Own)>, WatchError> {
        Ok(match limit {
            Limit::PidsMax(at) => largest(census.own.iter().filter(|(path, _)| is_within(path, at))),
            Limit::PidMax | Limit::ThreadsMax => largest(census.own.iter()),
            Limit::PidMaxOf(_) | Limit::Nproc(_) | Limit::NprocWithin(_) => {
                self.among(limit, zombies, now)?.own
            }
        })
    }

    /// Those that count against a limit which is no cgroup's.
    fn among(
        &mut self,
        limit: &Limit,
        zombies: &mut Option<Zombies>,
        now: BootTime,
    ) -> Result<Among, WatchError> {
        let zombies = match zombies {
            Some(zombies) => zombies,
            None => zombies.insert(Zombies::of(&self.describer, now)?),
        };
        Ok(zombies.among(limit, &mut self.describer))
    }
}
