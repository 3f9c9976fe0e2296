//! Looking at confirmed zombies and the few processes around them, in a thread of its own: reading /proc blocks.
//!
//! A holder is read once for a whole batch of its zombies, a zombie once.

use std::{
    collections::HashMap,
    io,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    identity::Identity,
    proc::{Proc, ReadError, Seen, ticks},
    text::Untrusted,
};

/// What is to be looked at.
#[derive(Clone, Debug)]
pub enum Request {
    /// The holder's state at half the threshold.
    Probation {
        /// The ledger's identity bits.
        id: u64,
        /// The dead process.
        zombie: Identity,
        /// Its holder, where the ledger knows it.
        holder: Option<u32>,
    },
    /// Everything.
    Report {
        /// The ledger's identity bits.
        id: u64,
        /// The dead process.
        zombie: Identity,
        /// Who forked it, where that was seen.
        forker: Option<Identity>,
    },
}

impl Request {
    /// The ledger's identity bits of what is asked about.
    #[must_use]
    pub const fn id(&self) -> u64 {
        match self {
            Self::Probation { id, .. } | Self::Report { id, .. } => *id,
        }
    }
}

/// What was seen.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A holder at half the threshold; `None` where it could not be found.
    Probation {
        /// The ledger's identity bits.
        id: u64,
        /// The holder.
        holder: Option<Seen>,
    },
    /// A confirmed zombie.
    Zombie {
        /// The ledger's identity bits.
        id: u64,
        /// What was seen of it and around it.
        scene: Box<Scene>,
    },
    /// It is not a zombie: still in its exit, or released.
    NotAZombie {
        /// The ledger's identity bits.
        id: u64,
        /// True where there is no such process.
        absent: bool,
    },
}

/// What a batch of answers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// What a sweep of the ledger found due.
    Sweep,
    /// What an earlier daemon has reported and still stands.
    Restore,
    /// A list that somebody has asked for, by its number.
    List(u64),
}

/// Answers that come together.
#[derive(Clone, Debug)]
pub struct Answers {
    /// What they are for.
    pub purpose: Purpose,
    /// The answers.
    pub answers: Vec<Answer>,
    /// These are the last to what was asked together.
    pub last: bool,
}

/// A zombie and the processes around it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The zombie itself.
    pub zombie: Seen,
    /// Its holder.
    pub holder: Neighbour,
    /// Its forker, where that was seen and is another process than the holder.
    pub forker: Option<Neighbour>,
    /// The process that traces it.
    pub tracer: Option<Neighbour>,
}

/// A process beside a zombie.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Its pid.
    pub pid: u32,
    /// What was seen of it; `None` where it is gone.
    pub seen: Option<(Seen, Option<Untrusted>)>,
}

/// Batches that may wait. When that many do, the ledger asks again at its next sweep.
const WAITING: usize = 8;

type Batch = (Purpose, Vec<Request>);

/// The thread that looks.
#[derive(Debug)]
pub struct Observer {
    requests: SyncSender<Batch>,
}

impl Observer {
    /// Starts the thread. It ends when the observer is dropped.
    pub fn start(proc: Proc, answers: UnboundedSender<Answers>) -> io::Result<Self> {
        let (requests, batches) = sync_channel(WAITING);
        thread::Builder::new().name("observer".to_owned()).spawn(move || {
            observe(&proc, &batches, &answers);
        })?;
        Ok(Self { requests })
    }

    /// Hands a batch over, or gives it back where too many wait.
    pub fn ask(&self, purpose: Purpose, batch: Vec<Request>) -> Result<(), Vec<Request>> {
        self.requests.try_send((purpose, batch)).map_err(|error| match error {
            TrySendError::Full((_, batch)) | TrySendError::Disconnected((_, batch)) => batch,
        })
    }
}

