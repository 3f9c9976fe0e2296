//! The image under what the manifests say: podman and runc start it with the overlay's capabilities, mounts, read-only root and seccomp
//! profile, in the machine's pid namespace. A zombie of the test's own is in its report.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{capabilities::of_container, deploy, dist, manifests::Manifests, output, read};

const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of capabilities.
const NUMBERS: [(&str, u32); 6] = [
    ("BPF", 39),
    ("PERFMON", 38),
    ("DAC_READ_SEARCH", 2),
    ("SYS_PTRACE", 19),
    ("KILL", 5),
    ("SYS_ADMIN", 21),
];

/// Its containers' cgroups are below this one.
const PARENT: &str = "reaper-dist";

/// One container, with storage of its own; all of it is gone when this is dropped.
struct Container {
    folder: tempfile::TempDir,
    id: String,
}

impl Container {
    fn start(manifests: &Manifests) -> Self {
        Self::start_without(manifests, None)
    }

    /// Without one of its mounts.
    fn start_without(manifests: &Manifests, mount: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut container = Self { folder, id: String::new() };
        let archive = dist().join("reaper.oci.tar");
        let loaded = output(container.podman().args(["load", "--quiet", "--input"]).arg(archive));
        let image = loaded.trim().rsplit(' ').next().expect("a name").to_owned();
        let mut run = container.podman();
        run.args(["run", "--detach", "--network=none"]);
        run.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
        run.arg(format!("--cgroup-parent=/{PARENT}"));
        run.args(container.options(manifests, mount)).arg(image).args(arguments(manifests.container()));
        container.id = output(&mut run).trim().to_owned();
        container
    }

    fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        podman.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
        // crun does not do where both cgroup v1 and v2 are mounted.
        podman.arg("--runtime=runc");
        let at = |name: &str| self.folder.path().join(name);
        podman.arg("--root").arg(at("root")).arg("--runroot").arg(at("run"));
        podman
    }

    /// What the kubelet would tell the runtime.
    fn options(&self, manifests: &Manifests, without: Option<&str>) -> Vec<String> {
        let (pod, container) = (manifests.pod(), manifests.container());
        let context = &container["securityContext"];
        let mut options = vec!["--cap-drop=ALL".to_owned()];
        options.extend(of_container(container).iter().map(|name| format!("--cap-add={name}")));
        assert_eq!(pod["hostPID"], true);
        options.push("--pid=host".to_owned());
        if context["readOnlyRootFilesystem"] == true {
            options.extend(["--read-only", "--read-only-tmpfs=false"].map(str::to_owned));
        }
        if context["allowPrivilegeEscalation"] == false {
            options.push("--security-opt=no-new-privileges".to_owned());
        }
        options.push(format!("--user={}:{}", context["runAsUser"], context["runAsGroup"]));
        let profile = &context["seccompProfile"];
        options.push(match profile["localhostProfile"].as_str() {
            Some(file) => {
                let file = file.strip_prefix("reaper/").expect("the folder of the kubelet");
                format!("--security-opt=seccomp={}", deploy("kubernetes/seccomp").join(file).display())
            }
            None => {
                assert_eq!(profile["type"], "Unconfined");
                "--security-opt=seccomp=unconfined".to_owned()
            }
        });
        let volumes = pod["volumes"].as_array().expect("volumes");
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            if mount["name"].as_str() == without {
                continue;
            }
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("its volume");
            let source = match volume["hostPath"]["path"].as_str() {
                Some(path) => {
                    if volume["hostPath"]["type"] == "DirectoryOrCreate" {
                        fs::create_dir_all(path).expect("as root");
                    }
                    PathBuf::from(path)
                }
                None => self.config_map(manifests),
            };
            let flags = if mount["readOnly"] == true { "ro,rbind" } else { "rw,rbind" };
            let place = mount["mountPath"].as_str().expect("a place");
            options.push(format!("--volume={}:{place}:{flags}", source.display()));
        }
        options
    }

    /// As the kubelet lays it out: a link to a folder of this version's, in a folder that everybody may write to.
    fn config_map(&self, manifests: &Manifests) -> PathBuf {
        let folder = self.folder.path().join("config");
        fs::create_dir_all(folder.join("..1")).expect("a folder");
        let text = manifests.kind("ConfigMap")["data"]["reaper.toml"].as_str().expect("a file");
        let file = folder.join("..1/reaper.toml");
        fs::write(&file, format!("age = '1s'\n{text}")).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("ours");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("ours");
        symlink("..1", folder.join("..data")).expect("a link");
        symlink("..data/reaper.toml", folder.join("reaper.toml")).expect("a link");
        folder
    }

    fn pid(&self) -> u32 {
        let pid = output(self.podman().args(["inspect", "--format={{.State.Pid}}", &self.id]));
        pid.trim().parse().expect("a pid")
    }

    fn logs(&self) -> String {
        let output = self.podman().args(["logs", &self.id]).output().expect("it runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    fn until<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}\n{}", self.logs());
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn zombie(&self, pid: u32) -> Value {
        self.until("the report", || {
            let logs = self.logs();
            let mut events = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events.find(|event| event["event"] == "zombie" && event["pid"] == pid)
        })
    }

    /// What a probe is answered, from within its network.
    fn probe(&self, path: &str) -> String {
        let script = "exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET %s HTTP/1.0\\r\\n\\r\\n' \"$0\" >&3 && head -1 <&3";
        let mut probe = Command::new("nsenter");
        probe.arg(format!("--net=/proc/{}/ns/net", self.pid())).args(["bash", "-c", script, path]);
        String::from_utf8_lossy(&probe.output().expect("it runs").stdout).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let unload = dist().join("x86_64-unknown-linux-gnu/reaper");
        let _ = self.podman().args(["rm", "--force", "--all", "--time=2"]).output();
        let _ = Command::new(unload).arg("unload").output();
        let _ = self.podman().args(["system", "reset", "--force"]).output();
        remove_cgroups();
    }
}

