//! The tiers. A further one is a variant here and a file beside this; the compiler asks for the rest.

use std::time::Duration;

use clap::ValueEnum;

use super::{Session, dist, lint, live, unit, vm};
use crate::setup::Group;

/// A part of the tests that runs and fails as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// What needs no test to run
    Lint,
    /// What needs no kernel
    Unit,
    /// On this kernel, as root
    Live,
    /// On other kernels, in virtual machines
    Vm,
    /// What is shipped
    Dist,
}

impl Tier {
    pub(super) const ALL: &[Self] = &[Self::Lint, Self::Unit, Self::Live, Self::Vm, Self::Dist];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Live => "live",
            Self::Vm => "vm",
            Self::Dist => "dist",
        }
    }

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Lint => "formatting, clippy, licences, the object against its source",
            Self::Unit => "what needs no kernel",
            Self::Live => "this kernel, as root",
            Self::Vm => "kernels from 5.10 on, in virtual machines",
            Self::Dist => "what is shipped, and what it is deployed with",
        }
    }

    pub(super) fn needs(self) -> &'static [Group] {
        match self {
            Self::Lint => &[Group::Object, Group::Lint],
            Self::Unit => &[],
            Self::Live => &[Group::Live],
            Self::Vm => &[Group::Vm, Group::Kernels],
            Self::Dist => &[Group::Dist],
        }
    }

    /// What ends a tier that hangs: some twice what it takes, because how fast a machine is varies that much. Building included,
    /// setting up not.
    pub(super) fn budget(self, full: bool) -> Duration {
        Duration::from_mins(match (self, full) {
            (Self::Lint, _) => 12,
            (Self::Unit, false) => 8,
            (Self::Unit, true) => 60,
            (Self::Live, false) => 45,
            (Self::Live, true) => 90,
            (Self::Vm, _) => 30,
            (Self::Dist, _) => 20,
        })
    }

    pub(super) fn run(self, session: &mut Session<'_>) -> anyhow::Result<()> {
        match self {
            Self::Lint => lint::run(session),
            Self::Unit => unit::run(session),
            Self::Live => live::run(session),
            Self::Vm => vm::run(session),
            Self::Dist => dist::run(session),
        }
    }
}
