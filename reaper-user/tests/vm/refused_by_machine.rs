//! Refused forks whose limit is the machine's, or a pid namespace's: named as such where the kernel lets them be seen.

use std::fs;

use crate::{
    forker::{Forker, Setting},
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
fn the_machines_limit_on_threads_is_named() {
    require_vm();
    let hook = offered();
    if hook == "none" {
        return;
    }
    let mut daemon = start();
    // A thread of the kernel's may end before it is looked how many there are.
    for _ in 0..TRIES {
        let mut forker = Forker::start();
        let limit = tasks() + 50;
        let _setting = Setting::set("/proc/sys/kernel/threads-max", limit);
        let refused = forker.fills("zombie");
        assert!(refused.made > 20, "{refused:?}");
        let pid = forker.pid();
        daemon.wait_until("the refusal", |daemon| told_to(daemon, pid).is_some());
        if told_to(&daemon, pid).is_some_and(|event| event["no_limit"] == "none-full") {
            continue;
        }
        // Others may stand as well.
        let zombies = refused.made..=refused.made + 20;
        is_told(&mut daemon, hook, &refused, pid, ("threads-max", limit), zombies);
        daemon.stop();
        return;
    }
    panic!("it was never named");
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn the_machines_limit_on_pids_is_named() {
    const LIMIT: u64 = 420;
    require_vm();
    let hook = offered();
    if hook == "none" {
        return;
    }
    let mut daemon = start();
    let mut forker = Forker::start();
    let setting = Setting::set("/proc/sys/kernel/pid_max", LIMIT);
    let refused = forker.fills("zombie");
    let zombies = refused.made..=refused.made + 20;
    is_told(&mut daemon, hook, &refused, forker.pid(), ("pid-max", LIMIT), zombies);
    drop(setting);
    drop(forker);
    daemon.stop();
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_pid_namespaces_own_limit_is_named_where_there_is_one() {
    const LIMIT: u64 = 310;
    require_vm();
    let hook = offered();
    let symbols = fs::read_to_string("/proc/kallsyms").expect("the kernel's symbols");
    // <https://elixir.bootlin.com/linux/v6.14/source/kernel/pid.c> (`register_pidns_sysctls`)
    if hook == "none" || !symbols.contains("register_pidns_sysctls") {
        return;
    }
    let mut daemon = start();
    let mut forker = Forker::start();
    let machine = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number");
    forker.does(&format!("namespace {LIMIT}"));
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number"), machine);
    let inner = child_of(forker.pid());
    let refused = forker.fills("zombie");
    let zombies = refused.made..=refused.made;
    let event = is_told(&mut daemon, hook, &refused, inner, ("pid-max", LIMIT), zombies);
    let namespace = fs::read_link(format!("/proc/{inner}/ns/pid")).expect("a namespace");
    let number = namespace.to_str().and_then(|name| name.strip_prefix("pid:[")?.strip_suffix(']'));
    assert_eq!(event["limit"]["pid_ns"].to_string(), number.expect("a number"), "{event}");
    drop(forker);
    daemon.stop();
}

/// The one child of a process.
fn child_of(pid: u32) -> u32 {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("CONFIG_PROC_CHILDREN");
    children.trim().parse().unwrap_or_else(|_| panic!("not one child: {children:?}"))
}
