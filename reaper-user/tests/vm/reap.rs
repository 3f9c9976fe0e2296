//! Holders made to wait, on every kernel: what rests in a call goes on as if nothing had been, and whoever does it may die of
//! it at any moment.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use reaper::{
    identity::Identity,
    proc::Proc,
    remedy::{
        Handle, Injector, Options, Target,
        inject::{Cache, DIED, Method, Tracer, survey},
    },
};
use serde_json::Value;

use crate::{
    PATIENCE,
    holder::{Call, Holder, Leak, Rested},
    random::Random,
    require_vm,
};

const PROGRAM: &str = "/bin/reaper";

const OPTIONS: Options =
    Options { allow_interrupted_wait: false, grace: Duration::ZERO, max_pause: Duration::from_millis(2) };

/// Zombies of one holder: the first is reaped call by call, the second by a chain of calls.
const FEW: u32 = 2;
const MANY: u32 = 20;

/// So many tracing processes are killed, for each call that a holder rests in, and so many of them while they trace.
const KILLED: usize = 6;
const KILLED_TRACING: usize = 3;

/// Lets `program`, which is reaper, reap these zombies by hand; its events, one for each holder.
fn all_by_hand(program: &Path, zombies: &[Leak]) -> Vec<Value> {
    let output = Command::new(program)
        .args(["--output", "json", "reap", "--yes", "--watch", "50ms"])
        // There is no daemon that would know more.
        .args(["--cause", "unknown", "--parent-may-miss-status"])
        .args(zombies.iter().map(|leak| leak.pid.to_string()))
        .output()
        .expect("reaper runs");
    let text = String::from_utf8(output.stdout).expect("text");
    println!("{text}{:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(events.iter().all(|event| event["event"] == "remedy"));
    events
}

/// The same, of one holder: again where nothing was done because it took too long.
pub(crate) fn by_hand(program: &Path, zombies: &[Leak]) -> Value {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let [event] = all_by_hand(program, zombies).try_into().expect("one event");
        if !was_slow(&event["reason"]) || Instant::now() > deadline {
            return event;
        }
    }
}

/// Whether a remedy was refused because an emulated machine is slow. The holder is left as it was.
fn was_slow(reason: &Value) -> bool {
    SLOW.iter().any(|slow| reason == slow)
}

/// Refusals for want of time: it did not stop, did not run, was not searched, was left too early, is still busy.
const SLOW: [&str; 6] = [DIED, "fell-through", "no-instruction", "no-run", "no-stop", "unwinding"];

/// A holder at rest, with zombies.
pub(crate) fn at_rest(call: Call, long: Duration, zombies: u32) -> (Holder, Vec<Leak>) {
    at_rest_as(Path::new("holder"), call, long, zombies)
}

/// The same, of the program at this place.
pub(crate) fn at_rest_as(program: &Path, call: Call, long: Duration, zombies: u32) -> (Holder, Vec<Leak>) {
    let mut holder = Holder::start_as(program);
    let leaks: Vec<Leak> = (1..=zombies).map(|code| holder.leak(code)).collect();
    for leak in &leaks {
        holder.key_of(*leak);
    }
    holder.rest(call, long);
    (holder, leaks)
}

/// A rest that nothing has disturbed, with what it was to be.
pub(crate) fn assert_undisturbed(call: Call, rested: Rested, long: Duration) {
    assert_eq!(rested.interruptions, 0, "{call:?}: {rested:?}");
    match call {
        // A line was sent to it.
        Call::Read => assert_eq!(rested.returned, 1, "{call:?}: {rested:?}"),
        Call::Nanosleep | Call::Poll => {
            assert_eq!(rested.returned, 0, "{call:?}: {rested:?}");
            assert!(rested.elapsed >= long, "{call:?}: too early: {rested:?}");
        }
    }
}

