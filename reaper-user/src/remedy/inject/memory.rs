//! The memory of one program. A pid is not enough to reach it by: whoever executes another program keeps its pid, and what was
//! verified of the old program would be written into the new one.

use std::{fs::File, io, path::Path};

use rustix::io::{Errno, pread, pwrite};

/// What a process had for memory when this was opened. The kernel keeps the descriptor at that: once the process has executed
/// another program, or ended, there is nothing to be read or written any more.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/proc/base.c> (`proc_mem_open`, `mem_rw`)
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// Of a process or thread, by its directory in /proc.
    pub fn open(directory: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(directory.join("mem")).map(Self)
    }

    /// What a file has for memory, for tests.
    #[cfg(test)]
    pub(super) const fn of(file: File) -> Self {
        Self(file)
    }

    /// Reads from one place. `SRCH` where this memory is gone.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let wanted = into.len();
        moved(pread(&self.0, into, address)?, wanted)
    }

    /// Writes at one place. `SRCH` where this memory is gone.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        moved(pwrite(&self.0, from, address)?, from.len())
    }
}

/// A part is not enough.
const fn moved(done: usize, wanted: usize) -> Result<(), Errno> {
    match done {
        done if done == wanted => Ok(()),
        0 => Err(Errno::SRCH),
        _ => Err(Errno::FAULT),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write as _,
        process::{Command, Stdio},
        thread,
        time::{Duration, Instant},
    };

    use super::{super::ptrace, *};
    use crate::proc::maps::{Mapping, mappings};

    /// Where its stack begins to be used.
    fn stack(process: &Path) -> u64 {
        mappings(process).iter().find(|mapping| Mapping::is_stack(mapping)).unwrap().end - 16
    }

    #[test]
    fn a_program_that_is_executed_is_not_reached_by_the_memory_of_the_one_before() {
        // The same addresses for both: only the memory itself tells them apart.
        let mut shell = Command::new("setarch");
        shell.args(["-R", "sh", "-c", "read line; exec sleep 100"]).stdin(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let directory = Path::new("/proc").join(child.id().to_string());
        let until = |name: &str| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while fs::read_to_string(directory.join("comm")).unwrap().trim_end() != name {
                assert!(Instant::now() < deadline, "it is not {name}");
                thread::sleep(Duration::from_millis(1));
            }
        };
        until("sh");
        let memory = Memory::open(&directory).unwrap();
        let (at, mut word) = (stack(&directory), [0; 8]);
        memory.read(at, &mut word).unwrap();
        memory.write(at, &word).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        until("sleep");
        assert_eq!(stack(&directory), at);
        ptrace::read(child.id(), at, &mut word).unwrap();
        assert_eq!(memory.read(at, &mut word), Err(Errno::SRCH));
        assert_eq!(memory.write(at, &word), Err(Errno::SRCH));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
