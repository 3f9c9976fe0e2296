//! The case that all this is for: a crawler that is PID 1 of its container, and the helpers of killed browsers, which it never
//! waits for.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::configuration;
use crate::support::{Container, Daemon, Rootfs, fixture, machine, rounds};

/// Tasks of the container at once: the crawler's own, and its orphans of about twelve seconds, of which there are ten a second. They
/// are due after two, at first only after the crawler was watched for as long; an act is five seconds after the last.
const STANDING: u64 = 150;

#[test]
fn a_one_line_rule_keeps_a_crawlers_pids_flat_while_it_works_on() {
    let _machine = machine();
    let lasts = Duration::from_secs(rounds(60, 600));
    let rule = "rule = [{ match = { kind = 'container', cause = 'adopted' }, steps = [{ remedy = 'reap', after = '2s' }] }]\n";
    let file = configuration(rule);
    let mut daemon = Daemon::run(&["--config", file.path().to_str().unwrap()]);
    let fill = |shared: &Path| {
        fs::copy(fixture("remedy/crawler.py"), shared.join("crawler.py")).unwrap();
    };
    let words = ["/usr/bin/python3", "-I", "-S", "/seed/crawler.py", "/seed/log"];
    let container = Container::start("crawler", Rootfs::HostPrograms, fill, &words);
    let init = container.init();
    let pids = pids_current(init);
    let (began, mut most, mut refused) = (Instant::now(), 0, Vec::new());
    let (mut reaped, mut applied, mut late) = (0, 0, 0);
    daemon.until("it has worked for long enough", lasts + Duration::from_secs(60), |seen| {
        if seen.is("remedy") && seen.number("/holder/pid") == u64::from(init) {
            match seen.text("/outcome") {
                "applied" => {
                    applied += 1;
                    reaped += seen.event["zombies"].as_array().unwrap().len() as u64;
                }
                // Of a busy machine: the holder had no CPU to stop on, and was let go.
                "refused" if seen.text("/reason") == "no-stop" => late += 1,
                _ => refused.push(seen.event.clone()),
            }
        }
        most = most.max(number(&pids));
        began.elapsed() > lasts
    });
    let (right, wrong, orphans) = work(&container);
    println!(
        "crawler: {right} commands, {orphans} orphans, {reaped} reaped in {applied} acts ({late} let go), at most {most} tasks at once"
    );
    assert_eq!(wrong, 0, "its children's statuses are its own");
    assert!(orphans > 2 * STANDING, "{orphans} orphans show nothing");
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(late <= 1 + applied / 50, "{late} let go, {applied} applied");
    assert!(most <= STANDING, "{most} tasks: they pile up");
    // It works on, at the end as at the beginning.
    let deadline = Instant::now() + Duration::from_secs(10);
    while work(&container).0 < right + 5 {
        assert!(Instant::now() < deadline, "it works no more");
        std::thread::yield_now();
    }
    assert_eq!(container.init(), init);
    daemon.end();
}

/// What the crawler last wrote: commands that ended as they should, others, orphans.
fn work(container: &Container) -> (u64, u64, u64) {
    let log = fs::read_to_string(container.shared().join("log")).unwrap_or_default();
    // The last line may be half written.
    let line = log.rsplit_once('\n').map_or("", |(whole, _)| whole).lines().last().unwrap_or_default();
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [right, wrong, orphans] => (right, wrong, orphans),
        _ => (0, 0, 0),
    }
}

/// The file that says how many tasks the process's cgroup has, zombies included.
fn pids_current(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |line: &str, controller: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next().unwrap();
        let path = fields.next().unwrap().trim_start_matches('/').to_owned();
        controllers.split(',').any(|name| name == controller).then_some(path)
    };
    let in_v1 = text.lines().find_map(|line| path(line, "pids"));
    let file = match in_v1 {
        Some(path) => Path::new("/sys/fs/cgroup/pids").join(path),
        None => Path::new("/sys/fs/cgroup").join(text.lines().find_map(|line| path(line, "")).unwrap()),
    };
    file.join("pids.current")
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .trim()
        .parse()
        .unwrap()
}
