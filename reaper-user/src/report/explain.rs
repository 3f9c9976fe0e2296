//! `reaper explain` for people: one zombie's whole story, or what a holder holds.

use std::{collections::BTreeMap, time::Duration};

use super::{
    advice::{advice, meaning},
    columns::wrap,
    event::{Process, Seconds, ZombieEvent},
    evidence,
    explanation::{Explained, ExplanationEvent, OutlookEvent, What},
    headroom, human, numbered,
    reporter::Page,
    site::SiteEvent,
    span::shown,
};
/// Columns of a page whose width is not known.
const WIDTH: usize = 100;

/// The text stands behind this.
const INDENT: usize = 11;

/// Kinds of one thing that are named, at most.
const KINDS: usize = 5;

/// The page.
pub(super) fn page(head: &ExplanationEvent, explained: &Explained, page: &Page) -> String {
    let mut lines = Lines { lines: Vec::new(), width: page.width.unwrap_or(WIDTH) };
    lines.lines.extend(wrap("", head.message.as_str(), 2, lines.width));
    match (head.what, explained.zombies.as_slice()) {
        (What::Zombie, [zombie, ..]) => zombie_page(&mut lines, zombie, explained),
        (What::Holder, zombies) => holder_page(&mut lines, zombies, explained),
        _ => {}
    }
    lines.lines.join("\n") + "\n"
}

struct Lines {
    lines: Vec<String>,
    width: usize,
}

impl Lines {
    fn say(&mut self, label: &str, text: &str) {
        self.lines.extend(wrap(&format!("{label:<INDENT$}"), text, INDENT, self.width));
    }
}

fn zombie_page(lines: &mut Lines, zombie: &ZombieEvent, explained: &Explained) {
    lines.say("Zombie", &format!("{}; {}; exit {}", command(zombie), age(zombie), human::exit(zombie.exit)));
    lines.say("Holder", &format!("{}: it must wait", process(&zombie.holder)));
    lines.say("Workload", &zombie.workload.whole());
    lines.say("Cause", &format!("{}: {}", zombie.cause.as_str(), meaning(zombie.cause)));
    let said = evidence::sentences(zombie);
    if !said.is_empty() {
        lines.say("Evidence", &said.join("; "));
    }
    match &zombie.origin {
        Some(origin) => {
            lines.say("Forked by", &origin.chain_text(&zombie.comm));
            lines.say("Stack", &origin.quality_text());
            let stack = origin.stack.iter().flat_map(|stack| stack.lines(lines.width));
            let stack: Vec<_> = stack.collect();
            lines.lines.extend(stack);
        }
        None => lines.say("Forked by", "not known: a daemon records it at the fork"),
    }
    for site in &explained.sites {
        lines.say("Leak site", &site_text(site));
    }
    match &explained.outlook {
        Some(outlook) => rules(lines, outlook),
        None => lines.say("Rules", "not known: no daemon was asked"),
    }
    headroom_of(lines, explained);
    for breaker in &explained.breakers {
        lines.say("Breaker", breaker.message.as_str());
    }
    for (number, line) in advice(zombie).iter().enumerate() {
        lines.say(if number == 0 { "What to do" } else { "" }, line);
    }
}

fn holder_page(lines: &mut Lines, zombies: &[ZombieEvent], explained: &Explained) {
    let Some(first) = zombies.first() else { return };
    lines.say("Holder", &process(&first.holder));
    lines.say("Workload", &first.workload.whole());
    lines.say("Causes", &counted(zombies, |zombie| zombie.cause.as_str().to_owned()));
    lines.say("Names", &counted(zombies, |zombie| zombie.comm.to_string()));
    let oldest = zombies.iter().filter_map(|zombie| zombie.age_seconds.or(zombie.age_at_least)).max();
    if let Some(Seconds(oldest)) = oldest {
        lines.say("Oldest", &shown(oldest));
    }
    if let Some(waits) = zombies.iter().find_map(|zombie| zombie.evidence.waits.as_ref()) {
        lines.say("Waits", &evidence::waits(waits));
    }
    for (number, site) in explained.sites.iter().take(KINDS).enumerate() {
        lines.say(if number == 0 { "Leak sites" } else { "" }, &site_text(site));
    }
    if let Some(more) = explained.sites.len().checked_sub(KINDS).filter(|more| *more > 0) {
        lines.say("", &format!("and {more} more: reaper leaks"));
    }
    headroom_of(lines, explained);
    for breaker in &explained.breakers {
        lines.say("Breaker", breaker.message.as_str());
    }
    lines.say(
        "More",
        &format!(
            "reaper explain {} tells all of one of them; reaper ls --pid {}",
            first.pid, first.holder.pid
        ),
    );
}

