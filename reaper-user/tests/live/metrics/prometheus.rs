//! A real Prometheus with the rules that are deployed, and a leak that is real.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{ANY, HOLD, Unit, address, get};
use crate::support::{Daemon, machine, program};

/// Prometheus starts, scrapes and evaluates within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the rules are.
pub(super) fn deployed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus")
}

/// The deployed rules, for a leak that has no quarter of an hour.
fn hurried() -> String {
    let rules = fs::read_to_string(deployed().join("rules.yml")).unwrap();
    let hurried = rules.replace("[15m]", "[10s]").replace("[5m]", "[10s]").replace("for: 15m", "for: 3s");
    assert!(
        hurried.contains("deriv(reaper_zombies_standing[10s])") && hurried.contains("for: 3s"),
        "{hurried}"
    );
    hurried
}

struct Prometheus {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Prometheus {
    fn start(target: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free a moment ago; somebody else would have to take it in between.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let configuration = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: reaper, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(folder.path().join("prometheus.yml"), configuration).unwrap();
        fs::write(folder.path().join("rules.yml"), hurried()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program("prometheus"))
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut prometheus = Self { child, address, folder };
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&prometheus.address).is_err() {
            assert!(
                Instant::now() < deadline && prometheus.child.try_wait().unwrap().is_none(),
                "{}",
                prometheus.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn ask(&self, path: &str) -> Value {
        let (status, body) = get(&self.address, &format!("/api/v1/{path}"));
        // Where it starts, it says so.
        if status.contains(" 503 ") {
            return Value::Null;
        }
        assert!(status.contains(" 200 "), "{status}\n{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// The value of an expression that has one.
    fn value(&self, expression: &str) -> Option<f64> {
        let expression: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.ask(&format!("query?query={expression}"));
        answer["data"]["result"][0]["value"][1].as_str().map(|value| value.parse().unwrap())
    }

    /// Waits until an expression has a value that is `wanted`.
    fn until(&self, expression: &str, wanted: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.value(expression);
            if value.is_some_and(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{expression} is {value:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The state of the alert about a workload.
    fn alert(&self, name: &str, workload: &str) -> Option<String> {
        let alerts = self.ask("alerts");
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let ours = alerts
            .iter()
            .find(|alert| alert["labels"]["alertname"] == name && alert["labels"]["workload"] == workload);
        ours.map(|alert| alert["state"].as_str().unwrap().to_owned())
    }

    fn until_alert(&self, name: &str, workload: &str, wanted: Option<&str>, mut meanwhile: impl FnMut()) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.alert(name, workload);
            if state.as_deref() == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {state:?}, not {wanted:?}\n{}", self.log());
            meanwhile();
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each panel's queries of the deployed dashboard, with what Grafana would put in the place of its variables.
fn queries() -> Vec<(String, String)> {
    let dashboard = deployed().join("../grafana/reaper.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(dashboard).unwrap()).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$instance", ".*")
                .replace("$__rate_interval", "10s")
                .replace("$__range", "30s");
            assert!(!query.contains('$'), "{query}");
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    assert!(queries.len() > 15, "{queries:?}");
    queries
}

#[test]
fn every_query_of_the_dashboard_has_data_while_there_is_a_leak() {
    let _machine = machine();
    let daemon = Daemon::run(&[&["--age", "500ms"], &ANY[..]].concat());
    let prometheus = Prometheus::start(&address(&daemon));
    let unit = Unit::new("shown");
    let mut holder = unit.start(HOLD, &[""; 3]);
    holder.wait();
    // Children that are waited for, late: the times of the others.
    let mut late = unit.start(super::LATE, &["200"]);
    late.wait();
    late.go_on();
    late.wait();
    let standing = format!("sum(reaper_zombies_standing{{workload=\"{}\"}})", unit.name);
    prometheus.until(&standing, |standing| standing == 3.0);
    for (panel, query) in queries() {
        // How many lines it draws. A quantile of what did not happen in the last seconds is no number, but it is data.
        let count = format!("count({query})");
        let deadline = Instant::now() + PATIENCE;
        while prometheus.value(&count).is_none() {
            assert!(Instant::now() < deadline, "{panel}: no data for {query}\n{}", prometheus.log());
            thread::sleep(Duration::from_millis(200));
        }
    }
    let (panel, query) = &queries()[0];
    assert!(prometheus.value(query).is_some_and(|all| all >= 3.0), "{panel}");
    holder.end();
    late.end();
    daemon.end();
}

#[test]
fn prometheus_scrapes_the_daemon_and_its_rules_fire_and_resolve_on_a_real_leak() {
    let _machine = machine();
    let daemon = Daemon::run(&[&["--age", "500ms"], &ANY[..]].concat());
    let target = address(&daemon);
    let prometheus = Prometheus::start(&target);
    prometheus.until("up{job=\"reaper\"}", |up| up == 1.0);
    prometheus.until("scrape_samples_scraped{job=\"reaper\"}", |samples| samples > 50.0);
    let unit = Unit::new("leak");
    let mut holders = Vec::new();
    let mut leak = || {
        let mut holder = unit.start(HOLD, &[""; 2]);
        holder.wait();
        holders.push(holder);
    };
    prometheus.until_alert("ReaperZombieLeak", &unit.name, Some("firing"), &mut leak);
    let leaked = 2.0 * holders.len() as f64;
    assert!(leaked >= 10.0, "{leaked}");
    let of_unit = |metric: &str| format!("{metric}{{workload=\"{}\"}}", unit.name);
    prometheus.until(&of_unit("workload:reaper_zombies_standing:sum"), |standing| standing == leaked);
    prometheus.until(&of_unit("workload:reaper_zombies_reported:rate5m"), |rate| rate >= 0.0);
    assert!(prometheus.value("instance:reaper_zombies_standing:sum").is_some_and(|all| all >= leaked));
    holders.into_iter().for_each(super::Script::end);
    prometheus.until_alert("ReaperZombieLeak", &unit.name, None, || {});
    prometheus.until(&of_unit("reaper_zombies_released_total"), |released| released == leaked);
    daemon.end();
    prometheus.until("up{job=\"reaper\"}", |up| up == 0.0);
}
