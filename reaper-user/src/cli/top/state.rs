//! What is shown: the latest answer, what is opened, and what is selected in it. Nothing here draws, asks or acts: a key changes the
//! state and may say what is to be done.

use std::time::{Duration, Instant};

use super::{
    ask::{Answer, Asked, Question},
    cursor::Cursor,
    groups::{Group, GroupKey, groups},
    key::Key,
    pane::{Pane, Remedy, Stage},
    reaping::{Order, Said},
    sort::{By, Sort},
};
use crate::{
    identity::BootTime,
    report::{HeadroomEvent, LimitKind, ZombieEvent},
    text::Untrusted,
};

/// Rows of a page.
const PAGE: isize = 10;

/// How it was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// How often the daemon is asked.
    pub(super) interval: Duration,
    /// Whether remedies are offered.
    pub(super) allow_remedies: bool,
}

/// What is opened.
#[derive(Debug)]
pub(super) enum View {
    /// The workloads.
    Workloads,
    /// One of them.
    Workload(Box<Opened>),
    /// Zombies of one that have holder, cause and leak site in common.
    Group(Box<Opened>, GroupKey),
}

/// A workload that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// As it was last seen.
    pub(super) row: HeadroomEvent,
    /// Whether it is still told of.
    pub(super) is_told: bool,
}

/// What is to be done beside drawing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Leave,
    /// Draw all of it, whatever was drawn before.
    Redraw,
    /// Look what a remedy would do.
    Try(Order),
    /// Do it.
    Reap(Order),
}

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    /// When what is shown was asked for.
    pub(super) asked: Instant,
    /// Why there is nothing newer.
    pub(super) trouble: Option<String>,
    pub(super) sort: Sort,
    pub(super) view: View,
    pub(super) pane: Option<Pane>,
    /// Lines that the pane, or the top of a view, is scrolled by.
    pub(super) scroll: usize,
    rows: Vec<HeadroomEvent>,
    zombies: Option<Vec<ZombieEvent>>,
    workloads: Cursor<WorkloadKey>,
    groups: Cursor<GroupKey>,
    each: Cursor<(u32, BootTime)>,
}

/// What a row of the workloads is known by: its cgroup, else the one that counts. Another one may count from one moment to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WorkloadKey(Option<Untrusted>);

impl WorkloadKey {
    fn of(row: &HeadroomEvent) -> Self {
        let counts = || row.limits.first().and_then(|limit| limit.cgroup.clone());
        Self(row.workload.cgroup.clone().or_else(counts))
    }
}

impl State {
    pub(super) fn new(settings: Settings, first: Answer) -> Self {
        let mut this = Self {
            settings,
            asked: first.asked,
            trouble: None,
            sort: Sort::default(),
            view: View::Workloads,
            pane: None,
            scroll: 0,
            rows: Vec::new(),
            zombies: None,
            workloads: Cursor::default(),
            groups: Cursor::default(),
            each: Cursor::default(),
        };
        this.take(Ok(first));
        this
    }

    /// What has to be asked for to show it.
    pub(super) fn question(&self) -> Question {
        match &self.view {
            View::Workloads => Question::Workloads,
            View::Workload(opened) | View::Group(opened, _) => {
                Question::Zombies(opened.row.workload.cgroup.clone())
            }
        }
    }

    /// The workloads in their order, and which of them is selected.
    pub(super) fn workloads(&self) -> (&[HeadroomEvent], Option<usize>) {
        (&self.rows, self.workloads.place(&self.keys()))
    }

    /// Zombies on the machine, in workloads that are shown or not; `None` where no row tells.
    pub(super) fn on_machine(&self) -> Option<u64> {
        let of_node = |row: &HeadroomEvent| {
            row.limits.iter().find(|limit| limit.kind == LimitKind::PidMax).and_then(|limit| limit.zombies)
        };
        self.rows.iter().find_map(of_node)
    }

    /// The groups of the opened workload, and which of them is selected; `None` where none is opened or its zombies were not told yet.
    pub(super) fn groups(&self) -> Option<(Vec<Group<'_>>, Option<usize>)> {
        let (View::Workload(opened) | View::Group(opened, _)) = &self.view else { return None };
        let groups = groups(&opened.row, self.zombies.as_deref()?);
        let place = self.groups.place(&groups.iter().map(|group| group.key).collect::<Vec<_>>());
        Some((groups, place))
    }

