//! Programs that do nothing: what being called costs, with the kernel's own measuring of it.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

macro_rules! empty {
    ($($program:ident: $hook:literal;)*) => {$(
        #[btf_tracepoint(function = $hook)]
        fn $program(_: BtfTracePointContext) {}
    )*};
}

empty! {
    empty_fork: "sched_process_fork";
    empty_exec: "sched_process_exec";
    empty_exit: "sched_process_exit";
    empty_signal: "signal_generate";
    empty_free: "sched_process_free";
    empty_mkdir: "cgroup_mkdir";
    empty_wait: "sched_process_wait";
    empty_cmdline: "sched_process_exec";
}
