//! The first day: a machine that is full of zombies when the daemon starts.

use std::{
    collections::HashSet,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use super::{Holder, daemon, is_remedy, rule};
use crate::support::{Daemon, assert_valid, leeway, machine, program, reaper, run_briefly, signal};

/// How many there are, of three holders.
const OWN: usize = 1_500;
const ORPHANS: usize = 700;
const LEFT: usize = 800;
const ALL: usize = OWN + ORPHANS + LEFT;

/// What all of them may cost the daemon on a quiet machine, from its start on: to find, report and keep them.
const CPU: Duration = Duration::from_millis(600);

/// And what it may cost to have a part of them gone, looked at twice each.
const REMEDIED: Duration = Duration::from_millis(600);

struct Full {
    own: Holder,
    orphans: Holder,
    heir: Holder,
}

impl Full {
    fn machine() -> Self {
        let (own, orphans) = (Holder::start("deaf", OWN), Holder::start("adopt", ORPHANS));
        Self { own, orphans, heir: Holder::start("heir", LEFT) }
    }

    fn zombies(&self) -> HashSet<u64> {
        [&self.own, &self.orphans, &self.heir].iter().flat_map(|holder| holder.zombies.clone()).collect()
    }

    fn standing(&self) -> usize {
        self.own.standing() + self.orphans.standing() + self.heir.standing()
    }
}

/// What a process has used of a CPU, as /proc says.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit_once(") ").unwrap().1.split(' ').map(|f| f.trim().parse().unwrap_or(0)).collect();
    // In ticks of 10 ms.
    Duration::from_millis(10 * (fields[11] + fields[12]))
}

fn reported(daemon: &mut Daemon, mut missing: HashSet<u64>) {
    daemon.until("each of them is reported", Duration::from_secs(60), |seen| {
        if seen.is("zombie") {
            missing.remove(&seen.number("/pid"));
        }
        missing.is_empty()
    });
}

#[test]
fn thousands_that_stand_already_are_each_reported_once_and_left_alone_without_a_rule() {
    let _machine = machine();
    let full = Full::machine();
    let (mut daemon, _file) = daemon("", &[]);
    reported(&mut daemon, full.zombies());
    daemon.during(Duration::from_secs(3));
    let used = cpu(daemon.pid());
    println!("{ALL} zombies that stood already: {used:?} of a CPU");
    assert_eq!(full.standing(), ALL);
    let listed = run_briefly(Command::new(reaper()).args(["ls", "--output", "json"]));
    assert!(listed.stdout.iter().filter(|byte| **byte == b'\n').count() > ALL);
    let log = daemon.log();
    let seen = daemon.end();
    let zombies = full.zombies();
    let of_them = seen.iter().filter(|seen| seen.is("zombie") && zombies.contains(&seen.number("/pid")));
    assert_eq!(of_them.count(), ALL, "one line each");
    assert!(!seen.iter().any(|seen| seen.is("remedy") || seen.is("lost")));
    assert!(log.lines().count() < 10, "{log}");
    assert!(used < CPU * leeway(), "{used:?}");
}

#[test]
fn people_are_told_of_thousands_in_a_few_lines() {
    let _machine = machine();
    let full = Full::machine();
    let words = ["trace", "--age", "400ms", "--duration", "6s", "--output", "human"];
    let output = run_briefly(Command::new(reaper()).args(words));
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(text.lines().count() <= 60, "{text}");
    for holder in [&full.own, &full.orphans] {
        let of = format!("({})", holder.pid());
        let rows = text.lines().filter(|line| line.contains(&of) && line.contains(" unknown ")).count();
        let words = text.split_whitespace().collect::<Vec<_>>();
        let counted = words.windows(4).filter(|words| words[1] == "more" && words[3].contains(&of));
        let counted: usize = counted.map(|words| words[0].parse::<usize>().unwrap()).sum();
        assert_eq!(rows + counted, holder.zombies.len(), "{text}");
    }
    // On a terminal, which `script` provides, alike ones share a row.
    let list = format!("stty cols 100; {} ls", reaper().display());
    let output = run_briefly(Command::new(program("script")).args(["-qec", &list, "/dev/null"]));
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(
        text.lines().count() < 20 && text.lines().all(|line| line.trim_end().chars().count() <= 100),
        "{text}"
    );
    assert!(text.contains(&format!(" {OWN} ")) && text.contains("--each"), "{text}");
    // What could be done about a holder's is a line or two.
    let of = full.own.pid().to_string();
    let words = ["reap", "--watch", "200ms", "--dry-run", "--output", "human", "--cause", "unknown"];
    let output =
        run_briefly(Command::new(reaper()).args(words).args(["--parent-may-miss-status", "--holder", &of]));
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(text.lines().count() <= 3 && text.contains(&format!("{OWN} zombies")), "{text}");
    assert_eq!(full.standing(), ALL);
}

