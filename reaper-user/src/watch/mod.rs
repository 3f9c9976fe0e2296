//! The pipeline: ledger → zombie → workload and cause → event. One task owns all of it; what blocks is elsewhere
//! (`observe` reads /proc, `report` writes).

mod absent;
mod alarm;
mod asked;
mod books;
mod continuity;
mod copies;
mod describe;
mod explain;
mod following;
mod headroom;
mod holders;
mod label_sets;
mod labels;
mod leaks;
mod lineage;
mod lists;
mod losses;
mod meters;
mod remedies;
mod slow_times;
mod standing;
mod sweep;

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reaper_ebpf::{Notice, Record, WORD_KEY, WORDS, counter, notice};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use self::{
    absent::Absent,
    alarm::Alarm,
    asked::AskedFor,
    books::Books,
    continuity::{Early, Restoring, self_check},
    explain::Reply,
    following::{crowded, start_following},
    headroom::Headrooms,
    leaks::moment,
    lists::Lists,
    losses::Losses,
    meters::Meters,
    remedies::Remedies,
    standing::Standings,
};
pub(crate) use self::{
    describe::Describer,
    holders::{Numbers, waits},
    remedies::waited,
};
pub use self::{
    headroom::{FailedForks, LimitCounts},
    labels::{OTHER, WorkloadLabels, ZombieLabels},
    lists::Listing,
    meters::{LedgerCounts, Measured, RemedyCounts, ZombieCounts},
};
use crate::{
    identity::{BootTime, Identity},
    kernel::{Cmdlines, Copying, Kernel, KernelError, LogLines, Notices, Options, RefusalHook, boot_now},
    kubernetes::Ear,
    ledger::Aging,
    names::{self, Namer},
    observe::{Answers, Observer},
    origin::{Sites, Without},
    policy::Terms,
    proc::Proc,
    report::{Event, Filter, LeaksEvent, Loss, Outbox},
    text::Untrusted,
    workload::{CgroupId, Cgroups, Hierarchy, Limits, Made, RuntimeStates, Workloads},
    zombie::Reap,
};

/// When to try again what descriptors or memory are lacking for.
const SHORT_OF_SOMETHING: Duration = Duration::from_secs(1);

/// That they are lacking is not said more often than this.
const COMPLAINTS_APART: Duration = Duration::from_secs(60);

/// A sweep that is later than this is counted.
const LATE: Duration = Duration::from_secs(1);

/// What to watch for.
#[derive(Debug)]
pub struct Settings {
    /// The age from which a zombie is reported.
    pub age: Duration,
    /// The kernel side.
    pub kernel: Options,
    /// Where it is pinned, so that it outlives the daemon; nowhere if `None`.
    pub pins: Option<PathBuf>,
    /// How many cgroups are kept.
    pub cgroups: Limits,
    /// Which zombies are reported.
    pub filter: Filter,
    /// What is done about them.
    pub remedies: Terms,
    /// How many leak sites are kept.
    pub sites: usize,
    /// Of whose forks native stacks are taken; of nobody's if `None`.
    pub copying: Option<Copying>,
    /// How many label sets a metric has at most.
    pub label_sets: usize,
    /// Who is asked what people call workloads.
    pub names: names::Settings,
    /// Whether a hook is to see refused forks.
    pub fork_hook: bool,
}

/// Why watching could not begin or go on.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The ledger does not say of this process what /proc says.
    #[error(
        "the ledger and /proc disagree about this very process ({0}): nothing that is recorded can be trusted; \
         please report it with the kernel's version"
    )]
    SelfCheck(String),
    /// A thread or a descriptor could not be had.
    #[error("{0}: {1}")]
    System(&'static str, #[source] std::io::Error),
}

/// A question from outside.
#[derive(Debug)]
pub enum Query {
    /// Every zombie that stands now, of any age.
    Zombies(Option<Untrusted>, oneshot::Sender<Listing>),
    /// All that is known of a pid: the zombie that it is, or those that it holds, with their leak sites.
    Explain(u32, oneshot::Sender<Vec<Event>>),
    /// The leak sites that leaked within a span, or all of them: a [`LeaksEvent`](crate::report::LeaksEvent), then one each.
    Leaks(Option<Duration>, oneshot::Sender<Vec<Event>>),
    /// How much was lost, every kind of loss.
    Losses(oneshot::Sender<Vec<Event>>),
    /// How a workload stands to its limits on processes, by its name, or all that have zombies: an event each.
    Headroom(Option<Untrusted>, oneshot::Sender<Vec<Event>>),
    /// How everything stands, in numbers.
    Metrics(oneshot::Sender<Measured>),
    /// Whether what was there at the start is taken over and compared.
    Settled(oneshot::Sender<bool>),
    /// Watch a holder for this long and for as long as it takes to know how long it takes to wait for a child. Or why not.
    Observe(u32, Duration, oneshot::Sender<Result<(), String>>),
    /// Report zombies from this age on, and do this about them.
    Settings(Duration, Box<Terms>),
}

