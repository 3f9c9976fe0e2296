//! `aarch64`.
//!
//! Three things are other than on `x86_64`, and shape what is done here:
//! - A thread that is stopped has its interrupted call prepared already to be made again: the instruction pointer is back at the
//!   instruction, the first argument is back in x0, and which of the four restarts it is only the kernel knows, as long as the
//!   thread is let go untouched. What it was is told by the call, which /proc has shown before the stop ([`Registers::stopped`]).
//! - The first argument of a restarted call is taken from where the kernel remembers that of the last call made, which ptrace
//!   cannot set. So the last call that a thread is made to make has the first argument of its own call, and does nothing with
//!   it ([`Registers::closing`]); then it can be left as a thread that has just been interrupted in its own.
//! - At the entry and exit of a call ptrace shows and takes something else for x7, so that a frame cannot be made there: a thread
//!   is only used where it is blocked in a call. x7 itself is the thread's own all the time.
//!
//! <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/kernel/signal.c> (`do_signal`),
//! <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/kernel/syscall.c> (`el0_svc_common`),
//! <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/kernel/ptrace.c> (`report_syscall`)
//!
//! A call returns by the link register, which points to what handlers return to; the frame lies where the stack pointer is. There
//! are no instructions that take arguments off the stack, so no chains: calls are made one by one.

use super::{super::rest, Blocked, Extra};

/// General registers of a thread, as ptrace shows them: x0 to x30, then these.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/include/uapi/asm/ptrace.h> (`struct user_pt_regs`)
pub const WORDS: usize = 34;
const NUMBER: usize = 8;
const LINK: usize = 30;
const SP: usize = 31;
const PC: usize = 32;
const PSTATE: usize = 33;

/// Set in the processor's state where it runs 32-bit code (`PSR_MODE32_BIT`).
const MODE_32: u64 = 0x10;

/// How the kernel names this architecture to seccomp filters (`AUDIT_ARCH_AARCH64`).
pub const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Bytes of every instruction.
const INSTRUCTION: u64 = 4;

/// The kernel wanted to make the call again: from its start (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND).
const RESTARTS: [i64; 3] = [-512, -513, -514];

/// To be made again unless a handler runs (ERESTARTNOHAND).
const RESTART_UNLESS_HANDLED: i64 = -514;

/// To be gone on with by another call, with what the kernel remembers of it (`ERESTART_RESTARTBLOCK`).
pub const RESTART_BLOCK: i64 = -516;

/// Interrupted.
pub const INTERRUPTED: i64 = -4;

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/asm-generic/unistd.h>
const RESTART_SYSCALL: u64 = 128;
const GETPID: u64 = 172;

/// A stopped thread's call is prepared to be made again: see above.
pub const PREPARES_RESTARTS: bool = true;

/// Looks at no argument.
pub const CLOSING: Option<i64> = Some(GETPID.cast_signed());

/// The vector registers, and the number of the call that a thread is in.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/elf.h> (`NT_PRFPREG`, `NT_ARM_SYSTEM_CALL`)
pub const VECTORS_NOTE: usize = 2;
/// See above.
pub const CALL_NOTE: Option<usize> = Some(0x404);

/// The matrix register of SME outlives a call, and a frame without it may lose it (streaming mode and what SVE has beyond the
/// vector registers end with every call). A guarded control stack does not let a call return into a frame.
/// <https://docs.kernel.org/arch/arm64/sme.html>, <https://docs.kernel.org/arch/arm64/sve.html>,
/// <https://docs.kernel.org/arch/arm64/gcs.html>
pub const EXTRAS: &[Extra] = &[
    Extra {
        note: 0x40c,
        // `struct user_za_header`, 16 bytes: how much there is, itself included, and the register only where that is on.
        is_on: |bytes| bytes.first_chunk().is_some_and(|size| u32::from_le_bytes(*size) > 16),
        word: "matrix-registers",
        why: "it has the matrix registers of SME in use",
    },
    Extra {
        note: 0x410,
        // `struct user_gcs`: features that are on, of which the first is the stack itself.
        is_on: |bytes| bytes.first().is_some_and(|features| features & 1 != 0),
        word: "shadow-stack",
        why: "it has a guarded control stack",
    },
];

/// A thread's general registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// As they are for the program; of a thread that is in a call, as the kernel has them when the call has ended and nothing has
    /// been prepared yet: the result in x0, the instruction pointer behind the instruction.
    words: [u64; WORDS],
    /// The number of the call that it is in, and the call's first argument.
    call: Option<(u64, u64)>,
}

