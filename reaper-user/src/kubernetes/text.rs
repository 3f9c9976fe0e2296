//! What is said in words. It stands in an API that many may read: no command lines, and everything cut to what fits.

use super::tally::{Group, Place, Pressure};
use crate::{report::numbered, zombie::Cause};

/// The longest message, in bytes. The API takes no longer note.
const LONGEST: usize = 1_024;

/// The message of an Event.
pub(super) fn message(place: &Place, group: &Group) -> String {
    let Group { standing, holder, .. } = group;
    let zombies = numbered(*standing, "zombie", "zombies");
    let name =
        holder.comm.as_ref().map_or_else(|| "a process that is gone".to_owned(), |comm| format!("`{comm}`"));
    let pid = holder.pid;
    let holder = format!("{name} (pid {pid} on the node)");
    let (why, cure) = words(place.cause);
    cut(format!("{zombies}, cause {}: {holder} {why}; {cure}", place.cause.as_str()))
}

/// What the holder does wrong, and the cure.
const fn words(cause: Cause) -> (&'static str, &'static str) {
    match cause {
        Cause::Adopted => (
            "was given orphans and does not wait for strangers",
            "run an init (such as tini) as the container's first process, or set shareProcessNamespace",
        ),
        Cause::Inherited => (
            "has become another program since it forked them, and that never knew them",
            "wait before exec, or run an init (such as tini) as the container's first process",
        ),
        Cause::NeverWaited => {
            ("forked them and does not wait for them", "`reaper leaks` on the node names the line of code")
        }
        Cause::NotificationCoalesced => (
            "waits once for each SIGCHLD, and several of those were merged into one",
            "wait in a loop until no dead child is left",
        ),
        Cause::HolderStopped => ("is stopped and so cannot wait for them", "let it run on, or end it"),
        Cause::HeldByTracer => {
            ("cannot wait for them while a debugger holds them", "let the debugger go on, or end it")
        }
        Cause::NamespaceDying => {
            ("holds them, and the pid namespace they are in cannot end before they go", "end the holder")
        }
        Cause::Unknown => {
            ("holds them; they are older than what was recorded", "`reaper explain` on the node says more")
        }
    }
}

/// The reason and the message of the node's condition.
pub(super) fn condition(pressure: &Pressure, most: Option<&str>) -> (&'static str, String) {
    let Pressure { is_high, standing, most: number } = pressure;
    let most = most.zip(number.as_ref()).map(|(name, (_, number))| format!(", {number} of them in {name}"));
    let zombies = numbered(*standing, "zombie stands", "zombies stand");
    let message = cut(format!("{zombies} on the node{}", most.unwrap_or_default()));
    (if *is_high { "ManyZombies" } else { "FewZombies" }, message)
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("é".repeat(512)), "é".repeat(512));
        let long = cut("é".repeat(513));
        assert!(long.len() <= LONGEST && long.ends_with("é…"), "{}", long.len());
    }
}
