//! Limits on numbers of processes: which workloads are looked at and when, what is told of refused forks, and whose zombies a remedy
//! comes sooner for.

mod census;
mod failures;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use self::{
    census::Census,
    failures::{Due, Failures},
};
use super::{Watch, WatchError, WorkloadLabels, label_sets::LabelSets, sweep::cpu_time};
use crate::{
    headroom::{Accounts, Ask, CgroupPath, Files, Limit, Reader, Report, Seen, Use, upwards},
    identity::BootTime,
    kernel::boot_now,
    proc::Proc,
    report::{
        Event, ForkFailedEvent, HeadroomEvent, Holding, Loss, Process, ShownLimit, ShownWorkload, Source,
        ZombiesOf,
    },
    text::Untrusted,
    workload::{CgroupId, Cgroups, Hierarchy, Workload},
    zombie::{Cause, Zombie},
};

/// Between two rounds of looking, at least.
const ROUNDS_APART: Duration = Duration::from_millis(900);

/// An answer that has not come by then is not waited for.
const ANSWERED: Duration = Duration::from_secs(10);

/// Workloads that are named with a refused fork, at most.
const NAMED: usize = 5;

/// Questions that wait together, at most.
const QUESTIONS: usize = 16;

/// Who has asked, and for which workload; for all that have zombies where it is `None`.
type Question = (Option<Untrusted>, oneshot::Sender<Vec<Event>>);

/// What is being read.
#[derive(Debug)]
struct Round {
    number: u64,
    at: Instant,
    paths: Vec<CgroupPath>,
    census: Census,
    questions: Vec<Question>,
}

/// All of it.
pub(super) struct Headrooms {
    reader: Reader,
    reports: mpsc::UnboundedReceiver<Report>,
    hierarchy: Hierarchy,
    accounts: Accounts,
    /// Whose the cgroups are.
    known: HashMap<CgroupPath, Workload>,
    round: Option<Round>,
    rounds: u64,
    not_before: Instant,
    questions: Vec<Question>,
    /// There may be a workload that is not known yet.
    stirred: bool,
    next_pass: Instant,
    failures: Failures,
    counts: LabelSets<WorkloadLabels, u64>,
    /// What was left of the nearest limit when it was last looked at.
    free: HashMap<CgroupPath, f64>,
    /// Cgroups that could not be handed over,
    unwatched: u64,
    /// and what the reader has lost.
    lost: u64,
    unread: u64,
    /// What it takes of a CPU outside of the thread that reads.
    used: Duration,
}

/// How a workload stands to its nearest limit, for metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitCounts {
    /// The limit; 0 where there is none.
    pub limit: Option<u64>,
    /// Tasks that count.
    pub used: u64,
    /// Those of them that are zombies.
    pub zombies: u64,
    /// In how many seconds it is full, where that can be said.
    pub exhaustion: Option<Duration>,
}

impl LimitCounts {
    /// The part that is left; all of it where there is no limit.
    #[must_use]
    pub fn left(&self) -> f64 {
        self.limit.filter(|limit| *limit > 0).map_or(1.0, |limit| 1.0 - self.used as f64 / limit as f64)
    }
}

impl Headrooms {
    /// Starts the thread that reads. At most so many label sets are counted.
    pub(super) fn start(cgroups: &Cgroups, proc: &Proc, label_sets: usize) -> Result<Self, WatchError> {
        let (hierarchy, point) = cgroups.pids().unwrap_or((Hierarchy::V2, Path::new("/sys/fs/cgroup")));
        let (send, reports) = mpsc::unbounded_channel();
        let reader = Reader::start(Files::at(hierarchy, point, proc.root()), send)
            .map_err(|error| WatchError::System("starting the thread that reads limits", error))?;
        let now = Instant::now();
        let mut this = Self {
            reader,
            reports,
            hierarchy,
            accounts: Accounts::default(),
            known: HashMap::new(),
            round: None,
            rounds: 0,
            not_before: now,
            questions: Vec::new(),
            stirred: true,
            next_pass: now,
            failures: Failures::default(),
            counts: LabelSets::new(label_sets),
            free: HashMap::new(),
            unwatched: 0,
            lost: 0,
            unread: 0,
            used: Duration::ZERO,
        };
        this.watch(cgroups.paths(hierarchy).map(|(_, path)| Arc::clone(path)).collect(), false);
        Ok(this)
    }

