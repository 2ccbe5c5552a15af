//! The supervisor that the tests' runtime executes for each pod.

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    std::process::exit(runtime::supervise_main(arguments.get(2..).unwrap_or_default()));
}
