//! Aging: which dead processes are due, and when to look next.
//!
//! The ledger is swept when the oldest dead entry can have reached half the threshold (its holder goes on
//! probation, at three quarters at the latest) or the threshold (it is confirmed and reported, at once), not on a
//! timer. A process that dies after a sweep cannot be due before half a threshold has passed, so an idle node is
//! swept that often.

use std::{collections::HashMap, time::Duration};

use crate::identity::BootTime;

/// Sweeps are not closer together than this, so that many zombies of slightly different age share one.
const SHORTEST: Duration = Duration::from_millis(20);

/// How long to wait before an entry that is dead but no zombie is looked at again: it is still in its exit.
const AGAIN: Duration = Duration::from_secs(1);

/// How long an entry may stay without a process before it is given back: it was waited for, and the kernel frees it
/// tens of milliseconds later, unless the free event was lost.
const STALE: Duration = Duration::from_secs(10);

/// What a dead entry is due for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its holder's probation.
    Probation,
    /// Confirmation and report.
    Report,
}

/// What becomes of an entry that is dead and not a zombie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It was waited for meanwhile.
    Never,
    /// It is looked at again then.
    At(BootTime),
    /// It has been without a process for so long that its free must have been missed.
    GiveBack,
}

/// An entry that is older than half the threshold and not reported.
#[derive(Clone, Copy, Debug)]
struct Pending {
    next: Due,
    /// Not before this.
    not_before: BootTime,
    /// Handed out and not answered yet.
    asked: bool,
    /// When it was first found to have no process.
    absent_since: Option<BootTime>,
    died: BootTime,
    /// Its holder at probation.
    holder: Option<u32>,
    sweep: u64,
}

/// An entry that was pending and is no longer dead: somebody has waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitedFor {
    /// Its holder at probation.
    pub holder: u32,
    /// When it died.
    pub died: BootTime,
}

/// The age of everything that is dead.
#[derive(Debug)]
pub struct Aging {
    threshold: Duration,
    pending: HashMap<u64, Pending>,
    sweep: u64,
    waited_for: Vec<WaitedFor>,
}

/// One pass over the dead entries.
pub struct Sweep<'a> {
    aging: &'a mut Aging,
    now: BootTime,
    next: BootTime,
}

impl Aging {
    /// Nothing is dead yet; zombies are reported from `threshold` on.
    #[must_use]
    pub fn new(threshold: Duration) -> Self {
        Self { threshold, pending: HashMap::new(), sweep: 0, waited_for: Vec::new() }
    }

    /// The age from which a zombie is reported.
    #[must_use]
    pub const fn threshold(&self) -> Duration {
        self.threshold
    }

    /// Reports zombies from this age on: the next sweep judges by it.
    pub fn set_threshold(&mut self, threshold: Duration) {
        self.threshold = threshold;
    }

    /// Half of it: when holders go on probation.
    #[must_use]
    pub fn half(&self) -> Duration {
        self.threshold / 2
    }

    /// Begins a sweep at `now`.
    pub fn sweep(&mut self, now: BootTime) -> Sweep<'_> {
        self.sweep += 1;
        let next = now.plus(self.half());
        Sweep { aging: self, now, next }
    }

    /// The entry was reported, or is none of ours: it is not looked at again.
    pub fn settle(&mut self, id: u64) {
        self.pending.remove(&id);
    }

    /// What was asked could not be handed on, or is to be asked again at the next sweep.
    pub fn ask_again(&mut self, id: u64) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.asked = false;
        }
    }

    /// Nothing that was asked will be answered: all of it is asked again.
    pub fn ask_all_again(&mut self) {
        for pending in self.pending.values_mut() {
            pending.asked = false;
        }
    }

    /// It is not reported now, though it is due. Says when it is handed out again.
    pub fn hold(&mut self, id: u64, now: BootTime) -> BootTime {
        let then = now.plus(AGAIN);
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.asked = false;
            pending.not_before = then;
        }
        then
    }

    /// It is due for its report at `moment` only. Says nothing where it is not pending.
    pub fn hold_until(&mut self, id: u64, moment: BootTime) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.asked = false;
            pending.not_before = moment;
        }
    }

    /// Those that were pending and have been waited for since this was last called.
    pub fn waited_for(&mut self) -> Vec<WaitedFor> {
        std::mem::take(&mut self.waited_for)
    }

    /// The holder's probation has been taken care of: the report is next.
    pub fn on_probation(&mut self, id: u64, holder: Option<u32>) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.asked = false;
            pending.holder = holder;
            pending.next = Due::Report;
        }
    }

    /// It is dead and not a zombie at `now`. Says when to look at it again, or that its entry should be given back.
    pub fn not_a_zombie(&mut self, id: u64, now: BootTime, absent: bool) -> Again {
        let Some(pending) = self.pending.get_mut(&id) else { return Again::Never };
        pending.asked = false;
        pending.not_before = now.plus(if absent { STALE } else { AGAIN });
        pending.absent_since = if absent { pending.absent_since.or(Some(now)) } else { None };
        match pending.absent_since {
            Some(since) if now.since(since) >= STALE => Again::GiveBack,
            _ => Again::At(pending.not_before),
        }
    }

    /// Entries that are older than half the threshold and not reported.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

