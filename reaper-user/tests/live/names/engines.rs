//! Podman and Docker: what runs containers that are called by names of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{daemon, event, is_of, names, said};
use crate::support::{
    Daemon, IMAGE, Image, Parent, Seen, each_line, machine, program, run, run_briefly, signal,
};

/// A container that leaks, whatever runs it: on the host's network, with limits that may be set anywhere (Podman raises them where
/// it may, and fails where it may not).
const RUN: [&str; 7] = [
    "run",
    "--detach",
    "--network=host",
    "--name=shop-web",
    "--label=app=shop",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
];

/// Podman's containers' cgroups are below this one.
const PARENT: &str = "reaper-live-podman";

/// Podman's service with a container; both are ended when this is dropped.
struct Podman {
    service: Child,
    directory: tempfile::TempDir,
    /// Last, when its containers have ended.
    _cgroups: Parent,
}

impl Podman {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = format!("unix://{}", directory.path().join("podman.sock").display());
        let service = Self::command(directory.path())
            .args(["system", "service", "--time=0", &socket])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { service, directory, _cgroups: Parent(PARENT) }
    }

    /// With places of its own, and without a network.
    fn command(directory: &Path) -> Command {
        let mut podman = Command::new(program("podman"));
        let at = |name: &str| directory.join(name);
        podman.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
        // crun does not do where both cgroup v1 and v2 are mounted.
        podman.arg("--runtime").arg(program("runc"));
        podman.arg("--root").arg(at("root")).arg("--runroot").arg(at("run"));
        podman
    }

    fn podman(&self, arguments: &[&str]) -> String {
        run(Self::command(self.directory.path()).args(arguments))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--force", "--all", "--time=0"]);
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// Docker's containers' cgroups are below this one.
const DOCKERS: &str = "reaper-live-docker";

/// A Docker daemon of the test's own; it is ended with its container when this is dropped.
struct Docker {
    daemon: Child,
    directory: tempfile::TempDir,
    /// Last, when its containers have ended.
    _cgroups: Parent,
}

impl Docker {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // Not the machine's own configuration.
        fs::write(at("daemon.json"), "{}").unwrap();
        // Nothing of the machine's own is changed: no bridge, no rules for packets.
        let mut daemon = Command::new(program("dockerd"))
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            .args(["--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs"])
            .arg(format!("--cgroup-parent=/{DOCKERS}/docker"))
            .arg("--config-file")
            .arg(at("daemon.json"))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg(format!("--host=unix://{}", at("docker.sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, lines) = (daemon.stderr.take().unwrap(), channel());
        let this = Self { daemon, directory, _cgroups: Parent(DOCKERS) };
        // It goes on writing when nobody listens any more.
        thread::spawn(move || {
            each_line(log, |line| drop(lines.0.send(String::from_utf8_lossy(&line).into_owned())));
        });
        let (deadline, mut said) = (Instant::now() + Duration::from_secs(30), String::new());
        while !said.contains("API listen on") {
            let line = lines.1.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            said += &line.unwrap_or_else(|_| panic!("dockerd does not listen:\n{said}"));
            said.push('\n');
        }
        this
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    fn command(&self) -> Command {
        let mut docker = Command::new(program("docker"));
        docker.arg(format!("--host=unix://{}", self.socket().display()));
        docker
    }

    fn docker(&self, arguments: &[&str]) -> String {
        run(self.command().args(arguments))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = run_briefly(self.command().args(["rm", "--force", "shop-web"]));
        signal(self.daemon.id(), libc::SIGTERM);
        let _ = self.daemon.wait();
        // It leaves the host's network namespace mounted for the container that was in it.
        let mounted = fs::read_dir(self.directory.path().join("exec/netns")).into_iter().flatten().flatten();
        for entry in mounted {
            let _ = run_briefly(Command::new(program("umount")).arg(entry.path()));
        }
    }
}

#[test]
fn a_container_of_podman_is_called_by_its_own_name() {
    let _machine = machine();
    let image = Image::make();
    let podman = Podman::start();
    podman.podman(&["load", "--input", image.archive().to_str().unwrap()]);
    let mut daemon = daemon("", "podman", &podman.directory.path().join("podman.sock"));
    let parent = format!("--cgroup-parent=/{PARENT}");
    let id = podman.podman(&[&RUN[..], &[&parent, IMAGE, "leak"]].concat()).trim().to_owned();
    assert_named(&mut daemon, &id);
    daemon.end();
}

#[test]
fn a_container_of_docker_is_called_by_its_own_name() {
    let _machine = machine();
    let image = Image::make();
    let docker = Docker::start();
    docker.docker(&["load", "--input", image.archive().to_str().unwrap()]);
    let mut daemon = daemon("", "docker", &docker.socket());
    let id = docker.docker(&[&RUN[..], &[IMAGE, "leak"]].concat()).trim().to_owned();
    let zombie = assert_named(&mut daemon, &id);
    assert_eq!(zombie.text("/workload/runtime"), "docker", "{zombie:?}");
    daemon.end();
}

/// The container's zombies are told by the names that it was started with.
fn assert_named(daemon: &mut Daemon, id: &str) -> Seen {
    let zombie = event(daemon, "a zombie of the container", |seen| {
        is_of(seen, "zombie", id) && seen.event.pointer("/workload/container").is_some_and(Value::is_string)
    });
    assert_eq!(names(&zombie), ["", "", "shop-web", IMAGE]);
    assert!(said(&["ls"]).contains(" shop-web "), "{}", said(&["ls"]));
    zombie
}
