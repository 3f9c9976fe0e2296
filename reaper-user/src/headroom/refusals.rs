//! Refused forks, as they happen and without reading: the kernel says when the count in a cgroup's `pids.events` changes.
//!
//! One inotify descriptor has a watch for each cgroup (about a kilobyte of kernel memory each, for the file's inode stays in memory; at
//! most [`WATCHES`]); nothing is opened for it. Version 1 is silent from Linux 6.11 on: the kernel notifies a file that version 1 does
//! not have. There the kernel's own log says which cgroup a fork was refused in, the first time for each; from then on its file is read.
//! <https://elixir.bootlin.com/linux/v6.12/source/kernel/cgroup/pids.c> (`pids_event`)

mod evidence;
mod log;
mod poked;
mod watching;

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::inotify;

use super::{
    attempts::Found,
    files::{CgroupPath, Files, Refused},
    nested::{skipped, upwards},
    refusal::{Refusal, Source},
    unclaimed::Unclaimed,
};
use crate::{text::Untrusted, workload::Hierarchy};

use self::{log::open_log, poked::Poked};

pub(super) use self::evidence::Unwatched;

/// Cgroups that are watched, at most.
pub(super) const WATCHES: usize = 8_192;

/// Cgroups whose file is read on after a refusal, at most, where the kernel does not notify.
const READ_ON: usize = 256;

/// Those that are gone are looked for when there are so many, and then when there are twice as many as were left.
const CLEANED_FROM: usize = 256;

/// Cgroups that may wait for the pids controller.
const UNBORN: usize = 1_024;

/// A forker's cgroup that the log has named belongs to a refusal that is seen within this.
const BELONGS: Duration = Duration::from_millis(500);

/// What may have grown is looked at for so long, and no more than so many of it: what is left waits until the next look.
pub(super) const TURN: Duration = Duration::from_millis(5);
pub(super) const LOOKED_AT: usize = 64;

/// What is left at the end is looked at for so long.
const ENDING: Duration = Duration::from_secs(1);

/// What refusals are known from here.
#[derive(Debug)]
pub struct Sources {
    /// Notifications; or why there are none.
    pub events: Result<(), io::Error>,
    /// The kernel's log; or why it cannot be read.
    pub log: Result<(), io::Error>,
}

impl Sources {
    /// Tries them.
    #[must_use]
    pub fn probe() -> Self {
        Self { events: open_inotify().map(drop), log: open_log().map(drop) }
    }
}

/// What was lost of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Cgroups that could not be watched, and counts and limits that could not be read.
    pub(super) unwatched: u64,
    /// Notifications that the kernel had no room for, or messages that were overwritten.
    pub(super) overflowed: u64,
}

/// A count is gone, or could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Uncounted;

/// All that is watched.
#[derive(Debug)]
pub(super) struct Refusals {
    files: Files,
    inotify: Option<OwnedFd>,
    log: Option<File>,
    watched: HashMap<CgroupPath, i32>,
    clean_at: usize,
    /// Those that are gone are not looked for before that.
    clean_after: Instant,
    /// What may have grown and was not looked at yet.
    poked: Poked,
    /// The counts that are known, and of which cgroup of that path; 0 where there is none.
    counts: HashMap<CgroupPath, Refused>,
    /// Those that the kernel does not notify of and that have refused forks: when they are read next, and since when nothing new was.
    read_on: HashMap<CgroupPath, (Instant, Instant)>,
    unborn: Vec<(Instant, CgroupPath, usize)>,
    /// Whom the log has named last.
    named: Option<(Instant, CgroupPath)>,
    /// What the hook has not claimed yet, where there is a hook.
    unclaimed: Option<Unclaimed>,
    /// How many the hook has handed over.
    received: u64,
    /// When the counts of those that were there already were read.
    began: Option<Instant>,
    /// A count has grown since that was last asked.
    moved: bool,
    lost: Lost,
}

