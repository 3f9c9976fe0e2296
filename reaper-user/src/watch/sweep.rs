//! Sweeping the ledger, and what is made of the answers: from a dead entry to a report.

use std::time::{Duration, Instant};

use reaper_ebpf::{Group, Record, flag, state};
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
    time::{ClockId, clock_gettime},
};

use super::{Describer, Watch, WatchError, continuity::RESTORED_APART};
use crate::{
    identity::{BootTime, Identity},
    kernel::Kernel,
    ledger::{Again, Due, WaitedFor},
    observe::{Answer, Answers, Hung, Purpose, Request, Scene},
    report::Loss,
};

/// When to ask again what the observer had no room for.
const BEHIND: Duration = Duration::from_millis(100);

/// Looking up v1 cgroups takes one part in so many of a CPU, at most,
const PASS_SHARE: u32 = 10;

/// but no report waits longer for it than this.
const PASSES_APART: Duration = Duration::from_millis(200);

/// Within this there should be an answer.
pub(super) const ANSWERED: Duration = Duration::from_secs(6);

/// Cgroups are not pruned more often than this.
const PRUNED_APART: Duration = Duration::from_secs(1);

impl Watch {
    /// Looks through the ledger and asks about what is due.
    pub(super) fn sweep(&mut self) -> Result<(), WatchError> {
        let began = Instant::now();
        let now = self.describer.clock.refresh();
        if let Some(hung) = self.observer.replace_if_it_hangs(now) {
            self.look_past(hung, now);
        }
        let mut requests = Vec::new();
        self.describer.dead_inits.clear();
        let Self { describer: Describer { kernel, clock, dead_inits, .. }, aging, .. } = self;
        let mut sweep = aging.sweep(now);
        kernel.each_dead(|record| {
            if record.flags & flag::NAMESPACE_INIT != 0 {
                dead_inits.insert(record.pid_ns, Identity::of(&record));
            }
            if let Some(due) = sweep.look(record.id(), clock.moment(record.exit_stamp).at) {
                requests.push((due, record));
            }
        })?;
        self.next_sweep = sweep.end();
        for WaitedFor { holder, died } in self.aging.waited_for() {
            self.describer.holders.waited(holder, now.since(died));
        }
        // One that was waited for and is not freed yet costs a system call here, and no look at /proc.
        let (there, absent): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|(_, record)| exists(record.tgid()));
        for (_, record) in absent {
            self.not_a_zombie(record.id(), now, true);
        }
        let requests: Vec<Request> =
            there.into_iter().map(|(due, record)| self.request(due, &record)).collect();
        if !requests.is_empty() {
            let before = cpu_time();
            self.describer.look_up_v1()?;
            // Such a pass takes longer the more tasks there are: many zombies share one. What it took on a CPU, for
            // on a busy machine it takes any time by the clock.
            let pause = (cpu_time().saturating_sub(before) * PASS_SHARE).min(PASSES_APART);
            self.next_sweep = self.next_sweep.max(now.plus(pause));
        }
        if !requests.is_empty() {
            self.headrooms.stir();
            // Somebody has to notice when no answer comes.
            self.sweep_by(now.plus(ANSWERED));
        }
        if !requests.is_empty()
            && let Err(refused) = self.observer.ask(Purpose::Sweep, requests)
        {
            // It is far behind; nothing is lost, the next sweep asks again.
            for request in refused {
                self.aging.ask_again(request.id());
            }
            self.sweep_by(now.plus(BEHIND));
        }
        let keep = self.aging.threshold().max(Duration::from_secs(1)) * 2;
        let Describer { holders, copies, kernel, .. } = &mut self.describer;
        copies.expire(now, kernel);
        kernel.settle_copies(!copies.is_empty())?;
        for holder in self.remedies.holders().into_iter().chain(self.asked.holders(now)) {
            holders.keep(holder, now);
        }
        holders.expire(now, keep, kernel);
        holders.prune(now, kernel);
        kernel.settle(!holders.is_empty())?;
        self.reconcile(now)?;
        self.remedy(now)?;
        self.tell()?;
        self.restore_rest(now)?;
        self.take_new_reap_times()?;
        if self.standing.have_ebbed() {
            Kernel::trim();
        }
        let crowded = self.describer.workloads.cgroups().is_crowded();
        if crowded && self.pruned.is_none_or(|pruned| pruned.elapsed() > PRUNED_APART) {
            let now = Instant::now();
            self.pruned = Some(now);
            let in_use = self.standing.cgroups();
            self.describer.workloads.prune(now, |id| in_use.contains(&id));
        }
        self.meters.swept(began.elapsed());
        Ok(())
    }

    /// A look at a process hangs: what was asked together with it is asked again.
    fn look_past(&mut self, Hung { pid, replaced, cautious }: Hung, now: BootTime) {
        tracing::error!(pid, "a look at this process hangs: it is stuck in the kernel");
        if !replaced {
            tracing::error!(
                "no thread can be started to go on without it: nothing is reported until it ends"
            );
        } else if cautious {
            tracing::error!(
                "many such looks hang: no command line is read and no remedy applied until one of them ends"
            );
        }
        self.losses.count(Loss::ObserverHung);
        self.aging.ask_all_again();
        self.remedies.ask_again(now);
        self.restoring.ask_again(now);
        self.lists.refuse_all();
    }

    /// Sweeps at `moment` at the latest.
    pub(super) fn sweep_by(&mut self, moment: BootTime) {
        self.next_sweep = self.next_sweep.min(moment);
    }

    pub(super) fn request(&self, due: Due, record: &Record) -> Request {
        let (id, zombie) = (record.id(), Identity::of(record));
        match due {
            Due::Probation => {
                // The parent at fork is still the holder if it lives: no need to read the zombie for that.
                let holder = self
                    .describer
                    .kernel
                    .record(reaper_ebpf::id(record.parent_tgid, record.parent_start))
                    .filter(|holder| holder.state() == state::ALIVE)
                    .map(|holder| holder.tgid());
                Request::Probation { id, zombie, holder }
            }
            Due::Report => {
                let forker = self.describer.kernel.forker_of(record);
                let naming = self.describer.name(record);
                let ancestors = self.describer.ancestors(record);
                Request::Report { id, zombie, forker, ancestors, naming }
            }
        }
    }

    pub(super) fn take(&mut self, Answers { purpose, answers, last }: Answers) -> Result<(), WatchError> {
        let now = self.describer.clock.refresh();
        match purpose {
            Purpose::Sweep => {
                // Before the first of them stands, so that no release is missed.
                if answers.iter().any(|answer| !matches!(answer, Answer::NotAZombie { .. })) {
                    self.describer.kernel.see_releases();
                }
            }
            Purpose::List(number) => {
                let list = self.lists.take(number, answers, last, now, &mut self.describer);
                if let Some((reply, zombies)) = list {
                    self.hand_over(reply, zombies, now);
                }
                return Ok(());
            }
            Purpose::Remedy(number) => return self.consider(number, answers, last, now),
            Purpose::Restore => {
                for answer in answers {
                    match answer {
                        // Not where it came late, and another look has been taken meanwhile.
                        Answer::Zombie { id, scene, .. } if self.restoring.settle(id) => {
                            self.resume(id, &scene, now);
                        }
                        Answer::NotAZombie { id, absent: true } => {
                            self.restoring.settle(id);
                        }
                        _ => {}
                    }
                }
                if last {
                    self.restoring.ask_again(now.plus(RESTORED_APART));
                    self.sweep_by(self.restoring.next());
                }
                return Ok(());
            }
        }
        let (mut watched, mut copied) = (false, false);
        for answer in answers {
            match answer {
                Answer::Probation { id, holder } => {
                    self.aging.on_probation(id, holder.as_ref().map(|holder| holder.tgid));
                    if let Some(record) = self.describer.kernel.record(id) {
                        let [v2, v1] = self.describer.cgroups(&record);
                        let Describer { kernel, copies, .. } = &mut self.describer;
                        copied = true;
                        if !copies.put(Group { v2, v1 }, now, kernel) {
                            self.losses.count(Loss::WorkloadUncopied);
                        }
                        self.describer.name_ahead(&record);
                    }
                    if let Some(holder) = holder {
                        watched = true;
                        let Describer { holders, kernel, .. } = &mut self.describer;
                        if !holders.put(&holder, now, self.aging.half(), kernel) {
                            self.losses.count(Loss::HolderUnwatched);
                        }
                    }
                }
                Answer::NotAZombie { id, absent } => self.not_a_zombie(id, now, absent),
                Answer::Zombie { id, scene, .. } => self.report(id, &scene, now),
            }
        }
        let Describer { copies, kernel, .. } = &mut self.describer;
        if watched {
            kernel.settle(true)?;
        }
        if copied {
            kernel.settle_copies(!copies.is_empty())?;
        }
        Ok(())
    }

    pub(super) fn not_a_zombie(&mut self, id: u64, now: BootTime, absent: bool) {
        match self.aging.not_a_zombie(id, now, absent) {
            Again::Never => {}
            // What has no process is not urgent.
            Again::At(_) if absent => {}
            Again::At(moment) => self.sweep_by(moment),
            Again::GiveBack => {
                let record = self.describer.kernel.record(id);
                tracing::debug!(?record, "an entry had no process and is given back");
                self.describer.kernel.forget(id);
                self.aging.settle(id);
                self.losses.count(Loss::FreeMissed);
            }
        }
    }

    pub(super) fn report(&mut self, id: u64, scene: &Scene, now: BootTime) {
        if !self.outbox.has_room() {
            // The ledger keeps it until somebody reads on.
            let then = self.aging.hold(id, now);
            return self.sweep_by(then);
        }
        let Some(record) = self.describer.kernel.record(id) else { return self.aging.settle(id) };
        let zombie = self.describer.describe(&record, scene, now);
        let (age, uid) = (zombie.died.age(now), scene.holder.seen.as_ref().map(|(seen, _)| seen.uid));
        if let Some(later) = self.remedies.policy().report_at(&zombie, uid, age).filter(|later| *later > age)
        {
            let then = now.plus(later - age);
            self.aging.hold_until(id, then);
            return self.sweep_by(then);
        }
        self.aging.settle(id);
        // Reported only if its release will be announced: else it has been released already.
        if !self.describer.kernel.stand(id) {
            return;
        }
        if !self.filter.matches(&zombie) {
            return;
        }
        if self.describer.kernel.has_forgotten_forker(&record) {
            self.losses.count(Loss::ForkerForgotten);
        }
        self.announce(id, &zombie, now);
        self.remedies.add(id, zombie.holder.identity(), now);
        if let Some(next) = self.remedies.next() {
            self.sweep_by(next);
        }
        self.count_leak(id, &zombie, now);
        let own = self.stands(&zombie, true);
        self.standing.add(id, self.describer.cgroups(&record), zombie, own);
    }
}

/// What this thread has used of a CPU.
pub(super) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Whether there is a process with this pid, a zombie included.
pub(super) fn exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    test_kill_process(pid) != Err(Errno::SRCH)
}
