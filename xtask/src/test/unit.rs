//! The unit tier: fake trees and synthetic ledgers, on any machine, as anybody.

use super::Session;

pub(super) fn run(session: &mut Session<'_>) -> anyhow::Result<()> {
    for targets in [["--lib", "--bins"].as_slice(), &["--doc"]] {
        let mut cargo = session.workspace.cargo();
        cargo
            .args(["test", "--locked", "--no-fail-fast", "--workspace"])
            .args(targets)
            .arg("--")
            .args(session.args);
        session.run_tests(&mut cargo)?;
    }
    Ok(())
}
