//! Descriptors as bytes. A file may shrink while it is mapped; then reading it kills this process, which is what it is for.
#![expect(unsafe_code, reason = "only the kernel can lay a file into memory")]

use std::{os::fd::AsFd, ptr, slice};

use rustix::{
    fs::{FileType, fstat},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap},
};

/// Tells whether two descriptors are of the same unchanged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    device: u64,
    inode: u64,
    size: i64,
    changed: (i64, u64),
}

/// Of a regular file.
pub(super) fn key(file: impl AsFd) -> Result<FileKey, Errno> {
    let stat = fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    Ok(FileKey {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size,
        changed: (stat.st_mtime, stat.st_mtime_nsec),
    })
}

/// The file's bytes, for as long as this process lives: what reads them keeps references into them, and the process ends
/// when it holds too much.
pub(super) fn bytes(file: impl AsFd, key: &FileKey) -> Result<&'static [u8], Errno> {
    let length = usize::try_from(key.size).map_err(|_| Errno::INVAL)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: A new mapping, wherever the kernel has room; read-only, never unmapped.
    let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }?;
    // SAFETY: As long as the mapping that starts there, and initialized. Somebody may write to the file meanwhile: bytes
    // may change between two reads, which no reader in this process relies on for memory safety beyond what safe code checks.
    Ok(unsafe { slice::from_raw_parts(start.cast::<u8>(), length) })
}
