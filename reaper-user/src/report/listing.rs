//! `reaper ls`: the zombies that stand now, as a table whose columns are as wide as what is in them.

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use unicode_width::UnicodeWidthStr;

use super::{
    columns::{Column, Columns, cut},
    event::ZombieEvent,
    human::cell,
    reporter::Page,
};

/// Where a list is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The running daemon, which saw them die.
    Daemon,
    /// A look at the kernel's processes now.
    Census,
}

impl Source {
    /// Where a list of so many zombies is from, in words.
    #[must_use]
    pub fn sentence(self, count: usize) -> String {
        let zombies = match count {
            0 => "no zombies".to_owned(),
            1 => "1 zombie".to_owned(),
            _ => format!("{count} zombies"),
        };
        match self {
            Self::Daemon => format!("{zombies}, from the running daemon"),
            Self::Census => format!("{zombies}, by a census: ages before this moment are unknown"),
        }
    }
}

const COLUMNS: [Column; 8] = [
    Column::Pid,
    Column::Holder,
    Column::Forker,
    Column::Age,
    Column::Exit,
    Column::Cause,
    Column::Workload,
    Column::Comm,
];

/// No cell is wider, wherever it goes: one container with an endless name must not push all others apart.
const WIDEST: usize = 72;

/// The rows under their heads, without borders, those of one holder together. Empty where there is none.
/// Only endless names are cut, unless a terminal is too narrow: then columns are as in the stream of
/// `reaper trace`.
#[must_use]
pub fn table(source: Source, zombies: &[ZombieEvent], page: &Page) -> String {
    if zombies.is_empty() {
        return String::new();
    }
    let mut sorted: Vec<_> = zombies.iter().collect();
    sorted.sort_by_key(|zombie| (zombie.holder.pid, zombie.start_time, zombie.pid));
    let whole = layout(source, &sorted, &COLUMNS.map(|column| (column, WIDEST)));
    match page.width {
        Some(width) if whole.lines().any(|line| line.width() > width) => {
            layout(source, &sorted, Columns::without_time(width).as_slice())
        }
        _ => whole,
    }
}

/// The columns, each at most so wide.
fn layout(source: Source, zombies: &[&ZombieEvent], columns: &[(Column, usize)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|(column, _)| column.head()));
    for zombie in zombies {
        table.add_row(columns.iter().map(|(column, width)| match column {
            // A census sees that it is dead, not since when.
            Column::Age if source == Source::Census && zombie.predates => "-".to_owned(),
            _ => cut(&cell(zombie, *column, *width), *width),
        }));
    }
    for (shown, (column, _)) in table.column_iter_mut().zip(columns) {
        shown.set_padding((0, 1));
        if column.right_aligned() {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn wide() -> Page {
        Page { width: None, colour: false }
    }

    #[test]
    fn a_table_is_as_wide_as_its_content() {
        let zombies = [fixture::shown(&fixture::adopted()), fixture::shown(&fixture::never_waited())];
        assert_eq!(
            table(Source::Daemon, &zombies, &wide()),
            concat!(
                " PID HOLDER     FORKER                  AGE EXIT    CAUSE        WORKLOAD     COMM\n",
                "4712 tini(4700) chromedriver(4600) gone  5s SIGSEGV adopted      3f2a9c0d1e4b chrome\n",
                "4712 app(4700)  holder                   5s 0       never-waited 3f2a9c0d1e4b sh\n",
            )
        );
    }

    #[test]
    fn a_table_keeps_to_the_terminal() {
        let zombies: Vec<_> = fixture::all().iter().map(fixture::shown).collect();
        let text = table(Source::Daemon, &zombies, &Page { width: Some(80), colour: false });
        assert_eq!(text.lines().count(), zombies.len() + 1, "{text}");
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        assert!(text.contains(" never-waited ") && text.contains("(4194303) "), "{text}");
    }

    #[test]
    fn a_census_claims_no_age() {
        let zombies = [fixture::shown(&fixture::predating())];
        assert!(table(Source::Census, &zombies, &wide()).contains(" - 0 "));
        assert!(table(Source::Daemon, &zombies, &wide()).contains(" 4m12s+ 0 "));
    }

    #[test]
    fn no_hostile_byte_is_in_a_table() {
        let text = table(Source::Daemon, &[fixture::shown(&fixture::hostile())], &wide());
        assert_eq!(text.lines().count(), 2);
        assert!(!text.replace('\n', "").chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }

    #[test]
    fn a_list_says_where_it_is_from() {
        assert_eq!(Source::Daemon.sentence(2), "2 zombies, from the running daemon");
        assert_eq!(Source::Census.sentence(1), "1 zombie, by a census: ages before this moment are unknown");
        assert_eq!(table(Source::Census, &[], &wide()), "");
    }
}
