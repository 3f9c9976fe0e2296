//! Metrics for Prometheus: `GET /metrics`, and `/healthz` and `/readyz` beside it. Nothing can be changed through it.
//!
//! It has a thread of its own, so that nobody who reads metrics, slowly or all the time, takes anything from watching: that
//! is asked at most once in [`FRESH`].

mod encode;
mod own;
mod serve;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use thiserror::Error;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

use self::{encode::Scrape, own::Own};
use crate::{
    kubernetes,
    watch::{Measured, Query},
};

/// What was measured serves everybody for this long.
const FRESH: Duration = Duration::from_millis(250);

/// How long watching may take to answer. It stands still for less, unless something is wrong.
const ANSWER: Duration = Duration::from_secs(5);

/// Why metrics cannot be served.
#[derive(Debug, Error)]
#[error(
    "metrics cannot be served at {address}: {source}; choose another address, or \"off\" ([metrics] listen, --metrics-listen)"
)]
pub struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

impl MetricsError {
    /// True where a privilege is what is missing (exit code 77).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// The address is ours, and nobody is answered yet.
#[derive(Debug)]
pub struct Metrics {
    listener: TcpListener,
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Serving {
    _stop: oneshot::Sender<()>,
}

impl Metrics {
    /// Takes the address. Whoever connects waits until [`Self::serve`].
    pub fn listen(address: SocketAddr) -> Result<Self, MetricsError> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        listen().map(|listener| Self { listener }).map_err(|source| MetricsError { address, source })
    }

    /// Where it is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers from now on, with what `queries` say, and where the cluster is told of zombies, with what became of that.
    pub fn serve(
        self,
        queries: mpsc::Sender<Query>,
        told: Option<Arc<kubernetes::Counts>>,
    ) -> io::Result<Serving> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        tracing::info!("metrics are at http://{}/metrics", listener.local_addr()?);
        let source = Arc::new(Source {
            queries,
            started: SystemTime::now(),
            dropped: serve::Dropped::default(),
            latest: Mutex::new(None),
            told,
        });
        thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve::serve(listener, source) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Serving { _stop: stop })
    }
}

/// Where answers come from.
#[derive(Debug)]
struct Source {
    queries: mpsc::Sender<Query>,
    started: SystemTime,
    dropped: serve::Dropped,
    latest: Mutex<Option<(Instant, Arc<Measured>)>>,
    told: Option<Arc<kubernetes::Counts>>,
}

/// Watching does not answer.
#[derive(Debug)]
struct Silent;

impl Source {
    /// Whether watching is settled.
    async fn is_settled(&self) -> Result<bool, Silent> {
        self.ask(Query::Settled).await
    }

    /// How everything stands, or stood a moment ago.
    async fn scrape(&self) -> Result<Scrape, Silent> {
        // Held while it is asked: whoever comes meanwhile gets the same answer.
        let mut latest = self.latest.lock().await;
        let measured = match &*latest {
            Some((at, measured)) if at.elapsed() < FRESH => Arc::clone(measured),
            _ => {
                let measured = Arc::new(self.ask(Query::Metrics).await?);
                *latest = Some((Instant::now(), Arc::clone(&measured)));
                measured
            }
        };
        let own = Own::now(self.started, self.dropped.count());
        Ok(Scrape { measured, own, told: self.told.clone() })
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Silent> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.queries.send(query(reply)).await.map_err(|_| Silent)?;
            answer.await.map_err(|_| Silent)
        };
        timeout(ANSWER, asked).await.map_err(|_| Silent)?
    }
}

#[cfg(test)]
mod tests;
