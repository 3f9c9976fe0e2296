//! HTTP over a runtime's socket: one connection for one question, and nothing of it is left when that was answered or given up.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, task::AbortHandle};

use super::Unanswered;

/// Bytes of an answer. A pod's annotations alone may have 256 KiB.
pub(super) const BYTES: usize = 512 * 1024;

/// Bytes of an answer's head.
const HEAD: usize = 64 * 1024;

/// A connection to it.
pub(super) async fn connect(socket: &Path) -> Result<TokioIo<UnixStream>, Unanswered> {
    UnixStream::connect(socket).await.map(TokioIo::new).map_err(|error| Unanswered::connecting(&error))
}

/// Asks for `path`; the answer's status and body.
pub(super) async fn get(socket: &Path, path: &str) -> Result<(StatusCode, Bytes), Unanswered> {
    let stream = connect(socket).await?;
    let tasks = Tasks::default();
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD).handshake(stream).await.map_err(Unanswered::failed)?;
    tasks.spawn(connection);
    let request = Request::get(path).header("Host", "localhost").body(Empty::<Bytes>::new());
    let answer =
        sender.send_request(request.map_err(Unanswered::failed)?).await.map_err(Unanswered::failed)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { Unanswered::wrong(error) } else { Unanswered::failed(error) }
    })?;
    Ok((status, body.to_bytes()))
}

/// What drives a connection. It ends with this: left to itself, it would stay for as long as the other side likes.
#[derive(Debug, Default)]
pub(super) struct Tasks(Spawner);

/// Starts what drives a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Spawner(Arc<Mutex<Vec<AbortHandle>>>);

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        hyper::rt::Executor::execute(&self.0, task);
    }

    pub(super) fn spawner(&self) -> Spawner {
        self.0.clone()
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let handle = tokio::spawn(async move { drop(task.await) }).abort_handle();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.0.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}
