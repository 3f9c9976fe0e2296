//! The threads of a holder: where each of them rests, and which is the best to be stopped. A look, without touching them.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use rustix::{
    io::Errno,
    net::sockopt::{Timeout, socket_timeout},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::arch::Blocked;
use super::rest::{self, Rest, SocketTimeout};

/// Threads that are looked at, the main thread among them: each takes three descriptors.
const THREADS: usize = 128;

/// Bytes of `status`: it lists up to 65,536 supplementary groups before what is looked for.
const STATUS_BYTES: u64 = 1 << 20;

/// A thread, and what the kernel tells of it at any later moment.
#[derive(Debug)]
pub struct Thread {
    /// Its id.
    pub tid: u32,
    call: File,
    stat: File,
    status: File,
}

/// What seccomp does to a thread's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// Nothing.
    Off,
    /// It may read, write and end; anything else kills it.
    Strict,
    /// It has filters.
    Filters,
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a processor, or waiting for one.
    Running,
    /// Blocked, or stopped.
    Blocked {
        /// In this call with these arguments; `None` where it is in none.
        call: Option<(i64, [u64; 6])>,
        /// With this stack pointer.
        stack: u64,
    },
}

/// The kernel's letter for a thread's state, and the processor that it ran on last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The letter.
    pub state: u8,
    /// The processor.
    pub cpu: usize,
}

/// What a thread is good for: the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// It goes on as if nothing had been.
    Exact,
    /// The same, but for a filter that may not let it: see `restart_syscall`.
    ExactUnlessFiltered,
    /// It runs: it is caught at its next call.
    Running,
    /// Its wait may end early.
    Timed,
}

impl Thread {
    /// All of a process.
    #[must_use]
    pub fn all(process: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(process.join("task")) else { return Vec::new() };
        let open = |path: &Path, name| {
            File::options().read(true).custom_flags(libc::O_CLOEXEC).open(path.join(name)).ok()
        };
        let thread = |path: &Path| {
            let tid = path.file_name()?.to_str()?.parse().ok()?;
            let (call, stat, status) = (open(path, "syscall")?, open(path, "stat")?, open(path, "status")?);
            Some(Self { tid, call, stat, status })
        };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        // The main thread has the process's number.
        let main = process.file_name();
        paths.sort_by_key(|path| path.file_name() != main);
        paths.iter().take(THREADS).filter_map(|path| thread(path)).collect()
    }

    /// Where it is now; `None` where it has ended.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        parse_place(&read(&self.call)?)
    }

    /// The call that it is blocked in now.
    #[must_use]
    pub fn blocked(&self) -> Option<Blocked> {
        let Place::Blocked { call: Some((call, arguments)), stack } = self.place()? else { return None };
        Some(Blocked { call: u64::try_from(call).ok()?, arguments, stack })
    }

    /// Its state now.
    #[must_use]
    pub fn stat(&self) -> Option<Stat> {
        let text = read(&self.stat)?;
        let behind = text.get(text.iter().rposition(|byte| *byte == b')')? + 2..)?;
        let mut fields = std::str::from_utf8(behind).ok()?.split(' ');
        let state = *fields.next()?.as_bytes().first()?;
        // The 39th of all: the state is the third.
        let cpu = fields.nth(35)?.trim().parse().ok()?;
        Some(Stat { state, cpu })
    }

    /// What seccomp does to its calls. `None` where that cannot be read.
    #[must_use]
    pub fn seccomp(&self) -> Option<Seccomp> {
        // One read, nearly always: the thread may stand meanwhile.
        let mut text = vec![0; 4096];
        let length = self.status.read_at(&mut text, 0).ok()?;
        text.truncate(length);
        if let Some(seccomp) = parse_seccomp(&text) {
            return Some(seccomp);
        }
        text.clear();
        (&self.status).rewind().ok()?;
        (&self.status).take(STATUS_BYTES).read_to_end(&mut text).ok()?;
        parse_seccomp(&text)
    }

    /// What it is good for now. `None` where it cannot be stopped: it has ended, or waits in the kernel for what does not end for a
    /// tracer.
    #[must_use]
    pub fn fitness(&self, holder: u32) -> Option<Fitness> {
        if !matches!(self.stat()?.state, b'R' | b'S' | b'T') {
            return None;
        }
        match self.place()? {
            Place::Running | Place::Blocked { call: None, .. } => Some(Fitness::Running),
            Place::Blocked { call: Some((call, arguments)), .. } => {
                let timed = rest::expected(call, arguments) == Rest::Timed
                    || rest::socket_timeout(call)
                        .is_some_and(|of| has_timeout(holder, self.tid, arguments[0], of));
                Some(if timed {
                    Fitness::Timed
                } else if rest::goes_on_by_another_call(call) && self.seccomp() != Some(Seccomp::Off) {
                    Fitness::ExactUnlessFiltered
                } else {
                    Fitness::Exact
                })
            }
        }
    }
}

