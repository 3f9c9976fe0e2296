//! Zombies to report in tests: one for each cause, and some that are difficult.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    event::{Event, Process, Seconds, ZombieEvent},
    explanation::{ExplanationEvent, OutlookEvent, OutlookStep, StepStanding, What},
    listing::Source,
    remedied::{BreakerEvent, Outcome, RemedyEvent, State},
    site::{LeaksEvent, SiteEvent},
};
use crate::{
    identity::{BootTime, Identity},
    names::{Named, Namer, Names},
    origin::{self, Leak, Moment, Origin, Sites, Without},
    policy::{Opened, Refusal, Scope, Trip},
    remedy::Remedy,
    text::Untrusted,
    workload::{Kind, Runtime, Workload},
    zombie::{
        Asked, Cause, Died, Evidence, ExitStatus, Forker, Party, Reap, Relation, Sigchld, Waits, Zombie,
    },
};

const DIED: BootTime = BootTime(1_000_000_000_000);
const NOW: BootTime = BootTime(1_005_042_000_000);
const RELEASED: BootTime = BootTime(1_012_100_000_000);

/// How a workload stands to its limits: the one of [`never_waited`].
pub(crate) fn headroom() -> super::HeadroomEvent {
    super::headroom::fixture::one()
}

pub(crate) fn time() -> Timestamp {
    "2026-02-03T14:03:07.25Z".parse().unwrap()
}

pub(super) fn event(zombie: &Zombie) -> Event {
    Event::zombie(zombie, NOW, time())
}

pub(crate) fn shown(zombie: &Zombie) -> ZombieEvent {
    ZombieEvent::new(zombie, NOW, time())
}

pub(super) fn released(zombie: &Zombie) -> Event {
    Event::released(zombie, RELEASED, None, time())
}

/// Released by the process `pid`, which was seen.
pub(super) fn reaped(zombie: &Zombie, pid: u32) -> Event {
    let reap = Reap { at: RELEASED, pid, comm: "tini".into() };
    Event::released(zombie, RELEASED, Some(reap), time())
}

fn party(pid: u32, comm: &str) -> Party {
    Party {
        pid,
        start: Some(BootTime(u64::from(pid) * 1_000)),
        comm: Some(comm.into()),
        cmdline: Some(format!("/usr/bin/{comm} --flag").as_str().into()),
        state: Some('S'),
    }
}

pub(crate) fn never_waited() -> Zombie {
    let holder = party(4700, "app");
    Zombie {
        identity: Identity { pid: 4712, start: BootTime(999_000_000_123) },
        ns_pid: Some(7),
        comm: "sh".into(),
        cmdline: Some("sh -c exit".into()),
        died: Died::At(DIED),
        exit: ExitStatus::Code(0),
        forker: Some(Forker { party: holder.clone(), relation: Relation::Holder }),
        cause: Cause::NeverWaited,
        evidence: Evidence {
            parent_at_fork: Some(Identity { pid: 4700, start: BootTime(4_700_000) }),
            sigchld: Some(Sigchld::Delivered),
            holder_state_at_probation: Some('S'),
            holder_exec_since_fork: Some(false),
            pid_ns: Some(4_026_532_000),
            waits: Some(Waits {
                watched: Duration::from_millis(2_500),
                any: 0,
                one: 0,
                last_ago: None,
                last_number: None,
                asked: Asked::No,
                longest: Some(Duration::from_millis(2_500)),
            }),
            ..Evidence::default()
        },
        holder,
        workload: Workload {
            kind: Kind::Pod,
            id: Some("3f2a9c0d1e4b5a6978877665544332211000ffeeddccbbaa9988776655443322".into()),
            runtime: Some(Runtime::Containerd),
            pod_uid: Some("5f1c3d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f".into()),
            unit: Some("cri-containerd-3f2a.scope".into()),
            cgroup: Some("/kubepods.slice/kubepods-pod5f1c.slice/cri-containerd-3f2a.scope".into()),
        },
        named: Named::Nobody,
        origin: None,
        predates: false,
        recovered: false,
    }
}

