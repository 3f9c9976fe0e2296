//! What a daemon owes to those before and after it, and to the truth: zombies that were told of are marked, those that
//! stand are taken over, the ledger is compared with the kernel's own list, and losses are said.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use reaper_ebpf::{Record, flag, state};

use super::{
    Describer, Watch, WatchError,
    sweep::{ANSWERED, exists},
};
use crate::{
    identity::BootTime,
    kernel::{Kernel, boot_now},
    ledger::Due,
    observe::{Purpose, Scene},
    proc::{Proc, ticks},
    report::{Event, Loss},
    zombie::{Reap, Zombie},
};

/// Nothing here is more urgent than this.
const NOT_SOONER: Duration = Duration::from_millis(100);

/// Between two looks at what there was no answer to.
pub(super) const RESTORED_APART: Duration = Duration::from_secs(1);

/// A release that was known of before its notice came.
#[derive(Clone, Debug)]
pub(super) struct Early {
    /// Since when.
    at: BootTime,
    /// Who made it, where nothing has been told of it yet.
    untold: Option<Reap>,
}

/// Zombies that an earlier daemon has reported and that this one has not taken over yet.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    left: BTreeSet<u64>,
    /// They have been asked about, and the last answer has not come.
    asked: bool,
    next: BootTime,
}

impl Restoring {
    fn is_due(&self, now: BootTime) -> bool {
        !self.left.is_empty() && !self.asked && now >= self.next
    }

    /// Nothing more is to be found out about this one. False where that was so already.
    pub(super) fn settle(&mut self, id: u64) -> bool {
        self.left.remove(&id)
    }

    /// No more answers come; those that are left are asked about again `then`.
    pub(super) const fn ask_again(&mut self, then: BootTime) {
        (self.asked, self.next) = (false, then);
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// When there is something to ask; far away where nothing is left.
    pub(super) fn next(&self) -> BootTime {
        if self.left.is_empty() { BootTime(u64::MAX) } else { self.next }
    }
}

impl Watch {
    /// Writes down which zombies, and which losses, have been told of.
    pub(super) fn tell(&mut self) -> Result<(), WatchError> {
        let written = self.outbox.written();
        while let Some((_, id)) = self.untold.pop_front_if(|(number, _)| *number <= written) {
            self.describer.kernel.tell(id);
        }
        Ok(self.losses.tell(written, &mut self.describer.kernel)?)
    }

    /// Looks at what an earlier daemon has reported and still stands: its release will be announced to this one.
    pub(super) fn restore(&mut self) -> Result<(), WatchError> {
        let mut standing = BTreeSet::new();
        self.describer.kernel.each(
            |state| state == state::STANDING,
            |record| {
                standing.insert(record.id());
            },
        )?;
        if !standing.is_empty() {
            self.describer.kernel.see_releases();
        }
        self.restoring = Restoring { left: standing, ..Restoring::default() };
        self.restore_rest(boot_now())
    }

