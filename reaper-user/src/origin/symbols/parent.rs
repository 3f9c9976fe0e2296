//! The daemon's end of the symbolizing process.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use thiserror::Error;

use super::{
    channel,
    child::ARGUMENT,
    message::{Answer, PACKET, Request, Unreadable, pack, unpack},
};

/// How long an answer may take. The debug information of a large program takes some tenths of a second, once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Deaths in a row after which each further one keeps requests waiting.
const DEATHS: u32 = 3;

/// How long no process is started where the last ones died.
const PAUSE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Unanswered {
    /// No process could be started.
    #[error("starting the symbolizing process: {0}")]
    NotStarted(#[source] io::Error),
    /// It died of this request.
    #[error("the symbolizing process ended without an answer ({0})")]
    Died(String),
    /// It was killed.
    #[error("the symbolizing process did not answer in {} s", PATIENCE.as_secs())]
    Late,
    /// It died too often.
    #[error("the symbolizing process died {DEATHS} times in a row; it is tried again after a pause")]
    Paused,
    /// It does not take such a request.
    #[error("the symbolizing process refused: {0}")]
    Refused(String),
    /// The request or the answer is no packet.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The socket failed.
    #[error("the symbolizing process's socket: {0}")]
    Socket(#[from] rustix::io::Errno),
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered.
    pub answered: u64,
    /// Without an answer, for whatever reason.
    pub unanswered: u64,
    /// Processes that were started.
    pub started: u64,
    /// Processes that died of a request.
    pub died: u64,
    /// Processes that took too long.
    pub late: u64,
}

/// Asks the symbolizing process, and starts it when it is needed. Clones ask the same one, one after the other.
#[derive(Clone, Debug)]
pub struct Symbolizer(Arc<Mutex<Asker>>);

#[derive(Debug)]
struct Asker {
    program: PathBuf,
    running: Option<Running>,
    counts: Counts,
    deaths: u32,
    paused: Option<Instant>,
    room: Vec<u8>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: OwnedFd,
}

impl Symbolizer {
    /// By processes of `program`, which is reaper.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        let (running, paused) = (None, None);
        let counts = Counts::default();
        Self(Arc::new(Mutex::new(Asker { program, running, counts, deaths: 0, paused, room: Vec::new() })))
    }

    /// By processes of this very program.
    #[must_use]
    pub fn of_this_program() -> Self {
        // By the link, not by its path: an upgrade may have replaced the file.
        Self::new("/proc/self/exe".into())
    }

    /// Starts the process, where none runs, so that nobody has to wait for that who asks. If it cannot be started, who asks is told.
    pub(in crate::origin) fn start(&self) {
        let _told_later = self.asker().running();
    }

    /// What became of requests so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.asker().counts
    }

    /// The pid of the process, where one runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.asker().running.as_ref().map(|running| running.child.id())
    }

    /// Asks. Blocks until there is an answer or the process is given up.
    pub fn ask(
        &self,
        request: &Request,
        bytes: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<Answer, Unanswered> {
        let mut asker = self.asker();
        let answer = asker.ask(request, bytes, files);
        match &answer {
            Ok(_) => asker.counts.answered += 1,
            Err(_) => asker.counts.unanswered += 1,
        }
        answer
    }

    fn asker(&self) -> MutexGuard<'_, Asker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asker {
    fn ask(
        &mut self,
        request: &Request,
        bytes: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<Answer, Unanswered> {
        let packet = pack(request, bytes)?;
        // One that held many files has ended after its last answer; this is asked of another.
        let mut retried = false;
        loop {
            let running = self.running()?;
            let asked = channel::send(&running.socket, &packet, files);
            let answer = asked.map_err(Unanswered::from).and_then(|()| self.answer());
            match answer {
                Ok(Answer::Refused(why)) => return Err(Unanswered::Refused(why)),
                Ok(answer) => {
                    self.deaths = 0;
                    return Ok(answer);
                }
                Err(error @ Unanswered::Socket(rustix::io::Errno::MSGSIZE | rustix::io::Errno::TOOBIG)) => {
                    return Err(error);
                }
                Err(error) => {
                    let retired = self.bury(&error)?;
                    if !retired || retried {
                        return Err(error);
                    }
                    retried = true;
                }
            }
        }
    }

    fn running(&mut self) -> Result<&Running, Unanswered> {
        if self.running.is_none() {
            if self.paused.is_some_and(|until| Instant::now() < until) {
                return Err(Unanswered::Paused);
            }
            self.running = Some(start(&self.program).map_err(Unanswered::NotStarted)?);
            self.counts.started += 1;
        }
        self.running.as_ref().ok_or(Unanswered::Paused)
    }

    fn answer(&mut self) -> Result<Answer, Unanswered> {
        let Some(Running { socket, .. }) = &self.running else { return Err(Unanswered::Paused) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| Unanswered::Late)?;
            match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(Unanswered::Late),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.room.resize(PACKET, 0);
        // It has no descriptors to send; were there any, they are closed here.
        let received = channel::receive(socket, &mut self.room)?;
        let (packet, _files) = received.ok_or_else(|| Unanswered::Died("its socket closed".to_owned()))?;
        Ok(unpack(packet)?.0)
    }

    /// Ends the process and waits for it. True where it had ended by itself and in order; an error says more of how it died.
    fn bury(&mut self, error: &Unanswered) -> Result<bool, Unanswered> {
        let Some(mut running) = self.running.take() else { return Ok(false) };
        let is_late = matches!(error, Unanswered::Late);
        let has_left = matches!(error, Unanswered::Died(_) | Unanswered::Socket(_));
        drop(running.socket);
        // One that closed its socket is about to end, and is not trusted to.
        if !has_left || !ends(&running.child) {
            let _ended = running.child.kill();
        }
        let status = running.child.wait().map_err(Unanswered::NotStarted)?;
        if has_left && status.success() {
            return Ok(true);
        }
        self.deaths += 1;
        if self.deaths >= DEATHS {
            self.paused = Some(Instant::now() + PAUSE);
        }
        if is_late {
            self.counts.late += 1;
            return Ok(false);
        }
        self.counts.died += 1;
        Err(Unanswered::Died(status.to_string()))
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ended = running.child.kill();
            let _status = running.child.wait();
        }
    }
}

/// Whether a process ends by itself.
fn ends(child: &Child) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(handle) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return false };
    let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)), Ok(1))
}

fn start(program: &std::path::Path) -> io::Result<Running> {
    let (socket, theirs) = channel::pair()?;
    let child = Command::new(program)
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Running { child, socket })
}
