//! The project's tasks: `cargo xtask NAME`, one file a task.
//!
//! A new task is a file with its own `Args` and `run`, a variant of [`Task`] and the arm the compiler then asks for.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "saying what is being done is what these commands are for"
)]
#![forbid(unsafe_code)]

mod aarch64;
mod bench;
mod build_ebpf;
mod command;
mod compiler;
mod debian;
mod dist;
mod failures;
mod object;
mod pythons;
mod release;
mod root;
mod run;
mod setup;
mod table;
mod test;
mod times;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Run(run::Args),
    Test(test::Args),
    Vm(vm::Args),
    Bench(bench::Args),
    Dist(dist::Args),
}

fn main() -> ExitCode {
    let Cli { task } = Cli::parse();
    match run_task(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_task(task: Task) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup(args) => setup::run(&workspace, &args),
        Task::BuildEbpf(args) => build_ebpf::run(&workspace, &args),
        Task::Run(args) => run::run(&workspace, &args),
        Task::Test(args) => test::run(&workspace, &args),
        Task::Vm(args) => {
            setup::ensure(&workspace, &[args.arch().group()])?;
            vm::run(&workspace, &args)
        }
        Task::Bench(args) => bench::run(&workspace, &args),
        Task::Dist(args) => dist::run(&workspace, &args),
    }
}
