//! Benchmarks. Every figure is one line of JSON on standard output; progress and errors go to standard error.
//!
//! Invariants:
//! * Nothing here asserts a time: a slow machine gives a large figure, not a failure.
//! * Whatever is started or created is taken away again, also after an error or an interrupt.
//! * `api` needs nothing but a kubeconfig and uses only what every Kubernetes serves, so it measures upstream too.

mod api;
mod cli;
mod cluster;
mod figure;
mod growth;
mod interrupt;
mod plot;
mod proc;
mod progress;
mod requests;
mod watch;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match cli::Cli::parse().mode {
        cli::Mode::Cluster(options) => cluster::run(&options),
        cli::Mode::Api(options) => api::run(&options),
        cli::Mode::Growth(options) => growth::run(&options),
        cli::Mode::Plot(options) => plot::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
