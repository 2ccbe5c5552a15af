//! The cluster that is measured: started, asked, taken down.

use crate::cli::ClusterOptions;
use crate::proc;
use crate::requests::{JSON, anonymous, connect, request};
use crate::watch::{Watch, is_ready};
use anyhow::{Context, Error, Result, anyhow, bail};
use http::Method;
use kube::Client;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::netns::Netns;
use testkit::process::{Process, run};

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a server that is starting: the resolution of `start_to_readyz`.
const LOOK: Duration = Duration::from_millis(1);

/// `PATH up` with a data directory of its own. Drop takes it down and purges it.
pub struct Subject<'a> {
    netns: &'a Netns,
    binary: &'a Path,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    flags: &'a [String],
    process: Option<Process>,
}

/// Times from the start of the process.
pub struct Took {
    pub readyz: Duration,
    pub node_ready: Duration,
}

/// What `version -o json` says, in words.
pub fn version(binary: &Path) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(["version", "-o", "json"]);
    let said: Value = serde_json::from_str(&run(command)?).context("read the version of the binary")?;
    let word = |key: &str| said[key].as_str().unwrap_or("unknown").to_owned();
    Ok(format!("ironclad {} (kubernetes {})", word("ironclad"), word("kubernetes")))
}

impl<'a> Subject<'a> {
    pub fn new(netns: &'a Netns, binary: &'a Path, folder: &Path, options: &'a ClusterOptions) -> Self {
        let (data, log) = (folder.join("data"), folder.join("log"));
        Self { netns, binary, data, log, port: options.port, flags: &options.flags, process: None }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.command(&self.binary.to_string_lossy());
        command.args(arguments).arg("--data-dir").arg(&self.data);
        command
    }

    /// A client of the administrator.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.data.join("admin.kubeconfig")).await
    }

    /// Starts it, until its node is Ready.
    pub async fn start(&mut self) -> Result<Took> {
        let asking = anonymous(self.port)?;
        let mut command = self.command(&["up", "--port", &self.port.to_string()]);
        command.args(self.flags);
        let begun = Instant::now();
        self.process = Some(Process::spawn(command, &self.log)?);
        let done = tokio::time::timeout(START_LIMIT, async {
            self.readyz(&asking).await?;
            let readyz = begun.elapsed();
            self.node_ready().await?;
            Ok(Took { readyz, node_ready: begun.elapsed() })
        });
        let result = done.await.unwrap_or_else(|_| bail!("the cluster was not ready within {START_LIMIT:?}"));
        result.map_err(|error| self.explain(error))
    }

    async fn readyz(&mut self, asking: &Client) -> Result<()> {
        while asking.request_text(request(Method::GET, "/readyz", JSON, vec![])?).await.is_err() {
            self.alive()?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn node_ready(&mut self) -> Result<()> {
        while !self.data.join("admin.kubeconfig").exists() {
            self.alive()?;
            tokio::time::sleep(LOOK).await;
        }
        let mut nodes = Watch::with_present(&self.client().await?, "/api/v1/nodes").await?;
        while !is_ready(&nodes.event().await?.1) {}
        Ok(())
    }

    fn alive(&mut self) -> Result<()> {
        match self.process.as_mut().and_then(Process::has_ended) {
            Some(status) => bail!("`up` ended with {status}"),
            None => Ok(()),
        }
    }

    /// Imports an archive into the node's image store.
    pub fn import(&self, archive: &Path) -> Result<()> {
        run(self.command(&["image", "import", &archive.to_string_lossy()])).map(drop)
    }

    /// Every process of the cluster on this machine.
    pub fn processes(&self) -> BTreeSet<u32> {
        let root = self.process.as_ref().map(Process::pid);
        root.map(|pid| proc::family(pid, &self.marks())).unwrap_or_default()
    }

    /// Folders that the command lines of its processes name: the data directory, and the one in /run that claims it.
    fn marks(&self) -> Vec<String> {
        let data = self.data.to_string_lossy().into_owned();
        let runs =
            std::fs::read_dir("/run/ironclad").into_iter().flatten().flatten().map(|entry| entry.path());
        let ours = runs.filter(|run| {
            std::fs::read_to_string(run.join("data-dir")).is_ok_and(|owner| owner.trim() == data)
        });
        let mut marks: Vec<String> = ours.map(|run| format!("{}/", run.display())).collect();
        marks.push(data);
        marks
    }

    /// The error with the last the server printed.
    pub fn explain(&self, error: Error) -> Error {
        let printed = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = printed.lines().collect();
        let last = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n");
        if last.is_empty() { error } else { anyhow!("{error:#}\nthe last that `up` printed:\n{last}") }
    }

    /// Stops it and takes away all it made.
    pub fn down(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        // What `down` finds running it refuses to touch, so the server has ended either way.
        if process.has_ended().is_none() {
            let stopped = process.signal("TERM").and_then(|()| process.wait(STOP_LIMIT));
            if stopped.is_err() {
                process.kill();
            }
        }
        run(self.command(&["down", "--purge"])).map(drop)
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("bench: take the cluster down: {error:#}");
        }
    }
}
