//! Runtimes are found where they usually listen, without anything being configured.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{is_of, wrong::Leaking};
use crate::{
    metrics::page::{ANY, Page, address},
    support::{Cri, Daemon, Says, machine},
};

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
        assert!(
            !socket.exists(),
            "{} is a runtime's: this test needs a machine without it",
            socket.display()
        );
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
        daemon.until("a report", Duration::from_secs(20), |seen| is_of(seen, "zombie", &container.id));
        let names = [("workload", container.id.as_str()), ("namespace", "crawlers"), ("pod", "fetcher-7c9d")];
        Page::when(&address(&daemon), socket, |page| page.sum("reaper_workload_info", &names) == 1.0);
        assert!(cri.was_asked(), "{socket}");
        daemon.end();
    }
}
