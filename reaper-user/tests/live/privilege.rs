//! What the kernel or the machine's owner does not grant: one message that names it, and the right exit code.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use crate::support::{assert_refused, deny_bpf, machine, program, reaper, run_briefly};

const UNAVAILABLE: i32 = 69;
const PERMISSION: i32 = 77;

#[test]
fn a_user_without_privileges_is_told_the_capabilities_and_exits_77() {
    let _machine = machine();
    // The build directory may be out of that user's reach.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("reaper");
    fs::copy(reaper(), &copy).unwrap();
    for subcommand in ["trace", "run"] {
        let output =
            run_briefly(Command::new(&copy).arg(subcommand).uid(65_534).gid(65_534).current_dir("/"));
        assert_refused(&output, PERMISSION, &["CAP_BPF", "CAP_PERFMON"]);
    }
}

#[test]
fn bpf_denied_by_seccomp_exits_77_and_says_so() {
    let _machine = machine();
    let mut command = Command::new(reaper());
    command.arg("trace");
    deny_bpf(&mut command);
    assert_refused(&run_briefly(&mut command), PERMISSION, &["BPF", "seccomp"]);
}

#[test]
fn a_kernel_without_btf_exits_69_and_names_it() {
    let _machine = machine();
    let script = r#"mount -t tmpfs none /sys/kernel/btf && exec "$0" trace"#;
    let mut command = Command::new(program("unshare"));
    command.args(["--mount", "--", "/bin/sh", "-c", script]).arg(reaper());
    assert_refused(&run_briefly(&mut command), UNAVAILABLE, &["BTF", "/sys/kernel/btf/vmlinux"]);
}

#[test]
fn outside_the_initial_pid_namespace_it_exits_69_and_names_host_pid() {
    let _machine = machine();
    let mut command = Command::new(program("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", "--"]).arg(reaper()).arg("trace");
    assert_refused(&run_briefly(&mut command), UNAVAILABLE, &["pid namespace", "hostPID"]);
}

#[test]
fn check_prints_the_whole_table_with_and_without_privileges() {
    let output = run_briefly(Command::new(reaper()).arg("check"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for name in ["CAP_BPF", "CAP_PERFMON", "BTF", "pid namespace"] {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
}
