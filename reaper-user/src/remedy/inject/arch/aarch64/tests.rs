use std::mem::offset_of;

use super::*;

const NANOSLEEP: u64 = libc::SYS_nanosleep.unsigned_abs();
const READ: u64 = libc::SYS_read.unsigned_abs();
const PLACE: u64 = 0x40_0000;

/// Blocked in a call, by the instruction at `PLACE`.
fn blocked(call: u64) -> Blocked {
    Blocked { call, arguments: [3, 0x1001, 0x1002, 0x1003, 0x1004, 0x1005], stack: 0x7000 }
}

/// As it stops then, with the call prepared to be made again, or ended.
fn words(call: u64, x0: u64, pc: u64) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (place, word) in words.iter_mut().enumerate() {
        *word = 0x1000 + place as u64;
    }
    (words[0], words[NUMBER], words[SP], words[PC], words[PSTATE]) = (x0, call, 0x7000, pc, 0x6000_0000);
    words
}

fn stopped(call: u64, x0: u64, pc: u64) -> Registers {
    Registers::from_words(words(call, x0, pc)).stopped(Some(blocked(call)), |address| address == PLACE)
}

#[test]
fn a_call_that_is_prepared_to_be_made_again_is_known_by_what_the_thread_was_blocked_in() {
    for (call, restart) in [(READ, -512), (NANOSLEEP, RESTART_BLOCK)] {
        let registers = stopped(call, 3, PLACE);
        assert_eq!((registers.call(), registers.result()), (Some(call), restart));
        assert_eq!((registers.arguments(), registers.entered_at()), (blocked(call).arguments, PLACE));
    }
    let ended = stopped(READ, INTERRUPTED.cast_unsigned(), PLACE + 4);
    assert_eq!((ended.call(), ended.result(), ended.arguments()[0]), (Some(READ), INTERRUPTED, 3));
}

#[test]
fn what_has_moved_since_is_in_no_call() {
    let raw = |call, x0, pc| Registers::from_words(words(call, x0, pc));
    let enters = |address| address == PLACE;
    for moved in [raw(READ, 3, PLACE + 40), raw(NANOSLEEP, 3, PLACE), raw(READ, 4, PLACE)] {
        assert_eq!(moved.stopped(Some(blocked(READ)), enters).call(), None);
        assert_eq!(moved.stopped(None, enters), moved);
    }
    let elsewhere = Blocked { stack: 0x7010, ..blocked(READ) };
    assert_eq!(raw(READ, 3, PLACE).stopped(Some(elsewhere), enters).call(), None);
    // How it is made again is not known: it is not touched.
    let unknown = libc::SYS_connect.unsigned_abs();
    assert_eq!(stopped(unknown, 3, PLACE), raw(unknown, 3, PLACE));
}

#[test]
fn a_thread_on_its_own_makes_its_call_again_or_sees_an_interrupted_one() {
    let own = stopped(READ, 3, PLACE).on_its_own();
    assert_eq!(own.words(), words(READ, 3, PLACE), "as the kernel has prepared it");
    let own = stopped(NANOSLEEP, 3, PLACE).on_its_own();
    assert_eq!(own.words(), words(NANOSLEEP, INTERRUPTED.cast_unsigned(), PLACE + 4));
    let done = stopped(READ, 17, PLACE + 4).on_its_own();
    assert_eq!(done.words(), words(READ, 17, PLACE + 4), "a call that is done has its result");
    let by_hand = stopped(NANOSLEEP, 3, PLACE).by_hand();
    assert_eq!((by_hand.words[NUMBER], by_hand.words[PC], by_hand.words[0]), (128, PLACE, 3));
    assert_eq!(stopped(READ, 3, PLACE).by_hand().words(), words(READ, 3, PLACE));
}

#[test]
fn the_last_call_has_the_first_argument_of_the_threads_own() {
    let closing = stopped(READ, INTERRUPTED.cast_unsigned(), PLACE + 4).closing(0x9000, 0x7f00, 0x516);
    let words = closing.unwrap().words();
    assert_eq!((words[0], words[NUMBER], words[LINK]), (3, GETPID, 0x516));
    assert_eq!((words[PC], words[SP], words[7]), (0x9000, 0x7f00, 0x1007));
}

