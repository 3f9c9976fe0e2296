//! What the hook on the clone path has seen: counted by the kernel side, announced now and then, and handed to the thread that finds
//! out which limit it was.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use reaper_ebpf::{
    WORDS,
    refused::{APART, KEPT, Refused, Who},
};

use crate::{
    headroom::{Attempt, CgroupPath, Forker, Report, Source},
    identity::{BootTime, Identity},
    kernel::{INITIAL_PID_NAMESPACE, Kernel, RefusalHook, boot_now},
    text::Untrusted,
    watch::{Watch, WatchError},
    workload::CgroupId,
};

/// What follows an announcement is counted when the next one may have come.
const AGAIN: Duration = Duration::from_nanos(APART).saturating_add(Duration::from_millis(20));

/// For so long the thread that reads may say what is left at the end.
const LAST: Duration = Duration::from_secs(1);

/// When it is tried again where the thread is behind.
const BEHIND: Duration = Duration::from_millis(100);

/// The kernel's counts are gone through as often, for those whose announcement was lost or had no room, and those that are over.
const WALK: Duration = Duration::from_secs(10);

/// Of whom none was refused for so long is forgotten, once there are some.
const QUIET: Duration = Duration::from_secs(60);
const SOME: usize = KEPT as usize / 4;

/// One whose forks are counted together.
#[derive(Debug)]
struct Known {
    /// How many were handed over.
    count: u64,
    /// Who tried last.
    attempt: Attempt,
    /// When it is looked whether there are more.
    again: Option<Instant>,
    /// When there last were.
    at: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Hooked {
    source: Option<Source>,
    known: HashMap<Who, Known>,
    /// What was announced before is an earlier daemon's, which told of it when it ended.
    since: BootTime,
    walk: Instant,
}

impl Hooked {
    pub(super) fn by(hook: &RefusalHook) -> Self {
        let source = match hook {
            RefusalHook::Fexit => Some(Source::Fexit),
            RefusalHook::Kretprobe { .. } => Some(Source::Kretprobe),
            RefusalHook::None { .. } | RefusalHook::Off => None,
        };
        Self { source, known: HashMap::new(), since: boot_now(), walk: Instant::now() + WALK }
    }

    /// Whether there is a hook.
    pub(super) const fn is_there(&self) -> bool {
        self.source.is_some()
    }

    /// How many of those that the kernel side counts were handed over.
    fn handed_over(&self) -> u64 {
        self.known.values().map(|known| known.count).sum()
    }

    /// When it is looked whether there are more.
    pub(super) fn due(&self) -> Option<Instant> {
        let walk = self.source.map(|_| self.walk);
        self.known.values().filter_map(|known| known.again).chain(walk).min()
    }

    /// All are looked at now.
    fn hurry(&mut self, now: Instant) {
        for known in self.known.values_mut() {
            known.again = Some(now);
        }
    }

    /// Forgets those whose cgroup is gone, and where there are some those of whom none was refused for long: the kernel side has room
    /// for a few only.
    fn forget(
        &mut self,
        kernel: &mut Kernel,
        now: Instant,
        is_gone: impl Fn(Who, Option<&CgroupPath>) -> bool,
    ) {
        let are_some = self.known.len() >= SOME;
        self.known.retain(|who, known| {
            let is_long = || are_some && now.duration_since(known.at) >= QUIET;
            let is_quiet =
                known.again.is_none() && (is_long() || is_gone(*who, known.attempt.cgroup.as_ref()));
            // One that comes right now is announced and counted from the beginning.
            let is_over = is_quiet && kernel.refused(*who) == known.count;
            if is_over {
                kernel.forget_refused(*who);
            }
            !is_over
        });
    }
}

impl Watch {
    /// A fork of this process was refused.
    pub(in crate::watch) fn heed_refusal(&mut self, forker: Identity, words: &[u64; WORDS], at: BootTime) {
        let Hooked { source: Some(source), since, .. } = self.headrooms.hooked else { return };
        if at < since {
            return;
        }
        let refused = Refused::from_words(*words);
        let Refused { comm, group, uid, pid_ns, processes, nproc, pids, pid_max, elsewhere: _, nested } =
            refused;
        let name = comm.map(u64::to_ne_bytes).concat();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let attempt = Attempt {
            who: refused.who(),
            source,
            forker: Some(Forker { identity: forker, comm: Untrusted::new(name) }),
            cgroup: self.describer.workloads.cgroups().pids_path([group.v2, group.v1]),
            uid,
            processes,
            nproc: (nproc != u64::MAX).then_some(nproc),
            pid_ns,
            pids: pids.into(),
            pid_max: (pid_max != 0).then_some(pid_max.into()),
            unread: nested,
            count: 0,
            fresh: true,
        };
        let now = Instant::now();
        let who = attempt.who;
        let known = match self.headrooms.hooked.known.remove(&who) {
            // Each CPU announces one a second: that is one look a second all the same.
            Some(Known { count, again, at, .. }) if now.duration_since(at) < AGAIN => {
                Known { count, attempt, again: again.or(Some(now)), at }
            }
            before => {
                let count = before.map_or(0, |known| known.count);
                Known { count, attempt, again: Some(now), at: now }
            }
        };
        self.headrooms.hooked.known.insert(who, known);
        self.count_refusals(now);
    }