    /// Asks about those of them that there was no answer to yet.
    pub(super) fn restore_rest(&mut self, now: BootTime) -> Result<(), WatchError> {
        if !self.restoring.is_due(now) {
            return Ok(());
        }
        let mut requests = Vec::new();
        for id in self.restoring.left.clone() {
            match self.describer.kernel.record(id).filter(|record| record.state() == state::STANDING) {
                Some(record) => requests.push(self.request(Due::Report, &record)),
                None => drop(self.restoring.settle(id)),
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        self.describer.look_up_v1()?;
        if self.observer.ask(Purpose::Restore, requests).is_ok() {
            self.restoring.asked = true;
            // Somebody has to notice when no answer comes.
            self.sweep_by(now.plus(ANSWERED));
        } else {
            self.restoring.ask_again(now.plus(RESTORED_APART));
            self.sweep_by(self.restoring.next());
        }
        Ok(())
    }

    /// A zombie of an earlier daemon. It is told of again unless that one surely did.
    pub(super) fn resume(&mut self, id: u64, scene: &Scene, now: BootTime) {
        let Some(record) = self.describer.kernel.record(id) else { return };
        let mut zombie = self.describer.describe(&record, scene, now);
        if !self.filter.matches(&zombie) {
            return;
        }
        let told = record.flags & flag::TOLD != 0;
        if !told {
            zombie.recovered = true;
            self.announce(id, &zombie, now);
        }
        self.remedies.add(id, zombie.holder.identity(), now);
        self.count_leak(id, &zombie, now);
        let own = self.stands(&zombie, !told);
        self.standing.add(id, self.describer.cgroups(&record), zombie, own);
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
    }

    /// A zombie stands, and was `reported` now or by an earlier daemon. Says whether it has a label set of its own.
    pub(super) fn stands(&mut self, zombie: &Zombie, reported: bool) -> bool {
        if let Some(ear) = &self.ear {
            ear.stands(zombie, reported);
        }
        self.meters.stands(zombie, reported)
    }

    pub(super) fn announce(&mut self, id: u64, zombie: &Zombie, now: BootTime) {
        let number = self.outbox.send(Event::zombie(zombie, now, Timestamp::now()));
        // Nobody comes after a daemon that leaves nothing behind.
        if let Some(number) = number.filter(|_| self.describer.kernel.is_pinned()) {
            self.untold.push_back((number, id));
        }
    }

    /// Takes over what others count.
    pub(super) fn take_over_losses(&mut self) {
        let Self { describer: Describer { kernel, stacks, names, .. }, losses, headrooms, .. } = self;
        losses.set(Loss::ProgramSkipped, kernel.skipped());
        let names = names.counts();
        losses.set(Loss::NameForgotten, names.forgotten);
        losses.set(Loss::LabelLost, names.labels);
        losses.set(Loss::RefusalSkipped, kernel.refusals_skipped());
        for (loss, total) in headrooms.losses() {
            losses.set(loss, total);
        }
        if let Some(stacks) = stacks {
            losses.set(Loss::StackDropped, stacks.lost());
            losses.set(Loss::Unrecognized, stacks.unrecognized());
            losses.set(Loss::StackUnread, stacks.unread());
            losses.set(Loss::StackUnnamed, stacks.unnamed());
        }
    }

    /// Says what was lost, and puts the ledger right where that is due.
    pub(super) fn reconcile(&mut self, now: BootTime) -> Result<(), WatchError> {
        // Before the books: a death whose hook was skipped is found by a census only.
        self.take_over_losses();
        self.release_absent(now);
        let Describer { kernel, .. } = &mut self.describer;
        let compared = self.books.compare(kernel, now)?;
        if compared || kernel.ancestors_are_crowded()? {
            let left = kernel.prune_ancestors()?;
            tracing::debug!(left, "dead ancestors");
            self.describer.prune_stacks();
        }
        let Self { describer: Describer { kernel, .. }, books, losses, outbox, .. } = self;
        if !self.unpinned && !kernel.pins_are_there() {
            self.unpinned = true;
            tracing::warn!(
                "what was pinned is no longer in the file system (was it unmounted?): this daemon goes on, but when it \
                 ends, recording ends; restart it to pin anew"
            );
        }
        let stale: Vec<_> = books.stale(kernel, now).into_iter().map(|id| (id, kernel.record(id))).collect();
        for (id, _) in &stale {
            kernel.forget(*id);
            losses.count(Loss::FreeMissed);
        }
        let needed = losses.report(kernel, now, false, outbox)?;
        if needed.census {
            books.doubt();
        }
        for (id, record) in stale {
            self.aging.settle(id);
            // An earlier daemon may have reported it.
            let record = record.filter(|record| record.state() == state::STANDING);
            self.release(id, now, None, record.as_ref());
        }
        // An announcement may have been missed without a loss: two that change one entry's state at the same moment.
        if needed.releases || compared {
            self.find_unannounced(now);
        }
        self.sweep_by(self.books.next().max(now.plus(NOT_SOONER)));
        Ok(())
    }

    /// Releases that no hook has seen.
    fn release_absent(&mut self, now: BootTime) {
        for id in self.absent.look(self.standing.ids(), now, exists) {
            if !self.standing.has(id) {
                continue;
            }
            if self.describer.kernel.forget(id) {
                self.losses.count(Loss::FreeMissed);
            }
            self.release(id, now, None, None);
            // It may be in the ring buffer all the same.
            self.early.insert(id, Early { at: boot_now(), untold: None });
        }
        if !self.standing.is_empty() {
            self.sweep_by(self.absent.next());
        }
    }

    /// A release was seen when it happened: the notice of it follows.
    pub(super) fn reaped(&mut self, id: u64, reap: Reap) {
        let record = self.describer.kernel.record(id);
        let untold = if self.standing.has(id) || record.is_some() {
            self.release(id, reap.at, Some(reap), record.as_ref());
            None
        } else {
            // An earlier daemon's, and freed by now: the notice has what was recorded. Or it was told of without it.
            self.early.get(&id).map_or(Some(reap), |early| early.untold.clone())
        };
        self.early.insert(id, Early { at: boot_now(), untold });
    }

    /// The notice of a release, with what was recorded of the zombie.
    pub(super) fn released(&mut self, id: u64, at: BootTime, record: Option<&Record>) {
        match self.early.remove(&id) {
            None => self.release(id, at, None, record),
            Some(Early { untold: Some(reap), .. }) => self.release(id, reap.at, Some(reap), record),
            Some(Early { untold: None, .. }) => {}
        }
    }

    /// A zombie is gone: known from `reap` where that was seen, else it was `at` the latest. Where an earlier daemon has
    /// reported it and this one has not seen it yet, there is its `record` at most.
    pub(super) fn release(&mut self, id: u64, at: BootTime, reap: Option<Reap>, record: Option<&Record>) {
        let ours = self.remedies.remove(id);
        self.restoring.settle(id);
        self.sites.remove(id);
        if let Some((mut zombie, own)) = self.standing.remove(id) {
            self.meters.gone(&zombie, own, ours);
            if let Some(ear) = &self.ear {
                ear.gone(&zombie);
            }
            // They may have come since it was reported.
            if zombie.named.names().is_none() {
                zombie.named = self.describer.names.of(&zombie.workload);
            }
            // What it does when it is told to says nothing of what it does by itself.
            if !ours {
                self.describer.holders.waited(zombie.holder.pid, zombie.died.age(at));
            }
            self.outbox.send(Event::released(&zombie, at, reap, Timestamp::now()));
        } else if let Some(record) = record
            // Without pins there was nobody before this one.
            && self.describer.kernel.is_pinned()
        {
            let gone = self.describer.describe_gone(record);
            self.outbox.send(Event::released_unseen(&gone, at, reap, Timestamp::now()));
        }
    }

    /// Releases that the ring buffer had no room for.
    pub(super) fn find_unannounced(&mut self, now: BootTime) {
        /// A notice that is later than this does not come any more.
        const IN_THE_RING: Duration = Duration::from_secs(60);
        let gone: Vec<u64> =
            self.standing.ids().filter(|id| self.describer.kernel.record(*id).is_none()).collect();
        for id in gone {
            self.release(id, now, None, None);
            // It may be in the ring buffer still.
            self.early.insert(id, Early { at: boot_now(), untold: None });
        }
        self.early.retain(|_, early| now.since(early.at) < IN_THE_RING);
    }
}

/// The offsets were checked by type and size, not by meaning: the ledger must say of this process what /proc says.
pub(super) fn self_check(kernel: &Kernel, proc: &Proc) -> Result<(), WatchError> {
    let pid = std::process::id();
    let failed = |what: String| Err(WatchError::SelfCheck(what));
    let seen = match proc.see(pid) {
        Ok(seen) => seen,
        Err(error) => return failed(error.to_string()),
    };
    // An earlier process with this pid may have an entry still, whose free was missed.
    let own = |start| ticks(BootTime(start)) == seen.start_ticks;
    let Some(record) = kernel.process(pid, own)? else {
        if kernel.is_full()? {
            tracing::warn!(
                "the ledger has no room for this very process, so it could not be checked against /proc"
            );
            return Ok(());
        }
        return failed(format!("pid {pid} with start {} is not in the ledger", seen.start_ticks));
    };
    // Entered by the census, it has the parent of now; entered at fork, that one may have died since.
    let by_census = record.flags & flag::PREDATES_FORK != 0;
    if by_census && record.parent_tgid != seen.parent {
        return failed(format!("parent {}, /proc says {}", record.parent_tgid, seen.parent));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_was_no_answer_to_is_asked_about_again_and_taken_over_once() {
        let mut restoring = Restoring { left: BTreeSet::from([1, 2]), ..Restoring::default() };
        assert!(restoring.is_due(BootTime(5)));
        restoring.asked = true;
        assert!(!restoring.is_due(BootTime(5)), "an answer may come");
        assert!(restoring.settle(1) && !restoring.settle(1));
        restoring.ask_again(BootTime(9));
        assert_eq!(restoring.next(), BootTime(9));
        assert!(!restoring.is_due(BootTime(8)) && restoring.is_due(BootTime(9)));
        assert!(restoring.settle(2));
        assert!(!restoring.is_due(BootTime(9)));
        assert_eq!(restoring.next(), BootTime(u64::MAX));
    }
}