pub(crate) fn adopted() -> Zombie {
    let dead = Party { start: None, cmdline: None, state: None, ..party(4600, "chromedriver") };
    Zombie {
        comm: "chrome".into(),
        cmdline: None,
        exit: ExitStatus::Signal { number: 11, core: true },
        holder: party(4700, "tini"),
        forker: Some(Forker { party: dead, relation: Relation::Gone }),
        cause: Cause::Adopted,
        evidence: Evidence {
            parent_at_fork: Some(Identity { pid: 4600, start: BootTime(4_600_000) }),
            ..Evidence::default()
        },
        ..never_waited()
    }
}

pub(super) fn traced() -> Zombie {
    let evidence = Evidence { tracer: Some(party(4712, "gdb")), ..never_waited().evidence };
    Zombie { cause: Cause::HeldByTracer, evidence, ..never_waited() }
}

pub(super) fn inherited() -> Zombie {
    let evidence = Evidence { holder_exec_since_fork: Some(true), ..never_waited().evidence };
    Zombie { cause: Cause::Inherited, evidence, ..never_waited() }
}

pub(super) fn coalesced() -> Zombie {
    let waits = Waits {
        watched: Duration::from_secs(2),
        any: 3,
        one: 4,
        last_ago: Some(Duration::from_millis(1_500)),
        last_number: Some(4800),
        asked: Asked::No,
        longest: None,
    };
    let evidence =
        Evidence { sigchld: Some(Sigchld::Coalesced), waits: Some(waits), ..never_waited().evidence };
    Zombie { cause: Cause::NotificationCoalesced, evidence, ..never_waited() }
}

pub(super) fn stopped(state: char) -> Zombie {
    let holder = Party { state: Some(state), ..party(4700, "app") };
    let evidence = Evidence { holder_state_at_probation: Some(state), ..never_waited().evidence };
    Zombie { holder, cause: Cause::HolderStopped, evidence, ..never_waited() }
}

pub(super) fn namespace_dying() -> Zombie {
    let init = Identity { pid: 4700, start: BootTime(4_700_000) };
    let evidence = Evidence { namespace_init: Some(init), ..never_waited().evidence };
    Zombie { cause: Cause::NamespaceDying, evidence, ..never_waited() }
}

/// Older than the daemon, and its holder vanished while it was looked at.
pub(super) fn predating() -> Zombie {
    Zombie {
        ns_pid: None,
        died: Died::Before(BootTime(NOW.0 - 252_000_000_000)),
        predates: true,
        holder: Party { pid: 4700, start: None, comm: None, cmdline: None, state: None },
        forker: None,
        cause: Cause::Unknown,
        evidence: Evidence::default(),
        workload: Workload {
            kind: Kind::Host,
            id: None,
            runtime: None,
            pod_uid: None,
            unit: None,
            cgroup: None,
        },
        ..never_waited()
    }
}

pub(super) fn suspended() -> Zombie {
    Zombie { died: Died::About(DIED), ..never_waited() }
}

/// Forked by a runtime with CLONE_PARENT.
pub(super) fn forked_by_another() -> Zombie {
    Zombie {
        forker: Some(Forker { party: party(4650, "runc"), relation: Relation::Other }),
        ..never_waited()
    }
}

/// What a runtime calls a workload.
pub(crate) fn names() -> Names {
    Names {
        namespace: Some("crawlers".into()),
        pod: Some("fetcher-7c9d".into()),
        container: Some("fetcher".into()),
        image: Some("registry.example/fetcher:1.4".into()),
        labels: vec![("app".into(), "fetcher".into()), ("tier".into(), "edge".into())],
        ..Names::default()
    }
}

/// Its names are known.
pub(crate) fn named(names: Names) -> Zombie {
    Zombie { named: Named::As(names.into()), ..never_waited() }
}

/// Its origin is known.
pub(crate) fn forked_at(origin: Origin) -> Zombie {
    Zombie { origin: Some(origin), ..adopted() }
}

