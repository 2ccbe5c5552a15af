//! A server that can be killed: its process, and its etcd's, on ports of their own.

use anyhow::{Context, Result, bail, ensure};
use api::http::Api;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::process::Process;

const LIMIT: Duration = Duration::from_secs(60);

/// Where the state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Embedded,
    Etcd,
}

pub struct Subject {
    engine: Engine,
    binary: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    etcd_port: u16,
    server: Option<Process>,
    etcd: Option<Process>,
}

impl Subject {
    pub fn start(engine: Engine) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ironclad-history-").tempdir()?;
        let mut subject = Self {
            engine,
            binary: blackbox::binary()?,
            folder,
            port: free()?,
            etcd_port: free()?,
            server: None,
            etcd: None,
        };
        subject.launch_etcd()?;
        subject.launch()?;
        Ok(subject)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("data/admin.kubeconfig")
    }

    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .args(["server", "--port", &self.port.to_string(), "--data-dir"])
            .arg(self.folder.path().join("data"));
        if self.engine == Engine::Etcd {
            command.args(["--store", &format!("etcd=http://127.0.0.1:{}", self.etcd_port)]);
        }
        self.server = Some(Process::spawn(command, &self.folder.path().join("log"))?);
        Ok(())
    }

    fn launch_etcd(&mut self) -> Result<()> {
        if self.engine != Engine::Etcd {
            return Ok(());
        }
        let url = format!("http://127.0.0.1:{}", self.etcd_port);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.folder.path().join("etcd")).args(["--listen-client-urls", &url]);
        command.args(["--advertise-client-urls", &url, "--listen-peer-urls", "http://127.0.0.1:0"]);
        self.etcd = Some(Process::spawn(command, &self.folder.path().join("etcd.log"))?);
        Ok(())
    }

    /// Waits until it answers.
    pub async fn ready(&mut self) -> Result<Api> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.answers().await {
                Ok(api) => return Ok(api),
                Err(error) if Instant::now() > end => return Err(error.context(self.printed())),
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
            }
            // One that found no etcd has given up, as it should; whoever runs it starts it again.
            if self.server.as_mut().is_none_or(|server| server.has_ended().is_some()) {
                self.launch()?;
            }
            if self.engine == Engine::Etcd && self.etcd.as_mut().is_none_or(|etcd| etcd.has_ended().is_some())
            {
                self.launch_etcd()?;
            }
        }
    }

    async fn answers(&self) -> Result<Api> {
        let api = Api::from_kubeconfig(&self.kubeconfig())?;
        let answer = tokio::time::timeout(Duration::from_secs(2), api.get("/readyz").send()).await;
        let answer = answer.context("no answer")??;
        ensure!(answer.code == 200, "not ready: {}", answer.text());
        Ok(api)
    }

    /// kill -9 of the server, and its start.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server = None;
        self.launch()
    }

    /// kill -9 of etcd, and its start.
    pub fn kill_etcd(&mut self) -> Result<()> {
        if self.engine != Engine::Etcd {
            bail!("there is no etcd");
        }
        self.etcd = None;
        self.launch_etcd()
    }
}

/// A port that nobody listened on a moment ago.
fn free() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
