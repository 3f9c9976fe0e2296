//! What a process's life costs in our programs, beside empty ones and beside the ledger that comes to mind first.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    instrument::{Instrument, number},
    numbers::{Spread, median},
    programs::{self, Cost},
    table::{Table, verdict},
};

/// The hooks that a life passes, in its order.
const HOOKS: [&str; 5] = ["fork", "exec", "exit", "signal", "free"];
const ON_DEMAND: [&str; 2] = ["wait", "cmdline"];

/// A condition under which lives are led.
struct Condition {
    name: &'static str,
    /// Processes that stand by.
    crowd: usize,
    /// Whether a life execs. It comes out of exec with colder caches than it went in.
    exec: bool,
    /// MiB walked between a life's events.
    walk: usize,
    lives: u32,
    rounds: usize,
}

const QUIET: Condition = Condition { name: "quiet", crowd: 0, exec: true, walk: 0, lives: 2_000, rounds: 9 };

const CONDITIONS: [Condition; 5] = [
    QUIET,
    Condition { name: "quiet, without exec", exec: false, ..QUIET },
    Condition { name: "standing processes", crowd: 20_000, rounds: 7, ..QUIET },
    Condition { name: "standing processes, without exec", crowd: 20_000, exec: false, rounds: 7, ..QUIET },
    Condition {
        name: "cold caches (8 MiB walked by parent and child between the events)",
        walk: 8,
        lives: 300,
        rounds: 7,
        ..QUIET
    },
];

/// One round of one set: by hook, per life.
type Round = BTreeMap<&'static str, Cost>;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    for condition in &CONDITIONS {
        always(bench, condition)?;
    }
    on_demand(bench, &QUIET)
}

fn always(bench: &Bench<'_>, condition: &Condition) -> anyhow::Result<()> {
    let crowd = match condition.crowd {
        0 => None,
        number => Some(Instrument::start(bench.probes("crowd").arg(number.to_string()))?),
    };
    let mut load = load(bench, condition)?;
    let hooks: Vec<_> = HOOKS.into_iter().filter(|&hook| condition.exec || hook != "exec").collect();
    let sets = ["empty", "reaper", "hash"];
    let mut rounds = [const { Vec::new() }; 3];
    for _ in 0..bench.rounds(condition.rounds) {
        for (set, rounds) in sets.iter().zip(&mut rounds) {
            let probes = Instrument::start(&mut bench.attach(set))?;
            rounds.push(measure(&probes, &mut load, condition.lives, &hooks)?);
        }
    }
    let standing = match &crowd {
        Some(crowd) => format!("{} ", number(&crowd.ready, "processes")?),
        None => String::new(),
    };
    println!(
        "\nns per process life (fork, exec, exit, wait, free), always-attached programs: {standing}{}\n\
         {} interleaved rounds of {} lives each; medians, in the sum with least..greatest",
        condition.name,
        rounds[0].len(),
        condition.lives
    );
    compare(&hooks, &rounds, condition.walk != 0);
    Ok(())
}

fn load(bench: &Bench<'_>, condition: &Condition) -> anyhow::Result<Instrument> {
    let mut lives = bench.probes("lives");
    lives.args(["--walk", &condition.walk.to_string()]);
    if !condition.exec {
        lives.arg("--no-exec");
    }
    let mut load = Instrument::start(&mut lives)?;
    load.ask(&(condition.lives / 10).to_string())?;
    Ok(load)
}

