//! Stacks at forks, and which processes they are taken of.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use aya::{
    Btf, Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use reaper_ebpf::{
    Group,
    interpreter::{
        Exec, Executable, FOLLOWED_WORDS, Followed, Frame, Layout, Stack, UNASKED, Verdict, entry, stage,
    },
};

use super::{Kernel, KernelError, attach, census, high, low, map};

/// The stage that follows the fork program,
const PYTHON: &str = "fork_python";
/// and the one that follows that, turn by turn.
const WALK: &str = "fork_walk";
/// Where they are.
const FORK: &str = "sched_process_fork";
/// Beside the other program at this hook.
const EXEC: (&str, &str) = ("exec_origin", "sched_process_exec");
/// Which process executes which file.
const EXECUTABLES: &str = "executables";

const VERDICT_WORDS: usize = size_of::<Verdict>() / 8;
const LAYOUT_WORDS: usize = size_of::<Layout>() / 8;

/// What the kernel side has written down.
#[derive(Clone, Debug)]
pub enum Written {
    /// A stack.
    Stack(Stack, Vec<Frame>),
    /// A process executes a file that is to be looked at.
    Exec(Exec),
}

/// The kernel side's end of it, for whoever reads.
pub struct Origins {
    ring: RingBuf<MapData>,
    followed: HashMap<MapData, u32, [u64; FOLLOWED_WORDS]>,
    executables: HashMap<MapData, [u64; 3], [u64; VERDICT_WORDS]>,
}

/// A look at which process executes which file, that is still to be taken.
#[derive(Debug)]
pub struct Running(File);

/// Looks that may be taken at the start. A process that is found by one may fork before it is followed, and what it forks is found
/// by the next; the first one takes longest by far, for files are read then.
const LOOKS: usize = 4;

/// Loads the programs. Nothing else needs them.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), KernelError> {
    for (name, tracepoint) in [(WALK, FORK), (PYTHON, FORK), EXEC] {
        attach::tracing_program(ebpf, name)?
            .load(tracepoint, btf)
            .map_err(|error| KernelError::program(name, error))?;
    }
    attach::iterator(ebpf, EXECUTABLES)?
        .load("task", btf)
        .map_err(|error| KernelError::program(EXECUTABLES, error))
}

impl Kernel {
    /// Why no stacks can be taken, where they cannot.
    #[must_use]
    pub const fn no_origins(&self) -> Option<&KernelError> {
        self.no_origins.as_ref()
    }

    /// Begins: from here on each process that executes a file is written down unless the file is known. Those that do already
    /// are to be looked for. Once.
    pub fn origins(&mut self) -> Result<(Origins, Vec<Running>), KernelError> {
        let Self { ebpf, stages, .. } = self;
        let mut origins = Origins {
            ring: map(ebpf, "ORIGINS")?,
            followed: map(ebpf, "FOLLOWED")?,
            executables: map(ebpf, "EXECUTABLES")?,
        };
        origins.forget_all();
        stages.follow_forks(ebpf, stage::WALK, WALK)?;
        stages.follow_forks(ebpf, stage::PYTHON, PYTHON)?;
        let (exec, _) = EXEC;
        attach::tracing_program(ebpf, exec)?.attach().map_err(|error| KernelError::program(exec, error))?;
        let running =
            (0..LOOKS).map(|_| census::open(ebpf, EXECUTABLES).map(Running)).collect::<Result<_, _>>()?;
        Ok((origins, running))
    }
}

impl Running {
    /// Looks now.
    pub fn read(mut self) -> io::Result<Vec<Exec>> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes)?;
        let execs = bytes.as_chunks::<{ size_of::<Exec>() }>().0;
        Ok(execs.iter().map(|bytes| read_exec(&census::words(bytes))).collect())
    }
}

impl Origins {
    /// Takes out all that is there, and shows it.
    pub fn each(&mut self, mut visit: impl FnMut(Written)) {
        while let Some(bytes) = self.ring.next() {
            match read(&bytes) {
                Some(written) => visit(written),
                None => tracing::warn!(length = bytes.len(), "an unknown entry from the kernel side"),
            }
        }
    }

