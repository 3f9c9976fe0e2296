//! Names that people know, from the real runtimes. What is true is what the test itself has told them.

mod engines;
mod usual;
mod wrong;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    metrics::page::{ANY, Page, address},
    remedy::configuration,
    support::{
        Containerd, Daemon, IMAGE, Image, Pod, Seen, assert_valid, machine, reaper, run, run_briefly, signal,
    },
};

const UID: &str = "5f1c3d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f";

const FETCHER: Pod<'static> = Pod {
    namespace: "crawlers",
    name: "fetcher-7c9d",
    uid: UID,
    labels: &[("app", "fetcher")],
    annotations: &[],
};

/// Asks nobody but the one that listens there, and reports zombies from 400 ms on.
fn daemon(rules: &str, asked: &str, socket: &Path) -> Daemon {
    let file = configuration(rules);
    let socket = socket.to_str().unwrap();
    let names = ["cri", "docker", "podman"]
        .map(|engine| format!("--names-{engine}={}", if engine == asked { socket } else { "off" }));
    let configured = ["--config", file.path().to_str().unwrap()];
    Daemon::run(&[&configured, &ANY, &names.each_ref().map(String::as_str)[..]].concat())
}

fn is_of(seen: &Seen, kind: &str, id: &str) -> bool {
    seen.is(kind) && seen.text("/workload/id") == id
}

/// Waits for an event about a container that fits, and returns it.
fn event(daemon: &mut Daemon, what: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
    let mut found = None;
    daemon.until(what, Duration::from_secs(20), |seen| {
        if fits(seen) {
            found = Some(seen.clone());
        }
        found.is_some()
    });
    found.unwrap()
}

/// What another command of reaper's says.
fn said(arguments: &[&str]) -> String {
    run(Command::new(reaper()).args(arguments))
}

/// Why nothing would be done by hand to those that are meant, once each.
fn by_hand(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new(reaper());
    command.args(["--output", "json", "reap", "--dry-run", "--watch", "100ms"]).args(arguments);
    let output = run_briefly(&mut command);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let events = text.lines().map(|line| assert_valid(line.as_bytes()));
    let mut reasons: Vec<_> =
        events.map(|event| event["reason"].as_str().unwrap_or("none").to_owned()).collect();
    assert!(!reasons.is_empty(), "{output:?}");
    reasons.sort();
    reasons.dedup();
    reasons
}

fn names(seen: &Seen) -> [&str; 4] {
    ["/workload/namespace", "/workload/pod", "/workload/container", "/workload/image"]
        .map(|name| seen.text(name))
}

