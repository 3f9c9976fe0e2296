//! What differs between the machines that are booted.

use super::program::{Program, QEMU, QEMU_AARCH64};
use crate::{aarch64, setup::Group};

/// A processor's architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// Of the machine that this runs on.
    #[default]
    #[value(name = "x86_64")]
    X86,
    /// Always emulated.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// What its machines take.
    pub(crate) const fn group(self) -> Group {
        match self {
            Self::X86 => Group::Vm,
            Self::Aarch64 => Group::Aarch64,
        }
    }

    /// The target that the guest's programs are built for.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::X86 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => aarch64::TARGET,
        }
    }

    /// Debian's name for it.
    pub(super) const fn debian(self) -> &'static str {
        match self {
            Self::X86 => "amd64",
            Self::Aarch64 => aarch64::ARCHITECTURE,
        }
    }

    /// What is appended to the names of directories of its own.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::X86 => "",
            Self::Aarch64 => "-aarch64",
        }
    }

    pub(super) const fn qemu(self) -> &'static Program {
        match self {
            Self::X86 => &QEMU,
            Self::Aarch64 => &QEMU_AARCH64,
        }
    }

    /// The port of the kernel's messages. The tests have the next one.
    pub(super) const fn console(self) -> &'static str {
        match self {
            Self::X86 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }

    /// What else qemu and the kernel have to be told.
    pub(super) const fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86 => &["-serial", "stdio"],
            // The board has one port; the other one is a card.
            Self::Aarch64 => {
                &["-machine", "virt", "-chardev", "stdio,id=tests", "-device", "pci-serial,chardev=tests"]
            }
        }
    }
}
