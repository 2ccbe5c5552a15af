//! The raw API, by curl and an admin kubeconfig's certificate: what a client sees before kubectl dresses it up.

use crate::netns::Netns;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Talks to one API server as its administrator, from a network namespace.
pub struct Api {
    netns: String,
    server: String,
    folder: tempfile::TempDir,
}

/// A response: status code, headers as sent, body.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {:?}", self.body))
    }

    /// `message` of a Status.
    pub fn message(&self) -> String {
        self.json().map(|v| v["message"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    }
}

impl Api {
    pub fn new(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let folder = tempfile::tempdir()?;
        let field = |name: &str| -> Result<String> {
            let found = text.lines().find_map(|l| l.trim().trim_start_matches("- ").strip_prefix(name));
            let found = found.with_context(|| format!("{name} is not in the kubeconfig"))?;
            Ok(found.trim().trim_matches('"').to_owned())
        };
        for (name, file) in [
            ("certificate-authority-data:", "ca"),
            ("client-certificate-data:", "crt"),
            ("client-key-data:", "key"),
        ] {
            let bytes = base64::engine::general_purpose::STANDARD.decode(field(name)?)?;
            std::fs::write(folder.path().join(file), bytes)?;
        }
        Ok(Self { netns: netns.name().into(), server: field("server:")?, folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `https://address:port`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// curl without a client certificate, trusting the cluster's CA.
    pub fn anonymous(&self, path: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).args([
            "--",
            "curl",
            "-sS",
            "--http1.1",
            "--max-time",
        ]);
        command.args(["20", "-i", "--cacert"]).arg(self.file("ca"));
        command.arg(format!("{}{path}", self.server)).stdin(Stdio::null());
        command
    }

    /// curl as the administrator.
    pub fn curl(&self, path: &str) -> Command {
        let mut command = self.anonymous(path);
        command.arg("--cert").arg(self.file("crt")).arg("--key").arg(self.file("key"));
        command
    }

    /// Sends and reads the answer; an error when there is none.
    pub fn send(mut command: Command) -> Result<Answer> {
        let output = command.output().context("run curl")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "curl: {}", said.trim());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut rest = text.as_str();
        loop {
            let (headers, body) = rest.split_once("\r\n\r\n").context("no end of headers")?;
            let code = headers.split(' ').nth(1).context("no status")?.parse()?;
            if code != 100 {
                return Ok(Answer { code, headers: headers.into(), body: body.into() });
            }
            rest = body;
        }
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        Self::send(self.curl(path))
    }

    /// A request with a body.
    pub fn request(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Answer> {
        let mut command = self.curl(path);
        let file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        std::fs::write(file.path(), body)?;
        command.args(["-X", method, "-H", &format!("Content-Type: {kind}"), "-H", "Expect:"]);
        command.arg("--data-binary").arg(format!("@{}", file.path().display()));
        Self::send(command)
    }

    pub fn delete(&self, path: &str) -> Result<Answer> {
        let mut command = self.curl(path);
        command.args(["-X", "DELETE"]);
        Self::send(command)
    }
}
