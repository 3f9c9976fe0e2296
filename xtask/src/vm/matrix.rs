//! What is booted: which kernels, and how.

use super::{
    Args,
    arch::Arch,
    guest::Cgroup,
    kernel::{self, Wanted},
};

/// One boot of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) wanted: Wanted,
    pub(crate) lockdown: Option<String>,
    pub(crate) cgroup: Cgroup,
    /// Under systemd, with the test program that is for it.
    pub(crate) systemd: bool,
    /// Tests that are left out, for this mode changes nothing about them: they run in the plain boot of the same kernel.
    pub(crate) skips: &'static [&'static str],
}

/// What lockdown has no say in.
const UNLOCKED: &[&str] = &["apparmor::", "clock::", "hotplug::", "suspend::", "yama::"];

/// What does not depend on how cgroups are mounted.
const WITHOUT_CGROUPS: &[&str] = &[
    "apparmor::",
    "clock::",
    "hotplug::",
    "kinds::",
    "pid_reuse::",
    "reap::",
    "suspend::",
    "waits::",
    "yama::",
];

impl Boot {
    /// How it differs from others of the same kernel.
    pub(crate) fn mode(&self) -> String {
        let Self { wanted: _, lockdown, cgroup, systemd, skips: _ } = self;
        let lockdown = lockdown.as_ref().map(|mode| format!(", lockdown {mode}"));
        let systemd = if *systemd { ", systemd" } else { "" };
        format!("cgroup {}{}{systemd}", cgroup.as_str(), lockdown.unwrap_or_default())
    }
}

/// What the arguments ask for, in the order of booting.
pub(crate) fn of(args: &Args) -> Vec<Boot> {
    let Args { kernels, lockdown, cgroup, systemd, .. } = args;
    let lines = kernel::LINES.map(Wanted::Line);
    let plain = |wanted: &Wanted| Boot {
        wanted: wanted.clone(),
        lockdown: None,
        cgroup: Cgroup::V2,
        systemd: *systemd,
        skips: &[],
    };
    // One is as good as the others: what is tested is the unit.
    if *systemd && kernels.is_empty() {
        return vec![plain(&lines[2])];
    }
    if args.arch == Arch::X86 && kernels.is_empty() && lockdown.is_none() && cgroup.is_none() {
        let [oldest, second, third, newest] = &lines;
        let locked =
            |wanted| Boot { lockdown: Some("confidentiality".to_owned()), skips: UNLOCKED, ..plain(wanted) };
        let mounted = |wanted, cgroup| Boot { cgroup, skips: WITHOUT_CGROUPS, ..plain(wanted) };
        let special = [
            locked(oldest),
            locked(newest),
            // v1 alone is what machines with old kernels have.
            mounted(oldest, Cgroup::V1),
            mounted(second, Cgroup::Both),
            Boot { systemd: true, ..plain(third) },
        ];
        return lines.iter().map(plain).chain(special).collect();
    }
    let chosen = match (kernels.is_empty(), args.arch) {
        (false, _) => &kernels[..],
        (true, Arch::X86) => &lines[..],
        // One takes as long as all of the others.
        (true, Arch::Aarch64) => &lines[2..3],
    };
    let boot = |wanted: &Wanted| Boot {
        wanted: wanted.clone(),
        lockdown: lockdown.clone(),
        cgroup: cgroup.unwrap_or(Cgroup::V2),
        systemd: *systemd,
        skips: &[],
    };
    chosen.iter().map(boot).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::parsed, *};

    #[test]
    fn the_whole_matrix_has_lockdown_at_both_ends_and_every_cgroup_layout() {
        let boots = of(&parsed(&[]));
        let modes: Vec<String> = boots.iter().map(Boot::mode).collect();
        assert_eq!(modes.len(), 9);
        assert_eq!(modes.iter().filter(|mode| mode.contains("confidentiality")).count(), 2);
        assert_eq!(modes.iter().filter(|mode| mode.contains("systemd")).count(), 1);
        assert!(modes.contains(&"cgroup v1".to_owned()) && modes.contains(&"cgroup both".to_owned()));
        // Whatever is left out somewhere runs on the same kernel elsewhere, and nothing is where a mode was asked for.
        for boot in &boots {
            let whole =
                |other: &Boot| other.wanted == boot.wanted && other.skips.is_empty() && !other.systemd;
            assert!(boots.iter().any(whole), "{boot:?}");
        }
        for asked in [&["--cgroup", "v1"][..], &["--lockdown", "integrity"]] {
            assert!(of(&parsed(asked)).iter().all(|boot| boot.skips.is_empty()));
        }
    }

    #[test]
    fn another_architecture_is_booted_only_where_it_is_named() {
        assert_eq!(of(&parsed(&["--arch", "aarch64"])).len(), 1);
        assert_eq!(of(&parsed(&["--arch", "aarch64", "6.1", "7"])).len(), 2);
    }

    #[test]
    fn named_kernels_are_booted_as_the_flags_say() {
        let boots = of(&parsed(&["5.10", "7.x", "--cgroup", "v1", "--lockdown", "integrity"]));
        assert_eq!(boots.len(), 2);
        assert!(boots.iter().all(|boot| boot.mode() == "cgroup v1, lockdown integrity"));
        assert_eq!(of(&parsed(&["--lockdown", "confidentiality"])).len(), 4);
    }
}
