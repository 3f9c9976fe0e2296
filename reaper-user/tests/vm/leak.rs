//! The main job, once.

use crate::{daemon::Daemon, holder::Holder, require_vm};

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn it_attaches_and_reports_one_leak() {
    require_vm();
    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let leak = holder.leak(7);
    let key = holder.key_of(leak);

    daemon.wait_until("the leak's report", |daemon| daemon.by_process("zombie").contains_key(&key));
    let event = daemon.by_process("zombie")[&key];
    assert_eq!(event["exit"]["code"], 7, "{event}");
    assert_eq!(event["comm"], "holder", "{event}");
    assert_eq!(event["ns_pid"], leak.pid, "{event}");
    assert_eq!(event["holder"]["pid"], holder.pid(), "{event}");
    assert_eq!(event["holder"]["comm"], "holder", "{event}");
    assert_eq!(event["forker"]["pid"], holder.pid(), "{event}");
    assert_eq!(event["forker"]["relation"], "holder", "{event}");
    assert_eq!(event["cause"], "never-waited", "{event}");
    assert_eq!(event["predates"], false, "{event}");
    assert!(event["age_seconds"].as_f64().is_some_and(|age| age >= 1.0), "{event}");

    holder.reap(leak);
    daemon.wait_until("its release", |daemon| daemon.by_process("released").contains_key(&key));
    let daemon = daemon.stop();
    assert_eq!(daemon.by_process("zombie").len(), 1, "nothing else was leaked");
    assert_eq!(daemon.by_process("released").len(), 1);
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_zombie_older_than_the_daemon_is_reported_as_such() {
    require_vm();
    let mut holder = Holder::start();
    let leak = holder.leak(8);
    let key = holder.key_of(leak);

    let mut daemon = Daemon::start("1s");
    daemon.wait_until("the leak's report", |daemon| daemon.by_process("zombie").contains_key(&key));
    let event = daemon.by_process("zombie")[&key];
    assert_eq!(event["predates"], true, "{event}");
    assert!(event["age_seconds"].is_null(), "{event}");
    assert!(event["age_at_least"].is_number(), "{event}");
    assert_eq!(event["exit"]["code"], 8, "{event}");
    assert_eq!(event["holder"]["pid"], holder.pid(), "{event}");

    holder.reap(leak);
    daemon.wait_until("its release", |daemon| daemon.by_process("released").contains_key(&key));
    daemon.stop();
}
