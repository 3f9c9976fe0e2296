//! What was asked and answered, shared by whoever needs names and those who ask for them. Bounded: where there are more workloads
//! than that, those that were needed least recently give way, and are counted.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Answer, Key, Named, Names, Unanswered};

/// Workloads that are kept.
const ENTRIES: usize = 4_096;

/// Who did not know a workload may know it after this: it was asked while the container was being made.
const ASKED_APART: Duration = Duration::from_secs(60);

/// A workload that nobody needed for this long is not asked for any more.
const NEEDED: Duration = Duration::from_secs(600);

/// What was lost, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workloads that were let go because there were too many, or could not be asked for.
    pub forgotten: u64,
    /// Labels that there was no room for.
    pub labels: u64,
}

/// What became of questions to one who is asked, since the start. Where there is no socket, there is no question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    /// It has said what it calls the workload, or that it does not know it;
    pub(super) answered: u64,
    /// what is wrong, or lacks something;
    pub(super) wrong: u64,
    /// or nothing.
    pub(super) failed: u64,
}

/// Places of those who are asked, a bit each.
pub(super) type Places = u8;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Cache {
    inner: Mutex<Inner>,
    /// Something has changed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    turn: u64,
    counts: Counts,
    outcomes: [Outcomes; Places::BITS as usize],
    /// Who has answered before.
    answered: Places,
}

#[derive(Debug)]
struct Entry {
    names: Option<Arc<Names>>,
    /// Something is not in them: they are asked for again.
    lacks: bool,
    /// All that were asked.
    asked: Places,
    /// Of those, who has not answered,
    waiting: Places,
    /// is not there,
    absent: Places,
    /// or has failed and is tried again.
    failed: Places,
    when: Instant,
    needed: Instant,
    turn: u64,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            names: None,
            lacks: false,
            asked: 0,
            waiting: 0,
            absent: 0,
            failed: 0,
            when: now,
            needed: now,
            turn: 0,
        }
    }

    /// Who has answered before and is not there now comes again. And nobody is asked about a container that a runtime made for
    /// Kubernetes unless that runtime is there: it is only not there *now*.
    fn state(&self, of_pod: bool, answered: Places) -> Named {
        let silent = self.waiting & (!self.absent | answered) != 0;
        match &self.names {
            Some(names) => Named::As(Arc::clone(names)),
            None if silent || self.nobody_is_there() && of_pod => Named::Pending,
            None => Named::Nobody,
        }
    }

    const fn nobody_is_there(&self) -> bool {
        self.asked != 0 && self.absent == self.asked
    }
}

impl Cache {
    /// What is known, and whom to ask now: those in `places` who may know it, where that was not done.
    pub(super) fn of(&self, key: &Key, places: Places, of_pod: bool, now: Instant) -> (Named, Places) {
        let mut inner = self.lock();
        inner.turn += 1;
        let (turn, answered) = (inner.turn, inner.answered);
        if !inner.entries.contains_key(key) {
            inner.make_room();
            inner.entries.insert(key.clone(), Entry::new(now));
        }
        let Some(entry) = inner.entries.get_mut(key) else { return (Named::Nobody, 0) };
        (entry.turn, entry.needed) = (turn, now);
        let again = now.duration_since(entry.when) >= ASKED_APART;
        let mut ask = 0;
        let open = entry.names.is_none() || entry.lacks;
        if open && (entry.asked != places && entry.names.is_none() || entry.waiting == 0 && again) {
            ask = places & !entry.waiting;
            let (names, lacks) = (entry.names.take(), entry.lacks);
            *entry = Entry { names, lacks, asked: places, waiting: places, when: now, ..Entry::new(now) };
            entry.turn = turn;
        }
        (entry.state(of_pod, answered), ask)
    }

    /// Of all who were asked about it, none is there.
    pub(super) fn nobody_is_there(&self, key: &Key) -> bool {
        let inner = self.lock();
        inner
            .entries
            .get(key)
            .is_some_and(|entry| entry.nobody_is_there() && inner.answered & entry.asked == 0)
    }

    /// The names that are known by now.
    pub(super) fn known(&self, key: &Key) -> Named {
        let inner = self.lock();
        let names = inner.entries.get(key).and_then(|entry| entry.names.clone());
        names.map_or(Named::Nobody, Named::As)
    }

    /// It could not be asked for, which is `lost` unless that is tried again anyway.
    pub(super) fn unasked(&self, key: &Key, lost: bool) {
        let mut inner = self.lock();
        inner.let_go(key, Places::MAX);
        inner.counts.forgotten += u64::from(lost);
        drop(inner);
        self.changed.notify_all();
    }

    /// Whether anybody still wants this one's answer.
    pub(super) fn wants(&self, key: &Key, place: usize, now: Instant) -> bool {
        self.lock().entries.get(key).is_some_and(|entry| {
            (entry.names.is_none() || entry.lacks)
                && entry.waiting & bit(place) != 0
                && now.duration_since(entry.needed) < NEEDED
        })
    }

