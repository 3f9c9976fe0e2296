//! The manifests: kustomize builds them, the schemas of Kubernetes accept them.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
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
        let text = output(Command::new("kubectl").arg("kustomize").arg(folder));
        let mut python = Command::new(validators("python"));
        python.args([
            "-c",
            "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)",
        ]);
        let documents = serde_json::from_str(&fed(&mut python, &text)).expect("JSON");
        Self { text, documents }
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

    fn validate(&self) -> std::process::Output {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
        fs::write(file.path(), &self.text).expect("a file");
        let mut validate = Command::new(validators("kubernetes-validate"));
        validate.arg("--strict").arg(file.path()).output().expect("it runs")
    }
}

fn fed(command: &mut Command, text: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn kustomize_builds_what_the_schemas_of_kubernetes_accept() {
    for overlay in OVERLAYS {
        let manifests = Manifests::build(overlay);
        let said = manifests.validate();
        assert!(said.status.success(), "{overlay}: {said:?}");
        let wrong = Manifests {
            text: manifests.text.replace("hostPID: true", "hostPids: true"),
            documents: manifests.documents,
        };
        assert!(!wrong.validate().status.success(), "the validator has to be able to say no");
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
        let said = manifests.validate();
        assert!(said.status.success(), "{overlay}: {said:?}");
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
