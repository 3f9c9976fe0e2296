//! A program under load, as [`super::loads`] runs it: what it says, its zombies, and whether it goes on.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use super::holder::{PATIENCE, Zombie, is_traced};
use crate::support::{adopt_orphans, signal};

/// What is run, and who of it is the holder.
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) command: Command,
    /// A port on which requests are answered by the holder.
    pub(super) port: Option<u16>,
}

/// A program under load; it ends with this.
pub(super) struct Running {
    pub(super) name: &'static str,
    pub(super) child: Child,
    pub(super) holder: u32,
    pub(super) ticks: usize,
    pub(super) faults: Vec<String>,
    pub(super) lines: Receiver<String>,
}

impl Running {
    pub(super) fn start(load: Load) -> Self {
        let Load { name, mut command, port } = load;
        adopt_orphans(&mut command);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take().unwrap();
        match port {
            Some(port) => {
                thread::spawn(move || request(port, &sender));
            }
            None => {
                thread::spawn(move || {
                    let lines = BufReader::new(output).lines().map_while(Result::ok);
                    lines.for_each(|line| drop(sender.send(line)));
                });
            }
        }
        let holder = child.id();
        let mut this = Self { name, child, holder, ticks: 0, faults: Vec::new(), lines };
        this.go_on(1);
        this
    }

    fn take(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("tick", _)) => self.ticks += 1,
            // A worker that was replaced has died.
            Some(("holder", pid)) if self.ticks == 0 => self.holder = pid.parse().unwrap(),
            Some(("holder", pid)) if pid.parse() == Ok(self.holder) => {}
            _ => self.faults.push(line.to_owned()),
        }
    }

    pub(super) fn read(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line);
        }
    }

    /// Waits for so many iterations more.
    pub(super) fn go_on(&mut self, ticks: usize) {
        if let Err(why) = self.goes_on(ticks, PATIENCE) {
            panic!("{why}");
        }
    }

    /// Whether it does them in time.
    pub(super) fn goes_on(&mut self, ticks: usize, patience: Duration) -> Result<(), String> {
        let (wanted, deadline) = (self.ticks + ticks, Instant::now() + patience);
        while self.ticks < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                return Err(format!("{} hangs or has died: {:?}", self.name, self.child.try_wait()));
            };
            self.take(&line);
        }
        Ok(())
    }

    /// Children that are zombies and whose name begins so.
    pub(super) fn zombies(&self, name: &str) -> Vec<Zombie> {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.holder)) else { return Vec::new() };
        let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|text| text.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        let is_named = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| stat.contains(&format!("({name}) Z")))
        };
        children.into_iter().filter(is_named).map(|pid| Zombie { pid, ns_pid: pid }).collect()
    }

    /// Whether somebody traces one of its threads.
    pub(super) fn is_traced(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.holder)).into_iter().flatten();
        let tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        tids.into_iter().any(|tid| is_traced(self.holder, tid))
    }

    /// Orphans of its that are zombies.
    pub(super) fn orphans(&self) -> Vec<Zombie> {
        self.zombies("sleep")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.holder != self.child.id() {
            signal(self.holder, libc::SIGKILL);
        }
    }
}

/// Asks for one iteration after the other.
fn request(port: u16, lines: &mpsc::Sender<String>) {
    let ask = |number: u32| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(format!("GET /?{number} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let deadline = Instant::now() + PATIENCE;
    while ask(0).is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    for number in 1_u32.. {
        let wanted = number % 100;
        let answer = ask(wanted);
        let said = answer.as_ref().ok().and_then(|answer| answer.lines().last()?.split_once(' '));
        let told = match said {
            Some((pid, status)) if status.parse() == Ok(wanted) => {
                lines.send(format!("holder {pid}")).and_then(|()| lines.send(format!("tick {number}")))
            }
            _ => lines.send(format!("fault {number} {answer:?}")),
        };
        if told.is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
