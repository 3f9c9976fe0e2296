//! The manifests: kustomize builds them, the schemas of Kubernetes accept them, and those of the Prometheus operator what is its.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{deploy, output, validators};

const OVERLAYS: [&str; 2] = ["report-only", "reap-adopted"];
const COMPONENTS: [&str; 3] = ["events", "node-condition", "podmonitor"];

/// What `kubectl kustomize` makes of an overlay.
pub(crate) struct Manifests {
    text: String,
    documents: Vec<Value>,
}

impl Manifests {
    pub(crate) fn build(overlay: &str) -> Self {
        Self::of(&deploy("kubernetes/overlays").join(overlay))
    }

    fn of(folder: &Path) -> Self {
        Self::parse(output(Command::new("kubectl").arg("kustomize").arg(folder)))
    }

    fn parse(text: String) -> Self {
        let program = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
        let parsed = python(program, &text);
        assert!(parsed.status.success(), "{parsed:?}");
        Self { documents: serde_json::from_slice(&parsed.stdout).expect("JSON"), text }
    }

    /// The same, with something else in one place.
    fn with(&self, text: &str, instead: &str) -> Self {
        assert!(self.text.contains(text), "{text}");
        Self::parse(self.text.replace(text, instead))
    }

    pub(crate) fn kind(&self, kind: &str) -> &Value {
        let found = self.documents.iter().find(|document| document["kind"] == kind);
        found.unwrap_or_else(|| panic!("there is no {kind} in\n{}", self.text))
    }

    pub(crate) fn pod(&self) -> &Value {
        &self.kind("DaemonSet")["spec"]["template"]["spec"]
    }

    pub(crate) fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    /// What is wrong with them by the schemas; each document has to be accepted by name, because of what it has no schema for the
    /// validator says so and goes on.
    fn complaints(&self) -> Vec<String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
        fs::write(file.path(), &self.text).expect("a file");
        let mut validate = Command::new(validators("kubernetes-validate"));
        let said = validate.arg("--strict").arg(file.path()).output().expect("it runs");
        let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
        let mut complaints = Vec::new();
        if !said.status.success() {
            complaints.push(text.clone().into_owned());
        }
        for document in &self.documents {
            let part = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).expect("a text");
            let (kind, name) = (part("/kind"), part("/metadata/name"));
            let passed = format!(" passed for resource {}/{name} against version ", kind.to_lowercase());
            if kind == "PodMonitor" {
                complaints.extend(pod_monitor(document));
            } else if !text.contains(&passed) {
                complaints.push(format!("no schema has accepted {kind} {name}"));
            }
        }
        complaints
    }
}

/// What is wrong with a PodMonitor, by the types that are generated from the definitions which its operator publishes. They pass over
/// what they do not know: it has to be the same when it was read.
fn pod_monitor(document: &Value) -> Option<String> {
    const READ: &str = "
import json, sys
from cloudcoil.models.prometheus_operator.v1 import PodMonitor
written = json.load(sys.stdin)
read = json.loads(PodMonitor.model_validate(written).model_dump_json(by_alias=True, exclude_unset=True))
if read != written:
    sys.exit(f'unknown fields: {written} is read as {read}')
";
    let read = python(READ, &document.to_string());
    (!read.status.success()).then(|| String::from_utf8_lossy(&read.stderr).into_owned())
}

