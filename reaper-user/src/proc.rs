//! One process in /proc, read by its pid. Never a listing of /proc: a zombie, its holder, its forker and its
//! tracer are the only processes that are ever looked at, once each.

pub mod maps;
pub mod namespaces;

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use procfs::{
    FromBufRead as _, FromRead as _, ProcError,
    process::{Process, Stat, Status},
};
use rustix::param::clock_ticks_per_second;
use thiserror::Error;

use crate::{identity::BootTime, text::Untrusted};

/// Bytes of a command line that are read.
const CMDLINE_BYTES: u64 = 4096;

/// Bytes of `stat` or `status` that are read. `status` lists the supplementary groups, of which a process can have
/// 65,536 of ten digits each: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/limits.h> (`NGROUPS_MAX`)
const STATE_BYTES: u64 = 1 << 20;

/// Threads among which a living one is looked for.
const THREADS: usize = 1_024;

/// <https://man7.org/linux/man-pages/man7/signal.7.html>
const SIGCHLD_BIT: u64 = 1 << (17 - 1);

/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/sched.h>
const PF_KTHREAD: u32 = 0x0020_0000;

/// A mounted proc filesystem.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

/// Why a process could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no such process (any more).
    #[error("process {0} is gone")]
    Gone(u32),
    /// It is there and could not be read.
    #[error("reading /proc/{pid}: {source}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// What went wrong.
        source: ProcError,
    },
}

impl ReadError {
    /// True where this process, not the other, is short of something: later it may succeed.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        let Self::Unreadable { source: ProcError::Io(error, _), .. } = self else { return false };
        matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
    }
}

/// What /proc shows of one process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its thread group's id, in the reader's pid namespace.
    pub tgid: u32,
    /// Its name.
    pub comm: Untrusted,
    /// The kernel's letter for its state.
    pub state: char,
    /// The thread group that has to wait for it, in the reader's pid namespace; 0 where that is outside.
    pub parent: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// The thread that traces it; `None` where none does.
    pub tracer: Option<u32>,
    /// Its pid in every namespace from the reader's to its own.
    pub ns_pids: Vec<u32>,
    /// Its process group, in the reader's pid namespace; 0 where that is outside.
    pub group: u32,
    /// Its real user id.
    pub uid: u32,
    /// Whether it is a kernel thread.
    pub kernel_thread: bool,
    /// Whether it has a handler for SIGCHLD.
    pub handles_sigchld: bool,
    /// Whether SIGCHLD is of any use to it: it has a handler, or blocks the signal to fetch it.
    pub heeds_sigchld: bool,
    /// How many threads it has, a first one that has ended included.
    pub threads: u64,
    /// How often its first thread has been scheduled away.
    pub switches: u64,
}

impl Seen {
    /// Whether all of it has ended. A first thread that has ended before others looks like a zombie and is none.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }

    /// When it started, as exactly as /proc shows it.
    #[must_use]
    pub fn start(&self) -> BootTime {
        BootTime(self.start_ticks * (1_000_000_000 / clock_ticks_per_second()))
    }
}

impl Proc {
    /// The proc filesystem mounted at `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Reads a process's state.
    pub fn see(&self, pid: u32) -> Result<Seen, ReadError> {
        self.open(pid).and_then(|process| read(&process)).map_err(|error| failed(pid, error))
    }

    /// Reads a process's state and command line.
    pub fn see_with_cmdline(&self, pid: u32) -> Result<(Seen, Option<Untrusted>), ReadError> {
        let process = self.open(pid).map_err(|error| failed(pid, error))?;
        let seen = read(&process).map_err(|error| failed(pid, error))?;
        // A kernel thread has none, nor has a process that is ending.
        let cmdline = bytes(&process, "cmdline", CMDLINE_BYTES).ok().filter(|bytes| !bytes.is_empty());
        Ok((seen, cmdline.map(|bytes| shown_cmdline(&bytes, false))))
    }

    /// A process's parent, and when the process itself started, in clock ticks. Only `stat` is read.
    #[must_use]
    pub fn parent(&self, pid: u32) -> Option<(u32, u64)> {
        let process = self.open(pid).ok()?;
        let stat = Stat::from_read(bytes(&process, "stat", STATE_BYTES).ok()?.as_slice()).ok()?;
        Some((u32::try_from(stat.ppid).ok()?, stat.starttime))
    }

