//! A runtime that is there and says what is wrong, or nothing: reports are on time and have ids, it is said and counted, the runtime
//! is asked again ever more rarely, and the names come when it says better.

use std::{
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use super::{daemon, event, is_of, names};
use crate::{
    metrics::page::{Page, address},
    support::{Cgroup, Cri, Says, machine},
};

const NAMES: [&str; 4] = ["crawlers", "fetcher-7c9d", "fetcher", "registry.test/fetcher:1"];

/// Twice what a runtime may take to answer is on the way to the first report, where that waited for it.
const LATE: f64 = 2.0;

/// A container of containerd's, as its cgroup says; its process holds a zombie until this is dropped.
pub(super) struct Leaking {
    pub(super) id: String,
    child: Child,
    _cgroup: Cgroup,
}

impl Leaking {
    pub(super) fn start(number: u32) -> Self {
        let id = format!("{:032x}{:032x}", std::process::id(), number);
        Self::within(&format!("cri-containerd-{id}.scope"), &id)
    }

    /// In a cgroup of this name.
    pub(super) fn within(name: &str, id: &str) -> Self {
        let cgroup = Cgroup::new(name);
        let script = "import os, sys\nif os.fork() == 0: os._exit(0)\nos.kill(os.getpid(), 19)";
        let mut command = cgroup.command(Path::new("/usr/bin/python3"));
        let child = command.args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
        Self { id: id.to_owned(), child, _cgroup: cgroup }
    }
}

impl Drop for Leaking {
    fn drop(&mut self) {
        // Or it would be a zombie of the tests themselves, which later ones look for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn asked(page: &Page, result: &str) -> f64 {
    page.sum("reaper_name_requests_total", &[("runtime", "cri"), ("result", result)])
}

/// How often the names of this container are in the metrics.
fn named(page: &Page, id: &str, names: [&str; 4]) -> f64 {
    let [namespace, pod, container, image] = names;
    let labels = [
        ("workload", id),
        ("namespace", namespace),
        ("pod", pod),
        ("container", container),
        ("image", image),
    ];
    page.sum("reaper_workload_info", &labels)
}

/// What comes of a runtime that says this. `known` are the names in spite of it, `result` is what it is counted as, and the log has
/// `why`.
fn goes_wrong(number: u32, says: Says, known: [&str; 4], result: &str, why: &str) {
    let directory = tempfile::tempdir().unwrap();
    let cri = Cri::start(&directory.path().join("cri.sock"), says);
    let mut daemon = daemon("", "cri", cri.socket());
    let address = address(&daemon);
    let container = Leaking::start(number);
    let report = event(&mut daemon, "a report", |seen| is_of(seen, "zombie", &container.id));
    let age = report.event["age_seconds"].as_f64().unwrap();
    assert!(age < LATE, "{says:?}: {age} s");
    if known == [""; 4] {
        assert_eq!(names(&report), known, "{says:?}: nobody has told");
    }
    // It is asked again while it goes on, after ever longer pauses.
    let page = Page::when(&address, "it is asked three times", |page| asked(page, result) >= 3.0);
    assert_eq!(asked(&page, "answered"), 0.0, "{says:?}");
    let pauses = cri.pauses("ListContainers");
    assert!(
        pauses[0] >= Duration::from_secs(1) && pauses[1] >= Duration::from_secs(2),
        "{says:?}: {pauses:?}"
    );
    assert_eq!(named(&page, &container.id, known), f64::from(known != [""; 4]), "{says:?}: {}", page.text);
    let log = daemon.log();
    let socket = cri.socket().to_str().unwrap();
    let said = |line: &&str| line.contains("WARN") && line.contains(socket) && line.contains(why);
    assert_eq!(log.lines().filter(said).count(), 1, "{says:?}, {why:?} once: {log}");

    cri.say(Says::Names);
    let page = Page::when(&address, "its names", |page| named(page, &container.id, NAMES) == 1.0);
    assert!(asked(&page, "answered") >= 1.0, "{says:?}");
    let losses = page.sum("reaper_lost_total", &[("stage", "names")]);
    assert_eq!(losses, 0.0, "{says:?}: it was late and not lost");
    drop(container);
    daemon.end();
}

#[test]
fn answers_that_are_no_names_leave_the_id_and_are_said_counted_and_asked_for_again() {
    let _machine = machine();
    let wrong = [
        (Says::Garbage, "ListContainers: Internal: "),
        (Says::TooMuch, "ListPodSandbox: OutOfRange: "),
        (Says::AnotherContainer, "ListContainers: the answer is about another container"),
        (Says::AnotherPod, "ListPodSandbox: the answer is about another pod"),
        (Says::NoMetadata, "ListContainers: the container has no metadata"),
        (Says::Error, "ListContainers: Internal: the disk is on fire"),
    ];
    for (number, (says, why)) in (0..).zip(wrong) {
        goes_wrong(number, says, [""; 4], "wrong", why);
    }
    goes_wrong(20, Says::Nothing, [""; 4], "failed", "no answer within 2s");
}

#[test]
fn where_only_the_images_name_is_not_told_the_rest_is_known_and_it_comes_later() {
    let _machine = machine();
    let [namespace, pod, container, _] = NAMES;
    let known = [namespace, pod, container, "sha256:0123"];
    goes_wrong(30, Says::NoStatus, known, "wrong", "ContainerStatus: Unknown: the disk is on fire");
    goes_wrong(31, Says::SilentStatus, known, "wrong", "ContainerStatus: no answer");
}

#[test]
fn a_socket_that_appears_later_brings_the_names_of_what_was_reported_before() {
    let _machine = machine();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cri.sock");
    let mut daemon = daemon("", "cri", &socket);
    let address = address(&daemon);
    let early = Leaking::start(40);
    let report = event(&mut daemon, "a report", |seen| is_of(seen, "zombie", &early.id));
    assert_eq!(names(&report), [""; 4], "there is nobody to ask");
    let page = Page::take(&address);
    assert_eq!([asked(&page, "answered"), asked(&page, "failed"), asked(&page, "wrong")], [0.0; 3]);
    let _cri = Cri::start(&socket, Says::Names);
    // Whoever it answers first is not the only one.
    let late = Leaking::start(41);
    event(&mut daemon, "another report", |seen| is_of(seen, "zombie", &late.id));
    Page::when(&address, "the names of both", |page| {
        [&early, &late].iter().all(|container| named(page, &container.id, NAMES) == 1.0)
    });
    daemon.end();
}