impl Sweep<'_> {
    /// Looks at a dead entry that died at `died`. Says what it is due for, if anything.
    pub fn look(&mut self, id: u64, died: BootTime) -> Option<Due> {
        let (probation, report) = (died.plus(self.aging.half()), died.plus(self.aging.threshold));
        if self.now < probation {
            self.around(probation);
            return None;
        }
        let sweep = self.aging.sweep;
        let pending = self.aging.pending.entry(id).or_insert(Pending {
            next: Due::Probation,
            not_before: BootTime(0),
            asked: false,
            absent_since: None,
            died,
            holder: None,
            sweep,
        });
        pending.sweep = sweep;
        if pending.asked {
            return None;
        }
        let not_before = pending.not_before;
        if self.now < not_before {
            // Not a zombie when it was last looked at: whether it has become one is not urgent.
            self.around(not_before);
            return None;
        }
        let due = match pending.next {
            Due::Probation if self.now >= report => Due::Report,
            due => due,
        };
        if due == Due::Report && self.now < report {
            self.at(report);
            return None;
        }
        pending.asked = true;
        // The probation's answer does not end the wait for the report.
        if due == Due::Probation {
            self.at(report);
        }
        Some(due)
    }

    /// Looks again at `moment`.
    fn at(&mut self, moment: BootTime) {
        self.next = self.next.min(moment);
    }

    /// Looks again at `moment` or a little later, so that what is not urgent shares a sweep.
    fn around(&mut self, moment: BootTime) {
        self.at(moment.max(self.now.plus(self.aging.threshold / 4)));
    }

    /// Ends the sweep: what was pending and is no longer dead has been waited for. Returns when to sweep next.
    pub fn end(self) -> BootTime {
        let Self { aging, now, next } = self;
        let sweep = aging.sweep;
        let Aging { pending, waited_for, .. } = aging;
        pending.retain(|_, pending| {
            let stands = pending.sweep == sweep;
            if let Some(holder) = pending.holder.filter(|_| !stands) {
                waited_for.push(WaitedFor { holder, died: pending.died });
            }
            stands
        });
        next.max(now.plus(SHORTEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    #[test]
    fn an_idle_node_is_looked_at_once_per_half_threshold() {
        let mut aging = Aging::new(10 * SECOND);
        assert_eq!(aging.sweep(at(100)).end(), at(105));
    }

    #[test]
    fn a_child_that_is_waited_for_in_time_leaves_no_trace() {
        let mut aging = Aging::new(10 * SECOND);
        let mut sweep = aging.sweep(at(100));
        assert_eq!(sweep.look(1, at(98)), None);
        assert_eq!(sweep.end(), at(103), "half the threshold after its death");
        assert_eq!(aging.pending(), 0);
    }

    #[test]
    fn what_is_not_urgent_shares_a_sweep() {
        let mut aging = Aging::new(8 * SECOND);
        let mut sweep = aging.sweep(at(100));
        for hundredths in 0..300 {
            assert_eq!(sweep.look(hundredths, BootTime(96_010_000_000 + hundredths * 10_000_000)), None);
        }
        assert_eq!(
            sweep.end(),
            at(102),
            "a quarter of the threshold later, for all that die in three seconds"
        );
    }

    #[test]
    fn a_zombie_is_due_twice_and_each_time_once() {
        let mut aging = Aging::new(10 * SECOND);
        let mut sweep = aging.sweep(at(105));
        assert_eq!(sweep.look(1, at(100)), Some(Due::Probation));
        assert_eq!(sweep.look(1, at(100)), None);
        assert_eq!(sweep.end(), at(110));
        aging.on_probation(1, Some(7));
        let mut sweep = aging.sweep(at(109));
        assert_eq!(sweep.look(1, at(100)), None);
        assert_eq!(sweep.end(), at(110));
        let mut sweep = aging.sweep(at(110));
        assert_eq!(sweep.look(1, at(100)), Some(Due::Report));
        assert_eq!(sweep.look(1, at(100)), None);
        sweep.end();
        aging.settle(1);
        assert_eq!(aging.pending(), 0);
    }

    #[test]
    fn another_threshold_holds_from_the_next_sweep_on() {
        let mut aging = Aging::new(10 * SECOND);
        let mut sweep = aging.sweep(at(104));
        assert_eq!(sweep.look(1, at(100)), None);
        sweep.end();
        aging.set_threshold(2 * SECOND);
        let mut sweep = aging.sweep(at(104));
        assert_eq!(sweep.look(1, at(100)), Some(Due::Report), "it is older than that already");
        sweep.end();
        aging.ask_again(1);
        aging.set_threshold(20 * SECOND);
        let mut sweep = aging.sweep(at(105));
        assert_eq!(sweep.look(1, at(100)), None);
        assert_eq!(sweep.end(), at(110));
        assert_eq!(aging.pending(), 0, "it is young again");
        assert_eq!(aging.sweep(at(111)).look(1, at(100)), Some(Due::Probation));
    }

    #[test]
    fn a_late_sweep_reports_at_once() {
        let mut aging = Aging::new(10 * SECOND);
        let mut sweep = aging.sweep(at(200));
        assert_eq!(sweep.look(1, at(100)), Some(Due::Report));
    }

    #[test]
    fn what_is_waited_for_between_two_sweeps_is_dropped() {
        let mut aging = Aging::new(10 * SECOND);
        let mut sweep = aging.sweep(at(106));
        assert_eq!(sweep.look(1, at(100)), Some(Due::Probation));
        sweep.end();
        aging.sweep(at(107)).end();
        assert_eq!(aging.pending(), 0);
    }

    #[test]
    fn what_was_on_probation_and_is_waited_for_says_how_long_its_holder_took() {
        let mut aging = Aging::new(10 * SECOND);
        for (id, holder) in [(1, Some(7)), (2, None), (3, Some(8))] {
            let mut sweep = aging.sweep(at(106));
            assert_eq!(sweep.look(id, at(100)), Some(Due::Probation));
            aging.on_probation(id, holder);
        }
        let mut sweep = aging.sweep(at(108));
        sweep.look(3, at(100));
        sweep.end();
        assert_eq!(aging.waited_for(), [WaitedFor { holder: 7, died: at(100) }]);
        assert_eq!(aging.waited_for(), []);
    }

    #[test]
    fn a_report_can_be_put_off() {
        let mut aging = Aging::new(10 * SECOND);
        assert_eq!(aging.sweep(at(110)).look(1, at(100)), Some(Due::Report));
        aging.hold_until(1, at(160));
        let mut sweep = aging.sweep(at(159));
        assert_eq!(sweep.look(1, at(100)), None);
        assert_eq!(sweep.end(), BootTime(161_500_000_000), "a quarter of the age later, at most");
        assert_eq!(aging.sweep(at(160)).look(1, at(100)), Some(Due::Report));
    }

    #[test]
    fn a_process_stuck_in_its_exit_is_looked_at_again_and_never_given_back() {
        let mut aging = Aging::new(SECOND);
        for second in 110..140 {
            let mut sweep = aging.sweep(at(second));
            assert_eq!(sweep.look(1, at(100)), Some(Due::Report), "second {second}");
            sweep.end();
            assert_eq!(aging.not_a_zombie(1, at(second), false), Again::At(at(second + 1)));
        }
    }

    #[test]
    fn an_entry_without_a_process_is_given_back_in_the_end() {
        let mut aging = Aging::new(SECOND);
        aging.sweep(at(110)).look(1, at(100));
        assert_eq!(aging.not_a_zombie(1, at(110), true), Again::At(at(120)));
        assert_eq!(aging.sweep(at(119)).look(1, at(100)), None, "it is not looked at before that");
        assert_eq!(aging.sweep(at(120)).look(1, at(100)), Some(Due::Report));
        assert_eq!(aging.not_a_zombie(1, at(120), true), Again::GiveBack);
    }

    #[test]
    fn many_zombies_share_a_sweep() {
        let mut aging = Aging::new(10 * SECOND);
        let mut sweep = aging.sweep(at(110));
        sweep.look(1, BootTime(100_001_000_000));
        assert_eq!(sweep.end(), at(110).plus(SHORTEST));
    }
}
