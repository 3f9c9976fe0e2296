//! Asking the daemon again and again, in a thread of its own: an answer may take as long as it takes, and the view goes on meanwhile.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::Sender;

use crate::{
    control::{self, ControlError},
    report::{HeadroomEvent, ZombieEvent},
    text::Untrusted,
};

/// The daemon is busy with the answers for one part in so many of the time, at most.
const REST: u32 = 10;

/// What is asked for: what is shown, and no more, for each zombie of a list is looked at anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// How workloads stand to their limits.
    Workloads,
    /// That, and each zombie of this cgroup and below it; of the machine where it is not known.
    Zombies(Option<Untrusted>),
}

/// What the daemon says.
#[derive(Debug)]
pub(super) struct Answer {
    /// When it was asked: what is shown is so old.
    pub(super) asked: Instant,
    /// A row for each workload that has zombies.
    pub(super) workloads: Vec<HeadroomEvent>,
    /// Each zombie; `None` where it was not asked for.
    pub(super) zombies: Option<Vec<ZombieEvent>>,
}

/// An answer, or why there is none.
pub(super) type Asked = Result<Answer, ControlError>;

/// Asks once, and waits for the answer.
pub(super) fn ask(question: &Question) -> Asked {
    let (asked, socket) = (Instant::now(), control::socket());
    let workloads = control::headroom(&socket, None)?;
    let zombies = match question {
        Question::Workloads => None,
        Question::Zombies(Some(cgroup)) => Some(control::zombies_in(&socket, cgroup.as_str())?.zombies),
        Question::Zombies(None) => Some(control::zombies(&socket)?.zombies),
    };
    Ok(Answer { asked, workloads, zombies })
}

/// The thread that asks.
#[derive(Debug)]
pub(super) struct Asker {
    question: Question,
    questions: mpsc::Sender<Question>,
}

impl Asker {
    /// Asks this every so often from one interval on, until it is dropped. Whoever listens no more ends it, too.
    pub(super) fn start(question: Question, interval: Duration, answers: Sender<Asked>) -> io::Result<Self> {
        let (questions, wanted) = mpsc::channel();
        let first = question.clone();
        thread::Builder::new()
            .name("asker".to_owned())
            .spawn(move || work(first, interval, &wanted, &answers))?;
        Ok(Self { question, questions })
    }

    /// Asks this from now on; at once where it is another question than before.
    pub(super) fn want(&mut self, question: Question) {
        if question != self.question {
            self.question = question.clone();
            // A thread that has ended is noticed by the end of its answers.
            let _ended = self.questions.send(question);
        }
    }
}

fn work(mut question: Question, interval: Duration, wanted: &Receiver<Question>, answers: &Sender<Asked>) {
    let (mut next, mut freely) = (Instant::now() + interval, Instant::now());
    loop {
        match wanted.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(other) => {
                // Who opens one after another has it busy half of the time, at most.
                thread::sleep(freely.saturating_duration_since(Instant::now()));
                question = wanted.try_iter().last().unwrap_or(other);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let begun = Instant::now();
        let asked = ask(&question);
        freely = begun + begun.elapsed() * 2;
        // One that does not answer is not busy with that.
        next =
            if asked.is_ok() { begun + pause(begun.elapsed(), interval) } else { Instant::now() + interval };
        if answers.blocking_send(asked).is_err() {
            return;
        }
    }
}

/// From the beginning of a question to the next: whole intervals, so that those that an answer takes are left out, and at least
/// [`REST`] times as long as it took, so that the daemon is not kept busy by who watches it.
fn pause(took: Duration, interval: Duration) -> Duration {
    let mut pause = interval;
    while pause < took.saturating_mul(REST) {
        pause += interval;
    }
    pause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_costs_beats_and_not_the_daemon() {
        let second = Duration::from_secs(1);
        for (took, beats) in [(0, 1), (30, 1), (100, 1), (101, 2), (1_200, 12), (10_000, 100)] {
            assert_eq!(pause(Duration::from_millis(took), second), second * beats, "{took} ms");
        }
    }
}
