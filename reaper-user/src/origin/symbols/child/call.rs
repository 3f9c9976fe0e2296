//! What the bytes before an address say of it: a return address stands behind a call.

/// The longest call has seven bytes.
pub(super) const LONGEST: usize = 7;

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// To an address that is this much behind the call.
    Direct(i32),
    /// To what a register or memory holds.
    Indirect,
}

/// The call that ends with these bytes. Bytes in the middle of something else can look like one.
pub(super) fn before(bytes: &[u8; LONGEST]) -> Option<Call> {
    let [a, b, c, d, e, f, g] = *bytes;
    if c == 0xe8 {
        return Some(Call::Direct(i32::from_le_bytes([d, e, f, g])));
    }
    // `ff /2` with its addressing: how many bytes follow the opcode depends on the first of them.
    let calls = |mode_rm: u8, follow: usize| {
        let (mode, register, memory) = (mode_rm >> 6, mode_rm >> 3 & 7, mode_rm & 7);
        let needs = match (mode, memory) {
            (0, 5) => 5,
            (0, 4) | (1, 0..=3 | 5..) => 2,
            (1, 4) => 3,
            (2, 4) => 6,
            (2, _) => 5,
            _ => 1,
        };
        register == 2 && needs == follow
    };
    let opcodes = [(f, g, 1), (e, f, 2), (d, e, 3), (b, c, 5), (a, b, 6)];
    opcodes
        .iter()
        .any(|(opcode, mode_rm, follow)| *opcode == 0xff && calls(*mode_rm, *follow))
        .then_some(Call::Indirect)
}

/// The register that an instruction pushes, as [`super::super::super::native::Registers`] numbers them.
pub(super) fn pushed(code: &[u8]) -> Option<usize> {
    match *code {
        [push @ 0x50..=0x57, ..] => Some(usize::from(push - 0x50)),
        [0x41, push @ 0x50..=0x57, ..] => Some(usize::from(push - 0x50) + 8),
        _ => None,
    }
}

/// Whether code is a jump through memory, as the entries of a procedure linkage table are.
pub(super) fn is_linkage(code: &[u8]) -> bool {
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    let code = code.strip_prefix(&[0xf2]).unwrap_or(code);
    code.starts_with(&[0xff, 0x25])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_what_is_none() {
        let calls: [(&[u8; 7], Option<Call>); 12] = [
            (b"\0\0\xe8\x10\0\0\0", Some(Call::Direct(16))),
            (b"\0\0\xe8\xfe\xff\xff\xff", Some(Call::Direct(-2))),
            // call *%rax; call *%r12; call *(%rax); call *8(%rax); call *0x10(%rip); call *8(%rsp); call *0x100(%rbx)
            (b"\0\0\0\0\0\xff\xd0", Some(Call::Indirect)),
            (b"\0\0\0\0\x41\xff\xd4", Some(Call::Indirect)),
            (b"\0\0\0\0\0\xff\x10", Some(Call::Indirect)),
            (b"\0\0\0\0\xff\x50\x08", Some(Call::Indirect)),
            (b"\0\xff\x15\x10\0\0\0", Some(Call::Indirect)),
            (b"\0\0\0\xff\x54\x24\x08", Some(Call::Indirect)),
            (b"\0\xff\x93\0\x01\0\0", Some(Call::Indirect)),
            // jmp *%rax; nop; zeros
            (b"\0\0\0\0\0\xff\xe0", None),
            (b"\x90\x90\x90\x90\x90\x90\x90", None),
            (b"\0\0\0\0\0\0\0", None),
        ];
        for (bytes, expected) in calls {
            assert_eq!(before(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn the_libraries_that_keep_a_return_address_in_a_register_push_it_back() {
        // glibc, musl, Go.
        assert_eq!(pushed(b"\x57\x3d"), Some(7));
        assert_eq!(pushed(b"\x52\x48"), Some(2));
        assert_eq!(pushed(b"\x41\x54"), Some(12));
        assert_eq!(pushed(b"\x48\x3d"), None);
        assert_eq!(pushed(b""), None);
    }
}
