//! Follows interpreters: finds out which processes are any, and makes stacks of what the kernel side writes down when they fork.
//! In a thread of its own, because other processes' memory and files are read here.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use reaper_ebpf::interpreter::{self, Exec, Followed, Verdict, kind};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{read, write},
};
use tokio::sync::Notify;

use super::{
    Language, Quality, Stack,
    native::{NativeStacks, Registers},
    python::{Codes, Found, Image, Recognizer, Subject},
    store::Store,
    symbols::Symbolizer,
};
use crate::{
    identity::BootTime,
    kernel::{Copied, Natives, Origins, Written},
    proc::Proc,
};

/// The kernel side wakes nobody sooner than this after the last time: what came meanwhile is looked for after so long.
const APART: Duration = Duration::from_nanos(interpreter::STACKS_APART);
/// The same for executables: an interpreter that is found late has forked by then.
const EXECS_APART: Duration = Duration::from_nanos(interpreter::EXECS_APART);

/// When a process that is linked to libpython is looked at again, because the library is not mapped yet.
const AGAIN: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// Files that may be looked at in a second,
const FILES_A_SECOND: u32 = 200;
/// and at once after a quiet time.
const FILES_AT_ONCE: u32 = 1_000;

/// Where the stacks are.
#[derive(Clone, Debug)]
pub struct Stacks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    crowded: Notify,
    unrecognized: AtomicU64,
    /// Native stacks that were copied and could not be unwound.
    unread: AtomicU64,
    /// Processes whose stacks are to be named.
    wanted: Mutex<Vec<u64>>,
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

    /// How many files were not looked at because there were too many.
    pub(crate) fn unrecognized(&self) -> u64 {
        self.0.unrecognized.load(Ordering::Relaxed)
    }

    /// How many native stacks could not be read.
    pub(crate) fn unread(&self) -> u64 {
        self.0.unread.load(Ordering::Relaxed)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It begins with those that `run` already, and ends with this process.
pub(crate) fn start(
    origins: Origins,
    running: Vec<Exec>,
    natives: Option<Natives>,
    proc: Proc,
) -> io::Result<Stacks> {
    let stacks = Stacks(Arc::new(Shared {
        store: Mutex::default(),
        crowded: Notify::default(),
        unrecognized: AtomicU64::default(),
        unread: AtomicU64::default(),
        wanted: Mutex::default(),
        named: Condvar::default(),
        bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
    }));
    let symbolizer = Symbolizer::of_this_program();
    let natives = natives.map(|copies| (copies, NativeStacks::new(proc.clone(), symbolizer.clone())));
    let mut follower = Follower {
        origins,
        natives,
        recognizer: Recognizer::new(proc, symbolizer),
        codes: Codes::default(),
        stacks: stacks.clone(),
        pending: Vec::new(),
        budget: Budget { left: FILES_AT_ONCE, since: Instant::now() },
        told: false,
    };
    thread::Builder::new().name("origins".to_owned()).spawn(move || {
        for exec in running {
            follower.meet(exec, 0);
        }
        follower.run();
    })?;
    Ok(stacks)
}

struct Follower {
    origins: Origins,
    natives: Option<(Natives, NativeStacks)>,
    recognizer: Recognizer,
    codes: Codes,
    stacks: Stacks,
    /// Processes to be looked at again: when, and how often they were.
    pending: Vec<(Instant, Exec, usize)>,
    budget: Budget,
    /// It has been said that memory must not be read.
    told: bool,
}

impl Follower {
    fn run(&mut self) {
        let mut more = Some(EXECS_APART);
        loop {
            let next =
                self.pending.iter().map(|(when, ..)| when.saturating_duration_since(Instant::now())).min();
            let patience = [next, more].into_iter().flatten().min();
            if let Err(error) = self.sleep(patience) {
                tracing::error!(%error, "waiting for stacks; no more are taken");
                return;
            }
            more = self.drain();
            let copied = self.unwind().then_some(APART);
            more = [more, copied].into_iter().flatten().min();
            self.name();
            self.look_again();
        }
    }

    /// Until the kernel side wakes, or for so long.
    fn sleep(&self, patience: Option<Duration>) -> io::Result<()> {
        let of = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![of(self.origins.as_fd()), of(self.stacks.0.bell.as_fd())];
        fds.extend(self.natives.as_ref().map(|(copies, _)| of(copies.as_fd())));
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in what the kernel side has written, executables first. Where it has, there may be more after so long, of which
    /// nobody is woken.
    fn drain(&mut self) -> Option<Duration> {
        let (mut stacks, mut execs) = (Vec::new(), Vec::new());
        self.origins.each(|one| match one {
            Written::Stack(head, frames) => stacks.push((head, frames)),
            Written::Exec(exec) => execs.push(exec),
        });
        let more = match (execs.is_empty(), stacks.is_empty()) {
            (false, _) => Some(EXECS_APART),
            (true, false) => Some(APART),
            (true, true) => None,
        };
        for exec in execs {
            self.meet(exec, 0);
        }
        for (head, frames) in stacks {
            self.resolve(&head, &frames);
        }
        if more.is_some() && self.stacks.store().is_crowded() {
            self.stacks.0.crowded.notify_one();
        }
        more
    }

    /// Unwinds what the kernel side has copied. False where that was nothing.
    fn unwind(&mut self) -> bool {
        let Some((copies, unwinder)) = &mut self.natives else { return false };
        let mut copied = Vec::new();
        copies.each(|copy| copied.push(copy));
        for Copied { child, forker, registers, stack } in &copied {
            // Of a 32-bit program.
            let Some(registers) = Registers::from_pt_regs(registers) else { continue };
            match unwinder.unwind(forker, &registers, stack) {
                Ok(found) => self.stacks.store().put_native(*child, found),
                Err(error) => {
                    self.stacks.0.unread.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%forker, %error, "a native stack could not be read");
                }
            }
        }
        if !copied.is_empty() && self.stacks.store().is_crowded() {
            self.stacks.0.crowded.notify_one();
        }
        !copied.is_empty()
    }

    /// Looks up the functions of the stacks that somebody needs.
    fn name(&mut self) {
        // Before the list is looked at: who adds to it later rings again.
        let _quiet = read(&self.stacks.0.bell, &mut [0; 8]);
        let wanted =
            std::mem::take(&mut *self.stacks.0.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        let Some((_, unwinder)) = &mut self.natives else { return };
        for child in wanted {
            let unnamed = self.stacks.store().unnamed(child);
            if let Some(native) = unnamed {
                let stack = unwinder.name(&native);
                self.stacks.store().put(child, stack, native.quality);
                self.stacks.0.named.notify_all();
            }
        }
    }

    fn look_again(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|(when, ..)| *when <= now);
        self.pending = later;
        let due: Vec<_> = due;
        for (_, exec, times) in due {
            self.meet(exec, times);
        }
    }

    /// Finds out what a process is.
    fn meet(&mut self, exec: Exec, times: usize) {
        let Exec { tgid, start, code, executable, .. } = exec;
        if !self.recognizer.knows(&executable) && !self.budget.take() {
            self.stacks.0.unrecognized.fetch_add(1, Ordering::Relaxed);
            return self.origins.unfollow(tgid);
        }
        let subject = Subject { pid: tgid, start: BootTime(start), code, executable };
        let found = match self.recognizer.look(&subject) {
            Ok(found) => found,
            Err(error) => return self.complain(tgid, &error),
        };
        tracing::trace!(pid = tgid, ?found, "recognition");
        match found {
            Found::Gone => {}
            Found::Other => {
                self.know(&exec, Verdict { kind: kind::OTHER, ..Verdict::default() });
                self.origins.unfollow(tgid);
            }
            Found::Linked => {
                self.know(&exec, Verdict { kind: kind::LINKED, ..Verdict::default() });
                match AGAIN.get(times) {
                    Some(after) => self.pending.push((Instant::now() + *after, exec, times + 1)),
                    None => self.origins.unfollow(tgid),
                }
            }
            Found::Interpreter { head, distance, shape, layout } => {
                if let Some(distance) = distance {
                    self.know(&exec, Verdict { kind: kind::INTERPRETER, shape, distance, layout });
                }
                let image = reaper_ebpf::id(tgid, start);
                self.origins.follow(tgid, &Followed { start, image, head, exec: exec.exec, shape, layout });
            }
        }
    }

    fn know(&mut self, exec: &Exec, verdict: Verdict) {
        if !self.origins.know(exec.executable, &verdict) {
            // Full of files that are gone.
            self.origins.forget_executables();
            self.origins.know(exec.executable, &verdict);
        }
    }

    fn resolve(&mut self, head: &interpreter::Stack, frames: &[interpreter::Frame]) {
        let Some(shape) = self.recognizer.shape(head.shape) else { return };
        let image = Image { id: head.image, exec: head.exec };
        let (mut resolved, mut exact) = (Vec::with_capacity(frames.len()), true);
        for frame in frames {
            match self.codes.place(head.forker, image, &shape, frame) {
                // Not the program's own.
                Ok(place) if place.is_shim() => {}
                Ok(place) => {
                    exact &= place.exact;
                    resolved.push(place.frame);
                }
                Err(error) => return self.complain(head.forker, &error),
            }
        }
        if resolved.iter().all(|frame| frame.function.is_none()) {
            // Addresses that mean nothing to anybody.
            return;
        }
        let stack = Stack { frames: resolved, language: Language::Python, cut: head.cut != 0 };
        let quality = if exact { Quality::Exact } else { Quality::Approximate };
        self.stacks.store().put(head.child, stack, quality);
    }

    fn complain(&mut self, pid: u32, error: &io::Error) {
        if error.kind() != io::ErrorKind::PermissionDenied {
            tracing::debug!(pid, %error, "a process could not be looked at");
        } else if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                pid,
                %error,
                "the memory of a process must not be read: zombies of Python programs are reported without the line that \
                 forked them; grant CAP_SYS_PTRACE, and see that kernel.yama.ptrace_scope is not 3"
            );
        }
    }
}

/// How many files may still be looked at.
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn take(&mut self) -> bool {
        let earned = self.since.elapsed().as_millis() * u128::from(FILES_A_SECOND) / 1_000;
        if let Ok(earned @ 1..) = u32::try_from(earned) {
            self.left = self.left.saturating_add(earned).min(FILES_AT_ONCE);
            self.since = Instant::now();
        }
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }
}
