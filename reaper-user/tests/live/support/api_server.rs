//! An API server of the test's own, as far as Events and nodes go: it authenticates, authorizes, checks and answers as Kubernetes'
//! does (paths, verbs, media types, codes, `Status` objects; `ValidateEvent` for core/v1). A real one is in no package.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Event, Node};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::tls::Authority;

pub(super) const TOKEN: &str = "a-token-of-a-service-account";

/// The only node.
pub(crate) const NODE: &str = "node-1";

/// Serves until the tests end.
pub(crate) struct ApiServer {
    state: Shared,
    directory: TempDir,
}

#[derive(Default)]
struct State {
    /// By namespace and name.
    events: BTreeMap<(String, String), Value>,
    /// Of the node, by type. A kubelet's own is there from the start.
    conditions: BTreeMap<String, Value>,
    /// Verb and resource that the service account may not use.
    forbidden: BTreeSet<(&'static str, &'static str)>,
    /// Accepts requests and answers none.
    hangs: bool,
    /// Verb, path, code.
    answered: Vec<(Method, String, u16)>,
    /// Connections that ended before there was TLS on them.
    turned_away: usize,
    version: u64,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener)
    }

    /// The same by TLS, as a cluster's own; and where that is.
    pub(crate) fn start_tls(authority: &Authority) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Self::listen(listener, Some(authority.server(address.ip()))), address)
    }

    /// Listens where this does.
    pub(crate) fn on(listener: TcpListener) -> Self {
        Self::listen(listener, None)
    }

    fn listen(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let ready = json!({ "type": "Ready", "status": "True" });
        let state = State { conditions: BTreeMap::from([("Ready".to_owned(), ready)]), ..State::default() };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let theirs = Arc::clone(&state);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, tls, theirs));
        });
        let this = Self { state, directory: tempfile::tempdir().unwrap() };
        std::fs::write(this.kubeconfig(), kubeconfig_for(address)).unwrap();
        this
    }

    /// A file that says where it is, with a token that it knows.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    pub(crate) fn forbid(&self, verb: &'static str, resource: &'static str) {
        self.state().forbidden.insert((verb, resource));
    }

    pub(crate) fn allow_all(&self) {
        self.state().forbidden.clear();
    }

    pub(crate) fn hang(&self, hangs: bool) {
        self.state().hangs = hangs;
    }

    /// What happens to an Event after an hour.
    pub(crate) fn expire_events(&self) {
        self.state().events.clear();
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.state().events.values().cloned().collect()
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<Value> {
        self.state().conditions.get(kind).cloned()
    }

    /// How often it has answered so.
    pub(crate) fn answers(&self, code: u16) -> usize {
        self.state().answered.iter().filter(|(.., answered)| *answered == code).count()
    }

    /// How many connections ended before there was TLS on them.
    pub(crate) fn turned_away(&self) -> usize {
        self.state().turned_away
    }

    /// Waits until it has been told something that makes this true.
    pub(crate) fn until(&self, what: &str, timeout: Duration, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + timeout;
        while !done(self) {
            let rest = deadline.saturating_duration_since(Instant::now());
            let state = self.state();
            assert!(
                !rest.is_zero(),
                "{what}: {:#?} {:#?} {:?}",
                state.events,
                state.conditions,
                state.answered
            );
            drop(self.state.1.wait_timeout(state, rest.min(Duration::from_millis(200))).unwrap());
        }
    }
}

/// The text of a file that says that one is there, with a token that it knows.
pub(crate) fn kubeconfig_for(address: SocketAddr) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "test", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    })
    .to_string()
}

type Shared = Arc<(Mutex<State>, Condvar)>;

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Shared) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (state, tls) = (Arc::clone(&state), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve_one(stream, state).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve_one(stream, state).await,
                    Err(_) => {
                        state.0.lock().unwrap().turned_away += 1;
                        state.1.notify_all();
                    }
                },
            }
        });
    }
}

async fn serve_one(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, state: Shared) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(attend(request, &state).await) }
    });
    // A client that goes in the middle is the client's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn attend(
    request: Request<Incoming>,
    (state, changed): &(Mutex<State>, Condvar),
) -> Response<Full<Bytes>> {
    if state.lock().unwrap().hangs {
        return std::future::pending().await;
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut state = state.lock().unwrap();
    let answer = if header(AUTHORIZATION) == format!("Bearer {TOKEN}") {
        state.answer(&head.method, head.uri.path(), header(CONTENT_TYPE), &body)
    } else {
        refuse(401, "Unauthorized", "Unauthorized")
    };
    let code = match &answer {
        Ok((code, _)) => *code,
        Err(status) => u16::try_from(status["code"].as_u64().unwrap()).unwrap(),
    };
    state.answered.push((head.method, head.uri.path().to_owned(), code));
    changed.notify_all();
    let body = match answer {
        Ok((_, object)) | Err(object) => object,
    };
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))
        .unwrap()
}

