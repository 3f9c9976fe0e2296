//! `reaper leaks`: leak sites as a table, and one of them in full.

use std::time::Duration;

use jiff::Timestamp;
use unicode_width::UnicodeWidthStr as _;

use super::{
    columns::{cut, wrap},
    numbered,
    origin::ShownOrigin,
    reporter::Page,
    site::{LeaksEvent, Qualities, SiteEvent, Window},
    span::shown,
};
use crate::{origin::Quality, text::Untrusted};

/// Columns of a page whose width is not known.
const WIDTH: usize = 120;

/// The name of a workload is not wider, and not wider than that where there is little room.
const WORKLOAD: usize = 40;
const NARROW_WORKLOAD: usize = 12;

/// What is left for the place of a leak at least, before the workload's name is cut.
const PLACE: usize = 40;

/// How people are shown them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaksView {
    /// All, as a table.
    All,
    /// Those of a workload or a span, likewise.
    Some,
    /// Each in full.
    Whole,
}

/// The sites with their heads, those that leak most first, and what is to be said beside them. Where that are only `some`, what was
/// counted of all is said to be of all.
pub(super) fn table(head: &LeaksEvent, sites: &[SiteEvent], some: bool, page: &Page) -> String {
    let width = page.width.unwrap_or(WIDTH);
    let mut lines = Vec::new();
    lines.extend(wrap("", &summary(head, sites), 0, width));
    if !sites.is_empty() {
        let mut sorted: Vec<_> = sites.iter().collect();
        sorted.sort_by_key(|site| std::cmp::Reverse((site.leaked(), site.standing, site.last_seen)));
        let counted = sites.iter().find_map(|site| site.since);
        let counted =
            counted.map_or_else(|| "TOTAL".to_owned(), |window| format!("IN {}", shown(window.seconds.0)));
        let heads = ["SITE", "STAND", &counted, "RATE", "LAST", "WORKLOAD"].map(str::to_owned);
        let mut rows = vec![heads];
        rows.extend(sorted.iter().map(|site| row(site)));
        let places = std::iter::once(None).chain(sorted.into_iter().map(Some));
        for (mut line, site) in aligned(&mut rows, width).into_iter().zip(places) {
            let room = width.saturating_sub(line.width());
            line.push_str(&site.map_or_else(|| cut("WHERE", room), |site| place(site, room)));
            lines.push(line.trim_end().to_owned());
        }
    }
    let notes = if some { [origins(of_sites(sites), " at these sites")].into() } else { Vec::new() };
    let all = if some { "of all workloads: " } else { "" };
    let notes = notes.into_iter().flatten().chain(self::notes(head, some).map(|note| format!("{all}{note}")));
    for note in notes {
        lines.extend(wrap("", &note, 2, width));
    }
    lines.join("\n") + "\n"
}

/// A site in full: counts, workload, chain and stack.
pub(super) fn whole(site: &SiteEvent, page: &Page) -> String {
    let width = page.width.unwrap_or(WIDTH);
    let SiteEvent { site: id, standing, total, first_seen, last_seen, windows, since, .. } = site;
    let counted: Vec<_> = windows
        .iter()
        .chain(since)
        .filter_map(|window| Some(format!("{} in {}", window.leaked?, shown(window.seconds.0))))
        .collect();
    let mut lines = wrap(
        "",
        &format!("site {id}: {standing} standing, {total} in all; {}", counted.join(", ")),
        2,
        width,
    );
    lines.extend(wrap(
        "  ",
        &format!("in {}; first seen {}, last {}", site.workload.shown(), day(*first_seen), day(*last_seen)),
        4,
        width,
    ));
    lines.extend(site.origin.lines(&site.comm, width));
    if site.quality != site.origin.quality {
        lines.extend(wrap("  ", &format!("others of them are {}", site.quality.as_str()), 4, width));
    }
    lines.join("\n") + "\n"
}

fn summary(head: &LeaksEvent, sites: &[SiteEvent]) -> String {
    let standing: u64 = sites.iter().map(|site| site.standing).sum();
    let number = match sites.len() {
        0 => "no leak sites".to_owned(),
        number => numbered(number, "leak site", "leak sites"),
    };
    let span = shown(since(head.counted_since, head.time));
    format!(
        "{number}, {standing} of their zombies stand; counted for {span}, since {}",
        day(head.counted_since)
    )
}

