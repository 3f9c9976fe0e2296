//! When each reported zombie is looked at for a remedy.
//!
//! Each has a moment of its own, at which a step can be due. Where all that is waited for is a limit, a breaker or the end of
//! what is being done to the holder, it stands in a queue, the oldest first: one for each step and holder, with one moment for
//! all that stand in it. At that moment it is asked whether the way is free, and as many as one act takes are looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry};

use super::{AT_ONCE, SOON};
use crate::{
    identity::{BootTime, Identity},
    policy::{Act, Progress, Refusal},
};

/// Zombies that are looked at together, at most.
const LOOKED_AT: usize = 4_096;

/// What a queue is for.
pub(super) type Line = (Identity, Act);

/// The order in which zombies have their turn: when they died, when they were forked (where only that is known), which ones.
type Rank = (BootTime, BootTime, u64);

/// When a zombie is looked at next, and what it has behind it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Its holder, when it was last looked at; without a start where the ledger does not have it.
    holder: Identity,
    /// Its own moment.
    pub(super) next: Option<BootTime>,
    /// Where it stands besides.
    line: Option<(Line, Rank)>,
    pub(super) progress: Progress,
    /// Its holder's wait calls are needed to decide.
    pub(super) watch: bool,
    pub(super) looked: Looked,
}

/// What was found when it was last looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    /// The rule that decides.
    pub(super) rule: Option<usize>,
    pub(super) refusals: Vec<(Act, Refusal)>,
}

/// Those that wait for one thing.
#[derive(Debug, Default)]
struct Queue {
    /// When it can be free; `None` where that is an event.
    due: Option<BootTime>,
    /// Never empty.
    zombies: BTreeSet<Rank>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Zombie(u64),
    Queue(Line),
}

/// What stands in the way of a queue: until when, where that is known.
pub(super) type Obstacle = Option<BootTime>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    plans: HashMap<u64, Plan>,
    /// Whose they are.
    holders: HashMap<Identity, HashSet<u64>>,
    queues: BTreeMap<Line, Queue>,
    due: BTreeSet<(BootTime, Item)>,
    /// Those that are being looked at, until the last of them was,
    asked: HashSet<u64>,
    /// by the latest of so many looks.
    looks: u64,
}

impl Agenda {
    /// Looks at a new one now.
    pub(super) fn add(&mut self, id: u64, holder: Identity, watch: bool, now: BootTime) {
        if let Entry::Vacant(entry) = self.plans.entry(id) {
            let (progress, looked) = (Progress::default(), Looked::default());
            entry.insert(Plan { holder, next: None, line: None, progress, watch, looked });
            self.holders.entry(holder).or_default().insert(id);
            self.schedule(id, now);
        }
    }

    /// It is gone. Says whose it was.
    pub(super) fn remove(&mut self, id: u64) -> Option<u32> {
        self.take_off(id);
        let holder = self.plans.remove(&id)?.holder;
        self.leave_holder(id, holder);
        Some(holder.pid)
    }