/// Every text is as bad as a container can make it.
pub(crate) fn hostile() -> Zombie {
    let bad = || Untrusted::new("\x1b[2J\u{202e}\n".as_bytes());
    let long = Untrusted::new("进程\u{9b}\r\"\\'".repeat(40).as_bytes());
    let party = |pid| Party { comm: Some(bad()), cmdline: Some(long.clone()), ..party(pid, "") };
    Zombie {
        comm: bad(),
        cmdline: Some(long.clone()),
        origin: Some(origin::fixture::hostile()),
        holder: party(4_194_303),
        forker: Some(Forker { party: party(4_194_302), relation: Relation::Gone }),
        cause: Cause::HeldByTracer,
        evidence: Evidence { tracer: Some(party(4_194_301)), ..coalesced().evidence },
        workload: Workload {
            kind: Kind::Container,
            id: Some(long.clone()),
            runtime: None,
            pod_uid: None,
            unit: Some(bad()),
            cgroup: Some(long.clone()),
        },
        named: Named::As(
            Names {
                namespace: Some(bad()),
                pod: Some(long.clone()),
                container: Some(bad()),
                image: Some(long.clone()),
                description: Some(bad()),
                ..Names::default()
            }
            .into(),
        ),
        ..never_waited()
    }
}

pub(super) fn all() -> Vec<Zombie> {
    vec![
        never_waited(),
        adopted(),
        traced(),
        inherited(),
        coalesced(),
        stopped('T'),
        namespace_dying(),
        predating(),
        suspended(),
        forked_by_another(),
        hostile(),
        named(names()),
        forked_at(origin::fixture::exact(42)),
        forked_at(origin::fixture::approximate()),
        forked_at(origin::fixture::lineage_only()),
        forked_at(origin::fixture::predating()),
    ]
}

/// A remedy with each outcome, and each that there is.
pub(super) fn remedies() -> Vec<Event> {
    let zombies = [adopted(), hostile()];
    let refusal = Refusal::WaitSeen;
    let event = |remedy, outcome| {
        let refusal = (outcome == Outcome::Refused).then_some(&refusal);
        let rule = Some(Untrusted::from("orphans"));
        let zombies: Vec<_> = zombies.iter().collect();
        let event = RemedyEvent::new(remedy, rule.as_ref(), false, refusal, &zombies, time()).unwrap();
        RemedyEvent { outcome, ..event }
    };
    let outcomes =
        [Outcome::Applied, Outcome::Refused, Outcome::Planned, Outcome::NoEffect, Outcome::HolderDied];
    let mut events: Vec<_> = outcomes.map(|outcome| event(Remedy::Reap, outcome)).into();
    let applied = &mut events[0];
    applied.after = Some(State { zombies: 0, holder: Some('S') });
    (applied.pause_us, applied.stops) = (Some(120), 1);
    applied.message = "2 of 2 are gone".into();
    for zombie in &mut applied.zombies {
        (zombie.gone, zombie.status_taken) = (Some(true), true);
    }
    let mut ended = event(Remedy::TerminateHolder, Outcome::Applied);
    ended.signals = vec!["SIGTERM".into(), "SIGKILL".into()];
    ended.after = Some(State { zombies: 0, holder: None });
    ended.rule = None;
    events.push(ended);
    events.extend(Remedy::ALL.map(|remedy| event(remedy, Outcome::Planned)));
    events.into_iter().map(|event| Event::Remedy(Box::new(event))).collect()
}

