//! One workload: how it stands to its limits, and its zombies by holder, cause and leak site.

use ratatui::text::Line;

use super::{
    super::{
        groups::Group,
        state::{Opened, State},
    },
    Look, above,
    table::{Column, table},
};
use crate::report::words;

/// With how many rows there is room for.
pub(super) fn lines(
    state: &State,
    opened: &Opened,
    size: (usize, usize),
    look: Look,
) -> (Vec<Line<'static>>, usize) {
    let (width, height) = size;
    let mut said = words::wrap("", &opened.row.workload.shown(), 2, width);
    if opened.is_told {
        said.extend(words::headroom(&opened.row).iter().flat_map(|line| words::wrap("  ", line, 4, width)));
    } else {
        said.extend(words::wrap("  ", "the daemon tells no more of it: it has no zombies", 4, width));
    }
    let (groups, selected) = state.groups().unwrap_or_default();
    let mut lines = above(said, groups.len(), height, look);
    let rest = (width, height.saturating_sub(lines.len()));
    if groups.is_empty() {
        let text =
            if state.groups().is_some() { "none of its zombies stands" } else { "asking for its zombies" };
        lines.push(Line::raw(words::cut(text, width)));
        return (lines, 1);
    }
    lines.extend(table(&columns(), &groups, selected, rest, look, |_| Default::default()));
    (lines, rest.1.saturating_sub(1))
}

fn columns<'a>() -> Vec<Column<Group<'a>>> {
    vec![
        Column::new("ZOMBIES", 7, 7, |group: &Group<'a>, _| group.zombies.len().to_string()).core().right(),
        Column::new("HOLDER", 14, 18, |group: &Group<'a>, room| words::process(&group.oldest.holder, room))
            .core(),
        Column::new("CAUSE", 12, 14, |group: &Group<'a>, _| group.key.cause.as_str().to_owned()).core(),
        Column::new("OLDEST", 7, 7, |group: &Group<'a>, _| words::age(group.oldest)).right(),
        Column::new("LEAK SITE", 20, 20, site).flexible(),
    ]
}

fn site(group: &Group<'_>, room: usize) -> String {
    let zombie = group.oldest;
    zombie
        .origin
        .as_ref()
        .map_or_else(|| "-".to_owned(), |origin| words::place(origin.quality, origin, &zombie.comm, room))
}
