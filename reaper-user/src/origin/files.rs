//! The files that a process's code is in, opened through the process, wherever it is.

use std::{
    cell::OnceCell,
    collections::HashMap,
    fs::File,
    io::Read as _,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, makedev, open, openat2, statx},
    io::Errno,
};

use crate::proc::maps::Mapping;

/// Bytes of `mountinfo` that are read.
const MOUNTS: u64 = 4 << 20;

/// Files that are held open.
const OPEN: usize = 256;

/// Tells a file in one state from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, u32),
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
    ) -> Result<FileKey, Errno> {
        let found = mapped(directory, mapping)?;
        let (key, device) = identify(&found)?;
        if !self.open.contains_key(&key) {
            let file = reopen(&found, device, mounts)?;
            self.keep(key, file);
        }
        Ok(key)
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

/// Which devices are mounted where a process sees them, and can be waited for. One that a file system in user space answers for is
/// not among them: whoever runs that can make an open take for ever.
/// Read when it is asked.
#[derive(Debug, Default)]
pub(in crate::origin) struct Mounts {
    directory: PathBuf,
    mounted: OnceCell<HashMap<u64, bool>>,
}

impl Mounts {
    /// What this process and the one with this directory in /proc see.
    pub(in crate::origin) fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), mounted: OnceCell::new() }
    }

    fn mounted(&self) -> &HashMap<u64, bool> {
        self.mounted.get_or_init(|| {
            let mut mounted = HashMap::new();
            for directory in [&*self.directory, Path::new("/proc/self")] {
                let mut text = Vec::new();
                if let Ok(file) = File::open(directory.join("mountinfo")) {
                    let _read_so_far = file.take(MOUNTS).read_to_end(&mut text);
                }
                text.split(|byte| *byte == b'\n').for_each(|line| read_mount(&mut mounted, line));
            }
            mounted
        })
    }

    /// Of a disk nobody needs to be asked.
    fn can_be_waited_for(&self, major: u32, minor: u32) -> bool {
        major != 0 || self.mounted().get(&makedev(major, minor)).copied().unwrap_or(false)
    }
}

/// <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
fn read_mount(mounted: &mut HashMap<u64, bool>, line: &[u8]) {
    let fields = || line.split(|byte| *byte == b' ');
    let device = fields().nth(2).and_then(|field| {
        let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
        Some(makedev(major.parse().ok()?, minor.parse().ok()?))
    });
    let kind = fields().skip_while(|field| *field != b"-").nth(1);
    if let (Some(device), Some(kind)) = (device, kind) {
        let answers = !kind.starts_with(b"fuse");
        mounted.entry(device).and_modify(|known| *known &= answers).or_insert(answers);
    }
}

/// Opens the file that a process executes.
pub(in crate::origin) fn executable(directory: &Path, mounts: &Mounts) -> Result<OwnedFd, Errno> {
    regular(open(directory.join("exe"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?, mounts)
}

/// A handle, that opens nothing, of a mapping's file, whatever is at its path by now.
pub(in crate::origin) fn mapped(directory: &Path, mapping: &Mapping) -> Result<OwnedFd, Errno> {
    let link = directory.join(format!("map_files/{:x}-{:x}", mapping.start, mapping.end));
    open(&link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).or_else(|error| match error {
        // Without CAP_CHECKPOINT_RESTORE what the path leads to now is looked at, and taken where it is the same file.
        Errno::PERM | Errno::ACCESS => {
            let file = under_root(directory, Path::new(&mapping.path))?;
            is_mapped(&file, mapping).map(|()| file)
        }
        error => Err(error),
    })
}

/// A device's numbers.
type Device = (u32, u32);

/// Opens what a handle that opened nothing is of, where it is a regular file.
pub(in crate::origin) fn regular(found: impl AsFd, mounts: &Mounts) -> Result<OwnedFd, Errno> {
    let (_, device) = identify(&found)?;
    reopen(found, device, mounts)
}

/// What tells the regular file that a handle is of from every other.
pub(in crate::origin) fn key(found: impl AsFd) -> Result<FileKey, Errno> {
    identify(found).map(|(key, _)| key)
}

fn identify(found: impl AsFd) -> Result<(FileKey, Device), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(&found, c"", flags, StatxFlags::BASIC_STATS)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let key = FileKey {
        device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        changed: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
    };
    Ok((key, (stat.stx_dev_major, stat.stx_dev_minor)))
}

fn reopen(found: impl AsFd, (major, minor): Device, mounts: &Mounts) -> Result<OwnedFd, Errno> {
    if !mounts.can_be_waited_for(major, minor) {
        return Err(Errno::OPNOTSUPP);
    }
    let link = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    open(link, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
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

fn is_mapped(file: &OwnedFd, mapping: &Mapping) -> Result<(), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, c"", flags, StatxFlags::BASIC_STATS)?;
    let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
    if (device, stat.stx_ino) == (mapping.device, mapping.inode) { Ok(()) } else { Err(Errno::STALE) }
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;

    use super::*;
    use crate::proc::maps::mappings;

    #[test]
    fn a_file_system_in_user_space_is_not_waited_for() {
        let mut mounted = HashMap::new();
        for line in [
            b"36 35 0:25 / / rw,noatime master:1 - overlay overlay rw".as_slice(),
            b"37 36 0:26 / /data rw shared:7 master:1 - fuse.sshfs host rw",
            b"38 36 0:27 / /- rw - fuse - rw",
            b"39 36 0:28 / /a\\040b rw - tmpfs tmpfs rw",
            b"",
            b"nonsense",
            b"1 2 x:y / / rw - ext4 a rw",
        ] {
            read_mount(&mut mounted, line);
        }
        let mounts = Mounts { directory: PathBuf::new(), mounted: OnceCell::from(mounted) };
        let answers = [25, 26, 27, 28, 29].map(|minor| mounts.can_be_waited_for(0, minor));
        assert_eq!(answers, [true, false, false, true, false]);
        assert!(mounts.can_be_waited_for(259, 1));
    }

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let found = open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let mounts = Mounts::default();
        assert_eq!(regular(&found, &mounts).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn a_file_that_is_mapped_can_be_opened_by_its_path_in_the_processs_root() {
        let own = Path::new("/proc/self");
        let mapping = mappings(own).into_iter().find(Mapping::is_code).unwrap();
        let found = under_root(own, Path::new(&mapping.path)).unwrap();
        is_mapped(&found, &mapping).unwrap();
        let other = Mapping { inode: mapping.inode + 1, ..mapping };
        assert_eq!(is_mapped(&found, &other).unwrap_err(), Errno::STALE);
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
