//! The vm tier: `cargo xtask vm` as it is without arguments, by the tier's deadline.

use super::Session;
use crate::vm;

pub(super) fn run(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = vm::Args::all_kernels(session.args);
    let boots = vm::boot_all(session.workspace, &args, session.rebuilt.as_deref(), Some(session.deadline))?;
    session.failures = boots.failures();
    boots.verdict()
}
