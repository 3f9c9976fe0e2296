//! A loop of fork, exec, exit and wait, with the daemon and without.
//!
//! A pair is half a block without, a block with, half a block without: what drifts in a line cancels, and no two
//! pairs share a block.

use std::{thread, time::Duration};

use super::{
    Bench,
    daemon::Daemon,
    instrument::{Instrument, number},
    numbers::{median, median_interval},
    table::{Table, verdict},
};

const PAIRS: usize = 120;
/// Lives in half a block.
const LIVES: u32 = 150;
/// After the daemon was started or ended, before the clock runs.
const SETTLE: Duration = Duration::from_millis(60);

/// Seconds a life.
struct Block {
    /// Half of the block's lives took less: what else the machine does is seen by the others.
    median: f64,
    mean: f64,
    cpu: f64,
}

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let mut load = Instrument::start(&mut bench.probes("lives"))?;
    block(&mut load, LIVES)?;
    let (mut without, mut with): (Vec<Block>, Vec<Block>) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(PAIRS) {
        let first = block(&mut load, LIVES)?;
        {
            let _daemon = Daemon::start(bench.workspace, &[])?;
            thread::sleep(SETTLE);
            with.push(block(&mut load, 2 * LIVES)?);
        }
        thread::sleep(SETTLE);
        let second = block(&mut load, LIVES)?;
        without.push(Block {
            median: f64::midpoint(first.median, second.median),
            mean: f64::midpoint(first.mean, second.mean),
            cpu: f64::midpoint(first.cpu, second.cpu),
        });
    }
    println!(
        "\nfork, exec, exit and wait in a loop, with `reaper run` and without: {} pairs of {} lives each way",
        with.len(),
        2 * LIVES
    );
    let mut table = Table::new(&["", "without, µs", "with, µs", "with / without", "95 % interval"]);
    let mut row = |name: &str, part: fn(&Block) -> f64| {
        let ratios: Vec<f64> =
            with.iter().zip(&without).map(|(with, without)| part(with) / part(without)).collect();
        let micros =
            |blocks: &[Block]| format!("{:.1}", 1e6 * median(&blocks.iter().map(part).collect::<Vec<_>>()));
        let (low, high) = median_interval(&ratios);
        table.row([
            name.to_owned(),
            micros(&without),
            micros(&with),
            format!("{:.4}", median(&ratios)),
            format!("{low:.4}..{high:.4}"),
        ]);
        high
    };
    let upper = row("by the clock, a block's median life", |block| block.median);
    row("by the clock, a block's mean", |block| block.mean);
    row("CPU time, a block's mean", |block| block.cpu);
    table.print();
    verdict("upper bound, median life", upper, 1.03);
    Ok(())
}

fn block(load: &mut Instrument, lives: u32) -> anyhow::Result<Block> {
    let answer = load.ask(&lives.to_string())?;
    let per_life = |key| number(&answer, key).map(|seconds| seconds / f64::from(lives));
    Ok(Block {
        median: number(&answer, "median_seconds")?,
        mean: per_life("seconds")?,
        cpu: per_life("cpu_seconds")?,
    })
}
