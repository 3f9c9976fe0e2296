//! What a daemon owes to those before and after it, and to the truth: zombies that were told of are marked, those that
//! stand are taken over, the ledger is compared with the kernel's own list, and losses are said.

use std::time::Duration;

use jiff::Timestamp;
use reaper_ebpf::{flag, state};

use super::{Describer, Watch, WatchError};
use crate::{
    identity::BootTime,
    kernel::Kernel,
    ledger::Due,
    observe::{Purpose, Scene},
    proc::{Proc, ticks},
    report::{Event, Loss},
    zombie::{Reap, Zombie},
};

/// Nothing here is more urgent than this.
const NOT_SOONER: Duration = Duration::from_millis(100);

impl Watch {
    /// Writes down which zombies have been told of.
    pub(super) fn tell(&mut self) {
        let written = self.outbox.written();
        while let Some((_, id)) = self.untold.pop_front_if(|(number, _)| *number <= written) {
            self.describer.kernel.tell(id);
        }
    }

    /// Looks at what an earlier daemon has reported and still stands: its release will be announced to this one.
    pub(super) fn restore(&mut self) -> Result<(), WatchError> {
        let mut standing = Vec::new();
        self.describer.kernel.each(|state| state == state::STANDING, |record| standing.push(record))?;
        if standing.is_empty() {
            return Ok(());
        }
        self.describer.look_up_v1()?;
        self.describer.kernel.see_releases();
        let requests = standing.iter().map(|record| self.request(Due::Report, record)).collect();
        // Its queue is empty now.
        let _full = self.observer.ask(Purpose::Restore, requests);
        Ok(())
    }

    /// A zombie of an earlier daemon. It is told of again unless that one surely did.
    pub(super) fn resume(&mut self, id: u64, scene: &Scene, now: BootTime) {
        let Some(record) = self.describer.kernel.record(id) else { return };
        let mut zombie = self.describer.describe(&record, scene, now);
        if !self.filter.matches(&zombie) {
            return;
        }
        if record.flags & flag::TOLD == 0 {
            zombie.recovered = true;
            self.announce(id, &zombie, now);
        }
        self.remedies.add(id, zombie.holder.pid, now);
        self.count_leak(id, &zombie, now);
        self.standing.add(id, self.describer.cgroups(&record), zombie);
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
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
        let Self { describer: Describer { kernel, stacks, .. }, losses, .. } = self;
        losses.set(Loss::ProgramSkipped, kernel.skipped());
        if let Some(stacks) = stacks {
            losses.set(Loss::StackDropped, stacks.lost());
            losses.set(Loss::Unrecognized, stacks.unrecognized());
            losses.set(Loss::StackUnread, stacks.unread());
        }
    }

    /// Says what was lost, and puts the ledger right where that is due.
    pub(super) fn reconcile(&mut self, now: BootTime) -> Result<(), WatchError> {
        // Before the books: a death whose hook was skipped is found by a census only.
        self.take_over_losses();
        let Describer { kernel, .. } = &mut self.describer;
        if self.books.compare(kernel, now)? || kernel.ancestors_are_crowded()? {
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
        let stale = books.stale(kernel, now);
        for id in &stale {
            kernel.forget(*id);
            losses.count(Loss::FreeMissed);
        }
        let needed = losses.report(kernel, now, false, outbox)?;
        if needed.census {
            books.doubt();
        }
        for id in stale {
            self.aging.settle(id);
            self.release(id, now, None);
        }
        if needed.releases {
            self.find_unannounced(now);
        }
        self.sweep_by(self.books.next().max(now.plus(NOT_SOONER)));
        Ok(())
    }

    /// A zombie is gone: known from `reap` where that was seen, else it was `at` the latest.
    pub(super) fn release(&mut self, id: u64, at: BootTime, reap: Option<Reap>) {
        let ours = self.remedies.remove(id);
        self.sites.remove(id);
        if let Some(zombie) = self.standing.remove(id) {
            // What it does when it is told to says nothing of what it does by itself.
            if !ours {
                self.describer.holders.waited(zombie.holder.pid, zombie.died.age(at));
            }
            self.outbox.send(Event::released(&zombie, at, reap, Timestamp::now()));
        }
    }

    /// Releases that the ring buffer had no room for.
    pub(super) fn find_unannounced(&mut self, now: BootTime) {
        let gone: Vec<u64> =
            self.standing.ids().filter(|id| self.describer.kernel.record(*id).is_none()).collect();
        for id in gone {
            self.release(id, now, None);
        }
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
