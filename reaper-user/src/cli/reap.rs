//! `reaper reap`: lets holders wait for their zombies, by hand. In this process, under the lock that the daemon takes too, with
//! the same safety: whoever is protected or has opted out is left alone, and the holders' wait calls are watched before.

mod known;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use reaper_ebpf::WaitProfile;

use self::known::{Known, have_watched, is_of, known, learn, left, reap_times};
use super::{Failure, args::ReapArgs, ls, start_log, written};
use crate::{
    config::{Config, LogLevel, Output},
    control::{self, ControlError},
    exit_code,
    identity::{BootTime, Identity},
    kernel::{Kernel, boot_now},
    lock::directory,
    names,
    observe::{self, Answer, Request, Scene},
    policy::{Case, Match, Refusal, Rule, Step, Waited, allows},
    proc::{Seen, ticks},
    remedy::{
        Deed, Guard, Handle, Holder, Injector, Options, Order, Remedy, Target, Warrant, apply, take_lock,
    },
    report::{Event, Outcome, RemedyEvent, Reporter, ShownWorkload, State, numbered},
    text::Untrusted,
    watch::{Describer, Numbers, waited, waits},
    zombie::{Cause, Waits, Zombie},
};

/// How long zombies that were waited for may take to be freed.
const FREED: Duration = Duration::from_secs(2);

/// A zombie that is meant, and what was seen of it and its holder.
struct Found {
    zombie: Zombie,
    scene: Box<Scene>,
    holder: Holder,
}

/// Does it, or says what would be done.
pub(super) fn run(args: &ReapArgs, output: Output) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let (mut describer, records) = ls::look(names(args)?)?;
    let mut reporter = Reporter::stdout(output).without_head();
    if args.undo_autoreap {
        return undo(args, &describer);
    }
    let (found, others) = find(args, &mut describer, &records, &known())?;
    let (mut done, mut refused) = (true, false);
    for pid in &args.pids {
        if found.iter().any(|found| found.zombie.identity.pid == *pid) {
            continue;
        }
        refused = true;
        match others.get(pid).map(|cause| cause.as_str()) {
            Some(cause) => tracing::warn!(
                pid,
                "it is left alone: its cause is {cause}, and not what --cause names; `reaper explain {pid}` says more"
            ),
            None => tracing::warn!(pid, "there is no such zombie"),
        }
    }
    let unknown = never_waited(args, &found);
    // Who only asks what would be done has nothing done by the daemon either.
    let is_watched = !args.dry_run && have_watched(&unknown, args.watch.0);
    let seen_waits = watch(args.watch.0, &found, &mut describer)?;
    // While this command watched, a holder may have waited for a child that had stood for longer than any before.
    let known = known();
    let rule = rule(args);
    let mut allowed: BTreeMap<Identity, Vec<&Zombie>> = BTreeMap::new();
    let mut refusals: BTreeMap<(Identity, &'static str), (Refusal, Vec<&Zombie>)> = BTreeMap::new();
    for Found { zombie, scene, holder } in &found {
        let own = seen_waits.get(&zombie.holder.pid).map(|seen| seen.of(zombie, scene, &describer.kernel));
        let seen = |waits| waited(waits, args.watch.0);
        // What the daemon saw counts as well.
        let waited = match seen(zombie.evidence.waits) {
            Waited::Unwatched(_) | Waited::ForOthers => seen(own),
            waited => waited,
        };
        let reap_times = known
            .get(&(zombie.identity.pid, zombie.identity.start))
            .filter(|event| is_of(event, zombie))
            .and_then(reap_times);
        let case = Case { zombie, holder, waited, reap_times, free: None, refused: &[] };
        // Without a ledger its start is known in ticks.
        let is_it = |is: Identity, only: Identity| is.pid == only.pid && ticks(is.start) == ticks(only.start);
        let is_other =
            args.only_holder.is_some_and(|only| !holder.identity.is_some_and(|is| is_it(is, only)));
        let of = holder.identity.unwrap_or(Identity { pid: zombie.holder.pid, start: BootTime(0) });
        let verdict = if is_other {
            Err(Refusal::IdentityChanged)
        } else {
            allows(Remedy::Reap, &rule, case, zombie.died.age(boot_now()))
        };
        match verdict {
            Ok(()) => allowed.entry(of).or_default().push(zombie),
            Err(refusal) => {
                let alike = refusals.entry((of, refusal.as_str())).or_insert((refusal, Vec::new()));
                alike.1.push(zombie);
            }
        }
    }
    for (refusal, zombies) in refusals.values() {
        refused = true;
        let of_daemon =
            zombies.first().and_then(|zombie| known.get(&(zombie.identity.pid, zombie.identity.start)));
        if let (Refusal::ReapTimeUnknown, true, Some(left)) = (refusal, is_watched, of_daemon.and_then(left))
        {
            tracing::warn!(
                holder = zombies.first().map(|zombie| zombie.holder.pid),
                "the daemon watches it from now on, and knows more in {left}: say this again then, or with --watch {left}"
            );
        }
        report(&mut reporter, refused_event(args.dry_run, refusal, zombies))?;
    }
    if !args.dry_run && !allowed.is_empty() && !args.yes && !confirmed(&allowed)? {
        return Ok(exit_code::REFUSED);
    }
    let mut injector = Injector::of_this_program(describer.proc.clone());
    for (holder, zombies) in &allowed {
        let event = RemedyEvent::new(Remedy::Reap, None, args.dry_run, None, zombies, Timestamp::now());
        let Some(event) = event else { continue };
        if args.dry_run {
            report(&mut reporter, Some(event))?;
            continue;
        }
        let event = act(args, &describer, &mut injector, *holder, zombies, event);
        done &= event.outcome == Outcome::Applied && event.after.is_some_and(|after| after.zombies == 0);
        report(&mut reporter, Some(event))?;
    }
    if found.is_empty() && output == Output::Human && args.pids.is_empty() {
        let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
        for cause in others.values() {
            *causes.entry(cause.as_str()).or_default() += 1;
        }
        let causes: Vec<_> = causes.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
        let others = if causes.is_empty() {
            String::new()
        } else {
            format!(", but {}: see --cause", causes.join(", "))
        };
        writeln!(io::stdout(), "no zombie is meant{others}").map_err(written)?;
    }
    Ok(if done && !refused { exit_code::OK } else { exit_code::REFUSED })
}

