//! One mounted hierarchy, and what its ids stand for right now.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use super::{cgroups::Hierarchy, handle};

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) hierarchy: Hierarchy,
    pub(super) point: PathBuf,
    pub(super) directory: File,
    /// What the kernel calls the mount's root in a link from /proc/self/fd.
    shown_as: Vec<u8>,
    /// False where the kernel refuses to resolve ids.
    pub(super) by_handle: bool,
}

impl Tree {
    pub(super) fn open(hierarchy: Hierarchy, point: &Path) -> io::Result<Self> {
        let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(point)?;
        let shown_as = shown_as(&directory)?;
        Ok(Self { hierarchy, point: point.to_path_buf(), directory, shown_as, by_handle: true })
    }

    /// The path of the cgroup with this id. `ESTALE`: there is none, not any more or not yet.
    pub(super) fn resolve(&self, id: u64) -> io::Result<Vec<u8>> {
        let stale = || io::Error::from_raw_os_error(libc::ESTALE);
        let file = File::from(handle::open_by_id(self.directory.as_fd(), id)?);
        // Kernels were seen to resolve a number of another hierarchy to something else of this one.
        if file.metadata()?.ino() != id {
            return Err(stale());
        }
        let mut shown = shown_as(&file)?;
        // The kernel adds this to what was just removed; a name may also end so.
        if let Some(kept) = shown.strip_suffix(b" (deleted)")
            && !fs::symlink_metadata(Path::new(OsStr::from_bytes(&shown)))
                .is_ok_and(|metadata| metadata.ino() == id)
        {
            shown.truncate(kept.len());
        }
        let path =
            shown.strip_prefix(&self.shown_as[..]).filter(|path| path.starts_with(b"/") && path.len() > 1);
        path.map(<[u8]>::to_vec).ok_or_else(stale)
    }

    /// True where no cgroup has this id.
    pub(super) fn is_gone(&self, id: u64) -> bool {
        let error = handle::open_by_id(self.directory.as_fd(), id).err();
        error.and_then(|error| error.raw_os_error()) == Some(libc::ESTALE)
    }
}

fn shown_as(file: &File) -> io::Result<Vec<u8>> {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(link.into_os_string().into_encoded_bytes())
}
