//! Zombies that stand when the daemon starts.

use std::{collections::HashSet, time::Duration};

use crate::support::{Daemon, Workload, machine};

#[test]
fn zombies_older_than_the_daemon_are_reported_once_and_say_so() {
    let _machine = machine();
    let workload = Workload::start(&["standing", "20", "--truth", "{truth}"]);
    workload.wait_for("settled", Duration::from_secs(20));
    let truth = workload.truth();
    let mut daemon = Daemon::trace(&["--age", "1s"]);
    let mut missing: HashSet<_> = truth.leaks.keys().copied().collect();
    daemon.until("reports of what predates", Duration::from_secs(10), |seen| {
        missing.remove(&seen.process());
        missing.is_empty()
    });
    workload.end();
    let mut standing: HashSet<_> = truth.leaks.keys().copied().collect();
    daemon.until("releases of what predates", Duration::from_secs(10), |seen| {
        if seen.is("released") {
            standing.remove(&seen.process());
        }
        standing.is_empty()
    });
    let seen = daemon.end();
    for (process, leak) in &truth.leaks {
        let of_it: Vec<_> = seen.iter().filter(|seen| seen.process() == *process).collect();
        let [zombie, release] = of_it.as_slice() else { panic!("{of_it:?}") };
        let event = &zombie.event;
        assert!(zombie.is("zombie") && release.is("released"), "{of_it:?}");
        assert_eq!((&event["predates"], &event["age_seconds"]), (&true.into(), &().into()), "{event:#}");
        assert!(event["age_at_least"].is_number(), "{event:#}");
        assert_eq!(event["cause"], "unknown", "{event:#}");
        assert_eq!(zombie.number("/holder/pid"), leak.holder.pid, "{event:#}");
        assert_eq!(event["exit"]["code"], leak.exit["code"], "{event:#}");
    }
}
