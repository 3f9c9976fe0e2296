//! The example `forker` as a child process, and limits that it runs into.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::PATIENCE;

/// The example `forker` as a child process. With it end its children.
pub(crate) struct Forker {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// What it said of the first fork that was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) at: Timestamp,
    pub(crate) made: u64,
}

impl Forker {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("forker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example `forker` starts");
        let commands = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, commands, answers }
    }

    /// Gives it a command, and returns its answer.
    pub(crate) fn does(&mut self, command: &str) -> String {
        self.begins(command);
        self.ends(command)
    }

    /// Gives it a command.
    pub(crate) fn begins(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("it listens");
    }

    /// The answer to that.
    pub(crate) fn ends(&mut self, command: &str) -> String {
        let answer = self.answers.next().unwrap_or_else(|| panic!("{command}: it has ended")).expect("text");
        println!("{command}: {answer}");
        answer
    }

    /// Children until one is refused.
    pub(crate) fn fills(&mut self, kind: &str) -> Refused {
        let answer = self.does(&format!("fill {kind} 5000"));
        let words: Vec<&str> = answer.split(' ').collect();
        let ["refused", at, made] = words[..] else { panic!("it was not refused: {answer}") };
        let at = Timestamp::from_nanosecond(at.parse().expect("a number")).expect("a time");
        Refused { at, made: made.parse().expect("a number") }
    }

    /// How many of so many forks were refused.
    pub(crate) fn forks(&mut self, times: u32) -> u64 {
        self.refused_of(&format!("fork {times}"))
    }

    /// How many of the forks were refused that a command makes.
    pub(crate) fn refused_of(&mut self, command: &str) -> u64 {
        let answer = self.does(command);
        answer.strip_prefix("refused ").expect("an answer").parse().expect("a number")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Forker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of the machine's, until the end of a test.
pub(crate) struct Setting {
    file: &'static str,
    before: String,
}

impl Setting {
    pub(crate) fn set(file: &'static str, value: u64) -> Self {
        let before = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        fs::write(file, value.to_string()).unwrap_or_else(|error| panic!("{file} = {value}: {error}"));
        Self { file, before }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.file, &self.before);
    }
}

/// A cgroup with room for so many tasks, until the end of a test: what is in it ends before that.
pub(crate) struct Limited {
    pub(crate) folder: PathBuf,
    pub(crate) path: String,
}

impl Limited {
    pub(crate) fn make(name: &str, max: u64) -> Self {
        let this = Self::unlimited(name);
        fs::write(this.folder.join("pids.max"), max.to_string()).expect("a limit");
        this
    }

    /// With room for any number.
    pub(crate) fn unlimited(name: &str) -> Self {
        let root = root();
        if root.join("cgroup.subtree_control").exists() {
            fs::write(root.join("cgroup.subtree_control"), "+pids").expect("the pids controller");
        }
        let folder = root.join(name);
        fs::create_dir(&folder).expect("a cgroup");
        Self { folder, path: format!("/{name}") }
    }

    pub(crate) fn holds(&self, forker: &Forker) {
        fs::write(self.folder.join("cgroup.procs"), forker.child.id().to_string()).expect("it moves there");
    }

    /// Refused forks, as the kernel counts them.
    pub(crate) fn counted(&self) -> u64 {
        let events = fs::read_to_string(self.folder.join("pids.events")).expect("a count");
        events.lines().find_map(|line| line.strip_prefix("max ")).expect("a count").parse().expect("a number")
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Who was killed is in it until it has ended.
        while let Err(error) = fs::remove_dir(&self.folder)
            && Instant::now() < deadline
        {
            assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{}: {error}", self.folder.display());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where the hierarchy is that counts pids.
fn root() -> &'static Path {
    let mut roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().map(Path::new);
    roots.find(|root| root.join("cgroup.procs").exists()).expect("a hierarchy with pids")
}

/// Whether that is version 2.
pub(crate) fn is_v2() -> bool {
    root().join("cgroup.subtree_control").exists()
}
