//! Which programs there are, when each is attached, and loading and attaching them.

use std::time::Instant;

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, Iter, Program, tp_btf::BtfTracePointLinkId},
};

use super::{Cmdlines, KernelError, LINGER};

/// Programs that are always attached, in the order that leaves no gap: what removes an entry is there before
/// what makes one.
const ALWAYS: &[(&str, &str)] = &[
    ("free", "sched_process_free"),
    ("exit", "sched_process_exit"),
    ("signal", "signal_generate"),
    ("exec", "sched_process_exec"),
    ("fork", "sched_process_fork"),
    ("cgroup_mkdir", "cgroup_mkdir"),
];

/// Attached while a holder is on probation.
const WAIT: (&str, &str) = ("wait", "sched_process_wait");
/// Attached while a holder is on probation, or always where every command line is wanted.
const CMDLINE: (&str, &str) = ("exec_cmdline", "sched_process_exec");

/// The census's iterators.
pub(super) const ITERATORS: &[&str] = &["seed", "zombies", "anchor"];

/// Loads every program. The kernel verifies them here.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), KernelError> {
    for (name, tracepoint) in ALWAYS.iter().chain([&WAIT, &CMDLINE]) {
        let program = tracing_program(ebpf, name)?;
        program.load(tracepoint, btf).map_err(|error| KernelError::program(name, error))?;
    }
    for name in ITERATORS {
        iterator(ebpf, name)?.load("task", btf).map_err(|error| KernelError::program(name, error))?;
    }
    Ok(())
}

/// Attaches what is always attached.
pub(super) fn always(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for (name, _) in ALWAYS {
        tracing_program(ebpf, name)?.attach().map_err(|error| KernelError::program(name, error))?;
    }
    Ok(())
}

pub(super) fn iterator<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Iter, KernelError> {
    program(ebpf, name)?.try_into().map_err(|error| KernelError::program(name, error))
}

fn tracing_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut BtfTracePoint, KernelError> {
    program(ebpf, name)?.try_into().map_err(|error| KernelError::program(name, error))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, KernelError> {
    ebpf.program_mut(name).ok_or_else(|| KernelError::Unavailable {
        what: format!("the object has no program `{name}`"),
        remedy: "rebuild it with `cargo xtask build-ebpf`".to_owned(),
    })
}

/// The hooks that somebody has to ask for.
pub(super) struct OnDemand {
    wait: Hook,
    cmdline: Option<Hook>,
}

struct Hook {
    name: &'static str,
    /// Wanted all the time.
    pinned: bool,
    link: Option<BtfTracePointLinkId>,
    /// When it was last wanted.
    wanted: Option<Instant>,
}

impl OnDemand {
    pub(super) fn new(cmdlines: Cmdlines) -> Self {
        let hook = |name, pinned| Hook { name, pinned, link: None, wanted: None };
        let cmdline = match cmdlines {
            Cmdlines::Off => None,
            Cmdlines::Watched => Some(hook(CMDLINE.0, false)),
            Cmdlines::All => Some(hook(CMDLINE.0, true)),
        };
        Self { wait: hook(WAIT.0, false), cmdline }
    }

    /// Attaches what is wanted, detaches what has not been for a while.
    pub(super) fn settle(&mut self, ebpf: &mut Ebpf, wanted: bool) -> Result<(), KernelError> {
        let Self { wait, cmdline } = self;
        wait.settle(ebpf, wanted)?;
        cmdline.as_mut().map_or(Ok(()), |hook| hook.settle(ebpf, wanted))
    }
}

impl Hook {
    fn settle(&mut self, ebpf: &mut Ebpf, wanted: bool) -> Result<(), KernelError> {
        let Self { name, pinned, link, wanted: last } = self;
        if wanted || *pinned {
            *last = Some(Instant::now());
        }
        let program = tracing_program(ebpf, name)?;
        let expired = last.is_none_or(|last| last.elapsed() > LINGER);
        match link.take() {
            None if wanted || *pinned => {
                *link = Some(program.attach().map_err(|error| KernelError::program(name, error))?);
            }
            Some(attached) if expired => {
                program.detach(attached).map_err(|error| KernelError::program(name, error))?;
            }
            unchanged => *link = unchanged,
        }
        Ok(())
    }
}
