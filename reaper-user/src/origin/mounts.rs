//! Which files may be opened: an open can take for ever where a program answers for the file system, and whoever runs that program
//! may be who wants it so.
//!
//! What a file is on is said by its mount and never by the file system itself, which would be asked for that, too (`statfs` waits
//! for FUSE's program). Nor by the file's device: btrfs has one for each subvolume, and overlayfs for each layer on another file
//! system, that are mounted nowhere.

use std::{
    cell::OnceCell,
    collections::HashMap,
    fs::File,
    io::Read as _,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak, mpsc::sync_channel},
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, FileType, MemfdFlags, Mode, OFlags, StatxFlags, makedev, memfd_create, open, statx},
    io::Errno,
};
use thiserror::Error;

use super::files::FileKey;
use crate::text::Untrusted;

/// Bytes of `mountinfo` that are read.
const MOUNTS: u64 = 4 << 20;

/// Kept in memory or on disks by the kernel alone, and without a device of that disk.
const LOCAL: [&str; 5] = ["tmpfs", "ramfs", "btrfs", "bcachefs", "zfs"];

/// An open of any other is given up after so long: a layer of overlayfs may be FUSE's, a server may be down.
const PATIENCE: Duration = Duration::from_secs(1);

/// Threads that may hang in an open. They cannot be ended, and end when what they wait for does.
const HANGING: usize = 8;

/// The mounts that opens hang at, as long as they do.
static HANGS: Mutex<Vec<(u64, Weak<()>)>> = Mutex::new(Vec::new());

/// Why a file was not opened.
#[derive(Debug, Error)]
pub enum Unopened {
    /// Whoever answers for its file system may never do.
    #[error("a program answers for its file system ({0}), and may never do")]
    FileSystem(Untrusted),
    /// It is on a mount that is neither this process's nor the one's that has it.
    #[error("what file system it is on is not known: it is mounted nowhere that can be seen")]
    Unmounted,
    /// The kernel refuses it.
    #[error(transparent)]
    Errno(#[from] Errno),
}

impl Unopened {
    /// Whether it is so with each process that has the file.
    pub(in crate::origin) const fn is_for_good(&self) -> bool {
        matches!(self, Self::FileSystem(_))
    }

    /// Whether it is for want of time, or of a thread: later it may be opened.
    pub(in crate::origin) const fn is_late(&self) -> bool {
        matches!(self, Self::Errno(Errno::TIMEDOUT | Errno::AGAIN))
    }

    /// Whether it is for want of a privilege.
    pub(in crate::origin) const fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Errno(Errno::PERM | Errno::ACCESS))
    }
}

/// What a regular file is, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regular {
    pub(super) key: FileKey,
    device: Device,
    mount: u64,
}

/// The mounts that a process and this one see. Read when it is asked.
#[derive(Debug, Default)]
pub(in crate::origin) struct Mounts {
    directory: PathBuf,
    mounted: OnceCell<Mounted>,
}

/// Kinds of file systems: by the mount's number, with the device of what is mounted, and by that device.
#[derive(Debug, Default)]
struct Mounted {
    mounts: HashMap<u64, (Device, Arc<str>)>,
    devices: HashMap<Device, Arc<str>>,
}

/// Who has to do something for an open.
#[derive(Debug, PartialEq, Eq)]
enum Answerer {
    /// The kernel and its disks.
    Kernel,
    /// A server, or what another file system is made of: it may be any.
    Others,
    /// A program that anybody may run, and the kind of its file system.
    Program(Arc<str>),
}

/// Major and minor number.
type Device = (u32, u32);

impl Regular {
    pub(super) fn of(found: impl AsFd) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&found, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let key = FileKey {
            device: makedev(device.0, device.1),
            inode: stat.stx_ino,
            size: stat.stx_size,
            changed: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        };
        Ok(Self { key, device, mount: stat.stx_mnt_id })
    }
}

