//! Empty BPF programs at a kernel function's entry, by bpf(2) itself: whether a kernel lets that be done at all, what it costs
//! to be called, and what happens where there is no room for another.

#![expect(unsafe_code, reason = "no crate but the one that reaper itself uses attaches such programs")]

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use rustix::process::{Resource, Rlimit, setrlimit};

/// `BPF_PROG_LOAD` and `BPF_RAW_TRACEPOINT_OPEN` of linux/bpf.h.
const LOAD: libc::c_int = 5;
const OPEN: libc::c_int = 17;
/// `BPF_PROG_TYPE_TRACING` and `BPF_TRACE_FENTRY`.
const TRACING: u32 = 26;
const FENTRY: u32 = 24;

/// What they are called.
const NAME: &str = "empty";

/// The part of `union bpf_attr` that loading such a program reads.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u32; 4],
    version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_kind: u32,
    btf: u32,
    functions: [u32; 4],
    lines: [u32; 4],
    attach_btf_id: u32,
    attach_program: u32,
    zero: u32,
}

/// What attaching it reads.
#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    zero: u32,
}

/// One program, for as long as this lives.
pub(crate) struct Empty {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    /// Attaches one at the entry of `function`.
    pub(crate) fn at(function: &str) -> io::Result<Self> {
        /// r0 = 0; exit
        const CODE: [u64; 2] = [0xb7, 0x95];
        const LICENSE: &CStr = c"GPL";
        let mut name = [0; 16];
        name[..NAME.len()].copy_from_slice(NAME.as_bytes());
        let mut load = Load {
            kind: TRACING,
            instructions: 2,
            code: CODE.as_ptr().addr() as u64,
            license: LICENSE.as_ptr().addr() as u64,
            name,
            attach_kind: FENTRY,
            attach_btf_id: btf_id(function)?,
            ..Load::default()
        };
        // Kernels before 5.11 count programs among locked memory, of which little is granted.
        let unlimited = Rlimit { current: None, maximum: None };
        setrlimit(Resource::Memlock, unlimited)?;
        let program = bpf(LOAD, &mut load)?;
        let descriptor = u32::try_from(program.as_raw_fd()).expect("a descriptor");
        let link = bpf(OPEN, &mut Open { name: 0, program: descriptor, zero: 0 })?;
        Ok(Self { _program: program, _link: link })
    }
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let attributes: *mut T = attributes;
    // SAFETY: the kernel reads the attributes, as long as they say, and what they point to, which is static.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(done).expect("a descriptor");
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The number of a function in the kernel's BTF.
fn btf_id(function: &str) -> io::Result<u32> {
    const FUNCTION: u32 = 12;
    let bytes = fs::read("/sys/kernel/btf/vmlinux")?;
    let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let at = |at: usize| number(at) as usize;
    let (base, strings) = (at(4), at(4) + at(16));
    let (mut next, end) = (base + at(8), base + at(8) + at(12));
    let mut id = 1;
    while next < end {
        let (name, more) = (strings + at(next), number(next + 4));
        let (kind, members) = ((more >> 24) & 0x1f, (more & 0xffff) as usize);
        if kind == FUNCTION && bytes[name..].starts_with(format!("{function}\0").as_bytes()) {
            return Ok(id);
        }
        // Behind the twelve bytes that each has: <https://docs.kernel.org/bpf/btf.html>.
        next += 12
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * members,
                6 | 13 => 8 * members,
                _ => 0,
            };
        id += 1;
    }
    Err(io::Error::other(format!("no function {function} in the kernel's BTF")))
}
