//! Keys, as far as they mean something here.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Into the selected row.
    Enter,
    /// Out of it.
    Back,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-L: the terminal shows what somebody else wrote.
    Redraw,
    Char(char),
}

impl Key {
    /// What an event of the terminal says; `None` where it says nothing but, perhaps, that there is another size to draw for.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let Event::Key(KeyEvent { code, modifiers, kind, state: _ }) = event else { return None };
        if *kind == KeyEventKind::Release {
            return None;
        }
        if modifiers.contains(KeyModifiers::CONTROL) {
            return match code {
                KeyCode::Char('c') => Some(Self::Interrupt),
                KeyCode::Char('l') => Some(Self::Redraw),
                _ => None,
            };
        }
        Some(match code {
            KeyCode::Up | KeyCode::Char('k') => Self::Up,
            KeyCode::Down | KeyCode::Char('j') => Self::Down,
            KeyCode::PageUp => Self::PageUp,
            KeyCode::PageDown | KeyCode::Char(' ') => Self::PageDown,
            KeyCode::Home => Self::Home,
            KeyCode::End => Self::End,
            KeyCode::Enter | KeyCode::Right => Self::Enter,
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => Self::Back,
            KeyCode::Char(character) => Self::Char(*character),
            _ => return None,
        })
    }
}
