//! Files that are followed while the server runs: configurations of authentication and authorization, bundles of
//! authorities.
//!
//! A file is compared by its content, so that a rename, a symlink swap (a mounted ConfigMap) and a plain write are one
//! case. What cannot be used is logged and changes nothing.

use crate::authentication::expressions::Compiler;
use crate::authentication::jwt::JwtTokens;
use crate::authentication::jwt::config::AuthenticationConfiguration;
use crate::authentication::{Anonymous, AnonymousAccess};
use crate::authorization::config::AuthorizationConfiguration;
use crate::authorization::{Lasting, Reloadable};
use futures::future::BoxFuture;
use kit::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often a followed file is looked at.
pub const PERIOD: Duration = Duration::from_secs(5);
/// How long the issuers of a new configuration may take to answer before the old one stays.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes a new content; `Err` is why it cannot be used.
pub type Apply = Box<dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Hands every new content of `path` to `apply`, until `stop`. `first` is the content in force.
pub async fn follow(path: PathBuf, first: Vec<u8>, every: Duration, stop: Shutdown, apply: Apply) {
    let mut known = first;
    loop {
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(every) => {}
        }
        let content = match tokio::fs::read(&path).await {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a followed file cannot be read; what it said stays in force");
                continue;
            }
        };
        if content == known {
            continue;
        }
        known.clone_from(&content);
        match apply(content).await {
            Ok(()) => tracing::info!(path = %path.display(), "reloaded"),
            Err(error) => {
                tracing::error!(path = %path.display(), error, "the new content cannot be used; the old stays in force");
            }
        }
    }
}

/// What `--authentication-config` governs.
#[derive(Clone)]
pub struct AuthenticationReload {
    pub tokens: Arc<JwtTokens>,
    pub anonymous: AnonymousAccess,
    /// In force where the file says nothing of it.
    pub anonymous_by_flag: Anonymous,
    /// The service-account issuers.
    pub disallowed: Vec<String>,
    pub compiler: Option<Arc<dyn Compiler>>,
}

impl AuthenticationReload {
    /// Takes the first content; the issuers may answer later.
    pub fn start(&self, text: &[u8]) -> Result<(), String> {
        let config = AuthenticationConfiguration::parse(text, &self.disallowed).map_err(|e| e.to_string())?;
        let issuers = JwtTokens::build(&config, &[], self.compiler.as_deref())?;
        self.tokens.install(issuers);
        self.anonymous.replace(config.anonymous().unwrap_or_else(|| self.anonymous_by_flag.clone()));
        Ok(())
    }

    /// Takes a later content once all its issuers have answered.
    pub async fn replace(&self, text: &[u8]) -> Result<(), String> {
        let config = AuthenticationConfiguration::parse(text, &self.disallowed).map_err(|e| e.to_string())?;
        let issuers = JwtTokens::build(&config, &[], self.compiler.as_deref())?;
        JwtTokens::ready(&issuers, PATIENCE).await?;
        self.tokens.install(issuers);
        self.anonymous.replace(config.anonymous().unwrap_or_else(|| self.anonymous_by_flag.clone()));
        Ok(())
    }

    pub fn apply(self) -> Apply {
        Box::new(move |content| {
            let this = self.clone();
            Box::pin(async move { this.replace(&content).await })
        })
    }
}

/// For `--authorization-config`.
pub fn authorization(lasting: Lasting, reloadable: Arc<Reloadable>) -> Apply {
    Box::new(move |content| {
        let (lasting, reloadable) = (lasting.clone(), reloadable.clone());
        Box::pin(async move {
            let config = AuthorizationConfiguration::parse(&content).map_err(|e| e.to_string())?;
            reloadable.replace(Arc::new(lasting.chain(&config)?));
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn only_changes_are_applied_and_a_missing_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, "one").unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (sink, stop) = (seen.clone(), Shutdown::new());
        let apply: Apply = Box::new(move |content| {
            let text = String::from_utf8(content).unwrap();
            let bad = text == "bad";
            sink.lock().push(text);
            Box::pin(async move { if bad { Err("bad".into()) } else { Ok(()) } })
        });
        let every = Duration::from_millis(5);
        let task = tokio::spawn(follow(path.clone(), b"one".to_vec(), every, stop.clone(), apply));
        let until = async |count: usize| {
            for _ in 0..2000 {
                if seen.lock().len() >= count {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("{:?}", seen.lock());
        };
        std::fs::write(&path, "bad").unwrap();
        until(1).await;
        std::fs::remove_file(&path).unwrap();
        let next = dir.path().join("next");
        std::fs::write(&next, "two").unwrap();
        std::fs::rename(&next, &path).unwrap();
        until(2).await;
        stop.trigger();
        task.await.unwrap();
        assert_eq!(*seen.lock(), ["bad", "two"]);
    }

    #[tokio::test]
    async fn a_configuration_of_anonymous_requests_is_taken_and_kept() {
        let reload = AuthenticationReload {
            tokens: Arc::default(),
            anonymous: AnonymousAccess::from(Anonymous::Off),
            anonymous_by_flag: Anonymous::Off,
            disallowed: Vec::new(),
            compiler: None,
        };
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        let with = format!("{head}anonymous:\n  enabled: true\n  conditions:\n  - path: /livez\n");
        reload.start(with.as_bytes()).unwrap();
        assert!(reload.anonymous.user("/livez").is_some() && reload.anonymous.user("/api").is_none());
        assert!(reload.replace(b"nonsense").await.is_err());
        assert!(reload.anonymous.user("/livez").is_some());
        reload.replace(head.as_bytes()).await.unwrap();
        assert!(reload.anonymous.user("/livez").is_none());
    }
}
