//! What a cluster is told: by the real daemon, of pods in a real containerd, to an API server of the test's own
//! (`support/api_server.rs` says what of a real one it does).

use std::{
    fs,
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    metrics::page::{self, Page},
    remedy::configuration,
    support::{
        ApiServer, Authority, Containerd, Daemon, Image, NODE, Pod, ServiceAccount, kubeconfig_for, machine,
    },
};

const UID: &str = "5f1c3d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f";

const FETCHER: Pod<'static> =
    Pod { namespace: "crawlers", name: "fetcher-7c9d", uid: UID, labels: &[], annotations: &[] };

const SOON: Duration = Duration::from_secs(30);

/// Tells that server everything, of zombies from 400 ms on.
fn daemon(kubeconfig: &Path, cri: &Path, node_zombies: &str) -> Daemon {
    let kubeconfig = kubeconfig.to_str().unwrap();
    with_options(cri, node_zombies, &["--kubeconfig", kubeconfig], Daemon::run)
}

fn with_options(
    cri: &Path,
    node_zombies: &str,
    more: &[&str],
    run: impl FnOnce(&[&str]) -> Daemon,
) -> Daemon {
    let file = configuration("");
    let options = [
        "--config",
        file.path().to_str().unwrap(),
        "--names-docker=off",
        "--names-podman=off",
        "--names-cri",
        cri.to_str().unwrap(),
        "--kubernetes-events",
        "--kubernetes-apart=1s",
        "--kubernetes-node",
        NODE,
        "--kubernetes-node-zombies",
        node_zombies,
    ];
    run(&[&options, more].concat())
}

/// The one for what its holder forked and does not wait for. The next daemon may not know that any more of those that stand, and
/// tells of them in another.
fn only_event(server: &ApiServer) -> Option<Value> {
    let mut events = server.events();
    events.retain(|event| event["message"].as_str().unwrap().contains("never-waited"));
    assert!(events.len() <= 1, "one for a pod and a cause: {events:#?}");
    events.pop()
}

fn count(server: &ApiServer) -> u64 {
    only_event(server).map_or(0, |event| event["count"].as_u64().unwrap())
}

