//! The engines under test, each fresh and private.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Store, StoreError};

pub struct Subject {
    pub store: Arc<dyn Store>,
    _server: Option<Etcd>,
    _dir: tempfile::TempDir,
}

pub fn embedded() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let store = store::embedded::open(dir.path(), store::embedded::Options::default()).unwrap();
    Subject { store, _server: None, _dir: dir }
}

/// `None`, said aloud, where there is no etcd to test with.
pub async fn etcd() -> Option<Subject> {
    let dir = tempfile::tempdir().unwrap();
    let server = Etcd::start(dir.path(), &[])?;
    let store = server.connect("").await;
    Some(Subject { store, _server: Some(server), _dir: dir })
}

/// A private etcd, killed when dropped.
pub struct Etcd {
    child: Child,
    pub url: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// On a free port, with its data in `dir`; `extra` arguments may use `https`.
    pub fn start(dir: &Path, extra: &[&str]) -> Option<Self> {
        Self::start_at(dir, free_port(), extra)
    }

    pub fn start_at(dir: &Path, port: u16, extra: &[&str]) -> Option<Self> {
        let scheme = if extra.iter().any(|arg| arg.starts_with("--cert-file")) { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.join("etcd"));
        command.args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--log-level",
            "error",
            "--logger",
            "zap",
        ]);
        Self::spawn(command.args(extra), &url, &peer)
    }

    fn spawn(command: &mut Command, url: &str, peer: &str) -> Option<Self> {
        command.args(["--listen-client-urls", url, "--advertise-client-urls", url]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => Some(Self { child, url: url.to_owned() }),
            Err(error) => {
                eprintln!("SKIPPED: no etcd to test with ({error}); install etcd-server");
                None
            }
        }
    }

    /// Three members of one cluster.
    pub fn start_three(dir: &Path) -> Option<Vec<Self>> {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let members = ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"));
        let cluster = members.collect::<Vec<_>>().join(",");
        let start = |(n, (client, peer)): (usize, &(u16, u16))| {
            let (url, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("m{n}"), "--initial-cluster", &cluster]).arg("--data-dir");
            command.arg(dir.join(format!("m{n}"))).args(["--log-level", "error", "--logger", "zap"]);
            Self::spawn(&mut command, &url, &peer)
        };
        ports.iter().enumerate().map(start).collect()
    }

    pub fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub async fn connect(&self, prefix: &str) -> Arc<dyn Store> {
        connect(std::slice::from_ref(&self.url), None, prefix).await
    }
}

/// Waits for a server that is starting.
pub async fn connect(urls: &[String], tls: Option<store::etcd::Tls>, prefix: &str) -> Arc<dyn Store> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match store::etcd::connect(urls, tls.clone(), prefix).await {
            Ok(store) => return store,
            Err(StoreError::Unavailable(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
