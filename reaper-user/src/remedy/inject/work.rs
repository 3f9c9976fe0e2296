//! The tracing process: a few MiB, freshly executed, with the two capabilities that it needs. It does one order and
//! ends; ending is what frees the holder, whatever happened.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    os::fd::OwnedFd,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{
        DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open,
        set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
    },
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_current_timer_slack},
};

use super::{
    arch,
    attempt::{self, Attempt},
    order::{Answer, Child, Fate, Order, Process, Task},
    outcome::Outcome,
    ptrace,
    scene::Scene,
    threads::Fitness,
};
use crate::proc::Proc;

/// The argument by which `reaper` is started as the tracing process.
pub const ARGUMENT: &str = "--inject-one-order";

/// Bytes of an order.
const ORDER_BYTES: u64 = 1 << 20;

/// What a zombie takes in a stop, about, before that was measured; and zombies of one stop at most.
const EACH: Duration = Duration::from_nanos(6_500);
const MOST: usize = 512;

/// Bytes that are read of a holder, or written, in one stop: less than what the allocator gives back at once.
const ROOM: usize = 96 << 10;

/// When the process ends by itself, before it is ended.
const ENOUGH: Duration = Duration::from_secs(2);

/// Into so many parts what a pause may take is divided, of which a stop is to take one: on a busy machine one in a hundred takes more
/// than twice as long as most.
const PARTS: u32 = 3;

/// Zombies that are reaped call by call. Of three a chain takes less, by about 25 µs of 150: not worth a thread that is some 20 ms late
/// where its tracer has died.
const BY_STEPS: usize = 3;

/// Reads an order, carries it out, answers.
#[must_use]
pub fn main() -> ExitCode {
    let mut line = String::new();
    if io::stdin().lock().take(ORDER_BYTES).read_line(&mut line).is_err() {
        return ExitCode::FAILURE;
    }
    let answer = match serde_json::from_str::<Order>(&line) {
        Ok(order) => carry_out(&order),
        Err(error) => Answer::refused("order", format!("the order is none: {error}")),
    };
    let text = serde_json::to_string(&answer).unwrap_or_default();
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn carry_out(order: &Order) -> Answer {
    let proc = Proc::at("/proc");
    let Process { pid, start_ticks } = order.holder;
    let see = || proc.see(pid).ok().filter(|seen| seen.start_ticks == start_ticks && seen.tgid == pid);
    let another = || Answer::refused("identity-changed", "it is not the holder that was looked at");
    if see().is_none() {
        return another();
    }
    // What needs other privileges than tracing is opened before they are given up.
    let scene = match Scene::open(order, proc.of(pid)) {
        Ok(scene) => scene,
        Err(answer) => return answer,
    };
    // Its memory as well: who has had the pid before and after has had it in between.
    let Some(seen) = see() else { return another() };
    if ptrace::share_memory(scene.tid, seen.parent) {
        // It would stay there when the holder executes its program.
        return Answer::refused(
            "shares-memory",
            "its memory is its parent's, too: it has not executed its program yet",
        );
    }
    if let Err(error) = confine(order.from) {
        return Answer::refused("not-permitted", format!("giving up what is not needed: {error}"));
    }
    ptrace::expect_stops();
    // What would take its time while the holder stands: the processor's answer, and the memory for what is read of it.
    arch::learn();
    drop(std::hint::black_box(vec![1_u8; ROOM]));
    Work { order, scene, answer: Answer::default() }.run()
}

/// Keeps two capabilities, leaves no core, ends when whoever started it does.
fn confine(from: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that was said.
    if std::os::unix::process::parent_id() != from {
        return Err(io::Error::other("whoever has started this has ended"));
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), ..getrlimit(Resource::Core) })?;
    // A microsecond's sleep is to be one.
    set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let kept = CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN;
    let sets = rustix::thread::capabilities(None)?;
    let kept = kept.intersection(sets.permitted);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(())
}

struct Work<'a> {
    order: &'a Order,
    scene: Scene,
    answer: Answer,
}