fn until_log(daemon: &Daemon, text: &str) {
    let deadline = Instant::now() + SOON;
    while !daemon.log().contains(text) {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_pods_zombies_are_one_event_that_goes_on_counting() {
    let _machine = machine();
    let image = Image::make();
    let mut containerd = Containerd::start(&image);
    let server = ApiServer::start();
    let mut daemon = daemon(&server.kubeconfig(), &containerd.socket(), "off");
    let id = containerd.run(&FETCHER);
    let mut zombie = None;
    daemon.until("a zombie of the pod", SOON, |seen| {
        if seen.is("zombie") && seen.text("/workload/id") == id {
            zombie = Some(seen.clone());
        }
        zombie.is_some()
    });
    let zombie = zombie.unwrap();
    server.until("an Event", SOON, |server| only_event(server).is_some());
    let event = only_event(&server).unwrap();
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    assert_eq!(
        ["/involvedObject/kind", "/involvedObject/namespace", "/involvedObject/name", "/involvedObject/uid"]
            .map(text),
        ["Pod", "crawlers", "fetcher-7c9d", UID]
    );
    assert_eq!(text("/involvedObject/fieldPath"), "spec.containers{fetcher}");
    assert_eq!([text("/type"), text("/reason"), text("/source/host")], ["Warning", "ZombiesStanding", NODE]);
    // What holds them is named, and no command line: whoever may read Events may not read those.
    let holder = zombie.text("/holder/comm");
    assert!(text("/message").contains(&format!("cause {}: `{holder}`", zombie.text("/cause"))), "{event:#?}");
    assert!(!text("/message").contains(zombie.text("/holder/cmdline")), "{event:#?}");

    // More of them come: the same Event counts on, and says when.
    let (first, before) = (text("/firstTimestamp").to_owned(), count(&server));
    server.until("a higher count", SOON, |server| count(server) > before);
    assert_eq!(only_event(&server).unwrap()["firstTimestamp"], Value::from(first));
    // After an hour the server has forgotten it.
    server.expire_events();
    server.until("an Event anew", SOON, |server| count(server) > before);

    // The next daemon goes on in the same Event.
    daemon.end();
    let second = self::daemon(&server.kubeconfig(), &containerd.socket(), "off");
    let last = only_event(&server).unwrap()["lastTimestamp"].clone();
    server.until("the next daemon's", SOON, |server| only_event(server).unwrap()["lastTimestamp"] != last);
    second.end();
}

#[test]
fn what_is_forbidden_is_said_and_told_when_it_is_allowed() {
    let _machine = machine();
    let image = Image::make();
    let mut containerd = Containerd::start(&image);
    let server = ApiServer::start();
    server.forbid("create", "events");
    let mut daemon = daemon(&server.kubeconfig(), &containerd.socket(), "1");
    let id = containerd.run(&FETCHER);
    daemon.until("a zombie of the pod", SOON, |seen| seen.is("zombie") && seen.text("/workload/id") == id);
    // One that is refused does not keep the other from being told.
    server.until("a condition", SOON, |server| {
        server.answers(403) > 0
            && server.condition("ZombiePressure").is_some_and(|condition| condition["status"] == "True")
    });
    let condition = server.condition("ZombiePressure").unwrap();
    assert!(condition["message"].as_str().unwrap().contains("crawlers/fetcher-7c9d"), "{condition:#?}");
    assert_eq!(condition["reason"], "ManyZombies");
    assert!(server.condition("Ready").is_some(), "others' conditions stay");
    until_log(&daemon, "cannot create resource");
    server.allow_all();
    server.until("an Event", SOON, |server| only_event(server).is_some());
    daemon.end();
    // A controller that drains nodes is not left with what was true once.
    server.until("an end", SOON, |server| server.condition("ZombiePressure").unwrap()["status"] == "Unknown");
}

#[test]
fn reports_are_on_time_while_the_server_hangs_and_before_there_is_one() {
    let _machine = machine();
    let image = Image::make();
    let mut containerd = Containerd::start(&image);
    let server = ApiServer::start();
    server.hang(true);
    let mut daemon = daemon(&server.kubeconfig(), &containerd.socket(), "off");
    let id = containerd.run(&FETCHER);
    let mut ages = Vec::new();
    daemon.until("reports", SOON, |seen| {
        if seen.is("zombie") && seen.text("/workload/id") == id && seen.event["age_seconds"].is_number() {
            ages.push(seen.event["age_seconds"].as_f64().unwrap());
        }
        ages.len() >= 30
    });
    ages.sort_by(f64::total_cmp);
    assert!(ages[ages.len() / 2] < 0.5, "{ages:?}");
    let begun = Instant::now();
    daemon.end();
    assert!(begun.elapsed() < Duration::from_secs(2), "a server that hangs holds the end up");

    // Where nobody listens yet.
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let listens_at = place.local_addr().unwrap();
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    fs::write(kubeconfig.path(), kubeconfig_for(listens_at)).unwrap();
    drop(place);
    let daemon = self::daemon(kubeconfig.path(), &containerd.socket(), "off");
    let address = page::address(&daemon);
    Page::when(&address, "refused connections", |page| {
        page.sum("reaper_kubernetes_requests_total", &[("result", "failed")]) >= 1.0
    });
    let late = ApiServer::on(TcpListener::bind(listens_at).unwrap());
    late.until("an Event, late", SOON, |server| only_event(server).is_some());
    Page::when(&address, "an accepted request", |page| {
        page.sum("reaper_kubernetes_requests_total", &[("result", "accepted")]) >= 1.0
    });
    daemon.end();
}

#[test]
fn within_a_cluster_it_tells_as_its_service_account_whom_the_clusters_authority_vouches_for_and_nobody_else()
{
    let _machine = machine();
    let image = Image::make();
    let mut containerd = Containerd::start(&image);
    let (authority, another) = (Authority::new(), Authority::new());
    let (server, address) = ApiServer::start_tls(&authority);
    let account = ServiceAccount::new(&another.pem());
    let started = |options: &[&str]| Daemon::run_by(account.within(address), options);
    let mut daemon = with_options(&containerd.socket(), "off", &[], started);
    let id = containerd.run(&FETCHER);
    daemon.until("a zombie of the pod", SOON, |seen| seen.is("zombie") && seen.text("/workload/id") == id);
    until_log(&daemon, "the cluster is not told of zombies ([kubernetes]): ");
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("the cluster is not told")).unwrap();
    assert!(line.contains("invalid peer certificate"), "{line}");
    server.until("the handshake that it ended", SOON, |server| server.turned_away() > 0);
    assert_eq!(server.answers(201), 0, "it was told by whom it does not trust");
    // Credentials are read anew, as they are when a cluster renews them.
    account.trust(&authority.pem());
    server.until("an Event", SOON, |server| only_event(server).is_some());
    assert_eq!(server.answers(401), 0, "its token is the account's");
    until_log(&daemon, "the cluster is told again");
    daemon.end();
}

#[test]
fn without_credentials_the_daemon_runs_and_says_what_is_missing() {
    let _machine = machine();
    let daemon = daemon(Path::new("/nonexistent/kubeconfig"), Path::new("/nonexistent/cri"), "1");
    until_log(&daemon, "the cluster is not told");
    assert!(daemon.log().contains("/nonexistent/kubeconfig"), "{}", daemon.log());
    daemon.end();
}