    /// Goes through the kernel's counts, where that is due.
    pub(super) fn walk_refused(&mut self, now: Instant) {
        let Hooked { source: Some(source), walk, .. } = self.headrooms.hooked else { return };
        if now < walk {
            return;
        }
        self.headrooms.hooked.walk = now + WALK;
        for who in self.describer.kernel.refused_of() {
            if self.headrooms.hooked.known.contains_key(&who) {
                continue;
            }
            let attempt = Attempt {
                who,
                source,
                forker: None,
                cgroup: self.cgroup_of(who),
                uid: who.uid,
                processes: 0,
                nproc: None,
                pid_ns: INITIAL_PID_NAMESPACE,
                pids: 0,
                pid_max: None,
                unread: true,
                count: 0,
                fresh: false,
            };
            self.headrooms.hooked.known.insert(who, Known { count: 0, attempt, again: Some(now), at: now });
        }
        let files = self.headrooms.reader.files().clone();
        self.headrooms.hooked.forget(&mut self.describer.kernel, now, |who, path| {
            // Its path is remembered for a while, and another one may have it by now.
            let folder = path.map(|path| fs::metadata(files.of(path, "")));
            !folder.is_some_and(|folder| folder.is_ok_and(|folder| folder.ino() == who.cgroup))
        });
    }

    /// Leaves to the next daemon how many have been told of.
    pub(super) fn note_told(&mut self) {
        let super::Headrooms { hooked, failures, .. } = &self.headrooms;
        if hooked.is_there() {
            let told = hooked.handed_over().saturating_sub(failures.untold_of_hook());
            self.describer.kernel.tell_refused(told);
        }
    }

    fn cgroup_of(&mut self, who: Who) -> Option<CgroupPath> {
        self.describer
            .workloads
            .cgroups()
            .path(CgroupId { hierarchy: self.headrooms.hierarchy, id: who.cgroup })
    }

    /// Tells all that is left of refused forks, before the daemon ends.
    pub(in crate::watch) async fn tell_last_refusals(&mut self) -> Result<(), WatchError> {
        let now = Instant::now();
        self.headrooms.hooked.walk = now;
        self.walk_refused(now);
        self.headrooms.hooked.hurry(now);
        self.count_refusals(now);
        let Hooked { known, .. } = &self.headrooms.hooked;
        let left =
            known.iter().map(|(who, known)| self.describer.kernel.refused(*who).saturating_sub(known.count));
        self.headrooms.unwatched += left.sum::<u64>();
        self.headrooms.reader.finish();
        let end = tokio::time::Instant::now() + LAST;
        while let Ok(Some(report)) = tokio::time::timeout_at(end, self.headrooms.report()).await {
            if let Report::Refused(refusal) = report {
                self.take_refusal(refusal);
            }
        }
        self.headrooms.failures.hurry();
        self.tell_refusals(boot_now())
    }

    /// Hands over what was refused since that was last done.
    pub(super) fn count_refusals(&mut self, now: Instant) {
        let kernel = &self.describer.kernel;
        let super::Headrooms { hooked, reader, .. } = &mut self.headrooms;
        for (who, known) in &mut hooked.known {
            if known.again.is_none_or(|again| again > now) {
                continue;
            }
            let total = kernel.refused(*who);
            let new = total.saturating_sub(known.count);
            // One that was announced and not counted was counted in a place that was forgotten right then.
            let count = if total == 0 && known.attempt.fresh { 1 } else { new };
            if count == 0 {
                // What was announced was counted before, with what another CPU had announced; more of it may follow.
                known.again = known.attempt.fresh.then(|| now + AGAIN);
                known.attempt.fresh = false;
            } else if reader.attempt(Attempt { count, ..known.attempt.clone() }) {
                (known.count, known.attempt.fresh) = (total, false);
                (known.again, known.at) = (Some(now + AGAIN), now);
            } else {
                known.again = Some(now + BEHIND);
            }
        }
    }
}
