//! What keys do to what is shown.

use std::time::Instant;

use super::{
    cursor::Cursor,
    draw::Drawn,
    key::Key,
    pane::{Pane, Remedy, Stage},
    reaping::Order,
    sort::By,
    state::{Act, Opened, State, View, WorkloadKey, identities},
    whole::Whole,
};
use crate::report::HeadroomEvent;

impl State {
    /// Does what a key says that was read then, and says what else is to be done.
    pub(super) fn press(&mut self, key: Key, at: Instant) -> Option<Act> {
        match key {
            Key::Interrupt => return Some(Act::Leave),
            Key::Suspend => return Some(Act::Suspend),
            Key::Redraw => return Some(Act::Redraw),
            _ => {}
        }
        if let Some(pane) = self.pane.take() {
            return self.press_in(pane, key.as_command(), at);
        }
        if self.filter.is_typed() && !matches!(key, Key::Up | Key::Down | Key::PageUp | Key::PageDown) {
            self.type_filter(key);
            return None;
        }
        let page = isize::try_from(self.drawn.page).unwrap_or(isize::MAX).max(1);
        match key.as_command() {
            Key::Char('q') => return Some(Act::Leave),
            Key::Char('?') => self.open_pane(Pane::Help),
            Key::Char('x') => return self.remedy(),
            Key::Up => self.step(-1),
            Key::Down => self.step(1),
            Key::PageUp => self.step(-page),
            Key::PageDown => self.step(page),
            Key::Home => self.step(isize::MIN),
            Key::End => self.step(isize::MAX),
            Key::Enter => self.enter(),
            Key::Back => self.back(),
            Key::Char('d') => self.read_whole(),
            Key::Char('/') if matches!(self.view, View::Workloads) => self.filter.begin(),
            Key::Char(character) => self.sort_by(character),
            // As commands they are others, or were taken.
            Key::Left | Key::Right | Key::Erase | Key::EraseAll => {}
            Key::Interrupt | Key::Suspend | Key::Redraw => {}
        }
        None
    }

    /// Keys while the filter is typed. Who is selected when it is kept stays so, also when all are listed again.
    fn type_filter(&mut self, key: Key) {
        self.filter.press(key);
        let keys = self.keys();
        self.workloads.settle(&keys);
        if key == Key::Enter
            && let Some(key) = self.workloads.place(&keys).and_then(|place| keys.get(place))
        {
            self.workloads.choose(key.clone());
        }
    }

    fn open_pane(&mut self, pane: Pane) {
        self.pane = Some(pane);
        self.scroll = 0;
    }

    /// Keys while a pane is open, which is put back unless it was left.
    fn press_in(&mut self, mut pane: Pane, key: Key, at: Instant) -> Option<Act> {
        let mut act = None;
        let leaves = match (key, &mut pane) {
            (Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Home | Key::End, _) => {
                self.scroll_by(key);
                false
            }
            (Key::Char('y'), Pane::Remedy(remedy)) => {
                act = remedy.agree(at);
                false
            }
            // What has been begun is waited for.
            (Key::Back | Key::Enter | Key::Char('q' | 'n' | '?'), Pane::Remedy(remedy)) => {
                !matches!(remedy.stage, Stage::Doing(_))
            }
            (Key::Back | Key::Enter | Key::Char('q' | '?'), Pane::Help) => true,
            (Key::Back | Key::Enter | Key::Char('q' | 'd'), Pane::Whole(_)) => true,
            _ => false,
        };
        if leaves {
            self.scroll = 0;
        } else {
            self.pane = Some(pane);
        }
        act
    }

    /// Scrolls the pane, no further than to its ends.
    fn scroll_by(&mut self, key: Key) {
        let Drawn { page, scrolls } = self.drawn;
        // A line of what was read stays in sight.
        let page = page.saturating_sub(1).max(1);
        let to = match key {
            Key::Up => self.scroll.saturating_sub(1),
            Key::Down => self.scroll + 1,
            Key::PageUp => self.scroll.saturating_sub(page),
            Key::PageDown => self.scroll.saturating_add(page),
            Key::Home => 0,
            _ => scrolls,
        };
        self.scroll = to.min(scrolls);
    }

    fn step(&mut self, by: isize) {
        match &self.view {
            View::Workloads => {
                let keys = self.keys();
                self.workloads.step(&keys, by);
            }
            View::Workload(_) => {
                let keys: Vec<_> =
                    self.groups().into_iter().flat_map(|(groups, _)| groups).map(|g| g.key).collect();
                self.groups.step(&keys, by);
            }
            View::Group(..) => {
                let keys = self.group().map(|(group, _)| identities(&group)).unwrap_or_default();
                self.each.step(&keys, by);
            }
        }
    }

    fn enter(&mut self) {
        match &self.view {
            View::Workloads => {
                let Some(row) = self.selected_workload().cloned() else { return };
                // What is opened is selected when it is closed.
                self.workloads.choose(WorkloadKey::of(&row));
                self.view = View::Workload(Box::new(Opened { row, is_told: true }));
                self.groups = Cursor::default();
            }
            View::Workload(_) => {
                let selected = self.groups().and_then(|(groups, place)| Some(groups.get(place?)?.key));
                let Some(key) = selected else { return };
                self.groups.choose(key);
                self.each = Cursor::default();
                self.view = match std::mem::replace(&mut self.view, View::Workloads) {
                    View::Workload(opened) => View::Group(opened, key),
                    other => other,
                };
            }
            View::Group(..) => self.read_whole(),
        }
    }

    fn selected_workload(&self) -> Option<&HeadroomEvent> {
        let (rows, place) = self.workloads();
        rows.get(place?).copied()
    }

    /// Shows all that is known of what is selected, or of the workload that is opened.
    fn read_whole(&mut self) {
        let whole = match &self.view {
            View::Workloads => self.selected_workload().map(Whole::workload),
            View::Workload(opened) => Some(Whole::workload(&opened.row)),
            View::Group(..) => self.group().and_then(|(group, place)| {
                let zombie = group.zombies.get(place?)?;
                Some(Whole::zombie(zombie))
            }),
        };
        if let Some(whole) = whole {
            self.open_pane(Pane::Whole(whole));
        }
    }

    fn back(&mut self) {
        if matches!(self.view, View::Workloads) {
            self.filter.clear();
            return;
        }
        self.view = match std::mem::replace(&mut self.view, View::Workloads) {
            View::Group(opened, _) => View::Workload(opened),
            View::Workload(_) | View::Workloads => {
                self.zombies = None;
                View::Workloads
            }
        };
    }

    fn sort_by(&mut self, character: char) {
        let by = match character {
            'z' => By::Zombies,
            'r' => By::Rate,
            'h' => By::Headroom,
            'f' => By::Forecast,
            'n' => By::Name,
            _ => return,
        };
        if matches!(self.view, View::Workloads) {
            self.sort = self.sort.asked(by);
            self.sort.sort(&mut self.rows);
        }
    }

    /// Shows what can be done about the selected line, and looks what would be done where that is allowed.
    fn remedy(&mut self) -> Option<Act> {
        let order = match &self.view {
            View::Workloads => None,
            View::Workload(_) => self.groups().and_then(|(groups, place)| {
                let group = groups.get(place?)?;
                Order::of(&group.zombies)
            }),
            View::Group(..) => self.group().and_then(|(group, place)| {
                let zombie = group.zombies.get(place?)?;
                Order::of(&[zombie])
            }),
        }?;
        let (remedy, act) = Remedy::begin(order, self.settings.allow_remedies);
        self.open_pane(Pane::Remedy(Box::new(remedy)));
        act
    }
}
