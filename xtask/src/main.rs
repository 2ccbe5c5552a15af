//! Project chores.

use clap::{Parser, Subcommand};

mod gen_schema;
mod tidy;

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
    /// Check the folder law: which crate uses which, file sizes, module docs, where unsafe may stand
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::GenSchema(args) => gen_schema::run(args),
        Command::Tidy => tidy::run(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(std::path::Path::new(".")),
        ),
    }
}
