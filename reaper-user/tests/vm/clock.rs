//! The wall clock jumps: ages are the boot clock's.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::{boot_now, daemon::Daemon, holder::Holder, require_vm};

/// How far an age may be off: a look at a slow machine takes as long.
const OFF: f64 = 2.0;

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_wall_clock_that_jumps_changes_no_age() {
    require_vm();
    for jump in [3_600, -7_200] {
        let mut daemon = Daemon::start("2s");
        let mut holder = Holder::start();
        let before = boot_now();
        let leak = holder.leak(7);
        let key = holder.key_of(leak);
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
        clock_settime(ClockId::Realtime, Timespec { tv_sec: tv_sec + jump, tv_nsec }).expect("as root");
        daemon.wait_until("the leak's report", |daemon| daemon.by_process("zombie").contains_key(&key));
        let most = (boot_now() - before) as f64 / 1e9;
        let event = daemon.by_process("zombie")[&key].clone();
        let age = event["age_seconds"].as_f64().unwrap_or_else(|| panic!("no age: {event}"));
        println!("{jump} s: age {age}, {most} at most");
        assert!((2.0..most + 0.1).contains(&age) && most - age < OFF, "{most} s at most: {event}");
        assert_eq!(event["age_approximate"], false, "{event}");
        holder.reap(leak);
        daemon.wait_until("its release", |daemon| daemon.by_process("released").contains_key(&key));
        daemon.stop();
    }
}
