//! Making a holder call the kernel itself: its zombies are waited for by nobody else.
//!
//! A thread of the holder is stopped inside a system call, makes a call by instructions that are there already, and is let go
//! as it was found. Before a register is changed a signal frame with its whole context lies in its memory, into which the call
//! returns: whoever does this may die at any instruction, and the holder goes on as after an interrupted call.
//!
//! It is done by a process of its own, started for one order ([`Tracer`]): the kernel frees a traced thread when its tracer's
//! memory is gone, which takes a small process a third of a millisecond. [`survey`] looks, from outside; [`attempt`] is the one
//! stop; [`ptrace`] is the only file that knows ptrace.

pub mod arch;
pub mod attempt;
mod calls;
mod chain;
mod code;
pub mod layout;
pub mod maps;
pub mod memory;
pub mod order;
pub mod outcome;
pub mod permission;
pub mod place;
mod process;
pub mod ptrace;
pub mod puppet;
pub mod rest;
mod scene;
pub mod seccomp;
mod survey;
pub mod threads;
mod verify;
mod work;

use std::{
    collections::HashMap,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

pub use self::{
    code::{Cache, Code},
    order::{Answer, Fate, Method, Order, Task},
    process::{DIED, Tracer},
    survey::survey,
    work::{ARGUMENT, main},
};
use super::{Deed, Handle, Options, Target};
use crate::{identity::Identity, policy::Refusal, proc::Proc};

/// How long a tracing process may take beside the patience that it was given: it has some thousand zombies at most.
const OVERRUNS: Duration = Duration::from_secs(3);

/// After a tracing process died, its holder may still be in the frame that it left.
const COOLS: Duration = Duration::from_millis(100);

/// Holders that are remembered as cooling.
const COOLING: usize = 1_024;

/// Makes holders call the kernel.
#[derive(Debug)]
pub struct Injector {
    proc: Proc,
    program: PathBuf,
    cache: Cache,
    cooling: HashMap<Identity, Instant>,
}

impl Injector {
    /// By processes of `program`, which is reaper.
    #[must_use]
    pub fn new(proc: Proc, program: PathBuf) -> Self {
        Self { proc, program, cache: Cache::default(), cooling: HashMap::new() }
    }

    /// By processes of this very program.
    #[must_use]
    pub fn of_this_program(proc: Proc) -> Self {
        // By the link, not by its path: an upgrade may have replaced the file.
        Self::new(proc, "/proc/self/exe".into())
    }

    /// Makes the holder wait for these zombies, once each and without blocking.
    pub fn reap(&mut self, holder: &Handle, zombies: &[Target], options: &Options) -> Deed {
        let survey = |cache: &mut Cache| survey(&self.proc, holder, zombies, options, cache);
        let order = match patiently(&mut self.cache, survey) {
            Ok(order) => order,
            Err(refusal) => return Deed::refused(refusal),
        };
        let answer = self.order(holder, &order);
        let mut deed = deed(&answer);
        let fates = answer.results.iter().copied().chain(std::iter::repeat(Fate::Untouched));
        for (zombie, fate) in zombies.iter().zip(fates) {
            let taken = match fate {
                Fate::Reaped => Ok(()),
                Fate::Gone => Err(Refusal::NoZombie),
                Fate::Untouched => Err(deed.refusal.clone().unwrap_or(Refusal::NoZombie)),
                Fate::Failed(0) => Err(survey::refused("not-taken", "its wait did not return this zombie")),
                Fate::Failed(error) => {
                    let error = std::io::Error::from_raw_os_error(error);
                    Err(survey::refused("wait-failed", format!("its wait failed: {error}")))
                }
            };
            deed.taken.push((zombie.identity, taken));
        }
        deed
    }

    /// Makes the kernel release each child of the holder that dies from now on; or, where it is not `wanted`, takes that back.
    /// That there is nothing to take back is a refusal.
    pub fn autoreap(&mut self, holder: &Handle, wanted: bool, options: &Options) -> Deed {
        let task = Task::Autoreap(wanted);
        let survey = |cache: &mut Cache| survey::order(&self.proc, holder, task.clone(), options, cache);
        let order = match patiently(&mut self.cache, survey) {
            Ok(order) => order,
            Err(refusal) => return Deed::refused(refusal),
        };
        let answer = self.order(holder, &order);
        let mut deed = deed(&answer);
        if deed.refusal.is_none() {
            deed.refusal = why_not_set(answer.results.first().copied(), wanted);
        }
        deed
    }

    fn order(&mut self, holder: &Handle, order: &Order) -> Answer {
        let identity = holder.identity();
        if let Some(until) = self.cooling.remove(&identity) {
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        let answer = match Tracer::start(&self.program, order) {
            Ok(tracer) => tracer.finish(order.patience + OVERRUNS),
            Err(error) => {
                return Answer::refused("no-tracer", format!("starting the tracing process: {error}"));
            }
        };
        match answer.refusal.as_ref().map(|(word, _)| word.as_str()) {
            Some(DIED) => {
                if self.cooling.len() >= COOLING {
                    self.cooling.retain(|_, until| *until > Instant::now());
                }
                self.cooling.insert(identity, Instant::now() + COOLS);
            }
            // A file was changed in its place: it is looked for anew.
            Some("no-instruction") => self.cache = Cache::default(),
            _ => {}
        }
        answer
    }
}

/// Looks again where what stands against it may be over in a moment.
fn patiently(
    cache: &mut Cache,
    survey: impl Fn(&mut Cache) -> Result<Order, Refusal>,
) -> Result<Order, Refusal> {
    let deadline = Instant::now() + survey::PATIENCE;
    loop {
        match survey(cache) {
            Err(refusal) if survey::may_pass(&refusal) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            surveyed => return surveyed,
        }
    }
}

fn deed(answer: &Answer) -> Deed {
    let known = |(word, message): &(String, String)| {
        let word = WORDS.into_iter().find(|known| known == word).unwrap_or("refused");
        survey::refused(word, message.clone())
    };
    Deed {
        refusal: answer.refusal.as_ref().map(known),
        pauses: answer.pauses.clone(),
        interrupted: answer.interrupted,
        late: answer.late,
        fell_through: answer.fell_through,
        laid: answer.laid,
        ..Deed::default()
    }
}

/// Why the flag was not set, or taken back; nothing where it was, or was set already: what is wanted is so.
fn why_not_set(fate: Option<Fate>, wanted: bool) -> Option<Refusal> {
    match fate {
        Some(Fate::Reaped) => None,
        Some(Fate::Gone) if wanted => None,
        Some(Fate::Gone) => Some(survey::refused("not-set", "SA_NOCLDWAIT is not set")),
        _ => Some(survey::refused("not-taken", "its signal action could not be set")),
    }
}

/// The reasons that a tracing process gives.
const WORDS: [&str; 29] = [
    "arch-32bit",
    "call-dispatch",
    "failed",
    "fault",
    "fell-through",
    "gone",
    "identity-changed",
    "matrix-registers",
    "no-instruction",
    "no-room",
    "no-run",
    "no-stop",
    "no-tracer",
    "no-vectors",
    "out-of-time",
    "not-permitted",
    "no-zombie",
    "running",
    "seccomp-denied",
    "seccomp-strict",
    "seccomp-unreadable",
    "shares-memory",
    "shadow-stack",
    "signal",
    "timed-wait",
    "traced",
    DIED,
    "unwinding",
    "user-code",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoreap_is_done_where_it_was_set_already_and_taken_back_only_where_it_is_set() {
        let told = |fate, wanted| why_not_set(fate, wanted).map(|refusal| refusal.as_str());
        assert_eq!((told(Some(Fate::Reaped), true), told(Some(Fate::Gone), true)), (None, None));
        assert_eq!((told(Some(Fate::Reaped), false), told(Some(Fate::Gone), false)), (None, Some("not-set")));
        assert_eq!(told(Some(Fate::Failed(22)), true), Some("not-taken"));
        assert_eq!(told(None, true), Some("not-taken"));
    }
}
