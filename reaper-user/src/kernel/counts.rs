//! The kernel's own counts of tasks and their limits, which only the hook on refused forks reads, and where they lie on this kernel.

use reaper_ebpf::member;

use super::{
    btf::{Btf, BtfError, Expect},
    offsets::Offset,
};

/// Where this kernel has what a refused fork is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Members that only the hook on refused forks reads.
    pub(super) offsets: Vec<Offset>,
    /// A user's tasks are counted in `struct ucounts`, as from Linux 5.14 on.
    pub(super) in_ucounts: bool,
    /// Each pid namespace has its own `pid_max`, as from Linux 6.14 on.
    pub(super) own_pid_max: bool,
}

impl Counts {
    /// The same; an error where a member lies too far into its structure for an instruction: then there is no such hook, and all else
    /// goes on.
    pub(super) fn in_reach(self) -> Result<Self, String> {
        match self.offsets.iter().map(|(_, offset)| *offset).find(|offset| i16::try_from(*offset).is_err()) {
            Some(far) => Err(format!("a member lies at offset {far}, more than an instruction can reach")),
            None => Ok(self),
        }
    }
}

/// Resolves what that hook reads beside the rest.
pub(super) fn resolve_counts(btf: &Btf<'_>) -> Result<Counts, BtfError> {
    use Expect::{Pointer, U32, U64};
    let task = btf.argument("sched_process_exit", 0)?;
    let mut offsets = Vec::new();
    let mut get = |member: i16, root: u32, path: &str, expect: Expect| {
        let (offset, target) = btf.member(root, path, expect)?;
        offsets.push((member, offset));
        Ok::<u32, BtfError>(target)
    };
    let (_, signal) = btf.member(task, "signal", Pointer)?;
    get(member::SIGNAL_NPROC, signal, &format!("rlim[{}].rlim_cur", libc::RLIMIT_NPROC), U64)?;
    let cred = get(member::TASK_REAL_CRED, task, "real_cred", Pointer)?;
    // An array of halves before 6.3; the program reads the lower one.
    get(member::CRED_CAPABILITIES, cred, "cap_effective.cap[0]", U32)
        .or_else(|_| get(member::CRED_CAPABILITIES, cred, "cap_effective.val", U64))?;
    let user_ns = get(member::CRED_USER_NS, cred, "user_ns", Pointer)?;
    get(member::USER_NS_LEVEL, user_ns, "level", U32)?;
    let count = btf.enumerator("UCOUNT_RLIMIT_NPROC");
    if let Some(count) = count {
        let ucounts = get(member::CRED_UCOUNTS, cred, "ucounts", Pointer)?;
        // Among all counts before 5.19.
        get(member::UCOUNTS_PROCESSES, ucounts, &format!("rlimit[{count}].counter"), U64)
            .or_else(|_| get(member::UCOUNTS_PROCESSES, ucounts, &format!("ucount[{count}].counter"), U64))?;
    } else {
        let user = get(member::CRED_USER, cred, "user", Pointer)?;
        get(member::USER_PROCESSES, user, "processes", U32)?;
    }
    let (_, nsproxy) = btf.member(task, "nsproxy", Pointer)?;
    let (_, pid_ns) = btf.member(nsproxy, "pid_ns_for_children", Pointer)?;
    get(member::PID_NS_ALLOCATED, pid_ns, "pid_allocated", U32)?;
    let own_pid_max = get(member::PID_NS_MAX, pid_ns, "pid_max", U32).is_ok();
    Ok(Counts { offsets, in_ucounts: count.is_some(), own_pid_max })
}
