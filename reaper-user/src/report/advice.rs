//! What a cause means, and what to do about it.

use super::{
    event::ZombieEvent,
    origin::{ShownOrigin, ShownStack},
};
use crate::{origin::Language, zombie::Cause};

/// What a cause means, as the end of a sentence that begins with its word.
pub(crate) const fn meaning(cause: Cause) -> &'static str {
    match cause {
        Cause::HeldByTracer => "a debugger has not waited for it, and keeps it from its parent until it does",
        Cause::NamespaceDying => "its pid namespace is being taken down, and cannot be while it stands",
        Cause::HolderStopped => "its holder does not run, and so cannot wait for it",
        Cause::Adopted => {
            "it was an orphan when it was given to its holder, which never knew it and does not wait for strangers"
        }
        Cause::Inherited => "its holder has become another program since, which never knew it",
        Cause::NotificationCoalesced => {
            "the signal that told of its death was merged into one that was pending: a handler that waits once for each signal \
             misses it"
        }
        Cause::NeverWaited => "its holder forked it and does not wait for it",
        Cause::Unknown => "the kernel no longer shows why: it is older than what was recorded",
    }
}

/// What to do about it, the cure first.
pub(super) fn advice(zombie: &ZombieEvent) -> Vec<String> {
    let (pid, holder) = (zombie.pid, zombie.holder.pid);
    match zombie.cause {
        Cause::HeldByTracer => {
            let tracer = zombie.evidence.tracer.as_ref().map_or_else(String::new, |tracer| format!(" ({})", tracer.pid));
            vec![format!("Let the debugger{tracer} go on, detach, or end it: then the holder can wait.")]
        }
        Cause::NamespaceDying => vec![
            format!("Make the holder ({holder}) wait for it, or end that: a process that was put into the namespace from outside (nsenter, exec) is held outside."),
        ],
        Cause::HolderStopped => vec![match zombie.holder.state {
            Some('D') => format!("Find out what the holder waits for in the kernel: cat /proc/{holder}/stack."),
            _ => format!("Let the holder go on: kill -CONT {holder}."),
        }],
        Cause::Adopted => vec![
            "Have an init as the container's first process that waits for orphans (docker run --init, tini, catatonit), or let the program that forks end its children before it ends itself.".to_owned(),
            format!("By hand: reaper reap {pid} --dry-run, then without. As a rule: match.cause = \"adopted\" with the remedy reap."),
        ],
        Cause::Inherited => vec![
            "Do not exec over a program that has children (`helper & exec app`): start the helper from a supervisor, or let the first program wait and run the second as its child.".to_owned(),
        ],
        Cause::NotificationCoalesced => vec![
            "In the handler wait until nothing is left: while (waitpid(-1, NULL, WNOHANG) > 0).".to_owned(),
            format!("At once: kill -CHLD {holder}. As a rule: the remedy nudge."),
        ],
        Cause::NeverWaited => vec![
            format!("{}{}", wait_there(zombie), place(zombie)),
            "A program that never wants a status can say so to the kernel: SIGCHLD with SA_NOCLDWAIT.".to_owned(),
        ],
        Cause::Unknown => vec![
            format!("Keep `reaper run` running: the next one is seen from its fork on. This one goes with its holder ({holder})."),
        ],
    }
}

/// How to wait, in the language that forked it.
fn wait_there(zombie: &ZombieEvent) -> &'static str {
    let stack = zombie.origin.as_ref().and_then(ShownOrigin::stack_of_leak);
    match stack.map(|stack| stack.language) {
        Some(Language::Python | Language::Mixed) => {
            "Wait where it is started: Popen.wait() or communicate(), `with Popen(...)`, subprocess.run(), Process.join()"
        }
        Some(Language::Native) => {
            "Wait where it is started: waitpid(), pclose(), Child::wait(), cmd.Wait(), whatever the language has"
        }
        None => "Wait for it in the program that forked it",
    }
}

/// Where that is.
fn place(zombie: &ZombieEvent) -> String {
    let stack = zombie.origin.as_ref().and_then(ShownOrigin::stack_of_leak);
    match stack.and_then(ShownStack::place) {
        Some(frame) => format!(": {}.", frame.text()),
        None => ".".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{origin, report::fixture, zombie::Zombie};

    #[test]
    fn there_is_a_meaning_and_an_advice_for_each_cause() {
        let mut meanings: Vec<_> = Cause::ALL.map(meaning).into();
        meanings.sort_unstable();
        meanings.dedup();
        assert_eq!(meanings.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            let zombie = fixture::shown(&Zombie { cause, ..fixture::never_waited() });
            let advice = advice(&zombie);
            assert!(
                !advice.is_empty() && advice.iter().all(|line| line.ends_with('.')),
                "{cause:?}: {advice:?}"
            );
        }
    }

    #[test]
    fn the_line_to_mend_is_named_where_it_is_known() {
        let zombie = Zombie { cause: Cause::NeverWaited, ..fixture::forked_at(origin::fixture::exact(42)) };
        let said = advice(&fixture::shown(&zombie)).join(" ");
        assert!(said.contains("Popen.wait()") && said.contains(": open_browser /srv/crawl.py:42."), "{said}");
        let zombie = Zombie { cause: Cause::NeverWaited, ..fixture::forked_at(origin::fixture::started()) };
        let said = advice(&fixture::shown(&zombie)).join(" ");
        assert!(said.contains("in the program that forked it.") && !said.contains("crawl.py"), "{said}");
        let said = advice(&fixture::shown(&fixture::stopped('D'))).join(" ");
        assert!(said.contains("/proc/4700/stack"), "{said}");
    }
}
