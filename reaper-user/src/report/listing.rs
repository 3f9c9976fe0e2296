//! `reaper ls`: the zombies that stand now, as a table whose columns are as wide as what is in them.

use std::collections::HashMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use unicode_width::UnicodeWidthStr;

use super::{
    columns::{Column, Columns, cut},
    event::ZombieEvent,
    human::cell,
    numbered,
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
            _ => numbered(count, "zombie", "zombies"),
        };
        match self {
            Self::Daemon => format!("{zombies}, from the running daemon"),
            Self::Census => format!("{zombies}, by a census: ages before this moment are unknown"),
        }
    }
}

const COLUMNS: [Column; 9] = [
    Column::Count,
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

/// Rows that a list has on a terminal, at most, before those that differ in nothing but pid and age share one.
const ROWS: usize = 50;

/// A row: how many are alike, and the first of them.
type Row<'a> = (usize, &'a ZombieEvent);

/// Whether alike zombies share a row in a list of so many.
#[must_use]
pub const fn shares_rows(zombies: usize, page: &Page) -> bool {
    page.width.is_some() && zombies > ROWS
}

/// The rows under their heads, without borders, those of one holder together; alike ones in one, the most first, where they
/// share rows. Empty where there is none. Only endless names are cut, unless a terminal is too narrow: then columns are as in
/// the stream of `reaper trace`.
#[must_use]
pub fn table(source: Source, zombies: &[ZombieEvent], share: bool, page: &Page) -> String {
    if zombies.is_empty() {
        return String::new();
    }
    let mut sorted: Vec<_> = zombies.iter().collect();
    sorted.sort_by_key(|zombie| (zombie.holder.pid, zombie.start_time, zombie.pid));
    let rows = if share { shared(&sorted) } else { sorted.into_iter().map(|zombie| (1, zombie)).collect() };
    let columns = COLUMNS.get(usize::from(!share)..).unwrap_or_default();
    let columns: Vec<_> = columns.iter().map(|column| (*column, WIDEST)).collect();
    let whole = layout(source, &rows, &columns);
    match page.width {
        Some(width) if whole.lines().any(|line| line.width() > width) => {
            let columns = if share { Columns::with_count(width) } else { Columns::without_time(width) };
            layout(source, &rows, columns.as_slice())
        }
        _ => whole,
    }
}

/// Those that look alike in all columns but pid and age, in one row.
fn shared<'a>(sorted: &[&'a ZombieEvent]) -> Vec<Row<'a>> {
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    let mut rows: Vec<Row<'a>> = Vec::new();
    for zombie in sorted {
        let alike = COLUMNS.iter().filter(|column| !matches!(column, Column::Pid | Column::Age));
        let cells = alike.map(|column| cell(zombie, *column, WIDEST)).collect();
        let place = *places.entry(cells).or_insert(rows.len());
        match rows.get_mut(place) {
            Some((count, _)) => *count += 1,
            None => rows.push((1, zombie)),
        }
    }
    rows.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    rows
}

/// The columns, each at most so wide.
fn layout(source: Source, rows: &[Row<'_>], columns: &[(Column, usize)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|(column, _)| column.head()));
    for (count, zombie) in rows {
        table.add_row(columns.iter().map(|(column, width)| match column {
            Column::Count => count.to_string(),
            // A census sees that it is dead, not since when.
            Column::Age if source == Source::Census && zombie.age_seconds.is_none() => "-".to_owned(),
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
            table(Source::Daemon, &zombies, false, &wide()),
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
        let text = table(Source::Daemon, &zombies, false, &Page { width: Some(80), colour: false });
        assert_eq!(text.lines().count(), zombies.len() + 1, "{text}");
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        assert!(text.contains(" never-waited ") && text.contains("(4194303) "), "{text}");
    }

    #[test]
    fn of_many_on_a_terminal_alike_ones_share_a_row() {
        let alike = |number: u32| {
            let mut zombie = fixture::shown(&fixture::never_waited());
            (zombie.pid, zombie.start_time.0) = (5_000 + number, zombie.start_time.0 + u64::from(number));
            zombie
        };
        let mut zombies: Vec<_> = (0..3_000).map(alike).collect();
        zombies.push(fixture::shown(&fixture::adopted()));
        let page = Page { width: Some(100), colour: false };
        assert!(shares_rows(zombies.len(), &page) && !shares_rows(zombies.len(), &wide()));
        assert!(!shares_rows(ROWS, &page));
        assert_eq!(
            table(Source::Daemon, &zombies, true, &page),
            concat!(
                "COUNT  PID HOLDER     FORKER                  AGE EXIT    CAUSE        WORKLOAD     COMM\n",
                " 3000 5000 app(4700)  holder                   5s 0       never-waited 3f2a9c0d1e4b sh\n",
                "    1 4712 tini(4700) chromedriver(4600) gone  5s SIGSEGV adopted      3f2a9c0d1e4b chrome\n",
            )
        );
        let narrow = table(Source::Daemon, &zombies, true, &Page { width: Some(80), colour: false });
        assert!(narrow.starts_with("COUNT ") && narrow.lines().all(|line| line.width() <= 80), "{narrow}");
    }

    #[test]
    fn a_census_claims_no_age() {
        let zombies = [fixture::shown(&fixture::predating())];
        assert!(table(Source::Census, &zombies, false, &wide()).contains(" - 0 "));
        assert!(table(Source::Daemon, &zombies, false, &wide()).contains(" 4m12s+ 0 "));
    }

    #[test]
    fn no_hostile_byte_is_in_a_table() {
        let text = table(Source::Daemon, &[fixture::shown(&fixture::hostile())], false, &wide());
        assert_eq!(text.lines().count(), 2);
        assert!(!text.replace('\n', "").chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }

    #[test]
    fn a_list_says_where_it_is_from() {
        assert_eq!(Source::Daemon.sentence(2), "2 zombies, from the running daemon");
        assert_eq!(Source::Census.sentence(1), "1 zombie, by a census: ages before this moment are unknown");
        assert_eq!(table(Source::Census, &[], false, &wide()), "");
    }
}
