//! Client and server of the KMS plugin interface, compiled in pure Rust. The server half is for tests.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/kms.proto");
    let descriptors = protox::compile(["proto/kms.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
