//! The lock: one daemon on a machine. And the folder in which it is, together with the control socket and with a second lock:
//! remedies are applied by one process at a time, the daemon or a command.
//!
//! It is an flock, so it ends with the process that holds it, however that ends. The file stays and does no harm.

use std::{
    env,
    ffi::OsString,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use thiserror::Error;

use crate::trust::{self, Exposed};

/// The folder of what is there while a daemon runs.
const DIRECTORY: &str = "/run/reaper";

/// The lock's file in it.
const FILE: &str = "lock";

/// That of the lock of remedies.
const REMEDIES: &str = "remedies";

/// How often the file is opened anew because it was removed or replaced meanwhile, and how often the holder's pid is
/// looked for that it is about to write.
const ATTEMPTS: usize = 20;

/// How long each of these waits.
const PAUSE: Duration = Duration::from_millis(5);

/// The folder of what is there while a daemon runs: the lock and the control socket. A service manager can name
/// another one (systemd: `RuntimeDirectory=`).
#[must_use]
pub fn directory() -> PathBuf {
    directory_from(env::var_os("RUNTIME_DIRECTORY"))
}

fn directory_from(named: Option<OsString>) -> PathBuf {
    // Several are separated by colons.
    let first = named.and_then(|named| env::split_paths(&named).next());
    first.filter(|path| path.is_absolute()).unwrap_or_else(|| DIRECTORY.into())
}

/// Makes the folder where it is missing.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(directory)
}

/// Why the lock could not be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another reaper ({}) holds {path}", holder.map_or("pid unknown".to_owned(), |pid| format!("pid {pid}")))]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Who has it, where it has said so.
        holder: Option<u32>,
    },
    /// This user may not make the file, or its folder.
    #[error(
        "{directory}: {source}: run as root, or make the directory this user's own (systemd: RuntimeDirectory=reaper)"
    )]
    Denied {
        /// The folder.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others than root and this user could replace what is in the folder.
    #[error(
        "{directory}: belongs to user {owner} with mode {mode:04o}, and nobody but root may be able to change it: \
         chown root:root {directory} && chmod 755 {directory}"
    )]
    Exposed {
        /// The folder.
        directory: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The file could not be used.
    #[error("{path}: {source}")]
    File {
        /// The lock's file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LockError {
    /// True where a privilege is what is missing (exit code 77).
    #[must_use]
    pub const fn is_permission(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Exposed { .. })
    }
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in `directory`, which is made where it is missing, and writes this process's pid into it.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        Self::take_file(directory, FILE)
    }

    /// Takes the lock of remedies in `directory`: held for as long as something is done.
    pub fn of_remedies(directory: &Path) -> Result<Self, LockError> {
        Self::take_file(directory, REMEDIES)
    }

    fn take_file(directory: &Path, file: &str) -> Result<Self, LockError> {
        let path = directory.join(file);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => LockError::Denied { directory: directory.to_owned(), source },
            _ => LockError::File { path: path.clone(), source },
        };
        let mut attempt = 0;
        let mut file = loop {
            make(directory).map_err(failed)?;
            check_owner(directory).map_err(failed)??;
            let file = match open(&path) {
                // The folder went away in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => None,
                file => Some(file.map_err(failed)?),
            };
            if let Some(file) = file {
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Err(Errno::WOULDBLOCK) => return Err(LockError::Held { holder: holder(&path), path }),
                    locked => locked.map_err(|error| failed(error.into()))?,
                }
                // A file that has lost its name protects nothing: who comes next makes a new one.
                if is_at(&file, &path).map_err(failed)? || attempt >= ATTEMPTS {
                    break file;
                }
            }
            attempt += 1;
            thread::sleep(PAUSE);
        };
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(pid.as_bytes()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // Children that are started meanwhile must not hold it: close-on-exec is the standard library's habit.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check_owner(directory: &Path) -> io::Result<Result<(), LockError>> {
    let exposed =
        |Exposed { owner, mode }| LockError::Exposed { directory: directory.to_owned(), owner, mode };
    Ok(trust::check(&std::fs::metadata(directory)?).map_err(exposed))
}

/// The pid in the lock's file. Who has just taken it may not have written it yet.
fn holder(path: &Path) -> Option<u32> {
    for _ in 0..ATTEMPTS {
        let mut text = String::new();
        File::open(path).ok()?.take(32).read_to_string(&mut text).ok()?;
        if let Some(pid) = text.strip_suffix('\n') {
            return pid.parse().ok();
        }
        thread::sleep(PAUSE);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_second_is_told_who_is_the_first_and_gets_it_when_that_ends() {
        let folder = folder();
        let directory = folder.path().join("run/reaper");
        let first = Lock::take(&directory).unwrap();
        let path = directory.join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = Lock::take(&directory).unwrap_err();
        let told = format!("another reaper (pid {}) holds {}", std::process::id(), path.display());
        assert_eq!((error.to_string(), error.is_permission()), (told, false));
        drop(first);
        Lock::take(&directory).unwrap();
    }

    #[test]
    fn a_file_that_a_dead_daemon_left_is_taken_over_with_all_that_is_in_it() {
        let folder = folder();
        fs::write(folder.path().join(FILE), "4194303\nand more").unwrap();
        let _lock = Lock::take(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_file_that_was_removed_under_its_holder_does_not_stop_the_next() {
        let folder = folder();
        let _first = Lock::take(folder.path()).unwrap();
        fs::remove_file(folder.path().join(FILE)).unwrap();
        let _second = Lock::take(folder.path()).unwrap();
        assert!(matches!(Lock::take(folder.path()), Err(LockError::Held { .. })));
    }

    #[test]
    fn a_link_at_its_place_is_not_followed() {
        let folder = folder();
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join(FILE)).unwrap();
        assert!(matches!(Lock::take(folder.path()), Err(LockError::File { .. })));
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "precious");
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused_with_the_command_that_mends_it() {
        let folder = folder();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Lock::take(folder.path()).unwrap_err();
        assert!(error.is_permission() && error.to_string().contains("chmod 755 /"), "{error}");
    }

    #[test]
    fn a_service_manager_may_name_the_folder() {
        for (named, expected) in [
            (None, DIRECTORY),
            (Some("/run/a"), "/run/a"),
            (Some("/run/a:/run/b"), "/run/a"),
            (Some("relative"), DIRECTORY),
            (Some(""), DIRECTORY),
        ] {
            assert_eq!(directory_from(named.map(OsString::from)), Path::new(expected), "{named:?}");
        }
    }
}
