//! The optional hook on the clone path: forks that were refused, by whatever limit, when they are. By fexit where the kernel can,
//! else by kretprobe, else not at all; which is found out by attaching it.
//!
//! It is attached when the daemon starts and stays until it ends: that a fork is refused is seen by nobody who comes later. It is not
//! pinned: while no daemon runs nobody tells of it.

use std::{fmt, os::fd::AsFd as _, time::Instant};

use aya::{
    Btf as KernelBtf, Ebpf,
    maps::{MapData, PerCpuHashMap},
    programs::{FExit, KProbe, Program, ProgramError, fexit::FExitLink, kprobe::KProbeLink},
};
use reaper_ebpf::{meta, refused::Who};

use super::{
    Kernel, KernelError,
    btf::Btf,
    counts::{Counts, resolve_counts},
    error::verdict,
    map,
    offsets::Offset,
    skipped::skipped,
};

/// What returns the error to whoever forks, and what returns it to that.
const OUTER: &str = "kernel_clone";
const INNER: &str = "copy_process";
const FEXIT: &str = "refused_fexit";
const FEXIT_PLAIN: &str = "refused_fexit_plain";
const KRETPROBE: &str = "refused_kretprobe";

/// How the kernel lets refused forks be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalHook {
    /// At the return of the function that forks.
    Fexit,
    /// By a breakpoint there: of more forks at once than the kernel keeps places for, some are not seen.
    Kretprobe {
        /// Why not by fexit.
        no_fexit: String,
    },
    /// Not at all, because nobody wants it.
    Off,
    /// Not at all: only `pids.max` says that it refused one.
    None {
        /// Why not by fexit.
        no_fexit: String,
        /// Why not by kretprobe either.
        no_kretprobe: String,
    },
}

impl fmt::Display for RefusalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fexit => write!(f, "fexit"),
            Self::Kretprobe { no_fexit } => write!(f, "kretprobe; no fexit: {no_fexit}"),
            Self::Off => write!(f, "none; turned off (capture.fork_hook)"),
            Self::None { no_fexit, no_kretprobe } => {
                write!(f, "none; no fexit: {no_fexit}; no kretprobe: {no_kretprobe}")
            }
        }
    }
}

/// What keeps it attached.
enum Link {
    Fexit(#[expect(dead_code, reason = "a link detaches when it is dropped")] FExitLink, &'static str),
    Kretprobe(#[expect(dead_code, reason = "likewise")] KProbeLink),
}

/// What this kernel has that the programs need.
pub(super) struct Needs {
    counts: Result<Counts, String>,
    /// Why a program at a function's return must not be attached.
    no_fexit: Option<String>,
}

impl Needs {
    pub(super) fn of(btf: &Btf<'_>) -> Self {
        // A fork may be asleep in the function while the program is detached. Without this structure the kernel frees the code that
        // it returns to: <https://git.kernel.org/torvalds/c/e21aa341785c> ("bpf: Fix fexit trampoline")
        let no_fexit = if !btf.has_structure("bpf_tramp_image") {
            Some("this kernel may crash when it is detached (fixed in Linux 5.12)".to_owned())
        } else if btf.arguments(OUTER) != Some(1) {
            Some(format!("this kernel's {OUTER} is not known"))
        } else {
            None
        };
        let counts = resolve_counts(btf).map_err(|error| error.to_string()).and_then(Counts::in_reach);
        Self { counts, no_fexit }
    }

    pub(super) fn offsets(&self) -> &[Offset] {
        self.counts.as_ref().map_or(&[], |counts| &counts.offsets)
    }

    /// Values of the globals `UCOUNTS` and `OWN_PID_MAX`.
    pub(super) fn globals(&self) -> [u32; 2] {
        let of = |counts: &Counts| [counts.in_ucounts, counts.own_pid_max].map(u32::from);
        self.counts.as_ref().map_or([0; 2], of)
    }
}

/// The hook, attached or not yet.
pub(super) struct Refused {
    /// The program that the kernel took for fexit, or why it took none.
    fexit: Result<&'static str, String>,
    /// Why it did not take the one for kretprobe.
    no_kretprobe: Option<String>,
    attached: Option<(RefusalHook, Option<Link>)>,
    /// Whether a process counts for the users, too, that have made the user namespaces around it.
    counts_owners: bool,
    counts: PerCpuHashMap<MapData, [u64; 2], [u64; 2]>,
    /// How many were counted for an earlier daemon that ended before it had told of them.
    left: u64,
    /// How many of what is counted have been told of.
    told: u64,
}

impl Refused {
    /// Loads the programs: whether a function can be hooked shows only when it is.
    pub(super) fn load(ebpf: &mut Ebpf, btf: &KernelBtf, needs: &Needs) -> Result<Self, KernelError> {
        let counts = map(ebpf, "REFUSED")?;
        if let Err(error) = &needs.counts {
            let (fexit, no_kretprobe) = (Err(error.clone()), Some(error.clone()));
            let counts_owners = false;
            return Ok(Self { fexit, no_kretprobe, attached: None, counts_owners, counts, left: 0, told: 0 });
        }
        let mut load = |name| fexit(ebpf, name).and_then(|program| program.load(OUTER, btf)).map(|()| name);
        let fexit = match &needs.no_fexit {
            Some(why) => Err(why.clone()),
            None => load(FEXIT)
                .or_else(|error| {
                    tracing::debug!("{FEXIT} is not loaded: {}", verdict(&error));
                    load(FEXIT_PLAIN)
                })
                .map_err(|error| verdict(&error)),
        };
        let no_kretprobe = kretprobe(ebpf).and_then(KProbe::load).err().map(|error| verdict(&error));
        let counts_owners = needs.counts.as_ref().is_ok_and(|counts| counts.in_ucounts);
        Ok(Self { fexit, no_kretprobe, attached: None, counts_owners, counts, left: 0, told: 0 })
    }

    /// Attaches the hook, at the first call, and says which it is.
    fn attach(&mut self, ebpf: &mut Ebpf) -> &RefusalHook {
        let Self { fexit, no_kretprobe, attached, .. } = self;
        let (hook, _) = attached.get_or_insert_with(|| {
            let before = Instant::now();
            let found = attach(ebpf, fexit.clone(), no_kretprobe.take());
            tracing::debug!(hook = %found.0, took = ?before.elapsed(), "attached to {OUTER}");
            found
        });
        hook
    }
}

fn attach(
    ebpf: &mut Ebpf,
    loaded: Result<&'static str, String>,
    no_kretprobe: Option<String>,
) -> (RefusalHook, Option<Link>) {
    let by_fexit = loaded.and_then(|name| by_fexit(ebpf, name).map_err(|error| verdict(&error)));
    let no_fexit = match by_fexit {
        Ok(link) => return (RefusalHook::Fexit, Some(link)),
        Err(refusal) => refusal,
    };
    match no_kretprobe.map_or_else(|| by_kretprobe(ebpf).map_err(|error| verdict(&error)), Err) {
        Ok(link) => (RefusalHook::Kretprobe { no_fexit }, Some(link)),
        Err(no_kretprobe) => {
            let none = RefusalHook::None { no_fexit, no_kretprobe };
            tracing::info!("refused forks are known from pids.events only: {none}");
            (none, None)
        }
    }
}

fn by_fexit(ebpf: &mut Ebpf, name: &'static str) -> Result<Link, ProgramError> {
    let program = fexit(ebpf, name)?;
    let link = program.attach()?;
    program.take_link(link).map(|link| Link::Fexit(link, name))
}

fn by_kretprobe(ebpf: &mut Ebpf) -> Result<Link, ProgramError> {
    let program = kretprobe(ebpf)?;
    let link = program.attach(INNER, 0)?;
    program.take_link(link).map(Link::Kretprobe)
}

fn fexit<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut FExit, ProgramError> {
    program(ebpf, name)?.try_into()
}

fn kretprobe(ebpf: &mut Ebpf) -> Result<&mut KProbe, ProgramError> {
    program(ebpf, KRETPROBE)?.try_into()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    // Every object of ours has them all.
    ebpf.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)
}

impl Kernel {
    /// Attaches the hook that sees refused forks, where there is one, and says which. It stays.
    pub fn see_refusals(&mut self) -> &RefusalHook {
        if self.refused.attached.is_none() {
            // What is counted is an earlier daemon's.
            let all = self.refused_of();
            let counted = all.iter().map(|who| self.refused(*who)).sum::<u64>();
            let told = self.said(meta::REFUSED_TOLD).unwrap_or(0);
            self.refused.left = counted.saturating_sub(told);
            for who in all {
                self.forget_refused(who);
            }
            self.refused.told = told;
            self.tell_refused(0);
        }
        self.refused.attach(&mut self.ebpf)
    }