/// What the sites do not say: how good origins are, what gave way, and what has no stack.
fn notes(head: &LeaksEvent, some: bool) -> impl Iterator<Item = String> {
    let LeaksEvent { capacity, forgotten_sites, forgotten_zombies, qualities, .. } = head;
    let without = |forks: Option<u64>, one, many| {
        forks.filter(|forks| *forks > 0).map(|forks| numbered(forks, one, many))
    };
    let forgotten = (*forgotten_sites > 0).then(|| {
        format!(
            "{} with {} gave way to others: only {capacity} are kept ([origin] sites)",
            numbered(*forgotten_sites, "site", "sites"),
            numbered(*forgotten_zombies, "zombie", "zombies"),
        )
    });
    let notes = [
        if some { None } else { origins(*qualities, "") },
        without(
            head.unrecognized_forks,
            "fork was seen before its interpreter was recognized, and has no stack",
            "forks were seen before their interpreter was recognized, and have no stack",
        ),
        without(
            head.missed_forks,
            "fork has no Python stack, because none could be read (stack-missed: reaper check)",
            "forks have no Python stack, because none could be read (stack-missed: reaper check)",
        ),
        forgotten,
    ];
    notes.into_iter().flatten()
}

/// How good they are; `None` where there is none.
fn origins(qualities: Qualities, which: &str) -> Option<String> {
    let Qualities { exact, approximate, lineage_only, predates } = qualities;
    let counted = [
        (exact, Quality::Exact),
        (approximate, Quality::Approximate),
        (lineage_only, Quality::LineageOnly),
        (predates, Quality::Predates),
    ];
    let counted: Vec<_> = counted
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, quality)| format!("{count} {}", quality.as_str()))
        .collect();
    (!counted.is_empty()).then(|| format!("origins of zombies{which}: {}", counted.join(", ")))
}

/// Of what was asked for; those of one site count as the worst of them.
fn of_sites(sites: &[SiteEvent]) -> Qualities {
    let mut counted = Qualities::default();
    for site in sites {
        let count = match site.quality {
            Quality::Exact => &mut counted.exact,
            Quality::Approximate => &mut counted.approximate,
            Quality::LineageOnly => &mut counted.lineage_only,
            Quality::Predates => &mut counted.predates,
        };
        *count += site.leaked();
    }
    counted
}

fn row(site: &SiteEvent) -> [String; 6] {
    // An hour says more of a leak than a moment, and more of today than a day.
    let rated = site.since.or_else(|| site.windows.get(1).copied());
    [
        site.site.to_string(),
        site.standing.to_string(),
        site.leaked().to_string(),
        rated.map_or_else(|| "-".to_owned(), rate),
        shown(since(site.last_seen, site.time)),
        site.workload.shown(),
    ]
}

/// How good it is, and the frame to look at; without a stack, who forked whom, and via which line that was started.
pub(super) fn place(site: &SiteEvent, room: usize) -> String {
    place_of(site.quality, &site.origin, &site.comm, room)
}

/// The same of an origin.
pub(crate) fn place_of(quality: Quality, origin: &ShownOrigin, zombie: &Untrusted, room: usize) -> String {
    let quality = format!("{}: ", quality.as_str());
    let place = origin.place(zombie, room.saturating_sub(quality.width()));
    cut(&(quality + &place), room)
}

/// A rate in the unit in which it is more than one: `12/min`, `1.5/h`, `0.3/d`.
fn rate(window: Window) -> String {
    let Some(hourly) = window.per_hour else { return "-".to_owned() };
    let (number, unit) = match hourly {
        60.0.. => (hourly / 60.0, "min"),
        1.0.. => (hourly, "h"),
        _ => (hourly * 24.0, "d"),
    };
    match number {
        10.0.. => format!("{number:.0}/{unit}"),
        0.05.. => format!("{number:.1}/{unit}"),
        _ => "0".to_owned(),
    }
}

