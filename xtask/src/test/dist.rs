//! The dist tier: what `cargo xtask dist` makes, and the test program that looks at it. Behind the vm tier, whose build it shares.

use super::{Session, live};
use crate::dist;

pub(super) fn run(session: &mut Session<'_>) -> anyhow::Result<()> {
    dist::make(session.workspace, session.rebuilt.as_deref(), Some(session.deadline))?;
    live::run_as_root(session, &dist::reaper(session.workspace), &["dist".to_owned()])
}
