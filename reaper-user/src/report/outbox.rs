//! The way from the pipeline to the thread that writes. Whoever sends never waits; whoever reads slowly or not at
//! all costs memory up to a bound, then events, which are counted.
//!
//! Below that bound is a reserve: a zombie can be held back in the ledger until there is room
//! ([`Outbox::has_room`]), a release or a loss cannot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::Event;

/// Events that may wait to be written.
const CAPACITY: u64 = 16_384;

/// Of those, the last so many places are for what cannot be held back.
const RESERVE: u64 = 1_024;

/// How far both sides are. Events are numbered from 1.
#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    written: AtomicU64,
    /// Nothing waits any more.
    caught_up: Notify,
}

impl Progress {
    fn waiting(&self) -> u64 {
        // The writer is never ahead, but the two are not read at one moment.
        let written = self.written.load(Relaxed);
        self.sent.load(Relaxed).saturating_sub(written)
    }
}

/// The pipeline's end.
#[derive(Debug)]
pub struct Outbox {
    events: Sender<Event>,
    progress: Arc<Progress>,
    capacity: u64,
    reserve: u64,
    dropped: u64,
    /// The latest event was dropped: that it goes on is not said again.
    dropping: bool,
}

/// The writer's end.
#[derive(Debug)]
pub struct Outgoing {
    events: Receiver<Event>,
    progress: Arc<Progress>,
}

/// How many events wait to be written, for whoever has neither end.
#[derive(Clone, Debug)]
pub struct Backlog(Arc<Progress>);

impl Outbox {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, Outgoing) {
        Self::with_room(CAPACITY, RESERVE)
    }

    fn with_room(capacity: u64, reserve: u64) -> (Self, Outgoing) {
        // Not a bounded channel: that takes its memory at once, and would count what is being written as gone.
        let (sender, receiver) = channel();
        let progress = Arc::new(Progress::default());
        let outgoing = Outgoing { events: receiver, progress: Arc::clone(&progress) };
        (Self { events: sender, progress, capacity, reserve, dropped: 0, dropping: false }, outgoing)
    }

    /// Whether what can wait elsewhere should be sent now. False some way before [`Outbox::send`] fails.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.progress.waiting() < self.capacity - self.reserve
    }

    /// Hands an event to the writer and returns its number, to be held against [`Outbox::written`]; `None` where it
    /// was dropped and counted, because nobody reads the output, or where the writer has ended. Never blocks.
    pub fn send(&mut self, event: Event) -> Option<u64> {
        let waiting = self.progress.waiting();
        // Before it can be written: the writer must never seem to be ahead.
        let number = self.progress.sent.load(Relaxed) + 1;
        if waiting < self.capacity {
            self.progress.sent.store(number, Relaxed);
            if self.events.send(event).is_ok() {
                self.dropping = false;
                return Some(number);
            }
            // There is no writer any more: this is the end.
            self.progress.sent.store(number - 1, Relaxed);
            return None;
        }
        self.dropped += 1;
        if !self.dropping {
            self.dropping = true;
            tracing::error!(waiting, "events are dropped: nobody reads the output");
        }
        None
    }

    /// The number up to which every event has been written and flushed; 0 where none has.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.progress.written.load(Relaxed)
    }

    /// The writer has caught up: everything that was sent is written, or was at some time since this was last awaited.
    pub async fn caught_up(&self) {
        self.progress.caught_up.notified().await;
    }

    /// Events that found no room.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Outgoing {
    /// The next event; waits for it. `None` when the pipeline has ended and all of its events were taken.
    pub fn take(&mut self) -> Option<Event> {
        self.events.recv().ok()
    }

    /// As [`Outgoing::take`], but only until `due`: then it is [`RecvTimeoutError::Timeout`].
    pub fn take_until(&mut self, due: Instant) -> Result<Event, RecvTimeoutError> {
        self.events.recv_timeout(due.saturating_duration_since(Instant::now()))
    }

    /// The event that was taken last is written and flushed.
    pub fn wrote(&mut self) {
        self.progress.written.fetch_add(1, Relaxed);
        // Once for many: whoever is behind has more to write.
        if self.progress.waiting() == 0 {
            self.progress.caught_up.notify_one();
        }
    }

    /// Watches how many events wait.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        Backlog(Arc::clone(&self.progress))
    }
}

impl Backlog {
    /// How many events wait to be written, the one that is being written included.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.0.waiting()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;
    use crate::report::fixture;

    fn event() -> Event {
        fixture::event(&fixture::never_waited())
    }

    #[test]
    fn events_come_in_the_order_of_their_numbers() {
        let (mut outbox, mut outgoing) = Outbox::new();
        assert_eq!((outbox.send(event()), outbox.written()), (Some(1), 0));
        assert_eq!(outbox.send(fixture::released(&fixture::never_waited())), Some(2));
        assert!(matches!(outgoing.take(), Some(Event::Zombie(_))));
        assert_eq!((outbox.written(), outgoing.backlog().waiting()), (0, 2), "taken is not written");
        outgoing.wrote();
        assert_eq!((outbox.written(), outgoing.backlog().waiting()), (1, 1));
        assert!(matches!(outgoing.take(), Some(Event::Released(_))));
        outgoing.wrote();
        assert_eq!(outbox.written(), 2);
        drop(outbox);
        assert_eq!(outgoing.take(), None);
    }

    #[test]
    fn what_can_wait_elsewhere_is_told_so_before_anything_is_dropped() {
        let (mut outbox, mut outgoing) = Outbox::with_room(10, 4);
        for number in 1..=10 {
            assert_eq!(outbox.has_room(), number <= 6, "{number}");
            assert_eq!(outbox.send(event()), Some(number));
        }
        assert_eq!((outbox.send(event()), outbox.send(event()), outbox.dropped()), (None, None, 2));
        // What is being written takes its place until it is written.
        outgoing.take().unwrap();
        assert_eq!(outbox.send(event()), None);
        outgoing.wrote();
        assert_eq!(outbox.send(event()), Some(11), "numbers have no gaps");
        for _ in 0..4 {
            outgoing.take().unwrap();
            outgoing.wrote();
        }
        assert!(!outbox.has_room());
        outgoing.take().unwrap();
        outgoing.wrote();
        assert!(outbox.has_room());
        assert_eq!((outbox.written(), outbox.dropped()), (6, 3));
    }

    #[test]
    fn whoever_sent_hears_once_that_all_of_it_is_written() {
        let (mut outbox, mut outgoing) = Outbox::new();
        let heard = |outbox: &Outbox| {
            pin!(outbox.caught_up()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        for _ in 0..3 {
            outbox.send(event());
        }
        for left in (0..3).rev() {
            assert!(!heard(&outbox), "{left} are left");
            outgoing.take().unwrap();
            outgoing.wrote();
        }
        assert_eq!((heard(&outbox), heard(&outbox)), (true, false));
    }

    #[test]
    fn after_the_writers_end_nothing_is_sent_and_nothing_counted() {
        let (mut outbox, outgoing) = Outbox::new();
        drop(outgoing);
        assert_eq!((outbox.send(event()), outbox.dropped(), outbox.written()), (None, 0, 0));
        assert!(outbox.has_room());
    }
}
