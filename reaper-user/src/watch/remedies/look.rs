//! Looking at zombies and their holders for remedies: what decisions are made from.

use reaper_ebpf::state;

use crate::{
    identity::{BootTime, Identity},
    observe::{Answer, Purpose, Request, Scene},
    policy::{Case, Waited},
    proc::Seen,
    remedy::Sight,
    watch::{Watch, WatchError},
    zombie::{Asked, Waits},
};

impl Watch {
    /// Asks about those that a remedy may be due for, and settles what came of earlier ones.
    pub(in crate::watch) fn remedy(&mut self, now: BootTime) -> Result<(), WatchError> {
        self.settle_deeds(now);
        let kernel = &self.describer.kernel;
        self.remedies.agenda.look_after_the_dead(now, |holder| {
            let known = || kernel.record(reaper_ebpf::id(holder.pid, holder.start.0));
            holder.start == BootTime(0) || known().is_some_and(|record| record.state() == state::ALIVE)
        });
        let ids = self.remedies.take(now);
        if !ids.is_empty() {
            // An upgrade may have put other files there, and the next one may replace those.
            self.remedies.guard.record(std::path::Path::new("/"));
            let inits = self.describer.namespace_inits()?;
            let describer = &self.describer;
            let records: Vec<_> = ids.iter().filter_map(|id| describer.kernel.record(*id)).collect();
            let requests: Vec<_> = records
                .iter()
                .map(|record| Request::Remedy {
                    id: record.id(),
                    zombie: Identity::of(record),
                    forker: describer.kernel.forker_of(record),
                    inits: inits.clone(),
                })
                .collect();
            self.describer.look_up_v1_of(&records)?;
            let purpose = Purpose::Remedy(self.remedies.agenda.look());
            if self.observer.ask(purpose, requests).is_err() {
                self.remedies.ask_again(now);
            }
        }
        for holder in self.remedies.holders() {
            self.describer.holders.keep(holder, now);
        }
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
        Ok(())
    }

    /// Takes in what was seen at this look; not where it was given up meanwhile, and comes late. With the last of it, acts.
    pub(in crate::watch) fn consider(
        &mut self,
        look: u64,
        answers: Vec<Answer>,
        last: bool,
        now: BootTime,
    ) -> Result<(), WatchError> {
        if self.remedies.agenda.is_asking(look) {
            for answer in answers {
                // What is no zombie has its release announced, or is looked at a little later.
                if let Answer::Zombie { id, scene, sight } = answer {
                    self.decide(id, &scene, sight.as_deref(), now);
                }
            }
            if last {
                self.remedies.act(now, &mut self.outbox);
                self.describer.kernel.settle(!self.describer.holders.is_empty())?;
            }
        }
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
        Ok(())
    }

    fn decide(&mut self, id: u64, scene: &Scene, sight: Option<&Sight>, now: BootTime) {
        let Some(record) = self.describer.kernel.record(id) else { return };
        let zombie = self.describer.describe(&record, scene, now);
        let seen = scene.holder.seen.as_ref().map(|(seen, _)| seen);
        let identity = Identity {
            pid: zombie.holder.pid,
            // Where the ledger does not have it, /proc's ticks must do.
            start: zombie.holder.start.or_else(|| seen.map(Seen::start)).unwrap_or_default(),
        };
        // Its environment or its executable may hang; whether it is protected is then not known.
        let unclear = sight.is_none() && seen.is_some();
        let mut holder = self.remedies.guard.judge(identity, sight.cloned(), &mut self.describer.workloads);
        holder.name(&self.describer.names);
        if unclear && holder.identity.is_none() {
            holder.identity = Some(identity);
            holder.protected = Some(crate::remedy::Protected::Unclear);
        }
        let half = self.aging.half();
        let watched = self.describer.holders.get(zombie.holder.pid, seen).copied();
        let mut waited = waited(zombie.evidence.waits, half);
        if let Some(seen) = seen.filter(|_| watched.is_none()) {
            // Its probation has ended, or it was reported by an earlier daemon, or was another's.
            let crate::watch::Describer { holders, kernel, .. } = &mut self.describer;
            if !holders.put(seen, now, half, kernel) {
                waited = Waited::Unwatched(std::time::Duration::MAX);
            }
        }
        let free = self.free_of(self.describer.cgroups(&record), now);
        let case = Case {
            zombie: &zombie,
            holder: &holder,
            waited,
            reap_times: watched.map(|watched| watched.reap_times(now)),
            free,
            refused: &[],
        };
        self.remedies.judge(id, case, now);
    }
}

/// What the holder was seen waiting for. The kernel's hook does not tell a pid from a process group: both count.
pub(crate) fn waited(waits: Option<Waits>, least: std::time::Duration) -> Waited {
    match waits {
        None => Waited::Unwatched(least),
        Some(Waits { any: 1.., .. }) => Waited::ForAny,
        Some(Waits { asked: Asked::For(number), .. }) => Waited::ForIt(number),
        Some(Waits { asked: Asked::Unclear, .. }) => Waited::Unclear,
        // What was watched for a moment only has shown nothing yet.
        Some(Waits { watched, .. }) if watched < least => Waited::Unwatched(least.saturating_sub(watched)),
        Some(_) => Waited::ForOthers,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn waits_that_could_return_the_zombie_are_told_from_those_that_could_not() {
        let second = Duration::from_secs(1);
        let waits = |watched, any, asked| {
            Some(Waits { watched, any, one: 9, last_ago: None, last_number: Some(60), asked, longest: None })
        };
        let of = |any, asked| waited(waits(15 * second, any, asked), 15 * second);
        assert_eq!(of(0, Asked::No), Waited::ForOthers);
        assert_eq!(of(1, Asked::No), Waited::ForAny);
        assert_eq!(of(0, Asked::For(40)), Waited::ForIt(40));
        assert_eq!(of(0, Asked::Unclear), Waited::Unclear);
        assert_eq!(waited(None, second), Waited::Unwatched(second));
        assert_eq!(waited(waits(second, 0, Asked::No), 2 * second), Waited::Unwatched(second));
    }
}
