//! Limits on processes that are really hit: what is said before, what when it happens, and what a rule does against it. The truth is the
//! program's own EAGAIN, and what the cgroup's files say.

mod crawler;

use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    remedy::Holder,
    support::{
        Container, Daemon, Parent, Rootfs, SECOND, Seen, assert_valid, boot_now, fixture, machine,
        pids_mount, program, reaper, rounds, run, run_briefly,
    },
};

/// Processes that are allowed.
const LIMIT: u64 = 256;

/// A second after it happened it has been told, without a hook.
const TOLD: u64 = SECOND;

/// A container whose program forks as it is told.
fn forker(name: &str, mode: &str, rate: &str, linux: &Value) -> Container {
    let fill = |shared: &Path| {
        fs::copy(fixture("headroom/forker.py"), shared.join("forker.py")).unwrap();
    };
    let words = ["/usr/bin/python3", "-I", "-S", "/seed/forker.py", mode, rate, "/seed/log"];
    Container::start_limited(name, Rootfs::HostPrograms, fill, &words, linux)
}

/// When it was first refused, ns on the boot clock, by its own account.
fn refused_at(container: &Container) -> Option<u64> {
    let log = fs::read_to_string(container.shared().join("log")).ok()?;
    log.lines().find_map(|line| line.strip_prefix("refused "))?.parse().ok()
}

/// How often.
fn refused(container: &Container) -> u64 {
    let log = fs::read_to_string(container.shared().join("log")).unwrap();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.strip_prefix("times ")?.parse().ok()).max().unwrap_or(0)
}

/// What `reaper headroom` says, in JSON.
fn headroom(arguments: &[&str]) -> Vec<Value> {
    let output = run_briefly(Command::new(reaper()).args(["headroom", "--output", "json"]).args(arguments));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(assert_valid).collect()
}

/// The one row of a container.
fn row(container: &Container) -> Option<Value> {
    headroom(&[]).into_iter().find(|row| row["workload"]["id"] == container.id.as_str())
}

