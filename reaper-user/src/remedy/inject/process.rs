//! The daemon's end of the tracing process: it is started for one order, watched, and killed where it overruns. The kernel
//! frees the holder when its tracer is gone.

use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    order::{Answer, Order},
    work,
};

/// Bytes of an answer: a line for some hundreds of zombies.
const ANSWER_BYTES: usize = 1 << 20;

/// The word for an order whose tracing process ended without an answer.
pub const DIED: &str = "tracer-died";

/// A tracing process with its order.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    answer: ChildStdout,
}

impl Tracer {
    /// Starts `program`, which is reaper, with an order.
    pub fn start(program: &Path, order: &Order) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(work::ARGUMENT)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        // One that ends before it reads has no answer either.
        let told = child.stdin.take().map(|mut order| order.write_all(line.as_bytes()));
        match (told, child.stdout.take()) {
            (Some(_), Some(answer)) => Ok(Self { child, answer }),
            _ => Err(io::Error::other("the tracing process has no pipes")),
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its answer. After the deadline it is killed, and waited for in any case.
    #[must_use]
    pub fn finish(mut self, deadline: Duration) -> Answer {
        let text = self.read_answer(Instant::now() + deadline);
        // It ends by itself when it has answered; where it has not, this frees the holder.
        if text.is_err() {
            let _ended = self.child.kill();
        }
        let status = self.child.wait();
        let answer = text.as_deref().ok().and_then(|text| serde_json::from_slice(text).ok());
        answer.unwrap_or_else(|| {
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let late = text.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
            let why = if late { "did not answer in time" } else { "ended without an answer" };
            Answer::refused(DIED, format!("the tracing process {why} ({how})"))
        })
    }

    fn read_answer(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while text.last() != Some(&b'\n') && text.len() < ANSWER_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut answers = [PollFd::new(&self.answer, PollFlags::IN)];
            match poll(&mut answers, Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => match self.answer.read(&mut piece)? {
                    0 => break,
                    length => text.extend_from_slice(piece.get(..length).unwrap_or_default()),
                },
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(text)
    }
}
