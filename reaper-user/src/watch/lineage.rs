//! Who forked whom, from a zombie upwards.

use std::sync::Arc;

use reaper_ebpf::{Record, flag, state};

use super::Describer;
use crate::{
    identity::Identity,
    kernel::{Forebear, id_of},
    observe::{Neighbour, Scene},
    origin::{LINKS, Link, Naming, Origin},
    proc::ticks,
};

/// A process of a chain: in the ledger, or dead and gone with what it has left behind; or neither, and the chain ends there.
struct Step {
    process: Identity,
    /// Its state in the ledger; `None` where it is not in there.
    recorded: Option<u64>,
    left: Option<Forebear>,
}

impl Describer {
    /// Those of its forkers, and of theirs, that /proc may show.
    pub(super) fn ancestors(&self, record: &Record) -> Arc<[Identity]> {
        let steps = self.steps(record).into_iter();
        steps.filter(|step| step.recorded.is_some()).map(|step| step.process).collect()
    }

    /// Forgets stacks that no chain can lead to any more.
    pub(super) fn prune_stacks(&self) {
        if let Some(stacks) = &self.stacks {
            stacks.prune(|id| self.kernel.record(id).is_some() || self.kernel.ancestor(id).is_some());
        }
    }

    /// Has the stack that [`Self::origin`] will tell of named, where it is not.
    pub(super) fn name(&self, record: &Record) -> Option<Naming> {
        let stacks = self.stacks.as_ref()?;
        let steps = self.steps(record);
        let forked = steps.iter().map(|step| id_of(step.process));
        std::iter::once(record.id())
            .chain(forked)
            .take(steps.len())
            .find(|child| stacks.has(*child))
            .and_then(|child| stacks.name(child))
    }

    /// Where it comes from.
    pub(super) fn origin(&self, record: &Record, scene: &Scene) -> Origin {
        let chain: Vec<_> = self.steps(record).into_iter().map(|step| link(step, scene)).collect();
        // What each of them forked: the zombie, then the one before it.
        let forked = chain.iter().map(|link| id_of(link.process));
        let forked: Vec<_> = std::iter::once(record.id()).chain(forked).take(chain.len()).collect();
        let stacks = self.stacks.iter().flat_map(|stacks| {
            forked.iter().enumerate().filter_map(|(of, child)| Some((of, stacks.get(*child)?)))
        });
        let unseen = record.flags & (flag::PREDATES_FORK | flag::FORK_UNSEEN) != 0;
        Origin::new(chain, stacks, unseen)
    }

    /// Its forker first. Ends with the first one whose own fork was not seen.
    fn steps(&self, record: &Record) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut next = self.kernel.forker_of(record);
        while let Some(process) = next.filter(|process| process.pid != 0 && steps.len() < LINKS) {
            let recorded = self.kernel.record(id_of(process));
            let left = self.kernel.ancestor(id_of(process));
            next = match (&recorded, &left) {
                (Some(record), _) => self.kernel.forker_of(record),
                (None, Some(left)) => left.forker,
                (None, None) => None,
            };
            let recorded = recorded.map(|record| record.state());
            steps.push(Step { process, recorded, left });
        }
        steps
    }
}

fn link(Step { process, recorded, left }: Step, scene: &Scene) -> Link {
    let is_it = |neighbour: &&Neighbour| {
        neighbour.pid == process.pid
            && neighbour.seen.as_ref().is_some_and(|(seen, _)| seen.start_ticks == ticks(process.start))
    };
    let found = scene.ancestors.iter().find(is_it).and_then(|neighbour| neighbour.seen.as_ref());
    match (found, left) {
        (Some((seen, cmdline)), left) => Link {
            process,
            comm: seen.comm.clone(),
            // One that is dead and still there has none any more.
            cmdline: cmdline.clone().or_else(|| left.and_then(|left| left.cmdline)),
            alive: !seen.has_ended(),
        },
        (None, Some(left)) => Link { process, comm: left.comm, cmdline: left.cmdline, alive: false },
        // Not looked at in time, if it lives: what is above it has only started it then.
        (None, None) => {
            Link { process, comm: "?".into(), cmdline: None, alive: recorded == Some(state::ALIVE) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::BootTime, proc::Seen};

    const FORKER: Identity = Identity { pid: 42, start: BootTime(123_450_000_000) };

    fn scene(start: BootTime, state: char) -> Scene {
        let seen = Seen {
            tgid: 42,
            comm: "python3".into(),
            state,
            parent: 1,
            start_ticks: ticks(start),
            tracer: None,
            ns_pids: vec![42],
            group: 42,
            uid: 0,
            kernel_thread: false,
            handles_sigchld: false,
            heeds_sigchld: false,
            switches: 0,
            threads: 1,
        };
        let neighbour = Neighbour { pid: 42, seen: Some((seen.clone(), Some("python3 crawl.py".into()))) };
        Scene {
            zombie: seen,
            holder: neighbour.clone(),
            forker: None,
            ancestors: vec![neighbour],
            tracer: None,
        }
    }

    fn step(left: Option<Forebear>) -> Step {
        Step { process: FORKER, recorded: Some(state::ALIVE), left }
    }

    fn left() -> Option<Forebear> {
        Some(Forebear { forker: None, comm: "left".into(), cmdline: Some("left behind".into()) })
    }

    fn told(link: &Link) -> (&str, Option<&str>, bool) {
        (link.comm.as_str(), link.cmdline.as_ref().map(|line| line.as_str()), link.alive)
    }

    #[test]
    fn a_living_one_is_shown_as_it_is_now_and_a_dead_one_as_it_was_when_it_died() {
        let living = scene(FORKER.start, 'S');
        assert_eq!(told(&link(step(None), &living)), ("python3", Some("python3 crawl.py"), true));
        assert_eq!(told(&link(step(left()), &scene(BootTime(5), 'S'))), ("left", Some("left behind"), false));
    }

    #[test]
    fn a_reused_pid_lends_nobody_its_name() {
        let other = scene(BootTime(5), 'S');
        assert_eq!(told(&link(step(None), &other)), ("?", None, true));
        for recorded in [None, Some(state::DEAD)] {
            assert_eq!(told(&link(Step { recorded, ..step(None) }, &other)), ("?", None, false));
        }
    }

    #[test]
    fn one_that_is_a_zombie_itself_is_not_alive() {
        let mut scene = scene(FORKER.start, 'Z');
        scene.ancestors[0].seen.as_mut().unwrap().1 = None;
        assert_eq!(told(&link(step(left()), &scene)), ("python3", Some("left behind"), false));
    }
}
