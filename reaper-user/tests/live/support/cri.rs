//! A container runtime of the test's own that answers by the Container Runtime Interface, also wrongly: every answer is good HTTP/2,
//! and what is in it is as bad as a test wants.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

/// What it says of each container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// What is right.
    Names,
    /// A frame of bytes that are no message.
    Garbage,
    /// A message of a mebibyte: a pod with as many annotations.
    TooMuch,
    /// A container that was not asked about.
    AnotherContainer,
    /// A pod that was not asked about.
    AnotherPod,
    /// Neither the container's name nor the pod's.
    NoMetadata,
    /// That it cannot say it, by a status.
    Error,
    /// Nothing, while the connection stands.
    Nothing,
    /// Everything but a container's status, by which its image is named.
    NoStatus,
    /// The same, and for the status nothing.
    SilentStatus,
}

/// Serves until the tests end.
pub(crate) struct Cri {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
}

struct State {
    says: Says,
    /// Methods, and when each was called.
    calls: Vec<(String, Instant)>,
}

impl Cri {
    /// Listens there.
    pub(crate) fn start(socket: &Path, says: Says) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(Mutex::new(State { says, calls: Vec::new() }));
        let theirs = Arc::clone(&state);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, theirs));
        });
        Self { state, socket: socket.to_owned() }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on.
    pub(crate) fn say(&self, says: Says) {
        self.state.lock().unwrap().says = says;
    }

    /// Whether anybody has called anything.
    pub(crate) fn was_asked(&self) -> bool {
        !self.state.lock().unwrap().calls.is_empty()
    }

    /// How long it was left alone between the calls of this method.
    pub(crate) fn pauses(&self, method: &str) -> Vec<Duration> {
        let state = self.state.lock().unwrap();
        let calls: Vec<_> = state.calls.iter().filter(|(called, _)| called == method).collect();
        calls.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>) {
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(attend(request, &state).await) }
            });
            // A client that goes in the middle is the client's business.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

async fn attend(request: Request<Incoming>, state: &Mutex<State>) -> Response<Body> {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let question = request.into_body().collect().await.unwrap().to_bytes();
    let says = {
        let mut state = state.lock().unwrap();
        state.calls.push((method.clone(), Instant::now()));
        state.says
    };
    // A byte that says it is not compressed, four of its length, the message.
    let question = question.get(5..).unwrap_or_default();
    let of_status = method == "ContainerStatus";
    match says {
        Says::Nothing => std::future::pending().await,
        Says::SilentStatus if of_status => std::future::pending().await,
        Says::Error => refuse("13", "the disk is on fire"),
        Says::NoStatus if of_status => refuse("2", "the disk is on fire"),
        Says::Garbage => say(vec![0xff; 64]),
        _ => say(answer(&method, question, says)),
    }
}

fn grpc(body: impl Into<Bytes>, code: &'static str, message: &'static str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    let body = Full::new(body.into()).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder().header(CONTENT_TYPE, "application/grpc").body(body.boxed_unsync()).unwrap()
}

fn refuse(code: &'static str, message: &'static str) -> Response<Body> {
    grpc(Bytes::new(), code, message)
}

fn say(message: Vec<u8>) -> Response<Body> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    grpc(frame, "0", "")
}

const SANDBOX: &str = "5a5a5a5a";

fn answer(method: &str, question: &[u8], says: Says) -> Vec<u8> {
    let metadata = |name: &str| {
        let namespace = "crawlers".to_owned();
        (says != Says::NoMetadata).then(|| Metadata { name: name.to_owned(), namespace })
    };
    match method {
        "ListContainers" => {
            let asked = ListRequest::decode(question).unwrap().filter.unwrap_or_default().id;
            let id = if says == Says::AnotherContainer { "f".repeat(64) } else { asked };
            let image = Some(Image { image: "sha256:0123".to_owned(), ..Image::default() });
            let pod_sandbox_id = SANDBOX.to_owned();
            let metadata = metadata("fetcher").map(|Metadata { name, .. }| ContainerMetadata { name });
            let container = Container { id, pod_sandbox_id, metadata, image };
            Containers { containers: vec![container] }.encode_to_vec()
        }
        "ListPodSandbox" => {
            let asked = ListRequest::decode(question).unwrap().filter.unwrap_or_default().id;
            let id = if says == Says::AnotherPod { "another".to_owned() } else { asked };
            let bytes = if says == Says::TooMuch { 1024 * 1024 } else { 1 };
            let annotations = BTreeMap::from([("example.com/notes".to_owned(), "x".repeat(bytes))]);
            let pod = PodSandbox { id, metadata: metadata("fetcher-7c9d"), created_at: 1, annotations };
            PodSandboxes { items: vec![pod] }.encode_to_vec()
        }
        "ContainerStatus" => {
            let Id { id } = Id::decode(question).unwrap();
            let user_specified_image = "registry.test/fetcher:1".to_owned();
            let image = Some(Image { image: "sha256:0123".to_owned(), user_specified_image });
            ContainerStatus { status: Some(Status { id, image }) }.encode_to_vec()
        }
        other => panic!("{other} is not what a name needs"),
    }
}

#[derive(Clone, PartialEq, Message)]
struct ListRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<Id>,
}

/// Each message whose first field is an id is read alike.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
    #[prost(string, tag = "18")]
    user_specified_image: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(btree_map = "string, string", tag = "6")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "8")]
    image: Option<Image>,
}
