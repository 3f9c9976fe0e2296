//! Zombies that have holder, cause and leak site in common: what that is, in full, and each of them.

use ratatui::text::Line;

use super::{
    super::{
        groups::Group,
        state::{Opened, State},
    },
    Look, above,
    table::{Column, table},
};
use crate::report::{ZombieEvent, numbered, words};

/// With how many rows there is room for.
pub(super) fn lines(
    state: &State,
    opened: &Opened,
    size: (usize, usize),
    look: Look,
) -> (Vec<Line<'static>>, usize) {
    let (width, height) = size;
    let name = words::cut(&opened.row.workload.shown(), width);
    let Some((group, selected)) = state.group() else {
        let others =
            state.groups().map_or(0, |(groups, _)| groups.iter().map(|group| group.zombies.len()).sum());
        // They may stand: with another holder, or since their leak site is known.
        let text = format!(
            "no zombie has this holder, cause and leak site any more; the workload has {}",
            numbered(others, "zombie", "zombies")
        );
        let text = words::wrap("  ", &text, 2, width);
        return (std::iter::once(name).chain(text).map(Line::raw).collect(), 1);
    };
    let said = std::iter::once(name).chain(story(&group, width)).collect();
    let mut lines = above(said, group.zombies.len(), height, look);
    let rest = (width, height.saturating_sub(lines.len()));
    lines.extend(table(&columns(), &group.zombies, selected, rest, look, |_| Default::default()));
    (lines, rest.1.saturating_sub(1))
}

/// Who holds them, why they stand, and where they come from.
fn story(group: &Group<'_>, width: usize) -> Vec<String> {
    let zombie = group.oldest;
    let zombies = numbered(group.zombies.len(), "zombie", "zombies");
    let holder = words::process(&zombie.holder, usize::MAX);
    let state = zombie.holder.state.map(|state| format!(" (state {state})")).unwrap_or_default();
    let cause = group.key.cause;
    let head = format!("{zombies} of {holder}{state}: {}: {}", cause.as_str(), words::meaning(cause));
    let mut lines = words::wrap("  ", &head, 4, width);
    let evidence = words::evidence(zombie).join("; ");
    if !evidence.is_empty() {
        lines.extend(words::wrap("  ", &evidence, 4, width));
    }
    match &zombie.origin {
        Some(origin) => {
            lines.extend(words::wrap("  ", &format!("leak site {}", origin.site), 4, width));
            lines.extend(origin.lines(&zombie.comm, width));
        }
        None => lines.extend(words::wrap("  ", "where they come from is not known", 4, width)),
    }
    lines
}

fn columns<'a>() -> Vec<Column<&'a ZombieEvent>> {
    vec![
        Column::new("PID", 7, 7, |zombie: &&'a ZombieEvent, _| zombie.pid.to_string()).core().right(),
        Column::new("AGE", 7, 7, |zombie: &&'a ZombieEvent, _| words::age(zombie)).core().right(),
        Column::new("EXIT", 7, 9, |zombie: &&'a ZombieEvent, _| words::exit(zombie.exit)).core(),
        Column::new("COMM", 8, 16, |zombie: &&'a ZombieEvent, _| zombie.comm.to_string()).core(),
        Column::new("COMMAND LINE", 12, 12, command).flexible(),
    ]
}

fn command(zombie: &&ZombieEvent, _: usize) -> String {
    zombie.cmdline.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}
