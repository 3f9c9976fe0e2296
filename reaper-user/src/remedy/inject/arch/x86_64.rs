//! `x86_64`.

use std::sync::LazyLock;

use super::{Blocked, Extra};

/// General registers of a thread, as ptrace shows them.
pub const WORDS: usize = 27;

// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/uapi/asm/ptrace.h> (`struct pt_regs`), then what
// `struct user_regs_struct` has beside them.
const R15: usize = 0;
const R14: usize = 1;
const R13: usize = 2;
const R12: usize = 3;
const RBP: usize = 4;
const RBX: usize = 5;
const R11: usize = 6;
const R10: usize = 7;
const R9: usize = 8;
const R8: usize = 9;
const RAX: usize = 10;
const RCX: usize = 11;
const RDX: usize = 12;
const RSI: usize = 13;
const RDI: usize = 14;
const ORIG_RAX: usize = 15;
const RIP: usize = 16;
const CS: usize = 17;
const EFLAGS: usize = 18;
const RSP: usize = 19;
const SS: usize = 20;

/// The code segment of 64-bit programs: <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/asm/segment.h> (`__USER_CS`)
const USER_CS: u64 = 0x33;

/// Marks the numbers of x32's system calls.
const X32: u64 = 0x4000_0000;

/// How the kernel names this architecture to seccomp filters (`AUDIT_ARCH_X86_64`).
pub const AUDIT_ARCH: u32 = 0xc000_003e;

/// Bytes of the instruction that enters the kernel: a call is made again by going back so far.
const SYSCALL_BYTES: u64 = 2;

/// The kernel wanted to make the call again: from its start (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND).
const RESTARTS: [i64; 3] = [-512, -513, -514];

/// To be made again unless a handler runs (ERESTARTNOHAND).
const RESTART_UNLESS_HANDLED: i64 = -514;

/// To be gone on with by another call, with what the kernel remembers of it (`ERESTART_RESTARTBLOCK`).
pub const RESTART_BLOCK: i64 = -516;

/// Interrupted.
pub const INTERRUPTED: i64 = -4;

/// What the kernel needs to make an interrupted call again is in the registers, and looked at when the thread is let go.
pub const PREPARES_RESTARTS: bool = false;

/// No last call is needed.
pub const CLOSING: Option<i64> = None;

/// The vector registers, as XSAVE lays them out.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/elf.h> (`NT_X86_XSTATE`)
pub const VECTORS_NOTE: usize = 0x202;

/// The number of a thread's call is one of its registers.
pub const CALL_NOTE: Option<usize> = None;

/// Shadow stacks are seen before the stop.
pub const EXTRAS: &[Extra] = &[];

/// A thread's general registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers([u64; WORDS]);

