//! The hand: the thread that applies remedies. What is to be done has been decided; here it is verified once more who it is
//! done to, and what came of it.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Handle, Injector, Remedy, Warrant,
    inject::DIED,
    reap::{Options, Target},
};
use crate::{
    identity::Identity,
    lock::{Lock, LockError},
    policy::Refusal,
    proc::{Proc, ticks},
};

/// How long a holder has to die of SIGKILL. Longer, and it hangs in the kernel.
const KILLED: Duration = Duration::from_secs(5);

/// Holders that are being ended at once.
const ENDING: usize = 8;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whatever it is known by to who gives it.
    pub number: u64,
    /// What.
    pub remedy: Remedy,
    /// To whom.
    pub holder: Identity,
    /// About which of its zombies.
    pub zombies: Vec<Target>,
    /// What the rule allows.
    pub options: Options,
    /// Whether it stands still.
    pub warrant: Warrant,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deed {
    /// Why it was not, or not to its end.
    pub refusal: Option<Refusal>,
    /// The signals that were sent to the holder.
    pub signals: Vec<&'static str>,
    /// How long the holder stood still for it, each time.
    pub pauses: Vec<Duration>,
    /// Waits of the holder that ended early because of it.
    pub interrupted: u32,
    /// Waits that were begun anew, and may end late.
    pub late: u32,
    /// Chains of calls that the holder left by itself: no harm, and rare.
    pub fell_through: u32,
    /// A thread of the holder was made to do something, or may have been.
    pub laid: bool,
    /// The zombies that the holder has waited for, and why not for others.
    pub taken: Vec<(Identity, Result<(), Refusal>)>,
    /// The holder's state afterwards; `None` where it has ended.
    pub state: Option<char>,
}

impl Deed {
    /// Nothing was done.
    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }

    /// Whether the holder was stopped or signalled, or may have been: then whether it survives that is to be seen, also where it ended
    /// in a refusal.
    #[must_use]
    pub fn touched(&self) -> bool {
        self.acted() || !self.pauses.is_empty() || self.interrupted > 0
    }

    /// Whether something was done that should have an effect, or may have been. A holder that only stood still while it was seen
    /// why not is none that it was in vain for.
    #[must_use]
    pub fn acted(&self) -> bool {
        let Self { refusal, signals, laid, taken, .. } = self;
        *laid
            || !signals.is_empty()
            || taken.iter().any(|(_, taken)| taken.is_ok())
            || refusal.as_ref().is_some_and(|refusal| refusal.as_str() == DIED)
    }
}

/// The daemon's end.
#[derive(Debug)]
pub struct Hand {
    orders: Sender<Order>,
}

impl Hand {
    /// Starts the thread. It takes the lock of remedies in `directory` for each order, and ends when this is dropped.
    pub fn start(proc: Proc, directory: PathBuf, deeds: UnboundedSender<(u64, Deed)>) -> io::Result<Self> {
        let (orders, given) = channel();
        thread::Builder::new()
            .name("hand".to_owned())
            .spawn(move || work(&proc, &directory, &given, &deeds))?;
        Ok(Self { orders })
    }

    /// Gives an order. It will be answered, unless the thread has ended.
    pub fn give(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the thread that applies remedies has ended");
        }
    }
}

fn work(
    proc: &Proc,
    directory: &std::path::Path,
    orders: &Receiver<Order>,
    deeds: &UnboundedSender<(u64, Deed)>,
) {
    let ending = Arc::new(AtomicUsize::new(0));
    let mut injector = Injector::of_this_program(proc.clone());
    while let Ok(order) = orders.recv() {
        let number = order.number;
        // Its grace may be long: nobody else waits for that.
        if order.remedy == Remedy::TerminateHolder {
            if ending.load(Ordering::Relaxed) >= ENDING {
                let _ended = deeds.send((number, Deed::refused(Refusal::Busy)));
                continue;
            }
            ending.fetch_add(1, Ordering::Relaxed);
            let (proc, directory, sender, busy) =
                (proc.clone(), directory.to_owned(), deeds.clone(), Arc::clone(&ending));
            let spawned = thread::Builder::new().name("ending".to_owned()).spawn(move || {
                let _ended = sender.send((number, end(&proc, &directory, &order)));
                busy.fetch_sub(1, Ordering::Relaxed);
            });
            if let Err(error) = spawned {
                ending.fetch_sub(1, Ordering::Relaxed);
                let message = format!("starting a thread: {error}");
                let _ended =
                    deeds.send((number, Deed::refused(Refusal::Hand { word: "no-thread", message })));
            }
            continue;
        }
        if deeds.send((number, carry_out(proc, directory, &order, &mut injector))).is_err() {
            return;
        }
    }
}

