//! Yama: what its strictest setting forbids is refused, and said.
//!
//! The last of all test modules, by its name: once nobody may trace, that cannot be taken back before the next boot.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::{
    holder::Call,
    reap::{assert_undisturbed, at_rest, by_hand},
    require_vm,
};

const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn where_nobody_may_trace_a_holder_is_left_alone_and_the_setting_is_named() {
    require_vm();
    let reaper = Path::new("/bin/reaper");
    let (mut holder, leaks) = at_rest(Call::Read, Duration::ZERO, 2);
    let [first, second] = leaks[..] else { panic!("{leaks:?}") };

    // Administrators may still.
    fs::write(SCOPE, "2").expect(SCOPE);
    let event = by_hand(reaper, &[first]);
    assert_eq!(event["outcome"], "applied", "{event:#}");
    assert_eq!(holder.standing(&leaks), 1);

    fs::write(SCOPE, "3").expect(SCOPE);
    let event = by_hand(reaper, &[second]);
    assert_eq!((&event["outcome"], &event["reason"]), (&"refused".into(), &"not-permitted".into()));
    let message = event["message"].as_str().expect("text");
    assert!(message.contains("kernel.yama.ptrace_scope is 3"), "{message}");
    assert_eq!((&event["after"], &event["pause_us"]), (&Value::Null, &Value::Null), "{event:#}");
    assert_eq!(holder.standing(&leaks), 1);
    assert_undisturbed(Call::Read, holder.wake(Call::Read), Duration::ZERO);
}
