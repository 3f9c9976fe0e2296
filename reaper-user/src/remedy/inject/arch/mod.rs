//! What differs between architectures: registers, the numbers of system calls, the frame that a signal leaves, and the bytes of
//! the instructions that are looked for.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use self::x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(not(target_arch = "x86_64"))]
pub use self::elsewhere::*;