impl Registers {
    /// As ptrace gives them.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self { words, call: None }
    }

    /// As ptrace takes them.
    #[must_use]
    pub const fn words(&self) -> [u64; WORDS] {
        self.words
    }

    /// Whether the thread runs code of this architecture.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        self.words[PSTATE] & MODE_32 == 0
    }

    /// The registers of a thread that has stopped and was seen blocked before: in that call, if it still is. `enters`: whether the
    /// instruction at an address is the one that enters the kernel.
    #[must_use]
    pub fn stopped(self, blocked: Option<Blocked>, enters: impl Fn(u64) -> bool) -> Self {
        let Some(Blocked { call, arguments, stack }) = blocked else { return self };
        let pc = self.words[PC];
        let same = self.words[SP] == stack
            && self.words[NUMBER] == call
            && self.words[1..6] == arguments[1..]
            // No call returns these: what is there is an argument.
            && !RESTARTS.contains(&self.result())
            && self.result() != RESTART_BLOCK;
        if !same {
            return self;
        }
        let mut inside = Self { call: Some((call, arguments[0])), ..self };
        if self.words[0] == arguments[0] && enters(pc) {
            // To be made again; one of which it is not known how is let go as it is.
            let Some(restart) = i64::try_from(call).ok().and_then(|call| rest::restart(call, arguments))
            else {
                return self;
            };
            inside.words[PC] = pc.wrapping_add(INSTRUCTION);
            inside.words[0] = restart.cast_unsigned();
            inside
        } else if enters(pc.wrapping_sub(INSTRUCTION)) {
            inside
        } else {
            self
        }
    }

    /// The number of the system call that it is in; `None` where it was stopped in user code.
    #[must_use]
    pub const fn call(&self) -> Option<u64> {
        match self.call {
            Some((number, _)) => Some(number),
            None => None,
        }
    }

    /// What the call returns, as the kernel has it at this moment.
    #[must_use]
    pub const fn result(&self) -> i64 {
        self.words[0].cast_signed()
    }

    /// The call's arguments.
    #[must_use]
    pub fn arguments(&self) -> [u64; 6] {
        let [x0, x1, x2, x3, x4, x5, ..] = self.words;
        [self.call.map_or(x0, |(_, first)| first), x1, x2, x3, x4, x5]
    }

    /// Where the instruction is that has entered the kernel, of a thread that is in a call.
    #[must_use]
    pub const fn entered_at(&self) -> u64 {
        self.words[PC].wrapping_sub(INSTRUCTION)
    }

    /// The stack pointer.
    #[must_use]
    pub const fn stack(&self) -> u64 {
        self.words[SP]
    }

    /// Makes a call that was ended by EINTR be made again, unless a handler runs.
    #[must_use]
    pub const fn to_be_restarted(mut self) -> Self {
        self.words[0] = RESTART_UNLESS_HANDLED.cast_unsigned();
        self
    }

    /// The same thread about to make its call anew, from the start.
    #[must_use]
    pub const fn to_be_reissued(mut self) -> Self {
        if let Some((_, first)) = self.call {
            self.words[PC] = self.entered_at();
            self.words[0] = first;
            self.call = None;
        }
        self
    }

    /// The registers of a thread that goes on without the kernel's help: what the kernel would have done to make the call again is
    /// done here, and what only the kernel can do is an interrupted call.
    #[must_use]
    pub fn on_its_own(self) -> Self {
        if self.call.is_some() && RESTARTS.contains(&self.result()) {
            return self.to_be_reissued();
        }
        self.interrupted()
    }

    /// The same of a thread whose call, if it was to be gone on with, ends with EINTR.
    #[must_use]
    pub const fn interrupted(mut self) -> Self {
        if self.call.is_some() && self.result() == RESTART_BLOCK {
            self.words[0] = INTERRUPTED.cast_unsigned();
        }
        self.call = None;
        self
    }

    /// The same of a thread that is let go where the kernel does not look at its call any more: what the kernel remembers of it is
    /// there still. That a handler which runs then ends the call is lost.
    #[must_use]
    pub fn by_hand(self) -> Self {
        if self.call.is_some() && self.result() == RESTART_BLOCK {
            let mut again = self.to_be_reissued();
            again.words[NUMBER] = RESTART_SYSCALL;
            return again;
        }
        self.on_its_own()
    }

    /// About to make a call by the instruction at `at`, with this stack; what is behind it returns to `link`.
    #[must_use]
    pub fn calling(mut self, call: u64, arguments: [u64; 6], at: u64, stack: u64, link: u64) -> Self {
        self.words[..6].copy_from_slice(&arguments);
        self.words[NUMBER] = call;
        self.words[LINK] = link;
        self.words[PC] = at;
        self.words[SP] = stack;
        self.call = None;
        self
    }

    /// No thread is used at the entry of a call.
    #[must_use]
    pub fn calling_instead(self, call: u64, arguments: [u64; 6], at: u64, stack: u64, link: u64) -> Self {
        self.calling(call, arguments, at, stack, link)
    }

    /// About to make the last call before it is let go: one that does nothing, with the first argument of its own call.
    #[must_use]
    pub fn closing(self, at: u64, stack: u64, link: u64) -> Option<Self> {
        let [first, ..] = self.arguments();
        Some(self.calling(GETPID, [first, 0, 0, 0, 0, 0], at, stack, link))
    }
}

