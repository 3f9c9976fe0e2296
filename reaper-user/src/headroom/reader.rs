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
    files::{CgroupPath, Files, Level, Node, Nproc, upwards},
    refusal::Refusal,
    refusals::Refusals,
};
use crate::text::Untrusted;

/// Orders that may wait.
const WAITING: usize = 64;

/// After a refusal nothing is looked at for so long: a storm of them is one look, and costs little.
const CALM: Duration = Duration::from_millis(50);

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
    /// What is there and could not be read: cgroups, processes, the node.
    pub unread: u64,
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
    /// Forks that the hook saw refused.
    Attempt(Box<Attempt>),
    /// All of those that were counted until then have been said.
    HandedOver(Instant),
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Reader {
    orders: SyncSender<Order>,
    wake: Arc<OwnedFd>,
    files: Files,
    /// What the thread has used of a CPU, ns.
    used: Arc<AtomicU64>,
}

impl Reader {
    /// Starts it. `hooked` says that there is a hook that sees refused forks.
    pub fn start(files: Files, hooked: bool, reports: UnboundedSender<Report>) -> io::Result<Self> {
        let (orders, received) = sync_channel(WAITING);
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let used = Arc::default();
        let (own, theirs, counted) = (files.clone(), Arc::clone(&wake), Arc::clone(&used));
        thread::Builder::new()
            .name("headroom".to_owned())
            .spawn(move || work(&own, hooked, &received, &theirs, &reports, &counted))?;
        Ok(Self { orders, wake, files, used })
    }

    /// Has limits read. False where it is behind: then ask again later.
    #[must_use]
    pub fn ask(&self, ask: Ask) -> bool {
        self.order(Order::Read(ask)).is_ok()
    }

    /// Watches cgroups for refused forks. Where it is behind they are not watched, and come back.
    pub fn watch(&self, cgroups: Vec<CgroupPath>, new: bool) -> Result<(), Vec<CgroupPath>> {
        match self.order(Order::Watch(cgroups, new)) {
            Err(Order::Watch(cgroups, _)) => Err(cgroups),
            Err(Order::Read(_) | Order::Attempt(_) | Order::HandedOver(_)) | Ok(()) => Ok(()),
        }
    }

    /// Has it found out which limit refused forks. False where it is behind: then say it again later.
    #[must_use]
    pub fn attempt(&self, attempt: Attempt) -> bool {
        self.order(Order::Attempt(Box::new(attempt))).is_ok()
    }

    /// All was handed over by [`Self::attempt`] that the hook had counted until then. False where it is behind: then say it again later.
    #[must_use]
    pub fn handed_over(&self, until: Instant) -> bool {
        self.order(Order::HandedOver(until)).is_ok()
    }

