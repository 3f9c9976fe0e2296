//! Text in columns.

/// Where the cells of a column stand, but for the first, which is at the left.
#[derive(Clone, Copy)]
pub(crate) enum Cells {
    Left,
    /// Numbers, under each other.
    Right,
}

/// A line a row, each column as wide as its widest cell and two blanks from the next.
pub(crate) fn aligned(rows: &[Vec<String>], cells: Cells) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let padded = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match cells {
            Cells::Right if column > 0 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["name", "µs"], ["a", "1234"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows, Cells::Right), "name    µs\na     1234\n");
        assert_eq!(aligned(&rows, Cells::Left), "name  µs\na     1234\n");
    }
}
