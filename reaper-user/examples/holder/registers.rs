//! A system call with something in every register, and what is in each of them afterwards: a call changes x0 alone.

use std::arch::global_asm;

use anyhow::{Result, ensure};

/// Registers as they are loaded before the call and stored after it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
struct Image {
    /// x0 to x30. The platform's own, x18, and x29 are among them: nobody looks at them meanwhile.
    general: [u64; 31],
    /// Condition flags, status and control of floating point.
    flags: [u64; 3],
    vectors: [[u64; 2]; 32],
}

// x0: where the image is, at an address of 16. It is loaded, but for x0, from there; stored there from the stack, where there is
// room for it without a register that would point there.
global_asm!(
    ".global reaper_call_with_all_registers",
    "reaper_call_with_all_registers:",
    "sub sp, sp, #448",
    "stp x29, x30, [sp]",
    "stp x19, x20, [sp, #16]",
    "stp x21, x22, [sp, #32]",
    "stp x23, x24, [sp, #48]",
    "stp x25, x26, [sp, #64]",
    "stp x27, x28, [sp, #80]",
    "stp d8, d9, [sp, #96]",
    "stp d10, d11, [sp, #112]",
    "stp d12, d13, [sp, #128]",
    "stp d14, d15, [sp, #144]",
    "stp x0, x18, [sp, #160]",
    "add x1, x0, #272",
    "ld1 {{v0.2d, v1.2d, v2.2d, v3.2d}}, [x1], #64",
    "ld1 {{v4.2d, v5.2d, v6.2d, v7.2d}}, [x1], #64",
    "ld1 {{v8.2d, v9.2d, v10.2d, v11.2d}}, [x1], #64",
    "ld1 {{v12.2d, v13.2d, v14.2d, v15.2d}}, [x1], #64",
    "ld1 {{v16.2d, v17.2d, v18.2d, v19.2d}}, [x1], #64",
    "ld1 {{v20.2d, v21.2d, v22.2d, v23.2d}}, [x1], #64",
    "ld1 {{v24.2d, v25.2d, v26.2d, v27.2d}}, [x1], #64",
    "ld1 {{v28.2d, v29.2d, v30.2d, v31.2d}}, [x1], #64",
    "ldp x1, x2, [x0, #248]",
    "ldr x3, [x0, #264]",
    "msr nzcv, x1",
    "msr fpsr, x2",
    "msr fpcr, x3",
    "ldr x30, [x0, #240]",
    "ldp x28, x29, [x0, #224]",
    "ldp x26, x27, [x0, #208]",
    "ldp x24, x25, [x0, #192]",
    "ldp x22, x23, [x0, #176]",
    "ldp x20, x21, [x0, #160]",
    "ldp x18, x19, [x0, #144]",
    "ldp x16, x17, [x0, #128]",
    "ldp x14, x15, [x0, #112]",
    "ldp x12, x13, [x0, #96]",
    "ldp x10, x11, [x0, #80]",
    "ldp x8, x9, [x0, #64]",
    "ldp x6, x7, [x0, #48]",
    "ldp x4, x5, [x0, #32]",
    "ldp x2, x3, [x0, #16]",
    "ldp x0, x1, [x0]",
    "svc #0",
    "stp x0, x1, [sp, #192]",
    "stp x2, x3, [sp, #208]",
    "mrs x2, nzcv",
    "ldr x0, [sp, #160]",
    "str x2, [x0, #248]",
    "mrs x2, fpsr",
    "mrs x3, fpcr",
    "stp x2, x3, [x0, #256]",
    "msr fpcr, xzr",
    "stp x4, x5, [x0, #32]",
    "stp x6, x7, [x0, #48]",
    "stp x8, x9, [x0, #64]",
    "stp x10, x11, [x0, #80]",
    "stp x12, x13, [x0, #96]",
    "stp x14, x15, [x0, #112]",
    "stp x16, x17, [x0, #128]",
    "stp x18, x19, [x0, #144]",
    "stp x20, x21, [x0, #160]",
    "stp x22, x23, [x0, #176]",
    "stp x24, x25, [x0, #192]",
    "stp x26, x27, [x0, #208]",
    "stp x28, x29, [x0, #224]",
    "str x30, [x0, #240]",
    "ldp x2, x3, [sp, #192]",
    "stp x2, x3, [x0]",
    "ldp x2, x3, [sp, #208]",
    "stp x2, x3, [x0, #16]",
    "add x1, x0, #272",
    "st1 {{v0.2d, v1.2d, v2.2d, v3.2d}}, [x1], #64",
    "st1 {{v4.2d, v5.2d, v6.2d, v7.2d}}, [x1], #64",
    "st1 {{v8.2d, v9.2d, v10.2d, v11.2d}}, [x1], #64",
    "st1 {{v12.2d, v13.2d, v14.2d, v15.2d}}, [x1], #64",
    "st1 {{v16.2d, v17.2d, v18.2d, v19.2d}}, [x1], #64",
    "st1 {{v20.2d, v21.2d, v22.2d, v23.2d}}, [x1], #64",
    "st1 {{v24.2d, v25.2d, v26.2d, v27.2d}}, [x1], #64",
    "st1 {{v28.2d, v29.2d, v30.2d, v31.2d}}, [x1], #64",
    "ldr x18, [sp, #168]",
    "ldp d14, d15, [sp, #144]",
    "ldp d12, d13, [sp, #128]",
    "ldp d10, d11, [sp, #112]",
    "ldp d8, d9, [sp, #96]",
    "ldp x27, x28, [sp, #80]",
    "ldp x25, x26, [sp, #64]",
    "ldp x23, x24, [sp, #48]",
    "ldp x21, x22, [sp, #32]",
    "ldp x19, x20, [sp, #16]",
    "ldp x29, x30, [sp]",
    "add sp, sp, #448",
    "ret",
);

