//! Ground truth under churn: thousands of process lives a second, of every kind, and the set that is reported is
//! the set that the workload itself knows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    Daemon, Leak, MILLISECOND, SECOND, Seen, Truth, Workload, boot_now, full, leeway, machine, rounds,
};

/// How long a zombie stands before it is reported here.
const AGE: u64 = 2 * SECOND;

/// How late a report may be while the workload uses both cores up. The exact claim is the seed's and the bench's.
const LATE: u64 = SECOND;

/// How much later than the wait a release may be counted: the kernel frees after a grace period,
/// which takes long when both CPUs are busy.
const GRACE: u64 = SECOND;

/// Within this a census finds that a zombie is gone whose free the kernel did not show.
const FOUND_WITHIN: u64 = 30 * SECOND;

/// The least that counts as churn, lives a second.
const RATE: f64 = 2_000.0;

#[test]
fn under_churn_exactly_the_children_that_nobody_waited_for_are_reported() {
    let _machine = machine();
    let mut daemon = Daemon::trace(&["--age", "2s"]);
    let seconds = rounds("20", "60");
    // Somewhat more than is claimed: the workload makes up for late beats, but not at its end.
    let workload = Workload::start(&[
        "load",
        "--rate",
        "2500",
        "--workers",
        "10",
        "--leaks",
        "20",
        "--seconds",
        seconds,
        "--threshold",
        "2000",
        "--truth",
        "{truth}",
    ]);
    let settled = workload.wait_for("settled", Duration::from_secs(150));

    let truth = workload.truth();
    let mut missing: HashSet<_> = truth.leaks.keys().copied().collect();
    let last = truth.leaks.values().map(|leak| leak.died_before).max().unwrap();
    let wait = (last + AGE + 10 * SECOND).saturating_sub(boot_now());
    daemon.came(Duration::from_nanos(wait), |seen| {
        if seen.is("zombie") {
            missing.remove(&seen.process());
        }
        missing.is_empty()
    });
    workload.end();
    let mut standing: HashSet<_> =
        truth.leaks.keys().filter(|process| !missing.contains(process)).copied().collect();
    // One whose free was not shown is found by the next census.
    daemon.came(Duration::from_secs(40), |seen| {
        if seen.is("released") {
            standing.remove(&seen.process());
        }
        standing.is_empty()
    });
    let seen = daemon.end();

    let mut verdict = Verdict::default();
    verdict.compare(&truth, &seen);
    let rate = settled["rate"].as_f64().unwrap();
    println!("{rate:.0} lives a second, {} leaks, {verdict}", truth.leaks.len());
    assert!(verdict.faults.is_empty(), "\n{verdict}");
    let Verdict { free_missed, found_late, .. } = verdict;
    assert!(found_late <= free_missed, "{found_late} releases came late, {free_missed} frees were missed");
    assert!(verdict.asleep <= truth.leaks.len() / 50, "{} holders in uninterruptible sleep", verdict.asleep);
    assert!(rate >= RATE / f64::from(leeway()), "the workload reached {rate} lives a second only: {settled}");
    // The kinds that the workload claims to make were made.
    let kinds: HashSet<_> = truth.leaks.values().map(|leak| leak.kind.as_str()).collect();
    assert_eq!(kinds.len(), 24, "{kinds:?}");
    let causes: HashSet<_> = truth.leaks.values().map(|leak| leak.cause.as_str()).collect();
    assert_eq!(causes.len(), 7, "{causes:?}");
    assert!(!full() || truth.leaks.len() > 600, "{} leaks", truth.leaks.len());
}

/// What is wrong, by kind of fault and kind of leak; with one example each.
#[derive(Default)]
struct Verdict {
    faults: BTreeMap<(String, String), (usize, String)>,
    reported: usize,
    latest: u64,
    /// Reports of `holder-stopped` because the holder happened to be in uninterruptible sleep both times.
    asleep: usize,
    /// Frees that the kernel did not show to the daemon, by the daemon's own count, and releases that came as late as
    /// only a census finds them.
    free_missed: u64,
    found_late: u64,
}

impl Verdict {
    fn fault(&mut self, what: impl Into<String>, kind: &str, example: impl FnOnce() -> String) {
        let entry = self.faults.entry((what.into(), kind.to_owned())).or_insert_with(|| {
            let mut example = example();
            example.truncate(example.floor_char_boundary(1_500));
            (0, example)
        });
        entry.0 += 1;
    }

