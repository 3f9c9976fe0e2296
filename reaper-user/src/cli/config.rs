//! `reaper config`: is a file a configuration, and what would one look like.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

use super::args::ConfigCommand;
use crate::{
    config::{Config, ConfigError, Output, check_owner, shown},
    exit_code,
    report::SCHEMA,
    text::Untrusted,
};

/// What `reaper config check --output json` writes: one object.
#[derive(Debug, Serialize)]
struct Verdict {
    schema: u32,
    event: &'static str,
    file: Untrusted,
    ok: bool,
    line: Option<usize>,
    column: Option<usize>,
    key: Option<Untrusted>,
    /// What is wrong, or what the daemon would refuse the file for although its text is right.
    message: Option<String>,
}

/// Does what was asked for and returns the exit code. The answer goes to `out`, what is wrong to `complaints`.
/// Only writing to them can fail.
pub fn run(
    command: &ConfigCommand,
    output: Output,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> io::Result<u8> {
    match command {
        ConfigCommand::Default => {
            out.write_all(Config::default_toml().as_bytes())?;
            Ok(exit_code::OK)
        }
        ConfigCommand::Check { file } => check(file, output, out, complaints),
    }
}

fn check(file: &Path, output: Output, out: &mut dyn Write, complaints: &mut dyn Write) -> io::Result<u8> {
    let verdict = Config::load(file);
    // A file may be checked where it is written, by somebody who is not root: no error here, but one at start.
    let refused_at_start = match fs::metadata(file) {
        Ok(metadata) => check_owner(file, &metadata, 0).err(),
        Err(_) => None,
    };
    let error = verdict.as_ref().err();
    let code = if error.is_some() { exit_code::CONFIG } else { exit_code::OK };
    match output {
        Output::Json => {
            let position = error.and_then(ConfigError::position);
            let verdict = Verdict {
                schema: SCHEMA,
                event: "config",
                file: shown(file),
                ok: error.is_none(),
                line: position.map(|position| position.line),
                column: position.map(|position| position.column),
                key: error.and_then(ConfigError::key).cloned(),
                message: error.or(refused_at_start.as_ref()).map(ConfigError::to_string),
            };
            let line = serde_json::to_string(&verdict).map_err(io::Error::other)?;
            writeln!(out, "{line}")?;
        }
        Output::Human => {
            if let Some(error) = error {
                writeln!(complaints, "{error}")?;
            } else {
                writeln!(out, "{}: ok", shown(file))?;
            }
            if let Some(refused) = refused_at_start {
                writeln!(complaints, "note: `reaper run` will refuse it: {refused}")?;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn ask(command: &ConfigCommand, output: Output) -> (u8, String, String) {
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let code = run(command, output, &mut out, &mut complaints).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(complaints).unwrap())
    }

    fn check_text(text: &str, mode: u32, output: Output) -> (u8, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("reaper.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        ask(&ConfigCommand::Check { file }, output)
    }

    #[test]
    fn the_default_is_printed_and_passes_its_own_check() {
        let (code, out, _) = ask(&ConfigCommand::Default, Output::Human);
        assert_eq!(code, exit_code::OK);
        let (code, out, _) = check_text(&out, 0o600, Output::Human);
        assert_eq!(code, exit_code::OK);
        assert!(out.ends_with("reaper.toml: ok\n"), "{out}");
    }

    #[test]
    fn a_wrong_file_exits_78_and_says_where() {
        let (code, out, complaints) = check_text("age = '5 parsecs'", 0o600, Output::Human);
        assert_eq!((code, out.as_str()), (exit_code::CONFIG, ""));
        assert!(complaints.contains("reaper.toml:1:7: age: \"5 parsecs\" is not a duration"), "{complaints}");
    }

    #[test]
    fn a_right_file_that_others_may_write_is_ok_with_a_note() {
        let (code, out, complaints) = check_text("age = '5s'", 0o666, Output::Human);
        assert_eq!(code, exit_code::OK);
        assert!(
            out.ends_with(": ok\n") && complaints.starts_with("note: `reaper run` will refuse it: "),
            "{complaints}"
        );
    }

    #[test]
    fn the_verdict_can_be_read_by_a_program() {
        let (code, out, complaints) = check_text("\n[log]\nlevel = 'loud'", 0o600, Output::Json);
        assert_eq!((code, complaints.as_str()), (exit_code::CONFIG, ""));
        let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&verdict["ok"], &verdict["line"], &verdict["key"]),
            (&false.into(), &3.into(), &"log.level".into())
        );
    }
}
