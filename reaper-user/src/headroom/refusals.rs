//! Refused forks, as they happen and without reading: the kernel says when the count in a cgroup's `pids.events` changes.
//!
//! One inotify descriptor has a watch for each cgroup (about a kilobyte of kernel memory each, for the file's inode stays in memory; at
//! most [`WATCHES`]); nothing is opened for it. Version 1 is silent from Linux 6.11 on: the kernel notifies a file that version 1 does
//! not have. There the kernel's own log says which cgroup a fork was refused in, the first time for each; from then on its file is read.
//! <https://elixir.bootlin.com/linux/v6.12/source/kernel/cgroup/pids.c> (`pids_event`)

mod evidence;
mod log;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::inotify::{self, ReadFlags, WatchFlags},
    io::Errno,
};

use super::{
    attempts::Found,
    files::{CgroupPath, Files, Refused, upwards},
    refusal::{Refusal, Source},
    unclaimed::Unclaimed,
};
use crate::{text::Untrusted, workload::Hierarchy};

use self::log::open_log;

pub(super) use self::evidence::Unwatched;

/// Cgroups that are watched, at most.
pub(super) const WATCHES: usize = 8_192;

/// Cgroups whose file is read on after a refusal, at most, where the kernel does not notify.
const READ_ON: usize = 256;

/// Those that are gone are looked for when there are so many, and then when there are twice as many as were left.
const CLEANED_FROM: usize = 256;

/// A cgroup may get the pids controller after it was made.
const AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(10)];

/// Cgroups that may wait for that.
const UNBORN: usize = 1_024;

/// A forker's cgroup that the log has named belongs to a refusal that is seen within this.
const BELONGS: Duration = Duration::from_millis(500);

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
        let mut left = self.look(now);
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
        self.read_on.values().map(|(when, _)| *when).chain(unborn).chain(unclaimed).min()
    }

    /// Watches a cgroup. What an old one has refused before is no news: its count is read once.
    pub(super) fn watch(&mut self, path: CgroupPath, new: bool, now: Instant) {
        if path.len() <= 1 {
            return;
        }
        // The kernel's log may have named it before it is watched: what was counted then is not counted again. The count of another
        // cgroup that was there before begins anew.
        let goes_on = self.counts.get(&path).is_some_and(
            |known| matches!(self.files.refused(&path), Ok(Some(now)) if now.cgroup == known.cgroup),
        );
        if !goes_on {
            self.counts.remove(&path);
            self.read_on.remove(&path);
        }
        if !new {
            self.began = Some(now);
            match self.files.refused(&path) {
                Ok(Some(refused @ Refused { count: 1.., .. })) => {
                    self.counts.insert(Arc::clone(&path), refused);
                    self.read_on(&path, now, now);
                }
                Ok(_) => {}
                Err(error) => self.unread(&path, &error),
            }
        }
        self.try_watch(path, 0, now);
    }

    fn try_watch(&mut self, path: CgroupPath, attempt: usize, now: Instant) {
        if self.watched.len() >= self.clean_at.min(WATCHES) {
            self.clean();
        }
        let Some(inotify) = &self.inotify else { return };
        if self.watched.len() >= WATCHES {
            self.lost.unwatched += 1;
            return;
        }
        let add = |file| inotify::add_watch(inotify, self.files.of(&path, file), WatchFlags::MODIFY);
        // The local one tells of this cgroup's limit alone.
        let local = self.files.hierarchy() == Hierarchy::V2;
        let added = if local { add("pids.events.local") } else { Err(Errno::NOENT) };
        match added.or_else(|_| add("pids.events")) {
            Ok(watch) => {
                // One of this path that was there before is another cgroup's, which is gone.
                if let Some(before) = self.watched.insert(path, watch).filter(|before| *before != watch) {
                    let _gone = inotify::remove_watch(inotify, before);
                }
            }
            Err(Errno::NOENT) => match AGAIN.get(attempt) {
                Some(after) if self.unborn.len() < UNBORN => {
                    self.unborn.push((now + *after, path, attempt + 1));
                }
                Some(_) => self.lost.unwatched += 1,
                // It counts no pids, or is gone.
                None => {}
            },
            Err(_) => self.lost.unwatched += 1,
        }
    }

    /// Lets go of those that are gone: the kernel does not say so.
    fn clean(&mut self) {
        let Self { files, inotify, watched, counts, .. } = self;
        let Some(inotify) = inotify else { return };
        watched.retain(|path, watch| {
            let is_there = files.of(path, "").exists();
            if !is_there {
                counts.remove(path);
                // It may be gone with its cgroup.
                let _gone = inotify::remove_watch(&*inotify, *watch);
            }
            is_there
        });
        self.clean_at = (self.watched.len() * 2).max(CLEANED_FROM);
    }

    /// What was refused since the last call.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Refusal> {
        let mut poked: HashMap<CgroupPath, Source> = HashMap::new();
        for (when, path, attempt) in std::mem::take(&mut self.unborn) {
            if when <= now {
                self.try_watch(path, attempt, now);
            } else {
                self.unborn.push((when, path, attempt));
            }
        }
        let due = self.read_on.iter().filter(|(_, (when, _))| *when <= now);
        poked.extend(due.map(|(path, _)| (Arc::clone(path), Source::Reading)));
        self.read_log(now, &mut poked);
        self.read_events(&mut poked);
        let grown = poked.into_iter().filter_map(|(path, source)| self.check(path, source, now).ok()?);
        let grown: Vec<_> = grown.collect();
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
        self.counts.insert(Arc::clone(&path), refused);
        self.moved = true;
        self.read_on(&path, now, now);
        let mut levels = Vec::new();
        for level in upwards(&path) {
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
        Ok(Some(Refusal { path, at_limit, forker, count, source, levels, found, who: None }))
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

    fn read_events(&mut self, poked: &mut HashMap<CgroupPath, Source>) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let (mut overflowed, mut changed, mut ended) = (false, HashSet::new(), HashSet::new());
        while let Ok(event) = reader.next() {
            overflowed |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if event.events().contains(ReadFlags::IGNORED) {
                ended.insert(event.wd());
            } else {
                changed.insert(event.wd());
            }
        }
        self.lost.overflowed += u64::from(overflowed);
        if !overflowed && changed.is_empty() && ended.is_empty() {
            return;
        }
        let Self { watched, counts, .. } = self;
        watched.retain(|path, watch| {
            // Where some were lost any of them may have changed.
            if overflowed || changed.contains(watch) {
                poked.insert(Arc::clone(path), Source::PidsEvents);
            }
            let is_there = !ended.contains(watch);
            if !is_there {
                counts.remove(path);
            }
            is_there
        });
    }
}

#[cfg(test)]
mod tests;
