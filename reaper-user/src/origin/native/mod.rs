//! Native stacks: from what a forker's registers and stack were at its fork to frames with names.
//!
//! What is read here is the kernel's text about the forker. The files that its code is in are opened here and read elsewhere,
//! by [`super::symbols`].

mod perf_map;
mod registers;
mod stacks;
mod worker;

pub(super) use self::worker::start;
pub use self::{
    registers::{PT_REGS, Registers},
    stacks::{Missing, NativeFrame, NativeStack, NativeStacks},
};
