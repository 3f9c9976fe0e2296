//! The thread that reads limits and waits for refused forks.

use std::{
    collections::HashMap,
    fmt::Display,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    time::{ClockId, clock_gettime},
};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    attempts::Attempt,
    files::{CgroupPath, Files, Level, Node, Nproc},
    nested::{skipped, upwards},
    refusal::Refusal,
    refusals::{Refusals, TURN},
};
use crate::text::Untrusted;

/// Orders that may wait.
const WAITING: usize = 64;

/// After a refusal nothing is looked at for so long: a storm of them is one look, and costs little.
const CALM: Duration = Duration::from_millis(50);

/// After a look, and after the hook's were looked at, there is no other for at least so many times as long as it took: who makes it take
/// long has one part in so many of a CPU.
const REST: u32 = 10;

/// What to read, all together.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Comes back with the answer.
    pub number: u64,
    /// Cgroups that are read with all above them, and whether their threads are counted.
    pub cgroups: Vec<(CgroupPath, bool)>,
    /// Processes whose RLIMIT_NPROC is read.
    pub holders: Vec<u32>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The number that was asked with.
    pub number: u64,
    /// What the cgroups say that are there and count pids, each once.
    pub levels: Vec<Level>,
    /// What the node says; `None` where it could not be read.
    pub node: Option<Node>,
    /// RLIMIT_NPROC of processes; `None` of those that are gone.
    pub nprocs: Vec<(u32, Option<Nproc>)>,
    /// What is there and could not be read: cgroups, those included that are too deep between others, processes, the node.
    pub unread: u64,
    /// How long it took.
    pub took: Duration,
}

/// What comes from the thread.
#[derive(Debug)]
pub enum Report {
    /// An answer.
    Seen(Seen),
    /// A fork was refused.
    Refused(Refusal),
    /// Something has waited for long enough for the hook to claim it: all that it has counted by now is to be handed over, and then that
    /// is to be said by [`Reader::handed_over`].
    Wanted,
    /// Of so many that the hook has counted it was said which limit it was, all together. Others may wait for what `pids.events` says.
    Settled(u64),
    /// What could not be watched, all together: cgroups, and notifications or messages that were overwritten.
    Lost(u64),
}

#[derive(Debug)]
enum Order {
    Read(Ask),
    /// Cgroups, and whether they are new.
    Watch(Vec<CgroupPath>, bool),
}

/// What the hook has seen. It waits by itself, so that however long it takes nothing else waits for it.
#[derive(Debug)]
enum Claim {
    /// Forks that it saw refused.
    Attempt(Box<Attempt>),
    /// All of those that were counted until then have been said.
    HandedOver(Instant),
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Reader {
    orders: SyncSender<Order>,
    claims: SyncSender<Claim>,
    wake: Arc<OwnedFd>,
    files: Files,
    /// What the thread has used of a CPU, ns.
    used: Arc<AtomicU64>,
}

impl Reader {
    /// Starts it. `hooked` says that there is a hook that sees refused forks.
    pub fn start(files: Files, hooked: bool, reports: UnboundedSender<Report>) -> io::Result<Self> {
        let (orders, ordered) = sync_channel(WAITING);
        let (claims, claimed) = sync_channel(WAITING);
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let used = Arc::default();
        let (own, theirs, counted) = (files.clone(), Arc::clone(&wake), Arc::clone(&used));
        thread::Builder::new()
            .name("headroom".to_owned())
            .spawn(move || work(&own, hooked, &(ordered, claimed), &theirs, &reports, &counted))?;
        Ok(Self { orders, claims, wake, files, used })
    }

    /// Has limits read. False where it is behind: then ask again later.
    #[must_use]
    pub fn ask(&self, ask: Ask) -> bool {
        self.send(&self.orders, Order::Read(ask)).is_ok()
    }

    /// Watches cgroups for refused forks. Where it is behind they are not watched, and come back.
    pub fn watch(&self, cgroups: Vec<CgroupPath>, new: bool) -> Result<(), Vec<CgroupPath>> {
        match self.send(&self.orders, Order::Watch(cgroups, new)) {
            Err(Order::Watch(cgroups, _)) => Err(cgroups),
            Err(Order::Read(_)) | Ok(()) => Ok(()),
        }
    }

    /// Has it found out which limit refused forks. False where it is behind: then say it again later.
    #[must_use]
    pub fn attempt(&self, attempt: Attempt) -> bool {
        self.send(&self.claims, Claim::Attempt(Box::new(attempt))).is_ok()
    }

    /// All was handed over by [`Self::attempt`] that the hook had counted until then. False where it is behind: then say it again later.
    #[must_use]
    pub fn handed_over(&self, until: Instant) -> bool {
        self.send(&self.claims, Claim::HandedOver(until)).is_ok()
    }

    /// Has it do what it was told to, say all that is left, and end: then the reports end, too.
    pub fn finish(&mut self) {
        // The channels end with their senders, which the thread sees when it wakes.
        let (claims, _) = sync_channel(0);
        drop(std::mem::replace(&mut self.claims, claims));
        let (orders, _) = sync_channel(0);
        drop(std::mem::replace(&mut self.orders, orders));
        self.wake_up();
    }

    /// What the thread has used of a CPU.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// What it reads.
    #[must_use]
    pub const fn files(&self) -> &Files {
        &self.files
    }

    fn send<T>(&self, to: &SyncSender<T>, what: T) -> Result<(), T> {
        let taken = to.try_send(what);
        self.wake_up();
        taken.map_err(|(TrySendError::Full(what) | TrySendError::Disconnected(what))| what)
    }

