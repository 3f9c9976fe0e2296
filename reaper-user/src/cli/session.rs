//! What `run` and `trace` share: a runtime, a thread that writes, and everything that can end it.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::{Failure, written};
use crate::{
    config::Output,
    control::{Control, ControlError},
    exit_code,
    kernel::{KernelError, demand},
    report::{Event, Reporter},
    watch::{Settings, Watch, WatchError},
};

/// Events that may wait to be written. When that many do, whoever reads has stopped.
const WAITING: usize = 16_384;

/// How a session is run.
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) output: Output,
    /// End after this long.
    pub(super) duration: Option<Duration>,
    /// It is a service: it answers `reaper ls` while it runs, and is of no use when nobody reads its output any more.
    pub(super) service: bool,
}

impl Session {
    /// Runs until a signal, the end of the duration, or until nobody reads the output any more.
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                Failure::new(exit_code::UNAVAILABLE, format!("starting the runtime: {error}"))
            })?;
        runtime.block_on(self.watch())
    }

    async fn watch(self) -> Result<(), Failure> {
        let Self { settings, output, duration, service } = self;
        let unavailable = |error: io::Error| Failure::new(exit_code::UNAVAILABLE, error.to_string());
        let (mut interrupt, mut terminate) = (
            signal(SignalKind::interrupt()).map_err(unavailable)?,
            signal(SignalKind::terminate()).map_err(unavailable)?,
        );
        // Before anything is made: what is missing is the first thing that is said.
        demand()?;
        let (query, queries) = mpsc::channel(8);
        let control = service.then(|| Control::listen(crate::control::SOCKET.as_ref())).transpose()?;
        let (events, waiting) = sync_channel(WAITING);
        let watch = Watch::start(settings, Box::new(move |event| send(&events, event)))?;
        let (failed, writer_left) = oneshot::channel();
        let (hung_up, reader_left) = oneshot::channel();
        thread::Builder::new()
            .name("reader-watch".to_owned())
            .spawn(move || wait_for_reader_to_leave(hung_up))
            .map_err(unavailable)?;
        let writer = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write(output, &waiting, failed))
            .map_err(unavailable)?;
        let server = control.map(|control| tokio::spawn(control.serve(query)));
        let mut unread = None;
        let stop = async {
            tokio::select! {
                // Ctrl-C ends the reader at the same moment, and is no failure.
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = end(duration) => {}
                failed = writer_left => unread = Some(failed.unwrap_or_else(io::Error::other)),
                Ok(()) = reader_left => unread = Some(io::ErrorKind::BrokenPipe.into()),
            }
        };
        let result = watch.run(queries, stop).await;
        if let Some(server) = server {
            server.abort();
            // Its end removes the socket's file; that it was cancelled is what was asked for.
            let _cancelled = server.await;
        }
        // The channel is closed with the watch, so the writer ends when it has written what waited. One that
        // hangs on a full pipe is left behind.
        for _ in 0..10 {
            if writer.is_finished() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        result?;
        match unread {
            None => Ok(()),
            Some(error) if service => {
                tracing::error!(%error, "standard output cannot be written any more: the daemon ends");
                Err(Failure::new(exit_code::UNAVAILABLE, String::new()))
            }
            Some(error) => Err(written(error)),
        }
    }
}

async fn end(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Says when whoever reads standard output has gone, which a write would only find out with the next event.
/// Ends with the process.
fn wait_for_reader_to_leave(left: oneshot::Sender<()>) {
    let stdout = io::stdout();
    loop {
        let mut descriptors = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut descriptors, None) {
            Ok(_) if descriptors[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                // Nobody waits for it where the session has ended by itself.
                let _ended = left.send(());
                return;
            }
            Err(rustix::io::Errno::INTR) => {}
            // Nothing to learn here: the next write will say.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Hands an event to the writer; never waits for it.
fn send(events: &SyncSender<Event>, event: Event) {
    if let Err(TrySendError::Full(_)) = events.try_send(event) {
        tracing::error!(waiting = WAITING, "an event was dropped: nobody reads the output");
    }
}

/// Writes events as they come. `failed` is told when that is no longer possible.
fn write(output: Output, waiting: &Receiver<Event>, failed: oneshot::Sender<io::Error>) {
    let mut reporter = Reporter::stdout(output);
    let mut result = reporter.start();
    while result.is_ok() {
        result = match waiting.recv() {
            Ok(event) => reporter.report(&event),
            Err(_closed) => return,
        };
    }
    if let Err(error) = result {
        // Nobody waits for it where the session is ending already.
        let _ended = failed.send(error);
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        let code = match &error {
            WatchError::Kernel(error) => code_of(error),
            WatchError::SelfCheck(_) | WatchError::System(..) => exit_code::UNAVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::new(code_of(&error), error.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = if error.is_permission() { exit_code::PERMISSION } else { exit_code::UNAVAILABLE };
        Self::new(code, error.to_string())
    }
}

fn code_of(error: &KernelError) -> u8 {
    if error.is_permission() { exit_code::PERMISSION } else { exit_code::UNAVAILABLE }
}