impl Registers {
    /// As ptrace gives them.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// As ptrace takes them.
    #[must_use]
    pub const fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// Whether the thread runs code of this architecture: neither 32-bit nor x32.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        self.0[CS] == USER_CS && (self.call().is_none() || self.0[ORIG_RAX] & X32 == 0)
    }

    /// The registers of a thread that has stopped: they say themselves what it is in.
    #[must_use]
    pub fn stopped(self, _blocked: Option<Blocked>, _enters: impl Fn(u64) -> bool) -> Self {
        self
    }

    /// The number of the system call that it is in; `None` where it was stopped in user code.
    #[must_use]
    pub const fn call(&self) -> Option<u64> {
        if self.0[ORIG_RAX].cast_signed() < 0 { None } else { Some(self.0[ORIG_RAX]) }
    }

    /// What the call returns, as the kernel has it at this moment.
    #[must_use]
    pub const fn result(&self) -> i64 {
        self.0[RAX].cast_signed()
    }

    /// The call's arguments.
    #[must_use]
    pub const fn arguments(&self) -> [u64; 6] {
        [self.0[RDI], self.0[RSI], self.0[RDX], self.0[R10], self.0[R8], self.0[R9]]
    }

    /// Where the instruction is that has entered the kernel, of a thread that is in a call.
    #[must_use]
    pub const fn entered_at(&self) -> u64 {
        self.0[RIP].wrapping_sub(SYSCALL_BYTES)
    }

    /// The stack pointer.
    #[must_use]
    pub const fn stack(&self) -> u64 {
        self.0[RSP]
    }

    /// Makes a call that was ended by EINTR be made again, unless a handler runs.
    #[must_use]
    pub const fn to_be_restarted(mut self) -> Self {
        self.0[RAX] = RESTART_UNLESS_HANDLED.cast_unsigned();
        self
    }

    /// The same thread about to make its call anew, from the start: for those that may not go on with it (see seccomp).
    #[must_use]
    pub const fn to_be_reissued(mut self) -> Self {
        self.0[RIP] -= SYSCALL_BYTES;
        self.0[RAX] = self.0[ORIG_RAX];
        self.0[ORIG_RAX] = u64::MAX;
        self
    }

    /// The registers of a thread that goes on without the kernel's help: what the kernel would have done to make the call again is
    /// done here, and what only the kernel can do is an interrupted call.
    #[must_use]
    pub fn on_its_own(self) -> Self {
        if self.call().is_none() {
            return self;
        }
        if RESTARTS.contains(&self.result()) {
            return self.to_be_reissued();
        }
        let mut own = self;
        if self.result() == RESTART_BLOCK {
            own.0[RAX] = INTERRUPTED.cast_unsigned();
        }
        own
    }

    /// As they are: all that the kernel needs is in them.
    #[must_use]
    pub const fn interrupted(self) -> Self {
        self
    }

    /// The same.
    #[must_use]
    pub const fn by_hand(self) -> Self {
        self
    }

    /// No last call is needed.
    #[must_use]
    pub const fn closing(self, _at: u64, _stack: u64, _link: u64) -> Option<Self> {
        None
    }

    /// About to make a call by the instruction at `at`, with this stack, where the address lies that it returns to.
    #[must_use]
    pub const fn calling(mut self, call: u64, arguments: [u64; 6], at: u64, stack: u64, _link: u64) -> Self {
        let [a, b, c, d, e, f] = arguments;
        self.0[RAX] = call;
        self.0[ORIG_RAX] = u64::MAX;
        self.0[RDI] = a;
        self.0[RSI] = b;
        self.0[RDX] = c;
        self.0[R10] = d;
        self.0[R8] = e;
        self.0[R9] = f;
        self.0[RIP] = at;
        self.0[RSP] = stack;
        self
    }

    /// The same of a thread that has entered the kernel already: this call is made in place of its own, as if by the instruction
    /// at `at`.
    #[must_use]
    pub const fn calling_instead(
        self,
        call: u64,
        arguments: [u64; 6],
        at: u64,
        stack: u64,
        link: u64,
    ) -> Self {
        let mut inside = self.calling(call, arguments, at + SYSCALL_BYTES, stack, link);
        inside.0[ORIG_RAX] = call;
        inside
    }
}

/// Words of the signal frame before the vector registers: return address, context, signal mask.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/asm/sigframe.h> (`struct rt_sigframe`)
pub const FRAME_BYTES: usize = 312;

// Bytes into the frame.
const UC_FLAGS: usize = 8;
const UC_STACK_FLAGS: usize = 32;
const CONTEXT: usize = 48;
const SEGMENTS: usize = CONTEXT + 18 * 8;
const FPSTATE: usize = CONTEXT + 23 * 8;
const MASK: usize = CONTEXT + 32 * 8;

/// There is an XSAVE image, and the stack segment is restored as it is.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/uapi/asm/ucontext.h>
const UC_FLAGS_ALL: u64 = 0b111;

/// Flags that no alternative stack can have: the one there is stays.
const NO_STACK: u32 = 0xffff_ffff;

// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/uapi/asm/sigcontext.h>
const SW_RESERVED: usize = 464;
const XSTATE_MAGIC_1: u32 = 0x4650_5853;
const XSTATE_MAGIC_2: u32 = 0x4650_5845;
/// `XSTATE_BV` in the header of the image.
const XSTATE_BV: usize = 512;
/// The tiles of AMX, which a program has to ask for.
const TILE_DATA: u64 = 1 << 18;
/// x87 and SSE are always restored.
const X87_AND_SSE: u64 = 0b11;
/// The image without its header's extension: what the kernel calls the legacy area and header.
const XSTATE_LEAST: usize = 576;

/// Alignment of the image.
pub const VECTORS_ALIGN: u64 = 64;

/// Bytes behind the image, for the kernel's second magic number.
pub const VECTORS_TAIL: usize = 4;

/// Where the vector registers of a frame lie.
#[must_use]
pub const fn vectors_at(frame_at: u64) -> u64 {
    (frame_at + FRAME_BYTES as u64).next_multiple_of(VECTORS_ALIGN)
}

