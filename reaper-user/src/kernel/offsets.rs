//! The kernel's members that the object reads, and where they lie on this kernel.

use super::btf::{Btf, BtfError, Expect};

/// The value of a read-only global of the object.
pub(super) type Global = (&'static str, u32);

/// Resolves every offset, from the tracepoints' arguments on. `pids_hierarchy` is the number of the v1 hierarchy
/// that carries the pids controller, 0 where none does.
pub(super) fn resolve(btf: &Btf<'_>, pids_hierarchy: u32) -> Result<Vec<Global>, BtfError> {
    use Expect::{Pointer, U32, U64};
    let mut globals = vec![("PIDS_HIERARCHY", pids_hierarchy)];
    let mut get = |name: &'static str, root: u32, path: &str, expect: Expect| {
        let (offset, target) = btf.member(root, path, expect)?;
        globals.push((name, offset));
        Ok::<u32, BtfError>(target)
    };

    let task = btf.argument("sched_process_exit", 0)?;
    get("TASK_PID", task, "pid", U32)?;
    get("TASK_TGID", task, "tgid", U32)?;
    get("TASK_REAL_PARENT", task, "real_parent", Pointer)?;
    get("TASK_GROUP_LEADER", task, "group_leader", Pointer)?;
    // Called real_start_time before 5.5; the floor is 5.10.
    get("TASK_START", task, "start_boottime", U64)?;
    get("TASK_EXIT_CODE", task, "exit_code", U32)?;
    get("TASK_PARENT_EXEC_ID", task, "parent_exec_id", U64)?;
    get("TASK_SELF_EXEC_ID", task, "self_exec_id", U64)?;

    let signal = get("TASK_SIGNAL", task, "signal", Pointer)?;
    get("SIGNAL_LIVE", signal, "live", U32)?;
    get("SIGNAL_FLAGS", signal, "flags", U32)?;
    get("SIGNAL_GROUP_EXIT_CODE", signal, "group_exit_code", U32)?;

    let mm = get("TASK_MM", task, "mm", Pointer)?;
    get("MM_ARG_START", mm, "arg_start", U64)?;
    get("MM_ARG_END", mm, "arg_end", U64)?;

    let nsproxy = get("TASK_NSPROXY", task, "nsproxy", Pointer)?;
    let pid_ns = get("NSPROXY_PID_NS", nsproxy, "pid_ns_for_children", Pointer)?;
    get("PID_NS_INUM", pid_ns, "ns.inum", U32)?;
    get("PID_NS_CHILD_REAPER", pid_ns, "child_reaper", Pointer)?;

    let css_set = get("TASK_CGROUPS", task, "cgroups", Pointer)?;
    let cgroup = get("CSS_SET_DFL_CGRP", css_set, "dfl_cgrp", Pointer)?;
    match btf.enumerator("pids_cgrp_id") {
        Some(index) if pids_hierarchy != 0 => {
            let css = get("CSS_SET_PIDS", css_set, &format!("subsys[{index}]"), Pointer)?;
            get("CSS_CGROUP", css, "cgroup", Pointer)?;
        }
        _ => {}
    }
    let node = get("CGROUP_KN", cgroup, "kn", Pointer)?;
    get("KN_ID", node, "id", U64)?;
    let root = get("CGROUP_ROOT", cgroup, "root", Pointer)?;
    get("ROOT_HIERARCHY", root, "hierarchy_id", U32)?;

    let pid = btf.argument("sched_process_wait", 0)?;
    get("PID_NUMBER", pid, "numbers[0].nr", U32)?;
    Ok(globals)
}
