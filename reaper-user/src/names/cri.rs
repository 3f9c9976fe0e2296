//! containerd, CRI-O and what else speaks the Container Runtime Interface, v1.
//!
//! Of its messages only what is read here, by the field numbers of the published definition:
//! <https://github.com/kubernetes/cri-api/blob/v0.34.0/pkg/apis/runtime/v1/api.proto>

use std::{
    collections::BTreeMap,
    error::Error as _,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, client::Grpc};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{
    Answer, Engine, Key, Names, Unanswered,
    socket::{BYTES, Tasks, connect},
    text::{long, name, set_labels, told},
    worker::PATIENCE,
};

/// How long the image may take, when the rest is known.
const FOR_THE_IMAGE: Duration = Duration::from_millis(1_000);
const _: () = assert!(FOR_THE_IMAGE.as_millis() < PATIENCE.as_millis(), "the rest would be lost with it");

/// The label that the kubelet puts on each pod and container.
const POD_UID: &str = "io.kubernetes.pod.uid";

/// One that speaks it.
pub(super) struct Cri {
    socket: PathBuf,
}

impl Cri {
    /// Listens there.
    pub(super) const fn at(socket: PathBuf) -> Self {
        Self { socket }
    }
}

impl Engine for Cri {
    async fn look_up(&self, key: &Key) -> Result<Option<Answer>, Unanswered> {
        let mut client = Client::connect(&self.socket).await?;
        match key {
            Key::Container(id) => client.container(id).await,
            Key::Pod(uid) => {
                let labels = BTreeMap::from([(POD_UID.to_owned(), uid.clone())]);
                client.pod(PodSandboxFilter { labels, ..Default::default() }).await
            }
            Key::Unit(_) => Ok(None),
        }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A connection.
pub struct Client {
    grpc: Grpc<Connection>,
    _tasks: Tasks,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self, Unanswered> {
        let stream = connect(socket).await?;
        let tasks = Tasks::default();
        let (sender, connection) =
            http2::handshake(tasks.spawner(), stream).await.map_err(Unanswered::failed)?;
        tasks.spawn(connection);
        let grpc = Grpc::with_origin(Connection(sender), Uri::from_static("http://localhost"));
        Ok(Self { grpc: grpc.max_decoding_message_size(BYTES), _tasks: tasks })
    }

    /// Calls a method, named by its whole path.
    ///
    /// # Errors
    /// What the other side says.
    pub async fn call<Q, A>(&mut self, method: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let gone = |error: hyper::Error| Status::unavailable(error.to_string());
        self.grpc.ready().await.map_err(gone)?;
        let codec = ProstCodec::<Q, A>::new();
        let path = PathAndQuery::from_static(method);
        Ok(self.grpc.unary(tonic::Request::new(question), path, codec).await?.into_inner())
    }

    /// The same; `None` where a runtime does not have the method: a containerd that Docker or a person uses is without this interface.
    async fn ask<Q, A>(&mut self, method: &'static str, question: Q) -> Result<Option<A>, Unanswered>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        match self.call(method, question).await {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => {
                let of = method.rsplit('/').next().unwrap_or(method);
                let why = format!("{of}: {}", said(&status));
                Err(if is_out_of_order(&status) { Unanswered::failed(why) } else { Unanswered::wrong(why) })
            }
        }
    }

