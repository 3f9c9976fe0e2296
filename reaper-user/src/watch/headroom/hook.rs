//! What the hook on the clone path has seen: counted by the kernel side, announced now and then, and handed to the thread that finds
//! out which limit it was.

use std::time::{Duration, Instant};

use reaper_ebpf::{
    WORDS,
    refused::{Refused, Who},
};

use super::{Headrooms, hooked::Hooked};
use crate::{
    headroom::{Attempt, CgroupPath, Forker, Report, Source},
    identity::{BootTime, Identity},
    kernel::{INITIAL_PID_NAMESPACE, boot_now},
    text::Untrusted,
    watch::{Watch, WatchError},
    workload::CgroupId,
};

/// For so long the thread that reads may take over and say what is left at the end.
const LAST: Duration = Duration::from_secs(1);

/// And that is looked for as often.
const LOOK: Duration = Duration::from_millis(2);

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
        self.headrooms.hooked.announced(attempt, now);
        self.count_refusals(now);
    }

    /// Goes through the kernel's counts, where that is due.
    pub(super) fn walk_refused(&mut self, now: Instant) {
        let Some(source) = self.headrooms.hooked.source else { return };
        if !self.headrooms.hooked.walks(now) {
            return;
        }
        for who in self.headrooms.hooked.walk(&self.describer.kernel, now) {
            let attempt = self.unannounced(who, source);
            self.headrooms.hooked.meet(attempt, now);
        }
        let files = self.headrooms.reader.files().clone();
        self.headrooms.hooked.forget(&mut self.describer.kernel, now, |who, path| {
            // Its path is remembered for a while, and another one may have it by now.
            path.is_none_or(|path| !matches!(files.inode(path), Ok(Some(there)) if there == who.cgroup))
        });
    }

    /// What is known of one that was not announced.
    fn unannounced(&mut self, who: Who, source: Source) -> Attempt {
        Attempt {
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
        }
    }

    fn cgroup_of(&mut self, who: Who) -> Option<CgroupPath> {
        self.describer
            .workloads
            .cgroups()
            .path(CgroupId { hierarchy: self.headrooms.hierarchy, id: who.cgroup })
    }

    /// Hands over what was refused since that was last done.
    pub(super) fn count_refusals(&mut self, now: Instant) {
        let kernel = &self.describer.kernel;
        let Headrooms { hooked, reader, .. } = &mut self.headrooms;
        hooked.hand_over(kernel, now, |attempt| reader.attempt(attempt));
        hooked.acknowledge(now, |until| reader.handed_over(until));
    }

    /// Leaves to the next daemon how many have been told of.
    pub(super) fn note_told(&mut self) {
        let Headrooms { hooked, failures, .. } = &self.headrooms;
        if hooked.is_there() {
            self.describer.kernel.tell_refused(hooked.told(failures.untold_of_hook()));
        }
    }

    /// Tells all that is left of refused forks, before the daemon ends.
    pub(in crate::watch) async fn tell_last_refusals(&mut self) -> Result<(), WatchError> {
        let end = tokio::time::Instant::now() + LAST;
        let now = Instant::now();
        self.headrooms.hooked.want(now);
        self.walk_refused(now);
        self.count_refusals(now);
        while self.headrooms.hooked.is_behind() && tokio::time::Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            self.headrooms.hooked.hurry(now);
            self.count_refusals(now);
        }
        self.headrooms.unwatched += self.headrooms.hooked.give_up(&self.describer.kernel);
        self.headrooms.reader.finish();
        while let Ok(Some(report)) = tokio::time::timeout_at(end, self.headrooms.report()).await {
            match report {
                Report::Refused(refusal) => self.take_refusal(refusal),
                Report::Settled(total) => self.headrooms.hooked.settled = total,
                Report::Seen(_) | Report::Lost(_) | Report::Wanted => {}
            }
        }
        self.headrooms.failures.hurry();
        self.tell_due_refusals(boot_now())
    }
}
