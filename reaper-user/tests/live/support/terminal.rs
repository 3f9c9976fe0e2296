//! A terminal for the binary under test: a pseudo-terminal, and what a terminal would show of what is written to it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    process::{Pid, PidfdFlags, pidfd_open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};

use super::{reaper, signal, sys::in_terminal};

/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

/// How long it is waited for something to read before it is seen whether somebody wants to.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The binary on a terminal of its own; it is killed when this is dropped.
pub(crate) struct Terminal {
    child: Child,
    typing: File,
    own: Option<OwnedFd>,
    settings: String,
    /// With word of whatever comes.
    seen: Arc<(Mutex<Seen>, Condvar)>,
    reader: Option<JoinHandle<()>>,
    /// Ends with that thread.
    reads: Receiver<()>,
    hung_up: Arc<AtomicBool>,
}

/// What is seen on it.
struct Seen {
    parser: vt100::Parser,
    /// All bytes that were written.
    bytes: Vec<u8>,
    /// Whether a cell had a colour at any moment.
    coloured: bool,
}

impl Terminal {
    /// `reaper` with these arguments on a terminal of so many rows and columns, where `TERM` is what `arrange` says, else xterm.
    pub(crate) fn start(arguments: &[&str], size: (u16, u16), arrange: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(reaper());
        command.args(arguments).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        arrange(&mut command);
        Self::with(command, size)
    }

    /// A shell with job control that does this, with `$0` for `reaper`.
    pub(crate) fn shell(script: &str, size: (u16, u16)) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-m", "-c", script]).arg(reaper()).env("TERM", "xterm-256color");
        Self::with(command, size)
    }

    fn with(mut command: Command, (rows, columns): (u16, u16)) -> Self {
        let [looks, own] = pseudo_terminal(rows, columns);
        let stdio = || Stdio::from(own.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        in_terminal(&mut command);
        let settings = settings(&own);
        let child = command.spawn().unwrap();
        // It has the descriptors of the other end, too.
        drop(command);
        let parser = vt100::Parser::new(rows, columns, 0);
        let seen = Seen { parser, bytes: Vec::new(), coloured: false };
        let seen = Arc::new((Mutex::new(seen), Condvar::new()));
        let (reading_on, reads) = channel();
        let (looking, shared) = (File::from(looks), Arc::clone(&seen));
        let hung_up = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&hung_up);
        let mut reading = looking.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let _reading_on = reading_on;
            let mut bytes = [0; 4096];
            while !stops.load(Ordering::Relaxed) {
                let mut waiting = [PollFd::new(&reading, PollFlags::IN)];
                if poll(&mut waiting, Some(&LOOK)).unwrap() == 0 {
                    continue;
                }
                // When nobody has the other end any more, that is EIO.
                let Ok(count) = reading.read(&mut bytes) else { return };
                shared.0.lock().unwrap().take(&bytes[..count]);
                shared.1.notify_all();
            }
        });
        Self { child, typing: looking, own: Some(own), settings, seen, reader: Some(reader), reads, hung_up }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is to be read on it now, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen.0.lock().unwrap().lines()
    }

    /// Waits until what is to be read is so; panics after `timeout`.
    pub(crate) fn until(&self, what: &str, timeout: Duration, done: impl Fn(&[String]) -> bool) {
        let came = self.comes(timeout, done);
        assert!(came, "waited {timeout:?} in vain: {what}\n{}", self.lines().join("\n"));
    }

    /// The same; false after `timeout`.
    pub(crate) fn comes(&self, timeout: Duration, done: impl Fn(&[String]) -> bool) -> bool {
        let (seen, word) = &*self.seen;
        let is_not_yet = |seen: &mut Seen| !done(&seen.lines());
        let waited = word.wait_timeout_while(seen.lock().unwrap(), timeout, is_not_yet);
        !waited.unwrap().1.timed_out()
    }

    /// Waits until a line has all of these parts, and returns it.
    pub(crate) fn line_with(&self, parts: &[&str], timeout: Duration) -> String {
        let has_all = |line: &&String| parts.iter().all(|part| line.contains(part));
        self.until(&parts.join(", "), timeout, |lines| lines.iter().any(|line| has_all(&line)));
        // It may have gone since.
        self.lines().iter().find(has_all).cloned().unwrap_or_default()
    }

    /// Types.
    pub(crate) fn types(&mut self, keys: &str) {
        self.typing.write_all(keys.as_bytes()).unwrap();
    }

    /// Makes it another size.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        self.seen.0.lock().unwrap().parser.screen_mut().set_size(rows, columns);
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.typing, size).unwrap();
    }

    /// Whether it is read line by line, and not key by key, as before it was started.
    pub(crate) fn is_as_it_was(&self) -> bool {
        settings(self.own.as_ref().unwrap()) == self.settings
    }

    /// Whether it shows what covers all, and not what was there before.
    pub(crate) fn is_covered(&self) -> bool {
        self.seen.0.lock().unwrap().parser.screen().alternate_screen()
    }

    /// Whether a colour was seen on it.
    pub(crate) fn was_coloured(&self) -> bool {
        self.seen.0.lock().unwrap().coloured
    }

    /// Takes the terminal away, and waits for its end: its exit code.
    pub(crate) fn hang_up(mut self) -> Option<i32> {
        self.hung_up.store(true, Ordering::Relaxed);
        self.reader.take().unwrap().join().unwrap();
        self.own = None;
        self.typing = File::open("/dev/null").unwrap();
        self.ended()
    }

    /// Its exit code, when it has ended.
    fn ended(&mut self) -> Option<i32> {
        let child = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let patience = Timespec::try_from(END).unwrap();
        let ended = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(ended, 1, "does not end:\n{}", self.lines().join("\n"));
        self.child.wait().unwrap().code()
    }

    /// Waits for its end, after which the terminal must be as it was before. Its exit code, and what was left to read.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = self.ended();
        let own = self.own.take().unwrap();
        assert_eq!(settings(&own), self.settings, "the terminal is not as it was");
        drop(own);
        let read_all = self.reads.recv_timeout(END);
        assert_eq!(read_all, Err(RecvTimeoutError::Disconnected), "somebody has the terminal still");
        self.reader.take().unwrap().join().unwrap();
        let seen = self.seen.0.lock().unwrap();
        let screen = seen.parser.screen();
        assert!(!screen.alternate_screen(), "what was on the terminal before is still covered");
        assert!(!screen.hide_cursor(), "the cursor is still hidden");
        let text = String::from_utf8_lossy(&seen.bytes);
        assert!(!text.contains("panicked"), "{text}");
        (code, screen.contents())
    }
}

impl Seen {
    fn lines(&self) -> Vec<String> {
        self.parser.screen().contents().lines().map(str::to_owned).collect()
    }

    fn take(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        self.bytes.extend_from_slice(bytes);
        let screen = self.parser.screen();
        let (rows, columns) = screen.size();
        let mut cells =
            (0..rows).flat_map(|row| (0..columns).filter_map(move |column| screen.cell(row, column)));
        self.coloured |= cells
            .any(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Not of one that has been waited for.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), libc::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// How input and output are treated.
fn settings(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

/// A pseudo-terminal of so many rows and columns: the end of whoever looks at it, and that of whoever runs on it.
fn pseudo_terminal(rows: u16, columns: u16) -> [OwnedFd; 2] {
    // Closed in what is started meanwhile: it would have them, too, and nobody would see the end of what is written.
    let looks = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&looks).unwrap();
    unlockpt(&looks).unwrap();
    let name = ptsname(&looks, Vec::new()).unwrap();
    let own = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    tcsetwinsize(&own, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    [looks, own]
}
