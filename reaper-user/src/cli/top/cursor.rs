//! Which row of a table is selected. It is the row that stays selected, wherever it moves: what is done about it is done to no other.

/// The selected row, by what it is.
#[derive(Clone, Debug)]
pub(super) struct Cursor<K> {
    row: Option<K>,
    place: usize,
}

impl<K> Default for Cursor<K> {
    fn default() -> Self {
        Self { row: None, place: 0 }
    }
}

impl<K: PartialEq + Clone> Cursor<K> {
    /// Where it is among these rows; `None` where there are none. Before somebody has chosen one, and where that is gone, it is at a
    /// place and not at a row.
    pub(super) fn place(&self, rows: &[K]) -> Option<usize> {
        let known = self.row.as_ref().and_then(|row| rows.iter().position(|other| other == row));
        known.or_else(|| rows.len().checked_sub(1).map(|last| self.place.min(last)))
    }

    /// Keeps to its row among these, or to the place where that was.
    pub(super) fn settle(&mut self, rows: &[K]) {
        if let (Some(_), Some(place)) = (&self.row, self.place(rows)) {
            self.go(rows, place);
        }
    }

    /// Goes so many rows down, or up where that is negative, and stays at the ends.
    pub(super) fn step(&mut self, rows: &[K], by: isize) {
        if let Some(place) = self.place(rows) {
            self.go(rows, place.saturating_add_signed(by));
        }
    }

    /// Goes to this row, wherever that is.
    pub(super) fn choose(&mut self, row: K) {
        self.row = Some(row);
    }

    /// Goes to the row at this place.
    pub(super) fn go(&mut self, rows: &[K], place: usize) {
        let place = place.min(rows.len().saturating_sub(1));
        self.row = rows.get(place).cloned();
        self.place = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_row_stays_chosen_where_it_moves_and_gives_way_to_its_neighbour_where_it_goes() {
        let mut cursor = Cursor::default();
        assert_eq!((cursor.place(&["a"]), cursor.place(&[])), (Some(0), None));
        // Nobody has chosen yet: the top is selected, whoever that is.
        assert_eq!(cursor.place(&["b", "a"]), Some(0));
        cursor.step(&["a", "b", "c"], 1);
        assert_eq!(cursor.place(&["b", "a", "c"]), Some(0), "it is b");
        cursor.settle(&["c", "a", "b"]);
        assert_eq!(cursor.place(&["c", "a", "b"]), Some(2));
        cursor.settle(&["c", "a"]);
        assert_eq!(cursor.place(&["c", "a"]), Some(1), "b was the last");
        assert_eq!(cursor.place(&["a", "c"]), Some(0), "it is a now");
    }

    #[test]
    fn steps_end_at_the_ends() {
        let (mut cursor, rows) = (Cursor::default(), [1, 2, 3]);
        for (by, place) in [(-1, 0), (10, 2), (1, 2), (-1, 1), (-10, 0)] {
            cursor.step(&rows, by);
            assert_eq!(cursor.place(&rows), Some(place), "{by}");
        }
        cursor.step(&[], 1);
        assert_eq!(cursor.place(&[]), None);
    }
}
