//! `reference FOLDER` writes what is made of the command line's own description: man pages into FOLDER/man, shell completions into
//! FOLDER/completions. For `cargo xtask dist`.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};
use reaper::cli::args::CommandLine;

fn main() -> Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).context("usage: reference FOLDER")?);
    let folder_of = |name: &str| -> Result<PathBuf> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    };
    // `reaper help` needs no page and completes itself.
    let command = CommandLine::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder_of("man")?)?;
    let completions = folder_of("completions")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut CommandLine::command(), "reaper", &completions)?;
    }
    Ok(())
}
