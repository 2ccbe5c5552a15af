//! `ironclad`: a production Kubernetes application platform in one binary.

mod api_flags;
mod cli;
mod control;
mod control_plane;
mod data_dir;
mod demo;
mod down;
mod hello;
mod identity;
mod images;
mod join;
mod node_stack;
mod place;
mod preflight;
mod progress;
mod snapshot;
mod up;
mod version;

use clap::Parser;
use std::process::ExitCode;

/// What is logged by default. Connection errors of the client come back as errors, and are told once.
const LOG: &str = "warn,kube_client::client::builder=off";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, which almost doubles an idle cluster's memory and is 4 MiB for every supervisor.
    // Inherited by supervisors; the runtime gives it back to what runs in containers.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Before any thread: a supervisor stays single-threaded.
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("supervise") => return ExitCode::from(runtime::supervise_main(&arguments[2..]) as u8),
        Some("hello") => return finish(async move { hello::main(&arguments[2..]).await }),
        _ => {}
    }
    let cli = cli::Cli::parse();
    if let Err(error) = kit::tracing_setup::init(LOG, kit::tracing_setup::Format::Text) {
        eprintln!("ironclad: {error}");
        return ExitCode::FAILURE;
    }
    preflight::raise_open_files();
    finish(async move {
        match cli.command {
            cli::Command::Up(flags) => up::up(flags).await,
            cli::Command::Server(flags) => up::server(flags).await,
            cli::Command::Agent(flags) => up::agent(flags).await,
            cli::Command::Down(flags) => down::run(flags).await,
            cli::Command::Image(flags) => images::run(flags.command).await,
            cli::Command::Snapshot(flags) => snapshot::run(flags.command),
            cli::Command::Demo(flags) => demo::run(flags).await,
            cli::Command::Version(flags) => version::run(flags),
        }
    })
}

/// Runs to the end; an error is one line on standard error and exit code 1.
fn finish(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ironclad: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(work);
    // Blocking work that is still under way (a pull, say) does not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ironclad: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes as one line: what a cause repeats, and what a parser draws below its first line, is left out.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let said = cause.to_string();
        let said = said.lines().next().unwrap_or_default();
        if !text.contains(said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(said);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_repetition() {
        let refused = anyhow::anyhow!("connection refused\n --> here");
        let error = refused.context("connect: connection refused").context("reach the cluster");
        assert_eq!(sentence(&error), "reach the cluster: connect: connection refused");
    }
}
