//! Giving memory back.

#![expect(unsafe_code, reason = "malloc_trim is a C function")]

/// Parsing the kernel's BTF takes some 30 MB for a moment. glibc keeps what was freed unless it is asked.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
