//! A forker's registers.

use serde::{Deserialize, Serialize};

/// The general registers of an x86-64 process as it entered the kernel, in the order that instructions number them: rax, rcx,
/// rdx, rbx, rsp, rbp, rsi, rdi, r8 … r15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// The general registers.
    pub general: [u64; 16],
    /// The instruction behind the system call.
    pub ip: u64,
}

/// `struct pt_regs`: <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/asm/ptrace.h>
pub const PT_REGS: usize = 21;

/// Where in `pt_regs` each general register is.
const PLACES: [usize; 16] = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];

/// `pt_regs.cs`, and what it is in code of 64 bits: <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/asm/segment.h>
const CS: usize = 17;
const USER_CS: u64 = 0x33;

impl Registers {
    /// From the kernel's `pt_regs` on an x86-64 machine; `None` of a process that runs 32-bit code.
    #[must_use]
    pub fn from_pt_regs(words: &[u64; PT_REGS]) -> Option<Self> {
        (words[CS] & 0xff == USER_CS)
            .then(|| Self { general: PLACES.map(|place| words[place]), ip: words[16] })
    }

    /// The stack pointer.
    #[must_use]
    pub const fn sp(&self) -> u64 {
        self.general[4]
    }

    /// The base pointer.
    #[must_use]
    pub const fn bp(&self) -> u64 {
        self.general[5]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_numbered_as_instructions_number_them() {
        // r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss
        let mut words: [u64; PT_REGS] = std::array::from_fn(|place| place as u64);
        assert_eq!(Registers::from_pt_regs(&words), None);
        words[CS] = USER_CS;
        let registers = Registers::from_pt_regs(&words).unwrap();
        assert_eq!((registers.ip, registers.sp(), registers.bp()), (16, 19, 4));
        // rdi, r8, r12, r15
        assert_eq!([7, 8, 12, 15].map(|number| registers.general[number]), [14, 9, 3, 0]);
    }
}
