//! A process's mappings: the text of its `maps`.

use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::ffi::OsStringExt as _,
    path::Path,
};

/// Bytes of `maps` that are read: a process may have 65,530 mappings by default, and more where it was allowed.
const MOST_BYTES: u64 = 64 << 20;

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The one behind its last.
    pub end: u64,
    /// `rwxp`.
    pub rights: [u8; 4],
    /// Where in the file it begins.
    pub offset: u64,
    /// The file's device, as `maps` writes it.
    pub device: u64,
    /// Its inode number; 0 where there is no file.
    pub inode: u64,
    /// Its path, or a name in brackets.
    pub path: OsString,
}

impl Mapping {
    /// Code of a file, which nobody can write to: what is made at run time may be made anew at any moment.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.rights == *b"r-xp" && self.inode != 0
    }

    /// Whether it is executable.
    #[must_use]
    pub const fn is_executable(&self) -> bool {
        self.rights[2] == b'x'
    }

    /// Whether it may be read and written, and is not shared.
    #[must_use]
    pub const fn is_private_memory(&self) -> bool {
        matches!(self.rights, [b'r', b'w', _, b'p'])
    }

    /// The main thread's stack.
    #[must_use]
    pub fn is_stack(&self) -> bool {
        self.path == "[stack]"
    }

    /// `[vdso]` and its like.
    #[must_use]
    pub fn is_special(&self) -> bool {
        self.path.as_encoded_bytes().first() == Some(&b'[')
    }

    /// A C library by its name: it has all that is looked for, and it is small.
    #[must_use]
    pub fn is_libc(&self) -> bool {
        let path = self.path.as_encoded_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.starts_with(b"libc.") || name.starts_with(b"libc-") || name.starts_with(b"ld-musl")
    }

    /// Of whose file nothing is known.
    pub(crate) fn plain(start: u64, end: u64, rights: u64) -> Self {
        let letter = |bit: u64, letter: u8| if rights & bit != 0 { letter } else { b'-' };
        let sharing = if rights & 8 != 0 { b's' } else { b'p' };
        let rights = [letter(1, b'r'), letter(2, b'w'), letter(4, b'x'), sharing];
        Self { start, end, rights, offset: 0, device: 0, inode: 0, path: OsString::new() }
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut field = || std::str::from_utf8(fields.next()?).ok();
        let (range, rights, offset, device, inode) = (field()?, field()?, field()?, field()?, field()?);
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = range.split_once('-')?;
        let (major, minor) = device.split_once(':')?;
        let path = fields.next().unwrap_or_default().trim_ascii_start().to_vec();
        Some(Self {
            start: hex(start)?,
            end: hex(end)?,
            rights: rights.as_bytes().try_into().ok()?,
            offset: hex(offset)?,
            device: hex(major)? << 32 | hex(minor)?,
            inode: inode.parse().ok()?,
            path: OsString::from_vec(path),
        })
    }
}

/// The mappings of a process or thread, by its directory in /proc. Empty where they cannot be read, and for a main thread that
/// has ended before others.
#[must_use]
pub fn mappings(directory: &Path) -> Vec<Mapping> {
    let Ok(file) = File::open(directory.join("maps")) else { return Vec::new() };
    let mut reader = BufReader::with_capacity(1 << 16, file.take(MOST_BYTES));
    let (mut mappings, mut line) = (Vec::new(), Vec::new());
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        mappings.extend(Mapping::parse(line.strip_suffix(b"\n").unwrap_or(&line)));
        line.clear();
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_proc_writes_them() {
        let line =
            b"7f0a1c000000-7f0a1c155000 r-xp 00026000 fe:01 1832                       /usr/lib/libc.so.6";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(
            (mapping.start, mapping.end, mapping.offset),
            (0x7f0a_1c00_0000, 0x7f0a_1c15_5000, 0x26000)
        );
        assert_eq!((mapping.device, mapping.inode), (0xfe << 32 | 1, 1832));
        assert!(mapping.is_code() && mapping.is_libc() && !mapping.is_stack());
        let stack = Mapping::parse(b"7ffd1000-7ffd3000 rw-p 00000000 00:00 0    [stack]").unwrap();
        assert!(stack.is_stack() && stack.is_private_memory() && !stack.is_code());
        let vdso = Mapping::parse(b"7ffd1000-7ffd3000 r-xp 00000000 00:00 0    [vdso]").unwrap();
        assert!(!vdso.is_code());
        let bare = Mapping::parse(b"1000-2000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!(bare.path, "");
        let odd =
            Mapping::parse(b"1000-2000 r--s 00000000 00:05 7    /a name with\\012blanks (deleted)").unwrap();
        assert_eq!(odd.path, "/a name with\\012blanks (deleted)");
        for line in [&b""[..], b"x", b"1000-2000 rw-p", b"1000 rw-p 0 0:0 0", b"1000-2000 rw-px 0 0:0 0 x"] {
            assert_eq!(Mapping::parse(line), None);
        }
    }

    #[test]
    fn a_process_knows_its_own_stack() {
        let stack = mappings(Path::new("/proc/self")).into_iter().find(Mapping::is_stack).unwrap();
        assert!(stack.is_private_memory() && stack.end - stack.start >= 128 << 10);
    }
}