/// The same for people: what is full, and by whom.
fn shown_to_people(words: &[&str], container: &Container) {
    let output = run_briefly(Command::new(reaper()).arg("headroom").args(words));
    let text = String::from_utf8(output.stdout).unwrap();
    println!("$ reaper headroom {}\n{text}", words.join(" "));
    assert!(output.status.success() && text.contains(&LIMIT.to_string()), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert!(words.len() == 1 || text.contains(&container.id), "{text}");
}

fn number(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().parse().unwrap()
}

fn is_refusal(seen: &Seen, container: &Container) -> bool {
    seen.is("fork-failed") && seen.text("/workload/id") == container.id
}

/// Watches a container leak until its program is refused: forecasts, and what is told of the refusal. `cgroup` is the one that has the
/// limit.
fn leaks_until_refused(
    name: &str,
    linux: &Value,
    limit: impl FnOnce() -> Option<Parent>,
    cgroup: impl FnOnce(&Container) -> String,
) {
    let _machine = machine();
    let (rate, from) = rounds(("10", 10), ("2", 60));
    let mut daemon = Daemon::run(&["--age", "2s"]);
    let began = Instant::now();
    let container = forker(name, "leak", rate, linux);
    // It goes after the container.
    let limited = limit();
    let path = cgroup(&container);
    let mut forecasts = Vec::new();
    let deadline = began + Duration::from_secs(180);
    let at = loop {
        if let Some(at) = refused_at(&container) {
            break at;
        }
        assert!(Instant::now() < deadline, "it is never refused: {:?}", row(&container));
        if began.elapsed() > Duration::from_secs(from) {
            let row = row(&container).expect("a workload that leaks has no row");
            let nearest = &row["limits"][usize::try_from(row["nearest"].as_u64().unwrap()).unwrap()];
            let seconds = nearest["exhaustion"]["seconds"].as_f64();
            forecasts.push((
                boot_now(),
                seconds.unwrap_or_else(|| panic!("no forecast: {row:#}")),
                nearest.clone(),
            ));
        }
        // A forecast each half second is enough.
        daemon.during(Duration::from_millis(500));
    };
    for words in [vec![], vec![container.id.as_str()], vec![path.as_str()]] {
        shown_to_people(&words, &container);
    }
    assert!(forecasts.len() > 5, "{} forecasts show nothing", forecasts.len());
    for (when, said, nearest) in &forecasts {
        assert_eq!(
            (&nearest["kind"], &nearest["limit"], &nearest["cgroup"]),
            (&json!("pids-max"), &json!(LIMIT), &json!(path))
        );
        let truth = at.saturating_sub(*when) as f64 / SECOND as f64;
        // One fork more or less is no error of the forecast.
        let one = 1.0 / rate.parse::<f64>().unwrap();
        let off = (said - truth).abs();
        assert!(off <= truth * 0.1 + 2.0 * one, "{said} s instead of {truth} s: {nearest:#}");
    }
    let mut told = None;
    daemon.until("the refusal is told", Duration::from_secs(5), |seen| {
        if is_refusal(seen, &container) {
            told = Some(seen.clone());
        }
        told.is_some()
    });
    let told = told.unwrap();
    println!("told {} ms after it; {} forecasts", told.at.saturating_sub(at) / 1_000_000, forecasts.len());
    assert!(told.at.saturating_sub(at) <= TOLD, "told {} ms later", (told.at - at) / 1_000_000);
    assert_eq!((told.number("/limit/limit"), told.text("/limit/cgroup")), (LIMIT, path.as_str()));
    // All but PID 1.
    let share = told.event["zombie_share"].as_f64().unwrap();
    let truth = (LIMIT - 1) as f64 / LIMIT as f64;
    assert!((share - truth).abs() < 0.02, "{share} of it are zombies, not {truth}: {:#}", told.event);
    assert_eq!(told.text("/zombies_of/0/workload/id"), container.id);
    assert_eq!(told.number("/zombies_of/0/holder/pid"), u64::from(container.init()));

    // What follows is one event, with its count.
    daemon.until("the rest is told together", Duration::from_secs(20), |seen| {
        is_refusal(seen, &container) && seen.number("/count") > 3
    });
    let row = row(&container).unwrap();
    assert!(row["fork_failures"].as_u64().unwrap() > 3, "{row:#}");
    assert!(refused(&container) > 3);
    drop(container);
    drop(limited);
    let seen = daemon.end();
    let told = seen.iter().filter(|seen| seen.is("fork-failed")).count();
    assert!((2..6).contains(&told), "{told} events");
}

#[test]
fn a_leak_is_forecast_and_its_first_refusal_told_with_limit_and_share() {
    let linux = json!({ "resources": { "pids": { "limit": LIMIT } } });
    leaks_until_refused("leak", &linux, || None, |container| format!("/{}", container.id));
}

const POD: &str = "reaper-headroom-pod";

#[test]
fn a_limit_of_the_cgroup_around_it_is_the_one_that_is_named() {
    let linux = json!({ "cgroupsPath": format!("/{POD}/reaper-headroom-box") });
    let limit = || {
        fs::write(pids_mount().join(POD).join("pids.max"), LIMIT.to_string()).unwrap();
        Some(Parent(POD))
    };
    leaks_until_refused("reaper-headroom-box", &linux, limit, |_| format!("/{POD}"));
}

#[test]
fn a_refusal_without_zombies_is_said_to_be_that() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "2s"]);
    let linux = json!({ "resources": { "pids": { "limit": 20 } } });
    let container = forker("busy", "live", "50", &linux);
    let mut told = None;
    daemon.until("the refusal is told", Duration::from_secs(20), |seen| {
        if is_refusal(seen, &container) {
            told = Some(seen.clone());
        }
        told.is_some()
    });
    let told = told.unwrap();
    let late = told.at.saturating_sub(refused_at(&container).unwrap());
    assert!(late <= TOLD, "told {} ms later", late / 1_000_000);
    assert_eq!((told.number("/limit/limit"), told.number("/limit/used")), (20, 20), "{:#}", told.event);
    assert_eq!(
        (told.number("/limit/zombies"), &told.event["zombie_share"]),
        (0, &json!(0.0)),
        "{:#}",
        told.event
    );
    assert_eq!(told.event["zombies_of"], json!([]));
    // It has no zombies, and is shown all the same.
    let row = row(&container).expect("no row");
    assert_eq!(headroom(&[&container.id]).len(), 1);
    assert_eq!(
        (row["zombies"].as_u64(), row["limits"][0]["processes"].as_u64()),
        (Some(0), Some(20)),
        "{row:#}"
    );
    assert_eq!(row["limits"][0]["used"], 20);
    drop(container);
    daemon.end();
}