fn measure(
    probes: &Instrument,
    load: &mut Instrument,
    lives: u32,
    hooks: &[&'static str],
) -> anyhow::Result<Round> {
    let before = programs::costs(probes.pid())?;
    load.ask(&lives.to_string())?;
    // The last frees come from RCU, tens of milliseconds later.
    thread::sleep(Duration::from_millis(100));
    let after = programs::costs(probes.pid())?;
    let lives = f64::from(lives);
    let mut round = Round::new();
    for &hook in hooks {
        let is_hook = |name: &str| {
            let name = name.strip_prefix("empty_").unwrap_or(name);
            name == hook
                || name.strip_prefix("exec_") == Some(hook)
                || name.strip_suffix("_plain") == Some(hook)
        };
        let name = after
            .iter()
            .filter(|(name, cost)| is_hook(name) && cost.runs > 0.0)
            .map(|(name, _)| name)
            .next()
            .with_context(|| format!("no program ran on the hook `{hook}`"))?;
        let cost = after[name] - before.get(name).copied().unwrap_or_default();
        ensure!(cost.runs > 0.0, "the program `{name}` was not called");
        round.insert(hook, Cost { nanoseconds: cost.nanoseconds / lives, runs: cost.runs / lives });
    }
    Ok(round)
}

fn of_hook(rounds: &[Round], hook: &str) -> Cost {
    let all =
        |part: fn(&Cost) -> f64| median(&rounds.iter().map(|round| part(&round[hook])).collect::<Vec<_>>());
    Cost { nanoseconds: all(|cost| cost.nanoseconds), runs: all(|cost| cost.runs) }
}

fn sums(rounds: &[Round]) -> Vec<f64> {
    rounds.iter().map(|round| round.values().map(|cost| cost.nanoseconds).sum()).collect()
}

/// Round by round, because the machine's speed drifts.
fn pairwise(of: &[f64], to: &[f64], how: fn(f64, f64) -> f64) -> Spread {
    Spread::of(&of.iter().zip(to).map(|(&of, &to)| how(of, to)).collect::<Vec<_>>())
}

fn spread(Spread { median, least, greatest }: Spread) -> String {
    format!("{median:.0} ({least:.0}..{greatest:.0})")
}

fn ratio(Spread { median, least, greatest }: Spread) -> String {
    format!("{median:.2} ({least:.2}..{greatest:.2})")
}

fn compare(hooks: &[&'static str], [empty, reaper, hash]: &[Vec<Round>; 3], cold: bool) {
    let mut table = Table::new(&[
        "program",
        "runs/life",
        "empty",
        "reaper gross",
        "net",
        "/empty",
        "hash gross",
        "net",
        "/empty",
    ]);
    for hook in hooks {
        let runs = of_hook(reaper, hook).runs;
        let [empty, reaper, hash] = [empty, reaper, hash].map(|rounds| of_hook(rounds, hook).nanoseconds);
        table.row([
            (*hook).to_owned(),
            format!("{runs:.2}"),
            format!("{empty:.0}"),
            format!("{reaper:.0}"),
            format!("{:.0}", reaper - empty),
            format!("{:.2}", reaper / empty),
            format!("{hash:.0}"),
            format!("{:.0}", hash - empty),
            format!("{:.2}", hash / empty),
        ]);
    }
    let [empty, reaper, hash] = [empty, reaper, hash].map(|rounds| sums(rounds));
    let minus = |a: f64, b: f64| a - b;
    let over = |a: f64, b: f64| a / b;
    let times = pairwise(&reaper, &empty, over);
    let [net, hash_net] = [&reaper, &hash].map(|sums| pairwise(sums, &empty, minus));
    table.row([
        "sum".to_owned(),
        String::new(),
        spread(Spread::of(&empty)),
        spread(Spread::of(&reaper)),
        spread(net),
        ratio(times),
        spread(Spread::of(&hash)),
        spread(hash_net),
        ratio(pairwise(&hash, &empty, over)),
    ]);
    table.print();
    if cold {
        verdict("net, reaper / hash map", net.median / hash_net.median, 0.5);
        println!("  gross, reaper / hash map: {}", ratio(pairwise(&reaper, &hash, over)));
    } else {
        verdict("reaper / empty", times.median, 4.0);
        println!("  aim: 2.5; net, reaper / hash map: {:.2}", net.median / hash_net.median);
    }
}

fn on_demand(bench: &Bench<'_>, condition: &Condition) -> anyhow::Result<()> {
    let mut load = load(bench, condition)?;
    // Whose children are led through the programs: somebody else's (all but holders on probation), or the holder's.
    let bystander = std::process::id();
    let holder = load.pid();
    let mut rounds = [const { Vec::new() }; 3];
    for _ in 0..bench.rounds(condition.rounds.div_ceil(2)) {
        for ((set, probation), rounds) in
            [("empty", bystander), ("reaper", bystander), ("reaper", holder)].into_iter().zip(&mut rounds)
        {
            let probes = Instrument::start(bench.attach(set).args(["--probation", &probation.to_string()]))?;
            rounds.push(measure(&probes, &mut load, condition.lives, &ON_DEMAND)?);
        }
    }
    println!(
        "\nns per process life, programs attached only while a holder is on probation: {}\n\
         {} interleaved rounds of {} lives each; medians",
        condition.name,
        rounds[0].len(),
        condition.lives
    );
    let mut table = Table::new(&[
        "program",
        "runs/life",
        "empty",
        "another holder's child, gross",
        "net",
        "the holder's child, gross",
        "net",
    ]);
    for hook in ON_DEMAND {
        let [empty, other, own] = [0, 1, 2].map(|set| of_hook(&rounds[set], hook));
        table.row([
            hook.to_owned(),
            format!("{:.2}", empty.runs),
            format!("{:.0}", empty.nanoseconds),
            format!("{:.0}", other.nanoseconds),
            format!("{:.0}", other.nanoseconds - empty.nanoseconds),
            format!("{:.0}", own.nanoseconds),
            format!("{:.0}", own.nanoseconds - empty.nanoseconds),
        ]);
    }
    table.print();
    Ok(())
}
