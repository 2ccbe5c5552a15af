//! The folder law, as a check: which crate may name which, and what every file must look like.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each folder may use besides itself. `tests`, `bench` and `xtask` stand outside the product.
const MAY_USE: [(&str, &[&str]); 5] = [
    ("base", &["base"]),
    ("server", &["base", "server"]),
    ("host", &["base", "host"]),
    ("components", &["base", "host"]),
    ("app", &["base", "server", "host", "components"]),
];
/// Folders whose crates may hold `unsafe`.
const UNSAFE_IN: [&str; 1] = ["host/"];
/// A file past this many lines has two ideas. Data tables are listed by name.
const LONGEST: usize = 700;

/// Checks everything and reports all findings at once.
pub fn run(root: &Path) -> Result<()> {
    let mut findings = Vec::new();
    folders(root, &mut findings)?;
    files(root, &mut findings)?;
    if findings.is_empty() {
        println!("tidy: the folder law holds");
        return Ok(());
    }
    for finding in &findings {
        println!("tidy: {finding}");
    }
    bail!("{} findings", findings.len())
}

fn folders(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let mut folder_of = BTreeMap::new();
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    for package in packages {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest.strip_prefix(root).ok().and_then(|p| p.iter().next()).and_then(|f| f.to_str());
        folder_of.insert(package["name"].as_str().unwrap_or_default(), folder.unwrap_or_default().to_owned());
    }
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = folder_of.get(name).and_then(|folder| rules.get(folder.as_str())) else {
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // What tests use is no arrow of the product.
            if dependency["kind"] == "dev" {
                continue;
            }
            let used = dependency["name"].as_str().unwrap_or_default();
            match folder_of.get(used) {
                Some(folder) if !allowed.contains(&folder.as_str()) => {
                    findings.push(format!("{}/{name} must not use {folder}/{used}", folder_of[name]));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn files(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let output = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard", "*.rs"])
        .current_dir(root)
        .output()?;
    let listing = String::from_utf8(output.stdout).context("file names")?;
    let mut stems: BTreeSet<String> = BTreeSet::new();
    for path in listing.lines() {
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        let lines = text.lines().count();
        if lines > LONGEST {
            findings.push(format!("{path} has {lines} lines, more than {LONGEST}: two ideas in one room"));
        }
        if !text.starts_with("//!") && !text.starts_with("#!") {
            findings.push(format!("{path} does not begin with a module doc"));
        }
        let allowed = UNSAFE_IN.iter().any(|folder| path.starts_with(folder));
        if !allowed
            && text.lines().any(|l| {
                l.trim_start().starts_with(concat!("unsafe", " {")) || l.contains(concat!("= ", "unsafe {"))
            })
        {
            findings.push(format!("{path} has unsafe code outside {}", UNSAFE_IN.join(", ")));
        }
        let stem = path.trim_end_matches(".rs").to_owned();
        for old in ["_new", "_old", "_v2", "2"] {
            if let Some(twin) = stem.strip_suffix(old).filter(|t| stems.contains(*t)) {
                findings.push(format!("{path} looks like a second {twin}.rs"));
            }
        }
        stems.insert(stem);
    }
    Ok(())
}