    /// A process's forks are looked at, unless it is gone or executes something else by now; where it is not known yet, only if it was there
    /// `before` the kernel side was. False where there is no room.
    pub fn follow(&mut self, tgid: u32, followed: &Followed, before: bool) -> bool {
        let Followed { start, image, head, exec, shape, layout, main } = *followed;
        let [first, second, third, fourth, fifth] = layout_words(layout);
        let number = reaper_ebpf::pack(shape, exec);
        self.put(tgid, [start, image, head, number, first, second, third, fourth, fifth, main], before)
    }

    /// The same as those of the process that exec'ed the program which this one was forked in, where that is followed and has not
    /// exec'ed since: everything is at the same addresses in both. `None` where there is no such process.
    pub fn inherit(&mut self, exec: &Exec, before: bool) -> Option<bool> {
        let founder = reaper_ebpf::tgid_of(exec.image);
        let mut words = (founder != exec.tgid).then(|| self.followed.get(&founder, 0).ok())??;
        let [start, image, head, number, .., main] = &mut words;
        let same = (*image, low(*number)) == (exec.image, exec.exec);
        if !same || *head == 0 || high(*number) >= UNASKED {
            return None;
        }
        *start = exec.start;
        // It may have been forked by another thread, which is its main one then.
        *main = 0;
        Some(self.put(exec.tgid, words, before))
    }

    fn put(&mut self, tgid: u32, words: [u64; FOLLOWED_WORDS], before: bool) -> bool {
        let is_meant = match self.known(tgid) {
            // Between this look and the last one it may have exec'ed, and what was written over was newer.
            Some((start, exec)) => start == words[0] && !is_newer(exec, low(words[3])),
            None => before,
        };
        !is_meant || self.followed.insert(tgid, words, 0).is_ok()
    }

    /// They are not any more, unless it executes something else by now.
    pub fn unfollow(&mut self, exec: &Exec) {
        if self.known(exec.tgid) == Some((exec.start, exec.exec)) {
            // It has died or exec'ed meanwhile.
            let _gone = self.followed.remove(&exec.tgid);
        }
    }

    /// Start and count of execs of the process that is followed under a tgid.
    fn known(&self, tgid: u32) -> Option<(u64, u32)> {
        self.followed.get(&tgid, 0).ok().map(|words| (words[0], low(words[3])))
    }

    /// What a file is. False where there is no room.
    pub fn know(&mut self, executable: Executable, verdict: &Verdict) -> bool {
        let Verdict { kind, shape, distance, layout } = *verdict;
        let [first, second, third, fourth, fifth] = layout_words(layout);
        let words = [reaper_ebpf::pack(shape, kind), distance, first, second, third, fourth, fifth];
        self.executables.insert(key(executable), words, 0).is_ok()
    }

    /// What an earlier daemon has written: its numbers mean nothing here.
    fn forget_all(&mut self) {
        let followed: Vec<u32> = self.followed.keys().flatten().collect();
        for tgid in followed {
            let _gone = self.followed.remove(&tgid);
        }
        self.forget_executables();
        while self.ring.next().is_some() {}
    }

    /// Every file is looked at anew.
    pub fn forget_executables(&mut self) {
        let executables: Vec<_> = self.executables.keys().flatten().collect();
        for executable in executables {
            let _gone = self.executables.remove(&executable);
        }
    }
}

impl AsFd for Origins {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.ring)
    }
}

fn borrow(ring: &RingBuf<MapData>) -> BorrowedFd<'_> {
    #![expect(unsafe_code, reason = "aya shows a ring buffer's descriptor only as a number")]
    // SAFETY: the descriptor is the map's, which the ring buffer owns for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
}

/// Whether one count is ahead of another; they wrap.
const fn is_newer(exec: u32, than: u32) -> bool {
    exec.wrapping_sub(than).cast_signed() > 0
}

fn key(Executable { inode, device, generation, size }: Executable) -> [u64; 3] {
    [inode, reaper_ebpf::pack(generation, device), size]
}

