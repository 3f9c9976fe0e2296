//! All that is known of one workload or zombie. Nothing is cut: what is longer than a line goes on in the next one.

use ratatui::{style::Style, text::Line};
use unicode_width::UnicodeWidthChar as _;

use super::{
    super::whole::{Of, Whole},
    Look,
};
use crate::report::{HeadroomEvent, ZombieEvent, words};

/// The text stands behind this.
const INDENT: usize = 11;

pub(super) fn lines(whole: &Whole, width: usize, look: Look) -> Vec<Line<'static>> {
    let (head, said, gone) = match &whole.of {
        Of::Workload(row) => {
            (row.workload.shown(), workload(row), "It is told of no more: it has no zombies.")
        }
        Of::Zombie(zombie) => {
            let head = format!("zombie {} ({})", zombie.pid, zombie.comm);
            (head, story(zombie), "It is gone; this is what was known of it.")
        }
    };
    let styled = |style: Style| move |line: String| Line::styled(line, style);
    let mut lines: Vec<_> = fold(&head, 2, width).into_iter().map(styled(look.head())).collect();
    if !whole.is_told {
        lines.extend(fold(gone, 2, width).into_iter().map(styled(look.pressing())));
    }
    lines.extend(said.iter().flat_map(|(line, indent)| fold(line, *indent, width)).map(Line::raw));
    lines
}

/// Lines, and what those that go on are indented by.
type Said = Vec<(String, usize)>;

fn labelled(label: &str, text: &str) -> (String, usize) {
    (format!("{label:<INDENT$}{text}"), INDENT)
}

fn workload(row: &HeadroomEvent) -> Said {
    let mut said = vec![labelled("Workload", &row.workload.whole())];
    for (place, sentence) in words::headroom(row).iter().enumerate() {
        said.push(labelled(["Zombies", "Headroom", ""][place.min(2)], sentence));
    }
    said
}

fn story(zombie: &ZombieEvent) -> Said {
    let command = zombie.cmdline.as_ref().map_or_else(|| "not known".to_owned(), ToString::to_string);
    let state = zombie.holder.state.map(|state| format!(" (state {state})")).unwrap_or_default();
    let holder = words::process(&zombie.holder, usize::MAX);
    let holder_command = zombie.holder.cmdline.as_ref().map(|line| format!(": {line}")).unwrap_or_default();
    let cause = zombie.cause;
    let mut said = vec![
        labelled("Command", &command),
        labelled("Age", &words::age(zombie)),
        labelled("Exit", &words::exit(zombie.exit)),
        labelled("Holder", &format!("{holder}{state}{holder_command}")),
        labelled("Cause", &format!("{}: {}", cause.as_str(), words::meaning(cause))),
    ];
    let evidence = words::evidence(zombie).join("; ");
    if !evidence.is_empty() {
        said.push(labelled("Evidence", &evidence));
    }
    said.push(labelled("Workload", &zombie.workload.whole()));
    match &zombie.origin {
        Some(origin) => {
            said.push(labelled("Leak site", &origin.site.to_string()));
            said.extend(origin.lines(&zombie.comm, usize::MAX).into_iter().map(|line| (line, 6)));
        }
        None => said.push(labelled("Leak site", "where it comes from is not known")),
    }
    let more = format!("reaper explain {} also says what the rules say, and what to do", zombie.pid);
    said.push(labelled("More", &more));
    said
}

/// A line in as many as it takes, parted between words where one begins not far before, the first as it is and others indented.
pub(super) fn fold(line: &str, indent: usize, width: usize) -> Vec<String> {
    let indent = indent.min(width / 2);
    let (mut lines, mut own, mut wide) = (Vec::new(), String::new(), 0);
    // Where it can be parted: behind the last blank that is not of the indentation.
    let mut blank = None;
    for character in line.chars() {
        let next = character.width().unwrap_or(0);
        if wide + next > width.max(2) {
            let near = blank.filter(|place| own.len() - place <= width / 2);
            let rest = near.map_or_else(String::new, |place| own.split_off(place));
            lines.push(own.trim_end().to_owned());
            own = " ".repeat(indent) + &rest;
            wide = indent + rest.chars().filter_map(|character| character.width()).sum::<usize>();
            blank = None;
            if character == ' ' && rest.is_empty() {
                continue;
            }
        }
        own.push(character);
        wide += next;
        if character == ' ' && !own.trim().is_empty() {
            blank = Some(own.len());
        }
    }
    lines.push(own);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_folded_line_is_lost_and_none_is_wider() {
        for (line, indent, width, folded) in [
            ("Command    one two three four", 10, 20, vec!["Command    one two", "          three four"]),
            ("ab cd", 2, 40, vec!["ab cd"]),
            ("", 2, 10, vec![""]),
            ("0123456789abcdef", 2, 10, vec!["0123456789", "  abcdef"]),
            ("x 0123456789abcdef", 2, 10, vec!["x 01234567", "  89abcdef"]),
            ("日本語日本語", 2, 7, vec!["日本語", "  日本", "  語"]),
        ] {
            assert_eq!(fold(line, indent, width), folded);
        }
        let long = format!("Command    {}", (0..200).map(|n| format!("--argument={n} ")).collect::<String>());
        for width in [1, 2, 5, 13, 40, 80, 500] {
            let lines = fold(&long, INDENT, width);
            let all: String = lines.concat().split_whitespace().collect();
            assert_eq!(all, long.split_whitespace().collect::<String>(), "{width}");
            assert!(lines.iter().all(|line| line.chars().count() <= width.max(2)), "{width}: {lines:?}");
        }
    }
}