/// The kernel frees them a while later, and only then are they out of the ledger.
#[test]
fn what_was_waited_for_a_moment_ago_is_no_zombie() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "1s"]);
    let linux = json!({ "resources": { "pids": { "limit": LIMIT } } });
    let container = forker("tidy", "wait", "1000000", &linux);
    let mut reported = 0;
    daemon.until("those that stand are reported", Duration::from_secs(20), |seen| {
        reported += u64::from(seen.is("zombie") && seen.text("/workload/id") == container.id);
        reported == 3
    });
    let all = run(Command::new(program("ps")).args(["-A", "-o", "stat="]));
    let standing = all.lines().filter(|state| state.starts_with('Z')).count() as u64;
    let mut most = 0;
    for _ in 0..30 {
        let rows = headroom(&[&container.id]);
        let [row] = &rows[..] else { panic!("{rows:#?}") };
        let limits = row["limits"].as_array().unwrap();
        let node = limits.iter().find(|limit| limit["kind"] == "pid-max").unwrap();
        let (own, all) = (row["zombies"].as_u64().unwrap(), node["zombies"].as_u64().unwrap());
        // One may be dead and waited for next, and others elsewhere.
        assert!((3..=4).contains(&own) && (own..=standing + 5).contains(&all), "{standing}: {row:#}");
        most = most.max(all);
    }
    println!("{standing} zombies stand, and at most {most} are counted");
    drop(container);
    daemon.end();
}

/// As where a launcher that does not wait makes a cgroup for each job: only zombies do not keep it from being removed.
#[test]
fn zombies_of_a_cgroup_that_is_gone_do_not_count_in_another_one_at_its_place() {
    const NAME: &str = "reaper-headroom-again";
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "500ms"]);
    let folder = pids_mount().join(NAME);
    let _cgroup = Parent(NAME);
    fs::create_dir(&folder).unwrap();
    let mut job: Vec<_> = (0..5)
        .map(|_| {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
            child
        })
        .collect();
    job.iter_mut().for_each(|child| child.kill().unwrap());
    let mut left: HashSet<u64> = job.iter().map(|child| child.id().into()).collect();
    daemon.until("the job's zombies are reported", Duration::from_secs(20), |seen| {
        if seen.is("zombie") {
            left.remove(&seen.number("/pid"));
        }
        left.is_empty()
    });
    let zombies = || {
        let rows = headroom(&[&format!("/{NAME}")]);
        let [row] = &rows[..] else { panic!("{rows:#?}") };
        row["zombies"].as_u64().unwrap()
    };
    assert_eq!(zombies(), 5);
    fs::remove_dir(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    assert_eq!(zombies(), 0);
    for child in &mut job {
        child.wait().unwrap();
    }
    daemon.end();
}

#[test]
fn without_a_daemon_limits_and_shares_are_known_and_forecasts_are_not() {
    let _machine = machine();
    let linux = json!({ "resources": { "pids": { "limit": LIMIT } } });
    // So slowly that it is not full when it is looked at.
    let container = forker("alone", "leak", "20", &linux);
    let deadline = Instant::now() + Duration::from_secs(20);
    let pids = pids_mount().join(&container.id).join("pids.current");
    while number(&pids) < 50 {
        assert!(Instant::now() < deadline, "it does not leak");
        std::thread::sleep(Duration::from_millis(5));
    }
    let row = row(&container).expect("no row");
    let own = &row["limits"][0];
    assert_eq!(
        (&row["source"], &own["limit"], &own["exhaustion"]),
        (&json!("census"), &json!(LIMIT), &Value::Null)
    );
    let [used, zombies, threads] = ["used", "zombies", "threads"].map(|key| own[key].as_u64().unwrap());
    // The census is a moment before the reading.
    assert!(zombies >= 40 && used >= zombies && used - zombies < 60 && threads <= 2, "{row:#}");
    assert_eq!(row["holder"]["pid"], container.init());
    let refused = run_briefly(Command::new(reaper()).args(["headroom", "nobody-is-called-so"]));
    assert_eq!(refused.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nobody-is-called-so"));
}

/// Also what is in no cgroup of its own.
#[test]
fn whatever_a_list_shows_can_be_asked_for_by_that_name() {
    let _machine = machine();
    let holder = Holder::start("deaf", 1);
    let by_each_name = || {
        let list = run(Command::new(reaper()).args(["headroom"]));
        let names: Vec<_> = list.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
        assert!(!names.is_empty(), "{list}");
        for name in names {
            let one = run(Command::new(reaper()).args(["headroom", name]));
            assert!(one.contains("kernel.pid_max"), "{name}: {one}");
        }
    };
    by_each_name();
    let mut daemon = Daemon::run(&["--age", "200ms"]);
    daemon.until("it is reported", Duration::from_secs(20), |seen| {
        seen.is("zombie") && seen.number("/holder/pid") == u64::from(holder.pid())
    });
    by_each_name();
    daemon.end();
}
