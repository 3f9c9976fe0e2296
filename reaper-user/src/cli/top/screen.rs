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
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    super::Failure,
    draw::{self, Look},
    key::Key,
    state::State,
};
use crate::{exit_code, report::Page};

/// Keys that wait, at most; who types more has them wait in the terminal.
const KEYS: usize = 64;

/// Whether the terminal is ours and has to be given back.
static TAKEN: AtomicBool = AtomicBool::new(false);

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
            }));
        });
        TAKEN.store(true, Ordering::SeqCst);
        let taken = enable_raw_mode()
            .and_then(|()| execute!(stdout(), EnterAlternateScreen, Hide))
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        taken.map(ManuallyDrop::new).map(Self).inspect_err(|_| give_back())
    }

    /// Draws what has changed.
    pub(super) fn draw(&mut self, state: &State, look: Look) -> io::Result<()> {
        self.0.draw(|frame| draw::draw(frame, state, look, Instant::now())).map(drop)
    }

    /// Has all of it drawn next time.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // Its `clear` asks the terminal where the cursor is, and whoever reads keys would take the answer.
        let size = self.0.size()?;
        self.0.resize(Rect::new(0, 0, size.width, size.height))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, once. Where it is gone there is nothing to give back, and nobody to tell.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _shown = execute!(stdout(), LeaveAlternateScreen, Show);
        let _cooked = disable_raw_mode();
    }
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