    /// The opened group, and which of its zombies is selected; `None` where none is opened or it has none any more.
    pub(super) fn group(&self) -> Option<(Group<'_>, Option<usize>)> {
        let View::Group(_, key) = &self.view else { return None };
        let group = self.groups()?.0.into_iter().find(|group| group.key == *key)?;
        let place = self.each.place(&identities(&group));
        Some((group, place))
    }

    fn keys(&self) -> Vec<WorkloadKey> {
        self.rows.iter().map(WorkloadKey::of).collect()
    }

    /// Takes in what the daemon says, or that it does not.
    pub(super) fn take(&mut self, asked: Asked) {
        let Answer { asked, workloads, zombies } = match asked {
            Ok(answer) => answer,
            Err(error) => {
                self.trouble = Some(error.to_string());
                return;
            }
        };
        (self.asked, self.trouble, self.rows) = (asked, None, workloads);
        self.sort.sort(&mut self.rows);
        self.workloads.settle(&self.keys());
        if let View::Workload(opened) | View::Group(opened, _) = &mut self.view {
            let key = WorkloadKey::of(&opened.row);
            let now = self.rows.iter().find(|row| WorkloadKey::of(row) == key);
            opened.is_told = now.is_some();
            if let Some(row) = now {
                opened.row = row.clone();
            }
            // An answer to an earlier question has none of them.
            self.zombies = zombies.or_else(|| self.zombies.take());
        }
        if let Some((groups, _)) = self.groups() {
            let keys: Vec<_> = groups.iter().map(|group| group.key).collect();
            self.groups.settle(&keys);
        }
        if let Some((group, _)) = self.group() {
            let keys = identities(&group);
            self.each.settle(&keys);
        }
    }

    /// Takes in what became of a remedy, or would.
    pub(super) fn hear(&mut self, said: Said) {
        if let Some(Pane::Remedy(remedy)) = &mut self.pane {
            remedy.hear(said);
            self.scroll = 0;
        }
    }

    /// It was drawn as it is.
    pub(super) fn was_drawn(&mut self, now: Instant) {
        if let Some(Pane::Remedy(remedy)) = &mut self.pane {
            remedy.was_drawn(now);
        }
    }

    /// What is being done about zombies at this moment.
    pub(super) fn reaping(&self) -> Option<&Order> {
        match &self.pane {
            Some(Pane::Remedy(remedy)) if matches!(remedy.stage, Stage::Doing(_)) => Some(&remedy.order),
            _ => None,
        }
    }

    /// Does what a key says that was read then, and says what else is to be done.
    pub(super) fn press(&mut self, key: Key, at: Instant) -> Option<Act> {
        match key {
            Key::Interrupt => return Some(Act::Leave),
            Key::Redraw => return Some(Act::Redraw),
            _ => {}
        }
        if let Some(pane) = self.pane.take() {
            return self.press_in(pane, key, at);
        }
        match key {
            Key::Char('q') => return Some(Act::Leave),
            Key::Char('?') => self.open_pane(Pane::Help),
            Key::Char('x') => return self.remedy(),
            Key::Up => self.step(-1),
            Key::Down => self.step(1),
            Key::PageUp => self.step(-PAGE),
            Key::PageDown => self.step(PAGE),
            Key::Home => self.step(isize::MIN),
            Key::End => self.step(isize::MAX),
            Key::Enter => self.enter(),
            Key::Back => self.back(),
            Key::Char(character) => self.sort_by(character),
            Key::Interrupt | Key::Redraw => {}
        }
        None
    }

    fn open_pane(&mut self, pane: Pane) {
        self.pane = Some(pane);
        self.scroll = 0;
    }

    /// Keys while a pane is open, which is put back unless it was left.
    fn press_in(&mut self, mut pane: Pane, key: Key, at: Instant) -> Option<Act> {
        let mut act = None;
        let leaves = match (key, &mut pane) {
            (Key::Up, _) => {
                self.scroll = self.scroll.saturating_sub(1);
                false
            }
            (Key::Down, _) => {
                self.scroll = self.scroll.saturating_add(1);
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
            _ => false,
        };
        if leaves {
            self.scroll = 0;
        } else {
            self.pane = Some(pane);
        }
        act
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
                let (rows, place) = self.workloads();
                let Some(row) = place.and_then(|place| rows.get(place)).cloned() else { return };
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
            View::Group(..) => {}
        }
    }

    fn back(&mut self) {
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

fn identities(group: &Group<'_>) -> Vec<(u32, BootTime)> {
    group.zombies.iter().map(|zombie| (zombie.pid, zombie.start_time)).collect()
}
