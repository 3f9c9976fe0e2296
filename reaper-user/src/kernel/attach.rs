//! Which programs there are, when each is attached, and loading and attaching them.
//!
//! What each costs, as `cargo xtask bench lives` prints it (ns a run, gross, beside an empty program on the same hook in
//! the same run; a virtual machine of two CPUs, a life of fork, exec, exit, wait and free):
//!
//! | program | attached | empty | ours | with 20,000 standing by |
//! |---|---|---|---|---|
//! | `fork` | always | 68 | 213 | 206 |
//! | `exec` | always | 72 | 157 | 163 |
//! | `exit` | always | 76 | 261 | 311 |
//! | `signal` | always | 63 | 117 for a SIGCHLD; any other signal leaves at the first comparison | 144 |
//! | `free` | always | 64 | 156 | 291 |
//! | a life | | 343 | 944, 2.75 times the empty ones | 1,092, 3.38 times |
//! | `cgroup_mkdir` | always | | once a cgroup | |
//! | `exec_origin` | always | | 600 for a program that is known to be no interpreter, 1,100 for one that is known to be one | |
//! | `fork_python` and `fork_walk` | follow `fork` in a Python program | | 5,900 to 7,000 for 10 frames, 10,400 to 11,700 for 30, 16,200 to 17,500 for 60, of which 30 of one function | |
//! | `fork_native` | follows it in a workload on probation | | 4,800 to 5,400 for 16 KiB of stack | |
//! | `wait` | while a holder is on probation | 70 | 214, 368 for the holder's own | |
//! | `exec_cmdline` | while a holder is on probation | 54 | 150, 1,383 where a line is taken | |
//! | `release_fentry` | from the first zombie on | | 1.1 to 1.6 times an empty one at the same function | |
//! | `refused_fexit` | while a daemon runs | | 0.8 to 1.5 times an empty one at the same function, for a fork that succeeds | |
//! | `refused_kretprobe` | the same, where that cannot be | | its own part 1.5 times that of `refused_fexit` (one run, 6.12); the breakpoint and the return that the kernel makes for it come on top, and no figure here has them | |
//!
//! Since then `free` counts how long the dead stood, which takes it another 20 ns (both objects in turns, on a machine that
//! did other work: 272 and 290 ns, the median of 15 pairs of 2,000 lives).
//!
//! Those that follow `fork` are what `cargo xtask bench origin` prints, net of `fork`, in several runs. What tells functions apart that lie
//! at one address one after the other (all of the line table, the file's path, the name) is a third of those two. Whether `fork` looks for them in vain or
//! not made no difference that such a run shows (171 and 180, an empty one 61). `exec_origin` was counted by hand, with
//! kernel.bpf_stats_enabled, over 6,000 runs of /bin/true and 300 of Python, one after the other: they begin with what is not in any cache.
//!
//! The last three of the table were measured where they exist, on emulated kernels from 5.10 to 7.2, whose nanoseconds say nothing (the
//! tests `the_hook_is_attached_with_the_first_zombie_and_not_before` and `a_fork_that_succeeds_passes_the_hook_once` print them). Attaching the first of them takes 10 to 85 ms there, and
//! 0.4 s where the host is short of CPU.
//!
//! With cold caches (8 MiB walked between the events) a life costs 2,785 ns gross, net of the empty programs 0.42 of what
//! the same records in a preallocated hash map cost. Offsets that the programs load from read-only data, where they now
//! stand in the instructions, made it 3.3 (quiet), 4.4 (20,000 standing by) and 0.60 (cold); so did the walk to the v1
//! cgroup at exit.

use std::{os::fd::AsFd as _, time::Instant};

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, Iter, Program,
        links::{FdLink, PinnedLink},
        tp_btf::BtfTracePointLinkId,
    },
};

use super::{
    Cmdlines, KernelError, LINGER,
    pinned_program::PinnedProgram,
    pins::{self, Set},
    skipped::skipped,
};

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

/// What is always attached. The programs are kept for what the kernel counts of them.
#[derive(Default)]
pub(super) struct Always {
    programs: Vec<PinnedProgram>,
    links: Vec<PinnedLink>,
}

impl Always {
    /// Takes over what a set has, where its programs are the ones that were loaded here.
    pub(super) fn adopt(ebpf: &mut Ebpf, flavour: Flavour, set: &Set) -> Result<Option<Self>, KernelError> {
        let mut ours = Vec::new();
        for (name, _) in ALWAYS {
            let name = flavour.name(name);
            let program = ebpf.program(name).ok_or_else(|| missing(name))?;
            ours.push((name, program.try_into().map_err(|error| KernelError::program(name, error))?));
        }
        let Some((programs, links)) = set.adopt(ours) else { return Ok(None) };
        for (name, _) in ALWAYS {
            let name = flavour.name(name);
            // They have served: what is attached are the set's own.
            tracing_program(ebpf, name)?.unload().map_err(|error| KernelError::program(name, error))?;
        }
        Ok(Some(Self { programs, links }))
    }

    /// Attaches it all, and pins it where there is a set to be.
    pub(super) fn attach(ebpf: &mut Ebpf, flavour: Flavour, set: Option<&Set>) -> Result<Self, KernelError> {
        let mut always = Self::default();
        for (name, _) in ALWAYS {
            let name = flavour.name(name);
            let program = tracing_program(ebpf, name)?;
            let refused = |error| KernelError::program(name, error);
            let link = program.attach().map_err(refused)?;
            let Some(set) = set else { continue };
            let link: FdLink = program.take_link(link).map_err(refused)?.into();
            let (at, program_at) = (set.link(name), set.program(name));
            program.pin(&program_at).map_err(|error| pins::refused(&program_at, error))?;
            always.links.push(link.pin(&at).map_err(|error| pins::refused(&at, error))?);
            let pinned = PinnedProgram::open(&program_at);
            always.programs.push(pinned.map_err(|error| pins::failed(&program_at, "opening it", error))?);
        }
        Ok(always)
    }

    /// The programs, where they are pinned.
    pub(super) fn programs(&self) -> &[PinnedProgram] {
        &self.programs
    }

    /// How often the kernel has skipped one of them, because the same program was running on that CPU already: a
    /// kernel that lets programs be interrupted does that now and then. 0 where it does not count.
    pub(super) fn skipped(&self, ebpf: &Ebpf, flavour: Flavour) -> u64 {
        let own = ALWAYS.iter().filter_map(|(name, _)| {
            let program: &BtfTracePoint = ebpf.program(flavour.name(name))?.try_into().ok()?;
            program.fd().ok()
        });
        if self.programs.is_empty() {
            own.filter_map(|fd| skipped(fd.as_fd())).sum()
        } else {
            self.programs.iter().filter_map(|program| skipped(program.as_fd())).sum()
        }
    }
}

pub(super) fn iterator<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Iter, KernelError> {
    program(ebpf, name)?.try_into().map_err(|error| KernelError::program(name, error))
}

pub(super) fn tracing_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut BtfTracePoint, KernelError> {
    program(ebpf, name)?.try_into().map_err(|error| KernelError::program(name, error))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, KernelError> {
    ebpf.program_mut(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> KernelError {
    KernelError::Unavailable {
        what: format!("the object has no program `{name}`"),
        remedy: "rebuild it with `cargo xtask build-ebpf`".to_owned(),
    }
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
