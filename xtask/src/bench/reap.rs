//! How long a holder stands still while it is made to wait for its zombies, in batches of every size, beside one order for each
//! zombie and beside a debugger's call; and what a holder that runs meanwhile sees of it by its own clock.

use std::io::{BufRead as _, BufReader};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    Bench,
    table::{Table, verdict},
};
use crate::command;

const ROUNDS: usize = 30;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let mut injector = bench.example("injector");
    injector.arg(bench.workspace.reaper()).arg(bench.example("holder").get_program());
    injector.arg(bench.rounds(ROUNDS).to_string()).stdout(std::process::Stdio::piped());
    println!("\nwhat a holder bears that is made to wait for its zombies; it rests in a read");
    let name = command::line(&injector);
    let mut child = injector.spawn().with_context(|| format!("could not start `{name}`"))?;
    let output = child.stdout.take().context("no output")?;
    let rows: Vec<Value> = BufReader::new(output)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<anyhow::Result<_>>()?;
    ensure!(child.wait()?.success(), "`{name}` failed");
    let head = ["zombies", "stops", "p50, µs", "p99, µs", "max, µs", "µs a zombie", "in all, ms"];
    let mut table = Table::new(&head);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    let what = |row: &Value| row["what"].as_str().unwrap_or_default().to_owned();
    for row in rows.iter().filter(|row| row["pauses"].is_u64()) {
        let cell = |key: &str| row[key].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.row([
            what(row),
            cell("pauses"),
            cell("p50_us"),
            cell("p99_us"),
            cell("max_us"),
            format!("{:.1}", number(row, "us_per_zombie")),
            cell("total_ms"),
        ]);
    }
    table.print();
    for row in rows.iter().filter(|row| row["holder_goes_on"].is_boolean()) {
        println!(
            "  {}: {}, and the holder {}; it says: {}",
            what(row),
            if row["reaped"] == true { "it reaped" } else { "it did not reap" },
            if row["holder_goes_on"] == true { "goes on" } else { "has failed" },
            row["said"].as_str().unwrap_or_default().lines().next().unwrap_or_default()
        );
    }
    let of = |name: &str, key| {
        rows.iter().find(|row| row["what"] == name).map_or(f64::NAN, |row| number(row, key))
    };
    verdict("µs a zombie in batches of 10", of("batches of 10", "us_per_zombie"), 25.0);
    verdict("µs a zombie in batches of 100", of("batches of 100", "us_per_zombie"), 10.0);
    let many = "10000 in orders of 256";
    verdict("p99 of a pause with 10,000, µs", of(many, "p99_us"), 2_000.0);
    verdict("10,000 zombies in all, ms", of(many, "total_ms"), 500.0);
    Ok(())
}
