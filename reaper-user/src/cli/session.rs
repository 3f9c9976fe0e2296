//! What `run` and `trace` share: a runtime, a thread that writes, and everything that can end it.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::Interval,
};

use super::{
    Failure,
    notify::Notifier,
    reload::Reload,
    writer::{self, Form},
    written,
};
use crate::{
    config::Listen,
    control::{Control, ControlError, Setup},
    exit_code,
    kernel::KernelError,
    kubernetes::{self, Herald},
    lock::LockError,
    metrics::{Metrics, MetricsError},
    report::Outbox,
    watch::{Query, Settings, Watch, WatchError},
};

/// From being told to end, how long what is not written yet may take.
const GRACE: Duration = Duration::from_millis(700);

/// How a session is run.
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) form: Form,
    /// End after this long.
    pub(super) duration: Option<Duration>,
    /// Where it is one: a service answers `reaper ls` while it runs, and is of no use when nobody can read its output
    /// any more.
    pub(super) service: Option<Service>,
}

/// What a daemon has that a foreground command has not.
pub(super) struct Service {
    pub(super) notifier: Notifier,
    /// Where metrics are served.
    pub(super) metrics: Listen,
    /// What the cluster is told.
    pub(super) kubernetes: Option<kubernetes::Settings>,
    pub(super) reload: Reload,
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
        let Self { settings, form, duration, mut service } = self;
        let unavailable = |error: io::Error| Failure::new(exit_code::UNAVAILABLE, error.to_string());
        let (mut interrupt, mut terminate, hangup) = (
            signal(SignalKind::interrupt()).map_err(unavailable)?,
            signal(SignalKind::terminate()).map_err(unavailable)?,
            signal(SignalKind::hangup()).map_err(unavailable)?,
        );
        // It would kill where a file may not grow further; with a handler, the write fails and is tried again.
        let _outgrown = signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(unavailable)?;
        let (query, queries) = mpsc::channel(8);
        let control = service.as_ref().map(|_| Control::listen(&crate::control::socket())).transpose()?;
        let no_fork_hook = !settings.fork_hook;
        let mut setup = Setup { names: settings.names.clone(), no_fork_hook, ..Setup::default() };
        let metrics =
            service.as_ref().map(|service| listen(service.metrics, &mut setup)).transpose()?.flatten();
        let is_service = service.is_some();
        let (outbox, outgoing) = Outbox::new();
        let backlog = outgoing.backlog();
        let herald = service.as_mut().and_then(|service| service.kubernetes.take()).map(Herald::new);
        let watch = Watch::start(settings, outbox)?.heard_by(herald.as_ref().map(Herald::ear));
        let (failed, writer_left) = oneshot::channel();
        let (hung_up, reader_left) = oneshot::channel();
        writer::watch_reader(hung_up).map_err(unavailable)?;
        let writer = writer::start(form, outgoing, is_service, failed).map_err(unavailable)?;
        let server = control.map(|control| tokio::spawn(control.serve(query.clone(), setup)));
        let counts = herald.as_ref().map(Herald::counts);
        let _metrics =
            metrics.map(|metrics| metrics.serve(query.clone(), counts)).transpose().map_err(unavailable)?;
        let mut telling =
            herald.map(|herald| herald.start(watch.names())).transpose().map_err(unavailable)?;
        let (mut unread, mut told) = (None, Instant::now());
        let stop = async {
            tokio::select! {
                // Ctrl-C ends the reader at the same moment, and is no failure.
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = end(duration) => {}
                failed = writer_left => unread = Some(failed.unwrap_or_else(io::Error::other)),
                Ok(()) = reader_left => unread = Some(io::ErrorKind::BrokenPipe.into()),
                () = attend(service.as_mut(), hangup, query) => {}
            }
            told = Instant::now();
            if let Some(service) = &service {
                service.notifier.stopping();
            }
        };
        let result = watch.run(queries, stop).await;
        if let Some(telling) = &mut telling {
            telling.stop();
        }
        if let Some(server) = server {
            server.abort();
            // Its end removes the socket's file; that it was cancelled is what was asked for.
            let _cancelled = server.await;
        }
        // The channel is closed with the watch, so the writer ends when it has written what waited. One that
        // hangs on a full pipe is left behind.
        while !writer.is_finished() && told.elapsed() < GRACE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if backlog.waiting() > 0 && unread.is_none() {
            tracing::warn!(events = backlog.waiting(), "the end came before these could be written");
        }
        result?;
        match unread {
            None => Ok(()),
            Some(error) if is_service => {
                tracing::error!(%error, "standard output cannot be written any more: the daemon ends");
                Err(Failure::new(exit_code::UNAVAILABLE, String::new()))
            }
            Some(error) => Err(written(error)),
        }
    }
}

/// Takes the address of metrics. The usual one, which nobody has asked for, may be another exporter's: that is said, and watching
/// goes on without.
fn listen(wanted: Listen, setup: &mut Setup) -> Result<Option<Metrics>, MetricsError> {
    let Some(address) = wanted.address() else { return Ok(None) };
    match Metrics::listen(address) {
        Ok(metrics) => {
            setup.metrics = metrics.address().ok();
            Ok(Some(metrics))
        }
        Err(error) if wanted == Listen::Auto => {
            tracing::warn!("{error}; going on without");
            setup.no_metrics = Some(error.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What goes on beside watching: the service manager hears that we are alive, and SIGHUP is heeded, which ends a
/// command in the foreground and makes the daemon read its configuration again. It
/// runs in the task that watches, so that whoever hears it knows that that one is alive.
async fn attend(mut service: Option<&mut Service>, mut hangup: Signal, queries: mpsc::Sender<Query>) {
    let watchdog = service.as_ref().and_then(|service| service.notifier.watchdog());
    let mut pulse = watchdog.map(tokio::time::interval);
    if let Some(service) = &service {
        service.notifier.ready(&service.status());
    }
    loop {
        tokio::select! {
            () = next(&mut pulse) => {
                if let Some(service) = &service {
                    service.notifier.alive();
                }
            }
            _ = hangup.recv() => match &mut service {
                // Its terminal was closed.
                None => return,
                Some(service) => {
                    service.notifier.reloading();
                    if service.reload.read() {
                        let running = &service.reload.running;
                        let settings = Query::Settings(running.age.get(), Box::new(running.terms()));
                        // Nobody takes it where the watch has just ended.
                        let _ended = queries.send(settings).await;
                    }
                    service.notifier.ready(&service.status());
                }
            },
        }
    }
}

impl Service {
    fn status(&self) -> String {
        format!("watching; zombies are reported at an age of {}", self.reload.running.age)
    }
}

async fn next(pulse: &mut Option<Interval>) {
    match pulse {
        Some(pulse) => drop(pulse.tick().await),
        None => std::future::pending().await,
    }
}

async fn end(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
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

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let code = if error.is_permission() { exit_code::PERMISSION } else { exit_code::UNAVAILABLE };
        Self::new(code, error.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = if error.is_permission() { exit_code::PERMISSION } else { exit_code::UNAVAILABLE };
        Self::new(code, error.to_string())
    }
}

impl From<MetricsError> for Failure {
    fn from(error: MetricsError) -> Self {
        let code = if error.is_permission() { exit_code::PERMISSION } else { exit_code::UNAVAILABLE };
        Self::new(code, error.to_string())
    }
}

fn code_of(error: &KernelError) -> u8 {
    if error.is_permission() { exit_code::PERMISSION } else { exit_code::UNAVAILABLE }
}
