//! What can be done about a zombie, beside reporting it. Each remedy verifies whom it acts on before and after, and
//! says what it did; whether it should be applied is decided elsewhere ([`crate::policy`]).

mod guard;
mod hand;
mod handle;
mod holder;
pub mod inject;
mod protect;
mod reap;
mod sight;
mod warrant;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::{
    guard::Guard,
    hand::{Deed, Hand, Order, apply, take_lock},
    handle::Handle,
    holder::{Heeds, Holder, OPT_OUT, OptOut},
    inject::Injector,
    protect::Protected,
    reap::{Options, Target},
    sight::{Ancestry, Executable, Sight, look},
    warrant::Warrant,
};

/// What is done about a zombie, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// It is reported.
    Report,
    /// The holder is sent SIGCHLD.
    Nudge,
    /// The holder is made to wait for it.
    Reap,
    /// The holder is made to never have zombies again (`SA_NOCLDWAIT`).
    Autoreap,
    /// The holder is ended: SIGTERM, and SIGKILL after a grace period.
    TerminateHolder,
}

impl Remedy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Report, Self::Nudge, Self::Reap, Self::Autoreap, Self::TerminateHolder];

    /// The word for it, in the configuration and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Nudge => "nudge",
            Self::Reap => "reap",
            Self::Autoreap => "autoreap",
            Self::TerminateHolder => "terminate-holder",
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Remedy {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|remedy| remedy.as_str() == word).ok_or(())
    }
}
