//! Which zombies somebody wants to see.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use super::event::ZombieEvent;
use crate::{
    text::Untrusted,
    workload::{Kind, Workload},
    zombie::Zombie,
};

/// Bytes of a name that the kernel keeps.
const COMM_BYTES: usize = 15;

/// A choice among zombies. Of several values of one kind any must match, of several kinds each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pids: Vec<u32>,
    comms: Vec<Untrusted>,
    containers: Vec<Untrusted>,
    cgroups: Vec<Untrusted>,
}

impl Filter {
    /// - `pids`: of the zombie, its holder or its forker, in the initial pid namespace;
    /// - `comms`: names of the same three, whole, but only their first 15 bytes count, as in the kernel;
    /// - `containers`: beginnings of the id of the zombie's container;
    /// - `cgroups`: paths of the zombie's cgroup or of one above it, from the root of its hierarchy.
    #[must_use]
    pub fn new(pids: &[u32], comms: &[OsString], containers: &[OsString], cgroups: &[OsString]) -> Self {
        Self {
            pids: pids.to_vec(),
            // What is compared was escaped, so this is too.
            comms: comms
                .iter()
                .map(|comm| Untrusted::new(comm.as_bytes().get(..COMM_BYTES).unwrap_or(comm.as_bytes())))
                .collect(),
            containers: containers.iter().map(|id| Untrusted::new(id.as_bytes())).collect(),
            cgroups: cgroups
                .iter()
                .map(|path| Untrusted::new(path.as_bytes()).as_str().trim_matches('/').to_owned())
                .map(|path| Untrusted::from_escaped(&path))
                .collect(),
        }
    }

    /// True where the zombie is meant. One that lacks what is asked for (no known forker, no container) is not
    /// matched by it.
    #[must_use]
    pub fn matches(&self, zombie: &Zombie) -> bool {
        let forker = zombie.forker.as_ref().map(|forker| &forker.party);
        self.select(&Subject {
            pids: [Some(zombie.identity.pid), Some(zombie.holder.pid), forker.map(|forker| forker.pid)],
            comms: [
                Some(&zombie.comm),
                zombie.holder.comm.as_ref(),
                forker.and_then(|forker| forker.comm.as_ref()),
            ],
            kind: zombie.workload.kind,
            id: zombie.workload.id.as_ref(),
            cgroup: zombie.workload.cgroup.as_ref(),
        })
    }

    /// The same for one that was reported already.
    #[must_use]
    pub fn matches_event(&self, zombie: &ZombieEvent) -> bool {
        let forker = zombie.forker.as_ref().map(|forker| &forker.process);
        self.select(&Subject {
            pids: [Some(zombie.pid), Some(zombie.holder.pid), forker.map(|forker| forker.pid)],
            comms: [
                Some(&zombie.comm),
                zombie.holder.comm.as_ref(),
                forker.and_then(|forker| forker.comm.as_ref()),
            ],
            kind: zombie.workload.kind,
            id: zombie.workload.id.as_ref(),
            cgroup: zombie.workload.cgroup.as_ref(),
        })
    }

    /// True where what happens to a workload as a whole is meant: not where certain processes are asked for.
    #[must_use]
    pub fn matches_workload(&self, workload: &Workload) -> bool {
        self.select(&Subject {
            pids: [None; 3],
            comms: [None; 3],
            kind: workload.kind,
            id: workload.id.as_ref(),
            cgroup: workload.cgroup.as_ref(),
        })
    }

    fn select(&self, subject: &Subject<'_>) -> bool {
        let Self { pids, comms, containers, cgroups } = self;
        any_or_none(pids, |pid| subject.pids.contains(&Some(*pid)))
            && any_or_none(comms, |comm| subject.comms.contains(&Some(comm)))
            && any_or_none(containers, |id| {
                subject.container().is_some_and(|whole| whole.starts_with(id.as_str()))
            })
            && any_or_none(cgroups, |path| {
                subject.cgroup.is_some_and(|whole| is_in(whole.as_str(), path.as_str()))
            })
    }
}

/// What a filter looks at.
struct Subject<'a> {
    pids: [Option<u32>; 3],
    comms: [Option<&'a Untrusted>; 3],
    kind: Kind,
    id: Option<&'a Untrusted>,
    cgroup: Option<&'a Untrusted>,
}

impl Subject<'_> {
    fn container(&self) -> Option<&str> {
        match self.kind {
            Kind::Pod | Kind::Container | Kind::Machine => self.id.map(Untrusted::as_str),
            Kind::Unit | Kind::Session | Kind::Host => None,
        }
    }
}