#[test]
fn a_rule_for_orphans_takes_those_that_are_some_under_the_limits_and_no_others() {
    let _machine = machine();
    let mut full = Full::machine();
    let reap = rule("{ remedy = 'reap', after = '600ms' }", "match.cause = 'adopted'");
    let (mut daemon, _file) = daemon(&reap, &[]);
    reported(&mut daemon, full.zombies());
    // Those whose parent was seen, and is another one by now: an orphan for certain.
    let (heir, before) = (full.heir.pid(), cpu(daemon.pid()));
    signal(heir, libc::SIGUSR1);
    let began = Instant::now();
    let (mut acts, mut gone, mut explained) = (Vec::new(), 0, false);
    daemon.until("the orphans are gone", Duration::from_secs(90), |seen| {
        if is_remedy(seen, heir, "reap") && seen.text("/outcome") == "applied" {
            acts.push((seen.at, seen.event["zombies"].as_array().unwrap().len()));
            gone += acts.last().unwrap().1;
            if !explained && gone < LEFT {
                explain_the_last_one(&full.heir);
                explained = true;
            }
        }
        gone == LEFT
    });
    let used = cpu(daemon.pid()) - before;
    println!("{LEFT} orphans in {:?}: {acts:?}, {used:?} of a CPU", began.elapsed());
    assert!(explained);
    assert!(acts.iter().all(|(_, zombies)| *zombies <= 256), "{acts:?}");
    // Two may come at once, then one each five seconds.
    let spans: Vec<_> = acts.windows(3).map(|acts| Duration::from_nanos(acts[2].0 - acts[0].0)).collect();
    assert!(spans.iter().all(|span| *span > Duration::from_secs(4)), "{acts:?}");
    assert_eq!((full.heir.standing(), full.heir.lives()), (0, true));
    // Those whose parent nobody has seen may be its own.
    assert_eq!((full.own.standing(), full.orphans.standing()), (OWN, ORPHANS));
    let seen = daemon.end();
    let others =
        seen.iter().filter(|seen| seen.is("remedy") && seen.number("/holder/pid") != u64::from(heir));
    assert_eq!(others.count(), 0);
    assert!(used < REMEDIED * leeway(), "{used:?}");
}

/// What the youngest waits for, and when about it will be its turn.
fn explain_the_last_one(heir: &Holder) {
    let pid = heir.zombies.last().unwrap().to_string();
    let output = run_briefly(Command::new(reaper()).args(["explain", &pid, "--output", "json"]));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let outlook = lines.map(assert_valid).find(|event| event["event"] == "outlook").unwrap();
    println!("{outlook}");
    let step = &outlook["steps"][0];
    assert_eq!((&step["remedy"], &step["standing"]), (&"reap".into(), &"waiting".into()), "{outlook:#}");
    assert!(step["reason"].as_str().unwrap().starts_with("limited"), "{outlook:#}");
    assert!(outlook["queued_behind"].as_u64().unwrap() > 0, "{outlook:#}");
    assert!(outlook["again_seconds"].as_f64().unwrap() < 60.0, "{outlook:#}");
    let page = run_briefly(Command::new(reaper()).args(["explain", &pid, "--output", "human"]));
    println!("{}", String::from_utf8_lossy(&page.stdout));
}
