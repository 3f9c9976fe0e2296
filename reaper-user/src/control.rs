//! The control socket: how `reaper ls` and `reaper check` ask the running daemon. Read-only, root's, one question a
//! connection.
//!
//! A client writes one line, `{"version":1,"request":"zombies"}` or `"losses"`; the daemon answers with one JSON line
//! that says whether it understood and how many events follow, then with a line for each, and closes. To the first question
//! these are zombies and circuit breakers that are open.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    lock,
    report::{Event, LostEvent, ParseError, parse, to_line},
    watch::{Listing, Query},
};

/// The socket's file, in the folder of what is there while a daemon runs.
const SOCKET: &str = "reaper.sock";

/// What can be asked for: every zombie that stands now.
const ZOMBIES: &str = "zombies";

/// What can be asked for: how much was lost.
const LOSSES: &str = "losses";

/// The version of what is spoken. A daemon answers only its own.
pub const VERSION: u32 = 1;

/// Clients that are served at once.
const CLIENTS: usize = 8;

/// How long a client may take to ask, and to read what it is sent at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that are sent at once.
const AT_ONCE: usize = 64 << 10;

/// How long the daemon may take to be asked and to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Bytes of a question.
const QUESTION: u64 = 4096;

/// Where the daemon listens.
#[must_use]
pub fn socket() -> PathBuf {
    lock::directory().join(SOCKET)
}

/// Why the daemon could not be asked, or could not listen.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No daemon is there to be asked.
    #[error("no daemon listens at {0}")]
    NoDaemon(PathBuf),
    /// This user may not ask the daemon.
    #[error("{0}: only root may ask the daemon: run as root")]
    NotRoot(PathBuf),
    /// This user may not make the socket, or its directory.
    #[error(
        "{directory}: {source}: run as root, or make the directory this user's own (systemd: RuntimeDirectory=reaper)"
    )]
    Denied {
        /// The socket's directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket could not be used.
    #[error("{path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The daemon speaks another version, or refused.
    #[error("the daemon at {path} answered: {answer}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What it said.
        answer: String,
    },
    /// The daemon did not answer in time.
    #[error(
        "the daemon at {path} has not answered within {patience:?}: it may be stopped, or starved of CPU"
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The answer ended before its end.
    #[error("the daemon at {path} said {came} of {count} lines, then hung up")]
    Cut {
        /// The socket.
        path: PathBuf,
        /// Lines that were announced.
        count: usize,
        /// Lines that came.
        came: usize,
    },
    /// The answer is not what was asked for.
    #[error("the daemon's answer could not be read: {0}")]
    Answer(#[from] ParseError),
}

impl ControlError {
    /// True where a privilege is what is missing (exit code 77).
    #[must_use]
    pub const fn is_permission(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::NotRoot(_))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    version: u32,
    /// Another version may have another question, and shall be told what is wrong with its version.
    #[serde(default)]
    request: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    version: u32,
    ok: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Lines that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<usize>,
}

impl Verdict {
    const fn refused(message: String) -> Self {
        Self { version: VERSION, ok: false, message: Some(message), lines: None }
    }

    const fn followed_by(lines: usize) -> Self {
        Self { version: VERSION, ok: true, message: None, lines: Some(lines) }
    }

    fn line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|line| line + "\n")
    }
}

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
    pub async fn serve(self, queries: mpsc::Sender<Query>) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let queries = queries.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, &queries).await {
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

async fn serve(stream: UnixStream, queries: &mpsc::Sender<Query>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, write) = stream.into_split();
    if peer.uid() != 0 {
        return send(write, &Verdict::refused("only root may ask".to_owned()).line()?).await;
    }
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(read.take(QUESTION)).read_line(&mut line)).await??;
    let text = match events(&line, queries).await {
        Err(message) => Verdict::refused(message).line()?,
        Ok(events) => {
            let mut text = Verdict::followed_by(events.len()).line()?;
            for event in events {
                text.push_str(&to_line(&event)?);
                text.push('\n');
            }
            text
        }
    };
    send(write, &text).await
}