fn open_inotify() -> io::Result<OwnedFd> {
    Ok(inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?)
}

impl Refusals {
    /// `hooked` says that there is a hook on the clone path, whose refused forks come by [`Self::attempted`].
    pub(super) fn new(files: Files, hooked: bool) -> Self {
        let (inotify, log) = (open_inotify(), open_log());
        if let Err(error) = &inotify {
            tracing::warn!(%error, "refused forks are only known from the kernel's log: there are no inotify instances left");
        }
        if let Err(error) = &log {
            tracing::debug!(%error, "the kernel's log cannot be read");
        }
        Self {
            files,
            inotify: inotify.ok(),
            log: log.ok(),
            watched: HashMap::new(),
            clean_at: CLEANED_FROM,
            clean_after: Instant::now(),
            poked: Poked::default(),
            counts: HashMap::new(),
            read_on: HashMap::new(),
            unborn: Vec::new(),
            named: None,
            unclaimed: hooked.then(Unclaimed::default),
            received: 0,
            began: None,
            moved: false,
            lost: Lost::default(),
        }
    }

    /// What the hook has not claimed yet.
    pub(super) fn unclaimed(&mut self) -> &mut Unclaimed {
        self.unclaimed.get_or_insert_default()
    }

    /// Whether a count has grown since the last call.
    pub(super) const fn take_moved(&mut self) -> bool {
        std::mem::replace(&mut self.moved, false)
    }

    /// Whether what the hook has counted is to be handed over, all of it.
    pub(super) fn wants_counts(&mut self, now: Instant) -> bool {
        self.unclaimed.as_mut().is_some_and(|unclaimed| unclaimed.asks(now))
    }

    /// All of that was handed over which was counted until then: what is to be told as nobody claims it.
    pub(super) fn handed_over(&mut self, until: Instant) -> Vec<Refusal> {
        self.unclaimed.as_mut().map_or_else(Vec::new, |unclaimed| unclaimed.handed_over(until))
    }

    /// Of how many that the hook has handed over the limit was said, by itself or by `pids.events`.
    pub(super) fn settled(&self) -> u64 {
        self.received - self.unclaimed.as_ref().map_or(0, Unclaimed::held)
    }

    /// All that is left to tell.
    pub(super) fn finish(&mut self, now: Instant) -> Vec<Refusal> {
        let began = Instant::now();
        let mut left = self.look(now);
        while self.is_behind() && began.elapsed() < ENDING {
            left.extend(self.look_at_poked(now));
        }
        self.lost.unwatched += self.poked.len() as u64;
        left.extend(self.unclaimed.iter_mut().flat_map(Unclaimed::rest));
        left
    }

    pub(super) const fn lost(&self) -> Lost {
        self.lost
    }

