//! What is looked at of a holder before anything is started: whatever can be refused is refused here, with nothing touched.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    code::Cache,
    layout::PAGE,
    order::{Child, Method, Order, Process, Task},
    permission,
    threads::{Place, Seccomp, Thread},
};
use crate::{
    policy::Refusal,
    proc::{Proc, ticks},
    remedy::{Handle, Options, Target},
};

/// How long a thread and a moment are looked for.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/sched.h>
const CLONE_VFORK: u64 = 0x4000;

/// An order to make the holder wait for these zombies.
pub fn survey(
    proc: &Proc,
    holder: &Handle,
    zombies: &[Target],
    options: &Options,
    cache: &mut Cache,
) -> Result<Order, Refusal> {
    let children: Vec<_> = zombies
        .iter()
        .filter_map(|target| {
            let start_ticks = ticks(target.identity.start);
            let process = Process { pid: target.identity.pid, start_ticks };
            Some(Child { process, ns_pid: target.ns_pid? })
        })
        .collect();
    if children.len() != zombies.len() {
        return Err(Refusal::PidUnknown);
    }
    let order = order(proc, holder, Task::Reap(children), options, cache)?;
    let Task::Reap(children) = &order.task else { return Ok(order) };
    for thread in Thread::all(&proc.of(order.holder.pid)) {
        if let Some(Place::Blocked { call: Some((call, [first, second, ..])), .. }) = thread.place() {
            let awaited = match call {
                libc::SYS_wait4 => Some(first),
                // P_PID
                libc::SYS_waitid if first == 1 => Some(second),
                _ => None,
            };
            if let Some(child) = children.iter().find(|child| awaited == Some(child.ns_pid.into())) {
                return Err(refused("awaited-now", format!("it waits for pid {} just now", child.ns_pid)));
            }
        }
    }
    Ok(order)
}

/// An order to do `task`, if nothing that can be seen from outside speaks against it.
pub(super) fn order(
    proc: &Proc,
    holder: &Handle,
    task: Task,
    options: &Options,
    cache: &mut Cache,
) -> Result<Order, Refusal> {
    if rustix::param::page_size() as u64 != PAGE {
        return Err(refused("page-size", "holders are made to wait where pages have 4 KiB only"));
    }
    let identity = holder.identity();
    let directory = proc.of(identity.pid);
    let seen = holder.see()?;
    if seen.tracer.is_some() {
        return Err(refused("traced", "a debugger is attached to it"));
    }
    permission::ask(&directory).map_err(|why| refused("not-permitted", why))?;
    let status = fs::read_to_string(directory.join("status"))
        .map_err(|error| refused("unreadable", error.to_string()))?;
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("x86_Thread_features:").is_some_and(|features| features.contains("shstk")) {
        return Err(refused("shadow-stack", "it has a shadow stack"));
    }
    if let Some(path) = frozen(proc, &directory) {
        let message = format!("its cgroup is frozen ({})", path.display());
        return Err(refused("frozen", message));
    }
    let threads = Thread::all(&directory);
    if threads.iter().any(|thread| thread.seccomp() == Some(Seccomp::Strict)) {
        return Err(refused("seccomp-strict", "seccomp lets it do nothing but read, write and end"));
    }
    let code = cache
        .find(proc, identity.pid)
        .map_err(|_| refused("not-permitted", permission::reason(&directory)))?;
    if code.call.is_none() || code.sigreturn.is_none() && code.pop_number.is_none() {
        return Err(refused("no-instruction", "its code has no instruction that could be used"));
    }
    can_stop(&threads)?;
    Ok(Order {
        from: std::process::id(),
        holder: Process { pid: identity.pid, start_ticks: seen.start_ticks },
        code,
        task,
        method: Method::Auto,
        allow_interrupted_wait: options.allow_interrupted_wait,
        max_pause: options.max_pause,
        patience: PATIENCE,
    })
}