    /// What became of a question.
    pub(super) fn count(&self, place: usize, of: impl FnOnce(&mut Outcomes) -> &mut u64) {
        if let Some(outcomes) = self.lock().outcomes.get_mut(place) {
            *of(outcomes) += 1;
        }
    }

    /// What became of all questions to this one.
    pub(super) fn outcomes(&self, place: usize) -> Outcomes {
        self.lock().outcomes.get(place).copied().unwrap_or_default()
    }

    /// Takes an answer.
    pub(super) fn answer(&self, key: &Key, place: usize, answer: Result<Option<Answer>, &Unanswered>) {
        let mut inner = self.lock();
        if answer.is_ok() {
            inner.answered |= bit(place);
        }
        if let Some(entry) = inner.entries.get_mut(key) {
            let bit = bit(place);
            entry.absent &= !bit;
            let mut labels = 0;
            match answer {
                Ok(found) => {
                    entry.failed &= !bit;
                    entry.waiting &= !bit;
                    if let Some(Answer { names, lacks }) = found {
                        if entry.names.is_none() {
                            labels = names.labels_lost;
                        }
                        entry.lacks = lacks.is_some();
                        // Only whoever knows it can say the rest.
                        entry.waiting = if entry.lacks { bit } else { 0 };
                        entry.names = Some(Arc::new(names));
                    }
                }
                Err(Unanswered::Absent) => entry.absent |= bit,
                Err(Unanswered::Failed(_) | Unanswered::Wrong(_) | Unanswered::TimedOut) => {
                    entry.failed |= bit;
                }
            }
            inner.counts.labels += labels;
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Nobody wants the answer of this one any more: it is asked for anew when somebody does.
    pub(super) fn let_go(&self, key: &Key, place: usize) {
        self.lock().let_go(key, bit(place));
    }

    /// Waits until each of those who were asked has answered, failed or is known not to be there; no longer than `patience`.
    pub(super) fn settle(&self, patience: Duration) {
        let open = |inner: &mut Inner| {
            inner
                .entries
                .values()
                .any(|entry| entry.names.is_none() && entry.waiting & !(entry.absent | entry.failed) != 0)
        };
        // Whether it has timed out makes no difference: what is there by then is there.
        drop(self.changed.wait_timeout_while(self.lock(), patience, open));
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// A thread that panicked has left an entry at worst half told.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn let_go(&mut self, key: &Key, places: Places) {
        match self.entries.get_mut(key) {
            Some(entry) if entry.names.is_some() => entry.waiting &= !places,
            Some(_) => drop(self.entries.remove(key)),
            None => {}
        }
    }

    fn make_room(&mut self) {
        if self.entries.len() < ENTRIES {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.turn).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.entries.remove(&oldest);
            self.counts.forgotten += 1;
        }
    }
}

pub(super) const fn bit(place: usize) -> Places {
    1 << place
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Places = 0b11;

    fn key(number: usize) -> Key {
        Key::Container(format!("{number:064x}"))
    }

    fn names(pod: &str) -> Names {
        Names { pod: Some(pod.into()), ..Names::default() }
    }

    #[test]
    fn a_workload_is_asked_for_once_and_is_pending_until_all_have_answered() {
        let (cache, now) = (Cache::default(), Instant::now());
        assert_eq!(cache.of(&key(1), BOTH, false, now), (Named::Pending, BOTH));
        assert_eq!(cache.of(&key(1), BOTH, false, now), (Named::Pending, 0));
        cache.answer(&key(1), 0, Ok(None));
        assert_eq!(cache.of(&key(1), BOTH, false, now).0, Named::Pending);
        cache.answer(&key(1), 1, Err(&Unanswered::TimedOut));
        assert_eq!(cache.of(&key(1), BOTH, false, now).0, Named::Pending);
        cache.answer(&key(1), 1, Ok(Some(names("a").into())));
        assert_eq!(cache.of(&key(1), BOTH, false, now).0.names().unwrap().pod, Some("a".into()));
        assert!(!cache.wants(&key(1), 0, now), "the answer is there");
    }

    #[test]
    fn who_only_wants_to_know_what_is_known_asks_nobody() {
        let (cache, now) = (Cache::default(), Instant::now());
        assert_eq!(cache.known(&key(1)), Named::Nobody);
        assert!(!cache.wants(&key(1), 0, now));
        assert_eq!(cache.of(&key(1), BOTH, false, now), (Named::Pending, BOTH), "nobody was asked before");
        assert_eq!(cache.known(&key(1)), Named::Nobody);
        cache.answer(&key(1), 0, Ok(Some(names("a").into())));
        assert_eq!(cache.known(&key(1)).names().unwrap().pod, Some("a".into()));
    }

    #[test]
    fn who_is_not_there_is_not_waited_for_unless_somebody_must_have_made_it() {
        let (cache, now) = (Cache::default(), Instant::now());
        for place in 0..2 {
            cache.of(&key(1), BOTH, false, now);
            cache.answer(&key(1), place, Err(&Unanswered::Absent));
        }
        assert_eq!(cache.of(&key(1), BOTH, false, now).0, Named::Nobody, "a container");
        assert_eq!(cache.of(&key(1), BOTH, true, now).0, Named::Pending, "a pod");
        assert!(cache.wants(&key(1), 0, now), "it may come");
        cache.answer(&key(1), 0, Ok(None));
        assert_eq!(cache.of(&key(1), BOTH, true, now).0, Named::Nobody, "one has answered");
    }

    #[test]
    fn who_has_answered_before_and_is_not_there_now_is_waited_for() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.of(&key(1), BOTH, true, now);
        cache.answer(&key(1), 0, Ok(Some(names("a").into())));
        // It is restarted, and the other one does not know what it has made.
        for of_pod in [false, true] {
            let key = key(2 + usize::from(of_pod));
            cache.of(&key, BOTH, of_pod, now);
            cache.answer(&key, 0, Err(&Unanswered::Absent));
            cache.answer(&key, 1, Ok(None));
            assert_eq!(cache.of(&key, BOTH, of_pod, now).0, Named::Pending);
            cache.settle(Duration::from_secs(60));
            cache.answer(&key, 0, Ok(None));
            assert_eq!(cache.of(&key, BOTH, of_pod, now).0, Named::Nobody);
        }
        assert!(now.elapsed() < Duration::from_secs(30), "a command does not wait for it");
    }

