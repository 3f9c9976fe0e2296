//! Child processes: what is run is said, and a failing command line is in the error.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read as _, Write as _},
    process::{Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::root;

/// Runs to the end with the terminal's streams. Anything but success is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    run_until(command, None)
}

/// Like [`run`], but ends the command and all it started when the deadline passes, where there is one.
pub(crate) fn run_until(command: &mut Command, deadline: impl Into<Option<Instant>>) -> anyhow::Result<()> {
    finish(command, deadline.into()).map(drop)
}

/// Runs to the end and returns its standard output, trimmed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    output_until(command, None)
}

/// Like [`output`], with a deadline as [`run_until`] has it.
pub(crate) fn output_until(
    command: &mut Command,
    deadline: impl Into<Option<Instant>>,
) -> anyhow::Result<String> {
    let output = finish(command.stdin(Stdio::null()).stdout(Stdio::piped()), deadline.into())?;
    let text = String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something that is not UTF-8", line(command)))?;
    Ok(text.trim().to_owned())
}

/// Like [`run_until`], and returns its standard output, which is shown too, also where the command fails. `line` is called
/// with each line of it when its end has come.
pub(crate) fn run_and_read_until(
    command: &mut Command,
    deadline: impl Into<Option<Instant>>,
    mut line: impl FnMut(&str) + Send,
) -> (String, anyhow::Result<()>) {
    let (mut theirs, ours) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return (String::new(), Err(error).context("could not make a pipe")),
    };
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut text = Vec::new();
            let mut chunk = [0; 4096];
            let mut begins = 0;
            while let Ok(length @ 1..) = theirs.read(&mut chunk) {
                let chunk = chunk.get(..length).unwrap_or_default();
                text.extend_from_slice(chunk);
                // Who does not look is told at the end all the same.
                let mut stdout = io::stdout().lock();
                let _closed = stdout.write_all(chunk).and_then(|()| stdout.flush());
                begins = each_line(&text, begins, &mut line);
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        let result = finish(command.stdout(ours), deadline.into()).map(drop);
        // The command keeps its copy of the pipe's end, and with it the reader.
        command.stdout(Stdio::inherit());
        (reader.join().unwrap_or_default(), result)
    })
}

/// Calls it with each complete line from there on, and returns where the line begins that is not complete.
fn each_line(text: &[u8], mut begins: usize, mut line: impl FnMut(&str)) -> usize {
    let fresh = text.get(begins..).unwrap_or_default();
    for complete in fresh.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        begins += complete.len();
        line(String::from_utf8_lossy(complete).trim_end());
    }
    begins
}

fn finish(command: &mut Command, deadline: Option<Instant>) -> anyhow::Result<Output> {
    let child = command.spawn().with_context(|| format!("could not start `{}`", line(command)))?;
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || sender.send(child.wait_with_output()));
    let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
    let (late, output) = match receiver.recv_timeout(left) {
        Ok(output) => (false, output),
        Err(_) => {
            let ended = end(pid);
            // Nobody else holds the sender, so this returns when the child is gone.
            let output = receiver.recv().context("the waiting thread is gone")?;
            ended?;
            (true, output)
        }
    };
    let _already_sent = waiter.join();
    let output = output.with_context(|| format!("could not wait for `{}`", line(command)))?;
    if late {
        bail!("out of time: `{}` was ended", line(command));
    }
    succeeded(command, output.status)?;
    Ok(output)
}

fn succeeded(command: &Command, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Ends a process and its descendants. They share our process group, so that Ctrl-C reaches them, and so the
/// group cannot be what is killed.
fn end(pid: u32) -> anyhow::Result<()> {
    let pids = descendants(pid)?;
    let mut kill = root::command_if_possible("sh");
    // The ones that ended in between are no failure.
    kill.args(["-c", "kill -KILL \"$@\" || :", "sh"]).args(pids.iter().map(u32::to_string));
    run(kill.stderr(Stdio::null()))
}

fn descendants(top: u32) -> anyhow::Result<Vec<u32>> {
    let mut edges = Vec::new();
    for entry in fs::read_dir("/proc").context("could not list /proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended in between has no stat.
        if let Some(parent) = fs::read(entry.path().join("stat")).ok().and_then(|stat| parent(&stat)) {
            edges.push((parent, pid));
        }
    }
    Ok(reachable(top, &edges))
}

/// The fourth field; the second, the name in parentheses, may itself contain spaces and parentheses.
fn parent(stat: &[u8]) -> Option<u32> {
    let name_ends = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_ends + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn reachable(top: u32, edges: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![top];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        for &(_, child) in edges.iter().filter(|&&(of, _)| of == parent) {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found
}

/// The command as one would type it, with the variables it sets.
pub(crate) fn line(command: &Command) -> String {
    let variables =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(value?))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    // Between the flags in CARGO_ENCODED_RUSTFLAGS, invisible on a terminal; bash reads it back in $'…'.
    if word.contains('\u{1f}') {
        return format!("$'{}'", word.replace('\\', r"\\").replace('\'', r"\'").replace('\u{1f}', r"\x1f"));
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `0.4s`, `12s`, `4m12s`.
pub(crate) fn human(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds}s"),
        seconds => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_line_is_in_the_error() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'exit 3'` failed: exit status: 3");
    }

    #[test]
    fn a_command_past_its_deadline_is_ended_with_what_it_started() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let error = run_until(&mut command, started + Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.starts_with("out of time"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_is_read_comes_with_a_deadline_or_without() {
        let mut command = Command::new("echo");
        command.arg("text");
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(output(&mut command).unwrap(), output_until(&mut command, deadline).unwrap());
        let error = output_until(Command::new("sleep").arg("600"), Instant::now()).unwrap_err().to_string();
        assert!(error.starts_with("out of time"), "{error}");
    }

    #[test]
    fn lines_are_told_when_they_are_complete() {
        let mut lines = Vec::new();
        let mut begins = 0;
        for text in ["one\ntwo\nthr", "one\ntwo\nthree", "one\ntwo\nthree\n"] {
            begins = each_line(text.as_bytes(), begins, |line| lines.push(line.to_owned()));
            lines.push("-".to_owned());
        }
        assert_eq!(lines, ["one", "two", "-", "-", "three", "-"]);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_parent() {
        assert_eq!(parent(b"17 (a) R 99 (b) S 4 17 17 0"), Some(4));
        assert_eq!(parent(b"17 (cut"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_others_are_not() {
        assert_eq!(reachable(2, &[(1, 2), (2, 3), (3, 4), (1, 5), (5, 6)]), [2, 3, 4]);
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        let mut command = Command::new("env");
        command.args(["it's", "", "plain=1"]).env("FLAGS", "--cfg\u{1f}a=\"b\"");
        assert_eq!(line(&command), r#"FLAGS=$'--cfg\x1fa="b"' env 'it'\''s' '' plain=1"#);
    }

    #[test]
    fn durations_are_short() {
        let texts = [400, 12_000, 252_000].map(|ms| human(Duration::from_millis(ms)));
        assert_eq!(texts, ["0.4s", "12s", "4m12s"]);
    }
}
