//! Ids of cgroups → workload, each worked out once.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::{
    Workload,
    cgroups::{CgroupId, Cgroups, Hierarchy, ROOT},
    mounts::ProcCgroups,
    path::Reading,
    states::RuntimeStates,
};

/// Says whose a process is, by the cgroups that it died in.
#[derive(Debug)]
pub struct Workloads {
    cgroups: Cgroups,
    states: RuntimeStates,
    limit: usize,
    /// By the ids in both hierarchies. What the runtimes' files said stays right after they are gone.
    known: HashMap<(u64, u64), Workload>,
}

impl Workloads {
    /// Keeps at most `limit` workloads; [`super::Limits::entries`] is a good number.
    #[must_use]
    pub fn new(cgroups: Cgroups, states: RuntimeStates, limit: usize) -> Self {
        Self { cgroups, states, limit, known: HashMap::new() }
    }

    /// The cgroups behind it: to tell it of new ones, to walk, to read its counts.
    pub const fn cgroups(&mut self) -> &mut Cgroups {
        &mut self.cgroups
    }

    /// Whose a process is that died in these cgroups (ids; 0 where there is none). May read a few small files the
    /// first time, so ask only for confirmed zombies. [`Workload::cgroup`] is `None` where neither id could be
    /// resolved; then [`Self::from_proc`] may know more.
    pub fn of(&mut self, v2: u64, v1_pids: u64) -> Workload {
        if let Some(workload) = self.known.get(&(v2, v1_pids)) {
            return workload.clone();
        }
        let [v2_path, v1_path] = ids(v2, v1_pids).map(|id| id.and_then(|id| self.cgroups.path(id)));
        let workload = self.work_out(v2_path.as_deref(), v1_path.as_deref());
        if workload.cgroup.is_some() && self.known.len() < self.limit {
            self.known.insert((v2, v1_pids), workload.clone());
        }
        workload
    }

    /// The root of a hierarchy and its cgroups that are kept, and whose they are; some may be gone.
    pub fn of_all(&mut self, hierarchy: Hierarchy) -> Vec<(Arc<[u8]>, Workload)> {
        let all = self.cgroups.paths(hierarchy).map(|(id, path)| (id.id, Arc::clone(path)));
        let all: Vec<_> = std::iter::once((ROOT, Arc::from(&b"/"[..]))).chain(all).collect();
        let workload = |(id, path)| match hierarchy {
            Hierarchy::V2 => (path, self.of(id, 0)),
            Hierarchy::V1Pids => (path, self.of(0, id)),
        };
        all.into_iter().map(workload).collect()
    }

    /// Whose a process is, by the text of /proc/PID/cgroup. For a zombie v1 is lost there, so it is asked for the
    /// zombie's own text and believed on v2 only, unless `alive` says that it is another process', its holder's.
    pub fn from_proc(&mut self, text: &[u8], alive: bool) -> Workload {
        let ProcCgroups { v2, v1_pids, v2_deleted: _ } = ProcCgroups::parse(text);
        self.work_out(v2, v1_pids.filter(|_| alive))
    }

    /// Whose a process is that is in this cgroup.
    pub fn at(&mut self, hierarchy: Hierarchy, path: &[u8]) -> Workload {
        let known = self.cgroups.paths(hierarchy).filter(|(_, known)| ***known == *path).last();
        match (hierarchy, known.map(|(id, _)| id.id)) {
            (Hierarchy::V2, Some(id)) => self.of(id, 0),
            (Hierarchy::V1Pids, Some(id)) => self.of(0, id),
            (Hierarchy::V2, None) => self.work_out(Some(path), None),
            (Hierarchy::V1Pids, None) => self.work_out(None, Some(path)),
        }
    }

    /// Lets go what is gone: see [`Cgroups::prune`].
    pub fn prune(&mut self, now: Instant, in_use: impl Fn(CgroupId) -> bool) {
        let Self { cgroups, states: _, limit: _, known } = self;
        cgroups.prune(now, &in_use);
        known.retain(|&(v2, v1_pids), _| {
            ids(v2, v1_pids).into_iter().flatten().any(|id| cgroups.knows(id) && id.id > 1 || in_use(id))
        });
    }

    fn work_out(&mut self, v2: Option<&[u8]>, v1_pids: Option<&[u8]>) -> Workload {
        let Some(mut reading) = Reading::best(v2, v1_pids) else { return Workload::unresolved() };
        self.states.complete(&mut reading, v2, v1_pids);
        reading.workload()
    }
}

const fn ids(v2: u64, v1_pids: u64) -> [Option<CgroupId>; 2] {
    let v2 = if v2 == 0 { None } else { Some(CgroupId { hierarchy: Hierarchy::V2, id: v2 }) };
    let v1 = if v1_pids == 0 { None } else { Some(CgroupId { hierarchy: Hierarchy::V1Pids, id: v1_pids }) };
    [v2, v1]
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

    use super::*;
    use crate::workload::{Kind, Limits};

    #[test]
    fn a_workload_is_named_by_either_id_and_stays_so() {
        let (v2, v1) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (plain, named) = (v2.path().join("x"), v1.path().join("docker").join("ab".repeat(32)));
        fs::create_dir_all(&plain).unwrap();
        fs::create_dir_all(&named).unwrap();
        let [plain_id, named_id] = [&plain, &named].map(|path| fs::metadata(path).unwrap().ino());

        let mut cgroups = Cgroups::at(Some(v2.path()), Some(v1.path()), Limits::default()).unwrap();
        cgroups.walk();
        let mut workloads = Workloads::new(cgroups, RuntimeStates::at(Path::new("/nonexistent")), 16);
        let workload = workloads.of(plain_id, named_id);
        assert_eq!((workload.kind, workload.id.clone()), (Kind::Container, Some((&*"ab".repeat(32)).into())));
        assert_eq!(workloads.of(0, named_id), workload);
        assert_eq!(workloads.of(plain_id, 0).cgroup, Some("/x".into()));
        assert_eq!(workloads.of(1, 1).cgroup, Some("/".into()));
        let path = format!("/docker/{}", "ab".repeat(32));
        let all = workloads.of_all(Hierarchy::V1Pids);
        assert!(all.iter().any(|(at, whose)| (&**at, whose) == (path.as_bytes(), &workload)), "{all:?}");
        assert!(all.iter().any(|(at, whose)| (&**at, whose.kind) == (b"/", Kind::Host)), "{all:?}");
        assert_eq!(workloads.at(Hierarchy::V1Pids, path.as_bytes()), workload);
        assert_eq!(workloads.at(Hierarchy::V2, b"/a.service").id, Some("a.service".into()));
        fs::remove_dir(&named).unwrap();
        assert_eq!(workloads.of(plain_id, named_id), workload);
        // Neither id: said to be the host's, with the sign that it is not known.
        assert_eq!(workloads.of(0, 0), Workload::unresolved());
    }

    #[test]
    fn what_proc_says_of_a_zombie_on_v1_is_not_believed() {
        let cgroups = Cgroups::open(Path::new("/nonexistent"), Limits::default());
        let mut workloads = Workloads::new(cgroups, RuntimeStates::at(Path::new("/nonexistent")), 16);
        let text = b"8:pids:/\n0::/system.slice/a.service (deleted)\n";
        assert_eq!(workloads.from_proc(text, false).id, Some("a.service".into()));
        assert_eq!(workloads.from_proc(b"8:pids:/\n", false).cgroup, None);
        assert_eq!(workloads.from_proc(b"8:pids:/a.slice\n", true).id, Some("a.slice".into()));
    }
}
