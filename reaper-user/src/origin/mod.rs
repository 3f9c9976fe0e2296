//! Where a zombie comes from: the processes that forked one another down to it, and the stack of the nearest of them
//! whose stack was taken at its fork. Says how good that is; a wrong line is worse than none.

mod files;
mod follow;
mod mounts;
pub mod native;
mod nearest;
mod place;
mod print;
mod python;
mod shares;
mod sites;
mod stacks;
mod store;
mod suspects;
pub mod symbols;
mod tally;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::follow::start as follow;
pub use self::{
    print::{Print, SiteId},
    sites::{Leak, Moment, Site, Sites, Sums, Without},
    stacks::{Naming, Stacks},
    tally::Within,
};
use crate::{identity::Identity, text::Untrusted};

/// How many links a chain has at most.
pub const LINKS: usize = 16;

/// Where a zombie comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// How good it is.
    pub quality: Quality,
    /// Its forker, then that one's forker, and so on: at most [`LINKS`].
    pub chain: Vec<Link>,
    /// Where the nearest link that has a stack was when it forked the one below it. Of the first link that is where the
    /// zombie itself was forked; where the links below it are dead, where what led to it was. Where one of them lives, it is
    /// where that was started, and tells nothing of the leak: see [`Self::only_started`]. A native one of a link that is dead
    /// gives way to one of a program's own language above it. Thousands of zombies of one leak share it.
    pub stack: Option<Arc<Stack>>,
    /// Which link that is, as an index into [`Self::chain`].
    pub stack_of: Option<usize>,
}

/// How good an origin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quality {
    /// The stack was taken at the fork of the zombie, or at the one that led to it through processes that are dead, and read
    /// without a guess.
    Exact,
    /// There is such a stack, and something of it was guessed or may be missing.
    Approximate,
    /// There is none. A stack that is there all the same is of where a process was started that lives, and leaks.
    LineageOnly,
    /// It was forked before anything was recorded.
    Predates,
}

impl Quality {
    /// Whether it says that no stack tells of the leak.
    #[must_use]
    pub const fn has_no_stack(self) -> bool {
        matches!(self, Self::LineageOnly | Self::Predates)
    }

    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximate => "approximate",
            Self::LineageOnly => "lineage-only",
            Self::Predates => "predates",
        }
    }
}

/// A process that forked another of the chain, or the zombie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Who it is or was.
    pub process: Identity,
    /// Its name: a living one's now, a dead one's when it died.
    pub comm: Untrusted,
    /// Its command line, likewise; `None` where it had none or could not be read.
    pub cmdline: Option<Untrusted>,
    /// Whether it lives.
    pub alive: bool,
}

/// A stack at a fork.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// The innermost first.
    pub frames: Vec<Frame>,
    /// What it is a stack of.
    pub language: Language,
    /// True where there were more frames.
    pub cut: bool,
}

/// What a stack is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// Functions of a Python interpreter's program only.
    Python,
    /// Machine code only.
    Native,
    /// Both.
    Mixed,
}

/// A function on a stack. What is not known is `None`; never a guess without [`Quality::Approximate`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Its name, qualified where the language does that, demangled.
    pub function: Option<Untrusted>,
    /// The source file, as the compiler was told.
    pub file: Option<Untrusted>,
    /// The line in it, from 1.
    pub line: Option<u32>,
    /// The mapped file its code is in, as the process sees its path.
    pub module: Option<Untrusted>,
    /// Where in that file, in bytes.
    pub offset: Option<u64>,
    /// That file's build id in lower-case hexadecimal digits.
    pub build_id: Option<String>,
    /// What it is.
    pub kind: FrameKind,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameKind {
    /// A function that a Python interpreter ran.
    Python,
    /// A function of machine code.
    #[default]
    Native,
    /// A function that a virtual machine compiled.
    Jit,
    /// A function of machine code that was inlined into the frame behind it.
    Inlined,
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quality_is_the_word_in_json() {
        for quality in [Quality::Exact, Quality::Approximate, Quality::LineageOnly, Quality::Predates] {
            assert_eq!(serde_json::to_value(quality).unwrap(), quality.as_str());
        }
    }
}
