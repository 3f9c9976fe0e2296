//! AppArmor's policy for the guest, which has no program to compile it.

use std::fs;

use anyhow::{Context as _, Result};

use super::{kernel, program::APPARMOR_PARSER};
use crate::{command, workspace::Workspace};

/// The profiles of the tests, and which of the kernel's features they are for: those of the oldest kernel, not this machine's.
const PROFILES: &str = "reaper-user/tests/vm/apparmor.profiles";
const FEATURES: &str = "reaper-user/tests/vm/apparmor.features";

/// The profiles as the kernel takes them.
pub(super) fn compile(workspace: &Workspace) -> Result<Vec<u8>> {
    let compiled = kernel::directory(workspace).join("apparmor.policy");
    let mut parser = APPARMOR_PARSER.get(workspace)?.command()?;
    // Without this system's own configuration and cache, and without a kernel to load it into.
    parser.args(["--quiet", "--config-file", "/dev/null", "--skip-cache", "--skip-kernel-load"]);
    parser.arg("--features-file").arg(workspace.root().join(FEATURES));
    parser.arg("--ofile").arg(&compiled).arg(workspace.root().join(PROFILES));
    command::run(&mut parser)?;
    fs::read(&compiled).with_context(|| compiled.display().to_string())
}
