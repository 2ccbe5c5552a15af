//! The cluster that is tested: a server of our own, or the one `KUBECONFIG_UNDER_TEST` names.
//!
//! A foreign cluster must be marked, for the suite makes and deletes cluster-scoped objects:
//! `kubectl annotate namespace kube-system ironclad.test/subject=true`.
//!
//! Two words about it make more cases run: `SUBJECT_CONTROLLERS=yes` says that a controller manager runs beside it,
//! `SUBJECT_FORGETS=yes` that its history is compacted every few seconds.

use crate::http::Api;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::process::Process;

pub const VARIABLE: &str = "KUBECONFIG_UNDER_TEST";
pub const MARK: &str = "ironclad.test/subject";
const LIMIT: Duration = Duration::from_secs(90);

/// Whether somebody said that of the cluster under test.
pub fn is_said(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|v| v == "yes")
}

/// A server, for as long as this lives.
pub struct Subject {
    pub api: Api,
    own: Option<Own>,
}

struct Own {
    process: Process,
    folder: tempfile::TempDir,
}

impl Subject {
    /// The named cluster, or a control plane on a free port with a data directory of its own.
    pub async fn start(flags: &[&str]) -> Result<Self> {
        match std::env::var_os(VARIABLE) {
            Some(path) => Self::foreign(Path::new(&path)).await,
            None => Self::own(flags).await,
        }
    }

    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    pub fn printed(&self) -> String {
        self.own.as_ref().map(|own| own.process.printed()).unwrap_or_default()
    }

    /// Where its administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        match &self.own {
            Some(own) => Ok(own.folder.path().join("data/admin.kubeconfig")),
            None => Ok(std::env::var_os(VARIABLE).context("no kubeconfig")?.into()),
        }
    }

    async fn foreign(path: &Path) -> Result<Self> {
        let api = Api::from_kubeconfig(path)?;
        let namespace = api.get("/api/v1/namespaces/kube-system").is(200).await?;
        ensure!(
            namespace["metadata"]["annotations"][MARK] == "true",
            "{} is not marked for tests: annotate its namespace kube-system with {MARK}=true",
            api.server()
        );
        Ok(Self { api, own: None })
    }

    async fn own(flags: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let mut command = Command::new(blackbox::binary()?);
        command.args(["server", "--port", "0", "--data-dir"]).arg(&data).args(flags);
        let mut process = Process::spawn(command, &folder.path().join("log"))?;
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = process.has_ended() {
                bail!("the server ended with {status}: {}", process.printed());
            }
            match ready(&data.join("admin.kubeconfig")).await {
                Ok(api) => return Ok(Self { api, own: Some(Own { process, folder }) }),
                Err(error) if Instant::now() > end => return Err(error.context(process.printed())),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn ready(kubeconfig: &Path) -> Result<Api> {
    let api = Api::from_kubeconfig(kubeconfig)?;
    ensure!(api.get("/readyz").send().await?.code == 200, "not ready");
    api.get("/api/v1/namespaces/default/serviceaccounts/default").is(200).await?;
    Ok(api)
}
