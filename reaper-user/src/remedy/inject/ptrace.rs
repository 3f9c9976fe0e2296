//! ptrace, and reading another process's memory: the only module that knows them.
#![expect(unsafe_code, reason = "there is no safe interface to ptrace that can do without consuming stops")]

use std::{
    fs::File,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::arch::{CALL_NOTE, Registers, VECTORS_NOTE, WORDS};

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/elf.h>
const NT_PRSTATUS: usize = 1;

/// Bytes of the largest set of registers that is read: 11 KiB of an XSAVE image with AMX.
const SET_BYTES: usize = 16 << 10;

/// Instructions of a seccomp filter: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf_common.h> (`BPF_MAXINSNS`)
const FILTER_INSTRUCTIONS: usize = 4096;

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/ptrace.h>, which libc lacks.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;

/// `PTRACE_EVENT_STOP`, which libc lacks on some targets.
const EVENT_STOP: i32 = 128;

/// How a thread stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was interrupted; nothing is to be delivered.
    Event,
    /// It stops with its group, or would if it ran.
    Group,
    /// At the entry or the exit of a system call.
    Call,
    /// This signal is about to be delivered to it.
    Signal(i32),
    /// It has executed another program, and has none of the other threads any more.
    Executed,
    /// Something else.
    Other(i32),
    /// It has ended.
    Ended,
}

/// One instruction of a seccomp filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// What.
    pub code: u16,
    /// How far it jumps where the condition is true.
    pub jt: u8,
    /// And where it is false.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

fn request(request: libc::c_uint, tid: u32, address: usize, data: usize) -> Result<i64, Errno> {
    // SAFETY: every caller in this file passes what this request takes, and memory that is its own for as long as the call
    // takes. ptrace changes no memory of this process but that.
    let done = unsafe { libc::ptrace(request, tid, address, data) };
    if done == -1 { Err(last()) } else { Ok(done) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Begins to trace a thread, without stopping it. Stops at system calls are told from traps.
pub fn seize(tid: u32) -> Result<(), Errno> {
    // Not EXITKILL: the holder must outlive whoever traces it.
    let told_of = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC;
    request(libc::PTRACE_SEIZE, tid, 0, told_of.unsigned_abs() as usize).map(drop)
}

/// Asks it to stop.
pub fn interrupt(tid: u32) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets it run on, with a signal (0 for none), until the next stop.
pub fn resume(tid: u32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_CONT, tid, 0, signal.unsigned_abs() as usize).map(drop)
}

/// Lets it run until its next entry into a system call, or exit from one.
pub fn resume_to_call(tid: u32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal.unsigned_abs() as usize).map(drop)
}

/// Ends tracing it, while it stands.
pub fn detach(tid: u32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, tid, 0, signal.unsigned_abs() as usize).map(drop)
}

/// Its general registers; `None` where they are of another architecture than this program's.
pub fn registers(tid: u32) -> Result<Option<Registers>, Errno> {
    let mut words = [0_u64; WORDS];
    let mut place = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(&words) };
    request(libc::PTRACE_GETREGSET as libc::c_uint, tid, NT_PRSTATUS, (&raw mut place).addr())?;
    Ok((place.iov_len == size_of_val(&words)).then_some(Registers::from_words(words)))
}

/// Sets them.
pub fn set_registers(tid: u32, registers: &Registers) -> Result<(), Errno> {
    let mut words = registers.words();
    let mut place = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(&words) };
    request(libc::PTRACE_SETREGSET as libc::c_uint, tid, NT_PRSTATUS, (&raw mut place).addr()).map(drop)
}

/// Its vector and floating-point registers.
pub fn vectors(tid: u32) -> Result<Vec<u8>, Errno> {
    set(tid, VECTORS_NOTE)
}

/// A set of its registers, or as much of it as is asked for. An error where processor or kernel do not have it.
pub fn set(tid: u32, note: usize) -> Result<Vec<u8>, Errno> {
    let mut image = vec![0_u8; SET_BYTES];
    let mut place = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
    request(libc::PTRACE_GETREGSET as libc::c_uint, tid, note, (&raw mut place).addr())?;
    image.truncate(place.iov_len);
    Ok(image)
}

/// Makes the kernel see no call in what it is leaving, where that is not told by the general registers.
pub fn forget_call(tid: u32) -> Result<(), Errno> {
    let Some(note) = CALL_NOTE else { return Ok(()) };
    let mut none = -1_i32;
    let mut place = libc::iovec { iov_base: (&raw mut none).cast(), iov_len: size_of_val(&none) };
    request(libc::PTRACE_SETREGSET as libc::c_uint, tid, note, (&raw mut place).addr()).map(drop)
}

