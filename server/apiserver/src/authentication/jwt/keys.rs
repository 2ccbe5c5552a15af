//! An issuer's discovery document and keys, fetched when first needed and again when a token names a key nobody knows.
//!
//! Contract: a verification that known keys can answer makes no call. Callers that need a fetch at the same time share
//! one. A failed fetch is reported to those who waited for it; the keys known before stay.

use crate::remote::{Remote, RemoteError};
use crate::tokens::jose::{PublicKey, Unverified};
use arc_swap::ArcSwapOption;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

const PATIENCE: Duration = Duration::from_secs(30);
pub const WELL_KNOWN: &str = "/.well-known/openid-configuration";

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("{url}: {code}: {body}")]
    Refused { url: String, code: u16, body: String },
    #[error("{url}: the answer is not JSON")]
    NotJson { url: String },
    #[error(
        "oidc: issuer did not match the issuer returned by provider, expected {expected:?} got {found:?}"
    )]
    OtherIssuer { expected: String, found: String },
    #[error("provider did not return JWKS URL")]
    NoJwks,
}

struct Known {
    keys: Vec<(String, PublicKey)>,
    /// Counts fetches, so that one caller's fetch serves all who waited for it.
    generation: u64,
}

pub struct KeySet {
    remote: Arc<Remote>,
    issuer: String,
    discovery: String,
    jwks: Mutex<Option<String>>,
    known: ArcSwapOption<Known>,
    fetching: Mutex<u64>,
}

impl KeySet {
    /// `discovery` is where the document lies; the issuer's well-known place where `None`.
    pub fn new(remote: Arc<Remote>, issuer: &str, discovery: Option<&str>) -> Self {
        let discovery = match discovery {
            Some(url) if !url.is_empty() => url.to_owned(),
            _ => format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')),
        };
        Self {
            remote,
            issuer: issuer.into(),
            discovery,
            jwks: Mutex::default(),
            known: ArcSwapOption::empty(),
            fetching: Mutex::new(0),
        }
    }

    /// Whether keys have been fetched.
    pub fn is_ready(&self) -> bool {
        self.known.load().is_some()
    }

    /// Fetches what is missing; does nothing when keys are known.
    pub async fn prepare(&self) -> Result<(), KeysError> {
        if self.is_ready() { Ok(()) } else { self.refresh(0).await }
    }

    /// Whether one of the issuer's keys signed the token.
    pub async fn verify(&self, token: &Unverified<'_>) -> Result<bool, KeysError> {
        let known = self.known.load_full();
        if known.as_ref().is_some_and(|k| signed_by(k, token)) {
            return Ok(true);
        }
        self.refresh(known.map_or(0, |k| k.generation)).await?;
        Ok(self.known.load().as_ref().is_some_and(|k| signed_by(k, token)))
    }

    /// Fetches the keys, unless somebody did since `seen`.
    async fn refresh(&self, seen: u64) -> Result<(), KeysError> {
        let mut generation = self.fetching.lock().await;
        if *generation > seen {
            return Ok(());
        }
        let url = self.jwks_url().await?;
        let set = self.json(&url).await?;
        let keys = set["keys"].as_array().into_iter().flatten().filter_map(|jwk| {
            Some((jwk["kid"].as_str().unwrap_or_default().to_owned(), PublicKey::from_jwk(jwk)?))
        });
        let keys: Vec<_> = keys.collect();
        *generation += 1;
        tracing::debug!(issuer = self.issuer, keys = keys.len(), "fetched an issuer's keys");
        self.known.store(Some(Arc::new(Known { keys, generation: *generation })));
        Ok(())
    }

    async fn jwks_url(&self) -> Result<String, KeysError> {
        let mut kept = self.jwks.lock().await;
        if let Some(url) = kept.as_ref() {
            return Ok(url.clone());
        }
        let document = self.json(&self.discovery).await?;
        let found = document["issuer"].as_str().unwrap_or_default();
        if found != self.issuer {
            return Err(KeysError::OtherIssuer { expected: self.issuer.clone(), found: found.into() });
        }
        let url = document["jwks_uri"].as_str().filter(|u| !u.is_empty()).ok_or(KeysError::NoJwks)?;
        *kept = Some(url.to_owned());
        Ok(url.to_owned())
    }

    async fn json(&self, url: &str) -> Result<Value, KeysError> {
        let answer = self.remote.get(url, PATIENCE).await?;
        if answer.code != 200 {
            let body = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            return Err(KeysError::Refused { url: url.into(), code: answer.code, body });
        }
        serde_json::from_slice(&answer.body).map_err(|_| KeysError::NotJson { url: url.into() })
    }
}

fn signed_by(known: &Known, token: &Unverified<'_>) -> bool {
    known.keys.iter().any(|(id, key)| {
        (token.key_id.is_empty() || *id == token.key_id)
            && key.verify(&token.algorithm, token.signed, &token.signature)
    })
}
