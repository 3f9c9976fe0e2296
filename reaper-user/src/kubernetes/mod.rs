//! What the cluster is told, where that is asked for: a Warning Event on each pod whose zombies stand, and a condition of the node
//! that says whether there are many. Both are for people and controllers that look at objects of the API and at nothing else.
//!
//! It hears of every zombie that is reported and that goes ([`Ear`]), and neither the API server nor the network can hold that up:
//! hearing is adding to a tally, and a thread of its own tells what is due. Without an API server nothing is lost but the telling.

mod api;
mod tally;
mod text;
mod worker;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};

use self::tally::{Heard, Tally};
use crate::{names::Namer, zombie::Zombie};

/// How long the end of the daemon waits for the condition of the node to be told that nobody looks any more.
const FAREWELL: Duration = Duration::from_millis(300);

/// What is told, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether Events are made.
    pub events: bool,
    /// The condition is true where this many reported zombies stand on the node; there is none if `None`.
    pub node_zombies: Option<u64>,
    /// The node's name in the cluster.
    pub node: String,
    /// How far apart two tellings of one Event are, at least.
    pub apart: Duration,
    /// Who is told, and as whom; what every pod finds in itself if `None`.
    pub kubeconfig: Option<PathBuf>,
}

/// What became of what was to be told.
#[derive(Debug, Default)]
pub struct Counts {
    told: AtomicU64,
    failed: AtomicU64,
    overflowed: AtomicU64,
}

impl Counts {
    /// Requests that the API server accepted.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// Requests that failed. What they said is said again later.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Zombies of pods that there was no room for, and that no Event counts.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }
}

/// What both threads have.
#[derive(Debug)]
struct Shared {
    tally: Mutex<Tally>,
    /// Something has become due.
    news: Notify,
    counts: Arc<Counts>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        // Whoever panicked has changed counts of zombies, at worst.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of zombies. Clones hear for the same herald.
#[derive(Clone, Debug)]
pub struct Ear(Arc<Shared>);

impl Ear {
    /// A zombie stands, and was `reported` now or by an earlier daemon. Waits for nothing but another thread's look at the tally.
    pub(crate) fn stands(&self, zombie: &Zombie, reported: bool) {
        let heard = self.0.tally().stands(zombie, reported, Instant::now(), Timestamp::now());
        self.heard(heard);
    }

    /// One that stood is gone.
    pub(crate) fn gone(&self, zombie: &Zombie) {
        let heard = self.0.tally().gone(zombie, Instant::now());
        self.heard(heard);
    }

    fn heard(&self, Heard { news, overflowed }: Heard) {
        if overflowed {
            self.0.counts.overflowed.fetch_add(1, Relaxed);
        }
        if news {
            self.0.news.notify_one();
        }
    }
}

/// Tells the cluster, once it was started.
#[derive(Debug)]
pub struct Herald {
    settings: Settings,
    shared: Arc<Shared>,
}

/// Tells until it is dropped. That waits for the farewell, [`FAREWELL`] after [`Self::stop`] at most.
#[derive(Debug)]
pub struct Telling {
    stop: Option<oneshot::Sender<()>>,
    stopped: mpsc::Receiver<()>,
    until: Instant,
}

impl Herald {
    /// One that hears, and tells nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let tally = Tally::new(settings.events, settings.node_zombies, settings.apart);
        let shared = Shared { tally: Mutex::new(tally), news: Notify::new(), counts: Arc::default() };
        Self { settings, shared: Arc::new(shared) }
    }

    /// What comes of it.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.shared.counts)
    }

    /// What is to hear of zombies.
    #[must_use]
    pub fn ear(&self) -> Ear {
        Ear(Arc::clone(&self.shared))
    }

    /// Tells from now on; a pod is called what `names` knows of it.
    ///
    /// # Errors
    /// A thread or a descriptor could not be had.
    pub fn start(self, names: Namer) -> io::Result<Telling> {
        let Self { settings, shared } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, told_to_stop) = oneshot::channel();
        let (ended, stopped) = mpsc::channel();
        thread::Builder::new().name("kubernetes".to_owned()).spawn(move || {
            runtime.block_on(worker::work(settings, shared, names, told_to_stop));
            // Nobody waits where the end took too long.
            let _late = ended.send(());
        })?;
        Ok(Telling { stop: Some(stop), stopped, until: Instant::now() })
    }
}

impl Telling {
    /// Tells nothing more but farewell, which goes on while others end.
    pub fn stop(&mut self) {
        // Already told, or given up: there is nothing to wait for.
        if self.stop.take().is_some_and(|stop| stop.send(()).is_ok()) {
            self.until = Instant::now() + FAREWELL;
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.stop();
        let _late = self.stopped.recv_timeout(self.until.saturating_duration_since(Instant::now()));
    }
}
