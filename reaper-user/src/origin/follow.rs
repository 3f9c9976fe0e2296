//! Follows interpreters: finds out which processes are any, and makes stacks of what the kernel side writes down when they fork.
//! In a thread of its own, because other processes' memory and files are read here; native stacks have another one.

use std::{
    collections::{HashSet, VecDeque},
    io,
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use reaper_ebpf::{
    interpreter::{self, EXECS_APART, Exec, Followed, STACKS_APART, Verdict, end, kind},
    native::Pace,
};

use super::{
    Language, Quality, Stack, Stacks, native,
    python::{Codes, Found, Image, Recognizer, Subject, Unlooked},
    stacks::{Unannounced, sleep_until},
    symbols::Symbolizer,
};
use crate::{
    identity::BootTime,
    kernel::{Natives, Origins, Running, Written, boot_now},
    proc::Proc,
};

/// When a process that is linked to libpython is looked at again, because the library is not mapped yet.
const AGAIN: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// Files that may be looked at: 200 a second.
const FILES: Pace = Pace { apart: 5_000_000, at_once: 1_000 };

/// The same for processes that are linked to libpython, 500 a second: what each has mapped is read, which takes a tenth of a
/// millisecond.
const LOOKS: Pace = Pace { apart: 2_000_000, at_once: 2_000 };

/// Stacks that may wait to be read. As many again may come with one look.
const UNREAD: usize = 4_096;

/// Of those so many are read before it is looked what is executed: what forks before it is known has no line.
const AT_ONCE: usize = 16;

/// Processes that may wait to be looked at again.
const PENDING: usize = 4_096;

/// Starts the thread. It begins with those that are `running` already, and ends with this process.
pub(crate) fn start(
    origins: Origins,
    running: Vec<Running>,
    natives: Option<Natives>,
    proc: Proc,
) -> io::Result<Stacks> {
    let stacks = Stacks::new()?;
    if let Some(copies) = natives {
        native::start(copies, proc.clone(), stacks.clone())?;
    }
    // Its own: what a native stack asks of one may take seconds, and an interpreter that is found late has forked by then.
    let symbolizer = Symbolizer::of_this_program();
    symbolizer.start();
    let mut follower = Follower {
        origins,
        recognizer: Recognizer::new(proc, symbolizer),
        codes: Codes::default(),
        stacks: stacks.clone(),
        pending: Vec::new(),
        unread: VecDeque::new(),
        unannounced: [STACKS_APART, EXECS_APART].map(|apart| Unannounced::new(apart, Instant::now())),
        files: 0,
        looks: 0,
    };
    thread::Builder::new().name("origins".to_owned()).spawn(move || {
        follower.begin(running);
        follower.run();
    })?;
    Ok(stacks)
}

struct Follower {
    origins: Origins,
    recognizer: Recognizer,
    codes: Codes,
    stacks: Stacks,
    /// Processes to be looked at again.
    pending: Vec<Pending>,
    /// Stacks that were taken out and are still to be read.
    unread: VecDeque<(interpreter::Stack, Vec<interpreter::Frame>)>,
    /// Stacks and executables that nobody was woken for.
    unannounced: [Unannounced; 2],
    /// What [`FILES`] and [`LOOKS`] go by.
    files: u64,
    looks: u64,
}

/// A process that is to be looked at again.
struct Pending {
    when: Instant,
    exec: Exec,
    /// How often it was.
    times: usize,
    /// It was there before the kernel side was.
    before: bool,
}

impl Follower {
    /// Finds out what those are that run already. Looks again until none of the new ones is an interpreter: what one forks before it is
    /// followed is not. Those of which it is known that they are none may fork as they like.
    fn begin(&mut self, looks: Vec<Running>) {
        let mut met = HashSet::new();
        for look in looks {
            let running = match look.read() {
                Ok(running) => running,
                Err(error) => {
                    self.stacks.count_unrecognized();
                    return tracing::warn!(%error, "looking for interpreters that run already");
                }
            };
            let mut are_new = false;
            for exec in running {
                if met.insert((exec.tgid, exec.start, exec.exec)) {
                    are_new |= self.meet(&exec, 0, true);
                    // What was started since may fork in milliseconds, and does not wait until hundreds of files have been looked at.
                    self.take();
                    self.read();
                    self.look_again();
                }
            }
            if !are_new {
                return;
            }
        }
        // There may be others that were forked since.
        self.stacks.count_unrecognized();
    }

    fn run(&mut self) {
        loop {
            let pending = self.pending.iter().map(|one| one.when);
            let next = pending.chain(self.unannounced.iter().filter_map(Unannounced::due)).min();
            if self.unread.is_empty()
                && let Err(error) = sleep_until(&[self.origins.as_fd()], next)
            {
                tracing::error!(%error, "waiting for stacks; no more are taken");
                return;
            }
            self.take();
            self.read();
            self.stacks.make_room();
            self.look_again();
        }
    }

    /// Takes out what the kernel side has written, and finds out at once what it says is executed: stacks can wait. Unless so many wait
    /// already that these are to wait where they are counted when there are too many.
    fn take(&mut self) {
        if self.unread.len() >= UNREAD {
            return;
        }
        let Self { origins, unread, unannounced, .. } = self;
        let (mut execs, before, began) = (Vec::new(), unread.len(), Instant::now());
        origins.each(|one| match one {
            Written::Stack(head, frames) => unread.push_back((head, frames)),
            Written::Exec(exec) => execs.push(exec),
        });
        let (ended, found) = (Instant::now(), [unread.len() > before, !execs.is_empty()]);
        for (unannounced, found) in unannounced.iter_mut().zip(found) {
            unannounced.looked(began, ended, found);
        }
        for exec in execs {
            self.meet(&exec, 0, false);
        }
    }

    /// Reads some of the stacks that were taken out.
    fn read(&mut self) {
        for _ in 0..AT_ONCE {
            let Some((head, frames)) = self.unread.pop_front() else { return };
            if !self.resolve(&head, &frames) {
                self.stacks.count_unread();
            }
        }
    }

    fn look_again(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|one| one.when <= now);
        self.pending = later;
        let due: Vec<_> = due;
        for Pending { when: _, exec, times, before } in due {
            self.meet(&exec, times, before);
        }
    }

    /// Finds out what a process is, `before` the kernel side was there or now. True where it is an interpreter, may turn out to be
    /// one, or may have been one.
    fn meet(&mut self, exec: &Exec, times: usize, before: bool) -> bool {
        let Exec { tgid, start, code, image, executable, .. } = *exec;
        if let Some(there_is_room) = self.origins.inherit(exec, before) {
            self.count_lost(there_is_room);
            return true;
        }
        let pace = match &self.recognizer {
            recognizer if !recognizer.knows(&executable) => Some((FILES, &mut self.files)),
            recognizer if recognizer.is_linked(&executable) => Some((LOOKS, &mut self.looks)),
            _ => None,
        };
        if let Some((pace, due)) = pace {
            let Some(next) = pace.take(*due, boot_now().0) else {
                self.stacks.count_unrecognized();
                self.origins.unfollow(exec);
                return false;
            };
            *due = next;
        }
        let subject = Subject { pid: tgid, start: BootTime(start), code, executable };
        let found = match self.recognizer.look(&subject) {
            Ok(found) => found,
            Err(error) => return self.put_off(exec, error, times, before),
        };
        tracing::trace!(pid = tgid, ?found, "recognition");
        match found {
            // It may have been one, and have forked: daemons do, and end.
            Found::Gone => return before,
            Found::Other => {
                self.know(exec, Verdict { kind: kind::OTHER, ..Verdict::default() });
                self.origins.unfollow(exec);
                return false;
            }
            Found::Linked => {
                self.know(exec, Verdict { kind: kind::LINKED, ..Verdict::default() });
                let again = AGAIN.get(times).map(|after| Instant::now() + *after);
                match again {
                    Some(when) => self.pending.push(Pending { when, exec: *exec, times: times + 1, before }),
                    None => {
                        self.stacks.count_unrecognized();
                        self.origins.unfollow(exec);
                    }
                }
            }
            Found::Interpreter { head, distance, shape, layout } => {
                if let Some(distance) = distance {
                    self.know(exec, Verdict { kind: kind::INTERPRETER, shape, distance, layout });
                }
                let exec = exec.exec;
                let followed = Followed { start, image, head, exec, shape, layout, main: 0 };
                let there_is_room = self.origins.follow(tgid, &followed, before);
                self.count_lost(there_is_room);
            }
        }
        true
    }

    /// What could not be looked at: again later, or not at all. True where it may turn out to be an interpreter.
    fn put_off(&mut self, exec: &Exec, error: Unlooked, times: usize, before: bool) -> bool {
        match error {
            Unlooked::PutOff { again, now } => {
                self.stacks.count_unrecognized();
                if now {
                    self.stacks.tell_late(exec.tgid, &self.recognizer.path(exec.tgid));
                }
                if self.pending.len() < PENDING {
                    self.pending.push(Pending { when: again, exec: *exec, times, before });
                    return true;
                }
            }
            Unlooked::Unopened(error) if error.is_not_permitted() => {
                self.stacks.tell_not_permitted(exec.tgid);
            }
            Unlooked::Unopened(error) => {
                self.stacks.count_unrecognized();
                self.stacks.tell_unopened(exec.tgid, &error);
                // It will be so with each process of that file, and is counted once.
                if error.is_for_good() && !self.recognizer.is_linked(&exec.executable) {
                    self.know(exec, Verdict { kind: kind::OTHER, ..Verdict::default() });
                }
            }
            Unlooked::Failed(error) => {
                // Said once for all: it will be so with each.
                if error.kind() != io::ErrorKind::PermissionDenied {
                    self.stacks.count_unrecognized();
                }
                self.complain(exec.tgid, &error);
            }
        }
        // Or the kernel side would ask again for whatever it forks.
        self.origins.unfollow(exec);
        false
    }

    fn count_lost(&self, there_is_room: bool) {
        if !there_is_room {
            self.stacks.count_unrecognized();
        }
    }

    fn know(&mut self, exec: &Exec, verdict: Verdict) {
        if !self.origins.know(exec.executable, &verdict) {
            // Full of files that are gone.
            self.origins.forget_executables();
            self.origins.know(exec.executable, &verdict);
        }
    }

    /// Reads the names of a stack. False where there is nothing to be read.
    fn resolve(&mut self, head: &interpreter::Stack, frames: &[interpreter::Frame]) -> bool {
        let Some(shape) = self.recognizer.shape(head.shape) else { return false };
        let image = Image { id: head.image, exec: head.exec };
        // Of one that is torn the frame that matters may be missing.
        let (mut resolved, mut exact) = (Vec::with_capacity(frames.len()), head.end & end::TORN == 0);
        for frame in frames {
            match self.codes.place(head.forker, image, &shape, frame) {
                // Not the program's own.
                Ok(place) if place.is_shim() => {}
                Ok(place) => {
                    exact &= place.exact;
                    resolved.push(place.frame);
                }
                Err(error) => {
                    self.complain(head.forker, &error);
                    return false;
                }
            }
        }
        if resolved.iter().all(|frame| frame.function.is_none()) {
            // Addresses that mean nothing to anybody.
            return false;
        }
        let stack = Stack { frames: resolved, language: Language::Python, cut: head.end != 0 };
        let quality = if exact { Quality::Exact } else { Quality::Approximate };
        self.stacks.store().put(head.child, head.group, stack, quality);
        true
    }

    fn complain(&mut self, pid: u32, error: &io::Error) {
        if error.kind() != io::ErrorKind::PermissionDenied {
            tracing::debug!(pid, %error, "a process could not be looked at");
        } else {
            self.stacks.tell_not_permitted(pid);
        }
    }
}
