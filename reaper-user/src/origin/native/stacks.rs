//! Frames for what was captured at a fork.

use std::{
    collections::HashMap,
    fs::File,
    io::ErrorKind,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustix::fs::{Mode, OFlags, open};
use thiserror::Error;

use super::{Registers, perf_map};
use crate::{
    identity::Identity,
    origin::{
        Frame, FrameKind, Language, Quality, Stack,
        files::{FileKey, Files},
        mounts::{Mounts, Unopened},
        suspects::Suspects,
        symbols::{
            Counts, Symbolizer, Unanswered,
            message::{Answer, FILES, FRAMES, Function, Place, Request, SPANS, STACK, Span, Unwound},
        },
    },
    proc::{
        self, Proc,
        maps::{Mapping, mappings},
    },
    text::Untrusted,
};

/// Bytes of functions that are remembered, and somewhat more: a program can have names as long as it likes.
const NAMES: usize = 8 << 20;

/// Where distributions put debug information, by build id: of containers' programs too it is this machine's that is looked at.
const DEBUG: &str = "/usr/lib/debug/.build-id";

/// Why there is no native stack.
#[derive(Debug, Error)]
pub enum Missing {
    /// The forker is gone.
    #[error("process {0} is gone")]
    Gone(u32),
    /// It is a machine whose stacks are not read.
    #[error("native stacks are read on x86-64 only")]
    Architecture,
    /// It runs another program by now, or what was captured is not what it forked with.
    #[error("process {0} is not in the program that it forked in")]
    Changed(u32),
    /// What it has mapped must not be looked at.
    #[error("the memory of process {0} must not be read")]
    NotPermitted(u32),
    /// The file that it forked in may not be opened.
    #[error("the file that process {0} forked in is not read: {1}")]
    Unopened(u32, Unopened),
    /// Its files have kept the symbolizing process busy before.
    #[error(
        "the files of process {0} have made the symbolizing process late or killed it: they are left alone for a while"
    )]
    Suspect(u32),
    /// The symbolizing process has no answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// A frame whose function is not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeFrame {
    /// An address in the instruction that it stands in.
    pub at: u64,
    /// Which file that is in, and where, as the file states it.
    pub place: Option<(FileKey, u64)>,
    /// The file's path as the process sees it.
    pub module: Option<Untrusted>,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    /// The file's build id.
    pub build_id: Option<String>,
    /// The name that the process's perf map had for it then.
    pub compiled: Option<Untrusted>,
}

/// A stack whose functions are not looked up yet. Two that are equal are of one origin as long as the forker lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeStack {
    /// The innermost first.
    pub frames: Vec<NativeFrame>,
    /// Whether the last one is the outermost.
    pub complete: bool,
    /// [`Quality::Approximate`] where a frame was guessed.
    pub quality: Quality,
}

/// Unwinds and names.
#[derive(Debug)]
pub struct NativeStacks {
    proc: Proc,
    symbolizer: Symbolizer,
    files: Files,
    debug: PathBuf,
    suspects: Suspects,
    names: HashMap<(FileKey, u64), Arc<[Function]>>,
    size: usize,
}

/// A forker's memory, and the files it has there.
struct Memory {
    spans: Vec<Span>,
    keys: Vec<FileKey>,
    files: Vec<Arc<OwnedFd>>,
    paths: Vec<Untrusted>,
    mounts: Mounts,
    /// Why the file that it forked in was not opened.
    unopened: Option<Unopened>,
}

impl NativeFrame {
    /// Without the function.
    fn bare(&self) -> Frame {
        Frame {
            module: self.module.clone(),
            offset: self.offset,
            build_id: self.build_id.clone(),
            ..Frame::default()
        }
    }
}

impl NativeStack {
    /// The stack without its functions: modules and offsets only.
    #[must_use]
    pub fn bare(&self) -> Stack {
        let frames = self.frames.iter().map(NativeFrame::bare).collect();
        Stack { frames, language: Language::Native, cut: !self.complete }
    }
}

