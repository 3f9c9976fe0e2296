//! What the hook on the clone path has seen: counted by the kernel side, announced now and then, and handed to the thread that finds
//! out which limit it was.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use reaper_ebpf::{
    WORDS,
    refused::{APART, KEPT, Refused, Who},
};

use crate::{
    headroom::{Attempt, Forker, Source},
    identity::Identity,
    kernel::{Kernel, RefusalHook},
    text::Untrusted,
    watch::Watch,
};

/// What follows an announcement is counted when the next one may have come.
const AGAIN: Duration = Duration::from_nanos(APART).saturating_add(Duration::from_millis(20));

/// When it is tried again where the thread is behind.
const BEHIND: Duration = Duration::from_millis(100);

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
}

impl Hooked {
    pub(super) fn by(hook: &RefusalHook) -> Self {
        let source = match hook {
            RefusalHook::Fexit => Some(Source::Fexit),
            RefusalHook::Kretprobe { .. } => Some(Source::Kretprobe),
            RefusalHook::None { .. } => None,
        };
        Self { source, known: HashMap::new() }
    }

    /// Whether there is a hook.
    pub(super) const fn is_there(&self) -> bool {
        self.source.is_some()
    }

    /// When it is looked whether there are more.
    pub(super) fn due(&self) -> Option<Instant> {
        self.known.values().filter_map(|known| known.again).min()
    }

    /// Forgets those of whom none was refused for long: the kernel side has room for a few only.
    fn forget(&mut self, kernel: &mut Kernel, now: Instant) {
        if self.known.len() < SOME {
            return;
        }
        self.known.retain(|who, known| {
            let is_quiet = known.again.is_none() && now.duration_since(known.at) >= QUIET;
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
    pub(in crate::watch) fn heed_refusal(&mut self, forker: Identity, words: &[u64; WORDS]) {
        let Some(source) = self.headrooms.hooked.source else { return };
        let refused = Refused::from_words(*words);
        let Refused { comm, group, uid, pid_ns, processes, nproc, pids, pid_max } = refused;
        let name = comm.map(u64::to_ne_bytes).concat();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let attempt = Attempt {
            who: refused.who(),
            source,
            forker: Forker { identity: forker, comm: Untrusted::new(name) },
            cgroup: self.describer.workloads.cgroups().pids_path([group.v2, group.v1]),
            uid,
            processes,
            nproc: (nproc != u64::MAX).then_some(nproc),
            pid_ns,
            pids: pids.into(),
            pid_max: (pid_max != 0).then_some(pid_max.into()),
            count: 0,
            fresh: true,
        };
        let now = Instant::now();
        self.headrooms.hooked.forget(&mut self.describer.kernel, now);
        let count = self.headrooms.hooked.known.get(&attempt.who).map_or(0, |known| known.count);
        let who = attempt.who;
        self.headrooms.hooked.known.insert(who, Known { count, attempt, again: Some(now), at: now });
        self.count_refusals(now);
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
            let count = total.saturating_sub(known.count);
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
