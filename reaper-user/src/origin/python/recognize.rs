//! Which processes are interpreters. A file is looked at once; a process of one that is linked to libpython is looked at each
//! time, for the library is at another address in each.

use std::{
    collections::HashMap,
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Instant,
};

use reaper_ebpf::interpreter::{Executable, Layout};
use rustix::io::Errno;
use thiserror::Error;

use super::shape::Shape;
use crate::{
    identity::BootTime,
    origin::{
        files::{self, FileKey},
        mounts::{Mounts, Unopened},
        suspects::{PUT_OFF, Suspects},
        symbols::{
            Symbolizer, Unanswered,
            message::{Answer, Cpython, Interpreter, OFFSETS, Request, Version},
        },
    },
    proc::{
        Proc,
        maps::{Mapping, mappings},
        ticks,
    },
    text::Untrusted,
};

/// Files that are remembered.
const FILES: usize = 8_192;
/// Layouts that are remembered: each build of 3.13 and later may have its own.
const SHAPES: usize = 1_024;

/// A process that executes a file that is not known, or is linked to libpython.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::origin) struct Subject {
    pub(in crate::origin) pid: u32,
    pub(in crate::origin) start: BootTime,
    /// Where its code begins.
    pub(in crate::origin) code: u64,
    pub(in crate::origin) executable: Executable,
}

/// Why a process was not looked at.
#[derive(Debug, Error)]
pub(in crate::origin) enum Unlooked {
    /// A file of it does harm, or another one did just now. It is to be looked at again then.
    #[error("a file of it takes too long, or kills the symbolizing process: it is left alone for a while")]
    PutOff {
        again: Instant,
        /// It was found out by this look.
        now: bool,
    },
    /// A file of it may not be opened.
    #[error(transparent)]
    Unopened(Unopened),
    /// That is not allowed, or something is lacking.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl From<Unopened> for Unlooked {
    fn from(error: Unopened) -> Self {
        if error.is_late() {
            Self::PutOff { again: Instant::now() + PUT_OFF, now: true }
        } else {
            Self::Unopened(error)
        }
    }
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::origin) enum Found {
    /// It is gone, or executes another file by now.
    Gone,
    /// No interpreter, nor is any other process of this file.
    Other,
    /// Linked to libpython, which is not mapped (yet).
    Linked,
    /// An interpreter.
    Interpreter {
        /// Where the address of the first interpreter is.
        head: u64,
        /// Where that is from where its code begins, in every process of this file; `None` where it is in a library.
        distance: Option<u64>,
        /// The number of its layout.
        shape: u32,
        /// Its layout.
        layout: Layout,
    },
}

/// Reads a file, which is somebody else's.
type Reader = Box<dyn Fn(BorrowedFd<'_>) -> Result<Cpython, Unanswered> + Send>;

/// Remembers files.
pub(in crate::origin) struct Recognizer {
    proc: Proc,
    reader: Reader,
    executables: HashMap<Executable, Cpython>,
    libraries: HashMap<FileKey, Cpython>,
    suspects: Suspects,
    /// Files that are not looked at because they do harm, and until when: they need not be opened to know that.
    put_off: HashMap<Executable, Instant>,
    shapes: Vec<Arc<Shape>>,
}

impl fmt::Debug for Recognizer {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Recognizer").field("executables", &self.executables).finish_non_exhaustive()
    }
}