impl NativeStacks {
    /// Of the processes in this proc file system.
    #[must_use]
    pub fn new(proc: Proc, symbolizer: Symbolizer) -> Self {
        Self {
            proc,
            symbolizer,
            files: Files::default(),
            debug: DEBUG.into(),
            suspects: Suspects::default(),
            names: HashMap::new(),
            size: 0,
        }
    }

    /// Looks for debug information that was split off programs in another directory than the usual one.
    #[must_use]
    pub fn with_debug_directory(mut self, directory: PathBuf) -> Self {
        self.debug = directory;
        self
    }

    /// What became of what the symbolizing process was asked.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.symbolizer.counts()
    }

    /// The frames of a forker that had these registers and whose stack from the stack pointer on began with these bytes. To be
    /// called soon after the fork: what the forker has mapped may change. Blocks, for some seconds at worst.
    pub fn unwind(
        &mut self,
        forker: &Identity,
        registers: &Registers,
        stack: &[u8],
    ) -> Result<NativeStack, Missing> {
        if cfg!(not(target_arch = "x86_64")) {
            return Err(Missing::Architecture);
        }
        let pid = forker.pid;
        let mut memory = self.memory(forker, registers.ip)?;
        let descriptors: Vec<_> = memory.files.iter().map(|file| file.as_fd()).collect();
        let request = Request::Unwind { registers: *registers, spans: memory.spans.clone() };
        let stack = stack.get(..STACK).unwrap_or(stack);
        if !self.suspects.may_ask(&memory.keys, Instant::now()) {
            return Err(Missing::Suspect(pid));
        }
        let answer = self.symbolizer.ask(&request, stack, &descriptors);
        self.suspects.learn(&memory.keys, &answer, Instant::now());
        let Answer::Unwound(mut unwound) = answer? else {
            return Err(strange());
        };
        unwound.frames.truncate(FRAMES);
        // What was mapped belongs to the one that forked only if it is still that one.
        self.check(forker)?;
        if unwound.frames.is_empty() {
            return Err(match memory.unopened.take() {
                Some(why) if why.is_not_permitted() => Missing::NotPermitted(pid),
                Some(why) => Missing::Unopened(pid, why),
                None => Missing::Changed(pid),
            });
        }
        let compiled = self.compiled(forker, &memory, &unwound);
        let frames = unwound.frames.iter().zip(compiled).map(|(frame, compiled)| {
            let span = memory.spans.iter().find(|span| (span.start..span.end).contains(&frame.at));
            let file = span.and_then(|span| span.file).map(usize::from);
            NativeFrame {
                at: frame.at,
                place: frame
                    .place
                    .and_then(|place| Some((*memory.keys.get(usize::from(place.file))?, place.address))),
                module: file.and_then(|file| memory.paths.get(file)).cloned(),
                offset: file.and(span).and_then(|span| span.offset.checked_add(frame.at - span.start)),
                build_id: file.and_then(|file| known_build_id(&unwound, file)),
                compiled,
            }
        });
        // What is missing may be what leaks.
        let guessed = !unwound.complete || unwound.frames.iter().any(|frame| frame.guessed);
        Ok(NativeStack {
            frames: frames.collect(),
            complete: unwound.complete,
            quality: if guessed { Quality::Approximate } else { Quality::Exact },
        })
    }

    /// A stack with its functions. What cannot be told has module, offset and build id only; false where nobody could be asked.
    /// Blocks like [`Self::unwind`].
    pub fn name(&mut self, stack: &NativeStack) -> (Stack, bool) {
        let asked = self.look_up(stack);
        let mut frames = Vec::new();
        for frame in &stack.frames {
            let place = frame.bare();
            let functions =
                frame.place.and_then(|place| self.names.get(&place)).map(|functions| &**functions);
            match functions {
                Some(functions @ [_, ..]) => frames.extend(functions.iter().map(|function| Frame {
                    function: function.name.as_deref().map(untrusted),
                    file: function.file.as_deref().map(untrusted),
                    line: function.line,
                    kind: if function.inlined { FrameKind::Inlined } else { FrameKind::Native },
                    ..place.clone()
                })),
                _ if frame.module.is_none() => {
                    frames.push(Frame { function: frame.compiled.clone(), kind: FrameKind::Jit, ..place });
                }
                _ => frames.push(place),
            }
        }
        (Stack { frames, language: Language::Native, cut: !stack.complete }, asked)
    }

    fn check(&self, forker: &Identity) -> Result<proc::Seen, Missing> {
        let gone = Missing::Gone(forker.pid);
        match self.proc.see(forker.pid) {
            Ok(seen) if proc::ticks(seen.start()) == proc::ticks(forker.start) => Ok(seen),
            _ => Err(gone),
        }
    }

    /// `ip` is where it forked.
    fn memory(&mut self, forker: &Identity, ip: u64) -> Result<Memory, Missing> {
        self.check(forker)?;
        let directory = self.proc.of(forker.pid);
        let mounts = Mounts::of(&directory);
        let mut memory =
            Memory { spans: vec![], keys: vec![], files: vec![], paths: vec![], mounts, unopened: None };
        let mut known: HashMap<(u64, u64), Option<u16>> = HashMap::new();
        let mapped = mappings(&directory);
        if mapped.is_empty() {
            return Err(match File::open(directory.join("maps")) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    Missing::NotPermitted(forker.pid)
                }
                _ => Missing::Gone(forker.pid),
            });
        }
        let executable = mapped.into_iter().filter(Mapping::is_executable).take(SPANS);
        for mapping in executable {
            let file = (mapping.inode != 0).then(|| {
                let identity = (mapping.device, mapping.inode);
                *known.entry(identity).or_insert_with(|| self.add(&directory, &mapping, &mut memory, ip))
            });
            memory.spans.push(Span {
                start: mapping.start,
                end: mapping.end,
                offset: mapping.offset,
                file: file.flatten(),
                anonymous: mapping.inode == 0 && !mapping.is_special(),
            });
        }
        Ok(memory)
    }

    fn add(&mut self, directory: &Path, mapping: &Mapping, memory: &mut Memory, ip: u64) -> Option<u16> {
        let index = u16::try_from(memory.files.len()).ok().filter(|index| usize::from(*index) < FILES)?;
        let key = match self.files.of(directory, mapping, &memory.mounts) {
            Ok(key) => key,
            Err(error) => {
                if (mapping.start..mapping.end).contains(&ip) {
                    memory.unopened = Some(error);
                }
                return None;
            }
        };
        memory.files.push(self.files.get(&key)?);
        memory.keys.push(key);
        memory.paths.push(Untrusted::new(mapping.path.as_encoded_bytes()));
        Some(index)
    }

    /// The perf map's names for frames in memory without a file: later the code may be elsewhere.
    fn compiled(&mut self, forker: &Identity, memory: &Memory, unwound: &Unwound) -> Vec<Option<Untrusted>> {
        let mut names = vec![None; unwound.frames.len()];
        let is_compiled =
            |at: u64| memory.spans.iter().any(|span| span.anonymous && (span.start..span.end).contains(&at));
        let (places, addresses): (Vec<_>, Vec<_>) = unwound
            .frames
            .iter()
            .enumerate()
            .filter(|(_, frame)| is_compiled(frame.at))
            .map(|(place, frame)| (place, frame.at))
            .unzip();
        let Ok(seen) = self.check(forker) else { return names };
        let own_pid = seen.ns_pids.last().copied().unwrap_or(forker.pid);
        let map = (!addresses.is_empty())
            .then(|| perf_map::find(&self.proc.of(forker.pid), own_pid, seen.uid, &memory.mounts).ok())
            .flatten();
        let Some(map) = map else { return names };
        if let Ok(Answer::PerfMap(found)) =
            self.symbolizer.ask(&Request::PerfMap { addresses }, &[], &[map.as_fd()])
        {
            for (place, name) in places.into_iter().zip(found) {
                if let Some(slot) = names.get_mut(place) {
                    *slot = name.as_deref().map(untrusted);
                }
            }
        }
        names
    }

    /// The debug information that was split off these files, with which of them it belongs to.
    fn split_off(&self, stack: &NativeStack, files: &[(FileKey, Arc<OwnedFd>)]) -> Vec<(u16, OwnedFd)> {
        let found = (0..).zip(files).filter_map(|(of, (key, _))| {
            let is_in = |frame: &&NativeFrame| frame.place.is_some_and(|(file, _)| file == *key);
            let id = stack.frames.iter().find(is_in)?.build_id.as_deref()?;
            let (first, rest) = id.split_at_checked(2)?;
            let path = self.debug.join(first).join(format!("{rest}.debug"));
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Some((of, open(path, flags, Mode::empty()).ok()?))
        });
        found.take(FILES.saturating_sub(files.len())).collect()
    }

    /// Asks for the functions that are not known yet. False where there is no answer.
    fn look_up(&mut self, stack: &NativeStack) -> bool {
        if self.size >= NAMES {
            self.names.clear();
            self.size = 0;
        }
        let mut places: Vec<_> = stack.frames.iter().filter_map(|frame| frame.place).collect();
        places.retain(|place| !self.names.contains_key(place));
        places.sort_unstable();
        places.dedup();
        let mut keys: Vec<FileKey> = places.iter().map(|(key, _)| *key).collect();
        keys.dedup();
        let opened: Vec<_> = keys.iter().filter_map(|key| Some((*key, self.files.get(key)?))).collect();
        let mut asked = Vec::new();
        let mut addresses = Vec::new();
        for place @ (key, address) in places {
            if let Some(file) =
                opened.iter().position(|(other, _)| *other == key).and_then(|file| u16::try_from(file).ok())
            {
                asked.push(place);
                addresses.push(Place { file, address });
            }
        }
        if asked.is_empty() {
            return true;
        }
        let about: Vec<FileKey> = opened.iter().map(|(key, _)| *key).collect();
        if !self.suspects.may_ask(&about, Instant::now()) {
            return false;
        }
        let split = self.split_off(stack, &opened);
        let descriptors: Vec<BorrowedFd<'_>> = opened
            .iter()
            .map(|(_, file)| file.as_fd())
            .chain(split.iter().map(|(_, file)| file.as_fd()))
            .collect();
        let debug =
            (opened.len()..).zip(&split).filter_map(|(at, (of, _))| Some((*of, u16::try_from(at).ok()?)));
        let request = Request::Symbolize { addresses, debug: debug.collect() };
        let answer = self.symbolizer.ask(&request, &[], &descriptors);
        self.suspects.learn(&about, &answer, Instant::now());
        // Without an answer it is asked again for the next stack; the pauses of the symbolizer keep that rare.
        let is_answered = matches!(answer, Ok(Answer::Symbolized(_)));
        if let Ok(Answer::Symbolized(functions)) = answer {
            self.size += asked.len() * size_of::<(FileKey, u64, Arc<[Function]>)>();
            self.size += functions.iter().flatten().map(size).sum::<usize>();
            self.names.extend(asked.into_iter().zip(functions.into_iter().map(Arc::from)));
        }
        is_answered
    }
}

fn size(function: &Function) -> usize {
    let text = [&function.name, &function.file].into_iter().flatten().map(String::len);
    size_of::<Function>() + text.sum::<usize>()
}

/// Only what can be one.
fn known_build_id(unwound: &Unwound, file: usize) -> Option<String> {
    let id = unwound.build_ids.get(file)?.as_ref()?;
    let is_hex = id.len() <= 128 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| id.clone())
}

fn untrusted(text: &str) -> Untrusted {
    Untrusted::new(text.as_bytes())
}

fn strange() -> Missing {
    Missing::Unanswered(Unanswered::Refused("another question was answered".to_owned()))
}
