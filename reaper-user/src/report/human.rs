//! Events as lines for people.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::{
    columns::{Column, Columns, wrap},
    crowd::{Kind as Crowd, Rest},
    event::{Event, ForkerProcess, ListingEvent, LostEvent, Process, ReleasedEvent, Seconds, ZombieEvent},
    evidence, explain, headroom, leaks, numbered,
    remedied::{BreakerEvent, Outcome, RemedyEvent},
    reporter::Page,
    span::shown,
};
use crate::zombie::{ExitStatus, Reap, Relation};

const HEAD: Style = Style::new().bold();
const CAUSE: Style = AnsiColor::Yellow.on_default();
const EVIDENCE: Style = Style::new().dimmed();
const RELEASED: Style = AnsiColor::Green.on_default();
const LOST: Style = AnsiColor::Red.on_default();

/// Makes lines of events, for one width, with colour or without.
#[derive(Clone, Debug)]
pub(super) struct Human {
    columns: Columns,
    width: usize,
    colour: bool,
    stacks: bool,
}

impl Human {
    pub(super) fn new(width: usize, colour: bool) -> Self {
        Self { columns: Columns::for_width(width), width, colour, stacks: false }
    }

    /// With the stack below each zombie.
    pub(super) fn with_stacks(self) -> Self {
        Self { stacks: true, ..self }
    }

    /// The heads of the columns.
    pub(super) fn header(&self) -> String {
        self.painted(HEAD, &self.columns.row(|column, _| column.head().to_owned(), |_, text| text))
    }

    /// The event's lines.
    pub(super) fn lines(&self, event: &Event) -> Vec<String> {
        match event {
            Event::Zombie(zombie) => self.zombie(zombie),
            Event::Released(released) => vec![self.released(released)],
            Event::Lost(lost) => self.lost(lost),
            Event::Remedy(remedy) => self.remedy(remedy),
            Event::Breaker(breaker) => self.breaker(breaker),
            Event::Leaks(head) => {
                leaks::table(head, &[], false, &self.page()).lines().map(str::to_owned).collect()
            }
            Event::LeakSite(site) => leaks::whole(site, &self.page()).lines().map(str::to_owned).collect(),
            Event::Explanation(head) => vec![head.message.to_string()],
            Event::Outlook(outlook) => vec![explain::outlook(outlook)],
            Event::Headroom(of) => headroom::whole(of, &self.page()).lines().map(str::to_owned).collect(),
            Event::ForkFailed(failed) => self.paragraph(failed.time, &failed.sentence(), LOST),
            Event::Listing(ListingEvent { time: _, source, count }) => vec![source.sentence(*count)],
        }
    }

    /// What was counted and not shown.
    pub(super) fn rest(&self, rest: &Rest) -> Vec<String> {
        let Rest { kind, holder, holders, causes, time } = rest;
        let of = match holder {
            Some(holder) => process(holder, usize::MAX),
            None if *holders == 0 => "holders that an earlier daemon has seen".to_owned(),
            None => numbered(*holders, "more holder", "more holders"),
        };
        let count = rest.count();
        let (text, style) = match kind {
            Crowd::Stands => {
                let causes: Vec<_> = match causes.len() {
                    1 => causes.keys().map(|cause| cause.as_str().to_owned()).collect(),
                    _ => causes.iter().map(|(cause, count)| format!("{count} {}", cause.as_str())).collect(),
                };
                let list = holder.as_ref().map(|holder| format!(" --pid {}", holder.pid)).unwrap_or_default();
                (format!("and {count} more of {of}: {}; reaper ls{list}", causes.join(", ")), CAUSE)
            }
            Crowd::Released => (format!("and {count} more of {of} released"), RELEASED),
        };
        self.paragraph(*time, &text, style)
    }

    const fn page(&self) -> Page {
        Page { width: Some(self.width), colour: self.colour }
    }

    fn zombie(&self, zombie: &ZombieEvent) -> Vec<String> {
        let row = self.columns.row(
            |column, width| cell(zombie, column, width),
            |column, text| if column == Column::Cause { self.painted(CAUSE, &text) } else { text },
        );
        let mut lines = vec![row];
        let said = evidence::sentences(zombie).join("; ");
        if !said.is_empty() {
            lines.extend(wrap("  ", &said, 2, self.width).iter().map(|line| self.painted(EVIDENCE, line)));
        }
        if let Some(origin) = &zombie.origin {
            if self.stacks {
                lines.extend(origin.lines(&zombie.comm, self.width));
            } else if !origin.chain.is_empty() {
                lines.extend(origin.chain_lines(&zombie.comm, self.width));
            }
        }
        lines
    }