/// Sites of five kinds, counted during ten minutes.
pub(crate) fn counted() -> (Sites, Moment) {
    let at = |seconds: u64| Moment {
        boot: NOW.plus(Duration::from_secs(seconds)),
        wall: time() + Duration::from_secs(seconds),
    };
    let mut sites = Sites::new(8, at(0));
    let workload = never_waited().workload;
    let origins = [
        (origin::fixture::hostile(), 1),
        (origin::fixture::predating(), 2),
        (origin::fixture::lineage_only(), 3),
        (origin::fixture::approximate(), 40),
        (origin::fixture::exact(42), 500),
    ];
    let mut zombie = 0;
    for (origin, count) in &origins {
        for number in 0..*count {
            zombie += 1;
            let leak = Leak { zombie, comm: &"chrome".into(), origin, workload: &workload };
            sites.add(leak, at(count + number / 5 * 5));
        }
    }
    for zombie in 0..100 {
        sites.remove(zombie);
    }
    sites.set_without(Without { unrecognized: 3, missed: 1 });
    (sites, at(1_000))
}

/// The same as events: an exact one, an approximate one, one without a stack, one that predates, one that is as bad as can be.
pub(crate) fn sites() -> Vec<SiteEvent> {
    let (sites, now) = counted();
    LeaksEvent::list(&sites, None, now, &Namer::default()).1
}

/// A rule has passed one step, and another one was refused.
pub(super) fn outlook() -> OutlookEvent {
    let step = |remedy, after: u64, standing, refusal: Option<&Refusal>| OutlookStep {
        remedy,
        after_seconds: Seconds(Duration::from_secs(after)),
        standing,
        reason: refusal.map(|refusal| refusal.as_str().into()),
        message: refusal.map(|refusal| refusal.to_string().as_str().into()),
    };
    OutlookEvent {
        time: time(),
        pid: 4712,
        start_time: BootTime(999_000_000_123),
        reported: true,
        acts: true,
        dry_run: false,
        paused: false,
        rule: Some("orphans".into()),
        steps: vec![
            step(Remedy::Nudge, 60, StepStanding::Passed, None),
            step(Remedy::Reap, 90, StepStanding::Refused, Some(&Refusal::WaitSeen)),
            step(Remedy::TerminateHolder, 600, StepStanding::Ahead, None),
        ],
        under_way: false,
        queued_behind: None,
        again_seconds: Some(Seconds(Duration::from_secs(30))),
    }
}

/// Every kind of thing that a pid can be, and what the rules say.
pub(super) fn explanations() -> Vec<Event> {
    let head = |what| ExplanationEvent {
        time: time(),
        pid: 4712,
        what,
        source: Source::Daemon,
        zombies: 1,
        message: "pid 4712 is a zombie".into(),
    };
    let mut events: Vec<_> = [What::Zombie, What::Holder, What::Process, What::None]
        .map(|what| Event::Explanation(Box::new(head(what))))
        .into();
    let none = OutlookEvent { rule: None, steps: Vec::new(), again_seconds: None, ..outlook() };
    events.extend([outlook(), none].map(|outlook| Event::Outlook(Box::new(outlook))));
    events
}

/// A list of leak sites with its head; with a span and without.
pub(super) fn leaks() -> Vec<Event> {
    let (sites, now) = counted();
    let mut events = Vec::new();
    for since in [None, Some(Duration::from_secs(60)), Some(Duration::from_secs(100 * 86_400))] {
        let (head, sites) = LeaksEvent::list(&sites, since, now, &Namer::default());
        events.push(Event::Leaks(Box::new(head)));
        events.extend(sites.into_iter().map(|site| Event::LeakSite(Box::new(site))));
    }
    events
}

/// A breaker of each kind.
pub(super) fn breakers() -> Vec<Event> {
    let opened =
        |scope, remedy, trip| Opened { scope, remedy, trip, until: NOW.plus(Duration::from_secs(3_600)) };
    [
        opened(Scope::Rule, None, Trip::HolderDied),
        opened(Scope::Holder, Some(Remedy::Nudge), Trip::NoEffect),
        opened(Scope::Rule, Some(Remedy::Nudge), Trip::NoEffect),
        opened(Scope::Holder, None, Trip::NoEffect),
    ]
    .into_iter()
    .map(|opened| {
        let holder = Process::from(&adopted().holder);
        let event = BreakerEvent::new(opened, &"orphans".into(), Remedy::Nudge, holder, NOW, time());
        Event::Breaker(Box::new(event))
    })
    .collect()
}