impl Mounts {
    /// What this process and the one with this directory in /proc see.
    pub(in crate::origin) fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), mounted: OnceCell::new() }
    }

    /// Opens what a handle that opened nothing is of.
    pub(super) fn open(&self, found: BorrowedFd<'_>, file: &Regular) -> Result<OwnedFd, Unopened> {
        match self.answerer(file)? {
            Answerer::Kernel => Ok(reopen(found)?),
            Answerer::Others => {
                let found = found.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
                Ok(in_time(file.mount, PATIENCE, move || reopen(found.as_fd()))?)
            }
            Answerer::Program(kind) => Err(Unopened::FileSystem(Untrusted::new(kind.as_bytes()))),
        }
    }

    /// Whether a process that has mapped this file has this device for it in its `maps`: not the file's own, but that of the file
    /// system that is mounted there.
    pub(super) fn has_device(&self, file: &Regular, device: u64) -> bool {
        let numbers = |(major, minor): (u32, u32)| u64::from(major) << 32 | u64::from(minor);
        let mounted = || self.mounted().mounts.get(&file.mount).map(|(mounted, _)| numbers(*mounted));
        device == numbers(file.device) || mounted() == Some(device)
    }

    fn answerer(&self, file: &Regular) -> Result<Answerer, Unopened> {
        // Of a disk nobody needs to be asked.
        if file.device.0 != 0 {
            return Ok(Answerer::Kernel);
        }
        let Mounted { mounts, devices } = self.mounted();
        let kind = mounts.get(&file.mount).map(|(_, kind)| kind).or_else(|| devices.get(&file.device));
        match kind.ok_or(Unopened::Unmounted)? {
            kind if LOCAL.contains(&&**kind) => Ok(Answerer::Kernel),
            kind if kind.starts_with("fuse") => Ok(Answerer::Program(Arc::clone(kind))),
            _ => Ok(Answerer::Others),
        }
    }

    fn mounted(&self) -> &Mounted {
        self.mounted.get_or_init(|| {
            let mut mounted = Mounted::default();
            for directory in [&*self.directory, Path::new("/proc/self")] {
                let mut text = Vec::new();
                if let Ok(file) = File::open(directory.join("mountinfo")) {
                    let _read_so_far = file.take(MOUNTS).read_to_end(&mut text);
                }
                text.split(|byte| *byte == b'\n').for_each(|line| mounted.read(line));
            }
            // What was made by memfd_create is all in one file system, which is mounted nowhere.
            if let Ok(own) = memfd_create(c"", MemfdFlags::CLOEXEC)
                && let Ok(own) = Regular::of(&own)
            {
                mounted.devices.insert(own.device, Arc::from("tmpfs"));
            }
            mounted
        })
    }
}

