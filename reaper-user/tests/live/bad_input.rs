//! What is typed or written wrong: the exit code says which kind of wrong, the message what to do.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Command, Output},
};

use tempfile::NamedTempFile;

use crate::support::{assert_refused, reaper, run_briefly};

const USAGE: i32 = 64;
const CONFIG: i32 = 78;

fn ask(words: &[&str]) -> Output {
    run_briefly(Command::new(reaper()).args(words))
}

#[test]
fn an_unknown_flag_or_command_exits_64_and_names_what_there_is() {
    assert_refused(&ask(&["trace", "--agee", "5s"]), USAGE, &["--agee", "--age"]);
    assert_refused(&ask(&["trase"]), USAGE, &["trase", "trace"]);
    assert_refused(&ask(&[]), USAGE, &["Usage"]);
    assert_refused(&ask(&["trace", "--output", "xml"]), USAGE, &["human", "json"]);
    assert_refused(&ask(&["run", "--ledger-entries", "1000"]), USAGE, &["power of two"]);
}

#[test]
fn a_bad_duration_exits_64_and_says_what_one_looks_like() {
    for bad in ["5", "five", "-5s", "5 parsecs", "", "1ms", "99999999999999999999s"] {
        assert_refused(&ask(&["trace", &format!("--age={bad}")]), USAGE, &["--age"]);
    }
    assert_refused(&ask(&["trace", "--duration", "soon"]), USAGE, &["--duration"]);
}

fn config(text: &str) -> NamedTempFile {
    let file = NamedTempFile::with_suffix(".toml").unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn run_with(path: &Path) -> Output {
    ask(&["run", "--config", path.to_str().unwrap()])
}

#[test]
fn a_bad_configuration_exits_78_and_names_file_line_and_key() {
    for (text, parts) in [
        ("age = '5s'\nages = '5s'\n", &[":2:", "ages"][..]),
        ("\n\nage = 'five'\n", &[":3:", "age"]),
        ("[ledger]\nentries = 1000\n", &[":2:", "entries", "power of two"]),
        ("[log]\nlevel = 'loud'\n", &[":2:", "level"]),
        ("age = \n", &[":1:"]),
        ("age = '\u{1b}[31m'\n", &[":1:"]),
    ] {
        let file = config(text);
        let parts = [parts, &[file.path().to_str().unwrap()]].concat();
        assert_refused(&run_with(file.path()), CONFIG, &parts);
        let checked = ask(&["config", "check", file.path().to_str().unwrap()]);
        assert_refused(&checked, CONFIG, &parts);
        assert!(!checked.stderr.contains(&0x1b), "{checked:?}");
    }
    assert_refused(&run_with(Path::new("/nonexistent.toml")), CONFIG, &["/nonexistent.toml"]);
}

#[test]
fn a_configuration_that_others_may_write_is_refused() {
    let file = config("age = '5s'\n");
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o666)).unwrap();
    assert_refused(&run_with(file.path()), CONFIG, &[file.path().to_str().unwrap()]);
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    chown(file.path(), Some(65_534), None).unwrap();
    assert_refused(&run_with(file.path()), CONFIG, &[file.path().to_str().unwrap()]);
}

#[test]
fn the_default_configuration_passes_its_own_check() {
    let printed = ask(&["config", "default"]);
    assert!(printed.status.success(), "{printed:?}");
    let file = config(&String::from_utf8(printed.stdout).unwrap());
    let checked = ask(&["config", "check", file.path().to_str().unwrap()]);
    assert!(checked.status.success(), "{checked:?}");
}
