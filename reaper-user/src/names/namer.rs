//! The thread that asks, and the handle to it.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc::{self, Sender, error::TrySendError},
    task::JoinSet,
};

use super::{
    Asked, Counts, Key, Named,
    cache::{Cache, Outcomes, Places, bit},
    cri::Cri,
    docker::Docker,
    systemd::Systemd,
    worker::work,
};
use crate::workload::{Kind, Workload};

/// Questions that wait for one runtime.
const QUEUE: usize = 256;

/// Where those listen who are asked; nobody is asked where there is none. Eight of them at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Of the Container Runtime Interface.
    pub cri: Vec<PathBuf>,
    /// Of Docker.
    pub docker: Vec<PathBuf>,
    /// Of Podman.
    pub podman: Vec<PathBuf>,
    /// Of the system's D-Bus, where systemd is.
    pub systemd: Vec<PathBuf>,
}

impl Default for Settings {
    /// Where they listen unless somebody has told them otherwise.
    fn default() -> Self {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Self {
            cri: paths(&[
                "/run/containerd/containerd.sock",
                "/run/crio/crio.sock",
                "/run/k3s/containerd/containerd.sock",
            ]),
            docker: paths(&["/var/run/docker.sock"]),
            podman: paths(&["/run/podman/podman.sock"]),
            systemd: paths(&["/run/dbus/system_bus_socket"]),
        }
    }
}

/// What became of questions to runtimes of one kind, since the start. Where there is no socket, there is no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// Of which kind, as in `[names]`.
    pub of: &'static str,
    /// It has said what it calls the workload, or that it does not know it;
    pub answered: u64,
    /// what is wrong, or lacks something;
    pub wrong: u64,
    /// or nothing.
    pub failed: u64,
}

/// Knows what people call workloads, or has it asked for. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Namer {
    cache: Arc<Cache>,
    asked: Vec<(Asked, Sender<Key>)>,
    /// It was said that there is no runtime for pods.
    said: Arc<AtomicBool>,
}

impl Namer {
    /// Starts the thread. It ends when this and its clones are gone.
    ///
    /// # Errors
    /// A thread or a descriptor could not be had.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let Settings { cri, docker, podman, systemd } = settings;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut this = Self::default();
        let mut workers = JoinSet::new();
        let handle = runtime.handle();
        for (asked, sockets) in
            [(Asked::Cri, cri), (Asked::Docker, docker), (Asked::Podman, podman), (Asked::Systemd, systemd)]
        {
            for socket in sockets {
                let Some((place, questions)) = this.add(asked) else { break };
                let cache = Arc::clone(&this.cache);
                match asked {
                    Asked::Cri => workers.spawn_on(work(Cri::at(socket), place, cache, questions), handle),
                    Asked::Docker | Asked::Podman => {
                        workers.spawn_on(work(Docker::at(socket), place, cache, questions), handle)
                    }
                    Asked::Systemd => {
                        workers.spawn_on(work(Systemd::at(socket), place, cache, questions), handle)
                    }
                };
            }
        }
        if !this.asked.is_empty() {
            thread::Builder::new().name("names".to_owned()).spawn(move || {
                runtime.block_on(async { while workers.join_next().await.is_some() {} });
            })?;
        }
        Ok(this)
    }

    /// One more who is asked; `None` where there are as many as there can be.
    fn add(&mut self, asked: Asked) -> Option<(usize, mpsc::Receiver<Key>)> {
        let place = self.asked.len();
        if place >= Places::BITS as usize {
            return None;
        }
        let (sender, questions) = mpsc::channel(QUEUE);
        self.asked.push((asked, sender));
        Some((place, questions))
    }

    /// What is known of its names now. What is not known is asked for, and may be known the next time. Never blocks.
    #[must_use]
    pub fn of(&self, workload: &Workload) -> Named {
        self.ask(workload, true)
    }

    /// The same, for what is looked at time and again: what there is no room to ask for now is asked for the next time, and nothing is
    /// lost.
    #[must_use]
    pub fn followed(&self, workload: &Workload) -> Named {
        self.ask(workload, false)
    }

    fn ask(&self, workload: &Workload, once: bool) -> Named {
        let Some(key) = Key::of(workload) else { return Named::Nobody };
        let whom = |(place, (asked, _)): (usize, &(Asked, Sender<Key>))| {
            if key.is_for(*asked, workload.runtime) { bit(place) } else { 0 }
        };
        let places = self.asked.iter().enumerate().map(whom).fold(0, |all, bit| all | bit);
        if places == 0 {
            return Named::Nobody;
        }
        let (named, ask) = self.cache.of(&key, places, workload.kind == Kind::Pod, Instant::now());
        for (place, (_, questions)) in self.asked.iter().enumerate() {
            if ask & bit(place) != 0
                && let Err(TrySendError::Full(key) | TrySendError::Closed(key)) =
                    questions.try_send(key.clone())
            {
                // The next time that it is needed it is asked for anew.
                self.cache.unasked(&key, once && named == Named::Pending);
                return if named == Named::Pending { pending_for(&key) } else { named };
            }
        }
        if named != Named::Pending {
            return named;
        }
        if workload.kind == Kind::Pod
            && self.cache.nobody_is_there(&key)
            && !self.said.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "a pod has zombies, and no container runtime listens where it is looked for: pods are reported by their ids, and \
                 rules wait for names and labels; [names] cri (--names-cri) says where it listens, which a container needs a \
                 mount for"
            );
        }
        pending_for(&key)
    }

    /// The same, of what was asked for before: nobody is asked.
    #[must_use]
    pub fn known(&self, workload: &Workload) -> Named {
        Key::of(workload).map_or(Named::Nobody, |key| self.cache.known(&key))
    }

    /// Whether a label of it, or of the pod around it, says that it is to be left alone; `None` where that is not known yet.
    #[must_use]
    pub fn opts_out(&self, workload: &Workload) -> Option<bool> {
        let own = self.of(workload);
        let pod = match &own {
            // Its labels were told with these.
            Named::As(names) if names.pod.is_some() => Named::Nobody,
            _ => self.of(&Workload { kind: Kind::Pod, id: None, ..workload.clone() }),
        };
        let opts_out = |named: &Named| named.names().is_some_and(|names| names.opts_out);
        match [own, pod] {
            both if both.iter().any(opts_out) => Some(true),
            both if both.contains(&Named::Pending) => None,
            _ => Some(false),
        }
    }

    /// Waits until there is an answer to all that was asked, or none is to be expected soon; no longer than `patience`. For commands
    /// that show one answer and end.
    pub fn settle(&self, patience: Duration) {
        self.cache.settle(patience);
    }

    /// What became of questions, by whom they were for.
    #[must_use]
    pub fn requests(&self) -> Vec<Requests> {
        let mut all = Vec::<Requests>::new();
        for (place, (asked, _)) in self.asked.iter().enumerate() {
            let Outcomes { answered, wrong, failed } = self.cache.outcomes(place);
            match all.iter_mut().find(|of| of.of == asked.as_str()) {
                Some(of) => {
                    of.answered += answered;
                    of.wrong += wrong;
                    of.failed += failed;
                }
                None => all.push(Requests { of: asked.as_str(), answered, wrong, failed }),
            }
        }
        all
    }

    /// What was lost.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.cache.counts()
    }
}

