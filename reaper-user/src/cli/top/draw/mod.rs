//! The picture of a state. Drawing changes nothing and looks at nothing else.

mod group;
mod help;
mod remedy;
mod table;
mod workload;
mod workloads;

use std::time::Instant;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::Paragraph,
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    pane::{Pane, Stage},
    state::{State, View},
};
use crate::report::{
    numbered, shown,
    words::{cut, wrap},
};

/// Lines that say why there is nothing newer, at most.
const TROUBLE: usize = 2;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether colour may be used. Nothing is told by it alone.
    pub(super) colour: bool,
}

impl Look {
    const fn coloured(self, style: Style, colour: Color) -> Style {
        if self.colour { style.fg(colour) } else { style }
    }

    const fn head(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What looks like this and is selected.
    const fn selected(self, style: Style) -> Style {
        style.add_modifier(Modifier::REVERSED)
    }

    /// What cannot wait.
    const fn pressing(self) -> Style {
        self.coloured(Style::new().add_modifier(Modifier::BOLD), Color::Red)
    }

    /// What may not wait for long.
    const fn near(self) -> Style {
        self.coloured(Style::new(), Color::Yellow)
    }

    const fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Draws it as it is at this moment.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, look: Look, now: Instant) {
    let area = frame.area();
    let width = usize::from(area.width);
    let trouble = trouble(state, width);
    let lines = u16::try_from(trouble.len()).unwrap_or(u16::MAX);
    let rows = [Constraint::Length(1), Constraint::Length(lines), Constraint::Min(0), Constraint::Length(1)];
    let [top, said, body, foot] = Layout::vertical(rows).areas(area);
    frame.render_widget(title(state, width, look, now), top);
    let style = look.pressing();
    show(frame, said, trouble.into_iter().map(|line| Line::styled(line, style)).collect());
    let size = (width, usize::from(body.height));
    let lines = match (&state.pane, &state.view) {
        (Some(Pane::Help), _) => scrolled(help::lines(state, width), state.scroll, size.1),
        (Some(Pane::Remedy(remedy)), _) => {
            scrolled(remedy::lines(remedy, width, look, now), state.scroll, size.1)
        }
        (None, View::Workloads) => workloads::lines(state, size, look),
        (None, View::Workload(opened)) => workload::lines(state, opened, size, look),
        (None, View::Group(opened, _)) => group::lines(state, opened, size, look),
    };
    show(frame, body, lines);
    frame.render_widget(Line::styled(footer(state, width), look.faint()), foot);
}

fn show(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'static>>) {
    frame.render_widget(Paragraph::new(lines), area);
}

/// What this is of, and how old.
fn title(state: &State, width: usize, look: Look, now: Instant) -> Line<'static> {
    let age = now.saturating_duration_since(state.asked);
    let old = if age.as_secs() == 0 {
        "now".to_owned()
    } else {
        format!("{} old", shown(std::time::Duration::from_secs(age.as_secs())))
    };
    let (rows, _) = state.workloads();
    let workloads = numbered(rows.len(), "workload", "workloads");
    let zombies = state.on_machine().map(|zombies| numbered(zombies, "zombie in all", "zombies in all"));
    let zombies = zombies.map(|zombies| format!(", {zombies}")).unwrap_or_default();
    let left = cut(&format!("reaper top: {workloads}{zombies}"), width.saturating_sub(old.width() + 1));
    let blanks = " ".repeat(width.saturating_sub(left.width() + old.width()));
    let style = if state.trouble.is_some() { look.pressing() } else { look.head() };
    Line::styled(format!("{left}{blanks}{old}"), style)
}

fn trouble(state: &State, width: usize) -> Vec<String> {
    let Some(trouble) = &state.trouble else { return Vec::new() };
    let text = format!("{trouble}; asked again every {}", shown(state.settings.interval));
    let mut lines = wrap("", &text, 2, width);
    lines.truncate(TROUBLE);
    lines
}

/// The keys, the most important ones where there is little room.
fn footer(state: &State, width: usize) -> String {
    let mut keys: Vec<&str> = match (&state.pane, &state.view) {
        (Some(Pane::Help), _) => vec!["Esc back", "↑↓ scroll"],
        (Some(Pane::Remedy(remedy)), _) => match &remedy.stage {
            Stage::Tried(said, _) if said.is_offered(&remedy.order) => {
                vec!["y do it", "Esc leave it", "↑↓ scroll"]
            }
            Stage::Doing(_) => vec!["it is being done"],
            _ => vec!["Esc back", "↑↓ scroll"],
        },
        (None, View::Workloads) => vec!["q quit", "? help", "Enter open", "z r h f n sort", "↑↓ select"],
        (None, View::Workload(_)) => {
            vec!["q quit", "? help", "Esc back", "Enter open", reap(state), "↑↓ select"]
        }
        (None, View::Group(..)) => vec!["q quit", "? help", "Esc back", reap(state), "↑↓ select"],
    };
    while keys.join("  ").width() > width && keys.len() > 1 {
        keys.pop();
    }
    cut(&keys.join("  "), width)
}

const fn reap(state: &State) -> &'static str {
    if state.settings.allow_remedies { "x reap" } else { "x reap (off)" }
}

/// Lines from one on, but no further than to the last.
fn scrolled(lines: Vec<Line<'static>>, scroll: usize, height: usize) -> Vec<Line<'static>> {
    let from = scroll.min(lines.len().saturating_sub(height));
    lines.into_iter().skip(from).take(height).collect()
}

/// What is to be said, below its first line as a head and above a table of so many rows: what there is no room for beside the table is left
/// out, which is shown.
fn above(said: Vec<String>, rows: usize, height: usize, look: Look) -> Vec<Line<'static>> {
    let table = (rows + 1).min((height / 2).max(4));
    let room = height.saturating_sub(table);
    let whole = said.len() <= room;
    let mut lines = said;
    lines.truncate(room);
    if let Some(last) = lines.last_mut().filter(|_| !whole) {
        *last = "  …".to_owned();
    }
    let style = |place| if place == 0 { look.head() } else { Style::new() };
    lines.into_iter().enumerate().map(|(place, line)| Line::styled(line, style(place))).collect()
}

#[cfg(test)]
mod tests;
