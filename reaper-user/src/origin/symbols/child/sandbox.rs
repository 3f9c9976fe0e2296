//! How the symbolizing process gives up what it could do harm with.
#![expect(unsafe_code, reason = "there is no safe interface to closing all descriptors and to seccomp")]

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};

use super::filter;

/// Bytes of memory that it may have of its own.
const DATA: u64 = 512 << 20;

/// Bytes of addresses: the files that it reads as well. A browser with its debug information has two thousand million.
const ADDRESSES: u64 = 8 << 30;

/// Seconds of processor time: the daemon waits far shorter for one answer, but the daemon may be gone.
const SECONDS: u64 = 60;

/// Descriptors: as many as come with two requests.
const DESCRIPTORS: u64 = 512;

/// `nobody`.
const NOBODY: u32 = 65_534;

/// Gives up everything but descriptor 0. An error is something that could not be given up: then nothing may be read.
pub(super) fn enter() -> Result<(), Errno> {
    close_all_but_standard()?;
    limit()?;
    drop_privileges()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    install(&filter::program())
}

fn limit() -> Result<(), Errno> {
    let limits = [
        (Resource::As, ADDRESSES),
        (Resource::Data, DATA),
        (Resource::Cpu, SECONDS),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
    ];
    for (resource, most) in limits {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// Where it is started without the privileges it takes to give them up, it has none to give up.
fn drop_privileges() -> Result<(), Errno> {
    for capability in CapabilitySet::all().iter() {
        let _not_permitted = remove_capability_from_bounding_set(capability);
    }
    let _old_kernel = clear_ambient_capability_set();
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let _not_permitted = set_thread_groups(&[]);
    let _not_permitted = set_thread_res_gid(group, group, group);
    let _not_permitted = set_thread_res_uid(user, user, user);
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

fn close_all_but_standard() -> Result<(), Errno> {
    // SAFETY: Closes descriptors that nothing in this process has: it has only just begun.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    result(done)
}

fn install(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: The kernel copies the program, which outlives the call, and does not write to it.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    result(done)
}

fn result(done: libc::c_long) -> Result<(), Errno> {
    if done == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}
