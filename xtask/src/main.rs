//! Project chores.

use clap::{Parser, Subcommand};

mod gen_schema;

#[derive(Parser)]
#[command(name = "xtask", about = "Project chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the table of built-in kinds from the Go API packages
    GenSchema(gen_schema::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::GenSchema(args) => gen_schema::run(args),
    }
}
