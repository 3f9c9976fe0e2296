//! Members of kernel structures, whose offsets differ from kernel to kernel.
//!
//! In the object a member's number stands where an instruction has the offset; userspace puts the running kernel's
//! offset there before it loads the object. So an offset costs nothing, which one that is loaded from read-only
//! data does: there are some sixty of them in a process's life.

/// The first number. No instruction of ours has an offset as large as this of its own. Multiples of eight, so
/// that the compiler may take every read for an aligned one.
pub const FIRST: i16 = 0x7000;
/// From one to the next.
pub const STEP: i16 = 8;

macro_rules! members {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        /// Their names, in the order of their numbers.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];

        #[expect(non_camel_case_types, reason = "only counts")]
        enum Index { $($name),* }

        $(
            $(#[doc = $doc])*
            pub const $name: i16 = FIRST + STEP * Index::$name as i16;
        )*
    };
}

members! {
    /// `task_struct.pid`
    TASK_PID
    /// `task_struct.tgid`
    TASK_TGID
    /// `task_struct.real_parent`
    TASK_REAL_PARENT
    /// `task_struct.group_leader`
    TASK_GROUP_LEADER
    /// `task_struct.start_boottime`
    TASK_START
    /// `task_struct.signal`
    TASK_SIGNAL
    /// `task_struct.exit_code`
    TASK_EXIT_CODE
    /// `task_struct.exit_state`
    TASK_EXIT_STATE
    /// `task_struct.parent_exec_id`
    TASK_PARENT_EXEC_ID
    /// `task_struct.self_exec_id`
    TASK_SELF_EXEC_ID
    /// `task_struct.cgroups`
    TASK_CGROUPS
    /// `task_struct.nsproxy`
    TASK_NSPROXY
    /// `task_struct.mm`
    TASK_MM
    /// `task_struct.children.next`, which is where `children` itself begins
    TASK_CHILDREN
    /// `task_struct.comm`, its first half
    TASK_COMM
    /// `task_struct.comm`, its second half
    TASK_COMM_REST
    /// `task_struct.real_cred`
    TASK_REAL_CRED
    /// `cred.cap_effective`, the capabilities below 32
    CRED_CAPABILITIES
    /// `cred.user_ns`
    CRED_USER_NS
    /// `cred.user`; unresolved where `ucounts` has the count, and then never read
    CRED_USER
    /// `cred.ucounts`; unresolved where `user` has the count, and then never read
    CRED_UCOUNTS
    /// `user_namespace.level`
    USER_NS_LEVEL
    /// `user_struct.processes`; likewise
    USER_PROCESSES
    /// `ucounts.rlimit[UCOUNT_RLIMIT_NPROC]`; likewise
    UCOUNTS_PROCESSES
    /// `signal_struct.rlim[RLIMIT_NPROC].rlim_cur`
    SIGNAL_NPROC
    /// `signal_struct.live`
    SIGNAL_LIVE
    /// `signal_struct.flags`
    SIGNAL_FLAGS
    /// `signal_struct.group_exit_code`
    SIGNAL_GROUP_EXIT_CODE
    /// `mm_struct.arg_start`
    MM_ARG_START
    /// `mm_struct.arg_end`
    MM_ARG_END
    /// `mm_struct.start_code`
    MM_START_CODE
    /// `mm_struct.exe_file`
    MM_EXE_FILE
    /// `file.f_inode`
    FILE_INODE
    /// `inode.i_ino`
    INODE_NUMBER
    /// `inode.i_generation`
    INODE_GENERATION
    /// `inode.i_size`
    INODE_SIZE
    /// `inode.i_sb`
    INODE_SB
    /// `super_block.s_dev`
    SB_DEVICE
    /// `task_struct.thread`: where the thread pointer is saved; never read where it has none
    TASK_THREAD_POINTER
    /// `nsproxy.pid_ns_for_children`
    NSPROXY_PID_NS
    /// `pid_namespace.ns.inum`
    PID_NS_INUM
    /// `pid_namespace.child_reaper`
    PID_NS_CHILD_REAPER
    /// `pid_namespace.pid_allocated`
    PID_NS_ALLOCATED
    /// `pid_namespace.pid_max`; unresolved where all namespaces have the same (before 6.14), and then never read
    PID_NS_MAX
    /// `css_set.dfl_cgrp`
    CSS_SET_DFL_CGRP
    /// `css_set.subsys[pids_cgrp_id]`; unresolved where there is no v1 pids hierarchy, and then never read
    CSS_SET_PIDS
    /// `cgroup_subsys_state.cgroup`; likewise
    CSS_CGROUP
    /// `cgroup.kn`
    CGROUP_KN
    /// `cgroup.root`
    CGROUP_ROOT
    /// `cgroup_root.hierarchy_id`
    ROOT_HIERARCHY
    /// `kernfs_node.id`
    KN_ID
    /// `pid.numbers[0].nr`
    PID_NUMBER
    /// The register in `pt_regs` with a function's first argument, and with a system call's
    REGS_ARGUMENT
    /// Where `pt_regs` has the number of the system call
    REGS_CALL
    /// Where `pt_regs` has what a function returns
    REGS_RESULT
}