#[test]
fn a_pods_zombie_is_reported_listed_and_explained_by_the_names_its_runtime_gives() {
    let _machine = machine();
    let image = Image::make();
    let mut containerd = Containerd::start(&image);
    let rules = "[[rule]]\nname = 'elsewhere'\nmatch.namespace = 'shops'\nsteps = [{ remedy = 'nudge', after = '500ms' }]\n\
                 [[rule]]\nname = 'fetchers'\nmatch = { namespace = 'crawl*', labels = { app = 'fetcher' } }\n\
                 steps = [{ remedy = 'nudge', after = '500ms' }]\n";
    let mut daemon = daemon(rules, "cri", &containerd.socket());
    let id = containerd.run(&FETCHER);
    let first = event(&mut daemon, "a zombie of the pod", |seen| is_of(seen, "zombie", &id));
    assert_eq!(names(&first), ["crawlers", "fetcher-7c9d", "fetcher", IMAGE], "{first:?}");
    assert_eq!((first.text("/workload/kind"), first.text("/workload/pod_uid")), ("pod", UID));
    // Metrics have its names in a series of their own, with the labels of those that count.
    let labels = [("kind", "pod"), ("workload", &id), ("pod_uid", UID)];
    let names =
        [("namespace", "crawlers"), ("pod", "fetcher-7c9d"), ("container", "fetcher"), ("image", IMAGE)];
    Page::when(&address(&daemon), "its names", |page| {
        page.sum("reaper_zombies_standing", &labels) > 0.0
            && page.sum("reaper_workload_info", &[&labels[..], &names].concat()) == 1.0
    });

    // A rule that asks for namespace and label decides; this holder does not heed SIGCHLD, so it says no.
    let remedy = event(&mut daemon, "a remedy", |seen| is_of(seen, "remedy", &id));
    assert_eq!((remedy.text("/rule"), remedy.text("/reason")), ("fetchers", "not-heeded"));

    let called = "crawlers/fetcher-7c9d (container fetcher)";
    assert!(said(&["ls"]).contains(called), "{}", said(&["ls"]));
    let leaks = said(&["leaks", "--workload", "crawlers/fetcher-7c9d"]);
    assert!(leaks.contains("crawlers/fetcher-7c9d"), "{leaks}");
    let page = said(&["explain", &first.number("/pid").to_string()]);
    let page: Vec<_> = page.split_whitespace().collect();
    assert!(page.join(" ").contains(&format!("Workload {called}, image {IMAGE}, pod {id}")), "{page:?}");

    // One that opts out by an annotation is left alone.
    let spared = Pod {
        name: "spared-1",
        uid: "11111111-2222-3333-4444-555555555555",
        annotations: &[("reaper-remedies", "off")],
        ..FETCHER
    };
    let spared = containerd.run(&spared);
    let refused = event(&mut daemon, "a refusal", |seen| is_of(seen, "remedy", &spared));
    assert_eq!((refused.text("/outcome"), refused.text("/reason")), ("refused", "opted-out"));

    // By hand it goes by the names that the daemon knows; without one by those of a configuration.
    let reasons = |more: &[&str]| {
        let by = |name: &str| by_hand(&[&["--workload", name], more].concat());
        (by("crawlers/fetcher-7c9d"), by("crawlers/spared-1"))
    };
    let all = ["needs-consent".to_owned()];
    let known = reasons(&["--cause", "never-waited"]);
    assert_eq!(known, (all.to_vec(), vec!["opted-out".to_owned()]));
    daemon.end();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let socket = containerd.socket();
    std::io::Write::write_fmt(&mut file, format_args!("names.cri = {socket:?}\nnames.docker = 'off'\n"))
        .unwrap();
    let configured = ["--cause", "unknown", "--config", file.path().to_str().unwrap()];
    assert_eq!(reasons(&configured), (all.to_vec(), vec!["opted-out".to_owned()]));

    // Without a daemon, by a census: the socket that is usual may be another containerd's, so only that it does not hang.
    let begun = Instant::now();
    said(&["ls"]);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn while_containerd_hangs_reports_are_on_time_and_the_names_come_when_it_answers_again() {
    let _machine = machine();
    let image = Image::make();
    let mut containerd = Containerd::start(&image);
    let id = containerd.run(&FETCHER);
    signal(containerd.pid(), libc::SIGSTOP);
    let rules = "[[rule]]\nname = 'fetchers'\nmatch.namespace = 'crawlers'\nsteps = [{ remedy = 'nudge', after = '500ms' }]\n\
                 [[rule]]\nname = 'all'\nsteps = [{ remedy = 'nudge', after = '500ms' }]\n";
    let mut daemon = daemon(rules, "cri", &containerd.socket());
    // Of those that died while it watched: their age is exact, and a report that waited for names would be late.
    let mut ages = Vec::new();
    daemon.until("reports by ids alone", Duration::from_secs(20), |seen| {
        if is_of(seen, "zombie", &id) && seen.event["age_seconds"].is_number() {
            assert_eq!(names(seen), [""; 4], "nobody could have told: {seen:?}");
            ages.push(seen.event["age_seconds"].as_f64().unwrap());
        }
        ages.len() >= 30
    });
    ages.sort_by(f64::total_cmp);
    println!("ages at the report while containerd hangs: {ages:?}");
    assert!(ages[ages.len() / 2] < 0.5, "{ages:?}");
    // No rule decides before the names are known, not even the one behind, and that is said.
    let unknown = |seen: &Seen| (seen.text("/rule"), seen.text("/reason")) == ("fetchers", "names-unknown");
    assert!(!daemon.came(Duration::ZERO, |seen| is_of(seen, "remedy", &id) && !unknown(seen)));
    assert!(daemon.came(Duration::ZERO, |seen| is_of(seen, "remedy", &id) && unknown(seen)));

    signal(containerd.pid(), libc::SIGCONT);
    let named = event(&mut daemon, "a report with names", |seen| {
        is_of(seen, "zombie", &id) && seen.text("/workload/pod") == FETCHER.name
    });
    assert_eq!(names(&named), ["crawlers", "fetcher-7c9d", "fetcher", IMAGE]);
    let decided = event(&mut daemon, "a remedy", |seen| is_of(seen, "remedy", &id) && !unknown(seen));
    assert_eq!((decided.text("/rule"), decided.text("/reason")), ("fetchers", "not-heeded"));
    // Those that were reported by their ids have names in a list.
    let (pod, ids) = (said(&["ls", "--container", &id]), &id[..12]);
    assert!(pod.contains("crawlers/fetcher-7c9d (container fetcher)") && !pod.contains(ids), "{pod}");
    daemon.end();
}
