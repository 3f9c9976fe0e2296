//! Columns for a stream: laid out once for a width, since nobody knows the rows to come.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Utc,
    /// How many alike a row stands for.
    Count,
    Pid,
    Holder,
    Forker,
    Age,
    Exit,
    Cause,
    Workload,
    Comm,
}

impl Column {
    pub(super) const fn head(self) -> &'static str {
        match self {
            Self::Utc => "UTC",
            Self::Count => "COUNT",
            Self::Pid => "PID",
            Self::Holder => "HOLDER",
            Self::Forker => "FORKER",
            Self::Age => "AGE",
            Self::Exit => "EXIT",
            Self::Cause => "CAUSE",
            Self::Workload => "WORKLOAD",
            Self::Comm => "COMM",
        }
    }

    pub(super) const fn right_aligned(self) -> bool {
        matches!(self, Self::Count | Self::Pid | Self::Age)
    }
}

/// The columns for one width, with a blank between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns(Vec<(Column, usize)>);

/// What fits 80 columns.
const NARROW: [(Column, usize); 8] = [
    (Column::Utc, 8),
    (Column::Pid, 7),
    (Column::Holder, 11),
    (Column::Age, 7),
    (Column::Exit, 7),
    (Column::Cause, 14),
    (Column::Workload, 12),
    (Column::Comm, 7),
];

/// Dropped in this order where there is less room than that.
const LEAST_IMPORTANT: [Column; 4] = [Column::Utc, Column::Exit, Column::Age, Column::Workload];

/// Widened in this order, up to that width, where there is more.
const MOST_WANTING: [(Column, usize); 9] = [
    (Column::Comm, 15),
    (Column::Cause, 22),
    (Column::Holder, 17),
    (Column::Forker, 12),
    (Column::Workload, 17),
    (Column::Exit, 9),
    (Column::Forker, 24),
    (Column::Workload, 40),
    // A name has 15 bytes, and four times as many places where all of them are escaped.
    (Column::Comm, 60),
];

impl Columns {
    pub(super) fn for_width(width: usize) -> Self {
        let mut columns = Self(NARROW.to_vec());
        for least in LEAST_IMPORTANT {
            if columns.width() > width {
                columns.0.retain(|(column, _)| *column != least);
            }
        }
        for (wanting, wanted) in MOST_WANTING {
            let spare = width.saturating_sub(columns.width());
            if let Some((_, now)) = columns.0.iter_mut().find(|(column, _)| *column == wanting) {
                *now = wanted.min(*now + spare).max(*now);
            } else if wanting == Column::Forker && spare > wanted {
                let place = columns
                    .0
                    .iter()
                    .position(|(column, _)| *column == Column::Holder)
                    .map_or(0, |holder| holder + 1);
                columns.0.insert(place, (wanting, wanted));
            }
        }
        columns
    }

    /// The columns of a list: it was made at one moment.
    pub(super) fn without_time(width: usize) -> Self {
        let utc = NARROW[0].1 + 1;
        let mut columns = Self::for_width(width.saturating_add(utc));
        columns.0.retain(|(column, _)| *column != Column::Utc);
        if columns.width() > width { Self::for_width(width) } else { columns }
    }

    /// With how many a row stands for in front, which are at most seven digits.
    pub(super) fn with_count(width: usize) -> Self {
        let count = (Column::Count, 7);
        let mut columns = Self::without_time(width.saturating_sub(count.1 + 1));
        columns.0.insert(0, count);
        columns
    }

    pub(super) fn as_slice(&self) -> &[(Column, usize)] {
        &self.0
    }

    fn width(&self) -> usize {
        self.0.iter().map(|(_, width)| width + 1).sum::<usize>().saturating_sub(1)
    }

    /// A row: `cell` gets a column and its width and returns the text, which is cut or padded to fit. `paint` may
    /// wrap what is ready.
    pub(super) fn row(
        &self,
        cell: impl Fn(Column, usize) -> String,
        paint: impl Fn(Column, String) -> String,
    ) -> String {
        let mut row = String::new();
        for (place, (column, width)) in self.0.iter().enumerate() {
            let text = cut(&cell(*column, *width), *width);
            let blanks = " ".repeat(width.saturating_sub(text.width()));
            let last = place + 1 == self.0.len();
            let ready = paint(*column, text);
            match (column.right_aligned(), last) {
                (true, _) => row.extend([blanks.as_str(), &ready]),
                (false, false) => row.extend([&ready, blanks.as_str()]),
                (false, true) => row.push_str(&ready),
            }
            if !last {
                row.push(' ');
            }
        }
        row
    }
}

/// The text, cut to so many places on a terminal; the cut shows as `…`.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut left = width.saturating_sub(1);
    for character in text.chars() {
        let wide = character.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        out.push(character);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// The text in lines of at most `width`, broken between words; the first begins with `first`, the others are
/// indented by `indent`.
pub(crate) fn wrap(first: &str, text: &str, indent: usize, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut blank = true;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if !blank && line.width() + 1 + word.width() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            blank = true;
        }
        if !blank {
            line.push(' ');
        }
        line.push_str(&cut(word, width.saturating_sub(line.width())));
        blank = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_down_to_the_least_is_kept_to() {
        for width in 43..250 {
            let columns = Columns::for_width(width);
            assert!(columns.width() <= width, "{width}: {columns:?}");
        }
        assert_eq!(Columns::for_width(80), Columns(NARROW.to_vec()));
    }

    #[test]
    fn the_forker_comes_with_a_wide_terminal() {
        let has_forker =
            |width| Columns::for_width(width).0.iter().any(|(column, _)| *column == Column::Forker);
        assert!(!has_forker(80));
        assert!(has_forker(120));
    }

    #[test]
    fn a_cut_counts_places_not_bytes() {
        assert_eq!(cut("chromedriver", 6), "chrom…");
        assert_eq!(cut("进程进程", 5), "进程…");
        assert_eq!(cut("进程进程", 4), "进…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn wrapped_lines_fit_and_lose_nothing_but_the_end_of_long_words() {
        let lines = wrap("  ", "no wait seen in 2.5s; pid 7 to its holder", 4, 24);
        assert_eq!(lines, ["  no wait seen in 2.5s;", "    pid 7 to its holder"]);
        assert_eq!(wrap("", &"x".repeat(30), 0, 10), [format!("{}…", "x".repeat(9))]);
    }
}
