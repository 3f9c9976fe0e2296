//! A table in whatever room there is: the most important columns first, the selected row always in sight.

use ratatui::{style::Style, text::Line};
use unicode_width::UnicodeWidthStr as _;

use super::Look;
use crate::report::words::cut;

/// In front of a row: whether it is selected, for those who see no reversed colours.
const GUTTER: [&str; 2] = ["  ", "> "];

/// A column.
pub(super) struct Column<R> {
    /// What stands above it.
    pub(super) head: String,
    /// Its width, at least and as it is wanted.
    pub(super) width: (usize, usize),
    /// Whether it is there even where others have less than they want.
    pub(super) core: bool,
    /// Whether it has what all others leave.
    pub(super) flexible: bool,
    pub(super) right: bool,
    /// What a row has there, which may depend on the room.
    pub(super) cell: fn(&R, usize) -> String,
}

impl<R> Column<R> {
    /// One that is aligned to the left and gives way where there is no room.
    pub(super) fn new(head: &str, least: usize, wanted: usize, cell: fn(&R, usize) -> String) -> Self {
        Self {
            head: head.to_owned(),
            width: (least, wanted),
            core: false,
            flexible: false,
            right: false,
            cell,
        }
    }

    pub(super) fn core(self) -> Self {
        Self { core: true, ..self }
    }

    pub(super) fn flexible(self) -> Self {
        Self { flexible: true, ..self }
    }

    pub(super) fn right(self) -> Self {
        Self { right: true, ..self }
    }
}

/// Rows under their heads in so many columns and lines of a terminal. `styled` says how a row looks.
pub(super) fn table<R>(
    columns: &[Column<R>],
    rows: &[R],
    selected: Option<usize>,
    (width, height): (usize, usize),
    look: Look,
    styled: impl Fn(&R) -> Style,
) -> Vec<Line<'static>> {
    let fitting = fit(columns, width);
    let line = |gutter: &str, text: &dyn Fn(&Column<R>, usize) -> String| {
        let mut line = gutter.to_owned();
        for (place, (column, wide)) in fitting.iter().enumerate() {
            let text = cut(&text(column, *wide), *wide);
            let blanks = " ".repeat(wide.saturating_sub(text.width()));
            line.push_str(if place > 0 { " " } else { "" });
            line.push_str(&if column.right { blanks + &text } else { text + &blanks });
        }
        cut(&line, width)
    };
    let mut lines = vec![Line::styled(line(GUTTER[0], &|column, _| column.head.clone()), look.head())];
    let room = height.saturating_sub(1);
    let from = first(rows.len(), room, selected);
    for (place, row) in rows.iter().enumerate().skip(from).take(room) {
        let is_selected = selected == Some(place);
        let style = if is_selected { look.selected(styled(row)) } else { styled(row) };
        let text = line(GUTTER[usize::from(is_selected)], &|column, wide| (column.cell)(row, wide));
        lines.push(Line::styled(text, style));
    }
    lines.truncate(height);
    lines
}

/// The first row that is shown: the selected one is in the middle, or nearer to an end where the rows end there.
fn first(rows: usize, room: usize, selected: Option<usize>) -> usize {
    selected.unwrap_or(0).saturating_sub(room / 2).min(rows.saturating_sub(room))
}

/// Which columns there are in so much room, and how wide: first the core, as narrow as it may be; then one after another as long as all
/// that are there have what they want.
fn fit<R>(columns: &[Column<R>], width: usize) -> Vec<(&Column<R>, usize)> {
    let room = width.saturating_sub(GUTTER[0].width());
    let mut taken: Vec<bool> = vec![false; columns.len()];
    let needs = |taken: &[bool], wide: fn(&Column<R>) -> usize| {
        let of_taken = columns.iter().zip(taken).filter(|(_, taken)| **taken);
        of_taken.map(|(column, _)| wide(column) + 1).sum::<usize>().saturating_sub(1)
    };
    for core in [true, false] {
        for (place, column) in columns.iter().enumerate().filter(|(_, column)| column.core == core) {
            let before = if core {
                needs(&taken, |column| column.width.0)
            } else {
                needs(&taken, |column| column.width.1)
            };
            let gap = usize::from(before > 0);
            if before + gap + column.width.0 <= room || before == 0 {
                taken[place] = true;
            }
        }
    }
    let mut fitting: Vec<(&Column<R>, usize)> = columns
        .iter()
        .zip(&taken)
        .filter(|(_, taken)| **taken)
        .map(|(column, _)| (column, column.width.0))
        .collect();
    let mut spare = room.saturating_sub(needs(&taken, |column| column.width.0));
    for (column, wide) in &mut fitting {
        let more = column.width.1.saturating_sub(*wide).min(spare);
        *wide += more;
        spare -= more;
    }
    if let Some((_, wide)) = fitting.iter_mut().find(|(column, _)| column.flexible) {
        *wide += spare;
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column<u32>> {
        let cell = |row: &u32, _: usize| row.to_string();
        vec![
            Column::new("NAME", 6, 10, cell).core().flexible(),
            Column::new("COUNT", 5, 5, cell).core().right(),
            Column::new("MORE", 4, 8, cell),
            Column::new("LAST", 4, 4, cell),
        ]
    }

    fn heads(width: usize) -> Vec<(String, usize)> {
        fit(&columns(), width).into_iter().map(|(column, wide)| (column.head.clone(), wide)).collect()
    }

    #[test]
    fn the_core_stays_and_others_come_when_all_have_what_they_want() {
        let named = |wide: &[(&str, usize)]| {
            wide.iter().map(|(head, wide)| ((*head).to_owned(), *wide)).collect::<Vec<_>>()
        };
        assert_eq!(heads(4), named(&[("NAME", 6)]), "it is cut");
        assert_eq!(heads(14), named(&[("NAME", 6), ("COUNT", 5)]));
        assert_eq!(heads(20), named(&[("NAME", 12), ("COUNT", 5)]), "10 and 5 leave no room for MORE");
        assert_eq!(heads(23), named(&[("NAME", 10), ("COUNT", 5), ("MORE", 4)]));
        assert_eq!(heads(40), named(&[("NAME", 18), ("COUNT", 5), ("MORE", 8), ("LAST", 4)]));
    }

    #[test]
    fn the_selected_row_is_in_sight() {
        for rows in [0_usize, 1, 5, 1_000] {
            for room in [0, 1, 2, 20] {
                for selected in [0, rows / 2, rows.saturating_sub(1)] {
                    let from = first(rows, room, Some(selected));
                    assert!(
                        from <= selected && (selected < from + room || room == 0),
                        "{rows} {room} {selected}"
                    );
                    assert!(
                        from == 0 || from + room <= rows,
                        "no line is left empty: {rows} {room} {selected}"
                    );
                }
            }
        }
    }
}
