//! Counts of what a rule does, and limits that fill: held against the events, and the container's own limit.

use std::{fs, path::Path, time::Duration};

use serde_json::json;

use super::{ANY, Page, address};
use crate::{
    remedy::configuration,
    support::{Container, Daemon, Rootfs, fixture, machine},
};

/// Of the container, which has some thirty at once.
const LIMIT: u32 = 256;

#[test]
fn what_a_rule_reaps_is_counted_as_it_is_told_and_the_limit_is_the_containers() {
    let _machine = machine();
    let rule = "rule = [{ match = { kind = 'container', cause = 'adopted' }, steps = [{ remedy = 'reap', after = '2s' }] }]\n";
    let file = configuration(rule);
    let mut daemon = Daemon::run(&[&["--config", file.path().to_str().unwrap()], &ANY[..]].concat());
    let address = address(&daemon);
    let done = [("remedy", "reap"), ("outcome", "applied")];
    assert_eq!(Page::take(&address).sum("reaper_remedies_total", &done), 0.0);
    let fill = |shared: &Path| {
        fs::copy(fixture("remedy/crawler.py"), shared.join("crawler.py")).unwrap();
    };
    let words = ["/usr/bin/python3", "-I", "-S", "/seed/crawler.py", "/seed/log"];
    let limits = json!({ "resources": { "pids": { "limit": LIMIT } } });
    let container = Container::start_limited("rising", Rootfs::HostPrograms, fill, &words, &limits);
    let of_it = [("workload", container.id.as_str())];
    let page = Page::when(&address, "its limit", |page| page.sum("reaper_pids_zombies", &of_it) > 0.0);
    assert_eq!(page.sum("reaper_pids_limit", &of_it), f64::from(LIMIT));
    let (used, zombies) = (page.sum("reaper_pids_used", &of_it), page.sum("reaper_pids_zombies", &of_it));
    assert!(zombies < used && used < f64::from(LIMIT), "{zombies} zombies among {used}");

    // What was told is counted, and what is counted was told.
    let told = |daemon: &mut Daemon, acts: f64, zombies: f64| {
        let mut seen_so_far = (0.0, 0.0);
        daemon.until("so many acts on so many zombies", Duration::from_secs(60), |seen| {
            if seen.is("remedy") && seen.text("/outcome") == "applied" {
                let zombies = seen.event["zombies"].as_array().unwrap();
                seen_so_far.0 += 1.0;
                seen_so_far.1 += zombies.iter().filter(|zombie| zombie["gone"] == true).count() as f64;
            }
            seen_so_far.0 >= acts && seen_so_far.1 >= zombies
        });
    };
    told(&mut daemon, 2.0, 2.0);
    let page = Page::when(&address, "both acts, and whose zombies are gone", |page| {
        page.sum("reaper_remedies_total", &done) >= 2.0
            && page.sum("reaper_zombies_reaped_total", &of_it) >= 2.0
    });
    let reaped = page.sum("reaper_zombies_reaped_total", &of_it);
    assert!(reaped <= page.sum("reaper_zombies_released_total", &of_it), "{}", page.text);
    told(&mut daemon, page.sum("reaper_remedies_total", &done), reaped);
    daemon.end();
}