    /// Watches cgroups for refused forks.
    fn watch(&mut self, paths: Vec<CgroupPath>, new: bool) {
        let number = paths.len() as u64;
        if number > 0 && !self.reader.watch(paths, new) {
            self.unwatched += number;
        }
    }

    /// Somebody may have a zombie now who had none.
    pub(super) const fn stir(&mut self) {
        self.stirred = true;
    }

    /// What comes from the thread; waits for it.
    pub(super) async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// When there is something to look at or to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        let (now, boot) = (Instant::now(), boot_now());
        let instant = |moment: BootTime| now + moment.since(boot);
        let asked = !self.questions.is_empty();
        let look = if asked || self.stirred { Some(now) } else { self.accounts.next().map(instant) };
        let look = look.map(|look| look.max(self.not_before)).filter(|_| self.round.is_none());
        let given_up = self.round.as_ref().map(|round| round.at + ANSWERED);
        [look, given_up, self.failures.next().map(instant)].into_iter().flatten().min()
    }

    /// Somebody asks.
    pub(super) fn ask(&mut self, name: Option<Untrusted>, reply: oneshot::Sender<Vec<Event>>) {
        // Whoever finds no place is told by the end of the channel.
        if self.questions.len() < QUESTIONS {
            self.questions.push((name, reply));
            self.not_before = Instant::now();
        }
    }

    /// The part that is left of the nearest limit of a cgroup, as it was last seen.
    pub(super) fn free(&self, path: &[u8]) -> Option<f64> {
        self.free.get(path).copied()
    }

    /// How workloads stand to their nearest limits.
    pub(super) fn measured(&self, now: BootTime) -> Vec<(WorkloadLabels, LimitCounts)> {
        let mut all: HashMap<WorkloadLabels, (f64, LimitCounts)> = HashMap::new();
        for path in self.accounts.paths() {
            let headroom = self.accounts.of(path);
            let (Some(workload), Some(nearest)) = (self.known.get(path), headroom.nearest()) else {
                continue;
            };
            let Use { max, used, zombies, forecast, .. } = nearest;
            let exhaustion = forecast.map(|forecast| forecast.at.since(now));
            let counts = LimitCounts { limit: *max, used: *used, zombies: *zombies, exhaustion };
            let free = nearest.free().unwrap_or(1.0);
            // One workload may have several cgroups.
            let entry = all.entry(WorkloadLabels::from(workload)).or_insert((free, counts.clone()));
            if free < entry.0 {
                *entry = (free, counts);
            }
        }
        all.into_iter().map(|(labels, (_, counts))| (labels, counts)).collect()
    }

    /// Refused forks by whose they were, of those that found no place, and how often one found none.
    pub(super) fn failures(&self) -> (Vec<(WorkloadLabels, u64)>, Option<u64>, u64) {
        let own = self.counts.iter().map(|(labels, count)| (labels.clone(), *count)).collect();
        (own, self.counts.others().copied(), self.counts.overflowed())
    }

    /// What it has used of a CPU, and how many files were read.
    pub(super) fn cost(&self) -> (Duration, u64) {
        (self.used + self.reader.cpu_time(), self.reader.files().opened())
    }

    /// What was lost of it: refusals that were not watched for, and limits that were not read.
    pub(super) const fn losses(&self) -> [(Loss, u64); 2] {
        let unread = self.unread + self.accounts.turned_away();
        [(Loss::RefusalUnwatched, self.unwatched + self.lost), (Loss::HeadroomUnread, unread)]
    }
}

