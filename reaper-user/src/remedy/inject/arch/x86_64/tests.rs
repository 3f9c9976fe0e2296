use super::*;

fn registers(call: u64, result: i64) -> Registers {
    let mut words = [0; WORDS];
    for (place, word) in words.iter_mut().enumerate() {
        *word = 0x1000 + place as u64;
    }
    words[ORIG_RAX] = call;
    words[RAX] = result.cast_unsigned();
    words[CS] = USER_CS;
    words[SS] = 0x2b;
    Registers(words)
}

#[test]
fn a_thread_on_its_own_makes_its_call_again_or_sees_an_interrupted_one() {
    for restart in RESTARTS {
        let own = registers(35, restart).on_its_own();
        assert_eq!((own.0[RIP], own.0[RAX], own.call()), (0x1000 + RIP as u64 - 2, 35, None));
    }
    let own = registers(35, RESTART_BLOCK).on_its_own();
    assert_eq!((own.0[RIP], own.result()), (0x1000 + RIP as u64, -4));
    let done = registers(1, 512);
    assert_eq!(done.on_its_own(), done, "a call that is done has its result");
    let user = registers(u64::MAX, -512);
    assert_eq!(user.on_its_own(), user, "user code may have any value there");
}

#[test]
fn other_architectures_are_known_by_segment_and_number() {
    assert!(registers(35, 0).is_native() && registers(u64::MAX, 0).is_native());
    assert!(!registers(35 | X32, 0).is_native());
    let mut compat = registers(35, 0);
    compat.0[CS] = 0x23;
    assert!(!compat.is_native());
}

/// libc's `ucontext_t` is what a handler is given: the same memory, by its own names.
#[test]
fn the_frame_is_what_a_handler_sees_as_its_context() {
    let frame = frame(&registers(u64::MAX, 7), 0xabcd, 0x1234, 0x5678);
    let at = |field: usize| word(&frame, 8 + field).unwrap();
    assert_eq!(word(&frame, 0), Some(0x1234));
    let general = std::mem::offset_of!(libc::ucontext_t, uc_mcontext);
    let gregs = [
        (libc::REG_R8, R8),
        (libc::REG_R15, R15),
        (libc::REG_RDI, RDI),
        (libc::REG_RBP, RBP),
        (libc::REG_RAX, RAX),
        (libc::REG_RSP, RSP),
        (libc::REG_RIP, RIP),
        (libc::REG_EFL, EFLAGS),
    ];
    for (theirs, ours) in gregs {
        assert_eq!(
            at(general + usize::try_from(theirs).unwrap() * 8),
            registers(u64::MAX, 7).0[ours],
            "{theirs}"
        );
    }
    assert_eq!(at(general + libc::REG_CSGSFS as usize * 8), 0x33 | 0x2b << 48);
    assert_eq!(at(general + std::mem::offset_of!(libc::mcontext_t, fpregs)), 0x5678);
    assert_eq!(at(std::mem::offset_of!(libc::ucontext_t, uc_sigmask)), 0xabcd);
}

/// AVX, AVX-512, and AMX with and without its tiles in use: sizes and features as such processors have them, and what of them
/// the kernel takes back.
#[test]
fn images_of_every_size_keep_their_registers_and_get_the_kernels_marks() {
    const AMX: usize = 2_816;
    for (size, has, uses, kept) in [
        (832_usize, 0x7_u64, 0x7_u64, 832_usize),
        (2_696, 0xe7, 0xe7, 2_696),
        (11_008, 0x6_00e7, 0x2_00e7, AMX),
        (11_008, 0x6_00e7, 0x6_00e7, 11_008),
    ] {
        let mut image: Vec<u8> = (0..size).map(|place| u8::try_from(place % 251).unwrap()).collect();
        put(&mut image, SW_RESERVED, has);
        put(&mut image, XSTATE_BV, uses & !1);
        let before = image.clone();
        let marked = marked(image, AMX).unwrap();
        assert_eq!(marked.len(), kept + VECTORS_TAIL);
        let half = |at: usize| u32::from_le_bytes(marked[at..at + 4].try_into().unwrap());
        let bytes = u32::try_from(kept).unwrap();
        assert_eq!((half(464), half(468), half(480)), (0x4650_5853, bytes + 4, bytes));
        let features = if kept == size { has } else { has & !TILE_DATA };
        assert_eq!((word(&marked, 472), word(&marked, 512)), (Some(features), Some(uses | 3)));
        assert_eq!(half(kept), 0x4650_5845);
        assert_eq!(marked[..464], before[..464]);
        assert_eq!(marked[520..kept], before[520..kept]);
    }
    assert_eq!(vectors_in_frame(vec![0; 512]), None, "the legacy area alone loses registers");
}
