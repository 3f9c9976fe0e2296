//! `reaper headroom` for people: a row for each workload, and one of them in full.

use comfy_table::{CellAlignment, Table, presets};
use unicode_width::UnicodeWidthStr as _;

use super::{
    super::{
        columns::{cut, wrap},
        listing::Source,
        reporter::Page,
    },
    HeadroomEvent, ShownLimit,
    words::{free_cell, left, rate_cell, refusals, sentences},
};

/// Columns of a page whose width is not known.
const WIDTH: usize = 120;

/// Names are not wider, and not narrower where there is little room.
const NAME: usize = 40;
const NARROW_NAME: usize = 14;

/// Whom the nearest limit is of.
fn where_of(limit: &ShownLimit, room: usize) -> String {
    match &limit.cgroup {
        // The end of a path tells more than its beginning.
        Some(cgroup) if cgroup.as_str().width() > room => {
            let mut text = cgroup.as_str();
            while text.width() + 1 > room {
                let mut characters = text.chars();
                characters.next();
                text = characters.as_str();
            }
            format!("…{text}")
        }
        Some(cgroup) => cgroup.to_string(),
        None => limit.kind.name().to_owned(),
    }
}

/// The rows with their heads, the one that is full first on top.
pub(in crate::report) fn table(source: Source, rows: &[HeadroomEvent], page: &Page) -> String {
    let width = page.width.unwrap_or(WIDTH);
    let head = match (rows.len(), source) {
        (0, _) => "no workload has zombies".to_owned(),
        (_, Source::Daemon) => "limits on processes, from the running daemon".to_owned(),
        (_, Source::Census) => {
            "limits on processes, by a census: without a daemon there is no forecast".to_owned()
        }
    };
    let mut text = wrap("", &head, 2, width).join("\n") + "\n";
    if rows.is_empty() {
        return text;
    }
    let mut sorted: Vec<_> = rows.iter().collect();
    let key = |row: &&HeadroomEvent| {
        (row.exhaustion().map_or(f64::MAX, |of| of.seconds.0.as_secs_f64()), row.free())
    };
    sorted.sort_by(|one, other| {
        let ((first, free), (second, other_free)) = (key(one), key(other));
        first.total_cmp(&second).then(free.unwrap_or(1.0).total_cmp(&other_free.unwrap_or(1.0)))
    });
    let cells = |row: &HeadroomEvent, name: usize, place: usize| {
        let nearest = row.nearest();
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let full = row.exhaustion().map_or_else(|| "-".to_owned(), left);
        [
            cut(&row.workload.shown_within(name), name),
            row.zombies.to_string(),
            rate_cell(row),
            number(nearest.and_then(|limit| limit.used)),
            number(nearest.and_then(|limit| limit.limit)),
            free_cell(row),
            full,
            nearest.map_or_else(|| "-".to_owned(), |limit| where_of(limit, place)),
        ]
    };
    let build = |name, place| {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["WORKLOAD", "ZOMBIES", "RATE", "USED", "LIMIT", "FREE", "FULL IN", "LIMIT OF"]);
        for row in &sorted {
            table.add_row(cells(row, name, place));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
        }
        for number in [1, 2, 3, 4, 5, 6] {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    };
    let widest = |text: &str| text.lines().map(|line| line.width()).max().unwrap_or(0);
    // Names and places give way until it fits.
    let (mut name, mut place) = (NAME, NAME);
    let mut body = build(name, place);
    while widest(&body) > width && (name > NARROW_NAME || place > 1) {
        if place > NARROW_NAME || name <= NARROW_NAME {
            place -= 1;
        } else {
            name -= 1;
        }
        body = build(name, place);
    }
    for line in body.lines() {
        text += cut(line, width).trim_end();
        text.push('\n');
    }
    for said in sorted.iter().filter_map(|row| refusals(row)) {
        text += &(wrap("", &said, 2, width).join("\n") + "\n");
    }
    text
}

/// One of them in full.
pub(in crate::report) fn whole(row: &HeadroomEvent, page: &Page) -> String {
    let width = page.width.unwrap_or(WIDTH);
    let mut lines = wrap("", &row.workload.whole(), 2, width);
    for line in sentences(row) {
        lines.extend(wrap("  ", &line, 4, width));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::headroom;

    fn page(width: usize) -> Page {
        Page { width: Some(width), colour: false }
    }

    #[test]
    fn the_table_fits_and_says_when_what_is_full() {
        let rows = [
            headroom::fixture::one(),
            HeadroomEvent { rate: None, nearest: None, ..headroom::fixture::one() },
            headroom::fixture::full(),
        ];
        for width in [80, 100, 200] {
            let text = table(Source::Daemon, &rows, &page(width));
            assert!(text.lines().all(|line| line.width() <= width), "{width}:\n{text}");
            // The one that is full now is on top.
            let lines: Vec<_> = text.lines().skip(2).collect();
            for (row, parts) in [
                (lines[0], &["4096 4096", " 0% now "][..]),
                (lines[1], &["3000", "1.9/s", "3042", "4096", "26%", "9m14s ± 1m"]),
            ] {
                let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
                for part in parts {
                    assert!(row.contains(part), "{part} is not in {row}");
                }
            }
        }
        let text = table(Source::Daemon, &rows, &page(200));
        assert!(text.contains("/kubepods.slice/kubepods-pod5f1c.slice"), "{text}");
        assert_eq!(table(Source::Daemon, &[], &page(80)), "no workload has zombies\n");
    }

    #[test]
    fn one_of_them_is_told_in_full() {
        let text = whole(&headroom::fixture::one(), &page(300));
        for part in [
            "full in 9m14s ± 1m at 1.9 zombies/s; limit: pids.max 4096 of /kubepods.slice/kubepods-pod5f1c.slice",
            "nearest: pids.max 4096 of /kubepods.slice/kubepods-pod5f1c.slice: 3042 used, 3000 of them zombies (99 %), 40 threads of 12 processes live",
            "kernel.pid_max 32768: 4000 used",
            "RLIMIT_NPROC 96365 of user 1000: how much of it is used the kernel does not show",
            "17 forks were refused",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
