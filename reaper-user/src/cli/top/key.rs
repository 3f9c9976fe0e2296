//! Keys, as far as they mean something here.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    /// Into the selected row.
    Enter,
    /// Out of it: Esc.
    Back,
    /// Backspace,
    Erase,
    /// and Ctrl-U: all that was typed.
    EraseAll,
    /// Ctrl-C, and Ctrl-\ of those who find no other way out.
    Interrupt,
    /// Ctrl-Z.
    Suspend,
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
                // Ctrl-\ is read as Ctrl-4: they are one byte.
                KeyCode::Char('c' | '4' | '\\') => Some(Self::Interrupt),
                KeyCode::Char('z') => Some(Self::Suspend),
                KeyCode::Char('l') => Some(Self::Redraw),
                KeyCode::Char('u') => Some(Self::EraseAll),
                _ => None,
            };
        }
        // Esc and a letter that are read together: nobody means an answer by that.
        if matches!(code, KeyCode::Char(_)) && modifiers.difference(KeyModifiers::SHIFT) != KeyModifiers::NONE
        {
            return None;
        }
        Some(match code {
            KeyCode::Up => Self::Up,
            KeyCode::Down => Self::Down,
            KeyCode::Left => Self::Left,
            KeyCode::Right => Self::Right,
            KeyCode::PageUp => Self::PageUp,
            KeyCode::PageDown => Self::PageDown,
            KeyCode::Home => Self::Home,
            KeyCode::End => Self::End,
            KeyCode::Enter => Self::Enter,
            KeyCode::Esc => Self::Back,
            KeyCode::Backspace => Self::Erase,
            KeyCode::Char(character) => Self::Char(*character),
            _ => return None,
        })
    }

    /// What it says where nothing is written: letters go up and down, too.
    #[must_use]
    pub(super) const fn as_command(self) -> Self {
        match self {
            Self::Char('k') => Self::Up,
            Self::Char('j') => Self::Down,
            Self::Char(' ') => Self::PageDown,
            Self::Char('g') => Self::Home,
            Self::Char('G') => Self::End,
            Self::Right => Self::Enter,
            Self::Left | Self::Erase => Self::Back,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_keys_are_known_as_a_terminal_sends_them() {
        let key = |code, modifiers| Key::of(&Event::Key(KeyEvent::new(code, modifiers)));
        let control = |character| key(KeyCode::Char(character), KeyModifiers::CONTROL);
        for (character, meant) in [
            ('c', Some(Key::Interrupt)),
            ('4', Some(Key::Interrupt)),
            ('z', Some(Key::Suspend)),
            ('l', Some(Key::Redraw)),
            ('u', Some(Key::EraseAll)),
            ('x', None),
        ] {
            assert_eq!(control(character), meant, "{character}");
        }
        assert_eq!(key(KeyCode::Char('y'), KeyModifiers::ALT), None);
        assert_eq!(key(KeyCode::Char('G'), KeyModifiers::SHIFT).map(Key::as_command), Some(Key::End));
    }
}
