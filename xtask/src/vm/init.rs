//! PID 1 of the test VM: mounts what a node has mounted, runs the test programs one after another, reaps orphans as an
//! init must, says how each ended, and turns the machine off.
//!
//! Where it is told to, it becomes systemd instead, which starts it a second time, with an argument, to run the tests. Under any other pid it
//! does nothing, well: the guest has it as /bin/true too.
//!
//! What it prints goes to a serial port of its own, with the tests' output; the kernel's messages have the first for themselves.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Written by the task that boots the VM: `key=value`, separated by NUL.
const BOOT: &str = "/vm/boot";
/// The argument of who is started to run the tests.
const SECOND: &str = "tests";

/// What PID 1 becomes, and what that starts.
const SYSTEMD: &str = "/lib/systemd/systemd";
const UNIT: &str = "--unit=vm-tests.service";

const TESTS: &str = if cfg!(target_arch = "x86_64") { "/dev/ttyS1" } else { "/dev/ttyS0" };

#[derive(Default)]
struct Boot {
    cgroup: String,
    systemd: bool,
    pid_max: Option<String>,
    timeout: Duration,
    programs: Vec<String>,
    args: Vec<String>,
}

fn main() {
    let mounted = if process::id() == 1 {
        if read_boot().is_ok_and(|boot| boot.systemd) {
            // It mounts what there is to be mounted itself.
            let error = Command::new(SYSTEMD).arg(UNIT).env_clear().exec();
            let _ = writeln!(io::stdout(), "vm: FAILED {SYSTEMD}: {error}");
            power_off();
        }
        lead_session();
        mount_all()
    } else if std::env::args().nth(1).is_some_and(|argument| argument == SECOND) {
        Ok(())
    } else {
        return;
    };
    let result = match OpenOptions::new().read(true).write(true).open(TESTS) {
        Ok(mut out) => {
            let result = mounted.and_then(|()| run(&mut out));
            if let Err(error) = &result {
                let _ = writeln!(out, "\nvm: FAILED {error}");
            }
            drain(&out);
            result
        }
        Err(error) => Err(format!("{TESTS}: {error}")),
    };
    if let Err(error) = result {
        // The console, should the other port be what is missing.
        let _ = writeln!(io::stdout(), "vm: FAILED {error}");
        drain(&io::stdout());
    }
    power_off();
}

fn run(out: &mut File) -> Result<(), String> {
    let boot = read_boot()?;
    if !boot.systemd {
        mount_cgroups(&boot.cgroup)?;
    }
    // WARN() prints at level 4, which the console shows only from here on: the boot's own warnings are not ours.
    write("/proc/sys/kernel/printk", "5")?;
    if let Some(pid_max) = &boot.pid_max {
        write("/proc/sys/kernel/pid_max", pid_max)?;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|e| format!("osrelease: {e}"))?;
    say(out, &format!("vm: kernel {}", release.trim()))?;
    for program in &boot.programs {
        say(out, &format!("vm: run {program}"))?;
        let ended = run_one(program, &boot, out)?;
        say(out, &format!("\nvm: end {program} {ended}"))?;
    }
    say(out, "vm: done")
}

