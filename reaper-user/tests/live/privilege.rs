//! What the kernel or the machine's owner does not grant: one message that names it, and the right exit code.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::support::{
    Workload, assert_refused, assert_valid, deny_bpf, machine, program, reaper, run_briefly,
};

const UNAVAILABLE: i32 = 69;
const PERMISSION: i32 = 77;

/// What README asks for where there is no root.
pub(crate) const CAPABILITIES: &str = "+bpf,+perfmon,+dac_read_search";

/// A copy of the binary that any user can run: the build directory may be out of reach.
pub(crate) fn for_everybody() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("reaper");
    fs::copy(reaper(), &copy).unwrap();
    (directory, copy)
}

/// The words that run what follows as a user who is not root and holds these capabilities only.
fn nobody_with(capabilities: &str) -> Vec<String> {
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned);
    let sets = ["--inh-caps", "--ambient-caps"].map(|set| format!("{set}={capabilities}"));
    [vec![program("setpriv").display().to_string()], words.to_vec(), sets.to_vec()].concat()
}

pub(crate) fn as_nobody_with(capabilities: &str, binary: &Path) -> Command {
    let words = nobody_with(capabilities);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(binary).current_dir("/");
    command
}

#[test]
fn a_user_without_privileges_is_told_the_capabilities_and_exits_77() {
    let _machine = machine();
    let (_directory, reaper) = for_everybody();
    for subcommand in ["trace", "run"] {
        let output = run_briefly(as_nobody_with("-all", &reaper).arg(subcommand));
        assert_refused(&output, PERMISSION, &["CAP_BPF", "CAP_PERFMON"]);
    }
}

#[test]
fn a_user_with_the_named_capabilities_sees_all_of_everybodys_zombies() {
    let _machine = machine();
    let (_directory, reaper) = for_everybody();
    let workload = Workload::start(&["standing", "3"]);
    workload.wait_for("settled", Duration::from_secs(20));
    let mut command = as_nobody_with(CAPABILITIES, &reaper);
    command.args(["trace", "--age", "200ms", "--duration", "2s", "--comm", "churn", "--output", "json"]);
    let output = run_briefly(&mut command);
    workload.end();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let zombies: Vec<_> = lines.map(assert_valid).filter(|event| event["event"] == "zombie").collect();
    assert_eq!(zombies.len(), 3, "{log}");
    for zombie in zombies {
        // Root's command line: what CAP_SYS_PTRACE is not needed for.
        assert!(zombie["holder"]["cmdline"].as_str().unwrap().contains("churn standing 3"), "{zombie:#}");
    }
}

#[test]
fn a_user_who_may_not_make_the_sockets_directory_exits_77_and_is_told_how_to() {
    let _machine = machine();
    let (_directory, reaper) = for_everybody();
    let output = run_briefly(as_nobody_with(CAPABILITIES, &reaper).arg("run"));
    assert_refused(&output, PERMISSION, &["/run/reaper", "run as root", "RuntimeDirectory=reaper"]);
}

#[test]
fn a_proc_that_hides_processes_exits_77_and_names_cap_sys_ptrace() {
    let _machine = machine();
    let (_directory, reaper) = for_everybody();
    let script = r#"mount -t proc -o hidepid=2 proc /proc && exec "$@""#;
    for (capabilities, code) in [(CAPABILITIES, PERMISSION), (&format!("{CAPABILITIES},+sys_ptrace"), 0)] {
        let mut command = Command::new(program("unshare"));
        command.args(["--mount", "--", "/bin/sh", "-c", script, "sh"]).args(nobody_with(capabilities));
        let output =
            run_briefly(command.arg(&reaper).args(["trace", "--duration", "100ms", "--output", "json"]));
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).contains("missing CAP_SYS_PTRACE"), code != 0);
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
    let _machine = machine();
    let (_directory, reaper) = for_everybody();
    let names = [
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_DAC_READ_SEARCH",
        "CAP_SYS_PTRACE",
        "CAP_KILL",
        "CAP_SYS_ADMIN",
        "kernel BTF",
        "initial pid namespace",
        "lockdown",
        "cgroup hierarchies",
    ];
    // Without privileges nothing is loaded.
    for (mut command, code, more) in [
        (Command::new(&reaper), 0, &["BPF object"][..]),
        (as_nobody_with("-all", &reaper), PERMISSION, &["missing", "grant CAP_DAC_READ_SEARCH"]),
    ] {
        let output = run_briefly(command.arg("check"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        for name in names.iter().chain(more) {
            assert!(text.contains(name), "{name} is not in:\n{text}");
        }
    }
}