/// The state of the pipeline.
pub struct Watch {
    describer: Describer,
    aging: Aging,
    standing: Standings,
    sites: Sites,
    losses: Losses,
    meters: Meters,
    books: Books,
    /// Zombies that were reported, by the number of their event: those that are written out are told for good.
    untold: VecDeque<(u64, u64)>,
    /// Zombies whose release was seen or found, and that the notice is still to come of with all that was recorded.
    early: HashMap<u64, Early>,
    /// When it was last said that something is lacking.
    complained: Option<Instant>,
    /// Said once: the pins are gone.
    unpinned: bool,
    /// New cgroups that the kernel did not show yet.
    unborn: Vec<(Instant, CgroupId, usize)>,
    observer: Observer,
    answers: mpsc::UnboundedReceiver<Answers>,
    lists: Lists,
    restoring: Restoring,
    remedies: Remedies,
    asked: AskedFor,
    headrooms: Headrooms,
    /// When the ledger is swept next.
    next_sweep: BootTime,
    absent: Absent,
    pruned: Option<Instant>,
    notices: Notices,
    log: Option<LogLines>,
    filter: Filter,
    outbox: Outbox,
    /// Who else hears of zombies that were reported.
    ear: Option<Ear>,
}

impl Watch {
    /// Loads, attaches, enters what is there already. Must be called inside a runtime.
    pub fn start(settings: Settings, outbox: Outbox) -> Result<Self, WatchError> {
        let Settings {
            age,
            kernel: options,
            pins,
            cgroups: limits,
            filter,
            remedies,
            sites,
            copying,
            label_sets,
            names,
            fork_hook,
        } = settings;
        let proc = Proc::at("/proc");
        let cgroups = Cgroups::open(proc.root(), limits);
        for trouble in cgroups.troubles() {
            tracing::warn!("{trouble}");
        }
        let options = Options { pids_hierarchy: cgroups.v1_pids_number().unwrap_or(0), ..options };
        let mut kernel = Kernel::load(options, pins.as_deref())?;
        if let Some(reason) = kernel.no_cmdlines().filter(|_| options.cmdlines != Cmdlines::Off) {
            tracing::warn!("command lines of zombies cannot be taken: {reason}");
        }
        let notices = kernel.notices()?;
        let log = kernel.log();
        let clock = kernel.clock()?;
        let ready = kernel.attach().map_err(WatchError::from);
        let ready = ready.and_then(|()| self_check(&kernel, &proc));
        if let Err(error) = ready.and_then(|()| Ok(kernel.replace_others()?)) {
            kernel.abandon();
            return Err(error);
        }
        // New cgroups are announced from here on: what the walk misses is not missed.
        let mut workloads = Workloads::new(cgroups, RuntimeStates::at(Path::new("/")), limits.entries);
        let walked = workloads.cgroups().walk();
        if walked.cut {
            tracing::warn!(known = walked.known, "not every cgroup could be kept; raise cgroup_cache");
        }
        let hook = if fork_hook { kernel.see_refusals() } else { &RefusalHook::Off };
        let mut headrooms = Headrooms::start(workloads.cgroups(), &proc, hook, label_sets)?;
        headrooms.left_untold(kernel.refusals_left());
        let (send, answers) = mpsc::unbounded_channel();
        let observer = Observer::start(proc.clone(), send)
            .map_err(|error| WatchError::System("starting the observer thread", error))?;
        let remedies = Remedies::new(remedies, proc.clone(), crate::lock::directory())?;
        let stacks = start_following(&mut kernel, copying, &proc);
        let names = Namer::start(names)
            .map_err(|error| WatchError::System("starting the thread that asks for names", error))?;
        Kernel::trim();
        let losses = Losses::since(&kernel)?;
        // What was left behind is compared at once.
        let books = Books::new(if kernel.adopted() { BootTime(0) } else { boot_now() });
        if kernel.adopted() {
            tracing::info!("took over what an earlier daemon has pinned; recording went on in between");
        }
        // On the first day there may be thousands, and nothing is said of them before they are of age.
        let mut dead = 0_u64;
        kernel.each_dead(|_| dead += 1)?;
        tracing::info!(
            age = %crate::config::Span(age),
            zombies = dead,
            ledger_kib = options.sizes.bytes() / 1024,
            kernel_kib = kernel.memory() / 1024,
            cgroups = walked.known,
            "watching"
        );
        Ok(Self {
            describer: Describer::new(kernel, clock, workloads, proc).named_by(names).with(stacks),
            aging: Aging::new(age),
            standing: Standings::default(),
            sites: Sites::new(sites, moment(boot_now())),
            losses,
            meters: Meters::new(label_sets),
            books,
            untold: VecDeque::new(),
            early: HashMap::new(),
            complained: None,
            unpinned: false,
            unborn: Vec::new(),
            observer,
            answers,
            lists: Lists::default(),
            restoring: Restoring::default(),
            remedies,
            asked: AskedFor::default(),
            headrooms,
            next_sweep: BootTime(0),
            absent: Absent::default(),
            pruned: None,
            notices,
            log,
            filter,
            outbox,
            ear: None,
        })
    }