/// That there is no answer yet. What a unit says of itself decides nothing, so nobody is to wait for it.
const fn pending_for(key: &Key) -> Named {
    match key {
        Key::Unit(_) => Named::Nobody,
        Key::Container(_) | Key::Pod(_) => Named::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::Names, text::Untrusted, workload::Runtime};

    const UID: &str = "5f1c3d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f";

    #[test]
    fn a_container_that_a_pod_runs_inside_itself_is_spared_by_the_pods_label() {
        let mut namer = Namer::default();
        let (cri, mut of_cri) = namer.add(Asked::Cri).unwrap();
        let (docker, mut of_docker) = namer.add(Asked::Docker).unwrap();
        let id = "a".repeat(64);
        let nested = Workload {
            kind: Kind::Container,
            id: Some(id.as_str().into()),
            runtime: Some(Runtime::Docker),
            pod_uid: Some(UID.into()),
            unit: None,
            cgroup: None,
        };
        let (container, pod) = (Key::Container(id), Key::Pod(UID.to_owned()));
        assert_eq!(namer.opts_out(&nested), None);
        assert_eq!((of_docker.try_recv(), of_cri.try_recv()), (Ok(container.clone()), Ok(pod.clone())));
        namer.cache.answer(&container, docker, Ok(None));
        assert_eq!(namer.opts_out(&nested), None, "the pod may say so");
        namer.cache.answer(&pod, cri, Ok(Some(Names { opts_out: true, ..Names::default() }.into())));
        assert_eq!(namer.opts_out(&nested), Some(true));
        // What is in no pod, and has names of its own.
        let alone = Workload { pod_uid: None, ..nested };
        assert_eq!(namer.opts_out(&alone), Some(false));
    }

    #[test]
    fn a_pod_is_asked_for_also_where_the_id_in_it_is_of_another_kind() {
        let mut namer = Namer::default();
        let (_, mut of_cri) = namer.add(Asked::Cri).unwrap();
        for id in [None, Some("kata-1".into()), Some("A".repeat(64).as_str().into())] {
            let pod_uid = Some(id.as_ref().map_or("none", Untrusted::as_str).into());
            let odd = Workload { kind: Kind::Pod, id, runtime: None, pod_uid, unit: None, cgroup: None };
            assert_eq!(namer.of(&odd), Named::Pending);
            assert!(matches!(of_cri.try_recv(), Ok(Key::Pod(_))));
        }
    }
}