/// Who is asked for names: who the configuration says, else whom the daemon asks, so that both know workloads by the same names and
/// both see who has opted out by a label.
fn names(args: &ReapArgs) -> Result<names::Settings, Failure> {
    if let Some(path) = &args.config {
        let config = Config::load_trusted(path);
        return config
            .map(|config| config.names.settings())
            .map_err(|error| Failure::new(exit_code::CONFIG, error.to_string()));
    }
    match control::setup(&control::socket()) {
        Ok(setup) => Ok(setup.names),
        Err(ControlError::NoDaemon(_)) => Ok(names::Settings::default()),
        Err(error) => {
            tracing::warn!(
                "{error}; asking for names where runtimes usually listen (--config says where else)"
            );
            Ok(names::Settings::default())
        }
    }
}

/// The holders of which it has to be known how long they take to wait for a child.
fn never_waited(args: &ReapArgs, found: &[Found]) -> BTreeSet<u32> {
    if !args.parent_may_miss_status || !args.cause.contains(&Cause::NeverWaited) {
        return BTreeSet::new();
    }
    let of_it = found.iter().filter(|found| found.zombie.cause == Cause::NeverWaited);
    of_it.map(|found| found.zombie.holder.pid).collect()
}

/// What the flags say, as a rule.
fn rule(args: &ReapArgs) -> Rule {
    Rule {
        name: Untrusted::default(),
        when: Match { causes: args.cause.clone(), ..Match::default() },
        steps: vec![Step { remedy: Remedy::Reap, after: Duration::ZERO, headroom_below: None }],
        parent_may_miss_status: args.parent_may_miss_status,
        allow_interrupted_wait: args.allow_interrupted_wait,
        may_end_container: false,
        per_minute: None,
    }
}