fn layout_words(layout: Layout) -> [u64; LAYOUT_WORDS] {
    let Layout {
        interpreter_next,
        interpreter_threads,
        thread_next,
        thread_id,
        thread_frame,
        cframe_frame,
        frame_bytes,
        frame_back,
        frame_code,
        frame_at,
        frame_owner,
        frame_nobodys,
        code_first_line,
        code_file,
        code_table,
        bytes_size,
        ascii_head,
        text_head,
        zero: [zero, null],
    } = layout;
    let word = |parts: [u16; 4]| parts.into_iter().rev().fold(0, |word, part| word << 16 | u64::from(part));
    [
        word([interpreter_next, interpreter_threads, thread_next, thread_id]),
        word([thread_frame, cframe_frame, frame_bytes, frame_back]),
        word([frame_code, frame_at, frame_owner, frame_nobodys]),
        word([code_first_line, code_file, code_table, bytes_size]),
        word([ascii_head, text_head, zero, null]),
    ]
}

fn read(bytes: &[u8]) -> Option<Written> {
    const STACK: usize = size_of::<Stack>();
    let (first, _) = bytes.split_first_chunk::<4>()?;
    match u32::from_le_bytes(*first) {
        entry::STACK => {
            let (head, rest) = bytes.split_first_chunk::<STACK>()?;
            let [what, child, forker, forker_start, image, exec, v2, v1] = census::words(head);
            let stack = Stack {
                entry: entry::STACK,
                frames: high(what),
                child,
                forker: low(forker),
                end: high(forker),
                forker_start,
                image,
                exec: low(exec),
                shape: high(exec),
                group: Group { v2, v1 },
            };
            let frames = rest.as_chunks::<{ size_of::<Frame>() }>().0.iter().map(|bytes| {
                let [code, at, of, lines] = census::words(bytes);
                Frame { code, at, first_line: low(of), tag: high(of), table: low(lines), texts: high(lines) }
            });
            Some(Written::Stack(stack, frames.take(stack.frames as usize).collect()))
        }
        entry::EXEC => {
            let (exec, _) = bytes.split_first_chunk::<{ size_of::<Exec>() }>()?;
            Some(Written::Exec(read_exec(&census::words(exec))))
        }
        _ => None,
    }
}

fn read_exec(words: &[u64; 8]) -> Exec {
    let [what, start, code, exec, image, inode, whose, size] = *words;
    let executable = Executable { inode, device: low(whose), generation: high(whose), size };
    Exec { entry: entry::EXEC, tgid: high(what), start, code, exec: low(exec), zero: 0, image, executable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_lies_in_its_words_as_it_lies_in_memory() {
        let layout = Layout {
            interpreter_next: 1,
            thread_id: 4,
            thread_frame: 5,
            code_file: 12,
            bytes_size: 14,
            ascii_head: 15,
            ..Layout::default()
        };
        let bytes: Vec<u8> = layout_words(layout).into_iter().flat_map(u64::to_le_bytes).collect();
        let parts: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|part| u16::from_le_bytes(*part)).collect();
        assert_eq!(parts, [1, 0, 0, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 14, 15, 0, 0, 0]);
    }

    #[test]
    fn counts_of_execs_are_compared_beyond_their_end() {
        assert!(is_newer(2, 1) && is_newer(0, u32::MAX));
        assert!(!is_newer(1, 1) && !is_newer(1, 2) && !is_newer(u32::MAX, 0));
    }

    #[test]
    fn a_stack_has_no_more_frames_than_there_are() {
        let mut bytes = vec![0; 64 + 32];
        bytes[..8].copy_from_slice(&[1, 0, 0, 0, 9, 0, 0, 0]);
        (bytes[48], bytes[64]) = (5, 7);
        let Some(Written::Stack(stack, frames)) = read(&bytes) else { panic!("no stack") };
        assert_eq!((stack.frames, stack.group.v2, frames.len(), frames[0].code), (9, 5, 1, 7));
        assert!(read(&bytes[..63]).is_none() && read(&[]).is_none() && read(&[9; 64]).is_none());
    }
}