/// Runs a program to its end, reaping what is handed to PID 1 meanwhile. `0`, `3`, `signal 11`, or `timeout`.
fn run_one(program: &str, boot: &Boot, out: &File) -> Result<String, String> {
    let copy = || out.try_clone().map(Stdio::from).map_err(|e| format!("{TESTS}: {e}"));
    let child = Command::new(program)
        .args(&boot.args)
        .env_clear()
        .envs([("PATH", "/bin:/usr/bin"), ("HOME", "/root"), ("RUST_BACKTRACE", "1"), ("LANG", "C.UTF-8")])
        .stdin(Stdio::null())
        .stdout(copy()?)
        .stderr(copy()?)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let deadline = Instant::now() + boot.timeout;
    loop {
        match reap() {
            Some((pid, status)) if pid.cast_unsigned() == child.id() => {
                return Ok(if libc::WIFSIGNALED(status) {
                    format!("signal {}", libc::WTERMSIG(status))
                } else {
                    libc::WEXITSTATUS(status).to_string()
                });
            }
            Some(_) => {}
            None if Instant::now() > deadline => {
                // Blocked tasks and the stacks of both processors, on the console.
                let _ = fs::write("/proc/sysrq-trigger", "w");
                let _ = fs::write("/proc/sysrq-trigger", "l");
                return Ok("timeout".to_owned());
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn read_boot() -> Result<Boot, String> {
    let text = fs::read_to_string(BOOT).map_err(|e| format!("{BOOT}: {e}"))?;
    let mut boot = Boot::default();
    for (key, value) in text.split('\0').filter_map(|entry| entry.split_once('=')) {
        match key {
            "systemd" => boot.systemd = true,
            "cgroup" => value.clone_into(&mut boot.cgroup),
            "pid-max" => boot.pid_max = Some(value.to_owned()),
            "timeout" => {
                boot.timeout = Duration::from_secs(value.parse().map_err(|e| format!("timeout: {e}"))?);
            }
            "run" => boot.programs.push(value.to_owned()),
            "arg" => boot.args.push(value.to_owned()),
            _ => return Err(format!("{BOOT}: unknown key {key}")),
        }
    }
    Ok(boot)
}

fn mount_all() -> Result<(), String> {
    // CONFIG_DEVTMPFS_MOUNT does not reach an initramfs.
    mount("devtmpfs", "/dev", "")?;
    mount("proc", "/proc", "")?;
    mount("sysfs", "/sys", "")?;
    mount("tmpfs", "/tmp", "")?;
    mount("tmpfs", "/run", "")?;
    mount("bpf", "/sys/fs/bpf", "mode=700")?;
    mount("tracefs", "/sys/kernel/tracing", "")?;
    mount("securityfs", "/sys/kernel/security", "")
}

fn mount_cgroups(layout: &str) -> Result<(), String> {
    const ROOT: &str = "/sys/fs/cgroup";
    if layout == "v2" {
        return mount("cgroup2", ROOT, "");
    }
    mount("tmpfs", ROOT, "mode=755")?;
    mount("cgroup", &format!("{ROOT}/pids"), "pids")?;
    match layout {
        "v1" => Ok(()),
        // As systemd's hybrid layout has it.
        "both" => mount("cgroup2", &format!("{ROOT}/unified"), ""),
        other => Err(format!("{BOOT}: unknown cgroup layout {other}")),
    }
}

fn mount(kind: &str, target: &str, options: &str) -> Result<(), String> {
    let failed = |e: io::Error| format!("mount {kind} on {target}: {e}");
    if !Path::new(target).exists() {
        fs::create_dir(target).map_err(failed)?;
    }
    let text = |s: &str| CString::new(s).map_err(|e| format!("mount {kind}: {e}"));
    let (source, path, data) = (text(kind)?, text(target)?, text(options)?);
    #[expect(unsafe_code, reason = "mount(2) has no safe wrapper in std")]
    // SAFETY: four NUL-terminated strings that outlive the call.
    let result =
        unsafe { libc::mount(source.as_ptr(), path.as_ptr(), source.as_ptr(), 0, data.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
}

/// Reaps one dead child of PID 1, own or inherited, if there is one.
fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    #[expect(unsafe_code, reason = "std waits for one child only, an init waits for any")]
    // SAFETY: `status` is valid for the write.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// What is started belongs to a process group with a number, as on every machine with a real init.
fn lead_session() {
    #[expect(unsafe_code, reason = "setsid(2) has no safe wrapper in std")]
    // SAFETY: no memory is involved; it cannot fail in a process that leads no group.
    unsafe {
        libc::setsid();
    }
}

/// Waits until a terminal has sent everything: what is left in its buffer at power-off is lost.
fn drain(terminal: &impl std::os::fd::AsFd) {
    #[expect(unsafe_code, reason = "tcdrain(3) has no safe wrapper in std")]
    // SAFETY: the descriptor is borrowed for the call.
    unsafe {
        libc::tcdrain(terminal.as_fd().as_raw_fd());
    }
}

fn power_off() {
    #[expect(unsafe_code, reason = "reboot(2) has no safe wrapper in std")]
    // SAFETY: touches no memory of ours, and there is nothing left to lose in a VM without disks.
    unsafe {
        libc::reboot(libc::RB_POWER_OFF);
    }
}

fn say(out: &mut File, line: &str) -> Result<(), String> {
    writeln!(out, "{line}").map_err(|e| format!("{TESTS}: {e}"))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{path} = {text}: {e}"))
}
