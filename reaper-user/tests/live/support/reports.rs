//! What one daemon or several, one after the other, have reported, against what the workload knows.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Leak, Seen, Truth};

/// The events of each life of the daemon, in order.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    lives: usize,
    /// By process, with the number of the life.
    zombies: HashMap<(u64, u64), Vec<(usize, Seen)>>,
    lost: BTreeMap<String, u64>,
}

impl Reports {
    /// Adds what one life has said.
    pub(crate) fn add(&mut self, seen: Vec<Seen>) {
        self.lives += 1;
        for event in seen {
            if event.is("zombie") {
                self.zombies.entry(event.process()).or_default().push((self.lives, event));
            } else if event.is("lost") {
                *self.lost.entry(event.text("/what").to_owned()).or_default() += event.number("/count");
            }
        }
    }

    /// Those that were leaked and not reported.
    pub(crate) fn missing(&self, truth: &Truth) -> HashSet<(u64, u64)> {
        truth.leaks.keys().filter(|process| !self.zombies.contains_key(process)).copied().collect()
    }

    /// How much of one kind was said to be lost.
    pub(crate) fn lost(&self, what: &str) -> u64 {
        self.lost.get(what).copied().unwrap_or(0)
    }

    /// What was leaked is what was reported, with its holder and its exit status; once, or again where the later report
    /// says that it may be a repetition; and no death was lost. Returns how many were reported as recovered.
    pub(crate) fn assert_equal(&self, truth: &Truth) -> usize {
        let mut faults = Faults::default();
        let mut again = 0;
        for (process, leak) in &truth.leaks {
            let Some(reports) = self.zombies.get(process) else {
                faults.add("not reported", || format!("{leak:?}"));
                continue;
            };
            for (_, report) in reports {
                check(leak, report, &mut faults);
            }
            for pair in reports.windows(2) {
                let [(first, _), (second, report)] = pair else { continue };
                again += 1;
                if first == second {
                    faults.add("twice in one life", || format!("{reports:?}"));
                } else if report.event["recovered"] != true {
                    faults.add("again, and not said so", || format!("{reports:?}"));
                }
            }
        }
        let began = truth.leaks.values().map(|leak| leak.died_after).min().unwrap_or(0);
        for (process, reports) in &self.zombies {
            let known = truth.leaks.contains_key(process) || truth.undecided.contains(process);
            // What a workload before this one left, where that was ended the hard way.
            let older = reports[0].1.number("/start_time") < began;
            if !known && !older && reports[0].1.is_of_workload() {
                faults.add("reported and not leaked", || format!("{reports:?}"));
            }
        }
        let recovered = truth
            .leaks
            .keys()
            .filter_map(|process| self.zombies.get(process))
            .filter(|reports| reports.iter().any(|(_, report)| report.event["recovered"] == true))
            .count();
        println!(
            "{} leaks, {} lives of the daemon, {recovered} reported as recovered, {again} of them again, lost {:?}",
            truth.leaks.len(),
            self.lives,
            self.lost
        );
        assert!(!truth.leaks.is_empty(), "nothing was leaked");
        assert!(faults.0.is_empty(), "\n{faults}");
        assert_eq!(self.lost("death-lost"), 0, "{:?}", self.lost);
        recovered
    }
}

fn check(leak: &Leak, report: &Seen, faults: &mut Faults) {
    let event = &report.event;
    let checks = [
        ("holder's pid", event["holder"]["pid"] == leak.holder.pid),
        ("holder's name", event["holder"]["comm"] == leak.holder.comm.as_str()),
        ("name", event["comm"] == leak.comm.as_str()),
        ("exit status", ["code", "signal"].iter().all(|key| event["exit"][key] == leak.exit[key])),
    ];
    for (what, right) in checks {
        if !right {
            faults.add(&format!("wrong {what}"), || format!("{leak:?}\n    {event}"));
        }
    }
}

/// How often what was wrong, with one example each.
#[derive(Default)]
struct Faults(BTreeMap<String, (usize, String)>);

impl Faults {
    fn add(&mut self, what: &str, example: impl FnOnce() -> String) {
        let entry = self.0.entry(what.to_owned()).or_insert_with(|| {
            let mut example = example();
            example.truncate(example.floor_char_boundary(3_000));
            (0, example)
        });
        entry.0 += 1;
    }
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, (count, example)) in &self.0 {
            writeln!(f, "{count} x {what}, for example\n    {example}")?;
        }
        Ok(())
    }
}
