//! The files that a process's code is in, opened through the process, wherever it is.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, open, openat2, statx},
    io::Errno,
};

use super::mounts::{Mounts, Regular, Unopened};
use crate::proc::maps::Mapping;

/// Files that are held open.
const OPEN: usize = 256;

/// Tells a file in one state from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) changed: (i64, u32),
}

#[cfg(test)]
impl FileKey {
    /// One of many that differ.
    pub(in crate::origin) const fn fixture(inode: u64) -> Self {
        Self { device: 1, inode, size: 0, changed: (0, 0) }
    }
}

/// Files that were opened, for later questions about the same code.
#[derive(Debug, Default)]
pub(in crate::origin) struct Files {
    open: HashMap<FileKey, (Arc<OwnedFd>, u64)>,
    uses: u64,
}

impl Files {
    /// A mapping's file. `directory` is the process's in /proc.
    pub(in crate::origin) fn of(
        &mut self,
        directory: &Path,
        mapping: &Mapping,
        mounts: &Mounts,
    ) -> Result<FileKey, Unopened> {
        let found = mapped(directory, mapping, mounts)?;
        let regular = Regular::of(&found)?;
        if !self.open.contains_key(&regular.key) {
            let file = mounts.open(found.as_fd(), &regular)?;
            self.keep(regular.key, file);
        }
        Ok(regular.key)
    }

    /// One that was opened, where it is still open.
    pub(in crate::origin) fn get(&mut self, key: &FileKey) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let (file, used) = self.open.get_mut(key)?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    fn keep(&mut self, key: FileKey, file: OwnedFd) {
        self.uses += 1;
        if self.open.len() >= OPEN && !self.open.contains_key(&key) {
            // A quarter goes, those that were not asked for longest.
            let mut uses: Vec<_> = self.open.values().map(|(_, used)| *used).collect();
            uses.sort_unstable();
            let oldest = uses.get(OPEN / 4).copied().unwrap_or(u64::MAX);
            self.open.retain(|_, (_, used)| *used >= oldest);
        }
        self.open.insert(key, (Arc::new(file), self.uses));
    }
}

/// Opens the file that a process executes.
pub(in crate::origin) fn executable(directory: &Path, mounts: &Mounts) -> Result<OwnedFd, Unopened> {
    regular(open(directory.join("exe"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?, mounts)
}

/// A handle, that opens nothing, of a mapping's file, whatever is at its path by now.
pub(in crate::origin) fn mapped(
    directory: &Path,
    mapping: &Mapping,
    mounts: &Mounts,
) -> Result<OwnedFd, Errno> {
    let link = directory.join(format!("map_files/{:x}-{:x}", mapping.start, mapping.end));
    open(&link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).or_else(|error| match error {
        // Without CAP_CHECKPOINT_RESTORE what the path leads to now is looked at, and taken where it is the same file.
        Errno::PERM | Errno::ACCESS => {
            let file = under_root(directory, Path::new(&mapping.path))?;
            is_mapped(&file, mapping, mounts).map(|()| file)
        }
        error => Err(error),
    })
}

/// Opens what a handle that opened nothing is of, where it is a regular file.
pub(in crate::origin) fn regular(found: impl AsFd, mounts: &Mounts) -> Result<OwnedFd, Unopened> {
    let regular = Regular::of(&found)?;
    mounts.open(found.as_fd(), &regular)
}

/// What tells the regular file that a handle is of from every other.
pub(in crate::origin) fn key(found: impl AsFd) -> Result<FileKey, Errno> {
    Regular::of(found).map(|regular| regular.key)
}

/// A handle, that opens nothing, of a path as the process sees it.
fn under_root(directory: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let root =
        open(directory.join("root"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Who owns what a handle is of.
pub(in crate::origin) fn owner(found: impl AsFd) -> Result<u32, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(statx(found, c"", flags, StatxFlags::UID)?.stx_uid)
}

fn is_mapped(file: &OwnedFd, mapping: &Mapping, mounts: &Mounts) -> Result<(), Errno> {
    let regular = Regular::of(file)?;
    let is_it = regular.key.inode == mapping.inode && mounts.has_device(&regular, mapping.device);
    if is_it { Ok(()) } else { Err(Errno::STALE) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{CWD, FileType};

    use super::*;
    use crate::proc::maps::mappings;

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let found = open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let mounts = Mounts::default();
        assert!(matches!(regular(&found, &mounts), Err(Unopened::Errno(Errno::INVAL))));
    }

    #[test]
    fn a_file_that_is_mapped_can_be_opened_by_its_path_in_the_processs_root() {
        let own = Path::new("/proc/self");
        let mapping = mappings(own).into_iter().find(Mapping::is_code).unwrap();
        let found = under_root(own, Path::new(&mapping.path)).unwrap();
        let mounts = Mounts::of(own);
        is_mapped(&found, &mapping, &mounts).unwrap();
        let other = Mapping { inode: mapping.inode + 1, ..mapping };
        assert_eq!(is_mapped(&found, &other, &mounts).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn no_more_files_are_held_than_allowed() {
        let mut files = Files::default();
        let key = FileKey::fixture;
        for inode in 0..2 * OPEN as u64 {
            files.keep(key(inode), File::open("/dev/null").unwrap().into());
        }
        assert!(files.open.len() <= OPEN);
        assert!(files.get(&key(0)).is_none());
        assert!(files.get(&key(2 * OPEN as u64 - 1)).is_some());
    }
}
