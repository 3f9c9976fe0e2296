//! Remedies on real processes: what a rule asks for is done to whom it means and to nobody else, and said.

mod acts;
mod crawler;
mod first_day;
mod hand;
mod protection;

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::NamedTempFile;

use crate::support::{Daemon, Seen, fixture};

/// A holder of zombies; it is killed when this is dropped.
pub(crate) struct Holder {
    child: Child,
    /// The pids of its zombies.
    pub(crate) zombies: Vec<u64>,
}

impl Holder {
    /// One that behaves as `mode` says, see `holder.py`.
    pub(crate) fn start(mode: &str, zombies: usize) -> Self {
        Self::of(python(), mode, zombies)
    }

    /// The same, of a command that runs Python.
    pub(crate) fn of(python: Command, mode: &str, zombies: usize) -> Self {
        Self::above(python, mode, zombies, &[])
    }

    /// The same, with a child of its own that runs `command`.
    pub(crate) fn above(mut python: Command, mode: &str, zombies: usize, command: &[&OsStr]) -> Self {
        let mut child = python
            .args(["-I", "-S"])
            .arg(fixture("remedy/holder.py"))
            .args([mode, &zombies.to_string()])
            .args(command)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let zombies = line.strip_prefix("ready ").expect("the holder is not ready");
        Self { zombies: zombies.split_whitespace().map(|pid| pid.parse().unwrap()).collect(), child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs still.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How many of its zombies stand, as /proc says.
    pub(crate) fn standing(&self) -> usize {
        self.zombies.iter().filter(|pid| state(**pid) == Some('Z')).count()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Python, as the rules of these tests name it.
pub(crate) fn python() -> Command {
    let python = Path::new("/usr/bin/python3");
    assert!(python.exists(), "{} is missing: `cargo xtask setup` installs it", python.display());
    Command::new(python)
}

/// The kernel's letter for a process's state.
pub(crate) fn state(pid: u64) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// A configuration with these rules, which report at 400 ms.
pub(crate) fn configuration(rules: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "age = '400ms'\n{rules}").unwrap();
    file
}

/// A daemon with these rules.
pub(crate) fn daemon(rules: &str, more: &[&str]) -> (Daemon, NamedTempFile) {
    let file = configuration(rules);
    let path = file.path().to_str().unwrap().to_owned();
    let arguments = [&["--config", path.as_str()], more].concat();
    (Daemon::run(&arguments), file)
}

/// A rule for the holders of these tests, with these steps and whatever else is said.
pub(crate) fn rule(steps: &str, more: &str) -> String {
    format!("[[rule]]\nname = 'test'\nmatch.executable = '/usr/bin/python3*'\nsteps = [{steps}]\n{more}\n")
}

/// Whether an event is a remedy for this holder.
pub(crate) fn is_remedy(seen: &Seen, holder: u32, remedy: &str) -> bool {
    seen.is("remedy") && seen.number("/holder/pid") == u64::from(holder) && seen.text("/remedy") == remedy
}

/// Waits for an event about a remedy for this holder, and returns it.
pub(crate) fn remedy(daemon: &mut Daemon, holder: u32, remedy: &str) -> Seen {
    let mut found = None;
    daemon.until(remedy, Duration::from_secs(20), |seen| {
        if is_remedy(seen, holder, remedy) {
            found = Some(seen.clone());
        }
        found.is_some()
    });
    found.unwrap()
}
