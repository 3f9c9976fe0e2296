//! The workloads, a row each.

use std::time::Duration;

use ratatui::text::Line;

use super::{
    super::{
        sort::{By, Sort},
        state::State,
    },
    Look,
    table::{Column, table},
};
use crate::report::{HeadroomEvent, shown, words};

/// Less is pressing: the part that is left, and the time until nothing is.
const PRESSING: (f64, Duration) = (0.1, Duration::from_secs(3_600));

/// Less is near.
const NEAR: (f64, Duration) = (0.25, Duration::from_secs(86_400));

/// With how many rows there is room for.
pub(super) fn lines(state: &State, size: (usize, usize), look: Look) -> (Vec<Line<'static>>, usize) {
    let (rows, selected) = state.workloads();
    let page = size.1.saturating_sub(1);
    if rows.is_empty() {
        let text = match state.all_workloads() {
            [] => "no workload has zombies older than half the age that is reported (`reaper run --age`)"
                .to_owned(),
            _ => format!("no workload has \"{}\" in its name", state.filter.shown()),
        };
        return (words::wrap("", &text, 0, size.0).into_iter().map(Line::raw).collect(), page);
    }
    let lines = table(&columns(state.sort), &rows, selected, size, look, |row| {
        let is_below = |(part, span): (f64, Duration)| {
            row.free().is_some_and(|free| free < part)
                || row.exhaustion().is_some_and(|exhaustion| exhaustion.seconds.0 < span)
        };
        if is_below(PRESSING) {
            look.pressing()
        } else if is_below(NEAR) {
            look.near()
        } else {
            Default::default()
        }
    });
    (lines, page)
}

fn columns<'a>(sort: Sort) -> Vec<Column<&'a HeadroomEvent>> {
    let head = |name: &str, by: By| {
        let mark = match sort {
            Sort { by: other, .. } if other != by => "",
            Sort { reversed: false, .. } => "▼",
            Sort { reversed: true, .. } => "▲",
        };
        format!("{name}{mark}")
    };
    vec![
        Column::new(&head("WORKLOAD", By::Name), 14, 26, name).core().flexible(),
        Column::new(&head("ZOMBIES", By::Zombies), 8, 8, |row: &&'a HeadroomEvent, _| {
            row.zombies.to_string()
        })
        .core()
        .right(),
        Column::new(&head("RATE", By::Rate), 8, 8, |row: &&'a HeadroomEvent, _| words::rate_cell(row))
            .right(),
        Column::new(&head("FREE", By::Headroom), 5, 5, |row: &&'a HeadroomEvent, _| words::free_cell(row))
            .core()
            .right(),
        Column::new(&head("FULL IN", By::Forecast), 8, 14, full_in).core().right(),
        Column::new("USED/LIMIT", 11, 11, used).right(),
        Column::new("HOLDER", 17, 22, holder),
        Column::new("CAUSE", 14, 22, |row: &&'a HeadroomEvent, _| {
            row.cause.map_or("-", |cause| cause.as_str()).to_owned()
        }),
    ]
}

fn name(row: &&HeadroomEvent, room: usize) -> String {
    row.workload.shown_within(room)
}

/// With how sure that is where there is room for it.
fn full_in(row: &&HeadroomEvent, room: usize) -> String {
    let Some(exhaustion) = row.exhaustion() else { return "-".to_owned() };
    let whole = words::left(exhaustion);
    if whole.chars().count() <= room { whole } else { shown(exhaustion.seconds.0) }
}

fn used(row: &&HeadroomEvent, _: usize) -> String {
    match row.nearest().map(|nearest| (nearest.used, nearest.limit)) {
        Some((Some(used), Some(limit))) => format!("{used}/{limit}"),
        _ => "-".to_owned(),
    }
}

fn holder(row: &&HeadroomEvent, room: usize) -> String {
    row.holder.as_ref().map_or_else(|| "-".to_owned(), |holder| words::process(holder, room))
}
