//! Who released a zombie, and when exactly, where the kernel lets that be seen; and that nothing is said where it does not.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command},
};

use aya::{
    programs::{ProgramInfo, loaded_programs},
    sys::Stats,
};
use serde_json::Value;

use crate::{boot_now, daemon::Daemon, fentry::Empty, holder::Holder, require_vm};

const FUNCTION: &str = "release_task";

/// What the kernel offers, as it can be seen without reaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    Fentry,
    Kprobe,
    Nothing,
}

impl Offer {
    fn of_this_kernel() -> Self {
        let fentry = Empty::at(FUNCTION).map(drop);
        let listed = fs::read_to_string("/sys/kernel/tracing/available_filter_functions");
        println!("fentry: {fentry:?}; functions that can be traced: {:?}", listed.as_ref().map(String::len));
        // Where the kernel says which functions can be traced, it says the same.
        if let Ok(functions) = listed {
            let listed = functions.lines().any(|line| line.split(' ').next() == Some(FUNCTION));
            assert_eq!(listed, fentry.is_ok(), "{fentry:?}");
        }
        if fentry.is_ok() { Self::Fentry } else { Self::without_fentry() }
    }

    fn without_fentry() -> Self {
        let probes = Path::new("/sys/bus/event_source/devices/kprobe/type").exists();
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
        if probes && !lockdown.contains("[confidentiality]") { Self::Kprobe } else { Self::Nothing }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Nothing => "none",
        }
    }
}

/// What `reaper check` says of the hook.
fn checked() -> String {
    let output = Command::new("reaper").args(["check", "--output", "json"]).output().expect("reaper runs");
    let text = String::from_utf8(output.stdout).expect("text");
    println!("{text}");
    let mut rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let row = rows.find(|row| row["name"] == "release hook").expect("a row about the hook");
    let (detail, standing) = (row["detail"].as_str().expect("text"), &row["standing"]);
    assert_eq!(*standing, if detail.starts_with("none") { "reduced" } else { "ok" }, "{row}");
    detail.to_owned()
}

fn released(daemon: &Daemon, pid: u32) -> Option<&Value> {
    daemon.by_process("released").into_iter().find(|((seen, _), _)| *seen == pid).map(|(_, event)| event)
}

/// A child of this very process that nobody has waited for yet.
fn leak() -> Child {
    Command::new("true").spawn().expect("`true` is in PATH")
}

