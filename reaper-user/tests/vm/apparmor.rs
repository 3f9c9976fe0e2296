//! AppArmor: where its profiles do not let a holder be traced, that is refused, and the rules that are missing are named. With
//! them it is done.
//!
//! The profiles are those of `apparmor.profiles`, by the paths of programs. The kernel asks for both sides' rules, and for none
//! where the tracer is unconfined.
//! <https://elixir.bootlin.com/linux/v6.12/source/security/apparmor/task.c> (`aa_may_ptrace`)

use std::{fs, path::Path, sync::Once, time::Duration};

use serde_json::Value;

use crate::{
    holder::Call,
    reap::{assert_undisturbed, at_rest_as, by_hand},
    require_vm,
};

/// Made of `apparmor.profiles` by who boots the VM.
const POLICY: &str = "/vm/apparmor";

/// Where a program is, so that it has this profile: the last part of the path.
fn confined(program: &str, profile: &str) -> String {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let policy = fs::read(POLICY).expect(POLICY);
        // In one piece.
        fs::write("/sys/kernel/security/apparmor/.load", policy).expect("the kernel takes the policy");
    });
    let path = format!("/tmp/{profile}");
    if !Path::new(&path).exists() {
        fs::copy(program, &path).expect(program);
    }
    path
}

/// Whether AppArmor lets `reaper` reap a zombie of `holder`; else why not, in its own word and sentence.
fn outcome(reaper: &str, holder: &str, profile: &str) -> Result<(), (String, String)> {
    let (mut holder, leaks) = at_rest_as(Path::new(holder), Call::Read, Duration::ZERO, 1);
    let current = fs::read_to_string(format!("/proc/{}/attr/apparmor/current", holder.pid())).expect("text");
    assert!(current.starts_with(profile), "{current}");
    let event = by_hand(Path::new(reaper), &leaks);
    let applied = event["outcome"] == "applied";
    assert_eq!(holder.standing(&leaks), usize::from(!applied));
    assert_undisturbed(Call::Read, holder.wake(Call::Read), Duration::ZERO);
    if applied {
        return Ok(());
    }
    assert_eq!((&event["outcome"], &event["pause_us"]), (&"refused".into(), &Value::Null), "{event:#}");
    let text = |field: &str| event[field].as_str().expect("text").to_owned();
    Err((text("reason"), text("message")))
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn what_a_profile_does_not_let_be_traced_is_left_alone_and_the_missing_rules_are_named() {
    require_vm();
    let told = confined("/bin/reaper", "vm-reaper");
    let default = confined("/bin/reaper", "vm-container");
    let closed = confined("/bin/holder", "vm-closed");
    let open = confined("/bin/holder", "vm-open");

    // Its own profile would let it.
    let (reason, message) = outcome(&told, &closed, "vm-closed").expect_err("it must not");
    assert_eq!(reason, "not-permitted", "{message}");
    assert!(message.contains("profile vm-closed `ptrace (readby, tracedby) peer=vm-reaper`"), "{message}");
    assert_eq!(outcome(&told, &open, "vm-open"), Ok(()), "with that rule it may");

    // A holder without a profile has no rules.
    let (reason, message) = outcome(&told, "/bin/holder", "unconfined").expect_err("it must not");
    assert_eq!(reason, "not-permitted", "{message}");
    assert!(message.contains("vm-reaper has to have `ptrace (read, trace) peer=unconfined`"), "{message}");
    assert!(!message.contains("tracedby"), "{message}");

    // With what a container's default profile lets it, it cannot even see whom it has before it.
    let (reason, message) = outcome(&default, &closed, "vm-closed").expect_err("it must not");
    assert_eq!(reason, "protected", "{message}");
    assert!(message.contains("`ptrace (read, trace)` of the holder's profile"), "{message}");

    assert_eq!(outcome("/bin/reaper", &closed, "vm-closed"), Ok(()), "nobody confines it");
}
