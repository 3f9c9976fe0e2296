//! Which programs there are, when each is attached, and loading and attaching them.
//!
//! What each costs, as `cargo xtask bench` prints it (ns a run, gross, beside an empty program on the same hook in the
//! same run; a busy virtual machine of two CPUs, a life of fork, exec, exit, wait and free):
//!
//! | program | attached | empty | ours |
//! |---|---|---|---|
//! | `fork` | always | 69 | 236 |
//! | `exec` | always | 72 | 243 |
//! | `exit` | always | 74 | 582, of which the v1 cgroup id is 250 to 320 |
//! | `signal` | always | 66 | 149 for a SIGCHLD; any other signal leaves at the first comparison |
//! | `free` | always | 73 | 352 |
//! | `cgroup_mkdir` | always | | once a cgroup |
//! | `wait` | while a holder is on probation | 87 | 338, 626 for the holder's own |
//! | `exec_cmdline` | while a holder is on probation | 76 | 264, 1,874 where a line is taken |

use std::time::Instant;

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, Iter, Program, tp_btf::BtfTracePointLinkId},
};

use super::{Cmdlines, KernelError, LINGER};

/// Programs that are always attached, in the order that leaves no gap: what removes an entry is there before
/// what makes one.
const ALWAYS: &[(&str, &str); 6] = &[
    ("free", "sched_process_free"),
    ("exit", "sched_process_exit"),
    ("signal", "signal_generate"),
    ("exec", "sched_process_exec"),
    ("fork", "sched_process_fork"),
    ("cgroup_mkdir", "cgroup_mkdir"),
];

/// Programs that are there a second time without compare-and-swap, which kernels before 5.12 refuse, and without the
/// typed current task, which those before 5.11 do not have.
const PLAIN: &[(&str, &str)] = &[
    ("free", "free_plain"),
    ("exit", "exit_plain"),
    ("fork", "fork_plain"),
    ("signal", "signal_plain"),
    ("census", "census_plain"),
];

/// Which of the two is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// With compare-and-swap.
    Swap,
    /// Without.
    Plain,
}

impl Flavour {
    /// The name of a program in this flavour.
    pub(super) fn name(self, name: &'static str) -> &'static str {
        match self {
            Self::Swap => name,
            Self::Plain => PLAIN.iter().find(|(swap, _)| *swap == name).map_or(name, |(_, plain)| *plain),
        }
    }

    /// Asks the kernel, with the first program that differs.
    fn probe(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, KernelError> {
        let (name, tracepoint) = ALWAYS[0];
        let refusal = match tracing_program(ebpf, name)?.load(tracepoint, btf) {
            Ok(()) => return Ok(Self::Swap),
            Err(error) => KernelError::program(name, error),
        };
        if refusal.is_permission() {
            return Err(refusal);
        }
        // What both are refused for is not the compare-and-swap: the first refusal says more.
        match tracing_program(ebpf, Self::Plain.name(name))?.load(tracepoint, btf) {
            Ok(()) => Ok(Self::Plain),
            Err(_) => Err(refusal),
        }
    }
}

/// Attached while a holder is on probation.
const WAIT: (&str, &str) = ("wait", "sched_process_wait");
/// Attached while a holder is on probation, or always where every command line is wanted.
const CMDLINE: (&str, &str) = ("exec_cmdline", "sched_process_exec");

/// The census's iterators.
const ITERATORS: &[&str] = &["census", "zombies", "anchor"];

/// What was loaded.
pub(super) struct Loaded {
    pub(super) flavour: Flavour,
    /// Why command lines cannot be taken, where they cannot.
    pub(super) no_cmdlines: Option<KernelError>,
}

/// Loads every program. The kernel verifies them here.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<Loaded, KernelError> {
    let flavour = Flavour::probe(ebpf, btf)?;
    for (name, tracepoint) in ALWAYS[1..].iter().chain([&WAIT]) {
        let name = flavour.name(name);
        let program = tracing_program(ebpf, name)?;
        program.load(tracepoint, btf).map_err(|error| KernelError::program(name, error))?;
    }
    for name in ITERATORS {
        let name = flavour.name(name);
        iterator(ebpf, name)?.load("task", btf).map_err(|error| KernelError::program(name, error))?;
    }
    // It reads user memory, which lockdown=confidentiality is in the way of: everything else works without it.
    let (name, tracepoint) = CMDLINE;
    let no_cmdlines = tracing_program(ebpf, name)?
        .load(tracepoint, btf)
        .err()
        .map(|error| KernelError::program(name, error));
    Ok(Loaded { flavour, no_cmdlines })
}

/// Attaches what is always attached.
pub(super) fn always(ebpf: &mut Ebpf, flavour: Flavour) -> Result<(), KernelError> {
    for (name, _) in ALWAYS {
        let name = flavour.name(name);
        tracing_program(ebpf, name)?.attach().map_err(|error| KernelError::program(name, error))?;
    }
    Ok(())
}

pub(super) fn iterator<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Iter, KernelError> {
    program(ebpf, name)?.try_into().map_err(|error| KernelError::program(name, error))
}

fn tracing_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, KernelError> {
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
