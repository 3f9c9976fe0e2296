//! The control socket: how `reaper ls` asks the running daemon. Read-only, root's, one question a connection.
//!
//! A client writes one line, `{"version":1,"request":"zombies"}`; the daemon answers with one JSON line that says
//! whether it understood, then with the answer's lines, and closes.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    report::{Event, ParseError, ZombieEvent, parse, to_line},
    watch::Query,
};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/reaper/reaper.sock";

/// The version of what is spoken. A daemon answers only its own.
pub const VERSION: u32 = 1;

/// Clients that are served at once.
const CLIENTS: usize = 8;

/// How long a client may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a question.
const QUESTION: u64 = 4096;

/// Why the daemon could not be asked, or could not listen.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No daemon is there to be asked.
    #[error("no daemon listens at {0}")]
    NoDaemon(PathBuf),
    /// Another daemon listens there.
    #[error("another daemon listens at {0}: stop it first")]
    Taken(PathBuf),
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
    /// The answer is not what was asked for.
    #[error("the daemon's answer could not be read: {0}")]
    Answer(#[from] ParseError),
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    version: u32,
    request: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    version: u32,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// The listening daemon's end. The socket's file goes when this is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens at `path`; its directory is made where it is missing. A file that a dead daemon left is replaced.
    pub fn listen(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Socket { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ControlError::Taken(path.to_owned()));
        }
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
                        if let Ok(Err(error)) = timeout(PATIENCE, serve(stream, &queries)).await {
                            tracing::debug!(%error, "a client of the control socket left");
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
        if let Some(directory) = self.path.parent() {
            // Stays where something else is in it, or where a service manager owns it.
            let _not_empty = fs::remove_dir(directory);
        }
    }
}

async fn serve(stream: UnixStream, queries: &mpsc::Sender<Query>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, mut write) = stream.into_split();
    let say = |ok: bool, message: Option<String>| {
        serde_json::to_string(&Verdict { version: VERSION, ok, message }).map(|line| line + "\n")
    };
    if peer.uid() != 0 {
        return write.write_all(say(false, Some("only root may ask".to_owned()))?.as_bytes()).await;
    }
    let mut line = String::new();
    BufReader::new(read.take(QUESTION)).read_line(&mut line).await?;
    let refusal = match serde_json::from_str::<Question>(&line) {
        Err(error) => Some(format!("the question is not understood: {error}")),
        Ok(Question { version, .. }) if version != VERSION => Some(format!(
            "it speaks version {VERSION} and was asked in version {version}: use the command line of its release"
        )),
        Ok(Question { request, .. }) if request != "zombies" => Some("it cannot answer that".to_owned()),
        Ok(_) => None,
    };
    if let Some(message) = refusal {
        return write.write_all(say(false, Some(message))?.as_bytes()).await;
    }
    let (reply, answer) = oneshot::channel();
    let zombies = match queries.send(Query::Zombies(reply)).await {
        Ok(()) => answer.await.map_err(io::Error::other)?,
        Err(_) => return Ok(()),
    };
    let mut text = say(true, None)?;
    for zombie in zombies {
        text.push_str(&to_line(&Event::Zombie(Box::new(zombie)))?);
        text.push('\n');
    }
    write.write_all(text.as_bytes()).await
}

/// Asks the daemon at `path` for every zombie that stands now.
pub async fn zombies(path: &Path) -> Result<Vec<ZombieEvent>, ControlError> {
    let failed = |source| ControlError::Socket { path: path.to_owned(), source };
    let stream = match UnixStream::connect(path).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(ControlError::NoDaemon(path.to_owned()));
        }
        stream => stream.map_err(failed)?,
    };
    let (read, mut write) = stream.into_split();
    let question = Question { version: VERSION, request: "zombies".to_owned() };
    let question = serde_json::to_string(&question).map_err(|error| failed(error.into()))? + "\n";
    write.write_all(question.as_bytes()).await.map_err(failed)?;
    let mut lines = BufReader::new(read).lines();
    let refused = |answer: String| ControlError::Refused { path: path.to_owned(), answer };
    let first = lines.next_line().await.map_err(failed)?.unwrap_or_default();
    match serde_json::from_str::<Verdict>(&first) {
        Ok(Verdict { ok: true, .. }) => {}
        Ok(Verdict { message, .. }) => return Err(refused(message.unwrap_or_default())),
        Err(_) => return Err(refused("something that is not an answer".to_owned())),
    }
    let mut zombies = Vec::new();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        if let Event::Zombie(zombie) = parse(&line)? {
            zombies.push(*zombie);
        }
    }
    Ok(zombies)
}
