//! Where a process has mapped libpython, and that file.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    io::Errno,
};

/// Bytes of `maps` that are read. A process may have 65,530 mappings; libraries come long before that.
const BYTES: u64 = 4 << 20;

/// A file that is mapped from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Where it is.
    pub(super) start: u64,
    end: u64,
    /// Tells files apart: device and inode, as the kernel prints them.
    pub(super) file: String,
    path: Vec<u8>,
}

/// The first mapping of libpython; `None` where there is none.
pub(super) fn libpython(process: &Path) -> io::Result<Option<Mapping>> {
    let maps = File::open(process.join("maps"))?.take(BYTES);
    for line in BufReader::new(maps).split(b'\n') {
        if let Some(mapping) = parse(&line?) {
            return Ok(Some(mapping));
        }
    }
    Ok(None)
}

/// `7f0c2e400000-7f0c2e4d5000 r--p 00000000 08:01 393245   /usr/lib/libpython3.11.so.1.0`
fn parse(line: &[u8]) -> Option<Mapping> {
    let path = line.iter().position(|byte| *byte == b'/').and_then(|at| line.get(at..))?;
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    if !name.starts_with(b"libpython3") || name.starts_with(b"libpython3.so") {
        return None;
    }
    let head = std::str::from_utf8(line.get(..line.len() - path.len())?).ok()?;
    let mut words = head.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let [_, offset, device, inode] = [words.next()?, words.next()?, words.next()?, words.next()?];
    if offset.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: number(start)?,
        end: number(end)?,
        file: format!("{device} {inode}"),
        path: path.to_owned(),
    })
}

impl Mapping {
    /// Opens the file, whatever is at its path by now; where that is not allowed, the one at its path as the process sees it.
    pub(super) fn open(&self, process: &Path) -> io::Result<File> {
        let entry = process.join(format!("map_files/{:x}-{:x}", self.start, self.end));
        match open(&entry) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.open_by_path(process),
            file => file,
        }
    }

    fn open_by_path(&self, process: &Path) -> io::Result<File> {
        let root = openat(
            CWD,
            process.join("root"),
            OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY,
            Mode::empty(),
        )?;
        let path = OsStr::from_bytes(&self.path);
        let file = openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        let file = reopen(&File::from(file))?;
        let found = file.metadata()?.ino();
        if self.file.split(' ').nth(1).and_then(|inode| inode.parse().ok()) == Some(found) {
            Ok(file)
        } else {
            Err(io::Error::other("another file is at its path"))
        }
    }
}

/// Opens what one of /proc's links leads to. Only a file: opening some devices does something.
pub(super) fn open(link: &Path) -> io::Result<File> {
    let found = openat(CWD, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    reopen(&File::from(found))
}

fn reopen(found: &File) -> io::Result<File> {
    if FileType::from_raw_mode(fstat(found.as_fd())?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let own = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(openat(CWD, own, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libpython_is_found_by_its_first_page_only() {
        let line = b"7f0c2e400000-7f0c2e4d5000 r--p 00000000 08:01 393245   /opt/my lib/libpython3.11.so.1.0 (deleted)";
        let found = parse(line).unwrap();
        assert_eq!(
            (found.start, found.end, found.file.as_str()),
            (0x7f0c_2e40_0000, 0x7f0c_2e4d_5000, "08:01 393245")
        );
        assert!(
            parse(b"7f0c2e4d5000-7f0c2e5d5000 r-xp 000d5000 08:01 393245 /lib/libpython3.11.so.1.0")
                .is_none()
        );
        assert!(parse(b"7f0c2e4d5000-7f0c2e5d5000 r--p 00000000 08:01 393245 /lib/libpython3.so").is_none());
        assert!(parse(b"7f0c2e4d5000-7f0c2e5d5000 r--p 00000000 08:01 393245 /lib/libc.so.6").is_none());
        assert!(parse(b"7f0c2e4d5000-7f0c2e5d5000 rw-p 00000000 00:00 0").is_none());
    }

    #[test]
    fn whatever_stands_in_maps_reading_it_ends() {
        for line in [
            &b""[..],
            b"/",
            b"/libpython3",
            b"x /libpython3.9",
            b"1-2 r 0 8:1 /libpython3.9",
            b"\xff-\xff r 0 a b /libpython3.9",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn only_a_file_is_opened() {
        let refused = open(Path::new("/dev/null")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
        open(Path::new("/proc/self/exe")).unwrap();
    }

    #[test]
    fn a_file_that_is_mapped_can_be_opened_by_its_path_in_the_processs_root() {
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let inode = std::fs::metadata(&exe).unwrap().ino();
        let path = exe.into_os_string().into_encoded_bytes();
        let mapping =
            |inode: u64| Mapping { start: 0, end: 0, file: format!("08:01 {inode}"), path: path.clone() };
        let process = Path::new("/proc/self");
        mapping(inode).open_by_path(process).unwrap();
        assert!(mapping(inode + 1).open_by_path(process).is_err());
    }
}
