//! `reaper top`: workloads live in the terminal, from the running daemon. One way round: what the daemon says and what is typed change
//! the [`state`], and [`draw`] makes a picture of that. [`ask`] and [`screen`] know the world, the others do not.

mod ask;
mod cursor;
mod draw;
#[cfg(test)]
mod fixture;
mod groups;
mod key;
mod pane;
mod reaping;
mod screen;
mod sort;
mod state;
#[cfg(test)]
mod tests;

use std::{
    io,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{Receiver, Sender, channel},
    time::{MissedTickBehavior, interval},
};

use self::{
    ask::{Answer, Asked, Asker, Question},
    draw::Look,
    reaping::{Order, Said},
    screen::{Keys, Screen},
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
    let mut ends = Ends::new().map_err(unable)?;
    let (sender, mut answers) = channel(1);
    let mut asker = Asker::start(Question::Workloads, settings.interval, sender).map_err(unable)?;
    let (reaped, mut said) = channel(1);
    let mut state = State::new(settings, first);
    let mut screen = Screen::take().map_err(unable)?;
    let mut keys = screen::keys().map_err(unable)?;
    let mut again = interval(DRAWN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen.draw(&state, look).map_err(written)?;
        state.was_drawn(Instant::now());
        let act = tokio::select! {
            () = ends.come() => Some(Act::Leave),
            act = typed(&mut keys, &mut state) => act.map_err(written)?,
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
        };
        match act {
            None => {}
            Some(Act::Leave) => {
                drop(screen);
                return state.reaping().map_or(Ok(exit_code::OK), left_alone);
            }
            Some(Act::Redraw) => screen.clear().map_err(written)?,
            Some(Act::Try(order)) => begin(&mut state, order, false, &reaped),
            Some(Act::Reap(order)) => begin(&mut state, order, true, &reaped),
        }
        asker.want(state.question());
    }
}

/// What has been begun goes to its end without the view.
fn left_alone(order: &Order) -> Result<u8, Failure> {
    writeln!(io::stderr(), "reaper: {} goes on, and what comes of it is not shown", order.command())
        .map_err(written)?;
    Ok(exit_code::OK)
}

/// A thread that panicked has said so; without it nothing would be new any more.
async fn heard(answers: &mut Receiver<Asked>) -> Result<Asked, Failure> {
    let ended =
        || Failure::new(exit_code::UNAVAILABLE, "the thread that asks the daemon has ended".to_owned());
    answers.recv().await.ok_or_else(ended)
}

/// What a key asks for. Where nobody can type any more, the view is left.
async fn typed(keys: &mut Keys, state: &mut State) -> io::Result<Option<Act>> {
    match keys.recv().await {
        Some((at, key)) => Ok(key?.and_then(|key| state.press(key, at))),
        None => Ok(Some(Act::Leave)),
    }
}

/// Looks what would be done, or does it, in a thread: it takes its time. Where threads are what is short, that is said, and the view stays.
fn begin(state: &mut State, order: Order, is_done: bool, said: &Sender<Said>) {
    let (said, again) = (said.clone(), order.clone());
    let how = if is_done { Order::carry_out } else { Order::attempt };
    // Who has left meanwhile is not told.
    let work = move || drop(said.blocking_send(how(order)));
    if let Err(error) = thread::Builder::new().name("reaping".to_owned()).spawn(work) {
        state.hear(again.failed(is_done, &error));
    }
}

/// The signals that end the view as q does.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        Ok(Self([signal(terminate)?, signal(interrupt)?, signal(hangup)?]))
    }

    async fn come(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
