//! Whether a holder may be traced; and where it may not, what would have to be changed for that.

use std::{fs, io, path::Path};

use crate::text::Untrusted;

/// Whether the kernel would let a process be traced: reading what call it is in takes the same permission, and touches nothing.
/// Otherwise why not, as a sentence.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/proc/base.c> (`lock_trace`)
pub fn ask(process: &Path) -> Result<(), String> {
    match fs::read(process.join("syscall")) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(reason(process)),
        // Whatever else is wrong with it is found by who needs it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Who has said no: a setting of the machine's, a profile, or the kernel for want of a capability.
#[must_use]
pub fn reason(process: &Path) -> String {
    let root = process.parent().unwrap_or(process);
    let scope = fs::read_to_string(root.join("sys/kernel/yama/ptrace_scope")).unwrap_or_default();
    if scope.trim() == "3" {
        return "kernel.yama.ptrace_scope is 3, so that nobody may trace: set it to 2 or less where it is configured \
                (sysctl.d), and restart the machine, because it cannot be lowered before"
            .to_owned();
    }
    match (profile(&root.join("self")), profile(process)) {
        // It asks the rules of both, and nobody's where the tracer has no profile.
        // <https://elixir.bootlin.com/linux/v6.12/source/security/apparmor/task.c> (`aa_may_ptrace`)
        (Some(own), theirs) if !is_unconfined(&own) => {
            let peer = theirs.unwrap_or_else(|| UNCONFINED.into());
            let theirs = if is_unconfined(&peer) {
                String::new()
            } else {
                format!(", and the holder's profile {peer} `ptrace (readby, tracedby) peer={own}`")
            };
            format!(
                "AppArmor does not let it be traced: reaper's profile {own} has to have \
                 `ptrace (read, trace) peer={peer}`{theirs}"
            )
        }
        _ => "it may not be traced: CAP_SYS_PTRACE over its user namespace is missing, or a security module says no"
            .to_owned(),
    }
}

const UNCONFINED: &str = "unconfined";

fn is_unconfined(profile: &Untrusted) -> bool {
    profile.as_str() == UNCONFINED
}

/// The name of a process's AppArmor profile. `None` where that module does not run.
fn profile(process: &Path) -> Option<Untrusted> {
    let text = fs::read_to_string(process.join("attr/apparmor/current")).ok()?;
    let text = text.trim_end_matches(['\0', '\n']);
    // The mode stands behind it.
    let name = text.rsplit_once(" (").map_or(text, |(name, _)| name);
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of process 7, with these files below a proc file system of its own.
    fn said(files: &[(&str, &str)]) -> String {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        reason(&root.path().join("7"))
    }

    const OWN: &str = "self/attr/apparmor/current";
    const THEIRS: &str = "7/attr/apparmor/current";

    #[test]
    fn a_setting_that_forbids_it_to_everybody_is_named() {
        let said = |scope| said(&[("sys/kernel/yama/ptrace_scope", scope), (OWN, "a (enforce)\n")]);
        assert!(said("3\n").contains("kernel.yama.ptrace_scope is 3"));
        assert!(!said("2\n").contains("yama"));
    }

    #[test]
    fn the_rules_that_both_profiles_need_are_named() {
        let both = said(&[(OWN, "reaper (enforce)\n"), (THEIRS, "cri-containerd.apparmor.d (enforce)\n")]);
        assert!(both.contains("`ptrace (read, trace) peer=cri-containerd.apparmor.d`"), "{both}");
        assert!(both.contains("`ptrace (readby, tracedby) peer=reaper`"), "{both}");
        let own = said(&[(OWN, "reaper (enforce)\n"), (THEIRS, "unconfined\n")]);
        assert!(own.contains("`ptrace (read, trace) peer=unconfined`") && !own.contains("tracedby"), "{own}");
    }

    #[test]
    fn a_tracer_without_a_profile_is_not_told_of_rules() {
        for own in ["unconfined\n", "unconfined"] {
            let said = said(&[(OWN, own), (THEIRS, "other (enforce)\n")]);
            assert!(said.contains("CAP_SYS_PTRACE") && !said.contains("AppArmor"), "{said}");
        }
        assert!(said(&[]).contains("CAP_SYS_PTRACE"));
    }

    #[test]
    fn a_process_of_this_user_may_be_traced() {
        assert_eq!(ask(Path::new("/proc/self")), Ok(()));
    }
}