/// Reaps holders at rest in every call by hand, twice in one rest. `None`: that took too long, and a rest had ended before.
fn reaped_at_rest(long: Duration) -> Option<()> {
    let mut holders: Vec<(Call, Holder, Vec<Leak>)> = Call::ALL
        .into_iter()
        .zip([FEW, MANY, MANY])
        .map(|(call, zombies)| {
            let (holder, leaks) = at_rest(call, long, zombies);
            (call, holder, leaks)
        })
        .collect();
    let began = Instant::now();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for (_, _, leaks) in &holders {
        let (one, others) = leaks.split_last().expect("a zombie");
        first.extend_from_slice(others);
        last.push(*one);
    }
    let mut took = Vec::new();
    let mut interrupted: BTreeMap<u64, i64> = BTreeMap::new();
    for (mut zombies, left) in [(first, 1), (last, 0)] {
        while !zombies.is_empty() {
            for event in all_by_hand(Path::new(PROGRAM), &zombies) {
                let (outcome, reason) = (&event["outcome"], &event["reason"]);
                assert!(outcome == "applied" || was_slow(reason), "{event:#}");
                assert_eq!(event["late"], 0, "{event:#}");
                let pid = event["holder"]["pid"].as_u64().expect("a pid");
                *interrupted.entry(pid).or_default() += event["interrupted"].as_i64().expect("a number");
            }
            // Those whose holder was too slow.
            let stands = |leak: &Leak| holders.iter().any(|(_, holder, _)| holder.standing(&[*leak]) == 1);
            zombies.retain(stands);
            if began.elapsed() > long {
                return None;
            }
        }
        took.push(began.elapsed());
        for (call, holder, leaks) in &holders {
            assert_eq!(holder.standing(leaks), left, "{call:?}");
            if !holder.is_in(*call) {
                return None;
            }
        }
    }
    println!("of {long:?}, reaped within {took:?}");
    for (call, holder, _) in &mut holders {
        let rested = if *call == Call::Read { holder.wake(*call) } else { holder.rested() };
        println!("{call:?}: {rested:?}");
        // One that makes a chain of calls may leave it before a slow tracer comes: its wait ends early then, and that is said.
        let expected = interrupted[&u64::from(holder.pid())];
        assert!(expected == 0 || *call == Call::Poll, "{call:?}: {expected} were said to be interrupted");
        assert_eq!(rested.interruptions, expected, "{call:?}: {rested:?}");
        assert_undisturbed(*call, Rested { interruptions: 0, ..rested }, long);
        if *call != Call::Read {
            // Were it begun anew when it is stopped, it had been so after the first round at the earliest, in the second.
            assert!(rested.elapsed < long + took[0], "{call:?}: begun anew: {rested:?}");
        }
        // It has children, and waits for them, as before.
        let leak = holder.leak(77);
        holder.key_of(leak);
        holder.reap(leak);
    }
    Some(())
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn holders_at_rest_are_reaped_and_their_calls_go_on_as_if_nothing_had_been() {
    require_vm();
    let mut tries = [5, 20, 60].into_iter().map(Duration::from_secs);
    assert!(
        tries.any(|long| reaped_at_rest(long).is_some()),
        "it takes longer to reap than the longest rest"
    );
}

/// When a tracing process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start.
    OfLife(Duration),
    /// So long after it was seen to trace.
    OfTracing(Duration),
}

/// A tracing process takes no longer, about, emulated; and so long it traces.
const TAKES: Duration = Duration::from_millis(150);
pub(crate) const TRACES: Duration = Duration::from_millis(10);

/// A holder at rest whose tracers are killed.
pub(crate) struct Hunted {
    call: Call,
    pub(crate) holder: Holder,
    leaks: Vec<Leak>,
    /// Interruptions that its rest may have had: one by each tracer that died, and those that the others have said.
    allowed: i64,
}

impl Hunted {
    /// Longer than the test takes.
    const REST: Duration = Duration::from_secs(3_600);

    pub(crate) fn start(call: Call) -> Self {
        let (holder, leaks) = at_rest(call, Self::REST, MANY);
        Self { call, holder, leaks, allowed: 0 }
    }

    fn handle(&self) -> Handle {
        Handle::open(&Proc::at("/proc"), identity(self.holder.pid())).expect("a holder that lives")
    }

    /// Its zombies.
    fn targets(&self) -> Vec<Target> {
        let stands = |leak: &&Leak| self.holder.standing(&[**leak]) == 1;
        let target = |leak: &Leak| Target { identity: identity(leak.pid), ns_pid: Some(leak.pid) };
        self.leaks.iter().filter(stands).map(target).collect()
    }

    /// A tracing process for all zombies.
    pub(crate) fn tracer(&self, method: Method) -> Tracer {
        let (proc, targets) = (Proc::at("/proc"), self.targets());
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut order = loop {
            match survey(&proc, &self.handle(), &targets, &OPTIONS, &mut Cache::default()) {
                Ok(order) => break order,
                Err(refusal) if was_slow(&refusal.as_str().into()) && Instant::now() < deadline => {}
                Err(refusal) => panic!("{refusal}; {}", self.holder.status()),
            }
        };
        order.method = method;
        Tracer::start(Path::new(PROGRAM), &order).expect("it starts")
    }

