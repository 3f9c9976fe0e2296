//! A rule that waits for long, and comes in time where little is left.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{LIMIT, number};
use crate::{
    remedy::configuration,
    support::{Container, Daemon, Rootfs, fixture, machine, pids_mount, rounds},
};

#[test]
fn a_crawler_that_leaks_fast_is_never_refused_where_its_rule_looks_at_what_is_left() {
    let _machine = machine();
    let lasts = Duration::from_secs(rounds(120, 600));
    // By its age alone nothing would be done before an hour.
    let rule = "rule = [{ match = { kind = 'container', cause = 'adopted' }, \
                steps = [{ remedy = 'reap', after = '1h', headroom_below = '20%' }] }]\n";
    let file = configuration(rule);
    let mut daemon = Daemon::run(&["--config", file.path().to_str().unwrap()]);
    let fill = |shared: &Path| {
        fs::copy(fixture("remedy/crawler.py"), shared.join("crawler.py")).unwrap();
    };
    let words = ["/usr/bin/python3", "-I", "-S", "/seed/crawler.py", "/seed/log"];
    let limits = json!({ "resources": { "pids": { "limit": LIMIT } } });
    let container = Container::start_limited("fast", Rootfs::HostPrograms, fill, &words, &limits);
    let cgroup = pids_mount().join(&container.id);
    let (began, mut most, mut reaped) = (Instant::now(), 0, 0);
    daemon.until("it has worked for long enough", lasts + Duration::from_secs(60), |seen| {
        if seen.is("remedy")
            && seen.text("/workload/id") == container.id
            && seen.text("/outcome") == "applied"
        {
            reaped += seen.event["zombies"].as_array().unwrap().len() as u64;
        }
        most = most.max(number(&cgroup.join("pids.current")));
        began.elapsed() > lasts
    });
    let events = fs::read_to_string(cgroup.join("pids.events")).unwrap();
    assert_eq!(events.trim(), "max 0", "it was refused");
    println!("crawler: {reaped} reaped, at most {most} of {LIMIT} at once");
    assert!(most > LIMIT / 2, "{most} at once: it was not near its limit, which shows nothing");
    assert!(reaped > LIMIT, "{reaped} reaped");
    let log = fs::read_to_string(container.shared().join("log")).unwrap();
    assert!(!log.is_empty());
    daemon.end();
}
