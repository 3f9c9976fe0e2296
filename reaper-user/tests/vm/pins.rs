//! What is pinned goes on recording without a daemon, and the next one takes it over.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use rustix::{
    fs::statfs,
    mount::{UnmountFlags, unmount},
};

use crate::{daemon::Daemon, holder::Holder, require_vm};

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/magic.h> (`BPF_FS_MAGIC`)
const BPF_FS: i64 = 0xcafe_4a11;

const MOUNT: &str = "/sys/fs/bpf";
const PINS: &str = "/sys/fs/bpf/reaper-vm";
/// The machine has no loopback address.
const RUN: [&str; 9] =
    ["run", "--age", "1s", "--output", "json", "--metrics-listen", "off", "--pin-path", PINS];

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_daemon_that_was_killed_is_followed_by_one_that_knows_what_happened_in_between() {
    require_vm();
    let is_bpffs = || statfs(MOUNT).is_ok_and(|found| found.f_type == BPF_FS);
    // As on a machine that never had one.
    unmount(MOUNT, UnmountFlags::empty()).expect("nothing is pinned there yet");
    assert!(!is_bpffs());
    let mut first = Daemon::start_as(&RUN);
    assert!(is_bpffs(), "it is not mounted");
    let mut holder = Holder::start();
    let told = holder.leak(7);
    let told_key = holder.key_of(told);
    first.wait_until("the leak's report", |daemon| daemon.by_process("zombie").contains_key(&told_key));
    // Before its end that it was told of is written down: at the next sweep, which this one brings about.
    let second_told = holder.leak(8);
    let second_key = holder.key_of(second_told);
    first.wait_until("another report", |daemon| daemon.by_process("zombie").contains_key(&second_key));
    // It has no time to say so, and the hook that sees releases is attached where there is one.
    first.stand_still();
    holder.reap(second_told);
    first.kill();

    let unseen = holder.leak(9);
    let unseen_key = holder.key_of(unseen);
    let mut second = Daemon::start_as(&RUN);
    second.wait_until("what nobody saw", |daemon| daemon.by_process("zombie").contains_key(&unseen_key));
    second.wait_until("what was reaped meanwhile", |daemon| {
        daemon.by_process("released").contains_key(&second_key)
    });
    let event = second.by_process("released")[&second_key];
    assert_eq!((&event["recovered"], &event["exit"]["code"]), (&true.into(), &8.into()), "{event}");
    let event = second.by_process("zombie")[&unseen_key];
    // What only the hooks see at fork and at exit.
    assert_eq!((&event["predates"], &event["cause"]), (&false.into(), &"never-waited".into()), "{event}");
    assert_eq!(
        (&event["exit"]["code"], &event["forker"]["pid"]),
        (&9.into(), &holder.pid().into()),
        "{event}"
    );
    for (key, event) in second.by_process("zombie") {
        assert!(key == unseen_key || event["recovered"] == true, "told twice: {event}");
    }
    holder.reap(told);
    holder.reap(unseen);
    for key in [told_key, unseen_key] {
        second.wait_until("a release", |daemon| daemon.by_process("released").contains_key(&key));
    }
    second.stop();

    let names: Vec<_> =
        names(Path::new(PINS)).into_iter().flat_map(|set| names(&Path::new(PINS).join(set))).collect();
    assert!(names.iter().any(|name| name == "LEDGER"), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("link_fork")), "{names:?}");
    let Output { status, stdout, stderr } =
        Command::new("reaper").args(["unload", "--pin-path", PINS]).output().expect("reaper starts");
    let said = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
    for name in &names {
        assert!(said.contains(name.as_str()), "{name} is not named:\n{said}");
    }
    assert!(!Path::new(PINS).exists());
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder of pins");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}
