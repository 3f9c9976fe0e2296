//! Looking at confirmed zombies and the few processes around them, in a thread of its own: reading /proc blocks.
//!
//! A holder is read once for a whole batch of its zombies, a zombie once.

mod around;

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use self::around::Around;
use crate::{
    identity::{BootTime, Identity},
    origin::Naming,
    proc::{Proc, Seen},
    remedy::Sight,
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
        /// Its forker and those above, as far as they may still be there.
        ancestors: Arc<[Identity]>,
        /// Its stack, or that of one above, where that is being named.
        naming: Option<Naming>,
    },
    /// Everything, and whether its holder may be touched.
    Remedy {
        /// The ledger's identity bits.
        id: u64,
        /// The dead process.
        zombie: Identity,
        /// Who forked it, where that was seen.
        forker: Option<Identity>,
        /// The first processes of all pid namespaces.
        inits: Arc<[Identity]>,
    },
}

impl Request {
    /// The ledger's identity bits of what is asked about.
    #[must_use]
    pub const fn id(&self) -> u64 {
        match self {
            Self::Probation { id, .. } | Self::Report { id, .. } | Self::Remedy { id, .. } => *id,
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
        /// What decides whether its holder may be touched, where that was asked; `None` where it is gone.
        sight: Option<Arc<Sight>>,
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
    /// What a remedy may be due for, by the number of the look.
    Remedy(u64),
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
    /// Those of its forker, its forker's forker and so on that were asked for and are there.
    pub ancestors: Vec<Neighbour>,
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

/// A look at one process that takes longer than this hangs. Reading a command line waits for the process's memory
/// map, which a process that is stuck in the kernel may hold for ever.
const HANGS: Duration = Duration::from_secs(5);

/// Threads that may hang. They cannot be ended, and end when what they wait for does.
const HANGING: usize = 8;

type Batch = (Purpose, Vec<Request>);

/// The thread that looks.
#[derive(Debug)]
pub struct Observer {
    requests: SyncSender<Batch>,
    proc: Proc,
    answers: UnboundedSender<Answers>,
    at_work: Arc<AtWork>,
    /// What is not to be read.
    avoided: Arc<Mutex<Avoided>>,
    /// What the threads that were replaced do; those that have ended hold theirs no longer.
    hung: Vec<Weak<AtWork>>,
    /// Since when the latest look hangs that could not be replaced: it is said once.
    stuck: u64,
}

/// What is not to be read, because threads hang on it: command lines, and what decides about remedies.
#[derive(Debug, Default)]
struct Avoided {
    of: HashSet<u32>,
    /// So many hang that nothing more is tried.
    all: bool,
}

impl Avoided {
    fn has(this: &Mutex<Self>, pid: u32) -> bool {
        let this = this.lock().unwrap_or_else(PoisonError::into_inner);
        this.all || this.of.contains(&pid)
    }
}

/// A look that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hung {
    /// The process that was looked at.
    pub pid: u32,
    /// Whether another thread goes on without it; else no answers come until it ends.
    pub replaced: bool,
    /// Whether so many hang that no command line is read until one of them ends.
    pub cautious: bool,
}

/// What the thread is doing.
#[derive(Debug, Default)]
struct AtWork {
    /// Since when it looks at one process, ns since boot; 0 while it looks at none.
    since: AtomicU64,
    pid: AtomicU32,
}

impl Observer {
    /// Starts the thread. It ends when the observer is dropped.
    pub fn start(proc: Proc, answers: UnboundedSender<Answers>) -> io::Result<Self> {
        let (at_work, avoided) = (Arc::default(), Arc::default());
        let requests = spawn(&proc, &answers, &at_work, &avoided)?;
        Ok(Self { requests, proc, answers, at_work, avoided, hung: Vec::new(), stuck: 0 })
    }

    /// Hands a batch over, or gives it back where too many wait.
    pub fn ask(&self, purpose: Purpose, batch: Vec<Request>) -> Result<(), Vec<Request>> {
        self.requests.try_send((purpose, batch)).map_err(|error| match error {
            TrySendError::Full((_, batch)) | TrySendError::Disconnected((_, batch)) => batch,
        })
    }

    /// Replaces the thread where it hangs; what was asked of it and not answered must be asked again. Says each hang once.
    pub fn replace_if_it_hangs(&mut self, now: BootTime) -> Option<Hung> {
        self.hung.retain(|thread| thread.strong_count() > 0);
        let since = self.at_work.since.load(Ordering::Relaxed);
        let hangs = since != 0 && now.since(BootTime(since)) >= HANGS;
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread that comes next is the last: it must not hang.
        avoided.all = self.hung.len() + usize::from(hangs) >= HANGING;
        if !hangs {
            return None;
        }
        let (pid, cautious) = (self.at_work.pid.load(Ordering::Relaxed), avoided.all);
        avoided.of.insert(pid);
        drop(avoided);
        let at_work = Arc::default();
        let next = if self.hung.len() < HANGING {
            spawn(&self.proc, &self.answers, &at_work, &self.avoided).ok()
        } else {
            None
        };
        let replaced = next.is_some();
        if let Some(requests) = next {
            self.requests = requests;
            self.hung.push(Arc::downgrade(&std::mem::replace(&mut self.at_work, at_work)));
        } else if std::mem::replace(&mut self.stuck, since) == since {
            return None;
        }
        Some(Hung { pid, replaced, cautious })
    }
}

fn spawn(
    proc: &Proc,
    answers: &UnboundedSender<Answers>,
    at_work: &Arc<AtWork>,
    avoided: &Arc<Mutex<Avoided>>,
) -> io::Result<SyncSender<Batch>> {
    let (requests, batches) = sync_channel(WAITING);
    let (proc, answers) = (proc.clone(), answers.clone());
    let (at_work, avoided) = (Arc::clone(at_work), Arc::clone(avoided));
    thread::Builder::new()
        .name("observer".to_owned())
        .spawn(move || observe(&proc, &batches, &answers, &at_work, &avoided))?;
    Ok(requests)
}

fn observe(
    proc: &Proc,
    batches: &Receiver<Batch>,
    sender: &UnboundedSender<Answers>,
    at_work: &AtWork,
    avoided: &Mutex<Avoided>,
) {
    /// Answers that go out together: the first zombies of a large batch need not wait for the last.
    const TOGETHER: usize = 64;
    while let Ok((purpose, batch)) = batches.recv() {
        let mut around = Around::new(proc, at_work, avoided);
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

/// Looks at what stands around one zombie, outside of any batch.
#[must_use]
pub fn scene(proc: &Proc, zombie: Identity) -> Option<Scene> {
    let request = Request::Report { id: 0, zombie, forker: None, ancestors: Arc::default(), naming: None };
    match look_at(proc, &[request]).pop() {
        Some(Answer::Zombie { scene, .. }) => Some(*scene),
        _ => None,
    }
}

/// Looks at all that is asked for, in this thread.
#[must_use]
pub fn look_at(proc: &Proc, requests: &[Request]) -> Vec<Answer> {
    let (at_work, avoided) = (AtWork::default(), Mutex::default());
    let mut around = Around::new(proc, &at_work, &avoided);
    requests.iter().map(|request| around.look(request)).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, thread, time::Instant};

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::{kernel::boot_now, proc::tests::fake};

    const HOLDER: u32 = 7;
    const ZOMBIE: u32 = 42;

    fn looks_at(observer: &Observer, pid: u32) -> bool {
        observer.at_work.pid.load(Ordering::Relaxed) == pid
            && observer.at_work.since.load(Ordering::Relaxed) != 0
    }

    #[test]
    fn when_as_many_hang_as_may_no_more_is_risked_until_one_has_ended() {
        let (root, proc) = fake(b"x");
        let zombie = root.path().join(ZOMBIE.to_string());
        let [stat, status] = ["stat", "status"].map(|file| fs::read_to_string(zombie.join(file)).unwrap());
        // It goes from one holder to the next.
        let held_by = |pid: u32, hostile: bool| {
            let holder = root.path().join(pid.to_string());
            fs::create_dir(&holder).unwrap();
            fs::write(holder.join("stat"), &stat).unwrap();
            fs::write(holder.join("status"), &status).unwrap();
            fs::write(zombie.join("stat"), stat.replacen("Z 7 ", &format!("Z {pid} "), 1)).unwrap();
            fs::write(zombie.join("status"), status.replacen("PPid:\t7", &format!("PPid:\t{pid}"), 1))
                .unwrap();
            if hostile {
                mknodat(CWD, holder.join("cmdline"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            } else {
                fs::write(holder.join("cmdline"), "harmless").unwrap();
            }
            holder.join("cmdline")
        };
        let (sender, mut answers) = unbounded_channel();
        let mut observer = Observer::start(proc, sender).unwrap();
        let mut endless = Vec::new();
        for number in 1..=HANGING {
            let pid = 100 + u32::try_from(number).unwrap();
            endless.push(held_by(pid, true));
            observer.ask(Purpose::Sweep, request()).unwrap();
            while !looks_at(&observer, pid) {
                thread::yield_now();
            }
            let hung = observer.replace_if_it_hangs(boot_now().plus(HANGS * 2));
            assert_eq!(hung, Some(Hung { pid, replaced: true, cautious: number == HANGING }));
        }
        let cmdline = |observer: &Observer, answers: &mut UnboundedReceiver<Answers>| {
            observer.ask(Purpose::Sweep, request()).unwrap();
            let Answer::Zombie { scene, .. } = answer(answers) else { panic!("it is a zombie") };
            scene.holder.seen.unwrap().1
        };
        held_by(200, false);
        assert_eq!(cmdline(&observer, &mut answers), None, "a risk was taken");
        assert_eq!(observer.replace_if_it_hangs(boot_now()), None);

        for endless in endless {
            fs::write(endless, "late").unwrap();
            answer(&mut answers);
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while observer.hung.iter().any(|thread| thread.strong_count() > 0) {
            assert!(Instant::now() < deadline, "they have not ended");
            thread::yield_now();
        }
        assert_eq!(observer.replace_if_it_hangs(boot_now()), None);
        assert_eq!(cmdline(&observer, &mut answers).unwrap().as_str(), "harmless");
    }

    fn request() -> Vec<Request> {
        let zombie = Identity { pid: ZOMBIE, start: BootTime(123_450_000_000) };
        vec![Request::Report { id: 1, zombie, forker: None, ancestors: Arc::default(), naming: None }]
    }

    fn answer(answers: &mut UnboundedReceiver<Answers>) -> Answer {
        let mut answers = answers.blocking_recv().unwrap().answers;
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    #[test]
    fn a_thread_that_hangs_on_a_process_is_replaced_and_the_process_is_told_of_without_its_command_line() {
        let (root, proc) = fake(b"x");
        let holder = root.path().join(HOLDER.to_string());
        fs::create_dir(&holder).unwrap();
        for file in ["stat", "status"] {
            fs::copy(root.path().join(ZOMBIE.to_string()).join(file), holder.join(file)).unwrap();
        }
        // Opening it hangs until somebody writes.
        let endless = holder.join("cmdline");
        mknodat(CWD, &endless, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();

        let (sender, mut answers) = unbounded_channel();
        let mut observer = Observer::start(proc, sender).unwrap();
        observer.ask(Purpose::Sweep, request()).unwrap();
        while !looks_at(&observer, HOLDER) {
            thread::yield_now();
        }
        let soon = boot_now();
        assert_eq!(observer.replace_if_it_hangs(soon), None, "it may be slow");
        let later = soon.plus(HANGS * 2);
        let hung = Hung { pid: HOLDER, replaced: true, cautious: false };
        assert_eq!(observer.replace_if_it_hangs(later), Some(hung));
        assert_eq!(observer.replace_if_it_hangs(later), None, "the new one has nothing to do");

        observer.ask(Purpose::Sweep, request()).unwrap();
        let Answer::Zombie { scene, .. } = answer(&mut answers) else { panic!("it is a zombie") };
        let (seen, cmdline) = scene.holder.seen.unwrap();
        assert_eq!((seen.tgid, cmdline), (ZOMBIE, None));

        // What hung goes on, says what it saw, late, and ends.
        fs::write(&endless, "late").unwrap();
        let Answer::Zombie { scene, .. } = answer(&mut answers) else { panic!("it is a zombie") };
        assert_eq!(scene.holder.seen.unwrap().1.unwrap().as_str(), "late");
        let deadline = Instant::now() + Duration::from_secs(20);
        while observer.hung.iter().any(|thread| thread.strong_count() > 0) {
            assert!(Instant::now() < deadline, "it has not ended, and counts for ever");
            thread::yield_now();
        }
    }
}