/// Those that are meant, each looked at now; and the causes of those that were named by pid but have another one than is meant.
fn find(
    args: &ReapArgs,
    describer: &mut Describer,
    records: &[reaper_ebpf::Record],
    known: &Known,
) -> Result<(Vec<Found>, HashMap<u32, Cause>), Failure> {
    let inits = describer.namespace_inits()?;
    let requests: Vec<_> = records
        .iter()
        .map(|record| Request::Remedy {
            id: record.id(),
            zombie: Identity::of(record),
            forker: None,
            inits: inits.clone(),
        })
        .collect();
    let mut guard = Guard::default();
    guard.record(std::path::Path::new("/"));
    let now = boot_now();
    let mut seen = Vec::new();
    for (record, answer) in records.iter().zip(observe::look_at(&describer.proc, &requests)) {
        let Answer::Zombie { scene, sight, .. } = answer else { continue };
        let mut zombie = describer.describe(record, &scene, now);
        let event = known.get(&(zombie.identity.pid, zombie.identity.start));
        if let Some(event) = event.filter(|event| is_of(event, &zombie)) {
            learn(&mut zombie, event, now);
        }
        let of = scene.holder.seen.as_ref().map(|(seen, _)| seen);
        let start = zombie.holder.start.or_else(|| of.map(Seen::start)).unwrap_or_default();
        let identity = Identity { pid: zombie.holder.pid, start };
        let mut holder = guard.judge(identity, sight.as_deref().cloned(), &mut describer.workloads);
        holder.name(&describer.names);
        seen.push(Found { zombie, scene, holder });
    }
    ls::name(describer, seen.iter_mut().map(|found| &mut found.zombie));
    let (mut all, mut others) = (Vec::new(), HashMap::new());
    for mut found in seen {
        if !is_meant(args, &found.zombie) {
            continue;
        }
        if !has_cause(args, found.zombie.cause) {
            others.insert(found.zombie.identity.pid, found.zombie.cause);
            continue;
        }
        // By now there is an answer, or none is to be expected soon.
        found.holder.name(&describer.names);
        all.push(found);
    }
    Ok((all, others))
}

fn is_meant(args: &ReapArgs, zombie: &Zombie) -> bool {
    let ReapArgs { pids, holder, workload, .. } = args;
    let named = pids.contains(&zombie.identity.pid);
    let of_holder = *holder == Some(zombie.holder.pid);
    let of_workload = workload.as_ref().is_some_and(|name| {
        ShownWorkload::new(&zombie.workload, &zombie.named).is_named(&Untrusted::new(name.as_bytes()))
    });
    named || of_holder || of_workload
}

fn has_cause(ReapArgs { pids, cause: causes, .. }: &ReapArgs, cause: Cause) -> bool {
    match causes.as_slice() {
        [] => !pids.is_empty() || cause == Cause::Adopted,
        causes => causes.contains(&cause),
    }
}

/// Watches the holders' wait calls.
fn watch(
    span: Duration,
    found: &[Found],
    describer: &mut Describer,
) -> Result<HashMap<u32, Watched>, Failure> {
    let holders: BTreeMap<u32, u64> = found
        .iter()
        .filter_map(|found| found.holder.identity.map(|identity| (identity.pid, identity.start.0)))
        .collect();
    if holders.is_empty() {
        return Ok(HashMap::new());
    }
    let kernel = &mut describer.kernel;
    let watched: Vec<_> = holders.into_iter().filter(|(pid, start)| kernel.watch(*pid, *start)).collect();
    kernel.settle(true)?;
    let since = boot_now();
    thread::sleep(span);
    let now = boot_now();
    let watched = watched.into_iter().filter_map(|(pid, _)| {
        let profile = kernel.waits(pid)?;
        Some((pid, Watched { profile, watched: now.since(since), at: now }))
    });
    Ok(watched.collect())
}

/// A holder's wait calls while this command watched them.
struct Watched {
    profile: WaitProfile,
    watched: Duration,
    at: BootTime,
}

impl Watched {
    fn of(&self, zombie: &Zombie, scene: &Scene, kernel: &Kernel) -> Waits {
        let Self { profile, watched, at } = self;
        let Identity { pid, start } = zombie.identity;
        let numbers = Numbers { pid, group: scene.zombie.group, start };
        waits(zombie.holder.pid, profile, numbers, profile.lost > 0, *watched, *at, kernel)
    }
}

