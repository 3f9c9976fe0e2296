//! What the kernel side needs, looked at before anything is loaded, so that a refusal names its reason.

use std::{fs, io, os::unix::fs::MetadataExt as _};

use procfs::process::Process;

use super::{KernelError, btf, lockdown};

/// Inode number of the initial pid namespace:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/proc_ns.h#L42>
pub const INITIAL_PID_NAMESPACE: u32 = 0xEFFF_FFFC;

const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_KILL: u32 = 5;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// How a requirement stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Met.
    Met(String),
    /// Not met, and something works less well without it.
    Reduced(String),
    /// Not met, and nothing works without it.
    Missing(String),
}

/// One line of `reaper check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// What is needed.
    pub name: &'static str,
    /// What for.
    pub purpose: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// True where a privilege is missing rather than a feature of the kernel.
    pub privilege: bool,
}

/// The whole table, without loading anything.
#[must_use]
pub fn requirements() -> Vec<Requirement> {
    let effective = effective();
    // With hidepid only CAP_SYS_PTRACE or the mount's group lets anybody at other users' processes.
    let proc_hides = fs::metadata("/proc/1/stat").is_err();
    let mut all = capabilities(effective, proc_hides).to_vec();
    all.extend([
        Requirement {
            name: "kernel BTF",
            purpose: "finding the kernel's structures",
            standing: match fs::metadata(btf::VMLINUX) {
                Ok(_) => Standing::Met(btf::VMLINUX.to_owned()),
                Err(error) => Standing::Missing(format!("{}: {error}", btf::VMLINUX)),
            },
            privilege: false,
        },
        Requirement {
            name: "initial pid namespace",
            purpose: "kernel pids and /proc must agree",
            standing: match fs::metadata("/proc/self/ns/pid") {
                Ok(found) if found.ino() == u64::from(INITIAL_PID_NAMESPACE) => {
                    Standing::Met("yes".to_owned())
                }
                Ok(_) => Standing::Missing("no: in a pod, set `hostPID: true`".to_owned()),
                Err(error) => Standing::Missing(format!("/proc/self/ns/pid: {error}")),
            },
            privilege: false,
        },
        Requirement {
            name: "lockdown",
            purpose: "no mode of it stands in the way",
            standing: Standing::Met(lockdown().unwrap_or_else(|| "cannot be seen".to_owned())),
            privilege: false,
        },
    ]);
    all
}

/// Whether this process may read those of other users.
#[must_use]
pub fn reads_others() -> bool {
    effective() & 1 << CAP_SYS_PTRACE != 0
}

fn effective() -> u64 {
    Process::myself().and_then(|me| me.status()).map_or(0, |status| status.capeff)
}

/// How many of [`capabilities`] are for whoever only reports; what follows is for remedies.
const REPORTING: usize = 4;

/// The capabilities. CAP_SYS_ADMIN stands in for the two that were once a part of it, and for no other:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/capability.h> (`bpf_capable`, `perfmon_capable`)
fn capabilities(effective: u64, proc_hides: bool) -> [Requirement; 6] {
    let held = |numbers: &[u32]| numbers.iter().any(|number| effective & (1 << number) != 0);
    let missing = || Standing::Missing("not held".to_owned());
    let reduced = |without: &str| Standing::Reduced(format!("not held: {without}"));
    let requirement = |name, purpose, numbers: &[u32], otherwise| Requirement {
        name,
        purpose,
        standing: if held(numbers) { Standing::Met("held".to_owned()) } else { otherwise },
        privilege: true,
    };
    [
        requirement("CAP_BPF", "loading the BPF object", &[CAP_BPF, CAP_SYS_ADMIN], missing()),
        requirement("CAP_PERFMON", "attaching to tracepoints", &[CAP_PERFMON, CAP_SYS_ADMIN], missing()),
        requirement(
            "CAP_DAC_READ_SEARCH",
            "resolving cgroup ids",
            &[CAP_DAC_READ_SEARCH],
            reduced("cgroups that are made from now on are only known by what /proc says of them"),
        ),
        requirement(
            "CAP_SYS_PTRACE",
            "reading other processes",
            &[CAP_SYS_PTRACE],
            if proc_hides {
                Standing::Missing("not held, and /proc hides processes (hidepid)".to_owned())
            } else {
                reduced("the lines that leak are not told, and remedies touch nobody")
            },
        ),
        requirement(
            "CAP_KILL",
            "signals to holders",
            &[CAP_KILL],
            reduced("nudge and terminate-holder reach this user's own processes only"),
        ),
        requirement(
            "CAP_SYS_ADMIN",
            "reading holders' seccomp filters",
            &[CAP_SYS_ADMIN],
            reduced("holders under seccomp filters, most containers, are not made to reap"),
        ),
    ]
}

