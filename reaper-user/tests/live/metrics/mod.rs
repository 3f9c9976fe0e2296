//! Metrics, held against what /proc and ps show, and read by a real Prometheus.

mod many;
pub(crate) mod page;
mod prometheus;
mod rising;

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use self::page::{ANY, PATIENCE, Page, address, get};
use crate::support::{Cgroup, Daemon, Pins, machine, program, run_briefly};

/// A unit's cgroup with processes of Python in it.
struct Unit {
    name: String,
    cgroup: Cgroup,
}

impl Unit {
    fn new(name: &str) -> Self {
        let name = format!("reaper-{name}-{}.service", std::process::id());
        Self { cgroup: Cgroup::new(&name), name }
    }

    /// Runs a script in it, which ends with its standard input.
    fn start(&self, script: &str, arguments: &[&str]) -> Script {
        // The distribution's: others may be scripts that start it.
        let mut command = self.cgroup.command(Path::new("/usr/bin/python3"));
        command.args(["-c", script]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        Script(command.spawn().unwrap())
    }
}

struct Script(Child);

impl Script {
    /// Waits until it has written something.
    fn wait(&mut self) {
        let read = self.0.stdout.as_mut().unwrap().read(&mut [0; 1]).unwrap();
        assert_eq!(read, 1, "the script has ended: {:?}", self.0.try_wait());
    }

