use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::{
    origin,
    report::{Event, LeaksEvent, Source, fixture},
    zombie::{Cause, Zombie},
};

fn head(what: What, message: &str) -> ExplanationEvent {
    let (pid, source) = (4712, Source::Daemon);
    ExplanationEvent { time: fixture::time(), pid, what, source, zombies: 1, message: message.into() }
}

fn explained(zombies: &[Zombie]) -> Explained {
    let (sites, now) = fixture::counted();
    let sites = LeaksEvent::list(&sites, None, now, &crate::names::Namer::default()).1;
    Explained {
        zombies: zombies.iter().map(fixture::shown).collect(),
        sites: sites.into_iter().filter(|site| site.total == 500).collect(),
        outlook: Some(fixture::outlook()),
        breakers: Vec::new(),
        headroom: Some(headroom::fixture::one()),
    }
}

fn text(what: What, explained: &Explained, width: usize) -> String {
    page(&head(what, "pid 4712 is a zombie"), explained, &Page { width: Some(width), colour: false })
}

#[test]
fn a_zombies_whole_story_is_a_page() {
    let zombie = Zombie { cause: Cause::NeverWaited, ..fixture::forked_at(origin::fixture::exact(42)) };
    let text = text(What::Zombie, &explained(&[zombie]), 100);
    for part in [
        "pid 4712 is a zombie\n",
        "Zombie     chrome (4712); dead for 5s; exit SIGSEGV\n",
        "Holder     tini (4700), state S, /usr/bin/tini --flag: it must wait\n",
        "Workload   pod 3f2a9c0d1e4b5a6978877665544332211000ffeeddccbbaa9988776655443322,",
        "Cause      never-waited: its holder forked it and does not wait for it\n",
        "Forked by  chrome ← chromedriver ← python3 /srv/crawl.py --all ← sh\n",
        "Stack      exact Python stack of python3 (4500)\n",
        "  > open_browser /srv/crawl.py:42\n",
        "Leak site  c699dddd, 447 of 500 stand; exact: open_browser crawl.py:42\n",
        "Rules      orphans decides; looked at again in 30s\n",
        "           reap from 1m30s on: refused: the holder was seen waiting for any child,",
        "What to do Wait where it is started: ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn without_a_daemon_it_says_what_is_not_known() {
    let mut zombie = fixture::predating();
    zombie.origin = None;
    let explained = Explained { zombies: vec![fixture::shown(&zombie)], ..Explained::default() };
    let text = text(What::Zombie, &explained, 100);
    for part in [
        "Forked by  not known: a daemon",
        "Rules      not known: no daemon was asked",
        "What to do Keep `reaper run`",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_holders_zombies_are_summarised() {
    let zombies: Vec<_> = [fixture::never_waited(), fixture::adopted(), fixture::never_waited()].into();
    let text = text(What::Holder, &explained(&zombies), 100);
    for part in [
        "Holder     app (4700), state S, /usr/bin/app --flag\n",
        "Causes     2 never-waited, 1 adopted\n",
        "Names      2 sh, 1 chrome\n",
        "Oldest     5s\n",
        "Waits      no wait seen in 2.5s\n",
        "Leak sites c699dddd, 447 of 500 stand; exact: open_browser crawl.py:42\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let many: Vec<_> = (0..9)
        .map(|number| Zombie { comm: format!("n{number}").as_str().into(), ..fixture::never_waited() })
        .collect();
    assert!(self::text(What::Holder, &explained(&many), 100).contains("1 n4, 4 more kinds\n"));
}

#[test]
fn what_is_no_zombie_is_a_line() {
    assert_eq!(text(What::Process, &Explained::default(), 80), "pid 4712 is a zombie\n");
}

#[test]
fn what_the_rules_say_is_told_apart() {
    let outlook = |change: fn(&mut OutlookEvent)| {
        let mut outlook = fixture::outlook();
        change(&mut outlook);
        self::outlook(&outlook)
    };
    assert!(outlook(|outlook| outlook.acts = false).starts_with("none does more than report"));
    assert!(outlook(|outlook| outlook.reported = false).starts_with("nothing is done about it before"));
    assert!(outlook(|outlook| outlook.rule = None).starts_with("none fits it"));
    assert!(outlook(|outlook| outlook.paused = true).contains("remedies are paused"));
    assert!(outlook(|outlook| outlook.dry_run = true).contains("dry run"));
    assert!(outlook(|outlook| outlook.under_way = true).contains("being done"));
}

#[test]
fn hostile_text_stays_in_its_lines_at_every_width() {
    for width in [60, 80, 120] {
        for zombie in fixture::all() {
            for what in [What::Zombie, What::Holder] {
                let text = text(what, &explained(std::slice::from_ref(&zombie)), width);
                assert!(text.lines().all(|line| line.width() <= width), "{width}\n{text}");
                assert!(
                    !text.replace('\n', "").chars().any(|c| c.is_control() || c == '\u{202e}'),
                    "{text:?}"
                );
            }
        }
    }
    assert!(matches!(fixture::explanations().remove(0), Event::Explanation(_)));
}