    /// Of a container, or of a pod whose own process it is: a sandbox has an id like a container's.
    async fn container(&mut self, id: &str) -> Result<Option<Answer>, Unanswered> {
        let filter = Some(ContainerFilter { id: id.to_owned() });
        let question = ListContainersRequest { filter };
        let answer: Option<ListContainersResponse> =
            self.ask("/runtime.v1.RuntimeService/ListContainers", question).await?;
        let Some(ListContainersResponse { containers }) = answer else { return Ok(None) };
        let others = !containers.is_empty();
        let Some(container) = containers.into_iter().find(|container| container.id == id) else {
            if others {
                return Err(Unanswered::wrong("ListContainers: the answer is about another container"));
            }
            return self.pod(PodSandboxFilter { id: id.to_owned(), ..Default::default() }).await;
        };
        let Container { id: _, pod_sandbox_id, metadata, image, labels } = container;
        let Some(ContainerMetadata { name: own }) = metadata else {
            return Err(Unanswered::wrong("ListContainers: the container has no metadata"));
        };
        if pod_sandbox_id.is_empty() {
            // It would be any pod.
            return Err(Unanswered::wrong("ListContainers: the container has no pod"));
        }
        // Without it neither its namespace nor its labels are known, by which rules decide.
        let pod = self.sandbox(PodSandboxFilter { id: pod_sandbox_id, ..Default::default() }).await?;
        let Some((pod, metadata)) = pod else {
            return Err(Unanswered::wrong("ListPodSandbox: the container's pod is not there"));
        };
        // The list has the image as it was asked for, which of the kubelet is a digest; this has its name.
        let asked = timeout(FOR_THE_IMAGE, self.image(id)).await;
        let (named, lacks) = match asked.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(image) => (image, None),
            Err(why) => (None, Some(told(&format!("ContainerStatus: {why}")))),
        };
        let image = named.or(image).unwrap_or_default();
        let mut names = of_pod(&metadata);
        names.container = name(&own);
        names.image = long(&image.user_specified_image).or_else(|| long(&image.image));
        label(&mut names, &pod, &labels);
        Ok(Some(Answer { names, lacks }))
    }

    /// The image of a container, as whoever made it wrote it; none of one that is gone by now. Else why that is not known.
    async fn image(&mut self, id: &str) -> Result<Option<ImageSpec>, String> {
        let question = ContainerStatusRequest { container_id: id.to_owned() };
        let answer: Result<ContainerStatusResponse, _> =
            self.call("/runtime.v1.RuntimeService/ContainerStatus", question).await;
        match answer {
            Ok(ContainerStatusResponse { status: Some(status) }) if status.id == id => Ok(status.image),
            Ok(_) => Err("the answer is about another container".to_owned()),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(said(&status)),
        }
    }

    /// Of a pod.
    async fn pod(&mut self, filter: PodSandboxFilter) -> Result<Option<Answer>, Unanswered> {
        let pod = self.sandbox(filter).await?;
        Ok(pod.map(|(pod, metadata)| {
            let mut names = of_pod(&metadata);
            label(&mut names, &pod, &BTreeMap::new());
            names.into()
        }))
    }

    /// The latest, where a pod has had several.
    async fn sandbox(
        &mut self,
        filter: PodSandboxFilter,
    ) -> Result<Option<(PodSandbox, PodSandboxMetadata)>, Unanswered> {
        let question = ListPodSandboxRequest { filter: Some(filter.clone()) };
        let answer: Option<ListPodSandboxResponse> =
            self.ask("/runtime.v1.RuntimeService/ListPodSandbox", question).await?;
        let Some(ListPodSandboxResponse { items }) = answer else { return Ok(None) };
        let others = !items.is_empty();
        let meant = |pod: &PodSandbox| {
            (filter.id.is_empty() || pod.id == filter.id)
                && filter.labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        match items.into_iter().filter(meant).max_by_key(|pod| pod.created_at) {
            Some(mut pod) => match pod.metadata.take() {
                Some(metadata) => Ok(Some((pod, metadata))),
                None => Err(Unanswered::wrong("ListPodSandbox: the pod has no metadata")),
            },
            None if others => Err(Unanswered::wrong("ListPodSandbox: the answer is about another pod")),
            None => Ok(None),
        }
    }
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Whether it is the runtime, or the connection to it, and not what it says about this one workload.
fn is_out_of_order(status: &Status) -> bool {
    // What a server says has no source, what went wrong on the way has.
    status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unauthenticated
        )
}

fn of_pod(PodSandboxMetadata { name: pod, namespace }: &PodSandboxMetadata) -> Names {
    Names { namespace: name(namespace), pod: name(pod), ..Names::default() }
}

fn label(names: &mut Names, pod: &PodSandbox, container: &BTreeMap<String, String>) {
    set_labels(names, pod.labels.iter().chain(container), pod.annotations.iter());
}

/// What tonic sends requests by.
struct Connection(SendRequest<Body>);

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[derive(Clone, PartialEq, Message)]
struct ListContainersRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<ContainerFilter>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerFilter {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListContainersResponse {
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
    image: Option<ImageSpec>,
    #[prost(btree_map = "string, string", tag = "8")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
    #[prost(string, tag = "18")]
    user_specified_image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "8")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<PodSandboxFilter>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxFilter {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(btree_map = "string, string", tag = "3")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "6")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}