/// Bytes of the signal frame: what there is to tell of the signal, then the context.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/kernel/signal.c> (`struct rt_sigframe`),
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/include/uapi/asm/ucontext.h>
pub const FRAME_BYTES: usize = RESERVED + 4096;

// Bytes into the frame.
const UCONTEXT: usize = 128;
const UC_STACK_FLAGS: usize = UCONTEXT + 24;
const MASK: usize = UCONTEXT + 40;
/// Behind a signal mask with room for 1,024 signals.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/include/uapi/asm/sigcontext.h> (`struct sigcontext`)
const CONTEXT: usize = UCONTEXT + 176;
/// Behind the address of a fault: x0 to x30, stack pointer, instruction pointer, processor state.
const GENERAL: usize = CONTEXT + 8;
/// Records of other registers, the last of which is empty.
const RESERVED: usize = CONTEXT + 288;

/// Flags that no alternative stack can have: the one there is stays.
const NO_STACK: u32 = 0xffff_ffff;

/// A record's head: which, and its bytes, these among them. Status and control follow, then the registers (`struct fpsimd_context`).
const FPSIMD_MAGIC: u32 = 0x4650_8001;
const FPSIMD_BYTES: usize = 528;
/// Bytes of the registers, behind which ptrace has status and control (`struct user_fpsimd_state`).
const VECTOR_BYTES: usize = 512;

/// Alignment of the frame.
pub const VECTORS_ALIGN: u64 = 16;

/// Bytes behind the vector registers: those that end the records are in the frame.
pub const VECTORS_TAIL: usize = 0;

/// Where the vector registers of a frame lie.
#[must_use]
pub const fn vectors_at(frame_at: u64) -> u64 {
    frame_at + RESERVED as u64
}

/// The frame of a signal that was taken in this state, to lie where the stack pointer is when `rt_sigreturn` is called; its vector
/// registers are put into it at [`vectors_at`].
#[must_use]
pub fn frame(registers: &Registers, mask: u64, _returns_to: u64, _vectors_at: u64) -> Vec<u8> {
    let mut frame = vec![0; FRAME_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = frame.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(UC_STACK_FLAGS, &NO_STACK.to_le_bytes());
    put(MASK, &mask.to_le_bytes());
    for (place, word) in registers.words.iter().enumerate() {
        put(GENERAL + place * 8, &word.to_le_bytes());
    }
    frame
}

/// The record of the vector registers as `rt_sigreturn` wants it. `None` where ptrace gave less: a frame with less would lose
/// registers.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "where the image stays as it is it is passed on")]
pub fn vectors_in_frame(image: Vec<u8>) -> Option<Vec<u8>> {
    let mut record = Vec::with_capacity(FPSIMD_BYTES);
    record.extend_from_slice(&FPSIMD_MAGIC.to_le_bytes());
    record.extend_from_slice(&u32::try_from(FPSIMD_BYTES).ok()?.to_le_bytes());
    record.extend_from_slice(image.get(VECTOR_BYTES..VECTOR_BYTES + 8)?);
    record.extend_from_slice(image.get(..VECTOR_BYTES)?);
    Some(record)
}

/// Nothing has to be asked of the processor.
pub const fn learn() {}

/// The call that a chain would wait for its tracer in: there are no chains.
pub const HOLD: i64 = GETPID.cast_signed();

/// Instructions begin at multiples of this.
pub const ALIGNED: usize = 4;

/// The instruction that enters the kernel: `svc #0`.
pub const ENTER: &[u8] = &[0x01, 0x00, 0x00, 0xd4];

/// `svc #0; ret`.
pub const CALL_AND_RETURN: &[u8] = &[0x01, 0x00, 0x00, 0xd4, 0xc0, 0x03, 0x5f, 0xd6];

/// Nothing takes an argument, or a number, off the stack.
pub const POP_FIRST: Option<&[u8]> = None;
/// The same.
pub const POP_NUMBER: Option<&[u8]> = None;

/// What signal handlers return to: `mov x8, #139; svc #0`.
pub const SIGRETURNS: [&[u8]; 1] = [&[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]];

/// How far into it the instruction is that enters the kernel.
pub const SIGRETURN_CALLS: [u64; 1] = [INSTRUCTION];

/// The kernel maps both into every program, and no call that blocks is ever made by them there.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/kernel/vdso/sigreturn.S>
pub const IN_VDSO: bool = true;

#[cfg(test)]
mod tests;
