//! Programs that follow another one at the same hook, in arrays that the kernel side calls into: what a kernel does not take is
//! not there, and the program before it goes on without.

use std::collections::{BTreeMap, btree_map::Entry};

use aya::{
    Btf, Ebpf,
    maps::{MapData, ProgramArray},
    programs::BtfTracePoint,
};

use super::{KernelError, attach, map};

/// Takes the command line of a dead process that has descendants.
const EXIT: (&str, &str) = ("exit_cmdline", "sched_process_exit");

/// The arrays that are in use. The kernel empties one when nobody holds it.
#[derive(Default)]
pub(super) struct Stages(BTreeMap<&'static str, ProgramArray<MapData>>);

impl Stages {
    /// Loads what needs no daemon to go on with it, and puts it in its place.
    pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, KernelError> {
        let mut stages = Self::default();
        let (name, tracepoint) = EXIT;
        // It reads user memory, which lockdown=confidentiality is in the way of.
        match attach::tracing_program(ebpf, name)?.load(tracepoint, btf) {
            Ok(()) => stages.set(ebpf, "EXIT_STAGES", 0, name)?,
            Err(error) => {
                let reason = KernelError::program(name, error);
                tracing::info!("command lines of dead forkers are not kept: {reason}");
            }
        }
        Ok(stages)
    }

    /// Puts a program that is loaded into an array.
    pub(super) fn set(
        &mut self,
        ebpf: &mut Ebpf,
        array: &'static str,
        place: u32,
        name: &'static str,
    ) -> Result<(), KernelError> {
        let programs = match self.0.entry(array) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(map(ebpf, array)?),
        };
        let program: &BtfTracePoint = attach::tracing_program(ebpf, name)?;
        let fd = program.fd().map_err(|error| KernelError::program(name, error))?;
        programs.set(place, fd, 0).map_err(|error| KernelError::map(array, error))
    }
}