    /// It was looked at and has this holder. Where it had another one, so may all the others of that one.
    pub(super) fn see_holder(&mut self, id: u64, holder: Identity, now: BootTime) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        let before = std::mem::replace(&mut plan.holder, holder);
        if before != holder {
            self.leave_holder(id, before);
            self.holders.entry(holder).or_default().insert(id);
            if before.pid != holder.pid {
                self.look_at_all_of(before, now);
            }
        }
    }

    /// Looks a little later at those whose holder is not there any more, whatever else they wait for: somebody else has them.
    pub(super) fn look_after_the_dead(&mut self, now: BootTime, is_there: impl Fn(Identity) -> bool) {
        let dead: Vec<_> = self.holders.keys().filter(|holder| !is_there(**holder)).copied().collect();
        for holder in dead {
            self.look_at_all_of(holder, now.plus(SOON));
        }
    }

    fn look_at_all_of(&mut self, holder: Identity, moment: BootTime) {
        for id in self.holders.get(&holder).cloned().unwrap_or_default() {
            let next = self.plans.get(&id).and_then(|plan| plan.next);
            self.leave_line(id);
            if next.is_none_or(|next| next > moment) && !self.asked.contains(&id) {
                self.schedule(id, moment);
            }
        }
    }

    fn leave_holder(&mut self, id: u64, holder: Identity) {
        if let Some(of) = self.holders.get_mut(&holder) {
            of.remove(&id);
            if of.is_empty() {
                self.holders.remove(&holder);
            }
        }
    }

    /// All are forgotten.
    pub(super) fn clear(&mut self) {
        self.plans.clear();
        self.holders.clear();
        self.queues.clear();
        self.due.clear();
        self.asked.clear();
    }

    pub(super) fn plan(&self, id: u64) -> Option<&Plan> {
        self.plans.get(&id)
    }

    pub(super) fn plan_mut(&mut self, id: u64) -> Option<&mut Plan> {
        self.plans.get_mut(&id)
    }

    /// The holders whose wait calls decide about a remedy that may still come.
    pub(super) fn holders(&self) -> HashSet<u32> {
        self.plans.values().filter(|plan| plan.watch).map(|plan| plan.holder.pid).collect()
    }

    /// Looks at it at `moment`, wherever it stands.
    pub(super) fn schedule(&mut self, id: u64, moment: BootTime) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        if let Some(before) = plan.next.replace(moment) {
            self.due.remove(&(before, Item::Zombie(id)));
        }
        self.due.insert((moment, Item::Zombie(id)));
    }

    /// Looks at it at `moment` if it has only a later one of its own, wherever it stands besides.
    pub(super) fn bring_forward(&mut self, id: u64, moment: BootTime) {
        let waits = |plan: &Plan| plan.next.is_some_and(|next| next > moment);
        if self.plans.get(&id).is_some_and(waits) && !self.asked.contains(&id) {
            self.schedule(id, moment);
        }
    }

    /// Puts it into a queue. One that did not exist has its first moment now.
    pub(super) fn queue(&mut self, id: u64, line: Line, died: BootTime, forked: BootTime, now: BootTime) {
        self.leave_line(id);
        let Some(plan) = self.plans.get_mut(&id) else { return };
        let rank = (died, forked, id);
        plan.line = Some((line, rank));
        self.queues.entry(line).or_default().zombies.insert(rank);
        let is_new = self.queues.get(&line).is_some_and(|queue| queue.zombies.len() == 1);
        if is_new {
            self.put_off(line, Some(now));
        }
    }

    /// The way may be free for a holder's queues at `moment`: something was being done to it.
    pub(super) fn wake(&mut self, holder: Identity, moment: BootTime) {
        for line in self.lines(|(of, _)| *of == holder) {
            self.put_off(line, Some(moment));
        }
    }

    /// Looks at each one of the queues that are meant now, and forgets the queues.
    pub(super) fn dissolve(&mut self, is_meant: impl Fn(&Line) -> bool, now: BootTime) {
        for line in self.lines(is_meant) {
            let zombies = self.queues.get(&line).map(|queue| queue.zombies.clone()).unwrap_or_default();
            for (.., id) in zombies {
                self.leave_line(id);
                self.schedule(id, now);
            }
        }
    }

    /// Where it stands: in which queue, and behind how many.
    pub(super) fn place(&self, id: u64) -> Option<(Line, usize)> {
        let (line, rank) = self.plans.get(&id)?.line?;
        Some((line, self.queues.get(&line)?.zombies.range(..rank).count()))
    }

    /// When there is something to look at next. One look at a time: the rest has to wait for its answers.
    pub(super) fn next(&self) -> Option<BootTime> {
        self.due.first().map(|(moment, _)| *moment).filter(|_| self.asked.is_empty())
    }

    /// Those whose moment has come, and the first of one queue that nothing stands in the way of: that of the oldest. They
    /// are to be looked at.
    pub(super) fn take(&mut self, now: BootTime, obstacle: impl Fn(Line) -> Option<Obstacle>) -> Vec<u64> {
        let (mut ids, mut free) = (Vec::new(), Vec::new());
        while self.asked.is_empty() && ids.len() < LOOKED_AT {
            let Some(entry) = self.due.first().copied().filter(|(moment, _)| *moment <= now) else { break };
            self.due.remove(&entry);
            match entry.1 {
                Item::Zombie(id) => {
                    self.take_off(id);
                    ids.push(id);
                }
                Item::Queue(line) => match obstacle(line) {
                    Some(until) => self.put_off(line, until),
                    None => free.push(line),
                },
            }
        }
        let first = |line: &Line| self.queues.get(line).and_then(|queue| queue.zombies.first().copied());
        let oldest = free.iter().copied().min_by_key(first);
        for line in free {
            // What is left has its turn when it is known what became of these.
            self.put_off(line, Some(now));
        }
        if let Some(queue) = oldest.and_then(|line| self.queues.get(&line)) {
            let first: Vec<_> = queue.zombies.iter().take(AT_ONCE).map(|(.., id)| *id).collect();
            for id in first {
                self.take_off(id);
                ids.push(id);
            }
        }
        self.looks += u64::from(!ids.is_empty());
        self.asked.extend(&ids);
        ids
    }

    /// The number of the latest look.
    pub(super) const fn look(&self) -> u64 {
        self.looks
    }

    /// Whether it is this look's answers that are waited for.
    pub(super) fn is_asking(&self, look: u64) -> bool {
        !self.asked.is_empty() && self.looks == look
    }

    /// All that was asked is answered: what could not be judged by that is asked again a little later.
    pub(super) fn answered(&mut self, judged: impl Iterator<Item = u64>, now: BootTime) {
        for id in judged {
            self.asked.remove(&id);
        }
        self.ask_again(now);
    }

    /// What was asked will not be answered: it is asked again a little later.
    pub(super) fn ask_again(&mut self, now: BootTime) {
        for id in std::mem::take(&mut self.asked) {
            self.schedule(id, now.plus(SOON));
        }
    }

    fn lines(&self, is_meant: impl Fn(&Line) -> bool) -> Vec<Line> {
        self.queues.keys().filter(|line| is_meant(line)).copied().collect()
    }

    fn put_off(&mut self, line: Line, until: Obstacle) {
        let Some(queue) = self.queues.get_mut(&line) else { return };
        if let Some(before) = queue.due {
            self.due.remove(&(before, Item::Queue(line)));
        }
        queue.due = until;
        self.due.extend(until.map(|until| (until, Item::Queue(line))));
    }

    /// It has no moment, and stands nowhere.
    fn take_off(&mut self, id: u64) {
        self.leave_line(id);
        if let Some(before) = self.plans.get_mut(&id).and_then(|plan| plan.next.take()) {
            self.due.remove(&(before, Item::Zombie(id)));
        }
    }

    fn leave_line(&mut self, id: u64) {
        let Some((line, rank)) = self.plans.get_mut(&id).and_then(|plan| plan.line.take()) else { return };
        let Some(queue) = self.queues.get_mut(&line) else { return };
        queue.zombies.remove(&rank);
        if queue.zombies.is_empty() {
            self.put_off(line, None);
            self.queues.remove(&line);
        }
    }
}
