//! What taking stacks costs whoever forks, and what is lost of them.
//!
//! All of it is what the kernel counts of the fork program, per fork of one process that forks; the programs that follow it at
//! its hook count with it.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    Bench,
    daemon::Daemon,
    instrument::{Instrument, number},
    numbers::median,
    programs,
    table::{Table, verdict},
};

const ROUNDS: usize = 9;
/// Forks of one round.
const FORKS: u32 = 2_000;
const PYTHON_FORKS: u32 = 500;
/// Native stacks are taken of one process at a pace; so many at once.
const COPIES: u32 = 40;

/// Frames below which a Python program forks.
const DEPTHS: [usize; 3] = [10, 30, 60];
/// KiB of stack that are copied.
const KIB: usize = 16;

/// Forks a second, and for how many seconds.
const RATE: u32 = 2_000;
const SECONDS: u32 = 10;

/// Losses that concern stacks.
const LOSSES: [&str; 6] =
    ["stack-lost", "stack-dropped", "stack-unread", "stack-missed", "fork-early", "stack-limited"];

/// Everything that forks is started where it is needed, and forks as often before it counts.
struct Load(Instrument);

impl Load {
    /// With this many KiB of stack.
    fn native(bench: &Bench<'_>, kib: usize) -> anyhow::Result<Self> {
        Self::start(bench.probes("forks").arg(kib.to_string()))
    }

    /// Below this many frames.
    fn python(bench: &Bench<'_>, depth: usize) -> anyhow::Result<Self> {
        let script = bench.workspace.root().join("reaper-user/examples/probes/forks.py");
        Self::start(Command::new("python3").args(["-I", "-S"]).arg(script).arg(depth.to_string()))
    }

    fn start(command: &mut Command) -> anyhow::Result<Self> {
        Instrument::start(command).map(Self)
    }

    /// How long it took.
    fn fork(&mut self, forks: u32, rate: u32) -> anyhow::Result<f64> {
        number(&self.0.ask(&format!("{forks} {rate}"))?, "seconds")
    }

    /// ns of the fork program per fork, as whoever has loaded it is told.
    fn cost(&mut self, whose: u32, warm: u32, forks: u32) -> anyhow::Result<f64> {
        self.fork(warm, 0)?;
        let before = fork_program(whose)?;
        self.fork(forks, 0)?;
        Ok((fork_program(whose)? - before) / f64::from(forks))
    }
}

/// What it has cost so far, ns.
fn fork_program(whose: u32) -> anyhow::Result<f64> {
    let costs = programs::costs(whose)?;
    let all = ["fork", "fork_plain", "empty_fork"].iter().filter_map(|name| costs.get(*name));
    let used = all.filter(|cost| cost.runs > 0.0).map(|cost| cost.nanoseconds);
    used.reduce(f64::max).context("no fork program has run")
}

fn losses(bench: &Bench<'_>) -> anyhow::Result<Value> {
    Ok(Instrument::start(&mut bench.probes("losses"))?.ready.clone())
}

/// What was lost meanwhile.
fn lost(before: &Value, after: &Value, kind: &str) -> anyhow::Result<f64> {
    Ok(number(after, kind)? - number(before, kind)?)
}

/// One measurement, of every round.
#[derive(Default)]
struct Costs {
    empty: Vec<f64>,
    bare: Vec<f64>,
    unwatched: Vec<f64>,
    /// By depth, without a walk and with it.
    python: [[Vec<f64>; 2]; DEPTHS.len()],
    /// Without a copy and with it.
    native: [Vec<f64>; 2],
}

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    costs(bench)?;
    for (what, load) in [("Python", Load::python(bench, DEPTHS[0])), ("native", Load::native(bench, KIB))] {
        at_a_rate(bench, what, load?)?;
    }
    Ok(())
}

