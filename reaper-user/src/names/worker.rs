//! Asks one runtime about one workload after the other. A runtime that does not answer is left alone for ever longer, and nothing
//! but its own names waits for it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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

/// Works until nobody can ask any more.
pub(super) async fn work(engine: impl Engine, place: usize, cache: Arc<Cache>, mut asked: Receiver<Key>) {
    let mut worker = Worker { engine, place, cache, waiting: VecDeque::new(), pause: None, answered: false };
    loop {
        let retry = worker.pause.as_ref().filter(|_| !worker.waiting.is_empty()).map(|pause| pause.until);
        let wake = async {
            match retry {
                Some(then) => sleep_until(then).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            key = asked.recv() => match key {
                Some(key) => worker.take(key).await,
                None => return,
            },
            () = wake => worker.go_through().await,
        }
    }
}

struct Worker<E> {
    engine: E,
    place: usize,
    cache: Arc<Cache>,
    /// What there was no answer to.
    waiting: VecDeque<Key>,
    pause: Option<Pause>,
    /// It has answered before.
    answered: bool,
}

struct Pause {
    until: Instant,
    lasts: Duration,
    why: Unanswered,
}

impl<E: Engine> Worker<E> {
    async fn take(&mut self, key: Key) {
        match &self.pause {
            // Where there is no socket, looking for it costs nothing.
            Some(pause) if !matches!(pause.why, Unanswered::Absent) && pause.until > Instant::now() => {
                self.cache.answer(&key, self.place, Err(&pause.why));
                self.waiting.push_back(key);
            }
            _ => {
                self.ask(key).await;
            }
        }
    }

    /// Asks again about all that there was no answer to, until one fails.
    async fn go_through(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(key) = self.waiting.pop_front() else { return };
            if !self.cache.wants(&key, self.place, std::time::Instant::now()) {
                self.cache.let_go(&key);
            } else if !self.ask(key).await {
                return;
            }
        }
    }

    /// False where there was no answer.
    async fn ask(&mut self, key: Key) -> bool {
        let asked = timeout(PATIENCE, self.engine.look_up(&key)).await;
        match asked.unwrap_or(Err(Unanswered::TimedOut)) {
            Ok(found) => {
                tracing::debug!(?key, known = found.is_some(), "a runtime has answered");
                self.cache.answer(&key, self.place, Ok(found));
                if self.pause.take().is_some_and(|pause| self.is_news(&pause.why)) {
                    tracing::info!(socket = %self.socket(), "answers again: names of its workloads are known from now on");
                }
                self.answered = true;
                true
            }
            Err(why) => {
                self.cache.answer(&key, self.place, Err(&why));
                self.waiting.push_back(key);
                let lasts =
                    self.pause.as_ref().map_or(FIRST_PAUSE, |pause| (pause.lasts * 2).min(LONGEST_PAUSE));
                if self.pause.is_none() && self.is_news(&why) {
                    tracing::warn!(
                        socket = %self.socket(),
                        "names of its workloads are not known until it answers: {why}"
                    );
                }
                self.pause = Some(Pause { until: Instant::now() + lasts, lasts, why });
                false
            }
        }
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