    /// What to wait for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.inotify.iter().map(OwnedFd::as_fd).chain(self.log.iter().map(File::as_fd))
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        let unborn = self.unborn.iter().map(|(when, ..)| *when);
        let unclaimed = self.unclaimed.as_ref().and_then(Unclaimed::due);
        let read_on = self.read_on.values().map(|(when, _)| *when);
        read_on.chain(unborn).chain(unclaimed).chain(self.poked.since()).min()
    }

    /// Whether something may have grown that was not looked at yet.
    pub(super) fn is_behind(&self) -> bool {
        self.poked.since().is_some()
    }

    /// What was refused since the last call, as far as there is time to look.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Refusal> {
        for (when, path, attempt) in std::mem::take(&mut self.unborn) {
            if when <= now {
                self.try_watch(path, attempt, now);
            } else {
                self.unborn.push((when, path, attempt));
            }
        }
        for (path, _) in self.read_on.iter().filter(|(_, (when, _))| *when <= now) {
            self.poked.add(Arc::clone(path), Source::Reading, now);
        }
        self.read_log(now);
        self.read_events(now);
        self.look_at_poked(now)
    }

    /// Looks at some of those that may have grown: how many there are, and how much each takes, is up to whoever makes cgroups.
    fn look_at_poked(&mut self, now: Instant) -> Vec<Refusal> {
        let began = Instant::now();
        let mut grown = Vec::new();
        for _ in 0..LOOKED_AT {
            let Some((path, source)) = self.poked.take() else { break };
            grown.extend(self.check(path, source, now).ok().flatten());
            if began.elapsed() >= TURN {
                break;
            }
        }
        let Some(unclaimed) = &mut self.unclaimed else { return grown };
        for refusal in grown {
            unclaimed.put(refusal, now);
        }
        Vec::new()
    }

    /// Reads a count, and says what is new of it.
    fn check(
        &mut self,
        path: CgroupPath,
        source: Source,
        now: Instant,
    ) -> Result<Option<Refusal>, Uncounted> {
        let refused = match self.files.refused(&path) {
            Ok(Some(refused)) => refused,
            Ok(None) => {
                self.read_on.remove(&path);
                self.counts.remove(&path);
                return Err(Uncounted);
            }
            Err(error) => {
                self.unread(&path, &error);
                if self.read_on.contains_key(&path) {
                    self.read_on(&path, now, now);
                }
                return Err(Uncounted);
            }
        };
        let Refused { count, at_limit, cgroup } = refused;
        let before = self.counts.get(&path).filter(|known| known.cgroup == cgroup);
        let before = before.map_or(0, |known| known.count);
        let since = self.read_on.get(&path).map_or(now, |(_, since)| *since);
        if count <= before {
            if self.read_on.contains_key(&path) {
                self.read_on(&path, now, since);
            }
            return Ok(None);
        }
        if !self.has_place(&path, now) {
            // What is not remembered would be told again and again.
            self.lost.unwatched += 1;
            self.read_on.remove(&path);
            return Err(Uncounted);
        }
        self.counts.insert(Arc::clone(&path), refused);
        self.moved = true;
        self.read_on(&path, now, now);
        let mut levels = Vec::new();
        // Where it is counted at the limit there is no other to look at.
        for level in upwards(&path).take(if at_limit { 1 } else { usize::MAX }) {
            match self.files.level(&Arc::from(level), false) {
                Ok(read) => levels.extend(read),
                Err(error) => self.unread(level, &error),
            }
        }
        let named = self.named.as_ref().filter(|(when, forker)| {
            now.duration_since(*when) <= BELONGS
                && (**forker == *path || forker.starts_with(&[&path[..], b"/"].concat()))
        });
        let forker =
            if at_limit { named.map(|(_, forker)| Arc::clone(forker)) } else { Some(Arc::clone(&path)) };
        let (count, found) = (count - before, Found::PidsMax);
        let refusal = Refusal { path, at_limit, forker, count, source, levels, found, who: None };
        if skipped(&refusal.path) > 0 && refusal.level().is_none() {
            // It may have been one of those that are not looked at.
            self.lost.unwatched += 1;
        }
        Ok(Some(refusal))
    }

    fn unread(&mut self, path: &[u8], error: &io::Error) {
        tracing::debug!(cgroup = %Untrusted::new(path), %error, "its refused forks, or its limit, cannot be read");
        self.lost.unwatched += 1;
    }

    /// Reads it again, where nobody says when it changes: often while it goes on, seldom when it was long ago.
    fn read_on(&mut self, path: &CgroupPath, now: Instant, since: Instant) {
        if self.files.hierarchy() == Hierarchy::V2 {
            return;
        }
        let apart = match now.duration_since(since).as_secs() {
            0..60 => Duration::from_millis(500),
            60..600 => Duration::from_secs(5),
            _ => Duration::from_secs(60),
        };
        if self.read_on.len() < READ_ON || self.read_on.contains_key(path) {
            self.read_on.insert(Arc::clone(path), (now + apart, since));
        } else {
            self.lost.unwatched += 1;
        }
    }
}

#[cfg(test)]
mod tests;
