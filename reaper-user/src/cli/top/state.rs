//! What is shown: the latest answer, what is opened, and what is selected in it. Nothing here draws, asks or acts: a key changes the
//! state ([`press`](super::press)) and may say what is to be done.

use std::time::{Duration, Instant};

use super::{
    ask::{Answer, Asked, Question},
    cursor::Cursor,
    draw::Drawn,
    filter::Filter,
    groups::{Group, GroupKey, groups},
    pane::{Pane, Stage},
    reaping::{Order, Said},
    sort::Sort,
};
use crate::{
    identity::BootTime,
    report::{HeadroomEvent, LimitKind, ZombieEvent},
    text::Untrusted,
};

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
    /// Give the terminal back until somebody has the program go on.
    Suspend,
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
    pub(super) filter: Filter,
    pub(super) view: View,
    pub(super) pane: Option<Pane>,
    /// Lines that the pane is scrolled by.
    pub(super) scroll: usize,
    /// What there was room for when it was last drawn.
    pub(super) drawn: Drawn,
    pub(super) rows: Vec<HeadroomEvent>,
    pub(super) zombies: Option<Vec<ZombieEvent>>,
    pub(super) workloads: Cursor<WorkloadKey>,
    pub(super) groups: Cursor<GroupKey>,
    pub(super) each: Cursor<(u32, BootTime)>,
}

/// What a row of the workloads is known by: its cgroup, else the one that counts. Another one may count from one moment to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkloadKey(Option<Untrusted>);

impl WorkloadKey {
    pub(super) fn of(row: &HeadroomEvent) -> Self {
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
            filter: Filter::default(),
            view: View::Workloads,
            pane: None,
            scroll: 0,
            drawn: Drawn::default(),
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

    /// The workloads that are listed, in their order, and which of them is selected.
    pub(super) fn workloads(&self) -> (Vec<&HeadroomEvent>, Option<usize>) {
        let rows: Vec<_> = self.rows.iter().filter(|row| self.filter.has(row)).collect();
        let keys: Vec<_> = rows.iter().map(|row| WorkloadKey::of(row)).collect();
        (rows, self.workloads.place(&keys))
    }

    /// All workloads, also those that are not listed.
    pub(super) fn all_workloads(&self) -> &[HeadroomEvent] {
        &self.rows
    }

    /// The zombies that were told of, if they were asked for.
    pub(super) fn zombies(&self) -> &[ZombieEvent] {
        self.zombies.as_deref().unwrap_or_default()
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

    /// What the listed workloads are known by.
    pub(super) fn keys(&self) -> Vec<WorkloadKey> {
        self.workloads().0.into_iter().map(WorkloadKey::of).collect()
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
        if let Some(Pane::Whole(mut whole)) = self.pane.take_if(|pane| matches!(pane, Pane::Whole(_))) {
            whole.refresh(self);
            self.pane = Some(Pane::Whole(whole));
        }
    }

    /// Takes in what became of a remedy, or would.
    pub(super) fn hear(&mut self, said: Said) {
        if let Some(Pane::Remedy(remedy)) = &mut self.pane {
            remedy.hear(said);
            self.scroll = 0;
        }
    }

    /// It was drawn as it is, then, with room for so much.
    pub(super) fn was_drawn(&mut self, now: Instant, drawn: Drawn) {
        self.drawn = drawn;
        // It may have become shorter, or the terminal larger.
        self.scroll = self.scroll.min(drawn.scrolls);
        // To its end, where it is asked: nobody says yes to what he has not seen.
        if let Some(Pane::Remedy(remedy)) = &mut self.pane
            && drawn.is_end(self.scroll)
        {
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
}

pub(super) fn identities(group: &Group<'_>) -> Vec<(u32, BootTime)> {
    group.zombies.iter().map(|zombie| identity(zombie)).collect()
}

/// What a zombie is known by.
pub(super) const fn identity(zombie: &ZombieEvent) -> (u32, BootTime) {
    (zombie.pid, zombie.start_time)
}
