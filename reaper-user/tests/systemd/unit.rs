//! The unit, by systemctl and journalctl.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// What is waited for longer than this does not come. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIGURATION: &str = "/etc/reaper/reaper.toml";

/// Additions of the tests, which go with the machine.
const ADDITIONS: &str = "/run/systemd/system/reaper.service.d";

/// The deployed addition for remedies.
const REMEDIES: &str = "/vm/remedies.conf";

/// The unit, from a clean state. It is stopped at the end.
pub(crate) struct Unit {
    /// Where the journal stood.
    cursor: String,
}

impl Unit {
    /// With this configuration and these lines more in its `[Service]`.
    pub(crate) fn configured(configuration: &str, service: &[&str]) -> Self {
        assert!(
            Path::new("/vm/boot").exists(),
            "this test needs a machine of its own: cargo xtask vm --systemd"
        );
        must("systemctl", &["stop", "reaper"]);
        run("systemctl", &["reset-failed", "reaper"]);
        run("reaper", &["unload"]);
        match fs::remove_dir_all(ADDITIONS) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{ADDITIONS}: {error}"),
            _ => {}
        }
        fs::create_dir_all(ADDITIONS).expect("a tmpfs");
        let addition = format!("[Service]\n{}\n", service.join("\n"));
        fs::write(Path::new(ADDITIONS).join("test.conf"), addition).expect("a tmpfs");
        must("systemctl", &["daemon-reload"]);
        let last = text(&must("journalctl", &["--lines=0", "--show-cursor", "--quiet"]));
        let cursor =
            last.lines().find_map(|line| line.strip_prefix("-- cursor: ")).expect("a cursor").to_owned();
        let unit = Self { cursor };
        unit.configure(configuration);
        unit
    }

    /// Writes its configuration.
    pub(crate) fn configure(&self, configuration: &str) {
        fs::create_dir_all("/etc/reaper").expect("the root is in memory");
        fs::write(CONFIGURATION, configuration).expect("the root is in memory");
    }

    /// With the addition that is deployed for remedies. What the test has added comes after it, by its name.
    pub(crate) fn with_remedies(&self) {
        fs::copy(REMEDIES, Path::new(ADDITIONS).join("remedies.conf")).expect("it is in the machine");
        must("systemctl", &["daemon-reload"]);
    }

    pub(crate) fn start(&self) {
        assert!(self.try_start(), "{}\n{}", self.journal(), text(&run("systemctl", &["status", "reaper"])));
        assert_eq!(property("ActiveState"), "active");
    }

    /// Returns when it has said that it is ready, or has ended.
    pub(crate) fn try_start(&self) -> bool {
        run("systemctl", &["start", "reaper"]).status.success()
    }

    pub(crate) fn pid(&self) -> u32 {
        property("MainPID").parse().expect("a pid")
    }

    /// What it has said since it was configured.
    pub(crate) fn journal(&self) -> String {
        let after = format!("--after-cursor={}", self.cursor);
        text(&run("journalctl", &["--unit=reaper", "--output=cat", "--quiet", "--all", &after]))
    }

    /// Waits until it has said this.
    pub(crate) fn says(&self, what: &str) {
        self.until(what, || self.journal().contains(what));
    }

    /// Waits for its report of a zombie that this process, or one below it, has forked.
    pub(crate) fn zombie_of(&self, forker: u32) -> Value {
        self.found(&format!("a zombie of {forker}"), || {
            self.events().into_iter().find(|event| {
                let mut chain = event["origin"]["chain"].as_array().into_iter().flatten();
                event["event"] == "zombie" && chain.any(|process| process["pid"] == forker)
            })
        })
    }

    /// The events that it has told since it was configured.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.journal().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until this holds.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        self.found(what, || holds().then_some(()));
    }

    /// Waits until there is one.
    pub(crate) fn found<T>(&self, what: &str, find: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = find() {
                return found;
            }
            assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}\n{}", self.journal());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        run("systemctl", &["stop", "reaper"]);
    }
}

/// A unit with zombies, until its standard input ends.
pub(crate) struct Leak {
    name: String,
    _input: UnixListener,
}

impl Leak {
    /// One that was never waited for.
    pub(crate) fn start(name: &str) -> Self {
        Self::of(name, &["standing", "1"])
    }

    /// What `churn` leaks that is told this.
    pub(crate) fn of(name: &str, arguments: &[&str]) -> Self {
        let (unit, socket) = (format!("--unit={name}"), format!("/run/{name}.input"));
        let input = UnixListener::bind(&socket).expect("a tmpfs");
        let stdin = format!("--property=StandardInput=file:{socket}");
        let description = format!("--description=Leaks – {name}, for a test");
        let run = ["--quiet", "--collect", &unit, &description, &stdin, "/bin/churn"];
        must("systemd-run", &[&run, arguments].concat());
        Self { name: name.to_owned(), _input: input }
    }

    pub(crate) fn pid(&self) -> u32 {
        property_of(&self.name, "MainPID").parse().expect("a pid")
    }

    pub(crate) fn end(self) {
        must("systemctl", &["stop", &self.name]);
    }
}

/// What systemd says of the unit.
pub(crate) fn property(name: &str) -> String {
    property_of("reaper", name)
}

pub(crate) fn property_of(unit: &str, name: &str) -> String {
    text(&must("systemctl", &["show", "--value", "--property", name, unit])).trim().to_owned()
}

pub(crate) fn must(program: &str, arguments: &[&str]) -> Output {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
