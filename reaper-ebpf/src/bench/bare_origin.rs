//! Of where processes come from only what the ledger needs: no stack is taken.

use aya_ebpf::programs::BtfTracePointContext;

use crate::kernel::Task;

#[path = "../origin/lineage.rs"]
#[expect(dead_code, reason = "some of it is for other hooks")]
pub(crate) mod lineage;

/// In place of the stage that would follow.
#[inline(always)]
pub(crate) const fn follow(_: &BtfTracePointContext, _: Task, _: u32) {}
