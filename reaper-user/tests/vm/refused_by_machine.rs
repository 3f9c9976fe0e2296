//! Refused forks whose limit is the machine's, or a pid namespace's: named as such where the kernel lets them be seen.

use std::fs;

use crate::{
    daemon::Daemon,
    forker::{Forker, Limited, Setting},
    refused::{TRIES, is_told, offered, start, told_to},
    require_vm,
};

/// Tasks of the machine.
fn tasks() -> u64 {
    let load = fs::read_to_string("/proc/loadavg").expect("a file");
    let tasks = load.split(' ').nth(3).and_then(|tasks| tasks.split_once('/')).expect("two numbers").1;
    tasks.parse().expect("a number")
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn the_machines_limits_are_named_and_a_pid_namespaces_own_where_there_is_one() {
    require_vm();
    let hook = offered();
    if hook == "none" {
        return;
    }
    let mut daemon = start();
    on_threads(&mut daemon, hook);
    on_pids(&mut daemon, hook);
    let symbols = fs::read_to_string("/proc/kallsyms").expect("the kernel's symbols");
    // <https://elixir.bootlin.com/linux/v6.14/source/kernel/pid.c> (`register_pidns_sysctls`)
    if symbols.contains("register_pidns_sysctls") {
        on_pids_of_a_namespace(&mut daemon, hook);
    }
    daemon.stop();
}

/// In a cgroup of its own: the kernel's threads are made in the root's, as its user, and are refused then, too.
fn apart(name: &str) -> (Limited, Forker) {
    let (cgroup, forker) = (Limited::unlimited(name), Forker::start());
    cgroup.holds(&forker);
    (cgroup, forker)
}

fn on_threads(daemon: &mut Daemon, hook: &str) {
    // A thread of the kernel's may end before it is looked how many there are.
    for number in 0..TRIES {
        let (_cgroup, mut forker) = apart(&format!("reaper-threads-{number}.service"));
        let limit = tasks() + 50;
        let setting = Setting::set("/proc/sys/kernel/threads-max", limit);
        let refused = forker.fills("zombie");
        assert!(refused.made > 20, "{refused:?}");
        let pid = forker.pid();
        daemon.wait_until("the refusal", |daemon| told_to(daemon, pid).is_some());
        drop(setting);
        if told_to(daemon, pid).is_some_and(|event| !event["no_limit"].is_null()) {
            continue;
        }
        // Others may stand as well.
        let zombies = refused.made..=refused.made + 20;
        is_told(daemon, hook, &refused, pid, ("threads-max", limit), zombies);
        return;
    }
    panic!("it was never named");
}

fn on_pids(daemon: &mut Daemon, hook: &str) {
    const LIMIT: u64 = 420;
    let (_cgroup, mut forker) = apart("reaper-pids.service");
    let setting = Setting::set("/proc/sys/kernel/pid_max", LIMIT);
    let refused = forker.fills("zombie");
    let zombies = refused.made..=refused.made + 20;
    is_told(daemon, hook, &refused, forker.pid(), ("pid-max", LIMIT), zombies);
    drop(setting);
}

fn on_pids_of_a_namespace(daemon: &mut Daemon, hook: &str) {
    const LIMIT: u64 = 310;
    let (_cgroup, mut forker) = apart("reaper-namespace.service");
    let machine = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number");
    forker.does(&format!("namespace {LIMIT}"));
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number"), machine);
    let inner = child_of(forker.pid());
    // Whoever has a number in a namespace within it has one in it, too.
    const WITHIN: u64 = 20;
    forker.does(&format!("within {WITHIN}"));
    let refused = forker.fills("zombie");
    let zombies = refused.made + WITHIN..=refused.made + WITHIN;
    let event = is_told(daemon, hook, &refused, inner, ("pid-max", LIMIT), zombies);
    let namespace = fs::read_link(format!("/proc/{inner}/ns/pid")).expect("a namespace");
    let number = namespace.to_str().and_then(|name| name.strip_prefix("pid:[")?.strip_suffix(']'));
    assert_eq!(event["limit"]["pid_ns"].to_string(), number.expect("a number"), "{event}");
}

/// The one child of a process.
fn child_of(pid: u32) -> u32 {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("CONFIG_PROC_CHILDREN");
    children.trim().parse().unwrap_or_else(|_| panic!("not one child: {children:?}"))
}
