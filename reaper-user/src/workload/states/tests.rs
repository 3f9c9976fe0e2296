use std::os::unix::fs::symlink;

use super::*;
use crate::workload::Workload;

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn runc(&self, place: &str, id: &str, v2: &str, pids: &str) {
        let text = format!(r#"{{"id":"{id}","config":{{}},"cgroup_paths":{{"":"{v2}","pids":"{pids}"}}}}"#);
        self.write(&format!("{place}/{id}/state.json"), &text);
    }

    fn ask(&self, v2: &str, v1: &str) -> Workload {
        ask(&mut RuntimeStates::at(self.0.path()), v2, v1)
    }
}

fn ask(states: &mut RuntimeStates, v2: &str, v1: &str) -> Workload {
    let (v2, v1) = (Some(v2.as_bytes()), Some(v1.as_bytes()));
    let mut reading = Reading::best(v2, v1).unwrap();
    states.complete(&mut reading, v2, v1);
    reading.workload()
}

fn is(workload: &Workload, kind: Kind, id: &str, runtime: Option<Runtime>) {
    let found = workload.id.as_ref().map(crate::text::Untrusted::as_str);
    assert_eq!((workload.kind, found, workload.runtime), (kind, Some(id), runtime));
}

#[test]
fn a_container_of_runc_is_found_by_the_cgroups_it_was_given() {
    let host = Host::new();
    host.runc("run/runc", "web", "/sys/fs/cgroup/unified/leaky", "/sys/fs/cgroup/pids/caller/leaky");
    is(&host.ask("/leaky", "/"), Kind::Container, "web", Some(Runtime::Oci));
    is(&host.ask("/", "/caller/leaky"), Kind::Container, "web", Some(Runtime::Oci));
    is(&host.ask("/leaky/inner", "/"), Kind::Container, "web", Some(Runtime::Oci));
    assert_eq!(host.ask("/leaky2", "/caller").kind, Kind::Host);
    assert_eq!(host.ask("/", "/").kind, Kind::Host);
}

#[test]
fn on_pure_v2_the_hierarchy_is_mounted_one_level_higher() {
    let host = Host::new();
    let text = r#"{"id":"web","cgroup_paths":{"":"/sys/fs/cgroup/a/leaky"}}"#;
    host.write("run/runc/web/state.json", text);
    is(&host.ask("/a/leaky", "/"), Kind::Container, "web", Some(Runtime::Oci));
    assert_eq!(host.ask("/leaky", "/").kind, Kind::Host);
}

#[test]
fn a_container_of_crun_is_found_in_both_hierarchies() {
    let host = Host::new();
    let text = r#"{"pid": 1, "cgroup-path": "/rel/leaky", "scope": "", "systemd-cgroup": false}"#;
    host.write("run/crun/db/status", text);
    is(&host.ask("/rel/leaky/container", "/"), Kind::Container, "db", Some(Runtime::Oci));
    is(&host.ask("/", "/rel/leaky"), Kind::Container, "db", Some(Runtime::Oci));
}

#[test]
fn the_closest_of_nested_claims_wins() {
    let host = Host::new();
    host.runc("run/runc", "outer", "/sys/fs/cgroup/unified/a", "/sys/fs/cgroup/pids/a");
    host.runc("run/runc", "inner", "/sys/fs/cgroup/unified/a/b", "/sys/fs/cgroup/pids/a/b");
    is(&host.ask("/a/b/c", "/a/b/c"), Kind::Container, "inner", Some(Runtime::Oci));
    is(&host.ask("/a/c", "/a/c"), Kind::Container, "outer", Some(Runtime::Oci));
}

#[test]
fn a_container_below_a_unit_or_in_a_scope_of_its_own_is_found() {
    let host = Host::new();
    let below = "system.slice/ci.service/job";
    host.runc("run/runc", "a", &format!("/sys/fs/cgroup/unified/{below}"), "/sys/fs/cgroup/pids/x");
    host.runc("run/runc", "b", "/sys/fs/cgroup/unified/system.slice/cri-foo.scope", "/sys/fs/cgroup/pids/y");
    let workload = host.ask(&format!("/{below}"), "/");
    is(&workload, Kind::Container, "a", Some(Runtime::Oci));
    assert_eq!(workload.unit.unwrap().as_str(), "ci.service");
    is(&host.ask("/system.slice/cri-foo.scope", "/"), Kind::Container, "b", Some(Runtime::Oci));
}

