//! Limits on numbers of processes: which workloads are looked at and when, what is told of refused forks, and whose zombies a remedy
//! comes sooner for.

mod among;
mod census;
mod failures;
mod hook;
mod hooked;
mod rounds;
mod tell;

use std::{
    cmp::Ordering,
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

pub use self::failures::FailedForks;
use self::{census::Census, failures::Failures, hooked::Hooked};
use super::{Watch, WatchError, WorkloadLabels, label_sets::LabelSets, sweep::cpu_time};
use crate::{
    headroom::{Accounts, CgroupPath, FORGOTTEN, Files, Reader, Refusal, Report},
    identity::BootTime,
    kernel::{RefusalHook, boot_now},
    proc::Proc,
    report::{Event, Loss},
    text::Untrusted,
    workload::{CgroupId, Cgroups, Hierarchy, Workload},
};

/// Between two rounds of looking, at least.
const ROUNDS_APART: Duration = Duration::from_millis(900);

/// An answer that has not come by then is not waited for. Whoever asked does so for two seconds more.
const ANSWERED: Duration = Duration::from_secs(8);

/// New cgroups that wait for the thread while it is behind, at most, and when they are handed over again.
const WAITING: usize = 8_192;
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// Workloads that are named with a refused fork, at most.
const NAMED: usize = 5;

/// Questions that wait together, at most.
const QUESTIONS: usize = 16;

/// Who has asked, and for which workload; for all that have zombies where it is `None`.
type Question = (Option<Untrusted>, oneshot::Sender<Vec<Event>>);

/// The same, with the cgroups that are meant.
type Asked = (Option<Vec<CgroupPath>>, oneshot::Sender<Vec<Event>>);

/// What is being read.
#[derive(Debug)]
struct Round {
    number: u64,
    at: Instant,
    paths: Vec<CgroupPath>,
    census: Census,
    asked: Vec<Asked>,
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
    hooked: Hooked,
    failures: Failures,
    /// Refused forks are not told of before that.
    tell_after: Instant,
    counts: LabelSets<WorkloadLabels, FailedForks>,
    /// What was left of the nearest limit when it was last looked at, a moment ago.
    free: HashMap<CgroupPath, (BootTime, f64)>,
    /// New cgroups that could not be handed over yet, and when that is tried again.
    waiting: Vec<CgroupPath>,
    watch_again: Instant,
    /// Those that found no place there,
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
    /// The limit; `None` where there is none.
    pub limit: Option<u64>,
    /// Tasks that count.
    pub used: u64,
    /// Those of them that are zombies.
    pub zombies: u64,
    /// The part that is left, 0 to 1.
    pub free: f64,
    /// How long it is until it is full, where that can be said.
    pub exhaustion: Option<Duration>,
}

impl LimitCounts {
    /// Whose limit is full comes first, then whose will be first, then who has the smallest part left.
    pub(super) fn by_nearness(&self, other: &Self) -> Ordering {
        let first = |this: &Self| (this.free > 0.0, this.exhaustion.unwrap_or(Duration::MAX));
        first(self).cmp(&first(other)).then(self.free.total_cmp(&other.free))
    }
}

impl Headrooms {
    /// Starts the thread that reads. At most so many label sets are counted.
    pub(super) fn start(
        cgroups: &Cgroups,
        proc: &Proc,
        hook: &RefusalHook,
        label_sets: usize,
    ) -> Result<Self, WatchError> {
        let hooked = Hooked::by(hook);
        let (hierarchy, point) = cgroups.pids().unwrap_or((Hierarchy::V2, Path::new("/sys/fs/cgroup")));
        let (send, reports) = mpsc::unbounded_channel();
        let files = Files::at(hierarchy, point, proc.root()).local_events(cgroups.pids_localevents());
        let reader = Reader::start(files, hooked.is_there(), send)
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
            hooked,
            failures: Failures::default(),
            tell_after: now,
            counts: LabelSets::new(label_sets),
            free: HashMap::new(),
            waiting: Vec::new(),
            watch_again: now,
            unwatched: 0,
            lost: 0,
            unread: 0,
            used: Duration::ZERO,
        };
        let paths: Vec<_> = cgroups.paths(hierarchy).map(|(_, path)| Arc::clone(path)).collect();
        // It has nothing else to do yet.
        if let Err(unwatched) = this.reader.watch(paths, false) {
            this.unwatched = unwatched.len() as u64;
        }
        Ok(this)
    }

    /// So many refused forks an earlier daemon had seen, and ended before it told of them.
    pub(super) fn left_untold(&mut self, left: u64) {
        if left > 0 {
            tracing::warn!(
                left,
                "the daemon before this one ended before it had told of all refused forks that it had seen"
            );
        }
        self.unwatched += left;
    }

    /// Watches a new cgroup for refused forks.
    fn watch(&mut self, path: CgroupPath) {
        if self.waiting.len() < WAITING {
            self.waiting.push(path);
        } else {
            self.unwatched += 1;
        }
        if self.waiting.len() == 1 {
            self.watch_waiting();
        }
    }

    /// Hands over what waits.
    fn watch_waiting(&mut self) {
        if let Err(waiting) = self.reader.watch(std::mem::take(&mut self.waiting), true) {
            self.waiting = waiting;
            self.watch_again = Instant::now() + WATCH_AGAIN;
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
        let watch = (!self.waiting.is_empty()).then_some(self.watch_again);
        let told = self.failures.next().map(|told| instant(told).max(self.tell_after));
        [look, given_up, watch, told, self.hooked.due()].into_iter().flatten().min()
    }

    /// Somebody asks.
    pub(super) fn ask(&mut self, name: Option<Untrusted>, reply: oneshot::Sender<Vec<Event>>) {
        // Whoever finds no place is told by the end of the channel.
        if self.questions.len() < QUESTIONS {
            self.questions.push((name, reply));
            self.not_before = Instant::now();
        }
    }

    /// The part that is left of the nearest limit of a cgroup, as it was seen a moment ago.
    fn free(&self, path: &[u8], now: BootTime) -> Option<f64> {
        let (seen, free) = self.free.get(path)?;
        (now.since(*seen) < FORGOTTEN).then_some(*free)
    }

    /// How workloads stand to their nearest limits.
    pub(super) fn measured(&self, now: BootTime) -> Vec<(WorkloadLabels, LimitCounts)> {
        let mut all: HashMap<WorkloadLabels, LimitCounts> = HashMap::new();
        for path in self.accounts.paths() {
            let headroom = self.accounts.of(path);
            let (Some(workload), Some(nearest)) = (self.known.get(path), headroom.nearest()) else {
                continue;
            };
            let counts = LimitCounts {
                limit: nearest.max,
                used: nearest.used,
                zombies: nearest.zombies,
                free: nearest.free().unwrap_or(1.0),
                exhaustion: nearest.lasts(now),
            };
            // One workload may have several cgroups.
            let entry = all.entry(WorkloadLabels::from(workload)).or_insert_with(|| counts.clone());
            if counts.by_nearness(entry).is_lt() {
                *entry = counts;
            }
        }
        all.into_iter().collect()
    }

    /// Refused forks by whose they were, of those that found no place, and how often one found none.
    pub(super) fn failures(&self) -> (Vec<(WorkloadLabels, FailedForks)>, Option<u64>, u64) {
        let own = self.counts.iter().map(|(labels, failed)| (labels.clone(), *failed)).collect();
        (own, self.counts.others().map(|failed| failed.count), self.counts.overflowed())
    }

    /// Some of a workload's were told of: this part of what the limit counts was zombies.
    fn told_share(&mut self, workload: &Workload, share: Option<f64>) {
        let failed = self.counts.counted(&WorkloadLabels::from(workload), true, Instant::now());
        failed.told(share, boot_now());
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
            self.headrooms.watch(path);
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
        self.walk_refused(Instant::now());
        self.count_refusals(Instant::now());
        self.tell_refusals(now)?;
        if !self.headrooms.waiting.is_empty() && Instant::now() >= self.headrooms.watch_again {
            self.headrooms.watch_waiting();
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

    /// Takes in what comes from the thread, all that is there.
    pub(super) fn take_headroom(&mut self, report: Report) -> Result<(), WatchError> {
        let began = cpu_time();
        let taken = self.take_reports(report);
        self.headrooms.used += cpu_time().saturating_sub(began);
        taken
    }

    fn take_reports(&mut self, first: Report) -> Result<(), WatchError> {
        let mut next = Some(first);
        while let Some(report) = next {
            match report {
                Report::Lost(total) => self.headrooms.lost = total,
                Report::Refused(refusal) => self.take_refusal(refusal),
                Report::Wanted => self.headrooms.hooked.want(Instant::now()),
                Report::Settled(total) => self.headrooms.hooked.settled = total,
                Report::Seen(seen) => self.take_round(seen)?,
            }
            next = self.headrooms.reports.try_recv().ok();
        }
        // Together: several limits that are hit at once are one look at the ledger.
        self.tell_refusals(boot_now())
    }

    fn take_refusal(&mut self, refusal: Refusal) {
        let path = refusal.forker.as_ref().unwrap_or(&refusal.path);
        let workload = if path.is_empty() {
            Workload::unresolved()
        } else {
            self.describer.workloads.at(self.headrooms.hierarchy, path)
        };
        let now = boot_now();
        if !path.is_empty() && self.headrooms.accounts.refused(path, now) {
            self.headrooms.known.insert(Arc::clone(path), workload.clone());
        }
        let labels = WorkloadLabels::from(&workload);
        let (failed, _) = self.headrooms.counts.count(&labels, Instant::now(), |_| true);
        failed.count += refusal.count;
        self.headrooms.failures.count(&refusal, now);
        if self.filter.matches_workload(&workload) {
            self.headrooms.failures.add(refusal, workload, now);
        }
    }
}
