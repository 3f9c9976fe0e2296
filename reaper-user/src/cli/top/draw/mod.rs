//! The picture of a state. Drawing changes nothing and looks at nothing else.

mod group;
mod help;
mod remedy;
mod table;
mod whole;
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

/// In fewer lines than these nobody reads what a remedy would do.
const READABLE: usize = 3;

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

/// What there was room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    /// Rows of the table, or lines of the pane.
    pub(super) page: usize,
    /// Lines that the pane can be scrolled by.
    pub(super) scrolls: usize,
}

impl Drawn {
    /// Whether the end of the pane can be read, where it is scrolled by so much.
    pub(super) const fn is_end(self, scroll: usize) -> bool {
        self.page >= READABLE && scroll >= self.scrolls
    }
}

impl Default for Drawn {
    fn default() -> Self {
        Self { page: 10, scrolls: 0 }
    }
}

/// Draws it as it is at this moment.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, look: Look, now: Instant) -> Drawn {
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
    let of_pane = match &state.pane {
        None => None,
        Some(Pane::Help) => Some(help::lines(state, width)),
        Some(Pane::Whole(of)) => Some(whole::lines(of, width, look)),
        Some(Pane::Remedy(remedy)) => Some(remedy::lines(remedy, width, look, now)),
    };
    let (lines, drawn) = match of_pane {
        Some(lines) => scrolled(lines, state.scroll, size.1),
        None => {
            let (lines, page) = match &state.view {
                View::Workloads => workloads::lines(state, size, look),
                View::Workload(opened) => workload::lines(state, opened, size, look),
                View::Group(opened, _) => group::lines(state, opened, size, look),
            };
            (lines, Drawn { page, scrolls: 0 })
        }
    };
    show(frame, body, lines);
    frame.render_widget(Line::styled(footer(state, width, drawn), look.faint()), foot);
    drawn
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
    let mut workloads = numbered(state.all_workloads().len(), "workload", "workloads");
    if state.filter.is_typed() || !state.filter.is_empty() {
        // As it is typed, with a mark where it goes on.
        let goes_on = if state.filter.is_typed() { "_" } else { "" };
        workloads =
            format!("/{}{goes_on} {} of {workloads}", state.filter.shown(), state.workloads().0.len());
    }
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
fn footer(state: &State, width: usize, drawn: Drawn) -> String {
    let scroll = if drawn.scrolls > 0 { "↑↓ scroll" } else { "" };
    let mut keys: Vec<&str> = match (&state.pane, &state.view) {
        (Some(Pane::Help | Pane::Whole(_)), _) => vec!["Esc back", scroll],
        (Some(Pane::Remedy(remedy)), _) => match &remedy.stage {
            Stage::Tried(said, _) if said.is_offered(&remedy.order) => {
                vec![
                    if drawn.is_end(state.scroll) { "y do it" } else { "read it to the end" },
                    "Esc leave it",
                    scroll,
                ]
            }
            Stage::Doing(_) => vec!["it is being done"],
            _ => vec!["Esc back", scroll],
        },
        (None, View::Workloads) if state.filter.is_typed() => {
            vec!["type a part of the name", "Enter keep", "Esc all of them"]
        }
        (None, View::Workloads) if !state.filter.is_empty() => {
            vec!["q quit", "? help", "Esc all of them", "Enter open", "z r h f n sort", "↑↓ select"]
        }
        (None, View::Workloads) => {
            vec!["q quit", "? help", "Enter open", "/ find", "z r h f n sort", "d read", "↑↓ select"]
        }
        (None, View::Workload(_)) => {
            vec!["q quit", "? help", "Esc back", "Enter open", reap(state), "d read", "↑↓ select"]
        }
        (None, View::Group(..)) => {
            vec!["q quit", "? help", "Esc back", "Enter read", reap(state), "↑↓ select"]
        }
    };
    keys.retain(|key| !key.is_empty());
    while keys.join("  ").width() > width && keys.len() > 1 {
        keys.pop();
    }
    let keys = keys.join("  ");
    // How much of it is below.
    let below = drawn.scrolls.saturating_sub(state.scroll);
    let more =
        if below > 0 { format!("  {} below", numbered(below, "line", "lines")) } else { String::new() };
    let whole = keys.clone() + &more;
    cut(if whole.width() > width { &keys } else { &whole }, width)
}

const fn reap(state: &State) -> &'static str {
    if state.settings.allow_remedies { "x reap" } else { "x reap (off)" }
}

/// Lines from one on, but no further than to the last.
fn scrolled(lines: Vec<Line<'static>>, scroll: usize, height: usize) -> (Vec<Line<'static>>, Drawn) {
    let scrolls = lines.len().saturating_sub(height);
    let shown = lines.into_iter().skip(scroll.min(scrolls)).take(height).collect();
    (shown, Drawn { page: height, scrolls })
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