    /// Starts a tracing process and kills it at this moment. Whether it was tracing then; `None` where it was quicker.
    fn hunt(&mut self, method: Method, moment: Moment) -> Option<bool> {
        let tracer = self.tracer(method);
        if let Moment::OfTracing(_) = moment {
            self.wait_until_traced(&tracer);
        }
        let (Moment::OfLife(after) | Moment::OfTracing(after)) = moment;
        thread::sleep(after);
        let traced = self.is_traced();
        let pid = i32::try_from(tracer.pid()).expect("a pid");
        #[expect(unsafe_code, reason = "the library kills it only where it overruns")]
        // SAFETY: no memory is involved, and the child has not been waited for.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
        }
        let answer = tracer.finish(PATIENCE);
        assert!(!self.is_traced(), "{}", self.holder.status());
        // By itself it is in its call again, and sleeps there.
        let deadline = Instant::now() + PATIENCE;
        while !(self.holder.is_in(self.call) && self.holder.status().contains("State:\tS")) {
            assert!(Instant::now() < deadline, "{}", self.holder.status());
            thread::sleep(Duration::from_millis(1));
        }
        let died = answer.refusal.is_some_and(|(word, _)| word == DIED);
        self.allowed += if died { 1 } else { i64::from(answer.interrupted) };
        died.then_some(traced)
    }

    /// Waits until it is traced, or its tracer has ended.
    pub(crate) fn wait_until_traced(&self, tracer: &Tracer) {
        let began = Instant::now();
        while !self.is_traced() && !has_ended(tracer.pid()) && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_micros(300));
        }
    }

    pub(crate) fn is_traced(&self) -> bool {
        !self.holder.status().contains("TracerPid:\t0\n")
    }

    /// Wakes it: has it rested as it was to, but for what the deaths may have cost?
    fn wake(&mut self) {
        let rested = self.holder.wake(self.call);
        println!("{:?}, {} allowed: {rested:?}", self.call, self.allowed);
        let Rested { returned, elapsed, interruptions, left } = rested;
        match self.call {
            Call::Read => {
                assert_eq!((returned, interruptions), (1, 0), "{rested:?}");
            }
            Call::Nanosleep | Call::Poll => {
                assert_eq!(returned, -i64::from(libc::EINTR), "{rested:?}");
                // The last one is ours.
                assert!(interruptions <= self.allowed + 1, "{rested:?}");
            }
        }
        if self.call == Call::Nanosleep {
            let sum = elapsed + left;
            // Nothing counts between an interruption and the next call.
            let most = Self::REST + Duration::from_secs(1) * u32::try_from(interruptions).expect("a few");
            assert!((Self::REST..most).contains(&sum), "{rested:?}");
        }
    }
}

/// Whether a child has ended, and is to be waited for.
fn has_ended(pid: u32) -> bool {
    Proc::at("/proc").see(pid).expect("a child").state == 'Z'
}

fn identity(pid: u32) -> Identity {
    Identity { pid, start: Proc::at("/proc").see(pid).expect("it is there").start() }
}

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_holder_goes_on_whenever_its_tracer_is_killed() {
    require_vm();
    let mut random = Random::new();
    for call in Call::ALL {
        let mut hunted = Hunted::start(call);
        let (mut deaths, mut tracing) = (0, 0);
        for round in 0..20 * KILLED {
            let mut within = |span: Duration| {
                Duration::from_micros(random.below(u64::try_from(span.as_micros()).expect("short")))
            };
            let moment = if round % 4 == 0 {
                Moment::OfLife(within(TAKES))
            } else {
                Moment::OfTracing(within(TRACES))
            };
            let method = if round % 2 == 0 { Method::Step } else { Method::Chain };
            if let Some(traced) = hunted.hunt(method, moment) {
                deaths += 1;
                tracing += usize::from(traced);
            } else if hunted.targets().is_empty() {
                // It was quick enough to reap all of them: another holder.
                hunted.wake();
                hunted = Hunted::start(call);
            }
            if deaths >= KILLED && tracing >= KILLED_TRACING {
                break;
            }
        }
        println!("{call:?}: {deaths} died, {tracing} of them while they traced");
        assert!(
            deaths >= KILLED && tracing >= KILLED_TRACING,
            "{call:?}: {deaths} died, {tracing} while they traced"
        );
        // With what the dead have left, it can still be done.
        let mut injector = Injector::new(Proc::at("/proc"), PROGRAM.into());
        let deadline = Instant::now() + 2 * PATIENCE;
        while hunted.holder.standing(&hunted.leaks) > 0 {
            let deed = injector.reap(&hunted.handle(), &hunted.targets(), &OPTIONS);
            hunted.allowed += i64::from(deed.interrupted);
            let refusal = deed.refusal.map(|refusal| (refusal.as_str(), refusal.to_string()));
            let slow = refusal.as_ref().is_none_or(|(reason, _)| was_slow(&(*reason).into()));
            assert!(slow && Instant::now() < deadline, "{refusal:?}: {}", hunted.holder.status());
        }
        hunted.wake();
    }
}