unsafe extern "C" {
    fn reaper_call_with_all_registers(image: *mut Image);
}

/// Makes the call. What it returned; an error where a register is not what it was.
pub(crate) fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<libc::c_long> {
    let number = u64::try_from(number)?;
    // Other ones each time.
    let salt = std::process::id().wrapping_mul(0x9e37_79b9);
    let pattern = |place: usize| (place as u64 + 1).wrapping_mul(0x0101_0307_0f1f_3f7f) ^ u64::from(salt);
    // Negative and overflow; inexact and the like; rounding up, and toward zero with the next bit.
    let flags = [0x9000_0000, 0x1f, 0x0040_0000];
    let mut before = Image {
        general: std::array::from_fn(pattern),
        flags,
        vectors: std::array::from_fn(|place| [pattern(100 + place), pattern(200 + place)]),
    };
    for (place, argument) in before.general.iter_mut().zip(arguments) {
        *place = argument as u64;
    }
    before.general[8] = number;
    let mut after = before.clone();
    // SAFETY: it loads and stores one image, keeps what a function has to keep, and the call's own arguments are the caller's.
    unsafe { reaper_call_with_all_registers(&raw mut after) };
    let returned = after.general[0].cast_signed();
    before.general[0] = after.general[0];
    // The kernel itself leaves that of the call that goes on with it.
    if after.general[8] == u64::try_from(libc::SYS_restart_syscall)? {
        before.general[8] = after.general[8];
    }
    ensure!(before == after, "registers were changed:\n{before:x?}\n{after:x?}");
    Ok(returned)
}

/// Switches the matrix register on; false where there is none.
pub(crate) fn matrix_on() -> bool {
    /// <https://elixir.bootlin.com/linux/v6.12/source/arch/arm64/include/uapi/asm/hwcap.h> (`HWCAP2_SME`)
    const SME: u64 = 1 << 23;
    // SAFETY: reads what the kernel has told of the processor.
    let has = unsafe { libc::getauxval(libc::AT_HWCAP2) } & SME != 0;
    if has {
        // SAFETY: `smstart za`, which changes nothing that compiled code knows of.
        unsafe { std::arch::asm!(".inst 0xd503457f") };
    }
    has
}