/// What is asked for, or why it is not said.
async fn events(question: &str, queries: &mpsc::Sender<Query>) -> Result<Vec<Event>, String> {
    let Question { version, request } =
        serde_json::from_str(question).map_err(|error| format!("the question is not understood: {error}"))?;
    if version != VERSION {
        return Err(format!(
            "it speaks version {VERSION} and was asked in version {version}: use the command line of its release"
        ));
    }
    match request.as_str() {
        ZOMBIES => {
            let Listing { zombies, breakers } = answer(queries, Query::Zombies).await?;
            let zombies = zombies.into_iter().map(|zombie| Event::Zombie(Box::new(zombie)));
            Ok(zombies.chain(breakers.into_iter().map(|breaker| Event::Breaker(Box::new(breaker)))).collect())
        }
        LOSSES => answer(queries, Query::Losses).await,
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

/// Asks the daemon at `path` for every zombie that stands now, and for the circuit breakers that are open.
pub fn zombies(path: &Path) -> Result<Listing, ControlError> {
    ask(path, ZOMBIES, ANSWER).map(listing)
}

fn listing(events: Vec<Event>) -> Listing {
    let mut listing = Listing::default();
    for event in events {
        match event {
            Event::Zombie(zombie) => listing.zombies.push(*zombie),
            Event::Breaker(breaker) => listing.breakers.push(*breaker),
            _ => {}
        }
    }
    listing
}

/// Asks the daemon at `path` what it has lost, each kind of loss in its order.
pub fn losses(path: &Path) -> Result<Vec<LostEvent>, ControlError> {
    let only = |event| if let Event::Lost(lost) = event { Some(lost) } else { None };
    Ok(ask(path, LOSSES, ANSWER)?.into_iter().filter_map(only).collect())
}

fn ask(path: &Path, request: &str, patience: Duration) -> Result<Vec<Event>, ControlError> {
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(async { timeout(patience, converse(path, request)).await }));
    match asked {
        Err(source) => Err(ControlError::Socket { path: path.to_owned(), source }),
        Ok(Err(_elapsed)) => Err(ControlError::Silent { path: path.to_owned(), patience }),
        Ok(Ok(answer)) => answer,
    }
}

async fn converse(path: &Path, request: &str) -> Result<Vec<Event>, ControlError> {
    let failed = |source| ControlError::Socket { path: path.to_owned(), source };
    let stream = match UnixStream::connect(path).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(ControlError::NoDaemon(path.to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ControlError::NotRoot(path.to_owned()));
        }
        stream => stream.map_err(failed)?,
    };
    let (read, mut write) = stream.into_split();
    let question = Question { version: VERSION, request: request.to_owned() };
    let question = serde_json::to_string(&question).map_err(|error| failed(error.into()))? + "\n";
    write.write_all(question.as_bytes()).await.map_err(failed)?;
    let mut lines = BufReader::new(read).lines();
    let refused = |answer: String| ControlError::Refused { path: path.to_owned(), answer };
    let first = lines.next_line().await.map_err(failed)?.unwrap_or_default();
    let count = match serde_json::from_str::<Verdict>(&first) {
        Ok(Verdict { ok: true, lines: Some(count), .. }) => count,
        Ok(Verdict { ok: false, message, .. }) => return Err(refused(message.unwrap_or_default())),
        Ok(_) | Err(_) => return Err(refused("something that is not an answer".to_owned())),
    };
    let mut events = Vec::new();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        events.push(parse(&line)?);
    }
    if events.len() != count {
        return Err(ControlError::Cut { path: path.to_owned(), count, came: events.len() });
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;
    use crate::report::fixture;

    /// What a client makes of a daemon that answers so and hangs up, or that does neither.
    fn answered(answer: Option<String>) -> Result<Listing, ControlError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let patience = if answer.is_some() { ANSWER } else { Duration::from_millis(20) };
        let daemon = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            stream.read_line(&mut String::new()).unwrap();
            match answer {
                Some(answer) => stream.get_mut().write_all(answer.as_bytes()).unwrap(),
                // Until the client has left.
                None => assert_eq!(stream.read(&mut [0]).unwrap(), 0),
            }
        });
        let events = ask(&path, ZOMBIES, patience);
        daemon.join().unwrap();
        events.map(listing)
    }

    fn followed_by(announced: usize, zombies: usize) -> String {
        Verdict::followed_by(announced).line().unwrap() + &line().repeat(zombies)
    }

    fn line() -> String {
        to_line(&Event::Zombie(Box::new(fixture::shown(&fixture::never_waited())))).unwrap() + "\n"
    }

    #[test]
    fn a_whole_answer_is_taken() {
        for count in [0, 2] {
            assert_eq!(answered(Some(followed_by(count, count))).unwrap().zombies.len(), count);
        }
    }

    #[test]
    fn an_answer_that_was_cut_off_is_not_taken_for_the_whole() {
        let error = answered(Some(followed_by(3, 2))).unwrap_err();
        assert!(matches!(error, ControlError::Cut { count: 3, came: 2, .. }), "{error}");
        let mut half = followed_by(2, 2);
        half.truncate(half.len() - 20);
        let error = answered(Some(half)).unwrap_err();
        assert!(matches!(error, ControlError::Answer(_)), "{error}");
        for none in ["", "{\"version\":1,\"ok\":true}\n"] {
            let error = answered(Some(none.to_owned())).unwrap_err();
            assert!(matches!(error, ControlError::Refused { .. }), "{none}: {error}");
        }
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_not_waited_for_for_ever() {
        let error = answered(None).unwrap_err();
        assert!(matches!(error, ControlError::Silent { .. }), "{error}");
    }

    #[test]
    fn a_refusal_says_why() {
        let refusal = Verdict::refused("only root may ask".to_owned()).line().unwrap();
        let error = answered(Some(refusal)).unwrap_err();
        assert!(error.to_string().ends_with("answered: only root may ask"), "{error}");
    }
}
