//! What a daemon has in the kernel, and what of it is there still, as bpftool says.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{loaded_links, loaded_programs};

use super::{program, run_briefly};

/// BPF programs, maps and links, by the kernel's numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held(BTreeSet<(&'static str, u64)>);

impl Held {
    /// What a process has open now: programs, maps and links among it, and bpftool can see them all.
    pub(crate) fn by(pid: u32) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
        let mut held = BTreeSet::new();
        for descriptor in descriptors {
            let text = fs::read_to_string(descriptor.unwrap().path()).unwrap_or_default();
            // A link names its program, too: its own number is what it is held by.
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            for (key, value) in lines {
                let kind = match key {
                    "prog_id" => "prog",
                    "map_id" => "map",
                    "link_id" => "link",
                    _ => continue,
                };
                held.insert((kind, value.trim().parse().unwrap()));
            }
        }
        let held = Self(held);
        // bpftool must be able to see what is there, or that it is gone proves nothing.
        assert_eq!(held.existing(), held);
        for kind in ["prog", "map", "link"] {
            assert!(held.0.iter().any(|(held, _)| *held == kind), "no {kind}: {held:?}");
        }
        held
    }

    /// The links among it: they are what keeps programs running.
    pub(crate) fn links(&self) -> Self {
        Self(self.0.iter().copied().filter(|(kind, _)| *kind == "link").collect())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// What of it is still in the kernel.
    pub(crate) fn existing(&self) -> Self {
        let bpftool = program("bpftool");
        let shows = |kind: &str, id: u64| {
            let mut command = Command::new(&bpftool);
            run_briefly(command.args([kind, "show", "id", &id.to_string()])).status.success()
        };
        Self(self.0.iter().copied().filter(|(kind, id)| shows(kind, *id)).collect())
    }

    /// Nothing of it is in the kernel any more.
    ///
    /// Maps are looked at when all programs are gone, and programs not by bpftool, which opens their maps, too. A map of programs is emptied,
    /// some time later, when the last process closes it; closed a second time before that is done, it is kept for ever
    /// (`prog_array_map_clear` takes a reference each time, and gives one back).
    pub(crate) fn assert_gone(&self) {
        // The kernel frees them after a grace period.
        let deadline = Instant::now() + Duration::from_secs(10);
        let wait = |left: &dyn Fn() -> Self| {
            loop {
                let left = left();
                if left.0.is_empty() {
                    return;
                }
                assert!(Instant::now() < deadline, "still in the kernel: {left:?}");
                thread::sleep(Duration::from_millis(100));
            }
        };
        wait(&|| {
            let programs = loaded_programs().flatten().map(|program| ("prog", u64::from(program.id())));
            let links = loaded_links().flatten().map(|link| ("link", u64::from(link.id())));
            Self(programs.chain(links).filter(|one| self.0.contains(one)).collect())
        });
        wait(&|| self.existing());
    }
}
