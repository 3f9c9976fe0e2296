//! The kernel's members that the object reads, and where they lie on this kernel.

use reaper_ebpf::member;

use super::btf::{Btf, BtfError, Expect};

/// Where `struct pt_regs` has a function's first argument, which no kernel can change:
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/uapi/asm/ptrace.h#L56>,
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/include/asm/ptrace.h#L148>
const REGS_ARGUMENT: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(14 * 8)
} else if cfg!(target_arch = "aarch64") {
    Some(0)
} else {
    None
};

/// Where it has the number of a system call, in the same files: `orig_ax`, `syscallno`.
const REGS_CALL: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(15 * 8)
} else if cfg!(target_arch = "aarch64") {
    Some(280)
} else {
    None
};

/// Where it has what a function returns, in the same files.
const REGS_RESULT: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(10 * 8)
} else if cfg!(target_arch = "aarch64") {
    Some(0)
} else {
    None
};

/// Where a thread's pointer to its own storage is, which is what `pthread_self` returns on x86_64 and not on aarch64:
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/asm/processor.h#L450>
const THREAD_POINTER: Option<&str> = if cfg!(target_arch = "x86_64") { Some("thread.fsbase") } else { None };

/// A member's number in the object, and its offset.
pub(super) type Offset = (i16, u32);

/// Resolves every offset, from the tracepoints' arguments on. `v1_pids` says that the pids controller is on a v1
/// hierarchy; without, its members are left out.
pub(super) fn resolve(btf: &Btf<'_>, v1_pids: bool) -> Result<Vec<Offset>, BtfError> {
    use Expect::{Name, Pointer, U32, U64};
    let mut offsets = Vec::new();
    let mut get = |member: i16, root: u32, path: &str, expect: Expect| {
        let (offset, target) = btf.member(root, path, expect)?;
        offsets.push((member, offset));
        Ok::<u32, BtfError>(target)
    };

    let task = btf.argument("sched_process_exit", 0)?;
    get(member::TASK_PID, task, "pid", U32)?;
    get(member::TASK_TGID, task, "tgid", U32)?;
    get(member::TASK_REAL_PARENT, task, "real_parent", Pointer)?;
    get(member::TASK_GROUP_LEADER, task, "group_leader", Pointer)?;
    // Called real_start_time before 5.5; the floor is 5.10.
    get(member::TASK_START, task, "start_boottime", U64)?;
    get(member::TASK_EXIT_CODE, task, "exit_code", U32)?;
    get(member::TASK_EXIT_STATE, task, "exit_state", U32)?;
    get(member::TASK_PARENT_EXEC_ID, task, "parent_exec_id", U64)?;
    get(member::TASK_SELF_EXEC_ID, task, "self_exec_id", U64)?;

    let signal = get(member::TASK_SIGNAL, task, "signal", Pointer)?;
    get(member::SIGNAL_LIVE, signal, "live", U32)?;
    get(member::SIGNAL_FLAGS, signal, "flags", U32)?;
    get(member::SIGNAL_GROUP_EXIT_CODE, signal, "group_exit_code", U32)?;

    get(member::TASK_CHILDREN, task, "children.next", Pointer)?;
    get(member::TASK_COMM, task, "comm", Name)?;

    let mm = get(member::TASK_MM, task, "mm", Pointer)?;
    get(member::MM_ARG_START, mm, "arg_start", U64)?;
    get(member::MM_ARG_END, mm, "arg_end", U64)?;
    get(member::MM_START_CODE, mm, "start_code", U64)?;
    let file = get(member::MM_EXE_FILE, mm, "exe_file", Pointer)?;
    let inode = get(member::FILE_INODE, file, "f_inode", Pointer)?;
    get(member::INODE_NUMBER, inode, "i_ino", U64)?;
    get(member::INODE_GENERATION, inode, "i_generation", U32)?;
    get(member::INODE_SIZE, inode, "i_size", U64)?;
    let super_block = get(member::INODE_SB, inode, "i_sb", Pointer)?;
    get(member::SB_DEVICE, super_block, "s_dev", U32)?;
    if let Some(path) = THREAD_POINTER {
        get(member::TASK_THREAD_POINTER, task, path, U64)?;
    }

    let nsproxy = get(member::TASK_NSPROXY, task, "nsproxy", Pointer)?;
    let pid_ns = get(member::NSPROXY_PID_NS, nsproxy, "pid_ns_for_children", Pointer)?;
    get(member::PID_NS_INUM, pid_ns, "ns.inum", U32)?;
    get(member::PID_NS_CHILD_REAPER, pid_ns, "child_reaper", Pointer)?;

    let css_set = get(member::TASK_CGROUPS, task, "cgroups", Pointer)?;
    let cgroup = get(member::CSS_SET_DFL_CGRP, css_set, "dfl_cgrp", Pointer)?;
    match btf.enumerator("pids_cgrp_id") {
        Some(index) if v1_pids => {
            let css = get(member::CSS_SET_PIDS, css_set, &format!("subsys[{index}]"), Pointer)?;
            get(member::CSS_CGROUP, css, "cgroup", Pointer)?;
        }
        _ => {}
    }
    let node = get(member::CGROUP_KN, cgroup, "kn", Pointer)?;
    get(member::KN_ID, node, "id", U64)?;
    let root = get(member::CGROUP_ROOT, cgroup, "root", Pointer)?;
    get(member::ROOT_HIERARCHY, root, "hierarchy_id", U32)?;

    let pid = btf.argument("sched_process_wait", 0)?;
    get(member::PID_NUMBER, pid, "numbers[0].nr", U32)?;
    let (comm, _) = btf.member(task, "comm", Name)?;
    offsets.push((member::TASK_COMM_REST, comm + 8));
    // Without it the kprobe is refused, which is not needed.
    offsets.extend(REGS_ARGUMENT.map(|offset| (member::REGS_ARGUMENT, offset)));
    offsets.extend(REGS_CALL.map(|offset| (member::REGS_CALL, offset)));
    offsets.extend(REGS_RESULT.map(|offset| (member::REGS_RESULT, offset)));
    Ok(offsets)
}
