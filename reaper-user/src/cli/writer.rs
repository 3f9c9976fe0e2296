//! The thread that writes events to standard output, and what it does when that does not work.
//!
//! A consumer that reads slowly or not at all holds this thread up and nothing else. A daemon keeps what a full disk
//! does not take, and tries again until it does.

use std::{
    io::{self, Write},
    sync::mpsc::RecvTimeoutError,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::oneshot;

use crate::{
    config::Output,
    report::{Backlog, Outgoing, Page, Reporter},
};

/// How long after a failure the rest is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Log lines about one trouble are not closer together than this.
const LOG_APART: Duration = Duration::from_secs(60);

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) output: Output,
    /// For people: the stack below each zombie.
    pub(super) stacks: bool,
}

/// Writes events as they come, until there will be no more. `failed` is told when it cannot go on; where it is
/// `stubborn`, that is only when nobody can ever read what is written.
pub(super) fn start(
    Form { output, stacks }: Form,
    mut outgoing: Outgoing,
    stubborn: bool,
    failed: oneshot::Sender<io::Error>,
) -> io::Result<thread::JoinHandle<Outgoing>> {
    let page = Page::of_stdout();
    let stdout = Patient::new(io::stdout(), stubborn.then(|| outgoing.backlog()));
    let reporter = Reporter::new(stdout, output, page).in_a_stream();
    let mut reporter = if stacks { reporter.with_stacks() } else { reporter };
    thread::Builder::new().name("writer".to_owned()).spawn(move || {
        if let Err(error) = write(&mut reporter, &mut outgoing) {
            // Nobody waits for it where the session is ending already.
            let _ended = failed.send(error);
        }
        // Kept until the session has ended: what is sent meanwhile waits, and nobody is told that it is dropped.
        outgoing
    })
}

fn write(reporter: &mut Reporter<impl Write>, outgoing: &mut Outgoing) -> io::Result<()> {
    reporter.start()?;
    loop {
        let event = match reporter.rest_is_due() {
            None => outgoing.take(),
            Some(due) => match outgoing.take_until(due) {
                Err(RecvTimeoutError::Timeout) => {
                    reporter.say_rest()?;
                    continue;
                }
                taken => taken.ok(),
            },
        };
        let Some(event) = event else { break };
        reporter.report(&event)?;
        outgoing.wrote();
    }
    reporter.say_rest()
}

/// Says when whoever reads standard output has gone, which a write would only find out with the next event.
/// Its thread ends with the process.
pub(super) fn watch_reader(left: oneshot::Sender<()>) -> io::Result<()> {
    thread::Builder::new().name("reader-watch".to_owned()).spawn(move || wait_for_reader_to_leave(left))?;
    Ok(())
}

fn wait_for_reader_to_leave(left: oneshot::Sender<()>) {
    let stdout = io::stdout();
    loop {
        let mut descriptors = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut descriptors, None) {
            Ok(_) if descriptors[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                // Nobody waits for it where the session has ended by itself.
                let _ended = left.send(());
                return;
            }
            Err(Errno::INTR) => {}
            // Nothing to learn here: the next write will say.
            Ok(_) | Err(_) => return,
        }
    }
}

/// A descriptor that is written as it is, without a buffer: what a failed write has not taken is known to the byte,
/// so that a line goes on where it was cut.
struct Patient<D> {
    descriptor: D,
    trouble: Option<Trouble>,
}

/// What is said while writing fails.
struct Trouble {
    backlog: Backlog,
    since: Option<Instant>,
    said: Option<Instant>,
}

impl<D: std::os::fd::AsFd> Patient<D> {
    /// With a backlog to speak of, failures that may pass are waited out; without one, each is handed on.
    fn new(descriptor: D, backlog: Option<Backlog>) -> Self {
        let trouble = backlog.map(|backlog| Trouble { backlog, since: None, said: None });
        Self { descriptor, trouble }
    }
}

impl<D: std::os::fd::AsFd> Write for Patient<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.descriptor, bytes) {
                Ok(0) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    if let Some(trouble) = &mut self.trouble {
                        trouble.passed();
                    }
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                // Whoever started us made it non-blocking.
                Err(Errno::AGAIN) => wait_for_room(&self.descriptor)?,
                Err(error) => match &mut self.trouble {
                    Some(trouble) if may_pass(error) => {
                        trouble.lasts(error);
                        thread::sleep(AGAIN);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_for_room(descriptor: &impl std::os::fd::AsFd) -> io::Result<()> {
    match poll(&mut [PollFd::new(descriptor, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether writing may work again without anybody starting us anew. Not where the reader is gone, or the descriptor
/// is none that can be written.
fn may_pass(error: Errno) -> bool {
    !matches!(
        error,
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::BADF | Errno::INVAL | Errno::DESTADDRREQ
    )
}

impl Trouble {
    fn lasts(&mut self, error: Errno) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        if self.said.is_none_or(|said| now.duration_since(said) >= LOG_APART) {
            self.said = Some(now);
            let error = io::Error::from(error);
            tracing::error!(
                waiting = self.backlog.waiting(),
                "standard output cannot be written: {error}; nothing is lost while events find room to wait, and \
                 it is tried again every second"
            );
        }
    }

    fn passed(&mut self) {
        if let Some(since) = self.since.take() {
            self.said = None;
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, waiting = self.backlog.waiting(), "standard output can be written again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::{fd::OwnedFd, unix::net::UnixStream},
    };

    use super::*;
    use crate::report::Outbox;

    fn full() -> OwnedFd {
        std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
    }

    #[test]
    fn a_full_disk_ends_a_command_and_is_waited_out_by_a_daemon() {
        let error = Patient::new(full(), None).write(b"line\n").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
        let (_outbox, outgoing) = Outbox::new();
        let (sender, receiver) = std::sync::mpsc::channel();
        // Ends with the tests.
        thread::spawn(move || {
            sender.send(Patient::new(full(), Some(outgoing.backlog())).write(b"line\n").is_ok())
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "it is still trying");
    }

    #[test]
    fn a_reader_that_left_ends_both() {
        for stubborn in [false, true] {
            let (_outbox, outgoing) = Outbox::new();
            let (ours, theirs) = UnixStream::pair().unwrap();
            drop(theirs);
            let error =
                Patient::new(ours, stubborn.then(|| outgoing.backlog())).write(b"line\n").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_descriptor_that_does_not_block_is_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let text = vec![b'x'; 4 << 20];
        let expected = text.len();
        let writer = thread::spawn(move || Patient::new(ours, None).write_all(&text));
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(all.len(), expected);
    }
}