#[test]
fn a_manager_above_the_runtime_is_named() {
    let host = Host::new();
    let id = "ab".repeat(32);
    host.runc(
        "run/containerd/runc/default",
        "job",
        "/sys/fs/cgroup/unified/default/job",
        "/sys/fs/cgroup/pids/",
    );
    host.runc("run/containerd/runc/k8s.io", &id, "", "");
    is(&host.ask("/default/job", "/"), Kind::Container, "job", Some(Runtime::Containerd));
    let pod = "/kubepods/pod8dbc5577-d0e2-4706-8787-57d52c03ddf2";
    is(&host.ask(&format!("{pod}/{id}"), "/"), Kind::Pod, &id, Some(Runtime::Containerd));
    let other = "cd".repeat(32);
    is(&host.ask(&format!("{pod}/{other}"), "/"), Kind::Pod, &other, None);
    host.runc("run/docker/runtime-runc/moby", &other, "", "");
    is(&host.ask(&format!("{pod}/{other}"), "/"), Kind::Pod, &other, Some(Runtime::Docker));
}

#[test]
fn incus_is_told_from_lxc_by_its_own_directory() {
    let host = Host::new();
    is(&host.ask("/lxc.payload.web", "/"), Kind::Machine, "web", Some(Runtime::Lxc));
    host.write("var/lib/incus/containers/dev_web/x", "");
    is(&host.ask("/lxc.payload.dev_web", "/"), Kind::Machine, "dev_web", Some(Runtime::Incus));
    is(&host.ask("/lxc.payload..", "/"), Kind::Machine, ".", Some(Runtime::Lxc));
}

#[test]
fn what_is_not_a_state_file_is_not_believed() {
    let host = Host::new();
    for (id, text) in
        [("a", "{"), ("b", "[]"), ("c", r#"{"id":"../x","cgroup_paths":{"":"/sys/fs/cgroup/c"}}"#)]
    {
        host.write(&format!("run/runc/{id}/state.json"), text);
    }
    host.write("run/crun/d/status", r#"{"cgroup-path":""}"#);
    host.write("real", r#"{"id":"e","cgroup_paths":{"":"/sys/fs/cgroup/e"}}"#);
    fs::create_dir_all(host.0.path().join("run/runc/e")).unwrap();
    symlink(host.0.path().join("real"), host.0.path().join("run/runc/e/state.json")).unwrap();
    fs::create_dir_all(host.0.path().join("run/runc/f/state.json")).unwrap();
    for path in ["/a", "/b", "/c", "/d", "/e", "/f"] {
        assert_eq!(host.ask(path, "/").kind, Kind::Host, "{path}");
    }
}

#[test]
fn a_file_of_another_owner_is_not_believed() {
    let host = Host::new();
    host.runc("run/runc", "a", "/sys/fs/cgroup/unified/a", "/sys/fs/cgroup/pids/a");
    let mut states = RuntimeStates::at(host.0.path());
    states.owner = states.owner.map(|owner| owner + 1);
    assert_eq!(ask(&mut states, "/a", "/").kind, Kind::Host);
}

#[test]
fn a_state_that_changed_is_read_again_and_one_that_is_gone_is_forgotten() {
    let host = Host::new();
    let mut states = RuntimeStates::at(host.0.path());
    assert_eq!(ask(&mut states, "/a", "/").kind, Kind::Host);
    host.runc("run/runc", "web", "/sys/fs/cgroup/unified/a", "/sys/fs/cgroup/pids/a");
    is(&ask(&mut states, "/a", "/"), Kind::Container, "web", Some(Runtime::Oci));
    host.runc("run/runc", "web", "/sys/fs/cgroup/unified/other", "/sys/fs/cgroup/pids/other");
    assert_eq!(ask(&mut states, "/a", "/").kind, Kind::Host);
    is(&ask(&mut states, "/other", "/"), Kind::Container, "web", Some(Runtime::Oci));
    fs::remove_dir_all(host.0.path().join("run/runc/web")).unwrap();
    assert_eq!(ask(&mut states, "/other", "/").kind, Kind::Host);
}
