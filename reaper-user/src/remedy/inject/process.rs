//! The daemon's end of the tracing process: it is started for one order, watched, and killed where it overruns. The kernel
//! frees the holder when its tracer is gone.

use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    process::Pid,
    thread::{sched_getaffinity, sched_setaffinity},
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
    /// Where what is left of the order goes, until all of it has gone there.
    order: Option<(ChildStdin, Vec<u8>)>,
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
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let (Some(input), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the tracing process has no pipes"));
        };
        // A pipe takes 64 KiB before anybody reads, which an order may exceed: nobody waits for that without a deadline.
        ioctl_fionbio(&input, true)?;
        let mut this = Self { child, answer, order: Some((input, line)) };
        this.tell();
        Ok(this)
    }

    /// Writes as much of the order as it takes now.
    fn tell(&mut self) {
        let Some((input, line)) = &mut self.order else { return };
        match input.write(line) {
            Ok(written) => {
                line.drain(..written);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // One that ends before it has read it has no answer either.
            Err(_) => line.clear(),
        }
        if line.is_empty() {
            self.order = None;
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
            self.let_run_anywhere();
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

    /// It has put itself onto the holder's processor, which a program of a real-time class may have for itself: there it would not
    /// even come to its end.
    fn let_run_anywhere(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        if let Ok(cpus) = sched_getaffinity(None) {
            // Where that is not allowed it ends all the same, if later.
            let _as_it_is = sched_setaffinity(pid, &cpus);
        }
    }

    fn read_answer(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while text.last() != Some(&b'\n') && text.len() < ANSWER_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut awaited = vec![PollFd::new(&self.answer, PollFlags::IN)];
            awaited.extend(self.order.as_ref().map(|(input, _)| PollFd::new(input, PollFlags::OUT)));
            let polled = poll(&mut awaited, Some(&timeout));
            let answered = awaited.first().is_some_and(|answer| !answer.revents().is_empty());
            match polled {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) if !answered => self.tell(),
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, process::Command};

    use rustix::thread::CpuSet;

    use super::*;
    use crate::remedy::inject::{
        Code, Method, Task,
        order::{Child, Process},
    };

    /// What any number of zombies is to be reaped of.
    fn order(zombies: u32) -> Order {
        let process = |pid| Process { pid, start_ticks: u64::MAX };
        let child = |pid| Child { process: process(pid), ns_pid: pid };
        Order {
            from: std::process::id(),
            holder: process(1),
            code: Code::default(),
            task: Task::Reap((1..=zombies).map(child).collect()),
            method: Method::Auto,
            allow_interrupted_wait: false,
            max_pause: Duration::ZERO,
            patience: Duration::ZERO,
        }
    }

    /// A program, whatever its arguments are. Written by another process: who forks meanwhile has a descriptor that may be written
    /// to, and the kernel executes nothing of which there is one.
    fn program(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("program");
        let script = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod +x \"$1\"";
        let status = Command::new("sh").args(["-c", script, "sh"]).arg(&path).arg(text).status();
        assert!(status.unwrap().success());
        path
    }

    #[test]
    fn an_order_that_nobody_reads_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let tracer = Tracer::start(&program(folder.path(), "exec sleep 100"), &order(10_000)).unwrap();
        let (word, message) = tracer.finish(Duration::from_millis(50)).refusal.unwrap();
        assert_eq!(word, DIED);
        assert!(message.contains("did not answer in time"), "{message}");
    }

    #[test]
    fn an_order_that_is_longer_than_a_pipe_arrives_whole() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy");
        let told = order(10_000);
        let answer = serde_json::to_string(&Answer::refused("said", "")).unwrap();
        let text = format!("head -n 1 > '{}'; echo '{answer}'", copy.display());
        let tracer = Tracer::start(&program(folder.path(), &text), &told).unwrap();
        let answer = tracer.finish(Duration::from_secs(20));
        assert_eq!(answer.refusal, Some(("said".to_owned(), String::new())));
        let read: Order = serde_json::from_slice(&fs::read(copy).unwrap()).unwrap();
        assert_eq!(read, told);
    }

    #[test]
    fn one_that_is_to_be_killed_may_run_wherever_its_watcher_may() {
        let folder = tempfile::tempdir().unwrap();
        let tracer = Tracer::start(&program(folder.path(), "exec sleep 100"), &order(1)).unwrap();
        let pid = Pid::from_raw(i32::try_from(tracer.pid()).unwrap());
        let own = sched_getaffinity(None).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|cpu| own.is_set(*cpu)).unwrap());
        sched_setaffinity(pid, &one).unwrap();
        tracer.let_run_anywhere();
        assert_eq!(sched_getaffinity(pid).unwrap(), own);
        let _ended = tracer.finish(Duration::ZERO);
    }
}
