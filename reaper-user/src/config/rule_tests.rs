use std::{path::Path, time::Duration};

use super::*;
use crate::{remedy::Remedy, zombie::Cause};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/reaper.toml"), text)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

const REAP: &str = "steps = [{ remedy = 'reap', after = '90s' }]";

#[test]
fn adopted_may_be_reaped_by_a_rule_of_one_line() {
    let config =
        parse(r#"rule = [{ match.cause = "adopted", steps = [{ remedy = "reap", after = "90s" }] }]"#)
            .unwrap();
    let [rule] = config.rules.as_slice() else { panic!("{config:?}") };
    assert_eq!((rule.name.as_str(), rule.when.causes.as_slice()), ("rule[1]", &[Cause::Adopted][..]));
    let step = rule.step(Remedy::Reap).unwrap();
    assert_eq!(step.after, Duration::from_secs(90));
    assert!(rule.acts() && !rule.parent_may_miss_status);
}

#[test]
fn a_step_may_come_sooner_where_little_is_left() {
    let rules = |value: &str| {
        format!(
            "[[rule]]\nmatch.cause = 'adopted'\nsteps = [{{ remedy = 'reap', after = '90s', headroom_below = {value} }}]\n"
        )
    };
    let config = parse(&rules("'20%'")).unwrap();
    let below = config.rules[0].steps[0].headroom_below.unwrap();
    assert!((below.part() - 0.2).abs() < 1e-9);
    for wrong in ["'0%'", "'100%'", "'20'", "20", "'-5%'", "'a%'", "'20.5%'", "''"] {
        let told = refusal(&rules(wrong));
        assert!(told.contains("/etc/reaper.toml:3") && told.contains("\"20%\""), "{told}");
        assert!(told.contains("headroom_below"), "{told}");
    }
    let told = refusal("[[rule]]\nsteps = [{ remedy = 'report', after = '90s', headroom_below = '20%' }]");
    assert!(told.contains("reaper.toml:2") && told.contains("headroom_below"), "{told}");
}

#[test]
fn a_rule_is_read_with_all_that_it_can_say() {
    let config = parse(
        r#"
        [[rule]]
        name = "all"
        match = { kind = ["pod", "container"], pod = "8dbc*", container = "3f*", unit = "*.scope", uid = [0, 1000], age = "1h",
                  cgroup = "/kubepods.slice/**", cause = ["never-waited", "adopted"], executable = "/usr/bin/python3" }
        steps = [
            { remedy = "report", after = "30s" },
            { remedy = "nudge", after = "60s" },
            { remedy = "reap", after = "60s" },
            { remedy = "terminate-holder", after = "1h" },
        ]
        parent_may_miss_status = true
        allow_interrupted_wait = true
        may_end_container = true
        per_minute = 3

        [[rule]]
        match.executable = "/opt/app"
        steps = [{ remedy = "autoreap", after = "1m" }]
        "#,
    )
    .unwrap();
    let [all, autoreap] = config.rules.as_slice() else { panic!("{config:?}") };
    assert_eq!((all.name.as_str(), all.steps.len(), all.per_minute), ("all", 4, Some(3)));
    assert_eq!((all.when.uids.as_slice(), all.when.age), (&[0, 1000][..], Some(Duration::from_secs(3600))));
    assert!(all.parent_may_miss_status && all.allow_interrupted_wait && all.may_end_container);
    assert_eq!(autoreap.name.as_str(), "rule[2]");
}

#[test]
fn a_bad_rule_is_refused_with_file_line_and_key() {
    for (text, start, part) in [
        (
            "[[rule]]\nsteps = [{ remedy = 'restart', after = '1s' }]",
            "2:21: rule[1].steps[1].remedy:",
            "\"restart\" is not known here: write one of \"report\", \"nudge\", \"reap\"",
        ),
        (
            "[[rule]]\nsteps = [\n  { remedy = 'reap', after = '2m' },\n  { remedy = 'nudge', after = '3m' },\n]",
            "4:14: rule[1].steps[2].remedy:",
            "nudge stands behind reap",
        ),
        (
            "[[rule]]\nsteps = [\n  { remedy = 'nudge', after = '2m' },\n  { remedy = 'reap', after = '1m' },\n]",
            "4:30: rule[1].steps[2].after:",
            "1m comes before the step above it (2m)",
        ),
        ("[[rule]]\nsteps = []", "2:9: rule[1].steps:", "a rule needs a step"),
        ("[[rule]]\nname = 'a'", "1:1: rule", "missing field `steps`"),
        (
            "\n[[rule]]\nsteps = [{ remedy = 'report', after = '1s', before = '2s' }]",
            "3:45: rule[1].steps[1].before:",
            "unknown key",
        ),
        (
            "[[rule]]\nsteps = [{ remedy = 'report', after = '5' }]",
            "2:39: rule[1].steps[1].after:",
            "not a duration",
        ),
        (
            "[[rule]]\nsteps = [{ remedy = 'report', after = '1s' }]\n\n[[rule]]\nmatch.cause = 'lazy'\nsteps = [{ remedy = 'report', after = '1s' }]",
            "5:15: rule[2].match.cause:",
            "\"lazy\" is not known here",
        ),
        (
            "[[rule]]\nsteps = [{ remedy = 'report', after = '1s' }]\nmatch = { cgroup = 'a**b' }",
            "3:20: rule[1].match.cgroup:",
            "is not a pattern",
        ),
        (
            "[[rule]]\nsteps = [{ remedy = 'report', after = '1s' }]\nmatch = { unit = [] }",
            "3:18: rule[1].match.unit:",
            "fits nobody",
        ),
        (
            "[[rule]]\nsteps = [{ remedy = 'report', after = '1s' }]\nmatch = { namespace = 'a**b' }",
            "3:23: rule[1].match.namespace:",
            "is not a pattern",
        ),
        (
            "[[rule]]\nsteps = [{ remedy = 'report', after = '1s' }]\nmatch = { labels = { app = 'a**b' } }",
            "3:28: rule[1].match.labels.app:",
            "is not a pattern",
        ),
        (
            "[[rule]]\nsteps = [{ remedy = 'report', after = '1s' }]\nmatch = { labels = {} }",
            "3:20: rule[1].match.labels:",
            "write a label",
        ),
        (
            "[[rule]]\nname = 'a'\nsteps = [{ remedy = 'report', after = '1s' }]\n[[rule]]\nname = 'a'\nsteps = [{ remedy = 'report', after = '1s' }]",
            "5:8: rule[2].name:",
            "rule[1] has this name already",
        ),
        (
            "[[rule]]\nper_minute = 0\nsteps = [{ remedy = 'report', after = '1s' }]",
            "2:14: rule[1].per_minute:",
            "0 is out of range",
        ),
        ("[remedy]\nper_minute = 0", "2:14: remedy.per_minute:", "between 1 and 6000"),
        (
            "[remedy]\nmax_pause = '0.9ms'",
            "2:13: remedy.max_pause:",
            "0.9ms is out of range: write a duration between 1ms and 100ms",
        ),
        ("[remedy]\nmax_pause = '101ms'", "2:13: remedy.max_pause:", "101ms is out of range"),
        ("[remedy]\nmax_pause = 2", "2:13: remedy.max_pause:", "is not a duration"),
        ("[remedy]\ngrace = '11m'", "2:9: remedy.grace:", "11m is out of range: write a duration up to 10m"),
    ] {
        let told = refusal(text);
        assert!(told.starts_with(&format!("/etc/reaper.toml:{start}")), "{text}\n{told}");
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn causes_that_are_never_reaped_and_those_that_need_consent_are_refused_at_the_cause() {
    for cause in Cause::ALL {
        let rule = |more: &str| format!("[[rule]]\nmatch.cause = '{}'\n{REAP}\n{more}", cause.as_str());
        let consented = "parent_may_miss_status = true";
        let at_cause = "/etc/reaper.toml:2:15: rule[1].match.cause: ";
        match cause {
            Cause::Adopted => {
                parse(&rule("")).unwrap();
                // A consent that nobody needs is a mistake.
                let told = refusal(&rule(consented));
                assert!(told.contains(":4:26: rule[1].parent_may_miss_status: needs a match"), "{told}");
            }
            Cause::Inherited | Cause::NeverWaited | Cause::Unknown => {
                let told = refusal(&rule(""));
                assert!(
                    told.starts_with(at_cause) && told.contains("write parent_may_miss_status = true"),
                    "{told}"
                );
                parse(&rule(consented)).unwrap();
            }
            Cause::HeldByTracer
            | Cause::NamespaceDying
            | Cause::HolderStopped
            | Cause::NotificationCoalesced => {
                for more in ["", consented] {
                    let told = refusal(&rule(more));
                    assert!(told.starts_with(at_cause) && told.contains("are never reaped"), "{told}");
                }
            }
        }
    }
    // Without a cause only adopted ones are reaped, and there is nothing to consent to.
    parse(&format!("[[rule]]\n{REAP}")).unwrap();
    assert!(refusal(&format!("[[rule]]\n{REAP}\nparent_may_miss_status = true")).contains("names the cause"));
}

#[test]
fn terminate_holder_needs_a_match_that_names_somebody() {
    for when in [
        "",
        "match = {}",
        "match.cgroup = '/**'",
        "match.unit = '*'",
        "match.container = ['abc', '*']",
        "match.kind = 'pod'",
        "match.cause = 'adopted'",
        "match.uid = 0",
    ] {
        let told =
            refusal(&format!("[[rule]]\n{when}\nsteps = [{{ remedy = 'terminate-holder', after = '1h' }}]"));
        assert!(told.starts_with("/etc/reaper.toml:3:21: rule[1].steps[1].remedy: "), "{told}");
        assert!(told.contains("needs a match that names somebody"), "{told}");
    }
    for when in ["match.cgroup = '/kubepods.slice/**'", "match.unit = 'crawler-*.service'"] {
        parse(&format!("[[rule]]\n{when}\nsteps = [{{ remedy = 'terminate-holder', after = '1h' }}]"))
            .unwrap();
    }
}

#[test]
fn autoreap_names_its_holder_and_stands_alone() {
    for (when, step, part) in [
        ("match.kind = 'pod'", "", "whole path and no wildcard"),
        ("match.executable = '/opt/*'", "", "whole path and no wildcard"),
        ("match.executable = '/opt/a'", "{ remedy = 'nudge', after = '1s' }, ", "a rule of its own"),
    ] {
        let told =
            refusal(&format!("[[rule]]\n{when}\nsteps = [{step}{{ remedy = 'autoreap', after = '1h' }}]"));
        assert!(told.contains("rule[1].steps[") && told.contains(part), "{told}");
    }
}

#[test]
fn a_flag_for_a_remedy_that_the_rule_has_not_is_refused() {
    let report = "[[rule]]\nsteps = [{ remedy = 'report', after = '1h' }]\n";
    for flag in ["parent_may_miss_status", "allow_interrupted_wait", "may_end_container"] {
        let told = refusal(&format!("{report}{flag} = true"));
        assert!(
            told.starts_with("/etc/reaper.toml:3:") && told.contains(&format!("rule[1].{flag}: is for")),
            "{told}"
        );
        parse(&format!("{report}{flag} = false")).unwrap();
    }
}

#[test]
fn the_examples_in_the_printed_default_are_right() {
    let text = Config::default_toml();
    let (_, examples) = text.split_once("# [[rule]]").unwrap();
    let (table, rest) = examples.split_once("# In one line:\n# ").unwrap();
    let table: Vec<_> = table.lines().map(|line| line.strip_prefix("# ").unwrap_or_default()).collect();
    let config = parse(&format!("[[rule]]{}", table.join("\n"))).unwrap();
    assert_eq!((config.rules.len(), config.rules[0].steps.len()), (1, 3));
    assert_eq!(parse(rest.lines().next().unwrap()).unwrap().rules.len(), 1);
}