impl Work<'_> {
    fn run(mut self) -> Answer {
        if let Err(answer) = self.scene.let_unwind() {
            return answer;
        }
        match &self.order.task {
            Task::Reap(children) => self.reap(children),
            Task::Autoreap(wanted) => {
                let step = attempt::Step::Autoreap(*wanted);
                match self.find_a_moment(&step) {
                    Ok((fates, refusal)) => (self.answer.results, self.answer.refusal) = (fates, refusal),
                    Err(refusal) => self.answer.refusal = Some(refusal),
                }
            }
        }
        self.answer
    }

    fn reap(&mut self, children: &[Child]) {
        self.answer.results = vec![Fate::Untouched; children.len()];
        let began = Instant::now();
        let mut slice = self.fitting(EACH);
        let mut from = 0;
        while from < children.len() {
            let to = children.len().min(from + slice);
            let held: Vec<_> = (from..to)
                .filter_map(|place| match children.get(place).map(|child| self.hold(child)) {
                    Some(Some(held)) => Some((place, held)),
                    _ => {
                        self.set(place, Fate::Gone);
                        None
                    }
                })
                .collect();
            if held.is_empty() {
                from = to;
                continue;
            }
            let numbers = held.iter().filter_map(|(place, _)| children.get(*place)).map(|child| child.ns_pid);
            let step = attempt::Step::Reap {
                numbers: numbers.collect(),
                held: held.iter().map(|(_, held)| held).collect(),
                stepwise: self.order.is_stepwise(held.len()),
            };
            let fates = match self.find_a_moment(&step) {
                Ok((fates, refusal)) => {
                    self.answer.refusal = refusal;
                    fates
                }
                // They are looked at again, and that one is left out.
                Err((word, _)) if word == attempt::NO_ZOMBIE => continue,
                Err(refusal) => {
                    self.answer.refusal = Some(refusal);
                    return;
                }
            };
            let mut left = to;
            for ((place, _), fate) in held.iter().zip(fates) {
                match fate {
                    // It was left before it came to that: with the next stop.
                    Fate::Untouched => left = left.min(*place),
                    fate => self.set(*place, fate),
                }
            }
            if self.answer.refusal.is_some() {
                return;
            }
            if began.elapsed() > ENOUGH && left < children.len() {
                let why = "it took too long: the rest is for another time";
                self.answer.refusal = Some(("out-of-time".to_owned(), why.to_owned()));
                return;
            }
            slice = self.next_slice(slice, held.len());
            from = left;
        }
    }

    fn set(&mut self, place: usize, fate: Fate) {
        if let Some(known) = self.answer.results.get_mut(place) {
            *known = fate;
        }
    }

    /// As many as take a part of what a pause may take.
    fn next_slice(&self, slice: usize, done: usize) -> usize {
        let Some(pause) = self.answer.pauses.last() else { return slice };
        let each = *pause / u32::try_from(done).unwrap_or(u32::MAX).max(1);
        // Growing slowly: one quick slice says little of the next.
        self.fitting(each).min(slice * 2)
    }

    fn fitting(&self, each: Duration) -> usize {
        let fits = (self.order.max_pause / PARTS).as_nanos() / each.as_nanos().max(1);
        usize::try_from(fits).unwrap_or(MOST).clamp(1, MOST)
    }

    /// A descriptor of a zombie that was verified after it was opened: as long as it can be signalled, its number is nobody
    /// else's.
    fn hold(&self, child: &Child) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(child.process.pid).ok()?)?;
        let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let stat = std::fs::read(format!("/proc/{}/stat", child.process.pid)).ok()?;
        let behind = stat.get(stat.iter().rposition(|byte| *byte == b')')? + 2..)?;
        let fields: Vec<_> = std::str::from_utf8(behind).ok()?.split(' ').collect();
        let is_zombie = fields.first() == Some(&"Z")
            && fields.get(1)?.parse() == Ok(self.order.holder.pid)
            && fields.get(19)?.parse() == Ok(child.process.start_ticks);
        is_zombie.then_some(held)
    }

    /// Looks for a thread and a moment, for as long as the order has patience.
    fn find_a_moment(&mut self, step: &attempt::Step<'_>) -> Found {
        let deadline = Instant::now() + self.order.patience;
        let mut pause = Duration::from_micros(500);
        let mut refusal: Option<Reason> = None;
        loop {
            let main = self.scene.main_stack();
            for (fitness, place) in self.scene.ranked() {
                let Some(thread) = self.scene.threads.get(place) else { continue };
                if fitness == Fitness::Timed && !self.order.allow_interrupted_wait {
                    refusal.get_or_insert_with(|| {
                        let why = "its threads are in timed waits, which would end early \
                                   (allow_interrupted_wait is not set)";
                        ("timed-wait".to_owned(), why.to_owned())
                    });
                    continue;
                }
                let is_main = thread.tid == self.order.holder.pid;
                // Whoever runs may be anywhere on its stack.
                if !is_main && main.is_none() {
                    continue;
                }
                self.scene.run_beside(thread);
                let attempt = Attempt {
                    order: self.order,
                    thread,
                    place: &self.scene.place,
                    directory: &self.scene.directory,
                    main: main.filter(|_| !is_main),
                    main_thread: self.scene.main(),
                };
                let outcome = attempt.run(step, &mut self.answer);
                self.scene.run_anywhere();
                match outcome {
                    Outcome::Done(fates) => return Ok((fates, None)),
                    Outcome::Partly(fates, word, message) => {
                        return Ok((fates, Some((word.to_owned(), message))));
                    }
                    Outcome::Elsewhere(word, message) => refusal = Some((word.to_owned(), message)),
                    Outcome::Refused(word, message) => return Err((word.to_owned(), message)),
                }
            }
            if Instant::now() > deadline {
                let uninterruptible = || {
                    let why = "none of its threads can be stopped: they wait in the kernel";
                    ("uninterruptible".to_owned(), why.to_owned())
                };
                return Err(refusal.unwrap_or_else(uninterruptible));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

/// What became of each, and why not of all; or why of none.
type Found = Result<(Vec<Fate>, Option<Reason>), Reason>;

/// A word and a sentence.
type Reason = (String, String);

impl Order {
    fn is_stepwise(&self, zombies: usize) -> bool {
        use super::order::Method;
        match self.method {
            Method::Step => true,
            Method::Chain => false,
            Method::Auto => zombies <= BY_STEPS,
        }
    }
}