/// Columns as wide as what is in them; where there is not enough room, first the workload's name and then the place is cut.
fn aligned(rows: &mut [[String; 6]], width: usize) -> Vec<String> {
    const RIGHT: [bool; 6] = [false, true, true, true, true, false];
    let widest = |rows: &[[String; 6]], column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
    };
    let before: usize = (0..5).map(|column| widest(rows, column) + 1).sum();
    let room = width.saturating_sub(before + PLACE + 1).clamp(NARROW_WORKLOAD, WORKLOAD);
    for row in rows.iter_mut() {
        row[5] = cut(&row[5], room);
    }
    let widths: [usize; 6] = std::array::from_fn(|column| widest(rows, column));
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for ((cell, wide), right) in row.iter().zip(widths).zip(RIGHT) {
                let blanks = " ".repeat(wide.saturating_sub(cell.width()));
                line.push_str(&if right { blanks + cell } else { cell.clone() + &blanks });
                line.push(' ');
            }
            line
        })
        .collect()
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::Namer,
        report::{Seconds, fixture},
    };

    fn page(width: usize) -> Page {
        Page { width: Some(width), colour: false }
    }

    fn shown_table(width: usize, since: Option<Duration>) -> String {
        let (sites, now) = fixture::counted();
        let (head, sites) = LeaksEvent::list(&sites, since, now, &Namer::default());
        table(&head, &sites, since.is_some(), &page(width))
    }

    #[test]
    fn a_table_in_80_columns() {
        let text = shown_table(80, None);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "5 leak sites, 447 of their zombies stand; counted for 16m40s, since 2026-02-03",
                "14:03:07 UTC",
                "SITE     STAND TOTAL    RATE   LAST WORKLOAD     WHERE",
                "c699dddd   447   500  30/min     5s 3f2a9c0d1e4b exact: open_browser crawl.py:42",
                "4f6ff979     0    40 2.4/min 15m25s 3f2a9c0d1e4b approximate: leak_he… leak.c:12",
            ]
        );
        assert!(lines.iter().all(|line| line.width() <= 80), "{text}");
    }

    #[test]
    fn what_was_asked_for_is_what_is_counted() {
        let text = shown_table(100, Some(Duration::from_secs(60)));
        assert!(text.contains("STAND IN 1m "), "{text}");
        assert_eq!(text.matches("crawl.py:42").count(), 1, "{text}");
    }

    #[test]
    fn every_width_is_kept_to_and_no_hostile_byte_is_in_a_table() {
        for width in [60, 80, 120, 200] {
            let text = shown_table(width, None);
            assert!(text.lines().all(|line| line.width() <= width), "{width}\n{text}");
            let (sites, now) = fixture::counted();
            for site in LeaksEvent::list(&sites, None, now, &Namer::default()).1 {
                let text = text.clone() + &whole(&site, &page(width));
                assert!(text.lines().all(|line| line.width() <= width), "{width}\n{text}");
                assert!(
                    !text.replace('\n', "").chars().any(|c| c.is_control() || c == '\u{202e}'),
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn what_gave_way_how_good_origins_are_and_what_came_too_early_is_said() {
        let (sites, now) = fixture::counted();
        let (mut head, sites) = LeaksEvent::list(&sites, None, now, &Namer::default());
        (head.forgotten_sites, head.forgotten_zombies) = (7, 90);
        let text = table(&head, &sites, false, &page(200));
        for part in [
            "origins of zombies: 501 exact, 40 approximate, 3 lineage-only, 2 predates",
            "\n3 forks were seen before their interpreter was recognized",
            "\n1 fork has no Python stack, because none could be read (stack-missed: reaper check)",
            "7 sites with 90 zombies gave way to others: only 8 are kept ([origin] sites)",
            "lineage-only: chrome ← chromedriver --port=9515 ← python3 ← sh",
            "predates: chrome",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    /// Nobody shall read another workload's numbers as this one's.
    #[test]
    fn what_was_not_asked_for_is_not_counted_with_it() {
        let (sites, now) = fixture::counted();
        let (mut head, mut sites) = LeaksEvent::list(&sites, None, now, &Namer::default());
        (head.forgotten_sites, head.forgotten_zombies) = (7, 90);
        sites.retain(|site| [3, 40].contains(&site.total));
        let text = table(&head, &sites, true, &page(200));
        assert!(
            text.contains("\norigins of zombies at these sites: 40 approximate, 3 lineage-only\n"),
            "{text}"
        );
        assert!(!text.contains("501 exact"), "{text}");
        for part in ["3 forks were seen", "1 fork has no", "7 sites with 90"] {
            assert!(text.contains(&format!("\nof all workloads: {part}")), "{part}\n{text}");
        }
    }

    #[test]
    fn one_site_in_full_has_the_whole_stack() {
        let (sites, now) = fixture::counted();
        let (_, sites) = LeaksEvent::list(&sites, None, now, &Namer::default());
        let site = sites.iter().find(|site| site.total == 500).unwrap();
        let text = whole(site, &page(100));
        assert!(text.starts_with("site c699dddd: 447 standing, 500 in all; "), "{text}");
        assert!(text.contains("  exact Python stack of python3 (4500)\n"), "{text}");
        assert!(
            text.ends_with("  > open_browser /srv/crawl.py:42\n    <module> /srv/crawl.py:90\n"),
            "{text}"
        );
    }

    #[test]
    fn a_rate_is_in_the_unit_in_which_it_is_more_than_one() {
        let of = |per_hour| {
            rate(Window {
                seconds: Seconds(Duration::from_secs(1)),
                counted_seconds: None,
                leaked: None,
                per_hour,
            })
        };
        for (hourly, text) in [
            (720.0, "12/min"),
            (90.0, "1.5/min"),
            (59.0, "59/h"),
            (1.5, "1.5/h"),
            (0.5, "12/d"),
            (0.01, "0.2/d"),
            (0.0, "0"),
        ] {
            assert_eq!(of(Some(hourly)), text);
        }
        assert_eq!(of(None), "-");
    }
}
