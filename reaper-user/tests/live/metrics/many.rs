//! More workloads with zombies than there are places for.

use super::{ANY, HOLD, Page, Unit, address};
use crate::support::{Cgroup, Daemon, machine};

const WORKLOADS: usize = 500;

#[test]
fn five_hundred_workloads_have_label_sets_of_their_own_or_are_others_where_those_are_capped() {
    let _machine = machine();
    let cgroups: Vec<_> = (0..WORKLOADS)
        .map(|number| Cgroup::new(format!("reaper-many-{number}-{}.service", std::process::id())))
        .collect();
    let paths: Vec<_> = cgroups.iter().map(|cgroup| cgroup.path().to_str().unwrap()).collect();
    for (cap, own) in [(1_000, WORKLOADS), (200, 199)] {
        let number = cap.to_string();
        let daemon = Daemon::run(&[&["--age", "1s", "--metrics-label-sets", &number], &ANY[..]].concat());
        let (address, unit) = (address(&daemon), Unit::new("many"));
        let mut holder = unit.start(HOLD, &paths);
        holder.wait();
        let of_all = |page: &Page, name: &str| {
            page.sum(name, &[("kind", "unit")]) + page.sum(name, &[("kind", "other")])
        };
        let page = Page::when(&address, "all stand", |page| {
            of_all(page, "reaper_zombies_standing") >= WORKLOADS as f64
        });
        for name in ["standing", "reported_total", "released_total", "reaped_total"] {
            let sets = page.label_sets(&format!("reaper_zombies_{name}"));
            assert!(sets <= cap && sets >= own, "{sets} of {name} at a cap of {cap}");
        }
        let overflowed = page.sum("reaper_label_sets_overflowed_total", &[("metric", "zombies")]);
        let other = page.sum("reaper_zombies_standing", &[("workload", "other"), ("cause", "other")]);
        assert_eq!(overflowed, other);
        // Somebody else's zombies may have been there first.
        assert!(other >= (WORKLOADS - own) as f64 && (own == WORKLOADS) == (other == 0.0), "{other}");
        holder.end();
        let page = Page::when(&address, "all are gone and counted", |page| {
            of_all(page, "reaper_zombies_released_total") >= WORKLOADS as f64
                && of_all(page, "reaper_workload_time_to_reap_seconds_count") >= WORKLOADS as f64
        });
        let sets = page.label_sets("reaper_workload_time_to_reap_seconds_count");
        assert!(sets <= cap && sets >= own, "{sets} at a cap of {cap}");
        let counted = page.sum("reaper_workload_time_to_reap_seconds_count", &[]);
        let all = page.sum("reaper_time_to_reap_seconds_count", &[])
            - page.sum("reaper_time_to_reap_seconds_bucket", &[("le", "0.064")]);
        // Somebody else may have been freed between the two readings.
        assert!((counted - all).abs() <= 3.0, "{counted} by workload, {all} of the machine");
        daemon.end();
    }
}
