//! Asks one runtime about one workload after the other. A runtime that does not answer is left alone for ever longer, and nothing
//! but its own names waits for it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep_until, timeout},
};

use super::{Engine, Key, Unanswered, cache::Cache};
use crate::text::Untrusted;

/// How long all that is to be asked about one workload may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// After the first failure it is left alone for this long, after each further one for twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// But not for longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A wrong answer is about one workload, and is no reason not to ask about others. After wrong ones about so many, with no good one
/// between them, it is the runtime that is out of order, and is not asked again about all of them at once.
const WRONG_ABOUT: usize = 8;

/// Of wrong answers the log has one in this time. The counter has all.
const COMPLAINTS_APART: Duration = Duration::from_secs(60);

/// Works until nobody can ask any more.
pub(super) async fn work(engine: impl Engine, place: usize, cache: Arc<Cache>, mut asked: Receiver<Key>) {
    let mut worker = Worker {
        engine,
        place,
        cache,
        waiting: Vec::new(),
        pause: None,
        answered: false,
        wrong: HashSet::new(),
        complained: None,
    };
    loop {
        let next = worker.next();
        let wake = async {
            match next {
                Some(then) => sleep_until(then).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            key = asked.recv() => match key {
                Some(key) => worker.take(key).await,
                None => return,
            },
            () = wake => worker.ask_again().await,
        }
    }
}

struct Worker<E> {
    engine: E,
    place: usize,
    cache: Arc<Cache>,
    /// What there was no answer to, or no good one.
    waiting: Vec<Waiting>,
    /// It is left alone.
    pause: Option<Pause>,
    /// It has answered before.
    answered: bool,
    /// What its answers were wrong about since the last good one; [`WRONG_ABOUT`] of it at most.
    wrong: HashSet<Key>,
    complained: Option<Instant>,
}

/// What is asked again.
struct Waiting {
    key: Key,
    /// Not before this,
    until: Instant,
    /// which was so long after the latest wrong answer about it; none where there was none.
    lasts: Duration,
}

struct Pause {
    until: Instant,
    lasts: Duration,
    why: Unanswered,
}

impl<E: Engine> Worker<E> {
    /// When the next of those that wait is due.
    fn next(&self) -> Option<Instant> {
        let first = self.waiting.iter().map(|waiting| waiting.until).min()?;
        Some(self.pause.as_ref().map_or(first, |pause| pause.until.max(first)))
    }

    async fn take(&mut self, key: Key) {
        let new = Waiting { key, until: Instant::now(), lasts: Duration::ZERO };
        match &self.pause {
            // Where there is no socket, looking for it costs nothing; and what is asked once does no harm where there are answers.
            Some(pause)
                if !matches!(pause.why, Unanswered::Absent | Unanswered::Wrong(_))
                    && pause.until > Instant::now() =>
            {
                self.cache.answer(&new.key, self.place, Err(&pause.why));
                self.waiting.push(new);
            }
            _ => self.ask(new).await,
        }
    }

    /// Asks about the one that has been due longest: they take turns, so that none which its runtime answers wrongly about, or
    /// never, stands in the way of others.
    async fn ask_again(&mut self) {
        let now = Instant::now();
        let due = self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.until <= now);
        let Some((first, _)) = due.min_by_key(|(_, waiting)| waiting.until) else { return };
        let waiting = self.waiting.remove(first);
        if self.cache.wants(&waiting.key, self.place, std::time::Instant::now()) {
            self.ask(waiting).await;
        } else {
            self.cache.let_go(&waiting.key, self.place);
        }
    }

    async fn ask(&mut self, waiting: Waiting) {
        let asked = timeout(PATIENCE, self.engine.look_up(&waiting.key)).await;
        match asked.unwrap_or(Err(Unanswered::TimedOut)) {
            Ok(found) => {
                tracing::debug!(key = ?waiting.key, known = found.is_some(), "a runtime has answered");
                let lacks = found.as_ref().and_then(|answer| answer.lacks.clone());
                self.cache.answer(&waiting.key, self.place, Ok(found));
                self.wrong.clear();
                self.answers();
                match lacks {
                    Some(why) => self.is_wrong(waiting, &why),
                    None => self.cache.count(self.place, |outcomes| &mut outcomes.answered),
                }
            }
            Err(Unanswered::Wrong(why)) => {
                if self.wrong.len() < WRONG_ABOUT {
                    self.wrong.insert(waiting.key.clone());
                }
                self.cache.answer(&waiting.key, self.place, Err(&Unanswered::Wrong(why.clone())));
                self.is_wrong(waiting, &why);
                if self.wrong.len() < WRONG_ABOUT {
                    self.answers();
                } else {
                    self.leave_alone(Unanswered::Wrong(why));
                }
            }
            Err(why) => {
                if !matches!(why, Unanswered::Absent) {
                    self.cache.count(self.place, |outcomes| &mut outcomes.failed);
                }
                self.cache.answer(&waiting.key, self.place, Err(&why));
                // Behind all others that wait: one that is never answered does not stand in their way.
                self.waiting.push(Waiting { until: Instant::now(), ..waiting });
                self.leave_alone(why);
            }
        }
    }

    /// Whatever it says, it is there.
    fn answers(&mut self) {
        if self.pause.take().is_some_and(|pause| self.is_news(&pause.why)) {
            tracing::info!(socket = %self.socket(), "answers again: names of its workloads are known from now on");
        }
        self.answered = true;
    }

    fn leave_alone(&mut self, why: Unanswered) {
        let now = Instant::now();
        let absent = |why: &Unanswered| matches!(why, Unanswered::Absent);
        let was_absent = self.pause.as_ref().is_some_and(|pause| absent(&pause.why));
        // There is a socket by now, and that is all.
        let appeared = was_absent && !absent(&why);
        let lasts = match &self.pause {
            // It was asked all the same: that says nothing new.
            Some(pause) if pause.until > now && !appeared => return,
            Some(pause) if !appeared => (pause.lasts * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        if (self.pause.is_none() || appeared) && self.is_news(&why) {
            tracing::warn!(socket = %self.socket(), "names of its workloads are not known until it answers: {why}");
        }
        self.pause = Some(Pause { until: now + lasts, lasts, why });
    }

    /// An answer is of no use, or lacks something: that is said, and it is asked for again.
    fn is_wrong(&mut self, waiting: Waiting, why: &Untrusted) {
        self.cache.count(self.place, |outcomes| &mut outcomes.wrong);
        let now = Instant::now();
        let Waiting { key, until: _, lasts } = waiting;
        if self.complained.is_none_or(|then| now.duration_since(then) >= COMPLAINTS_APART) {
            self.complained = Some(now);
            tracing::warn!(
                socket = %self.socket(),
                "what it says of {} is wrong: that one is without names, or a part of them, until it says better: {why}",
                key.as_str()
            );
        } else {
            tracing::debug!(socket = %self.socket(), ?key, "a wrong answer: {why}");
        }
        let lasts = if lasts.is_zero() { FIRST_PAUSE } else { (lasts * 2).min(LONGEST_PAUSE) };
        self.waiting.push(Waiting { key, until: now + lasts, lasts });
    }

    /// That there is no such runtime on a machine is no news, that it is gone is.
    const fn is_news(&self, why: &Unanswered) -> bool {
        self.answered || !matches!(why, Unanswered::Absent)
    }

    fn socket(&self) -> Untrusted {
        use std::os::unix::ffi::OsStrExt as _;
        Untrusted::new(self.engine.socket().as_os_str().as_bytes())
    }
}
