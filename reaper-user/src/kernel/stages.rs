//! Programs that follow another one at the same hook, in arrays that the kernel side calls into: what a kernel does not take is
//! not there, and the program before it goes on without.

use aya::{
    Btf, Ebpf,
    maps::{MapData, MapError, ProgramArray},
    programs::BtfTracePoint,
};
use reaper_ebpf::interpreter::stage;

use super::{KernelError, attach, map};

/// Takes the command line of a dead process that has descendants.
const EXIT: (&str, &str) = ("exit_cmdline", "sched_process_exit");

/// The arrays. The kernel empties one that nobody holds and that is not pinned.
pub(super) struct Stages {
    fork: ProgramArray<MapData>,
    _exit: ProgramArray<MapData>,
}

impl Stages {
    /// Loads what needs no daemon to go on with it, and puts it in its place. What an earlier daemon had at forks is taken
    /// away: nobody reads what it writes.
    pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, KernelError> {
        let (name, tracepoint) = EXIT;
        let mut exit = map(ebpf, "EXIT_STAGES")?;
        // It reads user memory, which lockdown=confidentiality is in the way of.
        match attach::tracing_program(ebpf, name)?.load(tracepoint, btf) {
            Ok(()) => set(ebpf, (&mut exit, "EXIT_STAGES"), 0, name)?,
            Err(error) => {
                let reason = KernelError::program(name, error);
                tracing::info!("command lines of dead forkers are not kept: {reason}");
            }
        }
        let mut stages = Self { fork: map(ebpf, "FORK_STAGES")?, _exit: exit };
        stages.clear_forks()?;
        Ok(stages)
    }

    /// Has a program that is loaded follow the one at forks.
    pub(super) fn follow_forks(
        &mut self,
        ebpf: &mut Ebpf,
        place: u32,
        name: &'static str,
    ) -> Result<(), KernelError> {
        set(ebpf, (&mut self.fork, "FORK_STAGES"), place, name)
    }

    /// Nothing follows it any more.
    pub(super) fn clear_forks(&mut self) -> Result<(), KernelError> {
        for place in 0..stage::COUNT {
            match self.fork.clear_index(&place) {
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                }
                cleared => cleared.map_err(|error| KernelError::map("FORK_STAGES", error))?,
            }
        }
        Ok(())
    }
}

fn set(
    ebpf: &mut Ebpf,
    (programs, array): (&mut ProgramArray<MapData>, &'static str),
    place: u32,
    name: &'static str,
) -> Result<(), KernelError> {
    let program: &BtfTracePoint = attach::tracing_program(ebpf, name)?;
    let fd = program.fd().map_err(|error| KernelError::program(name, error))?;
    programs.set(place, fd, 0).map_err(|error| KernelError::map(array, error))
}