fn headroom_of(lines: &mut Lines, explained: &Explained) {
    let sentences = explained.headroom.iter().flat_map(headroom::sentences);
    // The first is about its zombies, which the rest of the page tells better.
    for (number, line) in sentences.skip(1).enumerate() {
        lines.say(if number == 0 { "Headroom" } else { "" }, &line);
    }
}

/// How many there are of each kind, the most frequent first.
fn counted(zombies: &[ZombieEvent], kind: impl Fn(&ZombieEvent) -> String) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for zombie in zombies {
        *counts.entry(kind(zombie)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut texts: Vec<_> =
        counts.iter().take(KINDS).map(|(kind, count)| format!("{count} {kind}")).collect();
    if let Some(more) = counts.len().checked_sub(KINDS).filter(|more| *more > 0) {
        texts.push(numbered(more, "more kind", "more kinds"));
    }
    texts.join(", ")
}

/// What the rules say, in a line.
pub(super) fn outlook(outlook: &OutlookEvent) -> String {
    let OutlookEvent {
        reported, acts, dry_run, paused, rule, under_way, queued_behind, again_seconds, ..
    } = outlook;
    let text = match (acts, reported, rule) {
        (false, ..) => "none does more than report (reaper config default says what one can do)".to_owned(),
        (true, false, _) => "nothing is done about it before it is reported".to_owned(),
        (true, true, None) => "none fits it by now".to_owned(),
        (true, true, Some(rule)) => format!("{rule} decides"),
    };
    let mut more = Vec::new();
    if *acts && *paused {
        more.push("remedies are paused".to_owned());
    }
    if *acts && *dry_run {
        more.push("it is only said what would be done (dry run)".to_owned());
    }
    if *under_way {
        more.push("something is being done about it now".to_owned());
    }
    more.extend(again_seconds.map(|Seconds(again)| match queued_behind {
        None => format!("looked at again in {}", shown(again)),
        Some(0) => format!("its turn is next, in about {}", shown(again)),
        Some(before) => {
            format!("{before} more of its holder come before it, its turn in about {}", shown(again))
        }
    }));
    std::iter::once(text).chain(more).collect::<Vec<_>>().join("; ")
}

fn rules(lines: &mut Lines, outlook: &OutlookEvent) {
    lines.say("Rules", &self::outlook(outlook));
    for step in &outlook.steps {
        let why = step.message.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let after = shown(step.after_seconds.0);
        lines.say("", &format!("{} from {after} on: {}{why}", step.remedy, step.standing.as_str()));
    }
}

fn command(zombie: &ZombieEvent) -> String {
    match &zombie.cmdline {
        Some(cmdline) => format!("{} ({}), {cmdline}", zombie.comm, zombie.pid),
        None => format!("{} ({})", zombie.comm, zombie.pid),
    }
}

fn age(zombie: &ZombieEvent) -> String {
    match (zombie.age_seconds, zombie.age_at_least) {
        (Some(Seconds(age)), _) => format!("dead for {}", shown(age)),
        (None, Some(Seconds(age))) if age > Duration::ZERO => format!("dead for at least {}", shown(age)),
        _ => "dead since before it was looked at".to_owned(),
    }
}

fn process(process: &Process) -> String {
    let Process { pid, comm, cmdline, state, .. } = process;
    let name = comm.as_ref().map_or_else(|| format!("pid {pid}, gone"), |comm| format!("{comm} ({pid})"));
    let state = state.map(|state| format!(", state {state}")).unwrap_or_default();
    let cmdline = cmdline.as_ref().map(|line| format!(", {line}")).unwrap_or_default();
    format!("{name}{state}{cmdline}")
}

fn site_text(site: &SiteEvent) -> String {
    let SiteEvent { site: id, standing, total, .. } = site;
    let place = super::leaks::place(site, 60);
    format!("{id}, {standing} of {total} stand; {place}")
}

#[cfg(test)]
mod tests;