fn carry_out(proc: &Proc, directory: &std::path::Path, order: &Order, injector: &mut Injector) -> Deed {
    match take_lock(directory) {
        Ok(lock) => apply(proc, order, injector, lock),
        Err(refusal) => Deed::refused(refusal),
    }
}

fn end(proc: &Proc, directory: &std::path::Path, order: &Order) -> Deed {
    let opened = take_lock(directory).and_then(|lock| Ok((lock, Handle::open(proc, order.holder)?)));
    match opened {
        Ok((lock, handle)) => terminate(proc, &handle, order, lock),
        Err(refusal) => Deed::refused(refusal),
    }
}

/// The lock of remedies, which the daemon and the command line share.
pub fn take_lock(directory: &std::path::Path) -> Result<Lock, Refusal> {
    Lock::of_remedies(directory).map_err(|error| match error {
        LockError::Held { .. } => Refusal::Busy,
        error => Refusal::Hand { word: "no-lock", message: error.to_string() },
    })
}

/// Applies a remedy, in this thread, unless it was taken back; the lock is given back as soon as nothing more is done but waiting.
#[must_use]
pub fn apply(proc: &Proc, order: &Order, injector: &mut Injector, lock: Lock) -> Deed {
    let handle = match Handle::open(proc, order.holder) {
        Ok(handle) => handle,
        Err(refusal) => return Deed::refused(refusal),
    };
    if let Err(withdrawn) = order.warrant.check() {
        return Deed::refused(withdrawn);
    }
    let mut deed = match order.remedy {
        Remedy::Report => Deed::default(),
        Remedy::Nudge => match verify(proc, order).and_then(|()| handle.send(Signal::CHILD)) {
            Ok(()) => Deed { signals: vec!["SIGCHLD"], ..Deed::default() },
            Err(refusal) => Deed::refused(refusal),
        },
        Remedy::Reap => injector.reap(&handle, &order.zombies, &order.options),
        Remedy::Autoreap => injector.autoreap(&handle, true, &order.options),
        Remedy::TerminateHolder => return terminate(proc, &handle, order, lock),
    };
    drop(lock);
    deed.state = handle.see().ok().map(|seen| seen.state);
    deed
}

/// Refused where none of the zombies is there any more as one of the holder's: it is signalled for nothing else.
fn verify(proc: &Proc, order: &Order) -> Result<(), Refusal> {
    let stands = |Target { identity, .. }: &Target| {
        proc.see(identity.pid).is_ok_and(|seen| {
            seen.state == 'Z' && seen.parent == order.holder.pid && seen.start_ticks == ticks(identity.start)
        })
    };
    if order.zombies.iter().any(stands) { Ok(()) } else { Err(Refusal::NoZombie) }
}

/// SIGTERM, a grace period, SIGKILL. The descriptor is of one process for ever, so nobody else can be hit meanwhile.
fn terminate(proc: &Proc, handle: &Handle, order: &Order, lock: Lock) -> Deed {
    let stands = order.warrant.check().and_then(|()| verify(proc, order));
    if let Err(refusal) = stands.and_then(|()| handle.send(Signal::TERM)) {
        return Deed::refused(refusal);
    }
    drop(lock);
    let mut deed = Deed { signals: vec!["SIGTERM"], ..Deed::default() };
    if handle.has_ended(order.options.grace) {
        return deed;
    }
    match handle.see() {
        Err(Refusal::HolderGone) => return deed,
        Err(refusal) => return Deed { refusal: Some(refusal), ..deed },
        // Whoever traces it now wants to see how it ends.
        Ok(seen) if seen.tracer.is_some() => {
            let refusal = Some(Refusal::Protected(super::Protected::Traced));
            return Deed { refusal, state: Some(seen.state), ..deed };
        }
        // It may have waited for them when it was asked to end, and a grace is long: nobody may want it any more.
        Ok(seen) => {
            if let Err(refusal) = order.warrant.check().and_then(|()| verify(proc, order)) {
                return Deed { refusal: Some(refusal), state: Some(seen.state), ..deed };
            }
        }
    }
    match handle.send(Signal::KILL) {
        Ok(()) => deed.signals.push("SIGKILL"),
        Err(Refusal::HolderGone) => return deed,
        Err(refusal) => return Deed { refusal: Some(refusal), ..deed },
    }
    if !handle.has_ended(KILLED) {
        deed.state = handle.see().ok().map(|seen| seen.state);
    }
    deed
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Child, ChildStdout, Command, Stdio},
        time::Instant,
    };

    use super::*;
    use crate::identity::BootTime;

    /// Has a zombie, and waits for it when it gets SIGTERM.
    const PROGRAM: &str = "import os, signal
zombie = os.fork() or os._exit(0)
signal.signal(signal.SIGTERM, lambda *_: os.waitpid(zombie, 0))
print(zombie, flush=True)
while True:
    signal.pause()";

    /// Has one, and says that it was asked to end, but does not.
    const STUBBORN: &str = "import os, signal
signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))
print(os.fork() or os._exit(0), flush=True)
while True:
    signal.pause()";

    /// It, the zombie's pid, and what it says.
    struct Holder(Child, u32, BufReader<ChildStdout>);

    impl Holder {
        fn start() -> Self {
            Self::of(PROGRAM)
        }

        fn of(program: &str) -> Self {
            let mut python = Command::new("/usr/bin/python3");
            let mut child = python.args(["-I", "-c", program]).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            let mut said = BufReader::new(child.stdout.take().unwrap());
            said.read_line(&mut line).unwrap();
            let this = Self(child, line.trim().parse().unwrap(), said);
            let deadline = Instant::now() + Duration::from_secs(20);
            while !Proc::at("/proc").see(this.1).is_ok_and(|seen| seen.state == 'Z') {
                assert!(Instant::now() < deadline, "it does not become a zombie");
                thread::sleep(Duration::from_millis(5));
            }
            this
        }

        /// The same about a zombie that started so much earlier.
        fn order(&self, remedy: Remedy, earlier: u64) -> Order {
            let identity = |pid| {
                let seen = Proc::at("/proc").see(pid).unwrap();
                Identity { pid, start: BootTime(seen.start_ticks * 10_000_000) }
            };
            let mut zombie = identity(self.1);
            zombie.start.0 -= earlier;
            let options = Options {
                allow_interrupted_wait: false,
                grace: Duration::from_millis(500),
                max_pause: Duration::from_millis(2),
            };
            let zombies = vec![Target { identity: zombie, ns_pid: None }];
            let warrant = Warrant::default();
            Order { number: 1, remedy, holder: identity(self.0.id()), zombies, options, warrant }
        }

        fn apply(&self, remedy: Remedy, earlier: u64) -> Deed {
            let (directory, proc) = (tempfile::tempdir().unwrap(), Proc::at("/proc"));
            let lock = take_lock(directory.path()).unwrap();
            let mut injector = Injector::of_this_program(proc.clone());
            apply(&proc, &self.order(remedy, earlier), &mut injector, lock)
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_holder_is_signalled_only_for_a_zombie_that_is_there() {
        let mut holder = Holder::start();
        for remedy in [Remedy::Nudge, Remedy::TerminateHolder] {
            let deed = holder.apply(remedy, 1_000_000_000);
            assert_eq!((deed.refusal, deed.signals), (Some(Refusal::NoZombie), vec![]), "{remedy}");
        }
        let deed = holder.apply(Remedy::Nudge, 0);
        assert_eq!((deed.refusal, deed.signals), (None, vec!["SIGCHLD"]));
        // It waits for it when it is asked to end, and is not killed.
        let deed = holder.apply(Remedy::TerminateHolder, 0);
        assert_eq!((deed.refusal, deed.signals), (Some(Refusal::NoZombie), vec!["SIGTERM"]));
        assert_eq!(holder.0.try_wait().unwrap(), None);
    }

    #[test]
    fn what_was_given_is_not_done_once_it_was_taken_back() {
        let (holder, directory) = (Holder::start(), tempfile::tempdir().unwrap());
        let (sender, mut deeds) = tokio::sync::mpsc::unbounded_channel();
        let hand = Hand::start(Proc::at("/proc"), directory.path().to_owned(), sender).unwrap();
        let remedies = [Remedy::Nudge, Remedy::Reap, Remedy::Autoreap, Remedy::TerminateHolder];
        for remedy in remedies {
            let order = holder.order(remedy, 0);
            order.warrant.withdraw();
            hand.give(order);
            let (_, deed) = deeds.blocking_recv().unwrap();
            assert_eq!(deed, Deed::refused(Refusal::Withdrawn), "{remedy}");
        }
    }

    #[test]
    fn nobody_is_killed_after_his_grace_where_that_was_taken_back_meanwhile() {
        let (mut holder, directory) = (Holder::of(STUBBORN), tempfile::tempdir().unwrap());
        let (sender, mut deeds) = tokio::sync::mpsc::unbounded_channel();
        let hand = Hand::start(Proc::at("/proc"), directory.path().to_owned(), sender).unwrap();
        let mut order = holder.order(Remedy::TerminateHolder, 0);
        order.options.grace = Duration::from_secs(6);
        let warrant = order.warrant.clone();
        hand.give(order);
        let mut line = String::new();
        holder.2.read_line(&mut line).unwrap();
        assert_eq!(line, "asked\n");
        warrant.withdraw();
        let (_, deed) = deeds.blocking_recv().unwrap();
        assert_eq!((deed.refusal, deed.signals), (Some(Refusal::Withdrawn), vec!["SIGTERM"]));
        assert_eq!(holder.0.try_wait().unwrap(), None);
    }
}
