//! What was measured, in columns, and whether it is enough.

use crate::table::{Cells, aligned};

/// Indented, so that the line above it stands out.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    pub(super) fn print(&self) {
        for line in aligned(&self.rows, Cells::Right).lines() {
            println!("  {line}");
        }
    }
}

/// Says whether a number is within its target.
pub(super) fn verdict(what: &str, value: f64, limit: f64) {
    let reached = if value <= limit { "reached" } else { "MISSED" };
    let digits = if limit < 0.1 { 5 } else { 3 };
    println!("  {what}: {value:.digits$}, target at most {limit}: {reached}");
}
