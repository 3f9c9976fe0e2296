//! Who released a zombie, and when exactly: said where the kernel lets it be seen, null where it does not.

use std::{
    path::Path,
    process::{Command, id},
    time::Duration,
};

use serde_json::Value;

use crate::{
    fentry::Empty,
    support::{Daemon, boot_now, machine, reaper, run_briefly},
};

/// What is waited for longer than this does not come.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_release_names_its_reaper_where_the_kernel_lets_it_be_seen_and_only_there() {
    let _machine = machine();
    let fentry = Empty::at("release_task").map(drop);
    let kprobes = Path::new("/sys/bus/event_source/devices/kprobe/type").exists();
    println!("fentry: {fentry:?}; kprobes: {kprobes}");
    let checked = run_briefly(Command::new(reaper()).args(["check", "--output", "json"]));
    let text = String::from_utf8(checked.stdout).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let row = rows.into_iter().find(|row| row["name"] == "release hook").unwrap();
    let offered = match (fentry.is_ok(), kprobes) {
        (true, _) => "fentry",
        (false, true) => "kprobe",
        (false, false) => "none",
    };
    assert!(row["detail"].as_str().unwrap().starts_with(offered), "{offered}: {row}");
    assert_eq!(row["standing"], if offered == "none" { "reduced" } else { "ok" });

    let mut daemon = Daemon::trace(&["--age", "1s"]);
    let mut child = Command::new("true").spawn().unwrap();
    let pid = u64::from(child.id());
    daemon.until("its report", PATIENCE, |seen| seen.is("zombie") && seen.number("/pid") == pid);
    assert_eq!(daemon.log().contains("without exact time and reaper"), offered == "none", "{}", daemon.log());
    let before = boot_now();
    child.wait().unwrap();
    let after = boot_now();
    daemon.until("its release", PATIENCE, |seen| seen.is("released") && seen.number("/pid") == pid);
    let seen = daemon.end();
    let release = seen.iter().find(|seen| seen.is("released") && seen.number("/pid") == pid).unwrap();
    println!("{}", release.event);
    if offered == "none" {
        assert!(release.event["reaped"].is_null(), "{release:?}");
    } else {
        assert_eq!(release.number("/reaped/pid"), u64::from(id()), "{release:?}");
        assert!((before..=after).contains(&release.number("/reaped/at")), "{before}, {after}: {release:?}");
    }
}
