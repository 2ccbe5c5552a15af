//! The built binary as a cluster on a machine of its own, driven as a person would.

use crate::netns::Netns;
use crate::process::{Process, run, run_with_input, wait_for};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `ironclad up` in a network namespace with a data directory of its own. Drop takes it down and purges it.
pub struct Cluster {
    pub netns: Netns,
    binary: PathBuf,
    data: PathBuf,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    process: Option<Process>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts one and waits for a Ready node. `flags` are added to the command line.
    pub fn up(binary: &Path, flags: &[&str]) -> Result<Self> {
        Self::up_in(Netns::new()?, binary, flags)
    }

    /// As [`Cluster::up`], on a machine that is already there.
    pub fn up_in(netns: Netns, binary: &Path, flags: &[&str]) -> Result<Self> {
        Self::up_with(netns, binary, flags, &[])
    }

    /// As [`Cluster::up_in`], with environment variables for `ironclad up`.
    pub fn up_with(netns: Netns, binary: &Path, flags: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ironclad-test-").tempdir()?;
        let mut cluster = Self {
            netns,
            binary: binary.into(),
            data: folder.path().join("data"),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            process: None,
            _folder: folder,
        };
        cluster.start()?;
        Ok(cluster)
    }

    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A command of the built binary, on this machine, with this data directory.
    pub fn ironclad(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.command(&self.binary.to_string_lossy());
        command.args(arguments).arg("--data-dir").arg(&self.data);
        command
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.command("kubectl");
        command.arg("--kubeconfig").arg(self.data.join("admin.kubeconfig")).args(arguments);
        command
    }

    /// kubectl to its end; failure is an error with what it said.
    pub fn k(&self, arguments: &[&str]) -> Result<String> {
        run(self.kubectl(arguments))
    }

    pub fn apply(&self, manifest: &str) -> Result<String> {
        run_with_input(self.kubectl(&["apply", "-f", "-"]), manifest)
    }

    /// Starts (again) and waits for nothing.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = self.ironclad(&["up"]);
        command.args(&self.flags).envs(self.env.iter().map(|(k, v)| (k, v)));
        self.process = Some(Process::spawn(command, &self.data.with_extension("log"))?);
        Ok(())
    }

    /// Starts (again) and waits for a Ready node.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let mut process = self.process.take().context("not running")?;
        let ready = wait_for("a Ready node", Duration::from_secs(60), || {
            if let Some(status) = process.has_ended() {
                return Ok(Some(Err(status)));
            }
            let nodes = self.k(&["get", "nodes", "--no-headers"])?;
            Ok(nodes.split_whitespace().any(|w| w == "Ready").then_some(Ok(())))
        });
        match ready {
            Ok(Ok(())) => {}
            Ok(Err(status)) => bail!("ironclad up ended with {status}: {}", process.printed()),
            Err(error) => return Err(error.context(process.printed())),
        }
        self.process = Some(process);
        Ok(())
    }

    /// kill -9 of the whole control plane and node agent; pods stay.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and the end of the process.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("not running")?;
        process.signal("TERM")?;
        let status = process.wait(Duration::from_secs(30))?;
        if !status.success() {
            bail!("ironclad up ended with {status}: {}", process.printed());
        }
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            eprintln!("--- ironclad printed:\n{}", self.printed());
        }
        if let Err(error) = run(self.ironclad(&["down", "--purge"])) {
            eprintln!("ironclad down --purge: {error:#}");
        }
    }
}

/// Why this machine cannot run a whole cluster, if so.
pub fn missing() -> Option<String> {
    let root = std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
        .unwrap_or(false);
    if !root {
        return Some("needs root".into());
    }
    for program in ["ip", "nsenter", "kubectl"] {
        if Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output()
            .is_ok_and(|o| !o.status.success())
        {
            return Some(format!("{program} is not installed"));
        }
    }
    Netns::new().err().map(|e| format!("{e:#}"))
}