/// The kernel's declarations, of 6.12: `struct sigaltstack` and `struct ucontext`, `struct sigcontext`, `struct rt_sigframe`,
/// `struct fpsimd_context`, as far as they are used.
#[repr(C)]
struct SigAltStack {
    pointer: u64,
    flags: i32,
    size: u64,
}
#[repr(C, align(16))]
struct SigContext {
    fault_address: u64,
    regs: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
    reserved: Aligned,
}
#[repr(C, align(16))]
struct Aligned([u8; 4096]);
#[repr(C)]
struct UContext {
    flags: u64,
    link: u64,
    stack: SigAltStack,
    mask: u64,
    unused: [u8; 1024 / 8 - 8],
    context: SigContext,
}
#[repr(C)]
struct Frame {
    info: [u8; 128],
    context: UContext,
}

#[test]
fn the_frame_is_the_kernels_byte_for_byte() {
    let registers = stopped(READ, 17, PLACE + 4);
    let frame = frame(&registers, 0xabcd, 0, 0);
    assert_eq!((frame.len(), size_of::<Frame>()), (4688, 4688));
    let of_context = offset_of!(Frame, context) + offset_of!(UContext, context);
    let mut expected = vec![0; size_of::<Frame>()];
    let mut put = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
    let flags = offset_of!(UContext, stack) + offset_of!(SigAltStack, flags);
    put(offset_of!(Frame, context) + flags, &(-1_i32).to_le_bytes());
    put(offset_of!(Frame, context) + offset_of!(UContext, mask), &0xabcd_u64.to_le_bytes());
    let words = registers.words();
    for (place, word) in words[..31].iter().enumerate() {
        put(of_context + offset_of!(SigContext, regs) + place * 8, &word.to_le_bytes());
    }
    put(of_context + offset_of!(SigContext, sp), &0x7000_u64.to_le_bytes());
    put(of_context + offset_of!(SigContext, pc), &(PLACE + 4).to_le_bytes());
    put(of_context + offset_of!(SigContext, pstate), &0x6000_0000_u64.to_le_bytes());
    assert!(frame == expected, "{:?}", frame.iter().zip(&expected).position(|(a, b)| a != b));
    let vectors = of_context + offset_of!(SigContext, reserved);
    assert_eq!(vectors_at(0x8000), 0x8000 + vectors as u64);
    assert_eq!(vectors_at(0) % 16, 0, "what the kernel demands of records");
}

/// The C library's own view of it.
#[cfg(target_arch = "aarch64")]
#[test]
fn the_frame_is_what_a_handler_sees_as_its_context() {
    let context = UCONTEXT + offset_of!(libc::ucontext_t, uc_mcontext);
    assert_eq!(MASK, UCONTEXT + offset_of!(libc::ucontext_t, uc_sigmask));
    assert_eq!(GENERAL, context + offset_of!(libc::mcontext_t, regs));
    assert_eq!(GENERAL + SP * 8, context + offset_of!(libc::mcontext_t, sp));
    assert_eq!(GENERAL + PC * 8, context + offset_of!(libc::mcontext_t, pc));
    assert_eq!(GENERAL + PSTATE * 8, context + offset_of!(libc::mcontext_t, pstate));
    assert_eq!(FRAME_BYTES, UCONTEXT + size_of::<libc::ucontext_t>());
}

#[test]
fn vector_registers_become_the_first_record_and_none_is_lost() {
    let image: Vec<u8> = (0..528_u32).map(|place| u8::try_from(place % 251).unwrap()).collect();
    let record = vectors_in_frame(image.clone()).unwrap();
    assert_eq!(record.len(), FPSIMD_BYTES);
    assert_eq!(record[..8], [0x01, 0x80, 0x50, 0x46, 0x10, 0x02, 0, 0], "magic and size");
    assert_eq!((&record[8..16], &record[16..]), (&image[512..520], &image[..512]));
    assert_eq!(vectors_in_frame(vec![0; 512]), None, "without status and control");
}

#[test]
fn matrix_registers_and_guarded_stacks_are_seen() {
    let on = |note: usize, bytes: &[u8]| {
        let extra = EXTRAS.iter().find(|extra| extra.note == note).unwrap();
        (extra.is_on)(bytes)
    };
    let header = |size: u32| [size.to_le_bytes(), 272_u32.to_le_bytes(), [16, 0, 16, 0], [0; 4]].concat();
    let padded = [header(16), vec![0; 256]].concat();
    assert!(!on(0x40c, &header(16)) && !on(0x40c, &padded));
    assert!(on(0x40c, &[header(272), vec![1; 256]].concat()));
    assert!(!on(0x410, &[0; 24]) && on(0x410, &[1; 24]));
}
