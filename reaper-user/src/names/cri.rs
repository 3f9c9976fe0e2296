//! containerd, CRI-O and what else speaks the Container Runtime Interface, v1.
//!
//! Of its messages only what is read here, by the field numbers of the published definition:
//! <https://github.com/kubernetes/cri-api/blob/v0.34.0/pkg/apis/runtime/v1/api.proto>

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, Uri, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use prost::Message;
use tonic::{Code, Status, body::Body, client::Grpc};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{
    Engine, Key, Names, Unanswered,
    socket::{BYTES, Tasks, connect},
    text::{long, name, set_labels},
};

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
    async fn look_up(&self, key: &Key) -> Result<Option<Names>, Unanswered> {
        let mut client = Client::connect(&self.socket).await?;
        let found = match key {
            Key::Container(id) => client.container(id).await,
            Key::Pod(uid) => client.pod(PodSandboxFilter { labels: by_uid(uid), ..Default::default() }).await,
            Key::Unit(_) => Ok(None),
        };
        match found {
            Ok(found) => Ok(found),
            // A containerd that Docker or a person uses, without this interface.
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(Unanswered::failed(format_args!("{:?}: {}", status.code(), status.message()))),
        }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }
}

/// The label that the kubelet puts on each pod and container.
fn by_uid(uid: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("io.kubernetes.pod.uid".to_owned(), uid.to_owned())])
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

    /// Of a container, or of a pod whose own process it is: a sandbox has an id like a container's.
    async fn container(&mut self, id: &str) -> Result<Option<Names>, Status> {
        let filter = Some(ContainerFilter { id: id.to_owned() });
        let ListContainersResponse { containers } =
            self.call("/runtime.v1.RuntimeService/ListContainers", ListContainersRequest { filter }).await?;
        let Some(container) = containers.into_iter().find(|container| container.id == id) else {
            return self.pod(PodSandboxFilter { id: id.to_owned(), ..Default::default() }).await;
        };
        // The list has the image as it was asked for, which of the kubelet is a digest; this has its name.
        let question = ContainerStatusRequest { container_id: id.to_owned() };
        let ContainerStatusResponse { status } =
            self.call("/runtime.v1.RuntimeService/ContainerStatus", question).await.unwrap_or_default();
        let pod = self
            .sandbox(PodSandboxFilter { id: container.pod_sandbox_id.clone(), ..Default::default() })
            .await?;
        let image = status.and_then(|status| status.image).or(container.image).unwrap_or_default();
        let mut names = of_pod(pod.as_ref());
        names.container = container.metadata.and_then(|metadata| name(&metadata.name));
        names.image = long(&image.user_specified_image).or_else(|| long(&image.image));
        label(&mut names, pod.as_ref(), &container.labels);
        Ok(Some(names))
    }

    /// Of a pod.
    async fn pod(&mut self, filter: PodSandboxFilter) -> Result<Option<Names>, Status> {
        let pod = self.sandbox(filter).await?;
        Ok(pod.map(|pod| {
            let mut names = of_pod(Some(&pod));
            label(&mut names, Some(&pod), &BTreeMap::new());
            names
        }))
    }

    /// The latest, where a pod has had several.
    async fn sandbox(&mut self, filter: PodSandboxFilter) -> Result<Option<PodSandbox>, Status> {
        let question = ListPodSandboxRequest { filter: Some(filter.clone()) };
        let ListPodSandboxResponse { items } =
            self.call("/runtime.v1.RuntimeService/ListPodSandbox", question).await?;
        let meant = |pod: &PodSandbox| filter.id.is_empty() || pod.id == filter.id;
        Ok(items.into_iter().filter(meant).max_by_key(|pod| pod.created_at))
    }
}

fn of_pod(pod: Option<&PodSandbox>) -> Names {
    let metadata = pod.and_then(|pod| pod.metadata.as_ref());
    Names {
        namespace: metadata.and_then(|metadata| name(&metadata.namespace)),
        pod: metadata.and_then(|metadata| name(&metadata.name)),
        ..Names::default()
    }
}

fn label(names: &mut Names, pod: Option<&PodSandbox>, container: &BTreeMap<String, String>) {
    let labels = pod.into_iter().flat_map(|pod| &pod.labels).chain(container);
    set_labels(names, labels, pod.into_iter().flat_map(|pod| &pod.annotations));
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