/// The frame of a signal that was taken in this state, to lie at an address where `sigreturn` finds it; its vector registers lie
/// at `vectors_at`.
#[must_use]
pub fn frame(registers: &Registers, mask: u64, returns_to: u64, vectors_at: u64) -> Vec<u8> {
    let mut frame = vec![0; FRAME_BYTES];
    put(&mut frame, 0, returns_to);
    put(&mut frame, UC_FLAGS, UC_FLAGS_ALL);
    if let Some(flags) = frame.get_mut(UC_STACK_FLAGS..UC_STACK_FLAGS + 4) {
        flags.copy_from_slice(&NO_STACK.to_le_bytes());
    }
    // The order of `struct sigcontext_64`.
    let general = [R8, R9, R10, R11, R12, R13, R14, R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP, EFLAGS];
    for (place, register) in general.into_iter().enumerate() {
        put(&mut frame, CONTEXT + place * 8, registers.0[register]);
    }
    // cs, gs, fs, ss: sixteen bits each, of which the kernel takes cs and ss.
    put(&mut frame, SEGMENTS, registers.0[CS] & 0xffff | (registers.0[SS] & 0xffff) << 48);
    put(&mut frame, FPSTATE, vectors_at);
    put(&mut frame, MASK, mask);
    frame
}

/// The image of the vector registers as `sigreturn` wants it: what ptrace gives lacks the kernel's marks. `None` where it is no
/// XSAVE image: a frame with less would lose registers.
#[must_use]
pub fn vectors_in_frame(image: Vec<u8>) -> Option<Vec<u8>> {
    marked(image, *TILE_DATA_AT)
}

/// Where the processor has the tiles of AMX in the image: the last of all, 8 KiB.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/kernel/fpu/xstate.c> (`XFEATURE_XTILE_DATA`)
static TILE_DATA_AT: LazyLock<usize> = LazyLock::new(|| {
    let tile_data = std::arch::x86_64::__cpuid_count(0xd, 18);
    if tile_data.eax == 0 { usize::MAX } else { usize::try_from(tile_data.ebx).unwrap_or(usize::MAX) }
});

/// Asks the processor what has to be known of it while a thread stands: a hypervisor takes microseconds to answer.
pub fn learn() {
    LazyLock::force(&TILE_DATA_AT);
}

fn marked(mut image: Vec<u8>, tile_data_at: usize) -> Option<Vec<u8>> {
    if image.len() < XSTATE_LEAST {
        return None;
    }
    // What of the registers the kernel would have saved: the first word that ptrace puts here.
    let mut features = word(&image, SW_RESERVED)?;
    let valid = word(&image, XSTATE_BV)? | X87_AND_SSE;
    if valid & TILE_DATA == 0 && image.len() > tile_data_at {
        // Of a program that may not use it the kernel takes no image that has room for it: it would restore x87 and SSE alone.
        image.truncate(tile_data_at);
        features &= !TILE_DATA;
    }
    let size = u32::try_from(image.len()).ok()?;
    put(&mut image, XSTATE_BV, valid);
    let mut marks = [0; 48];
    marks[..4].copy_from_slice(&XSTATE_MAGIC_1.to_le_bytes());
    marks[4..8].copy_from_slice(&(size + 4).to_le_bytes());
    marks[8..16].copy_from_slice(&(features | valid).to_le_bytes());
    marks[16..20].copy_from_slice(&size.to_le_bytes());
    image.get_mut(SW_RESERVED..SW_RESERVED + 48)?.copy_from_slice(&marks);
    image.extend_from_slice(&XSTATE_MAGIC_2.to_le_bytes());
    Some(image)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    if let Some(place) = bytes.get_mut(at..at + 8) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// The call that a chain waits for its tracer in: of no descriptor, so that its pointers are never followed and what the waits have
/// in those registers may stay. It is made anew from its start when it is interrupted, and remembers nothing in the kernel.
pub const HOLD: i64 = libc::SYS_select;

/// Instructions begin anywhere.
pub const ALIGNED: usize = 1;

/// The instruction that enters the kernel.
pub const ENTER: &[u8] = &[0x0f, 0x05];

/// `syscall; ret`.
pub const CALL_AND_RETURN: &[u8] = &[0x0f, 0x05, 0xc3];

/// `pop rdi; ret`.
pub const POP_FIRST: Option<&[u8]> = Some(&[0x5f, 0xc3]);

/// `pop rax; ret`.
pub const POP_NUMBER: Option<&[u8]> = Some(&[0x58, 0xc3]);

/// What signal handlers return to, `rt_sigreturn` by its number: `mov rax, 15; syscall` as glibc and Go write it, and with the
/// shorter register.
pub const SIGRETURNS: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05], &[0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05]];

/// How far into each form of it the instruction is that enters the kernel.
pub const SIGRETURN_CALLS: [u64; 2] = [5, 7];

/// What the kernel maps into every program has neither.
pub const IN_VDSO: bool = false;

#[cfg(test)]
mod tests;
