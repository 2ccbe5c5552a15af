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

/// What a command did: exit code, standard output, standard error.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs to the end whatever comes of it.
pub fn done(mut command: Command) -> Result<Done> {
    let output =
        command.stdin(std::process::Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    Ok(Done {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Done {
    /// It failed with exit code 1 and said one line on standard error, beginning with the program's name and holding
    /// each of `words`; nothing on it is unprintable.
    pub fn refuses(&self, words: &[&str]) -> Result<()> {
        if self.code != Some(1) {
            bail!("exit code 1 was due: {self:?}");
        }
        let line = self.err.trim_end_matches('\n');
        if line.contains(|c: char| c.is_control() || c == '\u{fffd}') || !line.starts_with("ironclad: ") {
            bail!("one clear line was due: {self:?}");
        }
        match words.iter().find(|w| !line.contains(**w)) {
            Some(word) => bail!("{word:?} was due in {line:?}"),
            None => Ok(()),
        }
    }
}

/// busybox as `busybox:1`, in an archive below `folder`.
pub fn busybox(folder: &std::path::Path) -> Result<PathBuf> {
    let path = folder.join("busybox.tar");
    testkit::image::ImageBuilder::busybox("busybox:1")?.docker_archive(&path)?;
    Ok(path)
}

/// Why the test cannot run on this machine, printed; every test that is not run says so.
pub fn skipped(reasons: &[Option<String>]) -> bool {
    let reason = reasons.iter().flatten().next();
    if let Some(reason) = reason {
        println!("skipped: {reason}");
    }
    reason.is_some()
}

/// A reason when the program is not there.
pub fn without(program: &str) -> Option<String> {
    let found = std::path::Path::new(program).is_file()
        || std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    (!found).then(|| format!("{program} is not installed"))
}
