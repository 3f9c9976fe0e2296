//! The harmlessness matrix: a holder that checks itself is made to wait for its zombies in every state in which a program can
//! rest, and must not notice.
//!
//! The holder is `holder/`, a C program; what it says of each round is held against what the kernel promises for that state.
//! [`checks`] shows first that it says nothing wrong when nobody interferes, and finds whatever is wrong; [`controls`] that it
//! finds what reaper's own pieces do when one step is left out.

mod checks;
mod controls;
mod deep;
mod done;
mod hand;
mod holder;
mod kill;
mod loads;
mod matrix;
mod programs;
mod races;
mod round;
mod running;
mod seccomp;
mod states;
mod stopped;
mod tally;

use std::sync::{Mutex, PoisonError, mpsc};

/// Does something with each of these, so many at a time, and returns what came of it in their order.
fn each<T: Send, R: Send>(at_once: usize, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.into_iter().enumerate());
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            let (queue, work, sender) = (&queue, &work, sender.clone());
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((place, item)) = next else { return };
                    sender.send((place, work(item))).unwrap();
                }
            });
        }
    });
    drop(sender);
    let mut results: Vec<_> = results.into_iter().collect();
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}
