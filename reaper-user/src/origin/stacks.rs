//! Where the stacks of forks are, for whoever wants to know.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, read, write},
};
use tokio::sync::Notify;

use super::{Quality, Stack, mounts::Unopened, store::Store};
use crate::text::Untrusted;

/// It is not looked for stacks that nobody needs more often than this.
const PRUNED_APART: Duration = Duration::from_secs(1);

/// Where the stacks are.
#[derive(Clone, Debug)]
pub struct Stacks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    crowded: Notify,
    /// When somebody was last asked which stacks are needed.
    pruned: Mutex<Option<Instant>>,
    unrecognized: AtomicU64,
    /// Stacks that were taken and could not be read.
    unread: AtomicU64,
    /// Native stacks whose functions could not be asked for.
    unnamed: AtomicU64,
    /// Processes whose stacks are to be named.
    wanted: Mutex<Vec<u64>>,
    /// What has been said of that holds for all: that something is not permitted, or of a kind of file system.
    told: Mutex<HashSet<Untrusted>>,
    /// Something has been named.
    named: Condvar,
    /// Rings when there is something to name.
    bell: OwnedFd,
}

/// A stack that is being named.
#[derive(Clone, Debug)]
pub struct Naming {
    stacks: Stacks,
    child: u64,
}

impl Naming {
    /// Waits until it is named, not longer than `patience`: reading the debug information of a large program takes some
    /// tenths of a second, once.
    pub fn wait(&self, patience: Duration) {
        let shared = &self.stacks.0;
        let unnamed = |store: &mut Store| store.unnamed(self.child).is_some();
        let _late = shared
            .named
            .wait_timeout_while(self.stacks.store(), patience, unnamed)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl Stacks {
    /// There are none yet.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            store: Mutex::default(),
            crowded: Notify::default(),
            pruned: Mutex::default(),
            unrecognized: AtomicU64::default(),
            unread: AtomicU64::default(),
            unnamed: AtomicU64::default(),
            wanted: Mutex::default(),
            told: Mutex::default(),
            named: Condvar::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })))
    }

    /// Where the process with these identity bits was forked.
    pub(crate) fn get(&self, child: u64) -> Option<(Arc<Stack>, Quality)> {
        self.store().get(child)
    }

    /// Whether the stack of this process's fork is kept.
    pub(crate) fn has(&self, child: u64) -> bool {
        self.store().has(child)
    }

    /// Has the stack of this process's fork named; `None` where it is, or where there is none.
    pub(crate) fn name(&self, child: u64) -> Option<Naming> {
        self.store().unnamed(child)?;
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        // It rings already where this fails.
        let _full = write(&self.0.bell, &1_u64.to_ne_bytes());
        Some(Naming { stacks: self.clone(), child })
    }

    /// Waits until most of the room is taken.
    pub(crate) async fn crowded(&self) {
        self.0.crowded.notified().await;
    }

    /// Forgets those processes that are not `needed`.
    pub(crate) fn prune(&self, needed: impl Fn(u64) -> bool) {
        let mut children = self.store().children();
        children.retain(|child| !needed(*child));
        self.store().remove(&children);
    }

    /// How many stacks found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.store().lost()
    }

    /// How many files were not looked at, because there were too many, or they could not or may not be read.
    pub(crate) fn unrecognized(&self) -> u64 {
        self.0.unrecognized.load(Ordering::Relaxed)
    }

    /// How many stacks were taken and could not be read.
    pub(crate) fn unread(&self) -> u64 {
        self.0.unread.load(Ordering::Relaxed)
    }

    /// How many native stacks have no functions because nobody could be asked for them.
    pub(crate) fn unnamed(&self) -> u64 {
        self.0.unnamed.load(Ordering::Relaxed)
    }

    /// Nobody could be asked for the functions of a native stack.
    pub(super) fn count_unnamed(&self) {
        self.0.unnamed.fetch_add(1, Ordering::Relaxed);
    }

    /// A file was not looked at.
    pub(super) fn count_unrecognized(&self) {
        self.0.unrecognized.fetch_add(1, Ordering::Relaxed);
    }

    /// A stack could not be read.
    pub(super) fn count_unread(&self) {
        self.0.unread.fetch_add(1, Ordering::Relaxed);
    }

    /// Memory must not be read: it will be so with each process, and is said once.
    pub(super) fn tell_not_permitted(&self, pid: u32) {
        if self.is_news(&"memory".into()) {
            tracing::warn!(
                pid,
                "the memory of a process must not be read: zombies are reported without the line that forked them; grant \
                 CAP_SYS_PTRACE, and see that kernel.yama.ptrace_scope is not 3"
            );
        }
    }

    /// A file was not opened. What holds for all files of that kind is said once.
    pub(super) fn tell_unopened(&self, pid: u32, error: &Unopened) {
        match error {
            Unopened::FileSystem(kind) if self.is_news(kind) => tracing::warn!(
                pid,
                file_system = %kind,
                "a program answers for the file system that others are run from, and may never do: they are not looked at, and \
                 what they leak is reported without the line that forked it"
            ),
            _ => tracing::debug!(pid, %error, "a file was not opened"),
        }
    }

    /// A file was late or did harm. Each is named, up to a number.
    pub(super) fn tell_late(&self, pid: u32, path: &Untrusted) {
        if self.is_news(path) {
            tracing::warn!(
                pid,
                file = %path,
                "looking for an interpreter in a file took too long, or killed the process that reads files of others: what runs it is looked at \
                 again in a few seconds, and ever more rarely if that goes on; until then what it leaks is reported without a line"
            );
        } else {
            tracing::debug!(pid, file = %path, "a file took too long, or killed the symbolizing process");
        }
    }

    /// Whether that was not said yet. Kinds of file systems may be called as their makers like: not for ever.
    fn is_news(&self, what: &Untrusted) -> bool {
        const MOST: usize = 16;
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST && told.insert(what.clone())
    }

    /// Has those forgotten that nobody needs. Where all are needed, asking again at once would lead to nothing.
    pub(super) fn make_room(&self) {
        let mut pruned = self.0.pruned.lock().unwrap_or_else(PoisonError::into_inner);
        if pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNED_APART) && self.store().is_crowded() {
            *pruned = Some(Instant::now());
            self.0.crowded.notify_one();
        }
    }

    /// What rings when there is something to name.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }

    /// Those whose stacks are to be named since this was last asked.
    pub(super) fn wanted(&self) -> Vec<u64> {
        // Before the list is looked at: who adds to it later rings again.
        let _quiet = read(&self.0.bell, &mut [0; 8]);
        std::mem::take(&mut *self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something has been named.
    pub(super) fn tell(&self) {
        self.0.named.notify_all();
    }

    /// All of them.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel side writes down without waking anybody, because it has just done so for another of the same kind: it is looked for
/// when that is so long ago that the next one wakes somebody again, and whatever else is done meanwhile.
#[derive(Debug)]
pub(super) struct Unannounced {
    /// As long as the kernel side wakes nobody again, and somewhat longer: it looks at the clock before it writes.
    apart: Duration,
    due: Option<Instant>,
}

impl Unannounced {
    /// Of a kind of which nobody is woken again for `apart` nanoseconds. There may be some already, from before.
    pub(super) fn new(apart: u64, now: Instant) -> Self {
        /// A processor may do something else between the kernel side's look at the clock and what it writes.
        const SLACK: Duration = Duration::from_millis(1);
        let apart = Duration::from_nanos(apart) + SLACK;
        Self { apart, due: Some(now + apart) }
    }

    /// All that was written has been taken out, between these two moments, and there was some or none.
    pub(super) fn looked(&mut self, began: Instant, ended: Instant, found: bool) {
        if found {
            self.due = Some(ended + self.apart);
        } else if self.due.is_some_and(|due| due <= began) {
            self.due = None;
        }
    }

    /// When to look again, if nobody is woken before.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Until one of these can be read, or until so late.
pub(super) fn sleep_until(fds: &[BorrowedFd<'_>], due: Option<Instant>) -> io::Result<()> {
    let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    match poll(&mut fds, patience.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_is_woken_for_is_looked_for_whatever_else_is_found_meanwhile() {
        let start = Instant::now();
        let at = |after: u64| start + Duration::from_millis(after);
        let mut unannounced = Unannounced::new(100_000_000, start);
        assert_eq!(unannounced.due(), Some(at(101)), "from before");
        unannounced.looked(at(101), at(101), false);
        assert_eq!(unannounced.due(), None);
        unannounced.looked(at(200), at(210), true);
        assert_eq!(unannounced.due(), Some(at(311)));
        // For another reason, and begun too early.
        for (began, ended) in [(230, 231), (310, 312)] {
            unannounced.looked(at(began), at(ended), false);
            assert_eq!(unannounced.due(), Some(at(311)));
        }
        unannounced.looked(at(311), at(311), false);
        assert_eq!(unannounced.due(), None);
    }
}
