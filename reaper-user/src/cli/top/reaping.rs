//! Reaping by hand from the view: by `reaper reap` itself, in a process of its own, as it would be typed. There is no second way to do
//! it, and what it says goes to no terminal that is drawn on.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Output, Stdio},
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::{
    config,
    identity::BootTime,
    proc::ticks,
    report::{Event, Outcome, Page, Reporter, ZombieEvent, parse},
    text::Untrusted,
    zombie::Cause,
};

/// Columns of what is said: it is wrapped again where it is shown.
const WIDTH: usize = 4_096;

/// What `reaper reap` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The zombies.
    pids: Vec<u32>,
    cause: Cause,
    /// The holder, and when that was forked.
    holder: u32,
    start: Option<BootTime>,
}

/// That is being done, or could not be begun.
#[derive(Debug)]
pub(super) struct Begun {
    order: Order,
    is_done: bool,
    running: io::Result<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    said: File,
    complained: File,
}

/// So many pids are shown of a command that names more.
const SHOWN: usize = 6;

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
    /// About these, which have holder and cause in common, and no others; `None` where there is none.
    pub(super) fn of(zombies: &[&ZombieEvent]) -> Option<Self> {
        let ZombieEvent { holder, cause, .. } = zombies.first()?;
        let pids = zombies.iter().map(|zombie| zombie.pid).collect();
        Some(Self { pids, cause: *cause, holder: holder.pid, start: holder.start_time })
    }

    /// As it is typed; of many zombies the first.
    pub(super) fn command(&self) -> String {
        let pids: Vec<_> = self.pids.iter().take(SHOWN).map(u32::to_string).collect();
        let more = match self.pids.len() {
            all if all > SHOWN => format!(" … ({all} pids)"),
            _ => String::new(),
        };
        format!("reaper reap {}{more} --cause {}", pids.join(" "), self.cause.as_str())
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

    /// Does it, or says what would be done: that has begun when this returns, and goes to its end by itself.
    pub(super) fn begin(self, is_done: bool) -> Begun {
        let running = self.start(if is_done { "--yes" } else { "--dry-run" });
        Begun { order: self, is_done, running }
    }

    /// It could not be begun.
    pub(super) fn failed(self, is_done: bool, error: &io::Error) -> Said {
        let lines = vec![format!("reaper could not be started: {error}")];
        Said { order: self, is_done, lines, planned: Vec::new() }
    }

    fn start(&self, how: &str) -> io::Result<Running> {
        // Not into pipes: who leaves the view meanwhile reads them no more, and it has to go to its end all the same.
        let file = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        let (said, complained) = (file("said")?, file("complained")?);
        // By the link, not by its path: an upgrade may have replaced the file.
        let mut reaper = Command::new("/proc/self/exe");
        reaper.arg0("reaper").args(["--output", "json", "reap", how, "--cause", self.cause.as_str()]);
        if let Some(start) = self.start {
            // Whoever has that number by then is somebody else.
            reaper.arg("--only-holder").arg(format!("{}@{}", self.holder, start.0));
        }
        reaper.args(self.pids.iter().map(u32::to_string));
        reaper.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(complained.try_clone()?);
        // Whatever the terminal sends to this program's group is not for it.
        let child = reaper.process_group(0).spawn()?;
        Ok(Running { child, said, complained })
    }
}

impl Begun {
    /// What it has said when it has ended.
    pub(super) fn said(self) -> Said {
        let Self { order, is_done, running } = self;
        match running.and_then(Running::output) {
            Ok(output) => Said::read(order, is_done, &output),
            Err(error) => order.failed(is_done, &error),
        }
    }
}

impl Running {
    fn output(mut self) -> io::Result<Output> {
        let status = self.child.wait()?;
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes).map(|_| bytes)
        };
        Ok(Output { status, stdout: read(&mut self.said)?, stderr: read(&mut self.complained)? })
    }
}

impl Said {
    /// Makes words of its events, and adds what it said beside them.
    pub(super) fn read(order: Order, is_done: bool, output: &Output) -> Self {
        let mut this = Self { order, is_done, lines: Vec::new(), planned: Vec::new() };
        for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match str::from_utf8(line).ok().and_then(|line| parse(line).ok()) {
                Some(event) => this.event(&event),
                None => this.lines.push(escaped(line)),
            }
        }
        let complaints = output.stderr.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        this.lines.extend(complaints.map(escaped));
        if output.status.code().is_none() {
            this.lines.push(format!("it has ended with {}: what it has done is not known", output.status));
        } else if this.lines.is_empty() {
            this.lines.push("no zombie is meant any more".to_owned());
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

    /// Why it is not offered.
    pub(super) fn why_not(&self, order: &Order) -> &'static str {
        match (order.start, self.planned.is_empty()) {
            (_, true) => "There is nothing here that it would do.",
            (None, false) => {
                "It is not known when the holder was started, and so not whether it will be the same: that is left to the command line."
            }
            (Some(_), false) => "That would be done to another process than was selected: it is not offered.",
        }
    }

    /// Whether there is something to do, to the holder that was selected and to no other that has its number now: its start has to be known.
    pub(super) fn is_offered(&self, order: &Order) -> bool {
        let is_it = |(pid, start): &(u32, Option<BootTime>)| {
            // Where it does not say, it has looked itself: it does nothing to another one.
            *pid == order.holder && start.is_none_or(|start| order.start.map(ticks) == Some(ticks(start)))
        };
        !self.is_done && order.start.is_some() && !self.planned.is_empty() && self.planned.iter().all(is_it)
    }
}

/// A line that `reaper` has written, which has escaped in it what it was told.
fn escaped(line: &[u8]) -> String {
    Untrusted::from_escaped(&String::from_utf8_lossy(line)).to_string()
}
