//! A child process that obeys lines on its standard input and answers with JSON, one object a line.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::command;

/// Runs until it is dropped: its standard input ends, and it is waited for.
pub(super) struct Instrument {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What it said when it was ready.
    pub(super) ready: Value,
}

impl Instrument {
    /// Starts it and waits for its first line.
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Self> {
        Self::start_until(command, |_| true)
    }

    /// Starts it and waits for the line that says it is ready.
    pub(super) fn start_until(
        command: &mut Command,
        is_ready: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Self> {
        let name = command::line(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start `{name}`"))?;
        let input = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut instrument = Self { name, child, input, answers, ready: Value::Null };
        while !is_ready(&instrument.ready) || instrument.ready.is_null() {
            instrument.ready = instrument.answer()?;
        }
        Ok(instrument)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line and waits for the answer.
    pub(super) fn ask(&mut self, line: &str) -> anyhow::Result<Value> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").with_context(|| format!("`{}` does not listen", self.name))?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("`{}` ended: {}", self.name, self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("`{}` said {line:?}", self.name))
    }
}

impl Drop for Instrument {
    fn drop(&mut self) {
        drop(self.input.take());
        // Its last words must not block it.
        while self.answer().is_ok() {}
        if let Err(error) = self.child.wait() {
            eprintln!("bench: `{}`: {error}", self.name);
        }
    }
}

/// A number in an answer.
pub(super) fn number(answer: &Value, key: &str) -> anyhow::Result<f64> {
    answer[key].as_f64().with_context(|| format!("no number `{key}` in {answer}"))
}