impl Watch {
    /// A cgroup has been made, or is found.
    pub(super) fn watch_for_refusals(&mut self, id: CgroupId) {
        if id.hierarchy == self.headrooms.hierarchy
            && let Some(path) = self.describer.workloads.cgroups().path(id)
        {
            self.headrooms.watch(vec![path], true);
        }
    }

    /// Looks at those that are due, and tells what is to be told.
    pub(super) fn tend_headroom(&mut self) -> Result<(), WatchError> {
        let began = cpu_time();
        let tended = self.tend();
        self.headrooms.used += cpu_time().saturating_sub(began);
        tended
    }

    fn tend(&mut self) -> Result<(), WatchError> {
        let now = boot_now();
        for due in self.headrooms.failures.due(now) {
            self.tell_refusal(due, now)?;
        }
        if let Some(round) = self.headrooms.round.take_if(|round| round.at.elapsed() >= ANSWERED) {
            // Whoever asked hears of it by the end of the channel.
            tracing::warn!(round = round.number, "limits could not be read in time");
            self.headrooms.unread += 1;
        }
        let asked = !self.headrooms.questions.is_empty();
        let due =
            asked || self.headrooms.stirred || self.headrooms.accounts.next().is_some_and(|next| next <= now);
        if due && self.headrooms.round.is_none() && Instant::now() >= self.headrooms.not_before {
            self.begin_round(now)?;
        }
        Ok(())
    }

    fn begin_round(&mut self, now: BootTime) -> Result<(), WatchError> {
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
            due.iter().filter_map(|(path, ..)| self.headrooms.accounts.holder(path)).collect();
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
    fn standing_by_path(&mut self) -> Vec<(u64, CgroupPath, &Zombie)> {
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
    fn cgroups_called(&mut self, name: &Untrusted) -> Vec<CgroupPath> {
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

    /// Takes in what comes from the thread.
    pub(super) fn take_headroom(&mut self, report: Report) -> Result<(), WatchError> {
        let began = cpu_time();
        let taken = self.take_report(report);
        self.headrooms.used += cpu_time().saturating_sub(began);
        taken
    }

    fn take_report(&mut self, report: Report) -> Result<(), WatchError> {
        match report {
            Report::Lost(total) => self.headrooms.lost = total,
            Report::Refused(refusal) => {
                let now = boot_now();
                let path = refusal.forker.as_ref().unwrap_or(&refusal.path);
                let workload = self.describer.workloads.at(self.headrooms.hierarchy, path);
                let labels = WorkloadLabels::from(&workload);
                let (count, _) = self.headrooms.counts.count(&labels, Instant::now(), |_| true);
                *count += refusal.count;
                self.headrooms.failures.add(refusal, now);
                for due in self.headrooms.failures.due(now) {
                    self.tell_refusal(due, now)?;
                }
            }
            Report::Seen(seen) => self.take_round(seen)?,
        }
        Ok(())
    }

    fn take_round(&mut self, seen: Seen) -> Result<(), WatchError> {
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
    pub(super) fn free_of(&mut self, [v2, v1]: [u64; 2]) -> Option<f64> {
        let hierarchy = self.headrooms.hierarchy;
        let id = if hierarchy == Hierarchy::V2 { v2 } else { v1 };
        let path =
            (id != 0).then(|| self.describer.workloads.cgroups().path(CgroupId { hierarchy, id }))??;
        self.headrooms.free(&path)
    }

    /// Who holds what of each cgroup.
    fn holdings(&mut self) -> HashMap<CgroupPath, Holding> {
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

    fn headroom_event(
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
    pub(super) fn headroom_of(&mut self, [v2, v1]: [u64; 2], now: BootTime) -> Option<HeadroomEvent> {
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

    fn tell_refusal(&mut self, due: Due, now: BootTime) -> Result<(), WatchError> {
        let Due { refusal, count, total } = due;
        let hierarchy = self.headrooms.hierarchy;
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
        let path = refusal.forker.as_ref().unwrap_or(&refusal.path);
        let workload = self.describer.workloads.at(hierarchy, path);
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