    fn released(&self, released: &ReleasedEvent) -> String {
        let (span, more) = match (released.stood_seconds, released.stood_at_least) {
            (Some(stood), _) if released.stood_approximate => (stood, "about "),
            (Some(stood), _) => (stood, ""),
            (None, at_least) => (at_least.unwrap_or(Seconds(std::time::Duration::ZERO)), "at least "),
        };
        let by = released.reaped.as_ref().map_or_else(String::new, |Reap { at: _, pid, comm }| {
            if released.holder.as_ref().is_some_and(|holder| holder.pid == *pid) {
                " by its holder".to_owned()
            } else {
                format!(" by {comm}({pid})")
            }
        });
        let text = format!("released after {more}{}{by}", shown(span.0));
        let whose = match (&released.comm, &released.holder) {
            (Some(comm), Some(holder)) => format!("{comm} of {}", process(holder, usize::MAX)),
            _ => "seen by an earlier daemon only".to_owned(),
        };
        let row = format!("{} {:>7} {text}, {whose}", utc(released.time), released.pid);
        self.painted(RELEASED, &super::columns::cut(&row, self.width))
    }

    fn lost(&self, lost: &LostEvent) -> Vec<String> {
        let LostEvent { time, what, count, total, message } = lost;
        let text = format!("lost: {} {count} ({total} in all): {message}", what.as_str());
        self.paragraph(*time, &text, LOST)
    }

    fn remedy(&self, remedy: &RemedyEvent) -> Vec<String> {
        let RemedyEvent { time, remedy: what, rule, outcome, message, holder, zombies, pause_us, .. } =
            remedy;
        let whom = match zombies.as_slice() {
            [one] => format!("{} {}", one.comm, one.pid),
            many => numbered(many.len(), "zombie", "zombies"),
        };
        let by = rule.as_ref().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
        let pause = pause_us.map(|pause| format!(", pause {pause} µs")).unwrap_or_default();
        let text = format!(
            "{what} for {whom} of {}{by}: {}{pause}: {message}",
            process(holder, usize::MAX),
            outcome.as_str()
        );
        let style = match outcome {
            Outcome::Applied => RELEASED,
            Outcome::Planned | Outcome::Refused => EVIDENCE,
            Outcome::NoEffect | Outcome::HolderDied => LOST,
        };
        self.paragraph(*time, &text, style)
    }

    fn breaker(&self, breaker: &BreakerEvent) -> Vec<String> {
        let BreakerEvent { time, scope, rule, after, holder, message, .. } = breaker;
        let text = format!(
            "circuit breaker of the {} opened after {after} to {} by rule {rule}: {message}",
            scope.as_str(),
            process(holder, usize::MAX)
        );
        self.paragraph(*time, &text, LOST)
    }

    fn paragraph(&self, time: Timestamp, text: &str, style: Style) -> Vec<String> {
        wrap(&format!("{} ", utc(time)), text, 9, self.width)
            .iter()
            .map(|line| self.painted(style, line))
            .collect()
    }

    fn painted(&self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// What a zombie has to show in a column of so many places.
pub(super) fn cell(zombie: &ZombieEvent, column: Column, width: usize) -> String {
    match column {
        Column::Utc => utc(zombie.time),
        Column::Count => "1".to_owned(),
        Column::Pid => zombie.pid.to_string(),
        Column::Holder => process(&zombie.holder, width),
        Column::Forker => forker(zombie.forker.as_ref(), width),
        Column::Age => age(zombie),
        Column::Exit => exit(zombie.exit),
        Column::Cause => zombie.cause.as_str().to_owned(),
        Column::Workload => zombie.workload.shown_within(width),
        Column::Comm => zombie.comm.to_string(),
    }
}

fn utc(time: Timestamp) -> String {
    time.strftime("%H:%M:%S").to_string()
}

/// `~` where a suspend makes it inexact, `+` where it is at least so much.
pub(crate) fn age(zombie: &ZombieEvent) -> String {
    match (zombie.age_seconds, zombie.age_at_least) {
        (Some(age), _) if zombie.age_approximate => format!("~{}", shown(age.0)),
        (Some(age), _) => shown(age.0),
        (None, Some(at_least)) => format!("{}+", shown(at_least.0)),
        (None, None) => "-".to_owned(),
    }
}

/// `name(pid)`. Where that is too long the name is cut, the pid never.
pub(crate) fn process(process: &Process, width: usize) -> String {
    let Some(comm) = &process.comm else { return process.pid.to_string() };
    let pid = format!("({})", process.pid);
    match width.saturating_sub(pid.len()) {
        0 | 1 => process.pid.to_string(),
        left => format!("{}{pid}", super::columns::cut(comm.as_str(), left)),
    }
}

fn forker(forker: Option<&ForkerProcess>, width: usize) -> String {
    match forker {
        None => "?".to_owned(),
        Some(ForkerProcess { relation: Relation::Holder, .. }) => "holder".to_owned(),
        Some(ForkerProcess { relation: Relation::Other, process: other }) => process(other, width),
        Some(ForkerProcess { relation: Relation::Gone, process: dead }) => match &dead.comm {
            Some(_) => format!("{} gone", process(dead, width.saturating_sub(5))),
            None => format!("{} gone", dead.pid),
        },
    }
}

pub(crate) fn exit(exit: ExitStatus) -> String {
    match exit {
        ExitStatus::Code(code) => code.to_string(),
        ExitStatus::Signal { number, .. } => {
            let name =
                usize::from(number).checked_sub(1).and_then(|place| super::signals::SIGNALS.get(place));
            name.map_or_else(|| format!("SIG{number}"), |name| (*name).to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
