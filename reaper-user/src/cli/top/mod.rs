//! `reaper top`: workloads live in the terminal, from the running daemon. One way round: what the daemon says and what is typed change
//! the [`state`], and [`draw`] makes a picture of that. [`ask`] and [`screen`] know the world, the others do not.

mod ask;
mod cursor;
mod draw;
mod filter;
#[cfg(test)]
mod fixture;
mod groups;
mod key;
mod pane;
mod press;
mod reaping;
mod screen;
mod signals;
mod sort;
mod state;
#[cfg(test)]
mod tests;
mod whole;

use std::{
    io,
    io::Write as _,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{MissedTickBehavior, interval},
};

use self::{
    ask::{Answer, Asked, Asker, Question},
    draw::Look,
    reaping::{Order, Said},
    screen::{Keys, Screen},
    signals::{Come, Signals},
    state::{Act, Settings, State},
};
use super::{Failure, args::TopArgs, written};
use crate::{config::Output, control::ControlError, exit_code};

/// So often it is drawn at least: what is said to be so old grows older.
const DRAWN: Duration = Duration::from_millis(500);

/// Shows it until it is left.
pub(super) fn run(args: &TopArgs, output: Option<Output>) -> Result<u8, Failure> {
    if output == Some(Output::Json) {
        let message = "a live view is not for programs: `reaper headroom --output json` says the same once";
        return Err(Failure::new(exit_code::USAGE, message.to_owned()));
    }
    let look = screen::look()?;
    let first = ask::ask(&Question::Workloads).map_err(|error| match error {
        ControlError::NoDaemon(_) => Failure::new(
            exit_code::UNAVAILABLE,
            format!("{error}: start `reaper run`, or look once without it: `reaper headroom`, `reaper ls`"),
        ),
        error => error.into(),
    })?;
    let settings = Settings { interval: args.interval.0, allow_remedies: args.allow_remedies };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unable)?;
    let left = runtime.block_on(show(settings, first, look));
    // The threads that ask and read keys end with the program.
    runtime.shutdown_background();
    left
}

#[expect(clippy::needless_pass_by_value, reason = "made to be handed to map_err")]
fn unable(error: io::Error) -> Failure {
    Failure::new(exit_code::UNAVAILABLE, format!("the view could not be started: {error}"))
}

async fn show(settings: Settings, first: Answer, look: Look) -> Result<u8, Failure> {
    let mut state = State::new(settings, first);
    let left = watch(&mut state, look).await;
    // However the view has ended, what has been begun goes to its end without it.
    if let Some(order) = state.reaping() {
        let said =
            writeln!(io::stderr(), "reaper: {} goes on, and what comes of it is not shown", order.command());
        left.and(said.map_err(written))?;
        return Ok(exit_code::OK);
    }
    left.map(|()| exit_code::OK)
}

/// Until it is left, or something fails. The terminal is taken, and given back.
async fn watch(state: &mut State, look: Look) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(unable)?;
    let (sender, mut answers) = channel(1);
    let mut asker = Asker::start(Question::Workloads, state.settings.interval, sender).map_err(unable)?;
    let (reaped, mut said) = channel(1);
    let mut screen = Screen::take().map_err(unable)?;
    let mut keys = screen::keys().map_err(unable)?;
    let mut again = interval(DRAWN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some(drawn) = screen.draw(state, look).map_err(written)? {
            state.was_drawn(Instant::now(), drawn);
        }
        let act = tokio::select! {
            biased;
            () = screen::panicked() => return Err(fault()),
            come = signals.come() => Some(match come {
                Come::End => Act::Leave,
                Come::Stop => {
                    screen::give_back();
                    signals.stop().await.map_err(unable)?;
                    screen.retake().map_err(written)?;
                    continue;
                }
                // Whoever had the terminal meanwhile has left it as it likes it.
                Come::GoOn => {
                    screen.retake().map_err(written)?;
                    continue;
                }
            }),
            asked = heard(&mut answers) => {
                state.take(asked?);
                None
            }
            said = said.recv() => {
                // It cannot end: this function has one of its beginnings.
                said.into_iter().for_each(|said| state.hear(said));
                None
            }
            _ = again.tick() => None,
            // The last: who holds a key down keeps nothing else from coming.
            act = typed(&mut keys, state) => act?,
        };
        match act {
            None => {}
            Some(Act::Leave) => return Ok(()),
            Some(Act::Suspend) => signals::suspend().map_err(unable)?,
            Some(Act::Redraw) => screen.clear().map_err(written)?,
            Some(Act::Try(order)) => begin(state, order, false, &reaped),
            Some(Act::Reap(order)) => begin(state, order, true, &reaped),
        }
        asker.want(state.question());
    }
}

fn fault() -> Failure {
    Failure::new(exit_code::UNAVAILABLE, "the view has ended by a fault of its own, told above".to_owned())
}

/// What the daemon says.
async fn heard(answers: &mut Receiver<Asked>) -> Result<Asked, Failure> {
    // A thread that has ended has panicked.
    answers.recv().await.ok_or_else(fault)
}

/// What a key asks for. Where nobody can type any more, the view is left.
async fn typed(keys: &mut Keys, state: &mut State) -> Result<Option<Act>, Failure> {
    let unreadable = |error| Failure::new(exit_code::UNAVAILABLE, format!("reading the terminal: {error}"));
    match keys.recv().await {
        Some((at, key)) => Ok(key.map_err(unreadable)?.and_then(|key| state.press(key, at))),
        None => Ok(Some(Act::Leave)),
    }
}

/// Looks what would be done, or does it, in a thread: it takes its time. Has begun when this returns: whoever leaves the view then is
/// told that it goes on. Where threads are what is short, that is said, and the view stays.
fn begin(state: &mut State, order: Order, is_done: bool, said: &Sender<Said>) {
    let (said, again) = (said.clone(), order.clone());
    let (beginning, has_begun) = mpsc::channel::<()>();
    let work = move || {
        let begun = order.begin(is_done);
        drop(beginning);
        // Who has left meanwhile is not told.
        let _left = said.blocking_send(begun.said());
    };
    match thread::Builder::new().name("reaping".to_owned()).spawn(work) {
        // It says nothing, and hangs up.
        Ok(_) => drop(has_begun.recv()),
        Err(error) => state.hear(again.failed(is_done, &error)),
    }
}
