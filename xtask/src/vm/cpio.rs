//! Writes an initramfs: a cpio archive in the "newc" format, which the kernel unpacks itself.
//!
//! Guarantees that the same entries give the same bytes: no times, no owners, inode numbers in order.
//! <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;
const SYMLINK: u32 = 0o120_000;

/// An archive that is being written, in memory.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

struct Header<'a> {
    path: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    contents: &'a [u8],
}

impl Archive {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), inode: 0 }
    }

    /// Adds a directory. The kernel makes no parents: they come first.
    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(&Header { path, mode: DIRECTORY | 0o755, links: 2, device: (0, 0), contents: &[] })
    }

    /// Adds a file that root may run.
    pub(crate) fn executable(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        self.entry(&Header { path, mode: REGULAR | 0o755, links: 1, device: (0, 0), contents })
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        self.entry(&Header { path, mode: REGULAR | 0o644, links: 1, device: (0, 0), contents })
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let contents = target.as_bytes();
        self.entry(&Header { path, mode: SYMLINK | 0o777, links: 1, device: (0, 0), contents })
    }

    /// Adds a character device; no privilege is needed to write one into an archive.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(&Header { path, mode: CHARACTER | 0o600, links: 1, device: (major, minor), contents: &[] })
    }

    /// Ends the archive and returns its bytes.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry(&Header { path: "TRAILER!!!", mode: 0, links: 1, device: (0, 0), contents: &[] })?;
        Ok(self.bytes)
    }

    fn entry(&mut self, header: &Header<'_>) -> Result<()> {
        let Header { path, mode, links, device: (major, minor), contents } = *header;
        let size = u32::try_from(contents.len()).with_context(|| format!("{path}: larger than 4 GiB"))?;
        let name_size = u32::try_from(path.len() + 1).context("a path longer than 4 GiB")?;
        self.inode += 1;
        self.bytes.extend_from_slice(b"070701");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        for field in [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
        Ok(())
    }

    /// Header with name, and contents, each end on a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_names_and_contents_end_on_multiples_of_four() {
        let mut archive = Archive::new();
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.file("a", b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let at: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(at.len(), 4, "three entries and the trailer");
        assert!(at.iter().all(|at| at % 4 == 0), "{at:?}");
        assert!(
            text.contains("a\x0012345\0\0\0"),
            "110 bytes and a name of two need no padding, five bytes three"
        );
    }

    #[test]
    fn a_header_is_six_magic_bytes_and_thirteen_fields_of_eight() {
        let mut archive = Archive::new();
        archive.character_device("c", 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        let expected = concat!(
            "070701", "00000001", "00002180", "00000000", "00000000", "00000001", "00000000", "00000000",
            "00000000", "00000000", "00000005", "00000001", "00000002", "00000000", "c\0"
        );
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        let build = || {
            let mut archive = Archive::new();
            archive.executable("init", b"\x7fELF").unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(build(), build());
    }
}