    /// Has it do what it was told to, say all that is left, and end: then the reports end, too.
    pub fn finish(&mut self) {
        // The channel ends with the sender, which the thread sees when it wakes.
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

    fn order(&self, order: Order) -> Result<(), Order> {
        let taken = self.orders.try_send(order);
        self.wake_up();
        taken.map_err(|(TrySendError::Full(order) | TrySendError::Disconnected(order))| order)
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
    orders: &Receiver<Order>,
    wake: &OwnedFd,
    reports: &UnboundedSender<Report>,
    used: &AtomicU64,
) {
    let mut refusals = Refusals::new(files.clone(), hooked);
    let (mut calm_until, mut lost, mut settled) = (Instant::now(), 0, 0);
    loop {
        let used_by_now = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        used.store(u64::try_from(used_by_now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        wait(wake, &refusals, calm_until);
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
                Ok(Order::Attempt(attempt)) => refused.extend(refusals.attempted(&attempt, Instant::now())),
                Ok(Order::HandedOver(until)) => refused.extend(refusals.handed_over(until)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    refused.extend(refusals.finish(Instant::now()));
                    is_over = true;
                    break;
                }
            }
        }
        let now = Instant::now();
        let is_calm = now < calm_until;
        if !is_calm && !is_over {
            refused.extend(refusals.look(now));
            if refusals.take_moved() {
                calm_until = now + CALM;
            }
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

/// Waits until there is something to do.
fn wait(wake: &OwnedFd, refusals: &Refusals, calm_until: Instant) {
    let now = Instant::now();
    let calm = calm_until > now;
    let due = if calm { Some(calm_until) } else { refusals.due() };
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
        Self { number: ask.number, levels, node, nprocs, unread }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use reaper_ebpf::refused::Who;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::{headroom::Source, workload::Hierarchy};

    #[test]
    fn it_answers_tells_of_refusals_and_ends() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = root.path().join("pod/box");
        fs::create_dir_all(&cgroup).unwrap();
        for directory in [&cgroup, &root.path().join("pod")] {
            fs::write(directory.join("pids.current"), "3\n").unwrap();
            fs::write(directory.join("pids.max"), "10\n").unwrap();
            fs::write(directory.join("pids.events"), "max 0\n").unwrap();
        }
        let (send, mut reports) = unbounded_channel();
        let reader = Reader::start(Files::at(Hierarchy::V2, root.path(), root.path()), false, send).unwrap();
        let path: CgroupPath = Arc::from(&b"/pod/box"[..]);
        assert_eq!(reader.watch(vec![Arc::clone(&path)], true), Ok(()));
        assert!(reader.ask(Ask { number: 4, cgroups: vec![(path, false)], holders: Vec::new() }));
        let Some(Report::Seen(Seen { number: 4, levels, node: None, unread: 1, .. })) =
            reports.blocking_recv()
        else {
            panic!("no answer");
        };
        assert_eq!(levels.len(), 2);
        // At once, as the kernel does: not empty in between.
        let events = fs::OpenOptions::new().write(true).open(cgroup.join("pids.events"));
        events.unwrap().write_all(b"max 10000\n").unwrap();
        let Some(Report::Refused(refusal)) = reports.blocking_recv() else { panic!("not told") };
        assert_eq!((refusal.count, refusal.levels.len()), (10_000, 2));
        drop(reader);
        assert!(reports.blocking_recv().is_none());
    }

    #[test]
    fn what_nobody_claims_is_told_when_all_was_handed_over_and_what_is_told_is_settled_after_it() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = root.path().join("pod");
        fs::create_dir_all(&cgroup).unwrap();
        for (file, text) in [("pids.current", "10\n"), ("pids.max", "10\n"), ("pids.events", "max 0\n")] {
            fs::write(cgroup.join(file), text).unwrap();
        }
        let (send, mut reports) = unbounded_channel();
        let reader = Reader::start(Files::at(Hierarchy::V2, root.path(), root.path()), true, send).unwrap();
        let path: CgroupPath = Arc::from(&b"/pod"[..]);
        assert_eq!(reader.watch(vec![Arc::clone(&path)], true), Ok(()));
        assert!(reader.ask(Ask {
            number: 1,
            cgroups: vec![(Arc::clone(&path), false)],
            holders: Vec::new()
        }));
        assert!(matches!(reports.blocking_recv(), Some(Report::Seen(Seen { number: 1, .. }))));
        let events = fs::OpenOptions::new().write(true).open(cgroup.join("pids.events"));
        events.unwrap().write_all(b"max 5\n").unwrap();
        assert!(reader.attempt(Attempt {
            who: Who { cgroup: 7, uid: 0, elsewhere: 0 },
            source: Source::Fexit,
            forker: None,
            cgroup: Some(path),
            uid: 0,
            processes: 0,
            nproc: None,
            pid_ns: 1,
            pids: 0,
            pid_max: None,
            unread: false,
            count: 2,
            fresh: true,
        }));
        let told = |report| match report {
            Some(Report::Refused(refusal)) => (refusal.source, refusal.count),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(reports.blocking_recv()), (Source::Fexit, 2));
        assert!(matches!(reports.blocking_recv(), Some(Report::Settled(2))));
        assert!(matches!(reports.blocking_recv(), Some(Report::Wanted)));
        assert!(reader.handed_over(Instant::now()));
        assert_eq!(told(reports.blocking_recv()), (Source::PidsEvents, 3));
        drop(reader);
        assert!(reports.blocking_recv().is_none());
    }
}
