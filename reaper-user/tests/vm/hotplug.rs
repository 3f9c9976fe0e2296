//! Processors that go and come while processes live and die on them: the ledger is one for all, its counters are not.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use crate::{daemon::Daemon, holder::Holder, require_vm};

/// The second processor. The first cannot go.
const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";

/// Times that it goes and comes.
const ROUNDS: u32 = 5;

/// Brings it back.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        let _ = fs::write(ONLINE, "1");
    }
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn nothing_is_missed_while_a_processor_goes_and_comes() {
    require_vm();
    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let _back = Back;
    let (rounds, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let mut leaks = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for state in ["0", "1"] {
                    fs::write(ONLINE, state).expect(ONLINE);
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        while rounds.load(Ordering::Relaxed) < ROUNDS {
            leaks.extend(holder.churn(100, 10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} leaks while the processor went and came {rounds:?} times", leaks.len());

    let keys: Vec<_> = leaks.iter().map(|leak| holder.key_of(*leak)).collect();
    daemon.wait_until("the leaks' reports", |daemon| {
        let seen = daemon.by_process("zombie");
        keys.iter().all(|key| seen.contains_key(key))
    });
    leaks.into_iter().for_each(|leak| holder.reap(leak));
    daemon.wait_until("the leaks' releases", |daemon| {
        let seen = daemon.by_process("released");
        keys.iter().all(|key| seen.contains_key(key))
    });
    let daemon = daemon.stop();
    assert_eq!(daemon.by_process("zombie").len(), keys.len(), "nothing else was leaked");
}
