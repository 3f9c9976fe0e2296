//! From the moment a zombie reaches the age to the moment its report can be read from the daemon's output.

use anyhow::Context as _;

use super::{
    Bench,
    instrument::{Instrument, number},
    numbers::quantile,
    table::{Table, verdict},
};

const LEAKS: usize = 400;
const AGE_MS: u64 = 1_000;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let mut delay = bench.probes("delay");
    delay.arg("--reaper").arg(bench.workspace.reaper());
    delay.args(["--age", &AGE_MS.to_string(), "--leaks", &bench.rounds(LEAKS).to_string()]);
    let answer = Instrument::start(&mut delay)?;
    let answer = &answer.ready;
    let delays: Vec<f64> = answer["delays_ns"]
        .as_array()
        .context("no delays")?
        .iter()
        .filter_map(|delay| Some(delay.as_f64()? / 1e6))
        .collect();
    println!(
        "\nfrom the age ({AGE_MS} ms) to the report read, ms: {} zombies at random moments, {} reported",
        number(answer, "leaks")?,
        delays.len()
    );
    let mut table = Table::new(&["least", "p50", "p99", "greatest"]);
    let cell = |value: f64| format!("{value:.1}");
    let least = delays.iter().copied().fold(f64::INFINITY, f64::min);
    let p99 = quantile(&delays, 0.99);
    table.row([cell(least), cell(quantile(&delays, 0.5)), cell(p99), cell(quantile(&delays, 1.0))]);
    table.print();
    verdict("p99, ms", p99, 50.0);
    Ok(())
}