/// Whether a descriptor of the holder is a socket with a timeout of its own.
fn has_timeout(holder: u32, tid: u32, descriptor: u64, of: SocketTimeout) -> bool {
    let socket = || -> Result<OwnedFd, Errno> {
        let pid = |number| i32::try_from(number).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        // Of a thread since 6.9: of a process whose first thread has ended nothing can be had by its own pid.
        let of_thread = PidfdFlags::from_bits_retain(libc::PIDFD_THREAD);
        let process =
            pidfd_open(pid(tid)?, of_thread).or_else(|_| pidfd_open(pid(holder)?, PidfdFlags::empty()))?;
        let descriptor = i32::try_from(descriptor).map_err(|_| Errno::BADF)?;
        pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())
    };
    let socket = match socket() {
        Ok(socket) => socket,
        // There is no such descriptor.
        Err(Errno::BADF) => return false,
        // Not known.
        Err(_) => return true,
    };
    let timeout = match of {
        SocketTimeout::Receive => Timeout::Recv,
        SocketTimeout::Send => Timeout::Send,
    };
    // Anything but a socket has none.
    socket_timeout(socket, timeout).is_ok_and(|timeout| timeout.is_some())
}

fn read(file: &File) -> Option<Vec<u8>> {
    let mut text = vec![0; 1024];
    let length = file.read_at(&mut text, 0).ok().filter(|length| *length > 0)?;
    text.truncate(length);
    Some(text)
}

/// The line of `status` that says it, where it is among these bytes as a whole.
fn parse_seccomp(status: &[u8]) -> Option<Seccomp> {
    let mut lines = status.split_inclusive(|byte| *byte == b'\n');
    match lines.find_map(|line| line.strip_prefix(b"Seccomp:"))?.strip_suffix(b"\n")?.trim_ascii() {
        b"0" => Some(Seccomp::Off),
        b"1" => Some(Seccomp::Strict),
        b"2" => Some(Seccomp::Filters),
        _ => None,
    }
}

/// `running`, or a call's number, its arguments, the stack pointer and the instruction pointer; -1 where it is in no call.
/// <https://docs.kernel.org/filesystems/proc.html>
fn parse_place(text: &[u8]) -> Option<Place> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    if text == "running" {
        return Some(Place::Running);
    }
    let mut fields = text.split(' ');
    let number: i64 = fields.next()?.parse().ok()?;
    let mut hex = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
    if number < 0 {
        return Some(Place::Blocked { call: None, stack: hex()? });
    }
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = hex()?;
    }
    Some(Place::Blocked { call: Some((number, arguments)), stack: hex()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_proc_writes_them() {
        let blocked = parse_place(b"7 0x1 0x2 0x3 0x0 0x0 0xffff 0x7ffd10 0x7f00\n");
        let call = Some((7, [1, 2, 3, 0, 0, 0xffff]));
        assert_eq!(blocked, Some(Place::Blocked { call, stack: 0x7f_fd10 }));
        assert_eq!(
            parse_place(b"-1 0x7ffd10 0x7f00\n"),
            Some(Place::Blocked { call: None, stack: 0x7f_fd10 })
        );
        assert_eq!(parse_place(b"running\n"), Some(Place::Running));
        for odd in [&b""[..], b"7 0x1", b"seven 0x1", b"7 1 2 3 4 5 6 7 8"] {
            assert_eq!(parse_place(odd), None);
        }
    }

    #[test]
    fn a_line_about_seccomp_is_told_when_all_of_it_is_there() {
        let status = b"Name:\tSeccomp:\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(parse_seccomp(status), Some(Seccomp::Filters));
        let end = status.windows(4).position(|bytes| bytes == b"2\nSe").unwrap();
        for length in [0, 20, end, end + 1] {
            assert_eq!(parse_seccomp(&status[..length]), None, "{length}");
        }
        assert_eq!(parse_seccomp(b"Seccomp:\t0\n"), Some(Seccomp::Off));
        assert_eq!(parse_seccomp(b"Seccomp:\t1\n"), Some(Seccomp::Strict));
    }

    #[test]
    fn a_sleeping_thread_goes_on_exactly_and_one_that_computes_is_running() {
        use std::sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
            mpsc::channel,
        };
        let own = || rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let (send, receive) = channel();
        let done = Arc::new(AtomicBool::new(false));
        let (tell, stop) = (send.clone(), Arc::clone(&done));
        let busy = std::thread::spawn(move || {
            tell.send((own(), Fitness::Running)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let sleeper = std::thread::spawn(move || {
            send.send((own(), Fitness::Exact)).unwrap();
            std::thread::park();
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        for (tid, expected) in receive.iter().take(2) {
            let fitness = || {
                let threads = Thread::all(Path::new("/proc/self"));
                threads.iter().find(|thread| thread.tid == tid)?.fitness(std::process::id())
            };
            while fitness() != Some(expected) {
                assert!(std::time::Instant::now() < deadline, "{expected:?}");
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
        sleeper.thread().unpark();
        sleeper.join().unwrap();
        busy.join().unwrap();
    }

    #[test]
    fn a_sockets_own_timeout_is_seen() {
        use std::os::fd::AsRawFd as _;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = u64::try_from(socket.as_raw_fd()).unwrap();
        let own = std::process::id();
        assert!(!has_timeout(own, own, number, SocketTimeout::Receive));
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        assert!(has_timeout(own, own, number, SocketTimeout::Receive));
        assert!(!has_timeout(own, own, number, SocketTimeout::Send));
        assert!(!has_timeout(own, own, 9_999, SocketTimeout::Receive));
    }
}