    /// The same with somebody else who hears of zombies that were reported.
    #[must_use]
    pub fn heard_by(self, ear: Option<Ear>) -> Self {
        Self { ear, ..self }
    }

    /// What people call workloads.
    #[must_use]
    pub fn names(&self) -> Namer {
        self.describer.names.clone()
    }

    /// Runs until `stop`, then says what was lost since it was last said.
    pub async fn run(
        mut self,
        queries: mpsc::Receiver<Query>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), WatchError> {
        let ended = self.go_on(queries, stop).await;
        // What is pinned would go on taking stacks that nobody reads.
        let quiet = self.describer.kernel.take_no_stacks();
        ended.and(quiet.map_err(WatchError::from))
    }

    async fn go_on(
        &mut self,
        mut queries: mpsc::Receiver<Query>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), WatchError> {
        tokio::pin!(stop);
        let alarm = Alarm::new().map_err(|error| WatchError::System("making a timer", error))?;
        let begun = self.restore().and_then(|()| self.sweep());
        self.bear(begun)?;
        let asleep = |error| WatchError::System("setting a timer", error);
        let mut set_to = BootTime(0);
        loop {
            if self.next_sweep != set_to {
                set_to = self.next_sweep;
                alarm.set(set_to).map_err(asleep)?;
            }
            let retry = self.unborn.iter().map(|(when, ..)| *when).min();
            let headroom = self.headrooms.due();
            let untold = !self.untold.is_empty() || !self.losses.are_told();
            tokio::select! {
                () = &mut stop => break,
                due = alarm.goes_off() => {
                    due.map_err(asleep)?;
                    if boot_now().since(set_to) > LATE {
                        self.losses.count(Loss::SweepLate);
                    }
                    let swept = self.sweep();
                    self.bear(swept)?;
                }
                () = until(retry) => self.retry_cgroups(),
                // At once: whoever is killed before it is written down is not known to have told.
                () = self.outbox.caught_up(), if untold => {
                    let told = self.tell();
                    self.bear(told)?;
                }
                () = until(headroom) => {
                    let tended = self.tend_headroom();
                    self.bear(tended)?;
                }
                Some(report) = self.headrooms.report() => {
                    let taken = self.take_headroom(report);
                    self.bear(taken)?;
                }
                notices = self.notices.next() => self.heed(&notices?),
                Some(answers) = self.answers.recv() => {
                    let taken = self.take(answers);
                    self.bear(taken)?;
                }
                Some(query) = queries.recv() => {
                    let answered = self.answer(query);
                    self.bear(answered)?;
                }
                (number, news) = self.remedies.news() => {
                    let now = self.describer.clock.refresh();
                    self.take_news(number, news, now);
                }
                () = log_line(&mut self.log) => {}
                () = crowded(self.describer.stacks.as_ref()) => self.describer.prune_stacks(),
            }
        }
        if let Err(error) = self.tell_last_refusals().await {
            tracing::error!(%error, "refused forks could not be told of at the end");
        }
        let now = self.describer.clock.refresh();
        self.take_over_losses();
        // What cannot be said now is said by the next one.
        if let Err(error) = self.losses.report(&self.describer.kernel, now, true, &mut self.outbox) {
            tracing::error!(%error, "what was lost could not be read at the end");
        }
        // What is written out by now need not be told again by the next daemon.
        for _ in 0..30 {
            self.tell()?;
            if self.untold.is_empty() && self.losses.are_told() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Passes an error on, unless it is that descriptors or memory are lacking: then the ledger is looked through again
    /// a little later, and nothing is lost.
    fn bear(&mut self, done: Result<(), WatchError>) -> Result<(), WatchError> {
        match done {
            Err(WatchError::Kernel(error)) if error.is_shortage() => {
                if self.complained.is_none_or(|complained| complained.elapsed() > COMPLAINTS_APART) {
                    self.complained = Some(Instant::now());
                    tracing::error!(%error, "something is lacking; it is tried again every second");
                }
                self.aging.ask_all_again();
                self.remedies.ask_again(boot_now());
                self.next_sweep = boot_now().plus(SHORT_OF_SOMETHING);
                Ok(())
            }
            done => done,
        }
    }

    fn heed(&mut self, notices: &[Notice]) {
        for Notice { kind, number, id, time, words } in notices {
            let at = BootTime(*time);
            match *kind {
                notice::REAPED => self.reaped(*id, reap(at, *number, words)),
                notice::REFUSED => {
                    self.heed_refusal(Identity { pid: *number, start: BootTime(*id) }, words, at);
                }
                notice::RELEASED => {
                    let record = (words[WORD_KEY] != 0).then(|| Record::from_words(*words));
                    self.released(*id, at, record.as_ref());
                }
                notice::CGROUP_MADE => {
                    let hierarchy = if *number == 0 { Hierarchy::V2 } else { Hierarchy::V1Pids };
                    self.meet(CgroupId { hierarchy, id: *id }, 0);
                }
                other => tracing::warn!(kind = other, "an unknown notice from the kernel side"),
            }
        }
    }

    fn meet(&mut self, id: CgroupId, attempt: usize) {
        match self.describer.workloads.cgroups().made(id, attempt) {
            Made::Again(after) => self.unborn.push((Instant::now() + after, id, attempt + 1)),
            Made::Known => self.watch_for_refusals(id),
            Made::Unknown => {}
        }
    }

    fn retry_cgroups(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.unborn).into_iter().partition(|(when, ..)| *when <= now);
        self.unborn = later;
        let due: Vec<_> = due;
        for (_, id, attempt) in due {
            self.meet(id, attempt);
        }
    }

    fn answer(&mut self, query: Query) -> Result<(), WatchError> {
        match query {
            Query::Zombies(cgroup, reply) => self.look_for(Reply::Listing(cgroup, reply))?,
            Query::Explain(pid, reply) => self.look_for(Reply::About(pid, reply))?,
            Query::Leaks(since, reply) => {
                if self.describer.stacks.is_some() {
                    let count = |counter| self.describer.kernel.count(counter);
                    let unrecognized = count(counter::FORK_EARLY)?;
                    self.sites.set_without(Without { unrecognized, missed: count(counter::STACK_MISSED)? });
                }
                let (head, sites) =
                    LeaksEvent::list(&self.sites, since, moment(boot_now()), &self.describer.names);
                let sites = sites.into_iter().map(|site| Event::LeakSite(Box::new(site)));
                // Nobody waits for the answer any more: nothing to do.
                let _left = reply.send(std::iter::once(Event::Leaks(Box::new(head))).chain(sites).collect());
            }
            Query::Losses(reply) => {
                self.take_over_losses();
                self.losses.set(Loss::EventDropped, self.outbox.dropped());
                // Nobody waits for the answer any more: nothing to do.
                let _left = reply.send(self.losses.all(&self.describer.kernel)?);
            }
            Query::Headroom(name, reply) => self.headrooms.ask(name, reply),
            Query::Metrics(reply) => {
                let _left = reply.send(self.measure()?);
            }
            Query::Settled(reply) => {
                let _left = reply.send(self.is_settled());
            }
            Query::Observe(pid, span, reply) => {
                let _left = reply.send(self.watch_for(pid, span)?);
            }
            Query::Settings(age, terms) => {
                self.aging.set_threshold(age);
                self.describer.workloads.cgroups().outlast(age);
                self.remedies.take_terms(*terms)?;
                let now = boot_now();
                for (id, holder) in self.standing.holders() {
                    self.remedies.add(id, holder, now);
                }
                self.sweep_by(now);
            }
        }
        Ok(())
    }
}

/// Who released a zombie, as the kernel side has it.
fn reap(at: BootTime, pid: u32, [first, second, ..]: &[u64; WORDS]) -> Reap {
    let comm = [first, second].map(|word| word.to_ne_bytes()).concat();
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    Reap { at, pid, comm: Untrusted::new(name) }
}

/// Waits for a moment, or for ever.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Passes the kernel side's own log lines on.
async fn log_line(log: &mut Option<LogLines>) {
    match log {
        Some(log) => log.pass_on().await,
        None => std::future::pending().await,
    }
}
