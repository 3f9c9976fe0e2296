//! A containerd of the test's own with its CRI plugin, and pods in it, made as a kubelet does.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use prost::Message;
use reaper::names::CriClient;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    Parent,
    image::{IMAGE, Image, run},
    program, signal,
};

/// It is ended, with all that was made in it, when this is dropped.
pub(crate) struct Containerd {
    daemon: Child,
    directory: TempDir,
    runtime: Runtime,
    pods: Vec<String>,
    /// Last, when its pods have ended.
    _cgroups: Parent,
}

/// What a kubelet would say of a pod with one container, `fetcher`.
pub(crate) struct Pod<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) labels: &'a [(&'a str, &'a str)],
    pub(crate) annotations: &'a [(&'a str, &'a str)],
}

impl Containerd {
    pub(crate) fn start(image: &Image) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // The snapshots of `native` are copies: nothing is mounted, wherever the directory is.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = '{IMAGE}'\ndisable_apparmor = true\n\
             restrict_oom_score_adj = true\n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'native'\n",
            at("root"),
            at("state"),
            at("containerd.sock")
        );
        fs::write(at("config.toml"), config).unwrap();
        let log = File::create(at("log")).unwrap();
        let daemon = Command::new(program("containerd"))
            .arg("--config")
            .arg(at("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let this = Self { daemon, directory, runtime, pods: Vec::new(), _cgroups: Parent(PARENT) };
        this.until_it_answers();
        let mut import = Command::new(program("ctr"));
        import.arg("--address").arg(this.socket());
        run(import
            .args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"])
            .arg(image.archive()));
        this
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("containerd.sock")
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn until_it_answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let ask = || self.call::<_, Empty>("Version", Empty {});
        while let Err(error) = ask() {
            assert!(Instant::now() < deadline, "containerd: {error}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn call<Q, A>(&self, method: &str, question: Q) -> Result<A, String>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path: &'static str = String::leak(format!("/runtime.v1.RuntimeService/{method}"));
        self.runtime.block_on(async {
            let client = CriClient::connect(&self.socket()).await;
            let answer = client.map_err(|error| error.to_string())?.call(path, question).await;
            answer.map_err(|status| status.to_string())
        })
    }

    fn must<Q, A>(&self, method: &str, question: Q) -> A
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.call(method, question).unwrap_or_else(|error| panic!("{method}: {error}\n{}", self.log()))
    }

    /// Makes a pod on the host's network, with a container that leaves zombies; the container's id.
    pub(crate) fn run(&mut self, pod: &Pod<'_>) -> String {
        let own = [
            ("io.kubernetes.pod.name", pod.name),
            ("io.kubernetes.pod.namespace", pod.namespace),
            ("io.kubernetes.pod.uid", pod.uid),
        ];
        let map = |pairs: &[&[(&str, &str)]]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .copied()
                .flatten()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.to_owned(),
                uid: pod.uid.to_owned(),
                namespace: pod.namespace.to_owned(),
            }),
            labels: map(&[&own, pod.labels]),
            annotations: map(&[pod.annotations]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}/kubepods/besteffort/pod{}", PARENT, pod.uid),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption { network: NODE }),
                }),
            }),
        };
        let sandbox: Id = self.must("RunPodSandbox", RunPodSandboxRequest { config: Some(config.clone()) });
        self.pods.push(sandbox.id.clone());
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "fetcher".to_owned() }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            args: vec!["leak".to_owned()],
            labels: map(&[&own, &[("io.kubernetes.container.name", "fetcher")]]),
            linux: Some(Empty {}),
        };
        let question = CreateContainerRequest {
            pod_sandbox_id: sandbox.id,
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container: Id = self.must("CreateContainer", question);
        let _started: Empty = self.must("StartContainer", container.clone());
        container.id
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have been stopped by a test that failed.
        signal(self.pid(), libc::SIGCONT);
        for id in std::mem::take(&mut self.pods) {
            for method in ["StopPodSandbox", "RemovePodSandbox"] {
                if let Err(error) = self.call::<_, Empty>(method, Id { id: id.clone() }) {
                    eprintln!("{method}: {error}");
                }
            }
        }
        signal(self.pid(), libc::SIGTERM);
        let _ = self.daemon.wait();
    }
}

/// Its pods' cgroups are below this one, as where a cluster runs in a container.
const PARENT: &str = "reaper-live-pods";

/// `NamespaceMode`: the node's.
const NODE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// Each message whose first field is an id is read and written alike.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(btree_map = "string, string", tag = "6")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "7")]
    annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxSandboxSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "4")]
    args: Vec<String>,
    #[prost(btree_map = "string, string", tag = "9")]
    labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "15")]
    linux: Option<Empty>,
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
}