fn costs(bench: &Bench<'_>) -> anyhow::Result<()> {
    // The daemon does not ask for it.
    let _counting = Instrument::start(&mut bench.probes("count"))?;
    let mut costs = Costs::default();
    for _ in 0..bench.rounds(ROUNDS) {
        let mut plain = Load::native(bench, KIB)?;
        for (set, to) in [("empty", &mut costs.empty), ("bare", &mut costs.bare)] {
            let probes = Instrument::start(&mut bench.attach(set))?;
            to.push(plain.cost(probes.pid(), FORKS / 10, FORKS)?);
        }
        {
            let probes = Instrument::start(&mut bench.attach("reaper"))?;
            for (depth, [without, _]) in DEPTHS.into_iter().zip(&mut costs.python) {
                let mut python = Load::python(bench, depth)?;
                without.push(python.cost(probes.pid(), PYTHON_FORKS / 10, PYTHON_FORKS)?);
            }
        }
        {
            let daemon = Daemon::start(bench.workspace, &[])?;
            costs.unwatched.push(plain.cost(daemon.pid(), FORKS / 10, FORKS)?);
            costs.native[0].push(Load::native(bench, KIB)?.cost(daemon.pid(), 5, COPIES)?);
            let before = losses(bench)?;
            for (depth, [_, with]) in DEPTHS.into_iter().zip(&mut costs.python) {
                let mut python = Load::python(bench, depth)?;
                // Until it is known what it is.
                thread::sleep(Duration::from_millis(100));
                with.push(python.cost(daemon.pid(), PYTHON_FORKS / 10, PYTHON_FORKS)?);
            }
            let forks = DEPTHS.len() as f64 * f64::from(PYTHON_FORKS);
            demand_few(bench, &before, &["fork-early", "stack-missed", "stack-lost"], forks)?;
        }
        {
            let daemon = Daemon::start(bench.workspace, &["--origin", "all"])?;
            let before = losses(bench)?;
            let mut native = Load::native(bench, KIB)?;
            costs.native[1].push(native.cost(daemon.pid(), 5, COPIES)?);
            demand_few(bench, &before, &["stack-limited", "stack-lost"], COPIES.into())?;
        }
    }
    print(&costs);
    Ok(())
}

/// What was not taken has cost nothing, and says nothing. Others on this machine fork as well.
fn demand_few(bench: &Bench<'_>, before: &Value, kinds: &[&str], forks: f64) -> anyhow::Result<()> {
    /// One in so many.
    const FEW: f64 = 20.0;
    let after = losses(bench)?;
    for kind in kinds {
        let lost = lost(before, &after, kind)?;
        if lost > forks / FEW {
            bail!("{kind} {lost} times at {forks} forks: what was measured is not what was meant");
        }
    }
    Ok(())
}

fn print(costs: &Costs) {
    println!(
        "\nns per fork in the fork program and what follows it, as `bpf_stats_enabled` counts\n\
         {} interleaved rounds; medians, differences round by round",
        costs.empty.len()
    );
    let mut table = Table::new(&["who forks", "empty", "without", "with", "for the stack"]);
    let between = |with: &[f64], without: &[f64]| {
        median(&with.iter().zip(without).map(|(with, without)| with - without).collect::<Vec<_>>())
    };
    let mut row = |who: String, without: &[f64], with: &[f64]| {
        let adds = between(with, without);
        let cell = |value: f64| format!("{value:.0}");
        table.row([who, cell(median(&costs.empty)), cell(median(without)), cell(median(with)), cell(adds)]);
        adds
    };
    let Costs { empty, bare, unwatched, python, native: [uncopied, copied] } = costs;
    let adds = row("neither Python nor watched".to_owned(), bare, unwatched);
    let walks: Vec<_> = DEPTHS
        .iter()
        .zip(python)
        .map(|(depth, [without, with])| (depth, row(format!("Python, {depth} frames"), without, with)))
        .collect();
    let copy = row(format!("native, {KIB} KiB of stack"), uncopied, copied);
    table.print();
    verdict("whoever is not looked at, added / empty", adds / median(empty), 1.0);
    // A framework's loop, a handler, a driver and subprocess are less than thirty together.
    for (depth, walk) in walks.into_iter().filter(|(depth, _)| **depth <= 30) {
        verdict(&format!("a walk of {depth} frames, µs"), walk / 1e3, 15.0);
    }
    verdict(&format!("a copy of {KIB} KiB, µs"), copy / 1e3, 10.0);
}

fn at_a_rate(bench: &Bench<'_>, what: &str, mut load: Load) -> anyhow::Result<()> {
    let _daemon = Daemon::start(bench.workspace, &["--origin", "all"])?;
    // It runs already, and is found by a look at what does.
    thread::sleep(Duration::from_millis(500));
    let before = losses(bench)?;
    let forks = RATE * SECONDS;
    let seconds = load.fork(forks, RATE)?;
    let after = losses(bench)?;
    let others: Vec<_> = LOSSES[1..]
        .iter()
        .map(|kind| Ok(format!("{kind} {}", lost(&before, &after, kind)?)))
        .collect::<anyhow::Result<_>>()?;
    println!(
        "\na {what} program that forks {:.0} times a second for {seconds:.1} s, with `reaper run --origin all`: {}",
        f64::from(forks) / seconds,
        others.join(", ")
    );
    verdict("stacks that found no room in a ring buffer", lost(&before, &after, LOSSES[0])?, 0.0);
    Ok(())
}