    fn compare(&mut self, truth: &Truth, seen: &[Seen]) {
        let mut zombies: HashMap<_, Vec<&Seen>> = HashMap::new();
        let mut releases: HashMap<_, Vec<&Seen>> = HashMap::new();
        for event in seen {
            match event.text("/event") {
                "zombie" => zombies.entry(event.process()).or_default().push(event),
                "released" => releases.entry(event.process()).or_default().push(event),
                // On some machines the kernel does not show every free; a census makes up for it.
                "lost" if event.text("/what") == "free-missed" => {
                    self.free_missed = event.number("/total");
                }
                "lost" => self.fault("lost", event.text("/what"), || event.event.to_string()),
                _ => {}
            }
        }
        for (process, leak) in &truth.leaks {
            let Some(reports) = zombies.get(process) else {
                self.fault("not reported", &leak.kind, || format!("{leak:?}"));
                continue;
            };
            self.reported += 1;
            if reports.len() > 1 {
                self.fault("reported twice", &leak.kind, || format!("{reports:?}"));
            }
            self.compare_one(leak, reports[0]);
            match releases.get(process).map(Vec::as_slice) {
                Some([release]) => self.compare_release(truth, leak, release),
                Some(_) => self.fault("released twice", &leak.kind, || format!("{leak:?}")),
                None => self.fault("no release", &leak.kind, || format!("{leak:?}")),
            }
        }
        for (process, reports) in &zombies {
            let known = truth.leaks.contains_key(process) || truth.undecided.contains(process);
            if !known && reports[0].is_of_workload() {
                self.fault("reported and not leaked", reports[0].text("/cause"), || {
                    reports[0].event.to_string()
                });
            }
        }
        for process in releases.keys().filter(|process| !zombies.contains_key(process)) {
            self.fault("released and never reported", "any", || format!("{:?}", releases[process][0]));
        }
    }

    fn compare_one(&mut self, leak: &Leak, zombie: &Seen) {
        let event = &zombie.event;
        let tracer = event.pointer("/evidence/tracer/pid").and_then(Value::as_u64);
        let holder_start = event.pointer("/holder/start_time").and_then(Value::as_u64);
        let exit_is_right = ["code", "signal"].iter().all(|key| event["exit"][key] == leak.exit[key]);
        // A holder that forks and writes is in D now and then; that it is so at both looks is chance, and named
        // `holder-stopped` by definition.
        let asleep = event["cause"] == "holder-stopped"
            && event["holder"]["state"] == "D"
            && event["evidence"]["holder_state_at_probation"] == "D";
        self.asleep += usize::from(asleep);
        let checks = [
            ("cause", asleep || event["cause"] == leak.cause.as_str()),
            ("holder's pid", event["holder"]["pid"] == leak.holder.pid),
            ("holder's start", holder_start.map(|start| start / 10_000_000) == Some(leak.holder.start_ticks)),
            ("holder's name", event["holder"]["comm"] == leak.holder.comm.as_str()),
            ("forker's pid", event["forker"]["pid"] == leak.forker.pid),
            ("forker's relation", event["forker"]["relation"] == leak.forker.relation.as_str()),
            ("pid in its namespace", event["ns_pid"] == leak.ns_pid),
            ("name", event["comm"] == leak.comm.as_str()),
            ("exit status", exit_is_right),
            ("tracer", tracer == leak.tracer),
            ("predates", event["predates"] == false),
        ];
        for (what, right) in checks {
            if !right {
                let what =
                    if what == "cause" { format!("cause is {}", event["cause"]) } else { what.to_owned() };
                self.fault(format!("wrong {what}"), &leak.kind, || format!("{leak:?}\n    {event}"));
            }
        }
        // The stamp of a death is exact to one tick, 10 ms at most.
        if zombie.at + 10 * MILLISECOND < leak.died_after + AGE {
            self.fault("too early", &leak.kind, || format!("{leak:?}\n    {}", zombie.event));
        }
        let late = zombie.at.saturating_sub(leak.died_before + AGE);
        self.latest = self.latest.max(late);
        if late > LATE {
            let example = || format!("{} ms: {leak:?}\n    {}", late / MILLISECOND, zombie.event);
            self.fault("late", &leak.kind, example);
        }
    }

    fn compare_release(&mut self, truth: &Truth, leak: &Leak, release: &Seen) {
        let known = truth.released.get(&(leak.pid, leak.start_ticks));
        if leak.released_later != known.is_some() {
            self.fault("the workload has not released", &leak.kind, || format!("{leak:?}"));
        }
        let Some((after, before)) = known else { return };
        let stood = release.event["stood_seconds"].as_f64().map(Duration::from_secs_f64);
        let stood = stood.map_or(0, |stood| u64::try_from(stood.as_nanos()).unwrap());
        // Rounded down to milliseconds, from a stamp that is exact to one tick.
        let least = (after - leak.died_before).saturating_sub(12 * MILLISECOND);
        let most = before - leak.died_after + GRACE;
        if (most..most + FOUND_WITHIN).contains(&stood) {
            self.found_late += 1;
        } else if !(least..=most).contains(&stood) {
            self.fault("wrong standing time", &leak.kind, || format!("{least} to {most}: {release:?}"));
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { faults, reported, latest, asleep: _, free_missed: _, found_late: _ } = self;
        writeln!(f, "{reported} reported, the latest {} ms after the age", latest / MILLISECOND)?;
        for ((what, kind), (count, example)) in faults {
            writeln!(f, "{count} x {what} ({kind}), for example\n    {example}")?;
        }
        Ok(())
    }
}