    /// Tells it to do what it waits with.
    fn go_on(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Holds a zombie in each of the cgroups that it is told, its own where that is empty, and waits for them in the end: who does
/// that for orphans may take its time.
const HOLD: &str = "
import os, sys
for cgroup in sys.argv[1:]:
    if os.fork() == 0:
        if cgroup:
            with open(cgroup + '/cgroup.procs', 'w') as procs:
                procs.write('0')
        os._exit(0)
print(flush=True)
sys.stdin.read()
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
";

/// When it is told to, lets each of five children stand for so many milliseconds after its death, then waits for it; one at a
/// time.
const LATE: &str = "
import os, sys, time
print(flush=True)
sys.stdin.readline()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    time.sleep(int(sys.argv[1]) / 1000)
    os.waitpid(child, 0)
print(flush=True)
sys.stdin.read()
";

/// Waits for each of its children at once.
const PROMPT: &str = "
import os, sys
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
print(flush=True)
sys.stdin.read()
";

fn zombies_of(holder: u32) -> usize {
    let ps =
        Command::new(program("ps")).args(["-o", "stat=", "--ppid", &holder.to_string()]).output().unwrap();
    String::from_utf8(ps.stdout).unwrap().lines().filter(|state| state.starts_with('Z')).count()
}

#[test]
fn zombies_are_counted_by_workload_and_cause_as_ps_shows_them() {
    let _machine = machine();
    let daemon = Daemon::run(&[&["--age", "500ms"], &ANY[..]].concat());
    let (address, unit) = (address(&daemon), Unit::new("standing"));
    let mut holder = unit.start(HOLD, &[""; 23]);
    holder.wait();
    let labels = [("kind", "unit"), ("workload", unit.name.as_str()), ("pod_uid", "")];
    let own = [&labels[..], &[("cause", "never-waited")]].concat();
    let page = Page::when(&address, "all stand", |page| page.sum("reaper_zombies_standing", &own) >= 23.0);
    assert_eq!(zombies_of(holder.0.id()), 23);
    for (name, value) in [("standing", 23.0), ("reported_total", 23.0), ("released_total", 0.0)] {
        assert_eq!(page.sum(&format!("reaper_zombies_{name}"), &labels), value, "{name}");
    }
    let age = page.sum("reaper_zombie_oldest_age_seconds", &[]);
    assert!(age >= 0.5, "{age}");
    holder.end();
    let page =
        Page::when(&address, "all are gone", |page| page.sum("reaper_zombies_released_total", &own) >= 23.0);
    assert_eq!(page.sum("reaper_zombies_standing", &labels), 0.0);
    assert_eq!(page.sum("reaper_zombies_reaped_total", &labels), 0.0);
    // Each of them died, and is none of those that were waited for at once.
    assert!(page.sum("reaper_zombies_born_total", &[]) >= 23.0);
    daemon.end();
}

#[test]
fn how_long_children_stood_is_what_their_parent_let_them_stand() {
    let _machine = machine();
    let daemon = Daemon::run(&[&["--age", "1h"], &ANY[..]].concat());
    let address = address(&daemon);
    // A tick more or less, and what RCU adds until the kernel frees a process; the machine is busy besides.
    let cases = [(100, ["0.064", "0.512"]), (1_000, ["0.512", "2.048"]), (5_000, ["4.096", "8.192"])];
    let units = cases.map(|(milliseconds, _)| Unit::new(&format!("late-{milliseconds}")));
    let mut scripts: Vec<_> = std::iter::zip(&units, cases)
        .map(|(unit, (milliseconds, _))| unit.start(LATE, &[&milliseconds.to_string()]))
        .collect();
    scripts.iter_mut().for_each(Script::wait);
    // What it took to start them is not what is asked about.
    let before = Page::take(&address);
    scripts.iter_mut().for_each(Script::go_on);
    let prompt_unit = Unit::new("prompt");
    let mut prompt = prompt_unit.start(PROMPT, &["300"]);
    prompt.wait();
    scripts.iter_mut().for_each(Script::wait);
    let more =
        |page: &Page, name: &str, labels: &[(&str, &str)]| page.sum(name, labels) - before.sum(name, labels);
    let page = Page::when(&address, "the last is counted", |page| {
        let count = "reaper_workload_time_to_reap_seconds_count";
        units.iter().all(|unit| more(page, count, &[("workload", &unit.name)]) >= 5.0)
    });
    for (unit, (milliseconds, [above, up_to])) in units.iter().zip(cases) {
        let of = |name: &str, le: &[(&str, &str)]| {
            let labels = [&[("kind", "unit"), ("workload", &unit.name)], le].concat();
            more(&page, &format!("reaper_workload_time_to_reap_seconds_{name}"), &labels)
        };
        assert_eq!(of("count", &[]), 5.0, "{milliseconds} ms");
        assert_eq!(
            [of("bucket", &[("le", above)]), of("bucket", &[("le", up_to)])],
            [0.0, 5.0],
            "{}",
            page.text
        );
        let (mean, told) = (of("sum", &[]) / 5.0, f64::from(milliseconds) / 1e3);
        assert!(mean > told - 0.011 && mean < told + 0.35, "{mean} s, told to be {told} s");
    }
    let more = |name: &str, labels: &[(&str, &str)]| more(&page, name, labels);
    let quick = more("reaper_time_to_reap_seconds_bucket", &[("le", "0.064")]);
    assert!(quick > 250.0, "{quick} were freed within 64 ms");
    // Of all there are at least as many in each bucket as of these.
    let all = more("reaper_time_to_reap_seconds_count", &[]);
    assert!(all - quick >= 15.0, "{all} - {quick}");
    // Whose end a hook has missed is in the ledger until it is compared.
    let left = more("reaper_ledger_processes", &[("state", "dead")]);
    assert!(all + left >= 315.0, "{all}, of which {quick} within 64 ms, and {left}:\n{}", page.text);
    let born = more("reaper_zombies_born_total", &[]);
    assert!(born >= 315.0, "{born}");
    scripts.into_iter().for_each(Script::end);
    prompt.end();
    daemon.end();
}

#[test]
fn what_the_daemon_says_of_itself_is_what_proc_says() {
    let _machine = machine();
    let daemon = Daemon::run(&ANY);
    let (address, pid) = (address(&daemon), daemon.pid());
    let proc = Path::new("/proc").join(pid.to_string());
    // It may open or map something between the two looks, above all when it has just begun: they agree at one time or another.
    let page = Page::when(&address, "it says what /proc says", |page| {
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let field = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_ascii_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir(proc.join("fd")).unwrap().count() as f64;
        let agree = |name: &str, told: f64, off: f64| (page.sum(name, &[]) - told).abs() <= off;
        agree("reaper_resident_memory_bytes", field("VmRSS:") * 1024.0, 2e6)
            // The connection that is being answered is one.
            && agree("reaper_open_descriptors", descriptors, 1.0)
            && agree("reaper_threads", field("Threads:"), 0.0)
    });
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes =
        processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    // What is freed or forked meanwhile; others are at work on this machine.
    let known = page.sum("reaper_ledger_processes", &[]);
    assert!((known - processes as f64).abs() <= 40.0, "{known}, in /proc {processes}");
    assert!(page.sum("reaper_sweeps_total", &[]) >= 1.0);
    assert_eq!(page.label_sets("reaper_lost_total"), reaper::report::Loss::ALL.len());
    assert_eq!(listening(pid), HashSet::from([address.rsplit_once(':').unwrap().1.parse().unwrap()]));
    daemon.end();
}

/// The ports that a process listens at, by TCP, and those it has by UDP.
fn listening(pid: u32) -> HashSet<u16> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets: HashSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = HashSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            // 0A is TCP_LISTEN.
            if sockets.contains(fields[9]) && (fields[3] == "0A" || table.starts_with("udp")) {
                ports.insert(u16::from_str_radix(fields[1].rsplit_once(':').unwrap().1, 16).unwrap());
            }
        }
    }
    ports
}

