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
    /// Tests that are left out: they run in the plain boot of the same kernel, for this mode changes nothing about them, or on another
    /// kernel ([`ON_ONE`]).
    pub(crate) skips: Vec<&'static str>,
}

/// What lockdown has no say in.
const UNLOCKED: &[&str] = &[
    "apparmor::",
    "clock::",
    "hotplug::",
    "refused::a_cgroups_limit",
    "refused_by_machine::",
    "suspend::",
    "yama::",
];

/// What does not depend on how cgroups are mounted.
const WITHOUT_CGROUPS: &[&str] = &[
    "apparmor::",
    "clock::",
    "hotplug::",
    "kinds::",
    "pid_reuse::",
    "reap::",
    "refused::a_users_limit",
    "refused::refused_forks_are_seen",
    "refused_by_machine::",
    "suspend::",
    "waits::",
    "yama::",
];

/// Cases of refused forks that are seldom and take long, together as long as all other tests, and the kernel whose plain boot has them; so
/// spread that none takes much longer, and the newest, which is the slowest, has none. All have the hook by fexit: 5.10 reads by addresses,
/// and had the mend for what is detached under way put back into it; the others read by types, and on 6.12 one stands in by kretprobe for
/// want of room. The rest is in the daemon's own books, the same for any hook. That forks are seen to be refused, by each limit, at once and
/// once, is on every kernel. A kernel that is named on the command line has all.
const ON_ONE: &[(&str, &str)] = &[
    ("refused_hook::a_daemon_may_end_while_a_fork_is_under_way", "5.10"),
    ("refused_hook::a_fork_that_succeeds_passes_the_hook_once", "5.10"),
    ("refused_hook::a_kretprobe_stands_in_for_fexit", "6.12"),
    ("refused_hook::without_a_hook_refused_forks_are_known_from_pids_max_only", "5.10"),
    ("refused_often::a_fork_into_another_cgroup_is_told_by_the_limit_that_refused_it", "6.12"),
    ("refused_often::a_long_storm_that_two_count_is_told_once", "6.12"),
    ("refused_often::of_more_users_than_are_kept_all_refusals_are_told_and_those_after_them_are_seen", "6.1"),
    ("refused_often::what_a_daemon_was_killed_before_it_told_is_counted_by_the_next", "5.10"),
];

/// What of that is not for this kernel.
fn for_others(wanted: &Wanted) -> Vec<&'static str> {
    let has = |kernel: &str| matches!(wanted, Wanted::Line(line) if line.name == kernel);
    ON_ONE.iter().filter(|(_, kernel)| !has(kernel)).map(|(test, _)| *test).collect()
}

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
        skips: Vec::new(),
    };
    // One is as good as the others: what is tested is the unit.
    if *systemd && kernels.is_empty() {
        return vec![plain(&lines[2])];
    }
    if args.arch == Arch::X86 && kernels.is_empty() && lockdown.is_none() && cgroup.is_none() {
        let [oldest, second, third, newest] = &lines;
        let seldom = || ON_ONE.iter().map(|(test, _)| *test);
        let beyond = |left_out: &[&'static str]| left_out.iter().copied().chain(seldom()).collect();
        let lockdown = || Some("confidentiality".to_owned());
        let locked = |wanted| Boot { lockdown: lockdown(), skips: beyond(UNLOCKED), ..plain(wanted) };
        let mounted = |wanted, cgroup| Boot { cgroup, skips: beyond(WITHOUT_CGROUPS), ..plain(wanted) };
        let whole = |wanted| Boot { skips: for_others(wanted), ..plain(wanted) };
        let special = [
            locked(oldest),
            locked(newest),
            // v1 alone is what machines with old kernels have.
            mounted(oldest, Cgroup::V1),
            mounted(second, Cgroup::Both),
            Boot { systemd: true, ..plain(third) },
        ];
        return lines.iter().map(whole).chain(special).collect();
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
        skips: Vec::new(),
    };
    chosen.iter().map(boot).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::parsed, kernel::LINES, *};

    #[test]
    fn the_whole_matrix_has_lockdown_at_both_ends_and_every_cgroup_layout() {
        let boots = of(&parsed(&[]));
        let modes: Vec<String> = boots.iter().map(Boot::mode).collect();
        assert_eq!(modes.len(), 9);
        assert_eq!(modes.iter().filter(|mode| mode.contains("confidentiality")).count(), 2);
        assert_eq!(modes.iter().filter(|mode| mode.contains("systemd")).count(), 1);
        assert!(modes.contains(&"cgroup v1".to_owned()) && modes.contains(&"cgroup both".to_owned()));
        // Whatever is left out somewhere runs on the same kernel elsewhere, or on those that it is for, and nothing is where a kernel or
        // a mode was asked for.
        let is_plain = |boot: &&Boot| boot.mode() == "cgroup v2";
        for boot in &boots {
            for skipped in &boot.skips {
                let on = ON_ONE.iter().find(|(test, _)| test == skipped).map(|(_, kernel)| *kernel);
                let is_meant = |other: &&Boot| match (on, &other.wanted) {
                    (Some(kernel), Wanted::Line(line)) => line.name == kernel,
                    _ => other.wanted == boot.wanted,
                };
                let meant: Vec<&Boot> = boots.iter().filter(is_plain).filter(is_meant).collect();
                assert!(matches!(meant[..], [one] if !one.skips.contains(skipped)), "{skipped}: {boot:?}");
            }
        }
        let all = ["5.10", "6.1", "6.12", "7"];
        for asked in [&["--cgroup", "v1"][..], &["--lockdown", "integrity"], &all] {
            assert!(of(&parsed(asked)).iter().all(|boot| boot.skips.is_empty()));
        }
    }

    #[test]
    fn whatever_is_on_some_kernels_only_is_a_test() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../reaper-user/tests/vm");
        for (test, kernel) in ON_ONE {
            let (module, name) = test.split_once("::").unwrap();
            let text = std::fs::read_to_string(format!("{folder}/{module}.rs")).unwrap();
            assert!(text.contains(&format!("\nfn {name}() {{")), "{test}");
            assert!(LINES.iter().any(|line| line.name == *kernel), "{test}");
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