    /// When a process started, in clock ticks, and where its program's code begins (1 for those who may not know). Only `stat`
    /// is read.
    #[must_use]
    pub fn code(&self, pid: u32) -> Option<(u64, u64)> {
        let process = self.open(pid).ok()?;
        let stat = Stat::from_read(bytes(&process, "stat", STATE_BYTES).ok()?.as_slice()).ok()?;
        Some((stat.starttime, stat.startcode))
    }

    /// A process's directory.
    #[must_use]
    pub fn of(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }

    /// The directory of a thread of it that has memory: the process's own, but where its first thread has ended before others.
    #[must_use]
    pub fn of_living(&self, pid: u32) -> PathBuf {
        let own = self.of(pid);
        if std::fs::read_link(own.join("exe")).is_ok() {
            return own;
        }
        let threads = std::fs::read_dir(own.join("task")).into_iter().flatten().take(THREADS);
        let mut threads = threads.filter_map(|thread| Some(thread.ok()?.path()));
        threads.find(|thread| std::fs::read_link(thread.join("exe")).is_ok()).unwrap_or(own)
    }

    fn open(&self, pid: u32) -> Result<Process, ProcError> {
        Process::new_with_root(self.of(pid))
    }

    /// The root, for readers of files that belong to no process.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Arguments as they stand in memory, each ended by a zero byte, as one line.
#[must_use]
pub fn shown_cmdline(arguments: &[u8], cut: bool) -> Untrusted {
    let mut line: Vec<u8> = arguments.to_vec();
    while line.last() == Some(&0) {
        line.pop();
    }
    for byte in &mut line {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    if cut {
        line.extend("…".bytes());
    }
    Untrusted::new(&line)
}

/// A start time as /proc shows it.
#[must_use]
pub fn ticks(start: BootTime) -> u64 {
    start.0 / (1_000_000_000 / clock_ticks_per_second())
}

fn read(process: &Process) -> Result<Seen, ProcError> {
    // Both files are read as bytes first: a name need not be UTF-8, and a process must not be able to hide
    // behind one that is not.
    let stat_bytes = bytes(process, "stat", STATE_BYTES)?;
    let stat = Stat::from_read(stat_bytes.as_slice())?;
    let status_bytes = bytes(process, "status", STATE_BYTES)?;
    let status = Status::from_buf_read(String::from_utf8_lossy(&status_bytes).as_bytes())?;
    let unsigned = |number: i32| u32::try_from(number).unwrap_or(0);
    Ok(Seen {
        tgid: unsigned(status.tgid),
        comm: Untrusted::new(name(&stat_bytes)),
        state: stat.state,
        parent: unsigned(stat.ppid),
        start_ticks: stat.starttime,
        tracer: Some(unsigned(status.tracerpid)).filter(|tracer| *tracer != 0),
        ns_pids: status.nspid.unwrap_or_default().into_iter().map(unsigned).collect(),
        group: unsigned(stat.pgrp),
        threads: u64::try_from(stat.num_threads).unwrap_or(1),
        uid: status.ruid,
        kernel_thread: stat.flags & PF_KTHREAD != 0,
        handles_sigchld: status.sigcgt & SIGCHLD_BIT != 0,
        heeds_sigchld: (status.sigcgt | status.sigblk) & SIGCHLD_BIT != 0,
        switches: status.voluntary_ctxt_switches.unwrap_or(0)
            + status.nonvoluntary_ctxt_switches.unwrap_or(0),
    })
}

/// The name in a stat line: it may itself contain parentheses and spaces.
fn name(stat: &[u8]) -> &[u8] {
    let first = stat.iter().position(|byte| *byte == b'(').map_or(0, |at| at + 1);
    let last = stat.iter().rposition(|byte| *byte == b')').unwrap_or(first);
    stat.get(first..last).unwrap_or_default()
}

fn bytes(process: &Process, file: &str, most: u64) -> Result<Vec<u8>, ProcError> {
    let mut bytes = Vec::new();
    process.open_relative(file)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failed(pid: u32, error: ProcError) -> ReadError {
    /// What /proc says of a process that was released between open and read.
    const ESRCH: i32 = 3;
    match error {
        ProcError::NotFound(_) => ReadError::Gone(pid),
        ProcError::Io(ref io, _) if io.raw_os_error() == Some(ESRCH) => ReadError::Gone(pid),
        ProcError::Io(ref io, _) if io.kind() == io::ErrorKind::NotFound => ReadError::Gone(pid),
        source => ReadError::Unreadable { pid, source },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    /// A tree with one zombie of this name: pid 42, started at tick 12,345, child of 7, traced by 9.
    pub(crate) fn fake(name: &[u8]) -> (tempfile::TempDir, Proc) {
        fake_in_groups(name, "")
    }

    fn fake_in_groups(name: &[u8], groups: &str) -> (tempfile::TempDir, Proc) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("42");
        fs::create_dir(&directory).unwrap();
        let mut stat = b"42 (".to_vec();
        stat.extend(name);
        stat.extend(b") Z 7 1 1 0 -1 4227084 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 512\n");
        fs::write(directory.join("stat"), stat).unwrap();
        let mut status = b"Name:\t".to_vec();
        status.extend(name);
        status.extend(
            b"\nUmask:\t0022\nState:\tZ (zombie)\nTgid:\t42\nNgid:\t0\nPid:\t42\nPPid:\t7\nTracerPid:\t9\n\
            Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t0\nGroups:\t",
        );
        status.extend(groups.as_bytes());
        status.extend(
            b" \nNStgid:\t42\t3\nNSpid:\t42\t3\nNSpgid:\t1\t0\nNSsid:\t1\t0\nThreads:\t1\nSigQ:\t0/96\nSigPnd:\t0\nShdPnd:\t0\n\
            SigBlk:\t0000000000010000\nSigIgn:\t0\nSigCgt:\t0000000000000000\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\n\
            CapBnd:\t0\nCapAmb:\t0\n\
            voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t7\n",
        );
        fs::write(directory.join("status"), status).unwrap();
        fs::write(directory.join("cmdline"), b"python3\0-c\0import x\0").unwrap();
        let proc = Proc::at(root.path());
        (root, proc)
    }

    #[test]
    fn a_zombie_is_read_by_its_fields() {
        let (_root, proc) = fake(b"a) Z (b");
        let (seen, cmdline) = proc.see_with_cmdline(42).unwrap();
        assert_eq!(
            seen,
            Seen {
                tgid: 42,
                comm: "a) Z (b".into(),
                state: 'Z',
                parent: 7,
                start_ticks: 12_345,
                tracer: Some(9),
                ns_pids: vec![42, 3],
                group: 1,
                uid: 0,
                kernel_thread: false,
                handles_sigchld: false,
                heeds_sigchld: true,
                threads: 1,
                switches: 12,
            }
        );
        assert_eq!(cmdline.unwrap().as_str(), "python3 -c import x");
    }

    #[test]
    fn a_name_that_is_not_text_hides_nobody() {
        let (_root, proc) = fake(b"\xff\x1b[2J");
        assert_eq!(proc.see(42).unwrap().comm.as_str(), r"\xff\x1b[2J");
    }

    #[test]
    fn a_process_in_as_many_groups_as_there_can_be_does_not_hide_behind_them() {
        let groups: String = (0..65_536).map(|group| format!("{} ", u32::MAX - 1 - group)).collect();
        let (_root, proc) = fake_in_groups(b"x", groups.trim_end());
        let seen = proc.see(42).unwrap();
        assert_eq!((seen.ns_pids, seen.switches), (vec![42, 3], 12));
    }

    #[test]
    fn of_an_endless_command_line_the_beginning_is_read() {
        let (root, proc) = fake(b"x");
        fs::write(root.path().join("42/cmdline"), [b'x'; 10_000]).unwrap();
        let (_, cmdline) = proc.see_with_cmdline(42).unwrap();
        assert_eq!(cmdline.unwrap().as_str().len(), 4096);
    }

    #[test]
    fn a_process_that_is_gone_is_told_from_one_that_cannot_be_read() {
        let (root, proc) = fake(b"x");
        assert!(matches!(proc.see(43), Err(ReadError::Gone(43))));
        fs::write(root.path().join("42/stat"), "nonsense").unwrap();
        assert!(matches!(proc.see(42), Err(ReadError::Unreadable { pid: 42, .. })));
    }

    #[test]
    fn a_start_time_is_compared_in_the_ticks_that_proc_shows() {
        assert_eq!(ticks(BootTime(123_456_789_012)), 12_345);
    }
}