impl Mounted {
    /// <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
    fn read(&mut self, line: &[u8]) {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut field = || std::str::from_utf8(fields.next()?).ok();
        let (number, _parent, device) = (field(), field(), field());
        let mount = number.and_then(|number| number.parse().ok());
        let device = device.and_then(|device| {
            let (major, minor) = device.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        if let (Some(mount), Some(device), Some(kind)) = (mount, device, kind) {
            let kind: Arc<str> = String::from_utf8_lossy(kind).into();
            self.devices.insert(device, Arc::clone(&kind));
            self.mounts.insert(mount, (device, kind));
        }
    }
}

fn reopen(found: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    open(link, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Opens something on a mount in a thread that is left behind where it hangs. Nothing more is tried there as long as it does, nor
/// anywhere where too many do.
fn in_time(
    mount: u64,
    patience: Duration,
    open: impl FnOnce() -> Result<OwnedFd, Errno> + Send + 'static,
) -> Result<OwnedFd, Errno> {
    let hang = |hangs: &mut Vec<(u64, Weak<()>)>| {
        hangs.retain(|(_, thread)| thread.strong_count() > 0);
        hangs.len() >= HANGING || hangs.iter().any(|(hangs, _)| *hangs == mount)
    };
    if hang(&mut HANGS.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Err(Errno::TIMEDOUT);
    }
    let (answer, answered) = sync_channel(1);
    let at_work = Arc::new(());
    let thread = Arc::downgrade(&at_work);
    let work = move || {
        // Nobody is there any more where it is late.
        let _late = answer.send(open());
        drop(at_work);
    };
    thread::Builder::new().name("opening".to_owned()).spawn(work).map_err(|_| Errno::AGAIN)?;
    answered.recv_timeout(patience).unwrap_or_else(|_| {
        HANGS.lock().unwrap_or_else(PoisonError::into_inner).push((mount, thread));
        Err(Errno::TIMEDOUT)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn mounted() -> Mounts {
        let mut mounted = Mounted::default();
        for line in [
            b"36 35 0:25 / / rw,noatime master:1 - overlay overlay rw".as_slice(),
            b"37 36 0:26 / /data rw shared:7 master:1 - fuse.sshfs host rw",
            b"38 36 0:27 / /- rw - fuse - rw",
            b"39 36 0:28 / /a\\040b rw - tmpfs tmpfs rw",
            b"40 36 0:29 /sub /b rw - btrfs /dev/vda rw,subvol=/sub",
            b"",
            b"nonsense",
            b"1 2 x:y / / rw - ext4 a rw",
        ] {
            mounted.read(line);
        }
        Mounts { directory: PathBuf::new(), mounted: OnceCell::from(mounted) }
    }

    fn on(mount: u64, device: Device) -> Regular {
        Regular { key: FileKey::fixture(1), device, mount }
    }

    #[test]
    fn who_has_to_answer_is_said_by_the_mount_whatever_the_files_device_is() {
        let mounts = mounted();
        let of = |mount, minor| mounts.answerer(&on(mount, (0, minor)));
        let is_program = |mount, minor| matches!(of(mount, minor), Ok(Answerer::Program(_)));
        // A layer of overlayfs on another file system and a subvolume of btrfs have devices of their own.
        assert_eq!(of(36, 25).unwrap(), Answerer::Others);
        assert_eq!(of(36, 99).unwrap(), Answerer::Others);
        assert_eq!(of(40, 98).unwrap(), Answerer::Kernel);
        assert_eq!(of(39, 28).unwrap(), Answerer::Kernel);
        assert!(is_program(37, 26) && is_program(38, 27) && is_program(37, 25));
        // On a mount that cannot be seen, but another of the same is.
        assert_eq!(of(70, 28).unwrap(), Answerer::Kernel);
        assert!(is_program(70, 26));
        assert!(matches!(of(70, 97), Err(Unopened::Unmounted)));
        assert_eq!(mounts.answerer(&on(70, (259, 1))).unwrap(), Answerer::Kernel);
    }

    #[test]
    fn maps_have_the_device_of_what_is_mounted() {
        let mounts = mounted();
        assert!(mounts.has_device(&on(40, (0, 98)), 29), "btrfs");
        assert!(mounts.has_device(&on(70, (259, 1)), 259 << 32 | 1), "a disk");
        assert!(!mounts.has_device(&on(40, (0, 98)), 28));
    }

    #[test]
    fn what_has_no_name_can_be_opened() {
        let file = memfd_create(c"x", MemfdFlags::CLOEXEC).unwrap();
        let mounts = Mounts::of(Path::new("/proc/self"));
        mounts.open(file.as_fd(), &Regular::of(&file).unwrap()).unwrap();
    }

    #[test]
    fn an_open_that_hangs_is_left_behind_and_nothing_more_is_tried_there_as_long_as_it_does() {
        let own = || File::open("/proc/self/maps").map(OwnedFd::from).map_err(|_| Errno::IO);
        let (end, ended) = channel::<()>();
        let hangs = move || {
            let _ended = ended.recv();
            own()
        };
        let late = in_time(7_001, Duration::from_millis(1), hangs);
        assert_eq!(late.unwrap_err(), Errno::TIMEDOUT);
        assert_eq!(in_time(7_001, PATIENCE, own).unwrap_err(), Errno::TIMEDOUT);
        in_time(7_002, PATIENCE, own).unwrap();
        drop(end);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while in_time(7_001, PATIENCE, own).is_err() {
            assert!(std::time::Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