/// What the Python that has the validators makes of this.
fn python(program: &str, input: &str) -> Output {
    let mut python = Command::new(validators("python"));
    python.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().expect("it starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("it reads");
    drop(pipe);
    child.wait_with_output().expect("it ends")
}

const ACCEPTED: [String; 0] = [];

#[test]
fn kustomize_builds_what_the_schemas_of_kubernetes_accept() {
    for overlay in OVERLAYS {
        assert_eq!(Manifests::build(overlay).complaints(), ACCEPTED, "{overlay}");
    }
    let manifests = Manifests::build(OVERLAYS[0]);
    for (text, wrong) in [("hostPID: true", "hostPids: true"), ("kind: DaemonSet", "kind: DeamonSet")] {
        let said = manifests.with(text, wrong).complaints();
        assert!(!said.is_empty(), "the validator has to be able to say no to {wrong}");
    }
}

#[test]
fn a_pod_monitor_that_the_operator_would_not_understand_is_refused() {
    let right =
        fs::read_to_string(deploy("kubernetes/components/podmonitor/podmonitor.yaml")).expect("a file");
    let right = Manifests::parse(right);
    assert_eq!(pod_monitor(right.kind("PodMonitor")), None);
    for (text, wrong) in [
        ("honorLabels: true", "honourLabels: true"),
        ("interval: 30s", "interval: soon"),
        ("monitoring.coreos.com/v1", "monitoring.coreos.com/v2"),
    ] {
        assert!(pod_monitor(&right.with(text, wrong).documents[0]).is_some(), "{wrong}");
    }
}

#[test]
fn every_component_fits_every_overlay() {
    for overlay in OVERLAYS {
        // kustomize takes paths below and beside, and none from the root.
        let folder = tempfile::Builder::new()
            .prefix("reaper-")
            .tempdir_in(crate::tree().join("target"))
            .expect("a folder");
        let components: Vec<String> =
            COMPONENTS.iter().map(|name| format!("../../deploy/kubernetes/components/{name}")).collect();
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
             resources: [../../deploy/kubernetes/overlays/{overlay}]\ncomponents: [{}]\n",
            components.join(", ")
        );
        fs::write(folder.path().join("kustomization.yaml"), text).expect("a file");
        let manifests = Manifests::of(folder.path());
        assert_eq!(manifests.complaints(), ACCEPTED, "{overlay}");
        let roles = manifests.documents.iter().filter(|document| document["kind"] == "ClusterRole");
        let rules: Vec<&Value> = roles.map(|role| &role["rules"]).collect();
        // What reaper-user/src/kubernetes asks of the API, and nothing else.
        assert_eq!(
            rules,
            [
                &json!([{ "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] }]),
                &json!([{ "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] }]),
            ]
        );
        let args = manifests.container()["args"].as_array().expect("arguments");
        let help = output(
            Command::new(crate::dist().join("x86_64-unknown-linux-gnu/reaper")).args(["run", "--help"]),
        );
        for flag in ["--kubernetes-events", "--kubernetes-node-zombies"] {
            assert!(args.iter().any(|arg| arg.as_str().is_some_and(|arg| arg.starts_with(flag))), "{args:?}");
            assert!(help.contains(flag), "{help}");
        }
        assert_eq!(manifests.pod()["automountServiceAccountToken"], true);
        let scraped = &manifests.kind("PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"];
        assert_eq!(*scraped, manifests.container()["ports"][0]["name"]);
    }
}

#[test]
fn the_pod_is_not_privileged_and_its_root_cannot_be_written() {
    for overlay in OVERLAYS {
        let manifests = Manifests::build(overlay);
        let context = &manifests.container()["securityContext"];
        assert_eq!(context["privileged"], false);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(manifests.pod()["automountServiceAccountToken"], false);
        let writable: Vec<&str> = manifests.container()["volumeMounts"]
            .as_array()
            .expect("mounts")
            .iter()
            .filter(|mount| mount["readOnly"] != true)
            .filter_map(|mount| mount["mountPath"].as_str())
            .collect();
        assert_eq!(writable, ["/sys/fs/bpf", "/run/reaper"], "{overlay}");
    }
}

#[test]
fn the_configurations_in_the_manifests_are_right() {
    for overlay in OVERLAYS {
        let manifests = Manifests::build(overlay);
        let text = manifests.kind("ConfigMap")["data"]["reaper.toml"].as_str().expect("a file");
        let config = reaper::config::Config::parse(Path::new("reaper.toml"), text).expect("a configuration");
        assert_eq!(config.rules.len(), usize::from(overlay == "reap-adopted"));
    }
}