type Answer = Result<(u16, Value), Value>;

fn refuse(code: u16, reason: &str, message: &str) -> Answer {
    Err(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    }))
}

const STRATEGIC: &str = "application/strategic-merge-patch+json";

impl State {
    fn answer(&mut self, method: &Method, path: &str, media: &str, body: &[u8]) -> Answer {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return refuse(400, "BadRequest", "the body is not JSON");
        };
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("POST", ["api", "v1", "namespaces", namespace, "events"]) => {
                self.authorize("create", "events")?;
                if media != "application/json" {
                    return refuse(415, "UnsupportedMediaType", media);
                }
                self.create(namespace, body)
            }
            ("PATCH", ["api", "v1", "namespaces", namespace, "events", name]) => {
                self.authorize("patch", "events")?;
                if media != STRATEGIC {
                    return refuse(415, "UnsupportedMediaType", media);
                }
                self.patch(namespace, name, &body)
            }
            ("PATCH", ["api", "v1", "nodes", name, "status"]) => {
                self.authorize("patch", "nodes/status")?;
                if media != STRATEGIC {
                    return refuse(415, "UnsupportedMediaType", media);
                }
                if *name != NODE {
                    return refuse(404, "NotFound", &format!("nodes \"{name}\" not found"));
                }
                self.patch_node(&body)
            }
            _ => refuse(404, "NotFound", "the server could not find the requested resource"),
        }
    }

    fn authorize(&self, verb: &'static str, resource: &'static str) -> Result<(), Value> {
        if self.forbidden.contains(&(verb, resource)) {
            let message = format!(
                "{resource} is forbidden: User \"system:serviceaccount:reaper:reaper\" cannot {verb} resource \"{resource}\""
            );
            return refuse(403, "Forbidden", &message).map(drop);
        }
        Ok(())
    }

    fn create(&mut self, namespace: &str, mut event: Value) -> Answer {
        check(namespace, &event)?;
        let name = event["metadata"]["name"].as_str().unwrap().to_owned();
        if self.events.contains_key(&(namespace.to_owned(), name.clone())) {
            return refuse(409, "AlreadyExists", &format!("events \"{name}\" already exists"));
        }
        self.version += 1;
        event["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.insert((namespace.to_owned(), name), event.clone());
        Ok((201, event))
    }

    fn patch(&mut self, namespace: &str, name: &str, patch: &Value) -> Answer {
        let Some(event) = self.events.get_mut(&(namespace.to_owned(), name.to_owned())) else {
            return refuse(404, "NotFound", &format!("events \"{name}\" not found"));
        };
        let mut patched = event.clone();
        merge(&mut patched, patch);
        check(namespace, &patched)?;
        self.version += 1;
        patched["metadata"]["resourceVersion"] = self.version.to_string().into();
        event.clone_from(&patched);
        Ok((200, patched))
    }

    fn patch_node(&mut self, patch: &Value) -> Answer {
        for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
            let kind = condition["type"].as_str().unwrap_or_default();
            if kind.is_empty() {
                return refuse(400, "BadRequest", "the merge key \"type\" is missing");
            }
            merge(self.conditions.entry(kind.to_owned()).or_insert(Value::Null), condition);
        }
        let conditions: Vec<_> = self.conditions.values().collect();
        let node = json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": NODE }, "status": { "conditions": conditions } });
        match serde_json::from_value::<Node>(node.clone()) {
            Ok(_) => Ok((200, node)),
            Err(error) => refuse(400, "BadRequest", &error.to_string()),
        }
    }
}

/// As a strategic merge does where there are no lists; null deletes.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

fn check(namespace: &str, event: &Value) -> Result<(), Value> {
    let invalid = |message: &str| refuse(422, "Invalid", message).map(drop);
    // What the types do not have a real one drops with a warning: nothing is to be lost.
    let typed = match serde_json::from_value::<Event>(event.clone()) {
        Ok(typed) => serde_json::to_value(typed).unwrap(),
        Err(error) => return refuse(400, "BadRequest", &error.to_string()).map(drop),
    };
    if typed != *event {
        return refuse(400, "BadRequest", &format!("unknown fields: {event} is read as {typed}")).map(drop);
    }
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/metadata/namespace") != namespace {
        return refuse(400, "BadRequest", "the namespace of the object does not match the request's")
            .map(drop);
    }
    if text("/involvedObject/namespace") != namespace {
        return invalid("involvedObject.namespace: does not match event.namespace");
    }
    let name = text("/metadata/name");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || c == '-')
    };
    if name.len() > 253 || !name.split('.').all(part) {
        return invalid("metadata.name: a lowercase RFC 1123 subdomain must consist of …");
    }
    if !matches!(text("/type"), "Warning" | "Normal")
        || text("/reason").is_empty()
        || text("/reason").len() > 128
    {
        return invalid("type, reason");
    }
    if text("/message").len() > 1024 {
        return invalid("message: can have at most 1024 characters");
    }
    Ok(())
}