/// In each hierarchy, with what podman has left below it. Its monitor may take a moment to leave its own.
fn remove_cgroups() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
    for mount in cgroups.filter_map(|line| line.split(' ').nth(4)) {
        let cgroup = Path::new(mount).join(PARENT);
        let deadline = Instant::now() + Duration::from_secs(10);
        while cgroup.exists() && !remove(&cgroup) {
            if Instant::now() > deadline {
                // A panic in a panic would hide the first.
                assert!(thread::panicking(), "could not remove {}", cgroup.display());
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok()
}

fn arguments(container: &Value) -> Vec<String> {
    let list = container["args"].as_array().expect("arguments");
    list.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

/// A child that has ended and is not waited for before this is dropped.
struct Leak(Child);

impl Leak {
    fn new() -> Self {
        Self(Command::new("true").spawn().expect("it starts"))
    }
}

impl Drop for Leak {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

/// A number in /proc/PID/status.
fn status(pid: u32, field: &str, radix: u32) -> u64 {
    let text = read(&Path::new("/proc").join(pid.to_string()).join("status"));
    let value = text.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel knows that field");
    u64::from_str_radix(value.trim(), radix).expect("a number")
}

/// `seccomp`: the mode, as /proc has it.
fn runs_and_reports(overlay: &str, seccomp: u64) {
    let manifests = Manifests::build(overlay);
    let container = Container::start(&manifests);
    container.until("the first probe", || container.probe("/healthz").contains(" 200 ").then_some(()));
    container.until("it is ready", || container.probe("/readyz").contains(" 200 ").then_some(()));

    let pid = container.pid();
    let wanted = of_container(manifests.container());
    let mask =
        NUMBERS.iter().filter(|(name, _)| wanted.contains(*name)).fold(0, |mask, (_, bit)| mask | 1 << bit);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(status(pid, set, 16), mask, "{set}");
    }
    assert_eq!((status(pid, "Seccomp:", 10), status(pid, "NoNewPrivs:", 10)), (seccomp, 1));

    let leak = Leak::new();
    let zombie = container.zombie(leak.0.id());
    assert_eq!(zombie["holder"]["pid"], std::process::id());
    // By those in the container, under the same limits.
    let listed = output(container.podman().args(["exec", &container.id, "/reaper", "ls"]));
    assert!(listed.contains(&leak.0.id().to_string()) && listed.contains("the running daemon"), "{listed}");
    let logs = container.logs();
    // A call that the profile refuses is something that the daemon goes without, and says so.
    for less in ["not held", "ERROR", "inotify"] {
        assert!(!logs.contains(less), "{less}: {logs}");
    }
}

#[test]
fn the_image_reports_a_leak_with_four_capabilities_under_the_shipped_profile() {
    runs_and_reports("report-only", 2);
}

#[test]
fn the_image_with_remedies_reports_it_with_six_and_under_no_profile() {
    runs_and_reports("reap-adopted", 0);
}

/// What is said where a mount is missing, and whether zombies are reported all the same. Of pods' names, only where a pod has
/// zombies: that is with the tests of names.
const MOUNTS: [(&str, Option<&str>, bool); 5] = [
    ("config", Some("/etc/reaper/reaper.toml"), false),
    ("bpf", Some("/sys/fs/bpf"), false),
    ("cgroup", Some("mount the host's /sys/fs/cgroup"), true),
    ("run", Some("/run/reaper"), false),
    ("cri", None, true),
];

#[test]
fn without_any_one_of_its_mounts_it_says_what_is_missing_or_goes_without() {
    let manifests = Manifests::build("report-only");
    let all = manifests.container()["volumeMounts"].as_array().expect("mounts");
    assert_eq!(all.len(), MOUNTS.len(), "{all:?}");
    for (mount, said, reports) in MOUNTS {
        assert!(all.iter().any(|one| one["name"] == mount), "{mount}");
        let container = Container::start_without(&manifests, Some(mount));
        if let Some(said) = said {
            container.until(mount, || container.logs().contains(said).then_some(()));
        }
        if reports {
            let leak = Leak::new();
            assert_eq!(container.zombie(leak.0.id())["holder"]["pid"], std::process::id(), "{mount}");
        } else {
            // Not in a loop of its own: whoever runs it decides.
            container.until("its end", || (container.pid() == 0).then_some(()));
        }
    }
}