/// Its signal mask, as it will be when it is back in user code.
pub fn signal_mask(tid: u32) -> Result<u64, Errno> {
    let mut mask = 0_u64;
    request(libc::PTRACE_GETSIGMASK as libc::c_uint, tid, size_of::<u64>(), (&raw mut mask).addr())?;
    Ok(mask)
}

/// Sets it.
pub fn set_signal_mask(tid: u32, mask: u64) -> Result<(), Errno> {
    request(libc::PTRACE_SETSIGMASK as libc::c_uint, tid, size_of::<u64>(), (&raw const mask).addr())
        .map(drop)
}

/// Whether the signal that is about to be delivered was raised by the kernel for what the thread itself has just done.
pub fn is_own_fault(tid: u32, signal: i32) -> bool {
    if !matches!(
        signal,
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGSYS | libc::SIGTRAP | libc::SIGFPE
    ) {
        return false;
    }
    let mut cause = MaybeUninit::<libc::siginfo_t>::zeroed();
    if request(libc::PTRACE_GETSIGINFO, tid, 0, cause.as_mut_ptr().addr()).is_err() {
        return false;
    }
    // SAFETY: zeroed before, and filled in. What others send has a code of 0 or less, or SI_KERNEL where nothing is known.
    let cause = unsafe { cause.assume_init() };
    cause.si_code > 0
}

/// Whether the thread has its system calls dispatched to itself (`PR_SET_SYSCALL_USER_DISPATCH`): one that it did not make would
/// come back as SIGSYS. False where the kernel cannot be asked (before 6.4).
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/ptrace.h>
pub fn dispatches_calls(tid: u32) -> bool {
    const GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
    // Mode, selector, offset, length.
    let mut config = [0_u64; 4];
    let size = size_of_val(&config);
    request(GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, config.as_mut_ptr().addr()).is_ok() && config[0] != 0
}