    fn wake_up(&self) {
        // It cannot be full but where it is awake.
        let _awake = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.finish();
    }
}

fn work(
    files: &Files,
    hooked: bool,
    (orders, claims): &(Receiver<Order>, Receiver<Claim>),
    wake: &OwnedFd,
    reports: &UnboundedSender<Report>,
    used: &AtomicU64,
) {
    let mut refusals = Refusals::new(files.clone(), hooked);
    let now = Instant::now();
    let mut pauses = Pauses { looks: now, claims: now };
    let (mut lost, mut settled) = (0, 0);
    loop {
        let used_by_now = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        used.store(u64::try_from(used_by_now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        wait(wake, &refusals, pauses);
        let mut count = [0; 8];
        // There may be nothing: then something else has happened.
        let _woken = rustix::io::read(wake, &mut count);
        let mut refused = Vec::new();
        let mut is_over = false;
        loop {
            match orders.try_recv() {
                Ok(Order::Read(ask)) => {
                    if reports.send(Report::Seen(Seen::read(files, &ask))).is_err() {
                        return;
                    }
                }
                Ok(Order::Watch(cgroups, new)) => {
                    let now = Instant::now();
                    for cgroup in cgroups {
                        refusals.watch(cgroup, new, now);
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    is_over = true;
                    break;
                }
            }
        }
        let began = Instant::now();
        while (is_over || pauses.claims <= began && began.elapsed() < TURN)
            && let Ok(claim) = claims.try_recv()
        {
            refused.extend(match claim {
                Claim::Attempt(attempt) => refusals.attempted(&attempt, Instant::now()),
                Claim::HandedOver(until) => refusals.handed_over(until),
            });
        }
        let now = Instant::now();
        if now - began >= TURN {
            pauses.claims = now + (now - began) * REST;
        }
        if is_over {
            refused.extend(refusals.finish(now));
        } else if pauses.looks <= now {
            refused.extend(refusals.look(now));
            pauses.looks = rest(now.elapsed(), refusals.take_moved(), refusals.is_behind());
        }
        let wanted = refusals.wants_counts(now).then_some(Report::Wanted);
        let total = refusals.lost().unwatched + refusals.lost().overflowed;
        let more = (total > lost).then_some(Report::Lost(total));
        lost = total;
        // Behind what was said of them.
        let now_settled = refusals.settled();
        let newly = (now_settled != settled).then_some(Report::Settled(now_settled));
        settled = now_settled;
        for report in refused.into_iter().map(Report::Refused).chain(more).chain(newly).chain(wanted) {
            if reports.send(report).is_err() {
                return;
            }
        }
        if is_over {
            return;
        }
    }
}

/// Until when nothing is looked at: what may have grown, and what the hook has seen.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    looks: Instant,
    claims: Instant,
}

/// When to look again after a look that took so long, and whether a count had grown, or something is left to look at.
fn rest(took: Duration, moved: bool, behind: bool) -> Instant {
    let rest = took * REST;
    // A short look at nothing is none: who wakes it pays for it.
    let pause = match (moved, behind || rest > CALM) {
        (true, _) => rest.max(CALM),
        (false, true) => rest,
        (false, false) => Duration::ZERO,
    };
    Instant::now() + pause
}

/// Waits until there is something to do.
fn wait(wake: &OwnedFd, refusals: &Refusals, pauses: Pauses) {
    let now = Instant::now();
    let calm = pauses.looks > now;
    let look = if calm { Some(pauses.looks) } else { refusals.due() };
    let due = look.into_iter().chain((pauses.claims > now).then_some(pauses.claims)).min();
    let timeout = due.map(|due| due.saturating_duration_since(now) + Duration::from_millis(1));
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let others = refusals.descriptors().filter(|_| !calm);
    let mut descriptors: Vec<_> = std::iter::once(wake.as_fd())
        .chain(others)
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    // Interrupted or not: what there is to do is looked for.
    let _ready = poll(&mut descriptors, timeout.as_ref());
}

impl Seen {
    /// Reads all that is asked for, in this thread.
    #[must_use]
    pub fn read(files: &Files, ask: &Ask) -> Self {
        let began = Instant::now();
        let mut unread = 0;
        let mut lost = |what: &dyn Display, error| {
            tracing::debug!(%what, %error, "limits cannot be read");
            unread += 1;
        };
        let mut levels: HashMap<CgroupPath, Level> = HashMap::new();
        for (path, list) in &ask.cgroups {
            for (number, level) in upwards(path).enumerate() {
                let list = *list && number == 0;
                if levels.get(level).is_some_and(|known| !list || known.threads.is_some()) {
                    continue;
                }
                match files.level(&Arc::from(level), list) {
                    Ok(Some(level)) => drop(levels.insert(Arc::clone(&level.path), level)),
                    Ok(None) => {}
                    Err(error) => lost(&Untrusted::new(level), error),
                }
            }
        }
        let node = files.node().map_err(|error| lost(&"the node", error)).ok();
        let nproc = |pid: &u32| Some((*pid, files.nproc(*pid).map_err(|error| lost(pid, error)).ok()?));
        let nprocs = ask.holders.iter().filter_map(nproc).collect();
        let levels = levels.into_values().collect();
        unread += ask.cgroups.iter().map(|(path, _)| skipped(path) as u64).sum::<u64>();
        Self { number: ask.number, levels, node, nprocs, unread, took: began.elapsed() }
    }
}

#[cfg(test)]
mod tests;
