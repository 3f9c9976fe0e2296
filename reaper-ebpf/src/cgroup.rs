//! `cgroup_mkdir(cgroup, path)`: announces a new cgroup, whose id must be turned into a path while it exists.
//! Always attached; rare.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::warn;
use reaper_ebpf::{Notice, WORDS, counter, notice};

use crate::{
    kernel::{cgroup_id, recorded_hierarchy},
    notice::send,
};

#[btf_tracepoint(function = "cgroup_mkdir")]
fn cgroup_mkdir(ctx: BtfTracePointContext) {
    let cgroup = ctx.arg(0);
    let Some(hierarchy) = recorded_hierarchy(cgroup) else { return };
    let id = cgroup_id(cgroup);
    let made = Notice { kind: notice::CGROUP_MADE, number: hierarchy, id, time: 0, words: [0; WORDS] };
    if !send(made, counter::CGROUP_LOST) {
        warn!(&ctx, "no room to announce cgroup {} of hierarchy {}", id, hierarchy);
    }
}
