//! Whether each kernel takes the programs that find out where zombies come from.

use std::{fs, process::Command};

#[test]
#[ignore = "needs a machine of its own: `cargo xtask vm`"]
fn every_kernel_takes_the_programs_that_read_stacks_unless_it_is_locked_down() {
    crate::require_vm();
    let checked = Command::new("reaper").args(["check", "--output", "json"]).output().unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains(r#""name":"stacks at forks""#))
        .unwrap_or_else(|| panic!("{text}"));
    println!("{line}");
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    // No program may read user memory there.
    let standing = if lockdown.contains("[confidentiality]") { "reduced" } else { "ok" };
    assert!(line.contains(&format!(r#""standing":"{standing}""#)), "{line}");
}
