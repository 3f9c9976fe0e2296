use std::time::Duration;

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> CommandLine {
    CommandLine::try_parse_from(line.split(' ')).unwrap()
}

fn refusal(line: &str) -> (u8, String) {
    let error = CommandLine::try_parse_from(line.split(' ')).unwrap_err();
    (exit_code_of(&error), error.to_string())
}

#[test]
fn the_definition_is_consistent() {
    CommandLine::command().debug_assert();
}

#[test]
fn trace_needs_nothing_and_takes_filters_of_every_kind() {
    let Command::Trace(args) = parse("reaper trace").command else { panic!() };
    assert_eq!((args.age.get(), args.duration), (Duration::from_secs(5), None));
    let Command::Trace(args) = parse(
        "reaper trace --age 250ms --pid 1 2 --pid 3 --comm sh --container 3f --cgroup /a /b --duration 1m30s",
    )
    .command
    else {
        panic!()
    };
    assert_eq!(args.age.get(), Duration::from_millis(250));
    assert_eq!(args.duration, Some(Span(Duration::from_secs(90))));
    assert_eq!((args.filter.pid, args.filter.cgroup.len()), (vec![1, 2, 3], 2));
}

#[test]
fn output_is_taken_before_and_behind_every_command() {
    for line in ["reaper --output json ls", "reaper ls --output json", "reaper config default --output json"]
    {
        assert_eq!(parse(line).output, Some(Output::Json), "{line}");
    }
    assert_eq!(parse("reaper check").output, None);
}

#[test]
fn every_scalar_key_is_a_flag_of_run() {
    let Command::Run(args) = parse(
        "reaper run --config f --age 1s --cgroup-cache 64 --pin-path /a --ledger-entries 512 --ledger-overflow 512 \
         --capture-cmdline off --origin-sites 16 --log-level warn --dry-run --pause-remedies --remedies-per-minute 1 \
         --remedies-per-holder 2 --terminate-grace 3s --max-pause 5ms",
    )
    .command
    else {
        panic!()
    };
    let config = crate::config::Config::default().with(&args.overrides, None);
    let text = "age = '1s'\ncgroup_cache = 64\nledger = { entries = 512, overflow = 512 }\ncapture.cmdline = 'off'\n\
                origin.sites = 16\nlog.level = 'warn'\npin_path = '/a'\n\
                remedy = { dry_run = true, paused = true, per_minute = 1, per_holder = 2, grace = '3s', max_pause = '5ms' }";
    assert_eq!(config, crate::config::Config::parse(std::path::Path::new("f"), text).unwrap());
    let Command::Run(args) = parse("reaper run --no-persist").command else { panic!() };
    assert!(!crate::config::Config::default().with(&args.overrides, None).persist);
}

#[test]
fn wrong_usage_exits_64_and_says_what_can_be_written() {
    for (line, part) in [
        ("reaper", "Usage"),
        ("reaper trance", "trace"),
        ("reaper trace --agee 5s", "--age"),
        ("reaper trace --age 5", "\"30s\""),
        ("reaper trace --age 50ms", "between 100ms and 24h"),
        ("reaper trace --pid x", "--pid"),
        ("reaper ls --output xml", "\"human\" and \"json\""),
        ("reaper config check", "<FILE>"),
        ("reaper run --ledger-entries 1000", "power of two"),
        ("reaper run --no-persist --pin-path /a", "--no-persist"),
        ("reaper unload --pin-path a", "path from the root"),
        ("reaper reap --yes", "--holder"),
        ("reaper reap 1 --max-pause 0s", "between 1ms and 100ms"),
        ("reaper reap 1 --cause lazy", "never-waited"),
        ("reaper reap 1 --undo-autoreap", "--holder"),
        ("reaper leaks xyz", "hexadecimal"),
        ("reaper explain", "<PID>"),
        ("reaper explain 0", "1..=4194304"),
        ("reaper leaks --since 5", "\"30s\""),
        ("reaper top --interval 5", "\"30s\""),
        ("reaper top --interval 100ms", "between 1s and 1h"),
        ("reaper reap 7 --only-holder 4700", "PID@START"),
        ("reaper leaks --folded --pprof -", "--pprof"),
    ] {
        let (code, text) = refusal(line);
        assert_eq!(code, exit_code::USAGE, "{line}");
        assert!(text.contains(part), "{line}: {text}");
    }
}

#[test]
fn help_and_version_are_no_errors_and_help_has_examples() {
    assert_eq!(refusal("reaper --version").0, exit_code::OK);
    for line in [
        "reaper --help",
        "reaper run --help",
        "reaper trace --help",
        "reaper ls -h",
        "reaper unload -h",
        "reaper reap -h",
        "reaper leaks -h",
        "reaper explain -h",
        "reaper top -h",
    ] {
        let (code, text) = refusal(line);
        assert_eq!(code, exit_code::OK, "{line}");
        assert!(text.contains("Examples:"), "{text}");
    }
}
