//! Kubeconfig texts.

use super::{Leaf, PkiError};
use base64::Engine as _;
use std::path::Path;

/// How the user of a kubeconfig proves who they are.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    Certificate(&'a Leaf),
    Token(&'a str),
}

/// A kubeconfig with one cluster, one user and one context.
#[derive(Clone, Copy)]
pub struct Kubeconfig<'a> {
    /// `https://host:port`.
    pub server: &'a str,
    pub cluster: &'a str,
    pub user: &'a str,
    pub ca_pem: &'a str,
    pub credentials: Credentials<'a>,
}

impl Kubeconfig<'_> {
    pub fn render(&self) -> String {
        let data = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let credentials = match self.credentials {
            Credentials::Certificate(leaf) => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                data(&leaf.certificate_pem()),
                data(&leaf.key_pem())
            ),
            Credentials::Token(token) => format!("    token: {}\n", quoted(token)),
        };
        let (server, cluster, user) = (quoted(self.server), quoted(self.cluster), quoted(self.user));
        let context = quoted(&format!("{}@{}", self.user, self.cluster));
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n{credentials}contexts:\n- name: \
             {context}\n  context:\n    cluster: {cluster}\n    user: {user}\ncurrent-context: {context}\n\
             preferences: {{}}\n",
            ca = data(self.ca_pem),
        )
    }

    /// Writes the file atomically with mode 0600, unless it already says exactly this.
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        let text = self.render();
        if std::fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
            return Ok(());
        }
        super::directory::write(path, text.as_bytes())
    }
}

/// A YAML scalar: plain where that is safe, double-quoted otherwise.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:@[]".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain) && !text.ends_with(':')
    {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}