    /// Whether a process counts against RLIMIT_NPROC of the users, too, that have made the user namespaces around it: since Linux 5.14.
    #[must_use]
    pub const fn counts_owners(&self) -> bool {
        self.refused.counts_owners
    }

    /// How many forks an earlier daemon had counted and not told of when it ended. Known once the hook is attached.
    #[must_use]
    pub const fn refusals_left(&self) -> u64 {
        self.refused.left
    }

    /// Writes down how many of those that are counted now have been told of.
    pub fn tell_refused(&mut self, told: u64) {
        if told == self.refused.told {
            return;
        }
        match self.say(meta::REFUSED_TOLD, told) {
            Ok(()) => self.refused.told = told,
            Err(error) => tracing::debug!(%error, "how many refused forks were told of is not written down"),
        }
    }

    /// How many forks were refused of one, since the hook is attached.
    #[must_use]
    pub fn refused(&self, who: Who) -> u64 {
        let counts = self.refused.counts.get(&who.words(), 0);
        counts.map_or(0, |counts| counts.iter().map(|[count, _]| count).sum())
    }

    /// Of whom forks were refused that are counted there.
    #[must_use]
    pub fn refused_of(&self) -> Vec<Who> {
        self.refused.counts.keys().flatten().map(Who::from_words).collect()
    }

    /// Forgets one of whom none was refused for long.
    pub fn forget_refused(&mut self, who: Who) {
        // Gone already is as good.
        let _gone = self.refused.counts.remove(&who.words());
    }

    /// How often the kernel has skipped that hook's program, because it was running on that CPU already. 0 where it does not
    /// count.
    #[must_use]
    pub fn refusals_skipped(&self) -> u64 {
        let fd = match &self.refused.attached {
            Some((_, Some(Link::Fexit(_, name)))) => {
                let program: Option<&FExit> =
                    self.ebpf.program(name).and_then(|program| program.try_into().ok());
                program.and_then(|program| program.fd().ok())
            }
            Some((_, Some(Link::Kretprobe(_)))) => {
                let program: Option<&KProbe> =
                    self.ebpf.program(KRETPROBE).and_then(|program| program.try_into().ok());
                program.and_then(|program| program.fd().ok())
            }
            _ => None,
        };
        fd.and_then(|fd| skipped(fd.as_fd())).unwrap_or(0)
    }
}
