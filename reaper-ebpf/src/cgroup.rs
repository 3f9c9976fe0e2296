//! `cgroup_mkdir(cgroup, path)`: announces a new cgroup, whose id must be turned into a path while it exists.
//! Always attached; rare.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::warn;
use reaper_ebpf::{counter, notice};

use crate::{
    kernel::{cgroup_id, recorded_hierarchy},
    notice::send,
};

#[btf_tracepoint(function = "cgroup_mkdir")]
fn cgroup_mkdir(ctx: BtfTracePointContext) {
    let cgroup = ctx.arg(0);
    let Some(hierarchy) = recorded_hierarchy(cgroup) else { return };
    let id = cgroup_id(cgroup);
    if !send(notice::CGROUP_MADE, hierarchy, id, 0, counter::CGROUP_LOST) {
        warn!(&ctx, "no room to announce cgroup {} of hierarchy {}", id, hierarchy);
    }
}
