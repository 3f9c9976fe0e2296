use std::path::Path;

use super::*;
use crate::{
    identity::BootTime,
    proc::Seen,
    remedy::{Heeds, OptOut},
    workload::{Cgroups, Limits, RuntimeStates},
};

const IDENTITY: Identity = Identity { pid: 70, start: BootTime(1_000_000_000) };

const OUTER: &str = "0::/docker/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n";
const INNER: &str = "0::/docker/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/docker/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n";
const UNIT: &str = "0::/system.slice/a.service\n";

fn sight(own: &str, parent: &str, below: &[&str]) -> Sight {
    Sight {
        seen: Seen {
            tgid: IDENTITY.pid,
            comm: "x".into(),
            state: 'S',
            parent: 50,
            start_ticks: 100,
            tracer: None,
            ns_pids: vec![70],
            group: 70,
            uid: 0,
            kernel_thread: false,
            handles_sigchld: false,
            heeds_sigchld: false,
            threads: 1,
            switches: 0,
        },
        executable: Some(Executable {
            path: "/usr/bin/app".into(),
            file: (1, 1),
            is_roots: true,
            in_init_user_ns: true,
        }),
        heeds: Heeds::No,
        opt_out: OptOut::No,
        ourselves: false,
        cgroup: Some(own.into()),
        parent_cgroup: Some(parent.into()),
        below: below.iter().map(|text| text.as_bytes().to_vec()).collect(),
    }
}

fn judge(guard: &mut Guard, sight: Sight) -> Holder {
    let nowhere = Path::new("/nonexistent");
    let cgroups = Cgroups::open(nowhere, Limits::default());
    let mut workloads = Workloads::new(cgroups, RuntimeStates::at(nowhere), 16);
    guard.judge(IDENTITY, Some(sight), &mut workloads)
}

fn protected(sight: Sight) -> Option<&'static str> {
    judge(&mut Guard::default(), sight).protected.map(|protected| protected.as_str())
}

#[test]
fn who_is_protected_by_structure_is_known_by_it() {
    let change = |change: &dyn Fn(&mut Sight)| {
        let mut sight = sight(UNIT, UNIT, &[]);
        change(&mut sight);
        protected(sight)
    };
    assert_eq!(change(&|_| {}), None);
    assert_eq!(change(&|sight| sight.seen.tgid = 1), Some("host-init"));
    assert_eq!(change(&|sight| sight.seen.kernel_thread = true), Some("kernel-thread"));
    assert_eq!(change(&|sight| sight.ourselves = true), Some("ourselves"));
    assert_eq!(change(&|sight| sight.seen.tracer = Some(9)), Some("traced"));
    assert_eq!(change(&|sight| sight.executable = None), Some("unclear"));
    assert_eq!(change(&|sight| sight.cgroup = None), Some("unclear"));
}

#[test]
fn who_is_above_a_container_and_outside_of_it_is_protected_at_any_nesting() {
    for (own, below, expected) in [
        (UNIT, OUTER, Some("above-container")),
        (UNIT, INNER, Some("above-container")),
        // PID 1 of a container that runs containers.
        (OUTER, INNER, Some("above-container")),
        // A browser's sandbox has a pid namespace of its own and is no container.
        (OUTER, OUTER, None),
        (INNER, INNER, None),
        (UNIT, UNIT, None),
        // What is not known for a container by its name, in a cgroup of its own.
        (UNIT, "0::/elsewhere\n", Some("above-container")),
        (UNIT, "0::/system.slice/a.service/sandbox\n", Some("above-container")),
        ("0::/system.slice/a.service/worker\n", UNIT, None),
    ] {
        assert_eq!(protected(sight(own, UNIT, &[below])), expected, "{own} above {below}");
    }
}

#[test]
fn what_runs_containers_is_known_by_its_executable_and_not_by_its_name_in_a_container() {
    let running = |path: &str, file, own: &str| {
        let mut sight = sight(own, UNIT, &[]);
        sight.executable =
            Some(Executable { path: path.into(), file, is_roots: true, in_init_user_ns: true });
        sight
    };
    let mut guard = Guard::default();
    let mut told = |sight| judge(&mut guard, sight).protected.map(|protected| protected.as_str());
    assert_eq!(
        told(running("/usr/lib/systemd/systemd", (9, 9), OUTER)),
        None,
        "anyone can take the name there"
    );
    assert_eq!(told(running("/opt/k8s/kubelet", (9, 9), UNIT)), Some("executable"));
    assert_eq!(told(running("/opt/k8s/kubelet.old", (9, 9), UNIT)), Some("executable"), "it was recorded");
    assert_eq!(told(running("/opt/k8s/kubelet.old", (9, 8), UNIT)), None);
    let mut users = running("/home/u/kubelet", (9, 7), UNIT);
    users.executable.as_mut().unwrap().is_roots = false;
    assert_eq!(told(users), None, "root must own it");
    let mut mounted = running("/home/u/kubelet", (9, 6), UNIT);
    mounted.executable.as_mut().unwrap().in_init_user_ns = false;
    assert_eq!(told(mounted), None, "a user can mount one file over another in a namespace of his own");
}

#[test]
fn an_executable_stays_protected_when_an_upgrade_takes_its_place() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("usr/bin/containerd");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "old").unwrap();
    let old = fs::metadata(&path).unwrap();
    let mut guard = Guard::default();
    guard.record(root.path());
    fs::rename(&path, root.path().join("kept")).unwrap();
    fs::write(&path, "new").unwrap();
    guard.record(root.path());
    let new = fs::metadata(&path).unwrap();
    assert_ne!(old.ino(), new.ino());
    for file in [old, new] {
        let mut sight = sight(OUTER, UNIT, &[]);
        sight.executable.as_mut().unwrap().file = (file.dev(), file.ino());
        assert!(matches!(judge(&mut guard, sight).protected, Some(Protected::Executable(_))));
    }
}

#[test]
fn a_containers_first_process_is_the_first_of_a_namespace_or_the_first_in_the_containers_cgroup() {
    let init = |own: &str, parent: &str| judge(&mut Guard::default(), sight(own, parent, &[])).container_init;
    assert!(init(OUTER, UNIT), "shares the host's pid namespace");
    assert!(init(INNER, OUTER));
    assert!(!init(OUTER, OUTER));
    assert!(!init(UNIT, "0::/\n"));
    let mut first = sight(UNIT, UNIT, &[]);
    first.seen.ns_pids = vec![70, 1];
    assert!(judge(&mut Guard::default(), first).container_init);
}

#[test]
fn another_process_with_its_pid_is_not_taken_for_it() {
    let mut other = sight(UNIT, UNIT, &[]);
    other.seen.start_ticks = 101;
    assert_eq!(judge(&mut Guard::default(), other), Holder::gone());
}

#[test]
fn its_workload_is_told_and_that_its_names_are_not_known_yet() {
    let holder = judge(&mut Guard::default(), sight(UNIT, UNIT, &[]));
    assert_eq!(holder.workload.unwrap().id, Some("a.service".into()));
    assert_eq!(holder.opts_out, None);
}