#[test]
fn off_listens_nowhere_and_an_address_that_is_taken_ends_the_start() {
    let _machine = machine();
    let daemon = Daemon::run(&["--metrics-listen", "off"]);
    assert_eq!(listening(daemon.pid()), HashSet::new());
    daemon.end();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(crate::support::reaper());
    let refused = run_briefly(command.args(["run", "--no-persist", "--metrics-listen", &address]));
    crate::support::assert_refused(&refused, 69, &[&address, "[metrics] listen"]);
}

/// The usual address, held by another program: by this test, unless one has it already.
fn the_usual_address_is_taken() -> (&'static str, Option<std::net::TcpListener>) {
    let usual = "127.0.0.1:9464";
    match std::net::TcpListener::bind(usual) {
        Ok(taken) => (usual, Some(taken)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => (usual, None),
        Err(error) => panic!("{usual}: {error}"),
    }
}

/// What `reaper check` says of metrics.
fn checked() -> (String, String) {
    let output = run_briefly(Command::new(crate::support::reaper()).args(["check", "--output", "json"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let line = lines.find(|line| line["name"] == "metrics").unwrap_or_else(|| panic!("{text}"));
    ["standing", "detail"].map(|key| line[key].as_str().unwrap().to_owned()).into()
}

#[test]
fn the_usual_address_that_is_taken_is_said_and_watching_goes_on_without_unless_it_was_asked_for() {
    let _machine = machine();
    let (usual, _taken) = the_usual_address_is_taken();
    let names =
        |text: &str| [usual, "[metrics] listen", "--metrics-listen"].iter().all(|part| text.contains(part));
    let before = checked();
    assert!(before.0 == "reduced" && names(&before.1), "{before:?}");
    let mut daemon = Daemon::run(&["--age", "400ms"]);
    let log = daemon.log();
    assert!(log.contains("WARN") && names(&log), "{log}");
    assert_eq!(listening(daemon.pid()), HashSet::new());
    let during = checked();
    assert!(during.0 == "reduced" && names(&during.1), "{during:?}");
    let holder = crate::remedy::Holder::start("deaf", 1);
    daemon.until("a report", PATIENCE, |seen| {
        seen.is("zombie") && seen.number("/holder/pid") == u64::from(holder.pid())
    });
    daemon.end();
    let mut command = Command::new(crate::support::reaper());
    let refused = run_briefly(command.args(["run", "--no-persist", "--metrics-listen", usual]));
    crate::support::assert_refused(&refused, 69, &[usual, "[metrics] listen"]);
    // Where it is served, that is said, too.
    let daemon = Daemon::run(&ANY);
    let address = address(&daemon);
    assert_eq!(checked(), ("ok".to_owned(), format!("at http://{address}/metrics")));
    daemon.end();
}

#[test]
fn a_daemon_that_takes_over_is_ready_when_it_has_and_counts_on() {
    let _machine = machine();
    let pins = Pins::new("metrics");
    let unit = Unit::new("upgrade");
    let arguments = [&["--age", "500ms"], &ANY[..]].concat();
    let first = Daemon::run_pinned(pins.path(), &arguments);
    let place = address(&first);
    let mut holder = unit.start(HOLD, &[""; 5]);
    holder.wait();
    let labels = [("workload", unit.name.as_str())];
    let standing = |page: &Page| page.sum("reaper_zombies_standing", &labels) >= 5.0;
    let before = Page::when(&place, "they stand", standing);
    first.end();
    let second = Daemon::run_pinned(pins.path(), &arguments);
    let place = address(&second);
    let page = Page::when(&place, "they stand still", standing);
    assert!(get(&place, "/readyz").0.ends_with("200 OK"));
    assert!(get(&place, "/healthz").0.ends_with("200 OK"));
    // Told of by the first one.
    assert_eq!(page.sum("reaper_zombies_reported_total", &labels), 0.0);
    for name in ["reaper_zombies_born_total", "reaper_time_to_reap_seconds_count"] {
        assert!(page.sum(name, &[]) >= before.sum(name, &[]), "{name}");
    }
    holder.end();
    second.end();
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics_nor_the_rules() {
    let _machine = machine();
    let daemon = Daemon::run(&ANY);
    let page = Page::take(&address(&daemon));
    daemon.end();
    let mut check = Command::new(program("promtool"));
    let mut check = check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(page.text.as_bytes()).unwrap();
    let said = check.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}\n{}", page.text);
    assert!(said.stdout.is_empty() && said.stderr.is_empty(), "{said:?}");
    let folder = prometheus::deployed();
    for (kind, file) in [("check", "rules.yml"), ("test", "rules_test.yml")] {
        let mut command = Command::new(program("promtool"));
        let said = run_briefly(command.current_dir(&folder).args([kind, "rules", file]));
        assert!(said.status.success(), "{file}: {said:?}");
    }
}

#[test]
fn the_kernels_own_count_of_what_programs_cost_is_shown_while_it_counts() {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
    struct Back(String);
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = fs::write(SWITCH, &self.0);
        }
    }
    let _machine = machine();
    let daemon = Daemon::run(&ANY);
    let address = address(&daemon);
    let _back = Back(fs::read_to_string(SWITCH).unwrap());
    fs::write(SWITCH, "1").unwrap();
    let unit = Unit::new("cost");
    let mut script = unit.start(PROMPT, &["100"]);
    script.wait();
    let of = |page: &Page, name: &str| {
        page.sum(name, &[("program", "exit")]) + page.sum(name, &[("program", "exit_plain")])
    };
    let page =
        Page::when(&address, "exits are counted", |page| of(page, "reaper_program_runs_total") >= 100.0);
    let each = of(&page, "reaper_program_seconds_total") / of(&page, "reaper_program_runs_total");
    assert!(each > 2e-8 && each < 1e-4, "{each} s a run");
    script.end();
    daemon.end();
}

#[test]
fn clients_that_hang_delay_neither_reports_nor_others() {
    let _machine = machine();
    let mut daemon = Daemon::run(&[&["--age", "1s"], &ANY[..]].concat());
    let address = address(&daemon);
    let mut hanging: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    for (number, stream) in hanging.iter_mut().enumerate() {
        // Some ask half a question, some ask and read nothing, some are silent.
        let part: &[u8] = match number % 3 {
            0 => b"GET /metrics HTTP/1.1\r\nHo",
            1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            _ => b"",
        };
        // It may have given way to a newer one already.
        let _ = stream.write_all(part);
    }
    let unit = Unit::new("hang");
    let mut holder = unit.start(HOLD, &[""; 3]);
    holder.wait();
    let pid = u64::from(holder.0.id());
    let mut reports = 0;
    daemon.until("three reports", Duration::from_secs(5), |seen| {
        reports += usize::from(seen.is("zombie") && seen.number("/holder/pid") == pid);
        reports == 3
    });
    let page = Page::take(&address);
    assert!(page.sum("reaper_clients_dropped_total", &[]) >= 30.0, "{}", page.text);
    // All of them are let go in the end.
    for stream in &mut hanging {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(
            ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
    }
    holder.end();
    daemon.end();
}
