//! The injector, as the tests call it. The only file here that knows it.

use std::time::Duration;

use reaper::{
    identity::Identity,
    proc::Proc,
    remedy::{
        Handle, Options, Target,
        inject::{Answer, Cache, Fate, Method, Tracer, survey},
    },
};

use super::holder::{Holder, Zombie};
use crate::support::reaper;

/// Beyond its own patience.
const OVERRUNS: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// A timed wait may end early.
    pub(super) allow_interrupted_wait: bool,
    /// How long a thread and a moment are looked for.
    pub(super) patience: Duration,
    /// Call by call, or by a chain.
    pub(super) method: Method,
}

impl Wish {
    /// The default, without patience for a moment that does not come.
    pub(super) const fn new() -> Self {
        Self { allow_interrupted_wait: false, patience: Duration::from_millis(40), method: Method::Auto }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Came {
    /// How many of the zombies the holder was made to wait for.
    pub(super) reaped: usize,
    /// The word for why not all.
    pub(super) refusal: Option<String>,
    /// And the sentence.
    pub(super) message: String,
    /// How often it says that a call ended early.
    pub(super) interrupted: u32,
    /// How often a call was begun anew.
    pub(super) late: u32,
    /// How often a chain was left by itself.
    pub(super) fell_through: u32,
    /// How long it stood still, each time.
    pub(super) pauses: Vec<Duration>,
    /// Something was laid into its memory.
    pub(super) laid: bool,
}

/// One who gives orders, and remembers where instructions are.
#[derive(Default)]
pub(super) struct Hand {
    cache: Cache,
}

impl Hand {
    /// Makes the holder wait for these, once.
    pub(super) fn reap(&mut self, holder: &Holder, zombies: &[Zombie], wish: Wish) -> Came {
        match self.start(holder, zombies, wish) {
            Ok(tracer) => came(tracer.finish(wish.patience + OVERRUNS)),
            Err(came) => came,
        }
    }

    /// Starts the tracing process for it.
    pub(super) fn start(&mut self, holder: &Holder, zombies: &[Zombie], wish: Wish) -> Result<Tracer, Came> {
        self.start_on(holder.pid, zombies, wish)
    }

    /// The same, of a holder of which only the pid is known.
    pub(super) fn start_on(&mut self, holder: u32, zombies: &[Zombie], wish: Wish) -> Result<Tracer, Came> {
        let proc = Proc::at("/proc");
        let targets: Vec<Target> = zombies
            .iter()
            .filter_map(|zombie| {
                let identity = identity(&proc, zombie.pid)?;
                Some(Target { identity, ns_pid: Some(zombie.ns_pid) })
            })
            .collect();
        self.start_for(holder, &targets, wish)
    }

    /// The same, for zombies that were looked at before.
    pub(super) fn start_for(&mut self, holder: u32, targets: &[Target], wish: Wish) -> Result<Tracer, Came> {
        let proc = Proc::at("/proc");
        let options = Options {
            allow_interrupted_wait: wish.allow_interrupted_wait,
            grace: Duration::ZERO,
            max_pause: Duration::from_millis(2),
        };
        let holder = identity(&proc, holder).ok_or_else(|| refused("holder-gone", "it is gone"))?;
        let order = Handle::open(&proc, holder)
            .and_then(|handle| survey(&proc, &handle, targets, &options, &mut self.cache))
            .map_err(|refusal| refused(refusal.as_str(), &refusal.to_string()))?;
        let order = reaper::remedy::inject::Order { patience: wish.patience, method: wish.method, ..order };
        Ok(Tracer::start(&reaper(), &order).unwrap())
    }
}

/// What the tracing process has answered.
pub(super) fn came(answer: Answer) -> Came {
    let Answer { refusal, results, pauses, interrupted, late, fell_through, laid } = answer;
    let reaped = results.iter().filter(|fate| **fate == Fate::Reaped).count();
    let (refusal, message) = refusal.map_or((None, String::new()), |(word, message)| (Some(word), message));
    Came { reaped, refusal, message, interrupted, late, fell_through, pauses, laid }
}

fn refused(word: &str, message: &str) -> Came {
    Came { refusal: Some(word.to_owned()), message: message.to_owned(), ..Came::default() }
}

/// Who has this pid now.
pub(super) fn identity(proc: &Proc, pid: u32) -> Option<Identity> {
    let seen = proc.see(pid).ok()?;
    Some(Identity { pid, start: seen.start() })
}