/// A zombie of this very process is waited for by this very thread: is that what is said?
fn this_process_is_named(daemon: &mut Daemon, offer: Offer) {
    let mut child = leak();
    let pid = child.id();
    daemon.wait_for_zombie(pid, || ());
    let before = boot_now();
    child.wait().expect("it is our child");
    let after = boot_now();
    daemon.wait_until("its release", |daemon| released(daemon, pid).is_some());
    let event = released(daemon, pid).expect("just seen");
    println!("{event}");
    let reaped = &event["reaped"];
    if offer == Offer::Nothing {
        assert!(event.get("reaped").is_some() && reaped.is_null(), "{event}");
        return;
    }
    let comm = fs::read_to_string("/proc/thread-self/comm").expect("our own name");
    assert_eq!(reaped["pid"], std::process::id(), "{event}");
    assert_eq!(reaped["comm"], comm.trim_end(), "{event}");
    let at = reaped["at"].as_u64().unwrap_or_else(|| panic!("no time: {event}"));
    assert!((before..=after).contains(&at), "not between {before} and {after}: {event}");
    println!("{}: {} ns after the call, {} ns before its return", offer.as_str(), at - before, after - at);
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn who_released_a_zombie_and_when_is_said_where_the_kernel_lets_it_be_seen() {
    require_vm();
    let offer = Offer::of_this_kernel();
    let found = checked();
    assert!(found.starts_with(offer.as_str()), "the kernel offers {offer:?}, reaper found {found}");
    let mut daemon = Daemon::start("1s");
    this_process_is_named(&mut daemon, offer);
    daemon.stop();
}

/// As many programs may be at a function's entry as its trampoline has room for: then there is no fentry, and there
/// are kprobes still.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_kprobe_stands_in_for_fentry() {
    require_vm();
    if Offer::of_this_kernel() != Offer::Fentry {
        // The other test has seen what there is instead.
        return;
    }
    let mut all = Vec::new();
    let full = loop {
        match Empty::at(FUNCTION) {
            Ok(one) => all.push(one),
            Err(full) => break full,
        }
    };
    println!("{} programs at {FUNCTION}, then: {full}", all.len());
    let offer = Offer::without_fentry();
    let found = checked();
    assert!(found.starts_with(offer.as_str()), "the kernel offers {offer:?}, reaper found {found}");
    assert!(found.contains("no fentry"), "{found}");
    let mut daemon = Daemon::start("1s");
    this_process_is_named(&mut daemon, offer);
    daemon.stop();
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn an_heir_that_waits_is_named_and_not_the_dead_holder() {
    require_vm();
    let offer = Offer::of_this_kernel();
    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let leak = holder.leak(3);
    let reported = daemon.wait_for_zombie(leak.pid, || ());
    assert_eq!(reported["holder"]["pid"], holder.pid(), "{reported}");
    let before = boot_now();
    drop(holder);
    daemon.wait_until("its release", |daemon| released(daemon, leak.pid).is_some());
    let event = released(&daemon, leak.pid).expect("just seen");
    println!("{event}");
    if offer == Offer::Nothing {
        assert!(event["reaped"].is_null(), "{event}");
    } else {
        let heir = fs::read_to_string("/proc/1/comm").expect("the init's name");
        assert_eq!(event["reaped"]["pid"], 1, "{event}");
        assert_eq!(event["reaped"]["comm"], heir.trim_end(), "{event}");
        assert!(event["reaped"]["at"].as_u64().is_some_and(|at| at >= before), "{event}");
    }
    daemon.stop();
}

/// Prints what being called costs, as the kernel counts it; of an emulated machine's figures only the ratio says something.
#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn the_hook_is_attached_with_the_first_zombie_and_not_before() {
    const LIVES: u32 = 500;
    require_vm();
    let offer = Offer::of_this_kernel();
    let _counting = aya::sys::enable_stats(Stats::RunTime).expect("the kernel counts");
    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let before = Runs::now();
    holder.churn(20, 0);
    let spent = Runs::now().since(&before);
    assert_eq!(spent.of("release_"), 0, "nothing was about to be reported: {spent:?}");

    let mut child = leak();
    let pid = child.id();
    daemon.wait_for_zombie(pid, || ());
    let beside = Empty::at(FUNCTION).map_err(|error| println!("nothing to compare with: {error}"));
    let before = Runs::now();
    holder.churn(LIVES, 0);
    let spent = Runs::now().since(&before);
    println!("{LIVES} lives: {spent:?}");
    drop(beside);
    let expected = if offer == Offer::Nothing { 0 } else { u64::from(LIVES) };
    assert!((expected..=2 * expected).contains(&spent.of("release_")), "{spent:?}");

    child.wait().expect("it is our child");
    daemon.wait_until("its release", |daemon| released(daemon, pid).is_some());
    daemon.stop();
}

/// How often programs have run and for how many nanoseconds together, as the kernel counts it, by their names.
#[derive(Debug)]
pub(crate) struct Runs(BTreeMap<String, (u64, u64)>);

impl Runs {
    pub(crate) fn now() -> Self {
        let program = |program: ProgramInfo| {
            let spent = u64::try_from(program.run_time().as_nanos()).expect("years");
            Some((program.name_as_str()?.to_owned(), (program.run_count(), spent)))
        };
        Self(loaded_programs().filter_map(Result::ok).filter_map(program).collect())
    }

    /// What came since, with the nanoseconds of one run.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let spent = |(name, (runs, spent)): (&String, &(u64, u64))| {
            let (old_runs, old_spent) = before.0.get(name).unwrap_or(&(0, 0));
            let runs = runs.checked_sub(*old_runs).filter(|runs| *runs > 0)?;
            Some((name.clone(), (runs, (spent - old_spent) / runs)))
        };
        Self(self.0.iter().filter_map(spent).collect())
    }

    /// Of all programs whose name begins so.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.iter().filter(|(program, _)| program.starts_with(name)).map(|(_, (runs, _))| runs).sum()
    }
}