fn confirmed(allowed: &BTreeMap<Identity, Vec<&Zombie>>) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let message = "nobody is there to be asked: say --yes, or --dry-run to see what would be done";
        return Err(Failure::new(exit_code::USAGE, message.to_owned()));
    }
    let zombies: usize = allowed.values().map(Vec::len).sum();
    let (holders, zombies) =
        (numbered(allowed.len(), "holder", "holders"), numbered(zombies, "zombie", "zombies"));
    write!(io::stderr(), "let {holders} wait for {zombies}? [y/N] ").map_err(written)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(written)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn options(args: &ReapArgs) -> Options {
    Options {
        allow_interrupted_wait: args.allow_interrupted_wait,
        grace: Duration::ZERO,
        max_pause: args.max_pause.get(),
    }
}

fn act(
    args: &ReapArgs,
    describer: &Describer,
    injector: &mut Injector,
    holder: Identity,
    zombies: &[&Zombie],
    mut event: RemedyEvent,
) -> RemedyEvent {
    let targets =
        zombies.iter().map(|zombie| Target { identity: zombie.identity, ns_pid: zombie.ns_pid }).collect();
    let options = options(args);
    let warrant = Warrant::default();
    let order = Order { number: 0, remedy: Remedy::Reap, holder, zombies: targets, options, warrant };
    let deed = take_lock(&directory())
        .map_or_else(Deed::refused, |lock| apply(&describer.proc, &order, injector, lock));
    let survived = deed.state.is_some() || !deed.touched();
    if let Some(refusal) = deed.refusal.as_ref().filter(|_| !deed.acted() && survived) {
        let mut event = refused_event(false, refusal, zombies).unwrap_or(event);
        event.stood(&deed);
        return event;
    }
    let deadline = Instant::now() + FREED;
    let stands = |zombie: &Zombie| observe::scene(&describer.proc, zombie.identity).is_some();
    while zombies.iter().any(|zombie| stands(zombie)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let mut left = 0;
    for (zombie, shown) in zombies.iter().zip(&mut event.zombies) {
        let stands = stands(zombie);
        left += u64::from(stands);
        shown.gone = Some(!stands);
        shown.status_taken = deed.taken.contains(&(zombie.identity, Ok(())));
    }
    let before = zombies.len() as u64;
    event.outcome = match deed.state {
        None => Outcome::HolderDied,
        Some(_) if left == before => Outcome::NoEffect,
        Some(_) => Outcome::Applied,
    };
    let why = deed.refusal.as_ref().map(|refusal| format!("; {refusal}")).unwrap_or_default();
    event.message = format!("{} of {before} gone{why}", before - left).as_str().into();
    event.after = Some(State { zombies: left, holder: deed.state });
    event.stood(&deed);
    event
}

fn refused_event(dry_run: bool, refusal: &Refusal, zombies: &[&Zombie]) -> Option<RemedyEvent> {
    RemedyEvent::new(Remedy::Reap, None, dry_run, Some(refusal), zombies, Timestamp::now())
}

fn report(reporter: &mut Reporter<io::Stdout>, event: Option<RemedyEvent>) -> Result<(), Failure> {
    match event {
        Some(event) => reporter.report(&Event::Remedy(Box::new(event))).map_err(written),
        None => Ok(()),
    }
}

/// Takes back what `autoreap` has set.
fn undo(args: &ReapArgs, describer: &Describer) -> Result<u8, Failure> {
    let refused = |refusal: Refusal| Failure::new(exit_code::REFUSED, refusal.to_string());
    let pid = args.holder.unwrap_or_default();
    let seen = describer.proc.see(pid).map_err(|_| refused(Refusal::HolderGone))?;
    let _lock = take_lock(&directory()).map_err(refused)?;
    let identity = Identity { pid, start: seen.start() };
    let handle = Handle::open(&describer.proc, identity).map_err(refused)?;
    let mut injector = Injector::of_this_program(describer.proc.clone());
    match injector.autoreap(&handle, false, &options(args)).refusal {
        Some(refusal) => Err(refused(refusal)),
        None => Ok(exit_code::OK),
    }
}
