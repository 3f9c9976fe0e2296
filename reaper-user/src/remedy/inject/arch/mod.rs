//! What differs between architectures: registers, the numbers of system calls, the frame that a signal leaves, and the bytes of
//! the instructions that are looked for.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use self::x86_64::*;

// Its layout is tested everywhere.
#[cfg(any(target_arch = "aarch64", test))]
pub mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use self::aarch64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "reaper runs on x86_64 and aarch64: what a signal frame looks like elsewhere is not known to it"
);

/// The call that a thread was seen blocked in before it was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The call's number.
    pub call: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The stack pointer.
    pub stack: u64,
}

/// A state of a thread that no frame here carries: a thread that has it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Extra {
    /// By which register set ptrace shows it. Kernels and processors without it do not know the set.
    pub note: usize,
    /// Whether the thread has it.
    pub is_on: fn(&[u8]) -> bool,
    /// The refusal's word.
    pub word: &'static str,
    /// And its sentence.
    pub why: &'static str,
}
