//! The terminal: taken, and given back as it was, however this ends.

use std::{
    env,
    io::{self, IsTerminal as _, Stdout, stdin, stdout},
    mem::ManuallyDrop,
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::Rect,
};
use tokio::sync::{
    Notify,
    mpsc::{Receiver, Sender, channel},
};

use super::{
    super::Failure,
    draw::{self, Drawn, Look},
    key::Key,
    state::State,
};
use crate::{exit_code, report::Page};

/// Keys that wait, at most; who types more has them wait in the terminal.
const KEYS: usize = 64;

/// Whether the terminal is ours and has to be given back. It changes, and is drawn on, by whoever has the lock of standard output.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A thread has panicked.
static PANICKED: Notify = Notify::const_new();

/// What can be drawn on here, or why nothing can.
pub(super) fn look() -> Result<Look, Failure> {
    let instead = "`reaper headroom` and `reaper ls` write the same once";
    if !stdin().is_terminal() || !stdout().is_terminal() {
        let message = format!("a live view takes a terminal for input and output: {instead}");
        return Err(Failure::new(exit_code::UNAVAILABLE, message));
    }
    match env::var_os("TERM") {
        Some(name) if !name.is_empty() && name != "dumb" => Ok(Look { colour: Page::of_stdout().colour }),
        _ => {
            let message = format!(
                "TERM names no terminal whose cursor can be moved: set it (TERM=xterm), or {instead}"
            );
            Err(Failure::new(exit_code::UNAVAILABLE, message))
        }
    }
}

/// The terminal while it is ours. What draws on it is not dropped: it would show the cursor once more, and panic where the terminal
/// and with it standard error is gone.
#[derive(Debug)]
pub(super) struct Screen(ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>);

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let hook = panic::take_hook();
            // What a panic says belongs on the screen where it can be read afterwards.
            panic::set_hook(Box::new(move |panic| {
                give_back();
                hook(panic);
                PANICKED.notify_one();
            }));
        });
        take()?;
        let screen = Terminal::new(CrosstermBackend::new(stdout()));
        screen.map(ManuallyDrop::new).map(Self).inspect_err(|_| give_back())
    }

    /// Draws what has changed, and says what there was room for; `None` where the terminal is not ours any more.
    pub(super) fn draw(&mut self, state: &State, look: Look) -> io::Result<Option<Drawn>> {
        // A thread that panics meanwhile gives it back afterwards, and nothing is drawn on it from then on.
        let _ours = stdout().lock();
        if !TAKEN.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let mut drawn = None;
        self.0.draw(|frame| drawn = Some(draw::draw(frame, state, look, Instant::now())))?;
        Ok(drawn)
    }

    /// Has all of it drawn next time.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // Its `clear` asks the terminal where the cursor is, and whoever reads keys would take the answer.
        let size = self.0.size()?;
        self.0.resize(Rect::new(0, 0, size.width, size.height))
    }

    /// Takes it again: it was given back, or whoever stopped this program has changed it.
    pub(super) fn retake(&mut self) -> io::Result<()> {
        give_back();
        take()?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    let _ours = stdout().lock();
    TAKEN.store(true, Ordering::SeqCst);
    let taken = enable_raw_mode().and_then(|()| execute!(stdout(), EnterAlternateScreen, Hide));
    taken.inspect_err(|_| give_back())
}

/// Gives the terminal back, once. Where it is gone there is nothing to give back, and nobody to tell.
pub(super) fn give_back() {
    // Who panics while drawing has this lock already, and may have it once more.
    let _ours = stdout().lock();
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _shown = execute!(stdout(), LeaveAlternateScreen, Show);
        let _cooked = disable_raw_mode();
    }
}

/// Waits until a thread has panicked. It has said so itself, on the terminal that was given back.
pub(super) async fn panicked() {
    PANICKED.notified().await;
}

/// What comes from the terminal and when: keys, and `None` for another size.
pub(super) type Keys = Receiver<(Instant, io::Result<Option<Key>>)>;

/// Reads the terminal, in a thread that ends with the program.
pub(super) fn keys() -> io::Result<Keys> {
    let (sender, keys) = channel(KEYS);
    thread::Builder::new().name("keys".to_owned()).spawn(move || read(&sender))?;
    Ok(keys)
}

fn read(keys: &Sender<(Instant, io::Result<Option<Key>>)>) {
    loop {
        let event = event::read().map(|event| Key::of(&event));
        let failed = event.is_err();
        if keys.blocking_send((Instant::now(), event)).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
