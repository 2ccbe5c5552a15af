//! What the black-box suites share: where the built binary is.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// The binary under test: `IRONCLAD_BIN`, or the debug build of this workspace, which is brought up to date first.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("IRONCLAD_BIN") {
        return Ok(path.into());
    }
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "ironclad"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .status()
        .context("build the binary")?;
    if !status.success() {
        bail!("the binary does not build");
    }
    let mut path = std::env::current_exe()?;
    // target/<triple>/debug/deps/<test> -> target/<triple>/debug/ironclad
    path.pop();
    path.pop();
    Ok(path.join("ironclad"))
}
