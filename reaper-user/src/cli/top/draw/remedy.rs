//! A remedy by hand: the command that does it, what it would do, and what it did.

use std::time::{Duration, Instant};

use ratatui::text::Line;

use super::{
    super::pane::{Remedy, Stage},
    Look,
};
use crate::report::{shown, words::wrap};

pub(super) fn lines(remedy: &Remedy, width: usize, look: Look, now: Instant) -> Vec<Line<'static>> {
    let since = |begun: Instant| shown(Duration::from_secs(now.saturating_duration_since(begun).as_secs()));
    let mut lines = Vec::new();
    let mut say = |text: &str, style| {
        lines.extend(wrap("", text, 2, width).into_iter().map(|line| Line::styled(line, style)));
    };
    let plain = Default::default();
    say(&remedy.order.command(), look.head());
    match &remedy.stage {
        Stage::NotAllowed => {
            say(
                "It is not done from here: start `reaper top --allow-remedies` for that, or type it. With --dry-run it only says what it would do.",
                plain,
            );
        }
        Stage::Trying(begun) => {
            say(
                &format!("Its dry run watches the holder's wait calls for some seconds: {}", since(*begun)),
                plain,
            );
        }
        Stage::Tried(said, _) => {
            said.lines.iter().for_each(|line| say(line, plain));
            if said.is_offered(&remedy.order) {
                say("Do it? y: yes, Esc: no", look.pressing());
            } else {
                say(said.why_not(&remedy.order), look.head());
            }
        }
        Stage::Doing(begun) => {
            say(
                &format!(
                    "It is being done, after another look at the holder's wait calls: {}",
                    since(*begun)
                ),
                plain,
            );
        }
        Stage::Done(said) => said.lines.iter().for_each(|line| say(line, plain)),
    }
    if let (Stage::NotAllowed | Stage::Tried(..), Some(command)) =
        (&remedy.stage, remedy.order.with_consent())
    {
        say(
            "Zombies of this cause are only touched where it is accepted that their parent may ask for a status that is gone. That is said on the command line:",
            plain,
        );
        say(&command, plain);
    }
    lines
}
