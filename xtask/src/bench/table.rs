//! What was measured, in columns, and whether it is enough.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::table::{Cells, aligned};

/// Numbers that are not within their targets, of all parts.
static MISSED: AtomicUsize = AtomicUsize::new(0);

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
    // Also where it is no number.
    let reached = value <= limit;
    if !reached {
        MISSED.fetch_add(1, Ordering::Relaxed);
    }
    let digits = if limit < 0.1 { 5 } else { 3 };
    let reached = if reached { "reached" } else { "MISSED" };
    println!("  {what}: {value:.digits$}, target at most {limit}: {reached}");
}

/// How many of them were not, until now.
pub(super) fn missed() -> usize {
    MISSED.load(Ordering::Relaxed)
}
