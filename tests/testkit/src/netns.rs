//! A network namespace as a machine of its own: nothing it does reaches the real one.

use anyhow::{Context, Result, bail};
use std::process::Command;

/// A named network namespace (`ip netns`), deleted on drop of its owner. It has `lo` and nothing else.
pub struct Netns {
    name: String,
    owned: bool,
}

impl Netns {
    pub fn new() -> Result<Self> {
        let name = format!("icn{:06x}", rand::random::<u32>() & 0xff_ffff);
        run(&["netns", "add", &name])?;
        let netns = Self { name, owned: true };
        run(&["-n", &netns.name, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The same namespace for another cluster on the same machine; `self` must outlive it.
    pub fn share(&self) -> Self {
        Self { name: self.name.clone(), owned: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside. Only the network differs: `/sys`, and with it the cgroups, stay visible.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.name), "--", program]);
        command
    }

    /// Links other than `lo`.
    pub fn links(&self) -> Result<Vec<String>> {
        let output = Command::new("ip").args(["-n", &self.name, "-o", "link"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names =
            text.lines().filter_map(|l| l.split(": ").nth(1)).map(|n| n.split('@').next().unwrap_or(n));
        Ok(names.filter(|n| *n != "lo").map(str::to_owned).collect())
    }

    /// Addresses other than those of `lo`.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let output = Command::new("ip").args(["-n", &self.name, "-o", "-4", "address"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().map(|l| l.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" "));
        Ok(lines.filter(|l| !l.starts_with("lo ")).collect())
    }

    pub fn routes(&self) -> Result<Vec<String>> {
        let output = Command::new("ip").args(["-n", &self.name, "route"]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned {
            let _ = run(&["netns", "del", &self.name]);
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip (Debian: iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