impl Recognizer {
    /// Of the processes in this proc file system. Files are read by the symbolizing process.
    pub(in crate::origin) fn new(proc: Proc, symbolizer: Symbolizer) -> Self {
        let read = move |file: BorrowedFd<'_>| match symbolizer.ask(&Request::Cpython, &[], &[file])? {
            // Whoever took that process over may fill a packet, not the memory of this one.
            Answer::Cpython(Cpython::Interpreter(Interpreter {
                version: Version::Offsets(words), ..
            })) if words.len() > OFFSETS => Ok(Cpython::Other),
            Answer::Cpython(found) => Ok(found),
            _ => Err(Unanswered::Refused("another question was answered".to_owned())),
        };
        Self::with(proc, Box::new(read))
    }

    fn with(proc: Proc, reader: Reader) -> Self {
        let (executables, libraries) = (HashMap::new(), HashMap::new());
        let (suspects, put_off, shapes) = (Suspects::default(), HashMap::new(), Vec::new());
        Self { proc, reader, executables, libraries, suspects, put_off, shapes }
    }

    /// Whether its file has been looked at, or is not to be now.
    pub(in crate::origin) fn knows(&self, executable: &Executable) -> bool {
        self.executables.contains_key(executable) || self.is_put_off(executable).is_some()
    }

    /// Until when its file is left alone.
    fn is_put_off(&self, executable: &Executable) -> Option<Instant> {
        self.put_off.get(executable).copied().filter(|until| *until > Instant::now())
    }

    /// Whether each process of it is looked at: it is linked to libpython.
    pub(in crate::origin) fn is_linked(&self, executable: &Executable) -> bool {
        self.executables.get(executable) == Some(&Cpython::Linked)
    }

    /// What a process executes is called so; `?` where that cannot be seen.
    pub(in crate::origin) fn path(&self, pid: u32) -> Untrusted {
        let path = std::fs::read_link(self.proc.of(pid).join("exe"));
        path.map_or_else(|_| "?".into(), |path| Untrusted::new(path.as_os_str().as_encoded_bytes()))
    }

    /// The layout with this number.
    pub(in crate::origin) fn shape(&self, number: u32) -> Option<Arc<Shape>> {
        self.shapes.get(number as usize).cloned()
    }

    /// Looks at a process.
    pub(in crate::origin) fn look(&mut self, subject: &Subject) -> Result<Found, Unlooked> {
        match self.find(subject) {
            // What says so of one that is there is told as any other error.
            Err(error) if is_gone(&error) && !self.is_still(subject) => Ok(Found::Gone),
            found => found,
        }
    }

    fn find(&mut self, subject: &Subject) -> Result<Found, Unlooked> {
        let Subject { pid, executable, code, .. } = *subject;
        let process = self.proc.of(pid);
        let mounts = Mounts::of(&process);
        let found = match self.executables.get(&executable) {
            Some(found) => found.clone(),
            None => {
                if let Some(again) = self.is_put_off(&executable) {
                    return Err(Unlooked::PutOff { again, now: false });
                }
                let found = self.read(files::executable(&process, &mounts));
                if let Err(Unlooked::PutOff { again, .. }) = found {
                    make_room(&mut self.put_off, FILES);
                    self.put_off.insert(executable, again);
                }
                if matches!(&found, Err(Unlooked::Unopened(error)) if error.is_for_good()) {
                    make_room(&mut self.executables, FILES);
                    self.executables.insert(executable, Cpython::Other);
                }
                let found = found?;
                // What was opened is what the event is about.
                if !self.is_still(subject) {
                    return Ok(Found::Gone);
                }
                make_room(&mut self.executables, FILES);
                self.executables.insert(executable, found.clone());
                found
            }
        };
        match found {
            Cpython::Other => Ok(Found::Other),
            Cpython::Interpreter(found) => {
                let bias = code.wrapping_sub(found.code);
                let Some((number, shape)) = self.shape_of(&found)? else {
                    return Ok(Found::Other);
                };
                let head = bias.wrapping_add(found.symbol).wrapping_add(shape.head);
                let distance = Some(head.wrapping_sub(code));
                Ok(Found::Interpreter { head, distance, shape: number, layout: shape.layout })
            }
            Cpython::Linked => {
                let Some(mapping) = libpython(&process) else {
                    return Ok(if self.is_still(subject) { Found::Linked } else { Found::Gone });
                };
                // An upgrade may give another library the same inode number.
                let handle = match files::mapped(&process, &mapping, &mounts) {
                    // The loader maps a library whole, and then part by part: what was read is not there any more, and the process is.
                    Err(Errno::NOENT) if self.is_still(subject) => return Ok(Found::Linked),
                    handle => handle.map_err(Unopened::Errno)?,
                };
                let Ok(key) = files::key(&handle) else { return Ok(Found::Linked) };
                let library = match self.libraries.get(&key) {
                    Some(library) => library.clone(),
                    None => {
                        let library = self.read(files::regular(handle, &mounts))?;
                        make_room(&mut self.libraries, FILES);
                        self.libraries.insert(key, library.clone());
                        library
                    }
                };
                // A number of libpython's that has no interpreter, or one that is not known.
                let Cpython::Interpreter(found) = library else { return Ok(Found::Linked) };
                let bias = mapping.start.wrapping_sub(found.first);
                let Some((number, shape)) = self.shape_of(&found)? else {
                    return Ok(Found::Linked);
                };
                if !self.is_still(subject) {
                    return Ok(Found::Gone);
                }
                let head = bias.wrapping_add(found.symbol).wrapping_add(shape.head);
                Ok(Found::Interpreter { head, distance: None, shape: number, layout: shape.layout })
            }
        }
    }

    /// What a file has. One that whoever runs its file system can keep us waiting for is not read, nor one that has done harm
    /// lately.
    fn read(&mut self, file: Result<OwnedFd, Unopened>) -> Result<Cpython, Unlooked> {
        let file = match file {
            Ok(file) => file,
            // No regular file.
            Err(Unopened::Errno(Errno::INVAL)) => return Ok(Cpython::Other),
            Err(error) => return Err(error.into()),
        };
        let key = files::key(&file).map_err(Unopened::Errno)?;
        let (asked, now) = ([key], Instant::now());
        if !self.suspects.may_ask(&asked, now) {
            let again = self.suspects.put_off(&key).unwrap_or(now + PUT_OFF);
            return Err(Unlooked::PutOff { again, now: false });
        }
        let answer = (self.reader)(file.as_fd());
        let now = Instant::now();
        if self.suspects.learn(&asked, &answer, now) {
            // It may have been another one's fault, if it was good before.
            let again = self.suspects.put_off(&key).unwrap_or(now + PUT_OFF);
            return Err(Unlooked::PutOff { again, now: true });
        }
        match answer {
            Err(Unanswered::Paused) => Err(Unlooked::PutOff { again: now + PUT_OFF, now: false }),
            answer => Ok(answer.map_err(io::Error::other)?),
        }
    }

    fn is_still(&self, subject: &Subject) -> bool {
        // Where the code begins tells one program from the next; it is 1 to those who may not know, and 0 of a zombie.
        self.proc
            .code(subject.pid)
            .is_some_and(|(start, code)| start == ticks(subject.start) && (code == subject.code || code == 1))
    }

    /// `None` where it is no version that is known.
    fn shape_of(&mut self, found: &Interpreter) -> io::Result<Option<(u32, Arc<Shape>)>> {
        let Some(shape) = Shape::of_version(&found.version) else { return Ok(None) };
        let number = match self.shapes.iter().position(|known| **known == shape) {
            Some(number) => number,
            None if self.shapes.len() >= SHAPES => {
                return Err(io::Error::other("more kinds of interpreters than are remembered"));
            }
            None => {
                self.shapes.push(Arc::new(shape));
                self.shapes.len() - 1
            }
        };
        let known = self.shapes.get(number).map(Arc::clone);
        Ok(u32::try_from(number).ok().zip(known))
    }
}

/// The first mapping of libpython; `None` where there is none.
pub(super) fn libpython(process: &Path) -> Option<Mapping> {
    mappings(process).into_iter().find(|mapping| {
        let path = mapping.path.as_encoded_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let is_library = name.starts_with(b"libpython3") && !name.starts_with(b"libpython3.so");
        is_library && mapping.inode != 0 && mapping.offset == 0
    })
}

fn make_room<K, V>(known: &mut HashMap<K, V>, most: usize) {
    if known.len() >= most {
        known.clear();
    }
}

fn is_gone(error: &Unlooked) -> bool {
    match error {
        Unlooked::Unopened(Unopened::Errno(error)) => matches!(*error, Errno::NOENT | Errno::SRCH),
        Unlooked::Failed(error) => {
            matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EFAULT))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
