//! Which cgroups are watched, and what the kernel says of those.

use std::{
    collections::HashSet,
    mem::MaybeUninit,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::inotify::{self, ReadFlags, WatchFlags},
    io::Errno,
};

use super::{CLEANED_FROM, Refusals, UNBORN, WATCHES};
use crate::{
    headroom::{
        files::{CgroupPath, Refused},
        refusal::Source,
    },
    workload::Hierarchy,
};

/// A cgroup may get the pids controller after it was made.
pub(super) const AGAIN: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(10)];

/// Where hardly any of those that are watched was gone, all are not looked at again before that.
pub(super) const CLEANED_APART: Duration = Duration::from_secs(10);

/// That is so where it was less than one in so many.
const FREED: usize = 8;

impl Refusals {
    /// Watches a cgroup. What an old one has refused before is no news: its count is read once.
    pub(in crate::headroom) fn watch(&mut self, path: CgroupPath, new: bool, now: Instant) {
        if path.len() <= 1 {
            return;
        }
        // The kernel's log may have named it before it is watched: what was counted then is not counted again. The count of another
        // cgroup that was there before begins anew.
        let goes_on = self
            .counts
            .get(&path)
            .is_some_and(|known| matches!(self.files.inode(&path), Ok(Some(there)) if there == known.cgroup));
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
        self.try_watch(Arc::clone(&path), 0, now);
        if goes_on {
            // It may have grown between that reading and the watch.
            self.poked.add(path, Source::Reading, now);
        }
    }

    pub(super) fn try_watch(&mut self, path: CgroupPath, attempt: usize, now: Instant) {
        if self.watched.len() >= self.clean_at.min(WATCHES) {
            self.clean(now);
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

    /// Lets go of those that are gone: the kernel does not say so. That is to look at each, and not done for each that finds no place.
    pub(super) fn clean(&mut self, now: Instant) {
        if now < self.clean_after {
            return;
        }
        let Self { files, inotify, watched, counts, .. } = self;
        let before = watched.len() + counts.len();
        // Those that are not watched have counts, too, which the log or the hook has asked for.
        counts.retain(|path, _| watched.contains_key(path) || files.exists(path));
        watched.retain(|path, watch| {
            let is_there = files.exists(path);
            if !is_there {
                counts.remove(path);
                if let Some(inotify) = inotify {
                    // It may be gone with its cgroup.
                    let _gone = inotify::remove_watch(&*inotify, *watch);
                }
            }
            is_there
        });
        let left = watched.len() + counts.len();
        self.clean_at = (watched.len() * 2).max(CLEANED_FROM);
        if (before - left) * FREED < before {
            self.clean_after = now + CLEANED_APART;
        }
    }

    /// Whether there is a place for a cgroup's count. Of those that are watched there always is.
    pub(super) fn has_place(&mut self, path: &CgroupPath, now: Instant) -> bool {
        let is_full = |this: &Self| {
            this.counts.len() >= WATCHES
                && !this.counts.contains_key(path)
                && !this.watched.contains_key(path)
        };
        if is_full(self) {
            self.clean(now);
        }
        !is_full(self)
    }

    pub(super) fn read_events(&mut self, now: Instant) {
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
        let Self { watched, counts, poked, .. } = self;
        watched.retain(|path, watch| {
            // Where some were lost any of them may have changed.
            if overflowed || changed.contains(watch) {
                poked.add(Arc::clone(path), Source::PidsEvents, now);
            }
            let is_there = !ended.contains(watch);
            if !is_there {
                counts.remove(path);
            }
            is_there
        });
    }
}
