//! Runtimes are found where they usually listen, without anything being configured, and it is said where a pod's is not found.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{daemon, is_of, wrong::Leaking};
use crate::{
    metrics::page::{ANY, Page, address},
    support::{Cgroup, Cri, Daemon, Says, Seen, machine},
};

const SOON: Duration = Duration::from_secs(20);

/// Those that this machine has no runtime at; containerd's and Docker's own may be in use.
const SOCKETS: [&str; 2] = ["/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock"];

/// The folders that were missing above a socket; they go with it when this is dropped.
struct Place {
    socket: PathBuf,
    made: Vec<PathBuf>,
}

impl Place {
    fn at(socket: &str) -> Self {
        let socket = PathBuf::from(socket);
        // One that was killed while this ran has left its own.
        assert!(
            UnixStream::connect(&socket).is_err(),
            "{} is a runtime's: this test needs a machine without it",
            socket.display()
        );
        let _ = fs::remove_file(&socket);
        let folder = socket.parent().unwrap();
        let made = folder.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(folder).unwrap();
        Self { socket, made }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        for folder in &self.made {
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("could not remove {}: {error}", folder.display());
            }
        }
    }
}

#[test]
fn what_listens_at_a_usual_place_is_asked_without_being_configured() {
    let _machine = machine();
    for (number, socket) in (50..).zip(SOCKETS) {
        let place = Place::at(socket);
        let cri = Cri::start(&place.socket, Says::Names);
        let mut daemon = Daemon::run(&[&["--age", "400ms"], &ANY[..]].concat());
        let container = Leaking::start(number);
        daemon.until("a report", SOON, |seen| is_of(seen, "zombie", &container.id));
        let names = [("workload", container.id.as_str()), ("namespace", "crawlers"), ("pod", "fetcher-7c9d")];
        Page::when(&address(&daemon), socket, |page| page.sum("reaper_workload_info", &names) == 1.0);
        assert!(cri.was_asked(), "{socket}");
        daemon.end();
    }
}

#[test]
fn where_a_pods_runtime_is_not_found_that_is_said_once() {
    let _machine = machine();
    let mut daemon = daemon("", "cri", Path::new("/nonexistent/containerd.sock"));
    let said = "no container runtime listens where it is looked for";
    // A container that no kubelet has made may be anybody's.
    let container = Leaking::start(60);
    daemon.until("a report", SOON, |seen| is_of(seen, "zombie", &container.id));
    assert!(!daemon.log().contains(said), "{}", daemon.log());
    // As a kubelet places them; each is removed after those in it.
    let [_above, _of_pods, _of_their_class] =
        ["reaper-usual", "reaper-usual/kubepods", "reaper-usual/kubepods/besteffort"].map(Cgroup::new);
    for uid in ["11111111-2222-3333-4444-555555555555", "11111111-2222-3333-4444-666666666666"] {
        let pod = Leaking::within(&format!("reaper-usual/kubepods/besteffort/pod{uid}"), "");
        let came = |event| move |seen: &Seen| seen.is(event) && seen.text("/workload/pod_uid") == uid;
        daemon.until("a report", SOON, came("zombie"));
        drop(pod);
        daemon.until("its release", SOON, came("released"));
    }
    let log = daemon.log();
    assert_eq!(log.matches(said).count(), 1, "{log}");
    daemon.end();
}