/// A seccomp filter of a thread that stands: the first is the oldest. `None` behind the last.
pub fn seccomp_filter(tid: u32, place: usize) -> Result<Option<Vec<Instruction>>, Errno> {
    let mut filter = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; FILTER_INSTRUCTIONS];
    match request(PTRACE_SECCOMP_GET_FILTER, tid, place, filter.as_mut_ptr().addr()) {
        Ok(length) => {
            filter.truncate(usize::try_from(length).unwrap_or(0));
            let plain = |&libc::sock_filter { code, jt, jf, k }: &_| Instruction { code, jt, jf, k };
            Ok(Some(filter.iter().map(plain).collect()))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Start, end and rights (`VM_READ`, `VM_WRITE`, `VM_EXEC`, `VM_SHARED`) of the mapping that an address is in, by an open `maps`
/// file. `NOTTY` before Linux 6.11.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/fs.h> (`PROCMAP_QUERY`)
pub fn mapping_at(maps: &File, address: u64) -> Result<(u64, u64, u64), Errno> {
    const PROCMAP_QUERY: libc::Ioctl = 0xc068_6611_u32 as libc::Ioctl;
    // Size, flags of the query, address; start, end and rights of what is found; nothing else is asked for.
    let mut query = [104_u64, 0, address, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads and writes as many bytes as the query says it has.
    let done = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, query.as_mut_ptr()) };
    if done == -1 {
        return Err(last());
    }
    let [_, _, _, start, end, rights, ..] = query;
    Ok((start, end, rights))
}

/// Makes this thread wait for stops with a deadline: the kernel announces each of them by SIGCHLD.
pub fn expect_stops() {
    // SAFETY: the calls only read and write the set that is given to them, and set no handler of this program's.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        // Where it is ignored, as it may have been by whoever started this process, nothing is announced.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}

/// The stop that a thread is in, or comes to before the deadline.
///
/// It is looked at and not consumed: where a consumed stop was for a signal and its tracer dies, the signal is lost.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/exit.c> (`wait_task_stopped`), `ptrace_stop` in kernel/signal.c
pub fn stop(tid: u32, deadline: Instant) -> Result<Option<Stop>, Errno> {
    loop {
        if let Some(stop) = look(tid)? {
            return Ok(Some(stop));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        await_signal(left);
    }
}

fn look(tid: u32) -> Result<Option<Stop>, Errno> {
    let options = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::WNOHANG | libc::__WALL;
    let mut seen = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `seen` is a siginfo_t, which is all that waitid writes.
    let done = unsafe { libc::waitid(libc::P_PID, tid, seen.as_mut_ptr(), options) };
    if done == -1 {
        return match last() {
            // A thread whose group was taken over by another one's execve.
            Errno::CHILD => Ok(Some(Stop::Ended)),
            Errno::INTR => Ok(None),
            error => Err(error),
        };
    }
    // SAFETY: zeroed before, and waitid has filled it in where there was something to tell.
    let (pid, code, status) = unsafe {
        let seen = seen.assume_init();
        (seen.si_pid(), seen.si_code, seen.si_status())
    };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(match (code, status) {
        (libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED, _) => Stop::Ended,
        (_, status) if status >> 8 == EVENT_STOP && status & 0xff == libc::SIGTRAP => Stop::Event,
        (_, status) if status >> 8 == EVENT_STOP => Stop::Group,
        (_, status) if status >> 8 == libc::PTRACE_EVENT_EXEC => Stop::Executed,
        (_, status) if status == libc::SIGTRAP | 0x80 => Stop::Call,
        (_, status) if status >> 8 == 0 => Stop::Signal(status),
        (_, status) => Stop::Other(status),
    }))
}

fn await_signal(left: Duration) {
    let timeout = timespec(left);
    // SAFETY: reads the set and the time, and is told to write nothing. That it found nothing in time is looked at by the caller.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const timeout);
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Whether nobody has waited yet for the process that this descriptor is of. As long as that is so its pid is nobody else's.
pub fn is_unwaited(process: BorrowedFd<'_>) -> bool {
    // SAFETY: signal 0 is not delivered, and no information is passed with it.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), 0, std::ptr::null::<u8>(), 0)
    };
    // That it may not be signalled says that it is there.
    done == 0 || last() != Errno::SRCH
}

/// Waits until somebody has waited for the process that this descriptor is of, or for so long. True where that was so: the kernel
/// tells it since 6.9, an older one lets the time pass.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/pid.c> (`__change_pid`), `pidfd_poll` in kernel/fork.c
pub fn await_release(process: BorrowedFd<'_>, at_most: Duration) -> bool {
    // No event is asked for: that it has died was so before. Its release is told in any case, as a hang-up.
    let mut awaited = libc::pollfd { fd: process.as_raw_fd(), events: 0, revents: 0 };
    let timeout = timespec(at_most);
    // SAFETY: reads and writes one pollfd, and reads the time.
    let told = unsafe { libc::ppoll(&raw mut awaited, 1, &raw const timeout, std::ptr::null()) };
    told == 1 && awaited.revents & libc::POLLHUP != 0
}

/// Reads the memory that a process has now, from one place. What is written goes through [`super::memory`].
pub fn read(pid: u32, address: u64, into: &mut [u8]) -> Result<(), Errno> {
    let wanted = into.len();
    let own = IoSliceMut::new(into);
    let address = usize::try_from(address).unwrap_or(usize::MAX);
    let foreign = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: wanted };
    let pid = pid.try_into().unwrap_or(libc::pid_t::MAX);
    // SAFETY: IoSliceMut is an iovec (std says so) over memory that is borrowed mutably; the other process's is only read.
    let done = unsafe { libc::process_vm_readv(pid, (&raw const own).cast(), 1, &raw const foreign, 1, 0) };
    // A part is not enough.
    match usize::try_from(done) {
        Ok(done) if done == wanted => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(_) => Err(last()),
    }
}

/// The same from several places at once: as much as each piece has room for.
pub fn read_pieces(pid: u32, pieces: &mut [(u64, Vec<u8>)]) -> Result<(), Errno> {
    let place = |address: u64| usize::try_from(address).unwrap_or(usize::MAX);
    let foreign: Vec<_> = pieces
        .iter()
        .map(|(address, piece)| libc::iovec {
            iov_base: std::ptr::without_provenance_mut(place(*address)),
            iov_len: piece.len(),
        })
        .collect();
    let mut own: Vec<_> = pieces.iter_mut().map(|(_, piece)| IoSliceMut::new(piece)).collect();
    let wanted: usize = foreign.iter().map(|piece| piece.iov_len).sum();
    let (pid, number) = (pid.try_into().unwrap_or(libc::pid_t::MAX), own.len() as libc::c_ulong);
    // SAFETY: as in `read`, with as many pieces on either side, of the same lengths.
    let done =
        unsafe { libc::process_vm_readv(pid, own.as_mut_ptr().cast(), number, foreign.as_ptr(), number, 0) };
    match usize::try_from(done) {
        Ok(done) if done == wanted => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(_) => Err(last()),
    }
}

/// Whether two processes have one memory: the one is a child of the other's that has not executed a program of its own yet
/// (vfork). False where the kernel cannot be asked.
pub fn share_memory(one: u32, other: u32) -> bool {
    // <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/kcmp.h>
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: no memory of this process is involved.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}