/// Whether a thread can be stopped at all. One that waits in the kernel for what no tracer can end would be traced, and could not
/// be let go, until that comes.
fn can_stop(threads: &[Thread]) -> Result<(), Refusal> {
    let can = |thread: &&Thread| thread.stat().is_some_and(|stat| matches!(stat.state, b'R' | b'S' | b'T'));
    if threads.iter().any(|thread| can(&thread)) {
        return Ok(());
    }
    let is_vfork = |thread: &&Thread| match thread.place() {
        Some(Place::Blocked { call: Some((call, [flags, ..])), .. }) => is_vfork(call, flags),
        _ => false,
    };
    if threads.iter().any(|thread| is_vfork(&thread)) {
        return Err(refused("vfork", "it waits for a child that it has vforked"));
    }
    Err(refused("uninterruptible", "it waits in the kernel for what no signal ends (state D)"))
}

fn is_vfork(call: i64, flags: u64) -> bool {
    match call {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => true,
        libc::SYS_clone => flags & CLONE_VFORK != 0,
        // Its flags are in memory; nothing else lets it wait in the kernel.
        libc::SYS_clone3 => true,
        _ => false,
    }
}

/// The cgroup that is frozen, of those that the process is in.
fn frozen(proc: &Proc, directory: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string(proc.root().join("self/mountinfo")).ok()?;
    let groups = fs::read_to_string(directory.join("cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let v2 = controllers.is_empty();
        if !v2 && !controllers.split(',').any(|name| name == "freezer") {
            return None;
        }
        let place = mount_point(&mounts, v2)?.join(path.trim_start_matches('/'));
        let read = |file| fs::read_to_string(place.join(file)).ok();
        let frozen = if v2 {
            read("cgroup.events")?.lines().any(|line| line == "frozen 1")
        } else {
            // FREEZING or FROZEN.
            read("freezer.state")?.trim() != "THAWED"
        };
        frozen.then_some(place)
    })
}

/// `36 35 98:0 /root /point options optional… - type source super-options`, proc_pid_mountinfo(5).
fn mount_point(mounts: &str, v2: bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let fits = if v2 {
            name == "cgroup2"
        } else {
            name == "cgroup" && options.split(',').any(|option| option == "freezer")
        };
        (fits && root == "/").then(|| PathBuf::from(point))
    })
}

/// Whether it may be another picture in a moment: programs vfork and wait for their children all the time.
pub(super) fn may_pass(refusal: &Refusal) -> bool {
    matches!(refusal.as_str(), "vfork" | "uninterruptible" | "awaited-now")
}

pub(super) fn refused(word: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::Hand { word, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freezers_are_found_where_they_are_mounted() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      31 25 0:27 / /sys/fs/cgroup/freezer rw shared:4 - cgroup cgroup rw,freezer\n\
                      32 25 0:27 /a /mnt/part rw - cgroup cgroup rw,freezer\n";
        assert_eq!(mount_point(mounts, true), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point(mounts, false), Some("/sys/fs/cgroup/freezer".into()));
        assert_eq!(mount_point("nonsense", true), None);
    }

    #[test]
    fn a_frozen_cgroup_is_seen_by_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let unified = root.join("unified");
        write("self/mountinfo", &format!("30 25 0:26 / {} rw - cgroup2 cgroup2 rw\n", unified.display()));
        write("7/cgroup", "4:memory:/x\n0::/pod/a\n");
        write("unified/pod/a/cgroup.events", "populated 1\nfrozen 0\n");
        let proc = Proc::at(root);
        assert_eq!(frozen(&proc, &proc.of(7)), None);
        write("unified/pod/a/cgroup.events", "populated 1\nfrozen 1\n");
        assert_eq!(frozen(&proc, &proc.of(7)), Some(unified.join("pod/a")));
        let v1 = root.join("v1");
        write("self/mountinfo", &format!("31 25 0:27 / {} rw - cgroup cgroup rw,freezer\n", v1.display()));
        write("7/cgroup", "4:freezer:/x\n");
        for (state, is_frozen) in [("THAWED\n", false), ("FREEZING\n", true), ("FROZEN\n", true)] {
            write("v1/x/freezer.state", state);
            assert_eq!(frozen(&proc, &proc.of(7)).is_some(), is_frozen, "{state}");
        }
    }

    #[test]
    fn vfork_is_known_by_call_and_flag() {
        assert!(is_vfork(libc::SYS_clone, CLONE_VFORK | 17) && !is_vfork(libc::SYS_clone, 17));
        assert!(!is_vfork(libc::SYS_read, CLONE_VFORK));
    }
}
