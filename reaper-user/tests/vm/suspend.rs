//! A zombie that stands while the machine sleeps is as old as the boot clock says, or its age is said to be approximate.

use std::{fs, path::Path, time::Instant};

use crate::{daemon::Daemon, holder::Holder, require_vm};

/// What `mem` means: ACPI's S3, from which the clock wakes qemu. It does not from suspend-to-idle.
const MEANING: &str = "/sys/power/mem_sleep";
const STATE: &str = "/sys/power/state";
const ALARM: &str = "/sys/class/rtc/rtc0/wakealarm";

/// Seconds asleep.
const ASLEEP: f64 = 6.0;

/// How far an age may be off, seconds: the clock that counts the sleep counts whole seconds.
const OFF: f64 = 2.0;

/// Seconds since boot, the time asleep included.
fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").expect("uptime");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("seconds")
}

/// Every kernel of the matrix can sleep here: one that cannot is to be looked at, not passed over.
fn require_sleep() {
    let states = fs::read_to_string(MEANING).expect(MEANING);
    assert!(states.contains("deep"), "{MEANING}: {states}");
    assert!(Path::new(ALARM).exists(), "{ALARM} is missing: nothing would wake it");
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_zombie_that_stands_while_the_machine_sleeps_is_not_said_to_be_younger() {
    require_vm();
    require_sleep();
    let mut daemon = Daemon::start("4s");
    let mut holder = Holder::start();
    let before = uptime();
    let leak = holder.leak(7);
    let key = holder.key_of(leak);

    let (awake, slept) = (Instant::now(), uptime());
    fs::write(ALARM, "0").expect(ALARM);
    fs::write(ALARM, format!("+{ASLEEP}")).expect(ALARM);
    fs::write(MEANING, "deep").expect(MEANING);
    fs::write(STATE, "mem").expect(STATE);
    let (awake, slept) = (awake.elapsed().as_secs_f64(), uptime() - slept);
    println!("{slept:.2} s by the boot clock, {awake:.2} s awake");
    assert!(slept > awake + ASLEEP / 2.0, "it did not sleep: {slept} s, {awake} s awake");

    daemon.wait_until("the leak's report", |daemon| daemon.by_process("zombie").contains_key(&key));
    let reported = uptime();
    let event = daemon.by_process("zombie")[&key].clone();
    let age = event["age_seconds"].as_f64().unwrap_or_else(|| panic!("no age: {event}"));
    let right = reported - before;
    let approximate = event["age_approximate"] == true;
    println!("age {age}, {right} at most, approximate: {approximate}");
    assert!(approximate || (age - right).abs() < OFF, "{right} s: {event}");
    assert!(age < right + OFF, "older than it is, {right} s: {event}");
    holder.reap(leak);
    daemon.wait_until("its release", |daemon| daemon.by_process("released").contains_key(&key));
    daemon.stop();
}
