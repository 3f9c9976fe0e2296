//! Who asks and what is answered, by HTTP/1.1, one question a connection.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, VARY},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Silent, Source, encode::Form};

/// Clients that are served at once. Where there are more, the one that came first gives way: an answer takes milliseconds, so it is
/// most likely one that does not ask or does not read.
const CLIENTS: usize = 32;

/// How long a client may take altogether.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to ask.
const QUESTION: Duration = Duration::from_secs(5);

/// Bytes of a question.
const BYTES: usize = 8 << 10;

/// Lines of a question's head.
const LINES: usize = 64;

/// Clients that had to give way.
#[derive(Debug, Default)]
pub(super) struct Dropped(AtomicU64);

impl Dropped {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, source: Arc<Source>) {
    let mut clients: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                clients.retain(|client| !client.is_finished());
                while clients.len() >= CLIENTS
                    && let Some(first) = clients.pop_front()
                {
                    first.abort();
                    source.dropped.0.fetch_add(1, Relaxed);
                }
                let task = tokio::spawn(attend(stream, Arc::clone(&source)));
                clients.push_back(task.abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "metrics cannot be asked for");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn attend(stream: TcpStream, source: Arc<Source>) {
    let service = service_fn(move |request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, &source).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUESTION)
        .max_buf_size(BYTES)
        .max_headers(LINES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client of the metrics left or was left"),
        Err(_) => tracing::debug!("a client of the metrics took too long"),
    }
}

async fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => metrics(source, form(request.headers())).await,
        "/healthz" => match source.is_settled().await {
            Ok(_) => text(StatusCode::OK, "ok\n"),
            Err(Silent) => silent(),
        },
        "/readyz" => match source.is_settled().await {
            Ok(true) => text(StatusCode::OK, "ready\n"),
            Ok(false) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready: what an earlier daemon has left is not taken over yet\n",
            ),
            Err(Silent) => silent(),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    }
}

async fn metrics(source: &Source, form: Form) -> Response<Full<Bytes>> {
    let Ok(scrape) = source.scrape().await else { return silent() };
    let Ok(page) = scrape.page(form) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n");
    };
    let mut response = Response::new(Full::from(page));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// OpenMetrics for those that understand it.
fn form(headers: &HeaderMap) -> Form {
    let names = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains(Form::OPEN_METRICS));
    if headers.get_all(ACCEPT).iter().any(names) { Form::OpenMetrics } else { Form::Prometheus }
}

fn silent() -> Response<Full<Bytes>> {
    text(StatusCode::SERVICE_UNAVAILABLE, "the daemon does not answer: it may be starved of CPU, or end\n")
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
