//! What the keys do, and what the columns mean.

use ratatui::text::Line;

use super::super::state::State;
use crate::report::words::wrap;

/// What stands in front of an explanation.
const INDENT: usize = 11;

const KEYS: [(&str, &str); 11] = [
    ("↑ ↓ k j", "select, or scroll; PgUp and PgDn (space) go further, Home and End (g G) to the ends"),
    (
        "Enter →",
        "open: a workload, then its zombies of one holder, cause and leak site, then one of these in full",
    ),
    ("Esc ←", "back"),
    ("/", "list the workloads that have in their name what is typed; Enter keeps it, Esc lists all again"),
    ("d", "read in full: the workload, or the zombie with its command line and the whole stack"),
    ("z r h f n", "sort by zombies, rate, headroom, forecast, name; once more: the other way round"),
    ("x", "reap by hand what is selected in an opened workload"),
    ("Ctrl-L", "draw all of it anew"),
    ("Ctrl-Z", "stop it until the shell's fg"),
    ("?", "this"),
    ("q Ctrl-C", "quit"),
];

const COLUMNS: [(&str, &str); 5] = [
    ("ZOMBIES", "of any age, in the workload's cgroup and below"),
    ("RATE", "how fast they become more"),
    ("FREE", "the part of the nearest limit on processes that is left"),
    ("FULL IN", "when nothing is, and two standard errors of that; - where it cannot be said"),
    ("LEAK SITE", "how good it is, and the line that forked them; else who forked whom"),
];

pub(super) fn lines(state: &State, width: usize) -> Vec<Line<'static>> {
    let reaping = if state.settings.allow_remedies {
        "what it would do is shown first, and done when y is pressed"
    } else {
        "off: only the command is shown, without --allow-remedies"
    };
    let explained = KEYS.iter().map(|(key, what)| match *key {
        "x" => (*key, format!("{what}: {reaping}")),
        key => (key, (*what).to_owned()),
    });
    let columns = COLUMNS.iter().map(|(head, what)| (*head, (*what).to_owned()));
    let line = |(key, what): (&str, String)| wrap(&format!("{key:<INDENT$}"), &what, INDENT, width);
    let (keys, columns) = (explained.flat_map(line), columns.flat_map(line));
    keys.chain([String::new()]).chain(columns).map(Line::raw).collect()
}
