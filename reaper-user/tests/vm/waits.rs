//! Wait calls that the kernel describes to the probe in different ways, some by a null pointer.

use crate::{daemon::Daemon, holder::Holder, require_vm};

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn every_shape_of_wait_is_survived_and_counted_on_probation() {
    require_vm();
    let mut daemon = Daemon::start("4s");
    let mut holder = Holder::start();
    let leak = holder.leak(9);
    let key = holder.key_of(leak);

    // From before the probation, at half the age, to the report.
    let mut calls = 0;
    let event = daemon.wait_for_zombie(leak.pid, || calls += holder.waits());
    assert_eq!(event["exit"]["code"], 9, "{event}");
    assert_eq!(event["cause"], "never-waited", "{event}");
    let waits = &event["evidence"]["waits"];
    let counted = |kind: &str| waits[kind].as_u64().unwrap_or_else(|| panic!("{kind}: {event}"));
    let (any, one) = (counted("any"), counted("one"));
    assert!(any > 0 && one > 0, "{event}");
    assert!(any + one <= u64::from(calls), "{calls} calls were made: {event}");

    holder.reap(leak);
    daemon.wait_until("its release", |daemon| daemon.by_process("released").contains_key(&key));
    let daemon = daemon.stop();
    assert_eq!(daemon.by_process("zombie").len(), 1, "what was waited for was not reported");
}
