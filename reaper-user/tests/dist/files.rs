//! The files of target/dist, by the programs that are to read them.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::{dist, output, read, validators};

const STATIC: &str = "x86_64-unknown-linux-gnu/reaper";

/// Of each shell: what makes it load a file, and say what it completes `reaper` with.
const SHELLS: [(&str, &str, &str); 3] = [
    ("bash", "reaper.bash", "source \"$1\" && complete -p reaper"),
    (
        "zsh",
        "_reaper",
        // Without a dump: root's would be moved to whatever file was named for it, /dev/null included.
        "autoload -Uz compinit && compinit -u -D; source \"$1\"; print reaper $_comps[reaper]",
    ),
    ("fish", "reaper.fish", "source $argv[1]; complete -C 'reaper '"),
];

#[test]
fn every_file_has_its_sum() {
    let sums =
        output(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(dist()));
    for file in [STATIC, "reaper.oci.tar", "man/reaper.1", "completions/_reaper"] {
        assert!(sums.contains(&format!("{file}: OK")), "{sums}");
    }
}

#[test]
fn the_binary_is_static_and_has_the_version() {
    let reaper = dist().join(STATIC);
    let version = output(Command::new(&reaper).arg("--version"));
    assert_eq!(version.trim(), concat!("reaper ", env!("CARGO_PKG_VERSION")));
    let headers = output(Command::new("readelf").arg("--program-headers").arg(&reaper));
    assert!(headers.contains("LOAD") && !headers.contains("INTERP"), "{headers}");
    let sections = output(Command::new("readelf").args(["--sections", "--wide"]).arg(&reaper));
    assert!(!sections.contains(".debug_info"), "{sections}");
}

#[test]
fn every_command_has_a_man_page_that_man_can_read() {
    let folder = dist().join("man");
    let help = output(Command::new(dist().join(STATIC)).arg("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        // What goes on in a second line stands further in.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect();
    assert!(commands.len() > 5, "{help}");
    let pages = commands.iter().map(|name| format!("reaper-{name}.1")).chain(["reaper.1".to_owned()]);
    for page in pages {
        // What apropos(1) knows of a page: it fails where the page has no name and no purpose.
        let said = output(Command::new("lexgrog").arg(folder.join(&page)));
        assert!(said.contains(&format!("\"{} - ", page.trim_end_matches(".1"))), "{said}");
        let mut man = Command::new("man");
        let shown =
            output(man.args(["--warnings", "--local-file"]).arg(folder.join(&page)).env("MANWIDTH", "100"));
        assert!(shown.contains("SYNOPSIS"), "{page}:\n{shown}");
    }
}

#[test]
fn shells_load_their_completions() {
    for (shell, file, script) in SHELLS {
        let mut command = Command::new(shell);
        match shell {
            "bash" => command.args(["--norc", "-c", script, "bash"]),
            "zsh" => command.args(["-f", "-c", script, "zsh"]),
            _ => command.args(["--no-config", "-c", script]),
        };
        let said = output(command.arg(dist().join("completions").join(file)));
        let wanted = if shell == "fish" { "explain" } else { "_reaper" };
        assert!(said.contains(wanted), "{shell}: {said}");
    }
}

#[test]
fn the_list_of_components_is_valid_and_names_what_is_linked_in() {
    let list = dist().join("reaper-x86_64-unknown-linux-gnu.cdx.json");
    let script = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read())
sys.exit(str(error) if error else 0)";
    let validate = |file: &Path| {
        let mut python = Command::new(validators("python"));
        python
            .args(["-c", script])
            .stdin(fs::File::open(file).expect("it was made"))
            .output()
            .expect("it runs")
    };
    let said = validate(&list);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let document: serde_json::Value = serde_json::from_str(&read(&list)).expect("JSON");
    let listed: Vec<String> = document["components"]
        .as_array()
        .expect("components")
        .iter()
        .map(|component| format!("{}-{}", text(&component["name"]), text(&component["version"])))
        .collect();
    // The binary itself says where it panics, and with that of which crates it is.
    let binary = fs::read(dist().join(STATIC)).expect("it was made");
    let linked = crates_in(&binary);
    assert!(linked.len() > 20, "{linked:?}");
    for name in linked {
        assert!(listed.contains(&name), "{name} is in the binary and not in the list");
    }
    // What only tests use is not.
    for name in ["jsonschema-", "zbus-", "proptest-", "tempfile-"] {
        assert!(!listed.iter().any(|listed| listed.starts_with(name)), "{name}");
    }
    // The validator can say no.
    let wrong = tempfile::NamedTempFile::new().expect("a file");
    fs::write(wrong.path(), read(&list).replacen("\"library\"", "\"book\"", 1)).expect("a file");
    assert!(!validate(wrong.path()).status.success());
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().expect("a text")
}

/// `name-version` of each crate whose source a binary names: `…/registry/src/INDEX/NAME-VERSION/src/…`.
fn crates_in(binary: &[u8]) -> BTreeSet<String> {
    const PLACE: &[u8] = b"/registry/src/";
    let places = binary.windows(PLACE.len()).enumerate().filter(|(_, bytes)| *bytes == PLACE);
    places
        .filter_map(|(at, _)| {
            let rest = &binary[at + PLACE.len()..];
            let mut folders = rest.get(..200).unwrap_or(rest).split(|byte| *byte == b'/').skip(1);
            String::from_utf8(folders.next()?.to_vec()).ok()
        })
        .collect()
}