    #[test]
    fn what_nobody_knew_is_asked_again_later_and_what_nobody_needs_is_not() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.of(&key(1), 1, false, now);
        assert!(cache.wants(&key(1), 0, now + NEEDED / 2) && !cache.wants(&key(1), 0, now + NEEDED));
        cache.answer(&key(1), 0, Ok(None));
        assert_eq!(cache.of(&key(1), 1, false, now), (Named::Nobody, 0));
        assert_eq!(cache.of(&key(1), 1, false, now + ASKED_APART), (Named::Pending, 1));
    }

    #[test]
    fn names_that_lack_something_are_known_and_asked_for_until_they_are_whole() {
        let (cache, now) = (Cache::default(), Instant::now());
        let lacking =
            || Answer { names: Names { labels_lost: 2, ..names("a") }, lacks: Some("image".into()) };
        cache.of(&key(1), BOTH, false, now);
        cache.answer(&key(1), 0, Ok(Some(lacking())));
        assert_eq!(cache.of(&key(1), BOTH, false, now).0.names().unwrap().pod, Some("a".into()));
        assert!(
            cache.wants(&key(1), 0, now) && !cache.wants(&key(1), 1, now),
            "the other one is not asked again"
        );
        // Nobody needed them for long, and somebody does now.
        cache.let_go(&key(1), 1);
        assert!(cache.wants(&key(1), 0, now), "that of another one is wanted still");
        cache.let_go(&key(1), 0);
        assert!(!cache.wants(&key(1), 0, now));
        let (named, ask) = cache.of(&key(1), BOTH, false, now + ASKED_APART);
        assert!(named.names().is_some() && ask == BOTH, "{named:?} {ask}");
        cache.answer(&key(1), 0, Ok(Some(lacking())));
        cache.answer(&key(1), 0, Ok(Some(names("b").into())));
        assert_eq!(cache.known(&key(1)).names().unwrap().pod, Some("b".into()));
        assert!(!cache.wants(&key(1), 0, now));
        assert_eq!(cache.of(&key(1), BOTH, false, now + 2 * ASKED_APART).1, 0);
        assert_eq!(cache.counts().labels, 2, "once, however often it is asked");
    }

    #[test]
    fn the_least_recently_needed_gives_way_and_is_counted() {
        let (cache, now) = (Cache::default(), Instant::now());
        for number in 0..ENTRIES {
            cache.of(&key(number), 1, false, now);
        }
        cache.of(&key(0), 1, false, now);
        assert_eq!(cache.counts().forgotten, 0);
        cache.of(&key(ENTRIES), 1, false, now);
        assert_eq!(cache.counts().forgotten, 1);
        assert!(cache.wants(&key(0), 0, now) && !cache.wants(&key(1), 0, now));
    }

    #[test]
    fn settling_ends_with_the_last_answer_or_with_patience() {
        let (cache, now) = (Arc::new(Cache::default()), Instant::now());
        cache.of(&key(1), BOTH, false, now);
        cache.answer(&key(1), 0, Err(&Unanswered::TimedOut));
        cache.settle(Duration::from_millis(1));
        let other = Arc::clone(&cache);
        let answering = std::thread::spawn(move || other.answer(&key(1), 1, Err(&Unanswered::Absent)));
        cache.settle(Duration::from_secs(60));
        answering.join().unwrap();
        assert!(now.elapsed() < Duration::from_secs(30));
    }
}
