//! The optional hook on `release_task`: when exactly a zombie goes, and in whose context. By fentry where the kernel can,
//! else by kprobe, else not at all; which is found out by attaching it.
//!
//! It is attached when the first zombie may soon be reported, and stays until the daemon ends: a node without zombies
//! pays nothing for it. Detaching it where it is not needed any more may wait for a grace period of the kernel (0.3 s on
//! 6.1), and attaching it again soon after with it, which reports would wait for. It is not pinned: while no daemon runs
//! nobody says who released what.
//!
//! What it costs, beside an empty program at the same function, is in [`super::attach`].

use std::{fmt, time::Instant};

use aya::{
    Btf, Ebpf,
    programs::{FEntry, KProbe, Program, ProgramError, fentry::FEntryLink, kprobe::KProbeLink},
};

use super::error::verdict;

const FUNCTION: &str = "release_task";
const FENTRY: &str = "release_fentry";
const KPROBE: &str = "release_kprobe";

/// How the kernel lets a release be seen when it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseHook {
    /// At the entry of the function that does it.
    Fentry,
    /// By a breakpoint there.
    Kprobe {
        /// Why not by fentry.
        no_fentry: String,
    },
    /// Not at all: a release is known when the kernel frees the process, without who did it.
    None {
        /// Why not by fentry.
        no_fentry: String,
        /// Why not by kprobe either.
        no_kprobe: String,
    },
}

impl fmt::Display for ReleaseHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fentry => write!(f, "fentry"),
            Self::Kprobe { no_fentry } => write!(f, "kprobe; no fentry: {no_fentry}"),
            Self::None { no_fentry, no_kprobe } => {
                write!(f, "none; no fentry: {no_fentry}; no kprobe: {no_kprobe}")
            }
        }
    }
}

/// What keeps it attached.
#[expect(dead_code, reason = "a link detaches when it is dropped, and is good for nothing else")]
enum Link {
    Fentry(FEntryLink),
    Kprobe(KProbeLink),
}

/// The hook, attached or not yet.
pub(super) struct Release {
    /// Why the kernel did not take the program for fentry.
    no_fentry: Option<String>,
    /// Why it did not take the one for kprobe.
    no_kprobe: Option<String>,
    attached: Option<(ReleaseHook, Option<Link>)>,
}

impl Release {
    /// Loads the program in both forms: whether a function can be hooked shows only when it is.
    pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Self {
        let by_fentry = fentry(ebpf).and_then(|program| program.load(FUNCTION, btf));
        let by_kprobe = kprobe(ebpf).and_then(KProbe::load);
        let refusal = |loaded: Result<(), ProgramError>| loaded.err().map(|error| verdict(&error));
        Self { no_fentry: refusal(by_fentry), no_kprobe: refusal(by_kprobe), attached: None }
    }

    /// Attaches the hook, at the first call, and says which it is.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf) -> &ReleaseHook {
        let Self { no_fentry, no_kprobe, attached } = self;
        let (hook, _) = attached.get_or_insert_with(|| {
            let before = Instant::now();
            let found = attach(ebpf, no_fentry.take(), no_kprobe.take());
            tracing::debug!(hook = %found.0, took = ?before.elapsed(), "attached to {FUNCTION}");
            found
        });
        hook
    }
}

fn attach(
    ebpf: &mut Ebpf,
    no_fentry: Option<String>,
    no_kprobe: Option<String>,
) -> (ReleaseHook, Option<Link>) {
    let no_fentry = match no_fentry.map_or_else(|| by_fentry(ebpf).map_err(|error| verdict(&error)), Err) {
        Ok(link) => return (ReleaseHook::Fentry, Some(link)),
        Err(refusal) => refusal,
    };
    match no_kprobe.map_or_else(|| by_kprobe(ebpf).map_err(|error| verdict(&error)), Err) {
        Ok(link) => (ReleaseHook::Kprobe { no_fentry }, Some(link)),
        Err(no_kprobe) => {
            let none = ReleaseHook::None { no_fentry, no_kprobe };
            tracing::info!("releases are reported without exact time and reaper: {none}");
            (none, None)
        }
    }
}

fn by_fentry(ebpf: &mut Ebpf) -> Result<Link, ProgramError> {
    let program = fentry(ebpf)?;
    let link = program.attach()?;
    program.take_link(link).map(Link::Fentry)
}

fn by_kprobe(ebpf: &mut Ebpf) -> Result<Link, ProgramError> {
    let program = kprobe(ebpf)?;
    let link = program.attach(FUNCTION, 0)?;
    program.take_link(link).map(Link::Kprobe)
}

fn fentry(ebpf: &mut Ebpf) -> Result<&mut FEntry, ProgramError> {
    program(ebpf, FENTRY)?.try_into()
}

fn kprobe(ebpf: &mut Ebpf) -> Result<&mut KProbe, ProgramError> {
    program(ebpf, KPROBE)?.try_into()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    // Every object of ours has them both.
    ebpf.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)
}