/// The capabilities without which something works less well, though it works. With `remedies` also those that only remedies
/// need.
#[must_use]
pub fn reduced(remedies: bool) -> Vec<Requirement> {
    let all = requirements();
    let counted = if remedies { all.len() } else { REPORTING };
    let reduces = |requirement: &Requirement| {
        requirement.privilege && matches!(requirement.standing, Standing::Reduced(_))
    };
    all.into_iter().take(counted).filter(reduces).collect()
}

/// The first requirement that is missing, as an error.
pub fn demand() -> Result<(), KernelError> {
    let all = requirements();
    let missing: Vec<_> =
        all.iter().filter(|requirement| matches!(requirement.standing, Standing::Missing(_))).collect();
    let privileges: Vec<_> = missing
        .iter()
        .filter(|requirement| requirement.privilege)
        .map(|requirement| requirement.name)
        .collect();
    if !privileges.is_empty() {
        return Err(KernelError::Privilege {
            what: privileges.join(" and "),
            grant: "CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH (where /proc is mounted with hidepid, \
                    CAP_SYS_PTRACE, too)",
        });
    }
    match missing.first().map(|requirement| (requirement.name, &requirement.standing)) {
        Some((name, Standing::Missing(why))) => Err(KernelError::Unavailable {
            what: format!("{name}: {why}"),
            remedy: "`reaper check` prints everything that is needed".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The kernel's BTF.
pub(super) fn btf_bytes() -> Result<Vec<u8>, KernelError> {
    fs::read(btf::VMLINUX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KernelError::Unavailable {
            what: format!("it has no BTF ({} is missing)", btf::VMLINUX),
            remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        },
        _ => KernelError::system(format!("reading {}", btf::VMLINUX), error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(held: &[u32], proc_hides: bool) -> [Standing; 6] {
        let effective = held.iter().fold(0, |all, number| all | 1 << number);
        capabilities(effective, proc_hides).map(|requirement| requirement.standing)
    }

    #[test]
    fn cap_sys_admin_implies_the_capabilities_that_were_split_from_it_and_no_other() {
        let [bpf, perfmon, search, ptrace, kill, admin] = standings(&[CAP_SYS_ADMIN], true);
        assert!([bpf, perfmon, admin].iter().all(|standing| matches!(standing, Standing::Met(_))));
        assert!(matches!((search, ptrace), (Standing::Reduced(_), Standing::Missing(_))));
        assert!(matches!(kill, Standing::Reduced(_)));
    }

    #[test]
    fn without_cap_sys_ptrace_nothing_works_only_where_proc_hides_processes() {
        for (held, proc_hides, word) in
            [(false, false, "reduced"), (false, true, "missing"), (true, true, "met")]
        {
            let held = if held { &[CAP_SYS_PTRACE][..] } else { &[] };
            let [bpf, _, _, ptrace, ..] = standings(held, proc_hides);
            let found = match ptrace {
                Standing::Met(_) => "met",
                Standing::Reduced(_) => "reduced",
                Standing::Missing(_) => "missing",
            };
            assert_eq!(found, word);
            assert!(matches!(bpf, Standing::Missing(_)));
        }
    }

    #[test]
    fn what_only_remedies_need_comes_last() {
        let names = capabilities(0, false).map(|requirement| requirement.name);
        assert_eq!(names[REPORTING..], ["CAP_KILL", "CAP_SYS_ADMIN"]);
    }
}