fn observe(proc: &Proc, batches: &Receiver<Batch>, sender: &UnboundedSender<Answers>) {
    /// Answers that go out together: the first zombies of a large batch need not wait for the last.
    const TOGETHER: usize = 64;
    while let Ok((purpose, batch)) = batches.recv() {
        let mut around = Around { proc, states: HashMap::new(), whole: HashMap::new() };
        let mut parts = batch.chunks(TOGETHER).peekable();
        // Of nothing there is an answer, too.
        let mut part = parts.next().unwrap_or_default();
        loop {
            let answers = part.iter().map(|request| around.look(request)).collect();
            let last = parts.peek().is_none();
            if sender.send(Answers { purpose, answers, last }).is_err() {
                return;
            }
            match parts.next() {
                Some(next) => part = next,
                None => break,
            }
        }
    }
}

/// The processes seen during one batch.
struct Around<'a> {
    proc: &'a Proc,
    states: HashMap<u32, Option<Seen>>,
    whole: HashMap<u32, Option<(Seen, Option<Untrusted>)>>,
}

/// Looks at what stands around one zombie, outside of any batch.
#[must_use]
pub fn scene(proc: &Proc, zombie: Identity) -> Option<Scene> {
    let request = Request::Report { id: 0, zombie, forker: None };
    match (Around { proc, states: HashMap::new(), whole: HashMap::new() }).look(&request) {
        Answer::Zombie { scene, .. } => Some(*scene),
        _ => None,
    }
}

impl Around<'_> {
    fn look(&mut self, request: &Request) -> Answer {
        match *request {
            Request::Probation { id, zombie, holder } => {
                let holder = holder.or_else(|| self.zombie(zombie).ok().map(|seen| seen.parent));
                Answer::Probation { id, holder: holder.and_then(|pid| self.state(pid)) }
            }
            Request::Report { id, zombie, forker } => match self.zombie(zombie) {
                Err(absent) => Answer::NotAZombie { id, absent },
                Ok(seen) => {
                    let holder = self.neighbour(seen.parent);
                    let tracer = seen.tracer.map(|tracer| self.tracer(tracer));
                    let forker = forker.filter(|forker| forker.pid != seen.parent).map(|forker| {
                        let mut neighbour = self.neighbour(forker.pid);
                        // The pid may be somebody else's by now.
                        neighbour.seen =
                            neighbour.seen.filter(|(seen, _)| seen.start_ticks == ticks(forker.start));
                        neighbour
                    });
                    Answer::Zombie { id, scene: Box::new(Scene { zombie: seen, holder, forker, tracer }) }
                }
            },
        }
    }

    /// The zombie, or whether it is gone altogether.
    fn zombie(&self, identity: Identity) -> Result<Seen, bool> {
        match self.proc.see(identity.pid) {
            Ok(seen) if seen.start_ticks != ticks(identity.start) || seen.tgid != identity.pid => Err(true),
            Ok(seen) if seen.state == 'Z' => Ok(seen),
            Ok(_) => Err(false),
            Err(ReadError::Gone(_)) => Err(true),
            Err(error @ ReadError::Unreadable { .. }) => {
                tracing::warn!(%error, "a zombie could not be looked at; it is tried again");
                Err(false)
            }
        }
    }

    fn state(&mut self, pid: u32) -> Option<Seen> {
        self.states.entry(pid).or_insert_with(|| self.proc.see(pid).ok()).clone()
    }

    fn neighbour(&mut self, pid: u32) -> Neighbour {
        let seen = self.whole.entry(pid).or_insert_with(|| self.proc.see_with_cmdline(pid).ok()).clone();
        Neighbour { pid, seen }
    }

    /// The tracer is named by its thread; what is wanted is its process.
    fn tracer(&mut self, thread: u32) -> Neighbour {
        let neighbour = self.neighbour(thread);
        match &neighbour.seen {
            Some((seen, _)) if seen.tgid != thread => self.neighbour(seen.tgid),
            _ => neighbour,
        }
    }
}