fn any_or_none<T>(wanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

/// True where `path` is `above` or below it, by whole names.
fn is_in(path: &str, above: &str) -> bool {
    above.is_empty()
        || path
            .trim_start_matches('/')
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn filter(kind: &str, values: &[&str]) -> Filter {
        let texts: Vec<OsString> = values.iter().map(OsString::from).collect();
        match kind {
            "pid" => {
                Filter::new(&values.iter().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>(), &[], &[], &[])
            }
            "comm" => Filter::new(&[], &texts, &[], &[]),
            "container" => Filter::new(&[], &[], &texts, &[]),
            "cgroup" => Filter::new(&[], &[], &[], &texts),
            _ => panic!("{kind}"),
        }
    }

    fn matches(filter: &Filter, zombie: &Zombie) -> bool {
        let verdict = filter.matches(zombie);
        assert_eq!(filter.matches_event(&fixture::shown(zombie)), verdict);
        verdict
    }

    #[test]
    fn a_workload_is_meant_by_its_container_or_cgroup_and_not_by_a_process() {
        let workload = fixture::never_waited().workload;
        let meant = |filter: &Filter| filter.matches_workload(&workload);
        assert!(meant(&Filter::default()) && meant(&filter("container", &["3f2a"])));
        assert!(!meant(&filter("container", &["f2a9"])));
        assert!(!meant(&filter("pid", &["4712"])) && !meant(&filter("comm", &["sh"])));
    }

    #[test]
    fn no_filter_takes_all() {
        assert!(fixture::all().iter().all(|zombie| matches(&Filter::default(), zombie)));
    }

    #[test]
    fn a_pid_and_a_name_may_be_the_zombies_its_holders_or_its_forkers() {
        let zombie = fixture::adopted();
        for (kind, values) in
            [("pid", ["4712", "4700", "4600"]), ("comm", ["chrome", "tini", "chromedriver"])]
        {
            for value in values {
                assert!(matches(&filter(kind, &[value]), &zombie), "{value}");
            }
        }
        for (kind, value) in [("pid", "471"), ("pid", "7"), ("comm", "chrom")] {
            assert!(!matches(&filter(kind, &[value]), &zombie), "{value}");
        }
    }

    #[test]
    fn a_name_is_compared_as_the_kernel_keeps_it() {
        let mut zombie = fixture::never_waited();
        zombie.comm = Untrusted::new(b"chrome_crashpad");
        assert!(matches(&filter("comm", &["chrome_crashpad_handler"]), &zombie));
        assert!(!matches(&filter("comm", &["chrome_crash"]), &zombie));
        assert!(matches(&filter("comm", &["\x1b[2J\u{202e}\n"]), &fixture::hostile()));
    }

    #[test]
    fn a_container_is_found_by_the_beginning_of_its_id_and_a_unit_is_none() {
        let zombie = fixture::never_waited();
        assert!(matches(&filter("container", &["3f2a"]), &zombie));
        assert!(!matches(&filter("container", &["f2a9"]), &zombie));
        let mut zombie = zombie;
        zombie.workload.kind = Kind::Unit;
        assert!(!matches(&filter("container", &["3f2a"]), &zombie));
        zombie.workload.id = None;
        assert!(!matches(&filter("container", &[""]), &zombie));
    }

    #[test]
    fn a_cgroup_is_found_by_whole_names_of_its_path() {
        let mut zombie = fixture::never_waited();
        zombie.workload.cgroup = Some("/system.slice/docker-3f2a.scope".into());
        for path in ["/", "/system.slice", "system.slice/", "/system.slice/docker-3f2a.scope"] {
            assert!(matches(&filter("cgroup", &[path]), &zombie), "{path}");
        }
        for path in ["/system", "/system.slice/docker", "/docker-3f2a.scope"] {
            assert!(!matches(&filter("cgroup", &[path]), &zombie), "{path}");
        }
        zombie.workload.cgroup = None;
        assert!(!matches(&filter("cgroup", &["/"]), &zombie));
    }

    #[test]
    fn several_values_are_any_and_several_kinds_are_all() {
        let zombie = fixture::adopted();
        assert!(matches(&filter("pid", &["1", "4700"]), &zombie));
        let both = Filter { comms: vec!["tini".into()], ..filter("pid", &["4700"]) };
        assert!(matches(&both, &zombie));
        let both = Filter { comms: vec!["bash".into()], ..filter("pid", &["4700"]) };
        assert!(!matches(&both, &zombie));
    }
}
