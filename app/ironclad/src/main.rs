//! `ironclad`: a production Kubernetes application platform in one binary.

mod cli;
mod control_plane;
mod data_dir;
mod hello;
mod preflight;
mod progress;

fn main() {}
