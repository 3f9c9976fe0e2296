//! Who holds the zombies of a cgroup, and which cgroups are meant by a name.

use std::{collections::HashMap, hash::Hash};

use crate::{
    headroom::{CgroupPath, outermost},
    origin::SiteId,
    report::{Process, ShownWorkload},
    text::Untrusted,
    zombie::Cause,
};

/// What is known of a workload beside its limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    /// Reported zombies.
    pub reported: u64,
    /// Who holds most of them, and how many.
    pub holder: Option<(Process, u64)>,
    /// Why most of them stand.
    pub cause: Option<Cause>,
    /// Where most of them are from.
    pub site: Option<SiteId>,
}

impl Holding {
    /// Of reported zombies: the pid of who holds each, who that is, why it stands, and the site that it is from.
    #[must_use]
    pub fn of<H>(zombies: impl IntoIterator<Item = (u32, H, Cause, Option<SiteId>)>) -> Self
    where
        Process: From<H>,
    {
        let mut holders: HashMap<u32, (u64, H)> = HashMap::new();
        let (mut reported, mut causes, mut sites) = (0, HashMap::new(), HashMap::new());
        for (pid, holder, cause, site) in zombies {
            reported += 1;
            holders.entry(pid).or_insert((0, holder)).0 += 1;
            *causes.entry(cause).or_insert(0) += 1;
            if let Some(site) = site {
                *sites.entry(site).or_insert(0) += 1;
            }
        }
        let holder = holders.into_values().max_by_key(|(count, _)| *count);
        Self {
            reported,
            holder: holder.map(|(count, holder)| (Process::from(holder), count)),
            cause: most(causes),
            site: most(sites),
        }
    }
}

fn most<K: Eq + Hash>(counts: HashMap<K, u64>) -> Option<K> {
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(of, _)| of)
}

/// The outermost cgroups that are meant by a name, a path or what a workload is called: zombies of it may be further in.
#[must_use]
pub fn meant_by(
    name: &Untrusted,
    cgroups: impl IntoIterator<Item = (CgroupPath, ShownWorkload)>,
) -> Vec<CgroupPath> {
    let is_meant = |(path, workload): &(CgroupPath, ShownWorkload)| {
        Untrusted::new(path) == *name || workload.is_meant_by(name)
    };
    let meant: Vec<_> = cgroups.into_iter().filter(is_meant).map(|(path, _)| path).collect();
    outermost(&meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn who_holds_most_of_them_is_named_with_why_most_stand() {
        let holder = fixture::never_waited().holder;
        let (sites, _) = fixture::counted();
        let site = sites.iter().next().map(|site| site.id);
        let mut other = holder.clone();
        other.pid += 1;
        let zombies = [
            (other.pid, &other, Cause::NeverWaited, None),
            (holder.pid, &holder, Cause::Adopted, site),
            (holder.pid, &holder, Cause::NeverWaited, None),
        ];
        let holding = Holding::of(zombies);
        let wanted = Holding {
            reported: 3,
            holder: Some((Process::from(&holder), 2)),
            cause: Some(Cause::NeverWaited),
            site,
        };
        assert_eq!(holding, wanted);
        assert_eq!(Holding::of::<Process>([]), Holding::default());
    }

    #[test]
    fn a_name_means_the_outermost_cgroup_that_is_called_so_and_each_once() {
        let workload = ShownWorkload::new(&fixture::never_waited().workload, &fixture::never_waited().named);
        let host = ShownWorkload { id: None, pod_uid: None, unit: None, cgroup: None, ..workload.clone() };
        let path = |path: &str| CgroupPath::from(path.as_bytes());
        let cgroups = [("/a", &host), ("/a/b", &workload), ("/a/b/c", &workload), ("/a/b", &workload)]
            .map(|(of, workload)| (path(of), workload.clone()));
        let of = |name: &str| meant_by(&name.into(), cgroups.clone());
        let id = workload.id.as_ref().unwrap().as_str();
        assert_eq!(of(id), [path("/a/b")]);
        assert_eq!(of(&id[..6]), [path("/a/b")]);
        assert_eq!(of("/a"), [path("/a")]);
        assert_eq!(of("/a/b/c"), [path("/a/b/c")]);
        assert_eq!(of("nobody"), [] as [CgroupPath; 0]);
    }
}
