//! Remedies: when each reported zombie is looked at for one, what is under way, and what came of it. The moments are those at
//! which a step can be due; nothing is polled.

mod deeds;
mod look;
mod outlook;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use tokio::sync::mpsc;

pub(crate) use self::look::waited;
use self::{deeds::Underway, look::Found};
use super::WatchError;
use crate::{
    identity::{BootTime, Identity},
    policy::{Act, Policy, Progress, Refusal, Terms},
    proc::Proc,
    remedy::{Deed, Guard, Hand, Remedy},
    report::BreakerEvent,
};

/// Zombies that one act is about, at most.
pub(super) const AT_ONCE: usize = 256;

/// Zombies that are looked at together, at most.
const LOOKED_AT: usize = 4_096;

/// What could not be done now is tried again after this.
const SOON: Duration = Duration::from_secs(1);

/// Refusals that are remembered as said.
const SAID: usize = 16_384;

/// When a zombie is looked at next, and what it has behind it.
#[derive(Clone, Debug)]
struct Plan {
    /// Its holder's pid, when it was last looked at.
    holder: u32,
    /// `None` while it is looked at, or something is done about it.
    next: Option<BootTime>,
    progress: Progress,
    /// Its holder's wait calls are needed to decide.
    watch: bool,
    looked: Looked,
}

/// What was found when it was last looked at.
#[derive(Clone, Debug, Default)]
struct Looked {
    /// The rule that decides.
    rule: Option<usize>,
    refusals: Vec<(Act, Refusal)>,
}

/// What has been said of a holder: by which rule, of which remedy.
type Said = (Identity, usize, Remedy);

/// All of it.
pub(super) struct Remedies {
    policy: Policy,
    guard: Guard,
    proc: Proc,
    directory: PathBuf,
    hand: Option<Hand>,
    deeds: mpsc::UnboundedReceiver<(u64, Deed)>,
    plans: HashMap<u64, Plan>,
    due: BTreeSet<(BootTime, u64)>,
    /// Those that the observer was asked about, until its last answer.
    asked: HashSet<u64>,
    found: Vec<Found>,
    said: HashMap<Said, &'static str>,
    underway: HashMap<u64, Underway>,
    /// Holders that need no second `autoreap`.
    autoreaping: HashSet<Identity>,
    /// Breakers that have opened, and until when they are.
    open: Vec<(BootTime, BreakerEvent)>,
    orders: u64,
}

impl Remedies {
    /// With these rules. `directory` is where the lock of remedies is.
    pub(super) fn new(terms: Terms, proc: Proc, directory: PathBuf) -> Result<Self, WatchError> {
        let (_, deeds) = mpsc::unbounded_channel();
        let mut this = Self {
            policy: Policy::new(terms.clone()),
            guard: Guard::default(),
            proc,
            directory,
            hand: None,
            deeds,
            plans: HashMap::new(),
            due: BTreeSet::new(),
            asked: HashSet::new(),
            found: Vec::new(),
            said: HashMap::new(),
            underway: HashMap::new(),
            autoreaping: HashSet::new(),
            open: Vec::new(),
            orders: 0,
        };
        // Even without a rule: what an upgrade replaces before there is one stays protected.
        this.guard.record(std::path::Path::new("/"));
        this.take_terms(terms)?;
        Ok(this)
    }

    /// Takes other rules, with all breakers closed. What is under way goes on.
    pub(super) fn take_terms(&mut self, terms: Terms) -> Result<(), WatchError> {
        self.policy = Policy::new(terms);
        self.plans.clear();
        self.due.clear();
        self.found.clear();
        self.said.clear();
        self.open.clear();
        self.autoreaping.clear();
        for underway in self.underway.values_mut() {
            underway.outlive_its_rule();
        }
        if self.policy.acts() && self.hand.is_none() {
            let (sender, deeds) = mpsc::unbounded_channel();
            let hand = Hand::start(self.proc.clone(), self.directory.clone(), sender)
                .map_err(|error| WatchError::System("starting the thread that applies remedies", error))?;
            (self.hand, self.deeds) = (Some(hand), deeds);
        }
        Ok(())
    }

    pub(super) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What was done; waits for it. For ever where nothing is ever done.
    pub(super) async fn deed(&mut self) -> (u64, Deed) {
        match self.deeds.recv().await {
            Some(deed) => deed,
            None => std::future::pending().await,
        }
    }

    /// A zombie has been reported: it is looked at now, if there is anything to be done about zombies.
    pub(super) fn add(&mut self, id: u64, holder: u32, now: BootTime) {
        if self.policy.acts() && !self.plans.contains_key(&id) {
            let (progress, watch) = (Progress::default(), self.policy.reaps());
            self.plans.insert(id, Plan { holder, next: None, progress, watch, looked: Looked::default() });
            self.schedule(id, now);
        }
    }

    /// A zombie is gone. True where something was being done about it.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        if let Some(Plan { next, holder, .. }) = self.plans.remove(&id) {
            if let Some(next) = next {
                self.due.remove(&(next, id));
            }
            for underway in self.underway.values_mut() {
                underway.see_gone(id, holder);
            }
        }
        self.underway.values().any(|underway| underway.is_about(id))
    }

    /// Looks at it at `moment`.
    fn schedule(&mut self, id: u64, moment: BootTime) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        if let Some(before) = plan.next.replace(moment) {
            self.due.remove(&(before, id));
        }
        self.due.insert((moment, id));
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<BootTime> {
        // One look at a time: the rest has to wait for its answers.
        let look = self.due.first().map(|(moment, _)| *moment).filter(|_| self.asked.is_empty());
        let effect = self.underway.values().filter_map(Underway::due).min();
        [look, effect].into_iter().flatten().min()
    }

    /// The holders whose wait calls decide about a remedy that may still come.
    pub(super) fn holders(&self) -> HashSet<u32> {
        self.plans.values().filter(|plan| plan.watch).map(|plan| plan.holder).collect()
    }

    /// The circuit breakers that are open.
    pub(super) fn open_breakers(&self, now: BootTime) -> Vec<BreakerEvent> {
        self.open.iter().filter(|(until, _)| *until > now).map(|(_, event)| event.clone()).collect()
    }

    /// Those that are due at `now`, to be asked about.
    pub(super) fn ask(&mut self, now: BootTime) -> Vec<u64> {
        let mut ids = Vec::new();
        while self.asked.is_empty() && ids.len() < LOOKED_AT {
            match self.due.pop_first() {
                Some((moment, id)) if moment <= now => {
                    if let Some(plan) = self.plans.get_mut(&id) {
                        plan.next = None;
                        ids.push(id);
                    }
                }
                Some(later) => {
                    self.due.insert(later);
                    break;
                }
                None => break,
            }
        }
        self.asked.extend(&ids);
        ids
    }

    /// What was asked will not be answered: it is asked again a little later.
    pub(super) fn ask_again(&mut self, now: BootTime) {
        self.found.clear();
        for id in std::mem::take(&mut self.asked) {
            self.schedule(id, now.plus(SOON));
        }
    }
}
