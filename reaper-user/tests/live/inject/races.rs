//! The holder does something with its zombies, or with itself, at the moment when it is made to wait for them: nobody but the
//! zombie that was meant is ever waited for.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use reaper::{
    identity::Identity,
    proc::Proc,
    remedy::{Target, inject::Method},
};

use super::{
    each,
    hand::{Came, Hand, Wish, came, identity},
    holder::PATIENCE,
    programs,
};
use crate::support::{Random, machine, rounds};

/// What `racer.c` ends with when it is told to leave.
const LEFT: i32 = 42;

/// The code of a child that has the pid of another one.
const REPLACED: &str = "99";

/// Children that nobody means.
const BYSTANDERS: usize = 3;

/// A holder that is told what to do and when.
struct Racer {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Racer {
    fn start() -> Self {
        let mut child =
            Command::new(programs::racer()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut this = Self { input: child.stdin.take().unwrap(), child, lines };
        assert_eq!(this.answer(), "ready");
        this
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn order(&mut self, order: &str) {
        self.input.write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    fn answer(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no answer: {:?}", self.child.try_wait()))
    }

    /// Lets so many children die; pid and exit code of each.
    fn pile(&mut self, number: usize) -> Vec<(u32, String)> {
        self.order(&format!("pile {number}"));
        let line = self.answer();
        let words = line.strip_prefix("zombies").unwrap_or_else(|| panic!("{line}")).split_whitespace();
        words
            .map(|word| {
                word.split_once(':').map(|(pid, code)| (pid.parse().unwrap(), code.to_owned())).unwrap()
            })
            .collect()
    }

    /// The exit code that it would get for a child, if it is there.
    fn look(&mut self, pid: u32) -> Option<String> {
        self.order(&format!("look {pid}"));
        let answer = self.answer();
        answer.strip_prefix(&format!("found {pid} ")).map(str::to_owned)
    }

    /// All bystanders are there, with their own codes.
    fn assert_kept(&mut self, bystanders: &[(u32, String)]) {
        for (pid, code) in bystanders {
            assert_eq!(self.look(*pid).as_ref(), Some(code), "pid {pid}");
        }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn target(pid: u32) -> (Identity, Target) {
    let identity = identity(&Proc::at("/proc"), pid).unwrap();
    (identity, Target { identity, ns_pid: Some(pid) })
}

/// Makes the holder wait for these, some time after it was told to do something itself.
fn race(hand: &mut Hand, racer: &Racer, targets: &[Target], number: usize) -> Came {
    let method = [Method::Step, Method::Chain][number % 2];
    let wish = Wish { method, ..Wish::new() };
    match hand.start_for(racer.pid(), targets, wish) {
        Ok(tracer) => came(tracer.finish(PATIENCE)),
        Err(came) => came,
    }
}

/// How long that takes, when nobody does anything else; and some more.
fn takes(hand: &mut Hand) -> u64 {
    let mut racer = Racer::start();
    let zombies = racer.pile(5);
    let mut longest = Duration::ZERO;
    for (number, (pid, _)) in zombies.iter().enumerate() {
        let begun = Instant::now();
        let came = race(hand, &racer, &[target(*pid).1], number);
        assert_eq!(came.reaped, 1, "{came:?}");
        // The first one has to find the instructions.
        if number > 0 {
            longest = longest.max(begun.elapsed());
        }
    }
    u64::try_from(longest.as_micros()).unwrap() * 5 / 4
}

/// Runs the rounds in two halves, each with its own holder, and adds up what they count.
fn in_halves(
    all: usize,
    run: impl Fn(&mut Hand, u64, &mut Random, usize) -> [usize; 3] + Sync,
) -> [usize; 3] {
    let mut random = Random::new();
    let halves = vec![
        (all / 2, Random::of(random.below(u64::MAX))),
        (all - all / 2, Random::of(random.below(u64::MAX))),
    ];
    let counts = each(2, halves, |(rounds, mut random)| {
        let mut hand = Hand::default();
        let takes = takes(&mut hand);
        run(&mut hand, takes, &mut random, rounds)
    });
    counts.into_iter().fold([0; 3], |sum, count| [0, 1, 2].map(|place| sum[place] + count[place]))
}

#[test]
fn a_zombie_that_the_holder_waits_for_itself_is_waited_for_once() {
    let _machine = machine();
    let [by_hand, by_itself, both] = in_halves(rounds(200, 4_000), |hand, takes, random, all| {
        let mut racer = Racer::start();
        let bystanders = racer.pile(BYSTANDERS);
        let mut counts = [0; 3];
        for number in 0..all {
            let (pid, code) = racer.pile(1).remove(0);
            let (_, target) = target(pid);
            racer.order(&format!("take {pid} {}", random.below(takes)));
            let came = race(hand, &racer, &[target], number);
            let answer = racer.answer();
            let taken = answer == format!("took {pid} {code}");
            assert!(taken || answer == format!("gone {pid}"), "{answer}");
            // A chain does not see who has waited, only that it is gone.
            counts[0] += usize::from(!taken);
            counts[1] += usize::from(taken);
            counts[2] += usize::from(taken && came.reaped == 1);
            assert!(taken || came.reaped == 1, "nobody has waited for {pid}, which is gone: {came:?}");
            assert!(!(taken && came.reaped == 1) || number % 2 == 1, "both have: {came:?}");
            if number % 50 == 0 {
                racer.assert_kept(&bystanders);
            }
        }
        racer.assert_kept(&bystanders);
        counts
    });
    println!(
        "waited for by the holder itself {by_itself}, made to {by_hand}; said of a chain though it had itself {both}"
    );
    assert!(by_hand > 0 && by_itself > 0, "never at the same time");
}

#[test]
fn another_child_with_the_pid_of_the_zombie_is_not_waited_for() {
    let _machine = machine();
    let [replaced, meanwhile, missed] = in_halves(rounds(200, 4_000), |hand, takes, random, all| {
        let mut racer = Racer::start();
        let bystanders = racer.pile(BYSTANDERS);
        let mut counts = [0; 3];
        let mut left = all;
        while left > 0 {
            let zombies = racer.pile(left.min(20));
            let targets: Vec<_> = zombies.iter().map(|(pid, _)| target(*pid)).collect();
            let youngest = targets.iter().map(|(identity, _)| identity.start.0).max().unwrap();
            // Who comes in the same tick has the same start, as far as /proc says.
            while crate::support::boot_now() < youngest + 2 * 10_000_000 {
                thread::sleep(Duration::from_millis(1));
            }
            for (number, ((pid, code), (_, target))) in zombies.iter().zip(targets).enumerate() {
                racer.order(&format!("replace {pid} {}", random.below(takes)));
                let came = race(hand, &racer, &[target], number);
                let answer = racer.answer();
                let found = racer.look(*pid);
                let kept = found.as_deref() == Some(REPLACED);
                let what = answer.split(' ').next().unwrap();
                match what {
                    "replaced" => {
                        assert!(kept, "the other child is gone, which came before the stop: {code} {came:?}");
                        counts[0] += 1;
                    }
                    // Another thread has waited for it and made the other child within the stop. The kernel gives no number again
                    // before it has given all others, which takes longer than that: only who asks for a number can do it.
                    "meanwhile" => {
                        counts[1] += 1;
                        counts[2] += usize::from(!kept);
                    }
                    "gone" => assert_eq!(came.reaped, 1, "{came:?}"),
                    "void" => {}
                    _ => panic!("{answer}"),
                }
                if kept {
                    racer.order(&format!("take {pid} 0"));
                    assert_eq!(racer.answer(), format!("took {pid} {REPLACED}"));
                }
            }
            left -= zombies.len();
            racer.assert_kept(&bystanders);
        }
        counts
    });
    println!(
        "replaced before a stop {replaced}, within one {meanwhile}, of which {missed} were waited for instead"
    );
    assert!(replaced > 0, "never at the same time");
}

#[test]
fn a_holder_that_executes_another_program_goes_on_in_it() {
    let _machine = machine();
    let [reaped, not, _] = in_halves(rounds(60, 1_000), |hand, takes, random, all| {
        let mut racer = Racer::start();
        let bystanders = racer.pile(BYSTANDERS);
        let mut counts = [0; 3];
        for number in 0..all {
            let (pid, code) = racer.pile(1).remove(0);
            let (_, target) = target(pid);
            let who = ["exec", "exec-main"][number / 2 % 2];
            racer.order(&format!("{who} {}", random.below(takes)));
            let came = race(hand, &racer, &[target], number);
            assert_eq!(racer.answer(), "ready", "{came:?}");
            let found = racer.look(pid);
            counts[usize::from(found.is_some())] += 1;
            assert!(found.is_none() || found == Some(code), "{found:?}");
            assert_eq!(found.is_none(), came.reaped == 1, "{came:?}");
            racer.assert_kept(&bystanders);
        }
        counts
    });
    println!("made to wait {reaped}, not {not}");
}

#[test]
fn a_holder_that_ends_ends_as_it_wanted_to() {
    let _machine = machine();
    let [reaped, not, _] = in_halves(rounds(40, 1_000), |hand, takes, random, all| {
        let mut counts = [0; 3];
        for number in 0..all {
            let mut racer = Racer::start();
            let (pid, _) = racer.pile(1).remove(0);
            let (_, target) = target(pid);
            racer.order(&format!("leave {}", random.below(takes)));
            let came = race(hand, &racer, &[target], number);
            assert_eq!(racer.child.wait().unwrap().code(), Some(LEFT), "{came:?}");
            counts[usize::from(came.reaped == 0)] += 1;
        }
        counts
    });
    println!("made to wait {reaped}, not {not}");
}
