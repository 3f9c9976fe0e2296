//! Remedies: when each reported zombie is looked at for one, what is under way, and what came of it. The moments are those at
//! which a step can be due, or a limit ends; nothing is polled.

mod agenda;
mod backoff;
mod deaths;
mod deeds;
mod look;
mod orders;
mod outlook;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use tokio::sync::mpsc;

pub(crate) use self::look::waited;
use self::{agenda::Agenda, backoff::Backoff, deaths::Deaths, deeds::Underway, orders::Found};
use super::{RemedyCounts, WatchError};
use crate::{
    identity::{BootTime, Identity},
    policy::{Policy, Terms},
    proc::Proc,
    remedy::{Deed, Guard, Hand, Remedy},
    report::{BreakerEvent, Event, Outbox, RemedyEvent},
};

/// Zombies that one act is about, at most.
pub(super) const AT_ONCE: usize = 256;

/// What could not be done now is tried again after this.
const SOON: Duration = Duration::from_secs(1);

/// Refusals that are remembered as said.
const SAID: usize = 16_384;

/// What has been said of a holder: by which rule, of which remedy.
type Said = (Identity, usize, Remedy);

/// What has become of an order.
#[derive(Debug)]
pub(super) enum News {
    /// The hand has done it, or has not.
    Done(Deed),
    /// Its holder has ended.
    HolderDied,
}

/// All of it.
pub(super) struct Remedies {
    policy: Policy,
    guard: Guard,
    proc: Proc,
    directory: PathBuf,
    hand: Option<Hand>,
    deeds: mpsc::UnboundedReceiver<(u64, Deed)>,
    agenda: Agenda,
    /// What was decided about those that were looked at, until the last of them was.
    found: Vec<Found>,
    said: HashMap<Said, &'static str>,
    underway: HashMap<u64, Underway>,
    deaths: Deaths,
    backoff: Backoff,
    /// Holders that need no second `autoreap`.
    autoreaping: HashSet<Identity>,
    /// Breakers that have opened, and until when they are.
    open: Vec<(BootTime, BreakerEvent)>,
    orders: u64,
    /// What was told of them.
    counts: RemedyCounts,
}

impl Remedies {
    /// With these rules; it decides, and has no hand yet. `directory` is where the lock of remedies is.
    fn idle(terms: Terms, proc: Proc, directory: PathBuf) -> Self {
        let (_, deeds) = mpsc::unbounded_channel();
        Self {
            policy: Policy::new(terms),
            guard: Guard::default(),
            proc,
            directory,
            hand: None,
            deeds,
            agenda: Agenda::default(),
            found: Vec::new(),
            said: HashMap::new(),
            underway: HashMap::new(),
            deaths: Deaths::default(),
            backoff: Backoff::default(),
            autoreaping: HashSet::new(),
            open: Vec::new(),
            orders: 0,
            counts: RemedyCounts::default(),
        }
    }

    /// With these rules. `directory` is where the lock of remedies is.
    pub(super) fn new(terms: Terms, proc: Proc, directory: PathBuf) -> Result<Self, WatchError> {
        let mut this = Self::idle(terms, proc, directory);
        // Even without a rule: what an upgrade replaces before there is one stays protected.
        this.guard.record(std::path::Path::new("/"));
        this.start_hand()?;
        Ok(this)
    }

    /// Takes other rules, with all breakers closed and nothing given back of the limits: every zombie is looked at by them, see
    /// [`Self::add`]. What the hand has not begun is taken back; what it is doing is done.
    pub(super) fn take_terms(&mut self, terms: Terms) -> Result<(), WatchError> {
        self.forget_rules(terms);
        self.start_hand()
    }

    fn forget_rules(&mut self, terms: Terms) {
        self.policy.take_terms(terms);
        self.agenda.clear();
        self.found.clear();
        self.said.clear();
        self.open.clear();
        self.autoreaping.clear();
        self.backoff.clear();
        for underway in self.underway.values_mut() {
            underway.outlive_its_rule();
            underway.withdraw();
        }
    }

    fn start_hand(&mut self) -> Result<(), WatchError> {
        if self.policy.acts() && self.hand.is_none() {
            let (sender, deeds) = mpsc::unbounded_channel();
            let hand = Hand::start(self.proc.clone(), self.directory.clone(), sender)
                .map_err(|error| WatchError::System("starting the thread that applies remedies", error))?;
            (self.hand, self.deeds) = (Some(hand), deeds);
        }
        Ok(())
    }

    /// Says that a remedy was applied, refused or only thought of.
    fn tell(&mut self, event: RemedyEvent, outbox: &mut Outbox) {
        self.counts[event.remedy as usize][event.outcome as usize] += 1;
        outbox.send(Event::Remedy(Box::new(event)));
    }

    /// What was told of them, by [`Remedy::ALL`] and [`Outcome::ALL`](crate::report::Outcome::ALL).
    pub(super) const fn counts(&self) -> &RemedyCounts {
        &self.counts
    }

    pub(super) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What has become of an order; waits for it. For ever where nothing is ever done.
    pub(super) async fn news(&mut self) -> (u64, News) {
        let Self { deeds, deaths, .. } = self;
        tokio::select! {
            // What was done is known before what came of it.
            biased;
            Some((number, deed)) = deeds.recv() => (number, News::Done(deed)),
            number = deaths.next() => (number, News::HolderDied),
        }
    }

    /// A zombie has been reported: it is looked at now, if there is anything to be done about zombies.
    pub(super) fn add(&mut self, id: u64, holder: Identity, now: BootTime) {
        if self.policy.acts() {
            self.agenda.add(id, holder, self.policy.reaps(), now);
        }
    }

    /// Of these so little is left that a step may come sooner: they are looked at now.
    pub(super) fn bring_forward(&mut self, ids: &[u64], now: BootTime) {
        for id in ids {
            self.agenda.bring_forward(*id, now);
        }
    }

    /// A zombie is gone. True where something was being done about it.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        if let Some(holder) = self.agenda.remove(id) {
            for underway in self.underway.values_mut() {
                underway.see_gone(id, holder);
            }
        }
        self.underway.values().any(|underway| underway.is_about(id))
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<BootTime> {
        let effect = self.underway.values().filter_map(Underway::due).min();
        [self.agenda.next(), effect].into_iter().flatten().min()
    }

    /// The holders whose wait calls decide about a remedy that may still come.
    pub(super) fn holders(&self) -> HashSet<u32> {
        self.agenda.holders()
    }

    /// The circuit breakers that are open.
    pub(super) fn open_breakers(&self, now: BootTime) -> Vec<BreakerEvent> {
        self.open.iter().filter(|(until, _)| *until > now).map(|(_, event)| event.clone()).collect()
    }

    /// What was asked will not be answered: it is asked again a little later.
    pub(super) fn ask_again(&mut self, now: BootTime) {
        self.found.clear();
        self.agenda.ask_again(now);
    }
}

#[cfg(test)]
mod tests;
