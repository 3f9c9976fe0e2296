//! Reaping by hand from the view: by `reaper reap` itself, in a process of its own, as it would be typed. There is no second way to do
//! it, and what it says goes to no terminal that is drawn on.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Output, Stdio},
};

use crate::{
    config,
    identity::BootTime,
    report::{Event, Outcome, Page, Reporter, ZombieEvent, parse},
    text::Untrusted,
    zombie::Cause,
};

/// Columns of what is said: it is wrapped again where it is shown.
const WIDTH: usize = 4_096;

/// What `reaper reap` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    words: Vec<String>,
    cause: Cause,
    /// The holder, and when that was forked.
    holder: u32,
    start: Option<BootTime>,
}

/// What it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// What it was to do.
    pub(super) order: Order,
    /// Whether it did it, or only said what it would do.
    pub(super) is_done: bool,
    /// Its words.
    pub(super) lines: Vec<String>,
    /// The holders of zombies that would be reaped, and when they were forked.
    planned: Vec<(u32, Option<BootTime>)>,
}

impl Order {
    /// About all zombies of this one's holder that have its cause.
    pub(super) fn for_holder(zombie: &ZombieEvent) -> Self {
        let holder = zombie.holder.pid.to_string();
        Self::about(
            zombie,
            vec!["--holder".to_owned(), holder, "--cause".to_owned(), zombie.cause.as_str().to_owned()],
        )
    }

    /// About this one.
    pub(super) fn for_zombie(zombie: &ZombieEvent) -> Self {
        let cause = zombie.cause.as_str().to_owned();
        Self::about(zombie, vec![zombie.pid.to_string(), "--cause".to_owned(), cause])
    }

    fn about(zombie: &ZombieEvent, words: Vec<String>) -> Self {
        let ZombieEvent { holder, cause, .. } = zombie;
        Self { words, cause: *cause, holder: holder.pid, start: holder.start_time }
    }

    /// As it is typed.
    pub(super) fn command(&self) -> String {
        format!("reaper reap {}", self.words.join(" "))
    }

    /// What can be said to it on the command line only, and as what; `None` where its cause needs no consent, or none helps.
    pub(super) fn with_consent(&self) -> Option<String> {
        match self.cause {
            Cause::Inherited | Cause::NeverWaited | Cause::Unknown => {
                Some(format!("{} --parent-may-miss-status", self.command()))
            }
            Cause::Adopted
            | Cause::HeldByTracer
            | Cause::NamespaceDying
            | Cause::HolderStopped
            | Cause::NotificationCoalesced => None,
        }
    }

    /// Says what would be done.
    pub(super) fn attempt(self) -> Said {
        self.run("--dry-run", false)
    }

    /// Does it.
    pub(super) fn carry_out(self) -> Said {
        self.run("--yes", true)
    }

    fn run(self, how: &str, is_done: bool) -> Said {
        // By the link, not by its path: an upgrade may have replaced the file.
        let mut reaper = Command::new("/proc/self/exe");
        reaper.arg0("reaper").args(["--output", "json", "reap", how]).args(&self.words).stdin(Stdio::null());
        // Whatever the terminal sends to this program's group is not for it: it goes to its end.
        match reaper.process_group(0).output() {
            Ok(output) => Said::read(self, is_done, &output),
            Err(error) => Said {
                order: self,
                is_done,
                lines: vec![format!("reaper could not be started: {error}")],
                planned: Vec::new(),
            },
        }
    }
}

impl Said {
    /// Makes words of its events, and adds what it said beside them.
    pub(super) fn read(order: Order, is_done: bool, output: &Output) -> Self {
        let mut this = Self { order, is_done, lines: Vec::new(), planned: Vec::new() };
        for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match str::from_utf8(line).ok().and_then(|line| parse(line).ok()) {
                Some(event) => this.event(&event),
                None => this.lines.push(Untrusted::new(line).to_string()),
            }
        }
        let complaints = output.stderr.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        this.lines.extend(complaints.map(|line| Untrusted::new(line).to_string()));
        if this.lines.is_empty() {
            this.lines.push(format!("no zombie is meant any more ({})", output.status));
        }
        this
    }

    fn event(&mut self, event: &Event) {
        if let Event::Remedy(remedy) = event
            && remedy.outcome == Outcome::Planned
        {
            self.planned.push((remedy.holder.pid, remedy.holder.start_time));
        }
        let (mut text, page) = (Vec::new(), Page { width: Some(WIDTH), colour: false });
        let said = Reporter::new(&mut text, config::Output::Human, page).without_head().report(event);
        match said.and_then(|()| String::from_utf8(text).map_err(io::Error::other)) {
            Ok(text) => self.lines.extend(text.lines().map(str::to_owned)),
            Err(error) => self.lines.push(error.to_string()),
        }
    }

    /// Whether there is something to do, to the holder that was selected and to no other that has its number now.
    pub(super) fn is_offered(&self, order: &Order) -> bool {
        let is_it = |(pid, start): &(u32, Option<BootTime>)| {
            *pid == order.holder && (order.start.is_none() || start.is_none() || *start == order.start)
        };
        !self.is_done && !self.planned.is_empty() && self.planned.iter().all(is_it)
    }
}
