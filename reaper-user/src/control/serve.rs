//! The daemon's end.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    ControlError, EXPLAIN, HEADROOM, Head, LEAKS, LOSSES, Question, SETUP, Setup, VERSION, Verdict, WATCH,
    ZOMBIES,
};
use crate::{
    lock,
    report::{Event, to_line},
    text::Untrusted,
    watch::{Listing, Query},
};

/// Clients that are served at once.
const CLIENTS: usize = 8;

/// How long a client may take to ask, and to read what it is sent at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that are sent at once.
const AT_ONCE: usize = 64 << 10;

/// Bytes of a question.
const QUESTION: u64 = 4096;

/// The listening daemon's end. The socket's file goes when this is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens at `path`; its directory is made where it is missing. A file that a dead daemon left is replaced: that
    /// it is dead, the [lock](crate::lock) has shown.
    pub fn listen(path: &Path) -> Result<Self, ControlError> {
        let directory = path.parent().unwrap_or(path);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => {
                ControlError::Denied { directory: directory.to_owned(), source }
            }
            _ => ControlError::Socket { path: path.to_owned(), source },
        };
        lock::make(directory).map_err(failed)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Nobody can connect between bind and chmod who could not afterwards: the mask is narrowed for it.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener = listener.map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until it is dropped.
    pub async fn serve(self, queries: mpsc::Sender<Query>, setup: Setup) {
        let setup = Arc::new(setup);
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (queries, setup) = (queries.clone(), Arc::clone(&setup));
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, &queries, &setup).await {
                            tracing::debug!(%error, "a client of the control socket left or was left");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept clients");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the control socket was gone already");
        }
    }
}

async fn serve(stream: UnixStream, queries: &mpsc::Sender<Query>, setup: &Setup) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, write) = stream.into_split();
    if peer.uid() != 0 {
        return send(write, &Verdict::refused("only root may ask".to_owned()).line()?).await;
    }
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(read.take(QUESTION)).read_line(&mut line)).await??;
    let answered = match understood(&line) {
        Ok(question) if question.request == SETUP => Ok((Some(setup.clone()), Vec::new())),
        Ok(question) => events(question, queries).await.map(|events| (None, events)),
        Err(message) => Err(message),
    };
    let text = match answered {
        Err(message) => Verdict::refused(message).line()?,
        Ok((setup, events)) => {
            let mut text = Verdict { setup, ..Verdict::followed_by(events.len()) }.line()?;
            for event in events {
                text.push_str(&to_line(&event)?);
                text.push('\n');
            }
            text
        }
    };
    send(write, &text).await
}

/// What the question is, if this version has it.
fn understood(question: &str) -> Result<Question, String> {
    let not_understood = |error| format!("the question is not understood: {error}");
    let Head { version } = serde_json::from_str(question).map_err(not_understood)?;
    if version != VERSION {
        return Err(format!(
            "it speaks version {VERSION} and was asked in version {version}: use the command line of its release"
        ));
    }
    serde_json::from_str(question).map_err(not_understood)
}

/// What is asked for, or why it is not said.
async fn events(question: Question, queries: &mpsc::Sender<Query>) -> Result<Vec<Event>, String> {
    let Question { version: _, request, span_ms, pid, workload } = question;
    match request.as_str() {
        ZOMBIES => {
            let cgroup = workload.map(|path| Untrusted::new(path.as_bytes()));
            let Listing { zombies, breakers } =
                answer(queries, |reply| Query::Zombies(cgroup, reply)).await?;
            let zombies = zombies.into_iter().map(|zombie| Event::Zombie(Box::new(zombie)));
            Ok(zombies.chain(breakers.into_iter().map(|breaker| Event::Breaker(Box::new(breaker)))).collect())
        }
        LOSSES => answer(queries, Query::Losses).await,
        LEAKS => answer(queries, |reply| Query::Leaks(span_ms.map(Duration::from_millis), reply)).await,
        HEADROOM => {
            let name = workload.map(|name| Untrusted::new(name.as_bytes()));
            answer(queries, |reply| Query::Headroom(name, reply)).await
        }
        EXPLAIN => {
            let pid = pid.ok_or("the question lacks a pid")?;
            answer(queries, |reply| Query::Explain(pid, reply)).await
        }
        WATCH => {
            let pid = pid.ok_or("the question lacks a pid")?;
            let span = Duration::from_millis(span_ms.unwrap_or_default());
            answer(queries, |reply| Query::Observe(pid, span, reply)).await?.map(|()| Vec::new())
        }
        _ => Err("it cannot answer that".to_owned()),
    }
}

/// An answer that cannot be given now is dropped by whoever would give it.
async fn answer<T>(
    queries: &mpsc::Sender<Query>,
    query: impl FnOnce(oneshot::Sender<T>) -> Query,
) -> Result<T, String> {
    let (reply, answer) = oneshot::channel();
    let not_now = "it cannot answer now";
    queries.send(query(reply)).await.map_err(|_| not_now)?;
    answer.await.map_err(|_| not_now.to_owned())
}

/// Writes it all; who reads none of it for too long is left.
async fn send(mut to: impl AsyncWrite + Unpin, text: &str) -> io::Result<()> {
    for part in text.as_bytes().chunks(AT_ONCE) {
        timeout(PATIENCE, to.write_all(part)).await??;
    }
    Ok(())
}
