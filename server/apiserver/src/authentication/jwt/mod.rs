//! Tokens of issuers outside: OpenID Connect by flags or by structured configuration (KEP-3331).

pub mod config;
mod issuer;
mod keys;
mod validate;

pub use issuer::JwtIssuer;

use super::bearer::fingerprint;
use super::expressions::Compiler;
use super::{AuthenticationError, RemoteTokens, TokenAnswer};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use chrono::Utc;
use config::AuthenticationConfiguration;
use issuer::Presented;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a token that was good is taken for good without looking again, as upstream's token cache does.
const REMEMBER: Duration = Duration::from_secs(10);
const REMEMBERED: usize = 4096;
/// Between attempts to reach an issuer that has not answered yet.
const RETRY: Duration = Duration::from_secs(10);

struct Remembered {
    answer: TokenAnswer,
    until: Instant,
}

/// One configuration's issuers, and what they said lately.
#[derive(Default)]
struct Issuers {
    all: Vec<Arc<JwtIssuer>>,
    seen: Mutex<HashMap<[u8; 32], Remembered>>,
}

/// The issuers in force; replaced whole when the configuration changes.
#[derive(Default)]
pub struct JwtTokens(ArcSwap<Issuers>);

impl JwtTokens {
    /// Every issuer of a configuration, ready to be [installed](Self::install). `algorithms` as for [`JwtIssuer::new`].
    pub fn build(
        config: &AuthenticationConfiguration,
        algorithms: &[String],
        compiler: Option<&dyn Compiler>,
    ) -> Result<Vec<Arc<JwtIssuer>>, String> {
        let issuer = |jwt: &config::JwtConfig| {
            JwtIssuer::new(jwt.clone(), algorithms.to_vec(), compiler).map(Arc::new)
        };
        config.jwt.iter().map(issuer).collect()
    }

    /// Puts issuers in force and begins to fetch their keys, again and again until each has answered once or is
    /// replaced.
    pub fn install(self: &Arc<Self>, issuers: Vec<Arc<JwtIssuer>>) {
        let set = Arc::new(Issuers { all: issuers, seen: Mutex::default() });
        self.0.store(set.clone());
        let still = Arc::downgrade(self);
        tokio::spawn(async move {
            for issuer in &set.all {
                let (issuer, set, still) = (issuer.clone(), set.clone(), still.clone());
                tokio::spawn(async move {
                    while let Err(error) = issuer.prepare().await {
                        tracing::warn!(issuer = issuer.url(), error, "an OIDC issuer cannot be reached yet");
                        tokio::time::sleep(RETRY).await;
                        let in_force = still.upgrade().is_some_and(|t| Arc::ptr_eq(&t.0.load(), &set));
                        if !in_force {
                            return;
                        }
                    }
                });
            }
        });
    }

    /// Waits until every issuer of the set has answered once; false when `within` passed before.
    pub async fn ready(issuers: &[Arc<JwtIssuer>], within: Duration) -> Result<(), String> {
        let all = async {
            for issuer in issuers {
                while let Err(error) = issuer.prepare().await {
                    tracing::debug!(issuer = issuer.url(), error, "an OIDC issuer cannot be reached yet");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        };
        let slow = |_| {
            let url = issuers.iter().find(|i| !i.is_ready()).map_or("", |i| i.url());
            format!("oidc: authenticator for issuer {url:?} is not healthy: it did not answer in time")
        };
        tokio::time::timeout(within, all).await.map_err(slow)
    }
}

#[async_trait]
impl RemoteTokens for JwtTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        _: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError> {
        let issuers = self.0.load_full();
        if issuers.all.is_empty() {
            return Ok(None);
        }
        let key = fingerprint(token.as_bytes());
        let now = Instant::now();
        if let Some(known) = issuers.seen.lock().get(&key).filter(|k| k.until > now) {
            return Ok(Some(known.answer.clone()));
        }
        let Some(presented) = Presented::read(token) else { return Ok(None) };
        for issuer in &issuers.all {
            let wall = Utc::now();
            let Some((user, expiry)) = issuer.authenticate(&presented, wall).await? else { continue };
            let answer = TokenAnswer { user, audiences: Vec::new() };
            let left = Duration::from_secs((expiry - wall.timestamp()).max(0) as u64);
            let mut seen = issuers.seen.lock();
            if seen.len() >= REMEMBERED {
                seen.retain(|_, k| k.until > now);
                if seen.len() >= REMEMBERED {
                    seen.clear();
                }
            }
            seen.insert(key, Remembered { answer: answer.clone(), until: now + REMEMBER.min(left) });
            return Ok(Some(answer));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
