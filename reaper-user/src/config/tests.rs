use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/reaper.toml"), text)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_printed_default_is_the_default() {
    assert_eq!(parse(Config::default_toml()).unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn the_printed_default_names_every_key() {
    let text = Config::default_toml();
    for key in [
        "age",
        "output",
        "cgroup_cache",
        "persist",
        "pin_path",
        "entries",
        "overflow",
        "cmdline",
        "sites",
        "cri",
        "docker",
        "podman",
        "systemd",
        "events",
        "node_zombies",
        "node",
        "apart",
        "kubeconfig",
        "level",
        "listen",
        "label_sets",
        "dry_run",
        "paused",
        "per_minute",
        "per_holder",
        "grace",
        "max_pause",
    ] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
}

#[test]
fn values_are_read_with_their_types() {
    let config = parse(
        r#"
        age = "1m30s"
        output = "json"
        cgroup_cache = "64"
        persist = false
        pin_path = "/sys/fs/bpf//elsewhere/"
        ledger = { entries = 512, overflow = 512 }
        capture.cmdline = "all"
        log.level = "debug"
        "#,
    )
    .unwrap();
    assert_eq!(config.age.get(), Duration::from_secs(90));
    assert_eq!(config.output, Output::Json);
    assert_eq!(config.cgroup_cache.get(), 64);
    assert_eq!((config.persist, config.pins()), (false, None));
    assert_eq!(config.pin_path.get(), Path::new("/sys/fs/bpf/elsewhere"));
    assert_eq!((config.ledger.entries, config.ledger.overflow.get()), (Slots::Count(512), 512));
    assert_eq!(config.capture.cmdline, Cmdlines::All);
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn a_bad_duration_names_file_line_column_key_value_and_an_example() {
    let message = refusal("# first\nage = \"5\"\n");
    assert!(message.starts_with(r#"/etc/reaper.toml:2:7: age: "5" is not a duration"#), "{message}");
    assert!(message.contains("30s"), "{message}");
}

#[test]
fn a_key_in_a_table_is_named_with_its_table() {
    let message = refusal("[ledger]\noverflow = 20\nentries = 1000\n");
    assert!(
        message.starts_with(r#"/etc/reaper.toml:3:11: ledger.entries: "1000" is not a number of slots"#),
        "{message}"
    );
    assert!(message.contains("power of two"), "{message}");
    assert!(refusal("ledger = { entries = 1000 }").contains("1:22: ledger.entries:"));
    assert!(refusal("ledger.entries = 1000").contains("1:18: ledger.entries:"));
}

#[test]
fn an_unknown_key_is_an_error_that_lists_the_known_ones() {
    let message = refusal("agee = \"5s\"");
    assert!(
        message.starts_with("/etc/reaper.toml:1:1: agee: unknown key `agee`, expected one of `age`"),
        "{message}"
    );
    let message = refusal("\n[ledger]\nslots = 3");
    assert!(message.starts_with("/etc/reaper.toml:3:1: ledger.slots: unknown key `slots`"), "{message}");
}

#[test]
fn values_out_of_range_say_the_range() {
    for (text, part) in [
        ("age = '99ms'", "99ms is out of range: write a duration between 100ms and 24h"),
        ("age = '24h1ms'", "1d1ms is out of range"),
        ("ledger.entries = 32", "between 64 and 4194304"),
        ("ledger.overflow = 15", "\"15\" is out of range: write a whole number between 16 and 4194304"),
        ("ledger.overflow = -1", "\"-1\" is out of range"),
        ("cgroup_cache = 99999999999", "between 64 and 1048576"),
        ("output = 'xml'", "\"xml\" is not known here: write one of \"human\" and \"json\""),
        ("persist = 'yes'", "persist: invalid type: string \"yes\", expected a boolean"),
        ("pin_path = 'bpf/reaper'", "pin_path: \"bpf/reaper\" is not a path from the root"),
        ("pin_path = '/sys/../etc'", "is not a path from the root: write one without `..`"),
        ("pin_path = '/'", "\"/sys/fs/bpf/reaper\""),
        ("origin.sites = 15", "\"15\" is out of range: write a whole number between 16 and 65536"),
        (
            "metrics.listen = 'localhost:80'",
            "metrics.listen: \"localhost:80\" is not an address to listen at",
        ),
        ("metrics.listen = 9464", "such as \"127.0.0.1:9464\", \"auto\", or \"off\""),
        ("metrics.label_sets = 15", "between 16 and 65536"),
        ("log.level = 'loud'", "\"trace\""),
        ("names.cri = 'run/x.sock'", "\"run/x.sock\" is not a socket: write \"auto\", \"off\", or its path"),
        ("capture.cmdline = true", "expected a string or a whole number"),
        ("age = 1.5", "expected a string or a whole number"),
        ("ledger = 3", "ledger: invalid type"),
    ] {
        assert!(refusal(text).contains(part), "{}", refusal(text));
    }
}

#[test]
fn text_that_is_not_toml_says_where() {
    let message = refusal("age = \"30s\"\noutput = \n");
    assert!(message.starts_with("/etc/reaper.toml:2:"), "{message}");
    assert!(refusal("age = '5s'\nage = '6s'").starts_with("/etc/reaper.toml:2:1: duplicate key"));
}

#[test]
fn an_error_is_one_line_without_control_characters() {
    for text in ["age = \"\\u001b[2J\\n\"", "\"a\\u001b\\n\" = 3", "x = [\n1,\n2"] {
        let message = refusal(text);
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
}

#[test]
fn auto_slots_follow_pid_max_up_to_a_bound() {
    assert_eq!(Slots::Auto.resolve(32_768), 32_768);
    assert_eq!(Slots::Auto.resolve(32_769), 65_536);
    assert_eq!(Slots::Auto.resolve(4_194_304), 131_072);
    assert_eq!(Slots::Auto.resolve(1), 64);
    assert_eq!(Slots::Count(256).resolve(4_194_304), 256);
}

#[test]
fn a_flag_wins_over_the_file_and_only_where_it_is_given() {
    let file = parse("age = '10s'\nledger.overflow = 32").unwrap();
    let flags = Overrides { age: Some("1s".parse().unwrap()), ..Overrides::default() };
    let config = file.with(&flags, Some(Output::Json));
    assert_eq!((config.age.get(), config.ledger.overflow.get()), (Duration::from_secs(1), 32));
    assert_eq!(config.output, Output::Json);
    assert_eq!(config.clone().with(&Overrides::default(), None), config);
}

#[test]
fn pins_are_where_the_file_or_the_flag_says_unless_there_shall_be_none() {
    let pins = |text: &str, flags: Overrides| parse(text).unwrap().with(&flags, None).pins();
    let none = || Overrides { no_persist: true, ..Overrides::default() };
    let elsewhere = || Overrides { pin_path: Some("/b".parse().unwrap()), ..Overrides::default() };
    assert_eq!(pins("", Overrides::default()), Some("/sys/fs/bpf/reaper".into()));
    assert_eq!(pins("pin_path = '/a'", Overrides::default()), Some("/a".into()));
    assert_eq!(pins("pin_path = '/a'", elsewhere()), Some("/b".into()));
    assert_eq!(pins("pin_path = '/a'", none()), None);
    assert_eq!(pins("persist = false", elsewhere()), None);
}

#[test]
fn the_keys_that_differ_are_named() {
    let all = "age = '1s'\noutput = 'json'\ncgroup_cache = 64\npersist = false\npin_path = '/a'\n\
               ledger = { entries = 64, overflow = 64 }\ncapture.cmdline = 'off'\ncapture.fork_hook = false\norigin.sites = 16\norigin.native = 'all'\nlog.level = 'warn'\n\
               remedy = { dry_run = true, paused = true, per_minute = 1, per_holder = 1, grace = '1s', max_pause = '1ms' }\n\
               rule = [{ steps = [{ remedy = 'report', after = '1m' }] }]";
    let keys = parse(all).unwrap().differences(&Config::default());
    assert_eq!(
        keys,
        [
            "age",
            "output",
            "cgroup_cache",
            "persist",
            "pin_path",
            "ledger.entries",
            "ledger.overflow",
            "capture.cmdline",
            "capture.fork_hook",
            "origin.sites",
            "origin.native",
            "log.level",
            "remedy.dry_run",
            "remedy.paused",
            "remedy.per_minute",
            "remedy.per_holder",
            "remedy.grace",
            "remedy.max_pause",
            "rule"
        ]
    );
    assert!(parse("").unwrap().differences(&Config::default()).is_empty());
}

#[test]
fn a_file_that_others_may_write_is_refused_with_the_command_that_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("reaper.toml");
    fs::write(&path, "age = '10s'").unwrap();
    let me = fs::metadata(&path).unwrap().uid();
    for (mode, fine) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let verdict = check_owner(&path, &fs::metadata(&path).unwrap(), me);
        assert_eq!(verdict.is_ok(), fine, "{mode:o}");
        if let Err(error) = verdict {
            let told = error.to_string();
            assert!(told.contains(&format!("{mode:04o}")) && told.contains("chmod go-w /"), "{told}");
        }
    }
    let told = check_owner(&path, &fs::metadata(&path).unwrap(), me + 1).unwrap_err().to_string();
    assert!(told.contains(&format!("belongs to user {me}")) && told.contains("chown root:root /"), "{told}");
}

#[test]
fn what_cannot_be_a_configuration_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.toml");
    assert!(matches!(Config::load(&missing), Err(ConfigError::Read { .. })));
    assert!(matches!(Config::load(directory.path()), Err(ConfigError::NotAFile { .. })));
    let large = directory.path().join("large.toml");
    fs::write(&large, vec![b'#'; 1_048_577]).unwrap();
    assert!(matches!(Config::load(&large), Err(ConfigError::TooLarge { .. })));
    let binary = directory.path().join("binary.toml");
    fs::write(&binary, b"age = '\xff'").unwrap();
    assert!(Config::load(&binary).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn events_without_anybody_who_knows_the_pods_names_are_refused() {
    let text = "[kubernetes]\nnode_zombies = 5\nevents = true\n[names]\ncri = \"off\"\n";
    let refused = refusal(text);
    assert!(refused.starts_with("/etc/reaper.toml:3:") && refused.contains("kubernetes.events"), "{refused}");
    assert!(parse(&text.replace("true", "false")).is_ok());
}
