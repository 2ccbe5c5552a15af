//! Tokens that a webhook knows (`--authentication-token-webhook-config-file`): it is sent a TokenReview and its answer
//! is remembered, good or bad, for the cache's time.

use super::bearer::fingerprint;
use super::{AuthenticationError, RemoteTokens, TokenAnswer, UserInfo};
use crate::reader::{strings, text};
use crate::remote::kubeconfig::Service;
use crate::remote::retry::{self, Backoff};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

const REMEMBERED: usize = 4096;
/// A webhook has this long, retries included, as upstream grants.
const PATIENCE: Duration = Duration::from_secs(10);

type Known = Result<Option<TokenAnswer>, AuthenticationError>;

pub struct WebhookTokens {
    service: Service,
    /// `v1` or `v1beta1`.
    version: String,
    /// Of this API server, for a webhook that knows no audiences.
    implicit: Vec<String>,
    ttl: Duration,
    seen: Mutex<HashMap<[u8; 32], (Known, Instant)>>,
}

impl WebhookTokens {
    pub fn new(
        service: Service,
        version: &str,
        implicit: Vec<String>,
        ttl: Duration,
    ) -> Result<Self, String> {
        if !matches!(version, "v1" | "v1beta1") {
            return Err(format!(
                "unsupported authentication webhook version {version:?}, supported versions are \"v1\", \"v1beta1\""
            ));
        }
        Ok(Self { service, version: version.into(), implicit, ttl, seen: Mutex::default() })
    }

    /// Outer error: no answer at all, which is not remembered.
    async fn ask(&self, token: &str, wanted: &[String]) -> Result<Known, AuthenticationError> {
        let mut spec = json!({"token": token});
        if !wanted.is_empty() {
            spec["audiences"] = json!(wanted);
        }
        let version = format!("authentication.k8s.io/{}", self.version);
        let review = json!({
            "apiVersion": version,
            "kind": "TokenReview",
            "metadata": {"creationTimestamp": null},
            "spec": spec,
            "status": {"user": {}},
        });
        let answer = retry::post(&self.service, &review, Backoff::default(), PATIENCE);
        let answer = answer.await.map_err(|error| {
            tracing::warn!(%error, "the token webhook cannot be asked");
            AuthenticationError(error.to_string())
        })?;
        Ok(self.read(&answer["status"], wanted))
    }

    fn read(&self, status: &Value, wanted: &[String]) -> Known {
        let mut audiences = Vec::new();
        if !wanted.is_empty() {
            let said = strings(status, "/audiences");
            let theirs = if said.is_empty() { &self.implicit } else { &said };
            audiences = wanted.iter().filter(|a| theirs.contains(a)).cloned().collect();
            if audiences.is_empty() {
                return Ok(None);
            }
        }
        if status["authenticated"] != true {
            return match text(status, "/error") {
                "" => Ok(None),
                error => Err(AuthenticationError(error.into())),
            };
        }
        let user = &status["user"];
        let values = |v: &Value| {
            v.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let extra: BTreeMap<String, Vec<String>> = user["extra"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, list)| (key.clone(), values(list)))
            .collect();
        let user = UserInfo {
            name: text(user, "/username").into(),
            uid: text(user, "/uid").into(),
            groups: strings(user, "/groups"),
            extra,
        };
        Ok(Some(TokenAnswer { user, audiences }))
    }
}

#[async_trait]
impl RemoteTokens for WebhookTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError> {
        // The audiences are part of the question, so they are part of the key.
        let key = fingerprint(format!("{token}\0{}", audiences.join("\0")).as_bytes());
        let now = Instant::now();
        if let Some((known, _)) = self.seen.lock().get(&key).filter(|(_, until)| *until > now) {
            return known.clone();
        }
        let known = self.ask(token, audiences).await?;
        if !self.ttl.is_zero() {
            let mut seen = self.seen.lock();
            if seen.len() >= REMEMBERED {
                seen.retain(|_, (_, until)| *until > now);
                if seen.len() >= REMEMBERED {
                    seen.clear();
                }
            }
            seen.insert(key, (known.clone(), now + self.ttl));
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::kubeconfig;
    use crate::remote::testing::TestService;

    const API: &str = "https://kubernetes.default.svc";

    async fn world(ttl: u64) -> (TestService, WebhookTokens) {
        let service = TestService::start().await;
        service.handle("/review", |review| {
            assert_eq!(review["kind"], "TokenReview");
            let status = match review["spec"]["token"].as_str().unwrap() {
                "good" => {
                    json!({"authenticated": true, "user": {"username": "jane", "uid": "7", "groups": ["dev"],
                                 "extra": {"k": ["v"]}}})
                }
                "vault" => json!({"authenticated": true, "user": {"username": "v"}, "audiences": ["vault"]}),
                "broken" => return (400, json!({"kind": "Status"})),
                "why" => json!({"error": "because"}),
                _ => json!({"authenticated": false}),
            };
            let mut answer = review.clone();
            answer["status"] = status;
            (201, answer)
        });
        let (_keep, path) = service.kubeconfig("/review");
        let hook = kubeconfig::load(&path).unwrap();
        let tokens = WebhookTokens::new(hook, "v1", vec![API.into()], Duration::from_secs(ttl)).unwrap();
        (service, tokens)
    }

    #[tokio::test]
    async fn the_webhooks_word_counts_and_is_remembered() {
        let (service, tokens) = world(120).await;
        let ask = async |token: &str| tokens.authenticate_token(token, &[API.to_owned()]).await;
        let answer = ask("good").await.unwrap().unwrap();
        assert_eq!((answer.user.name.as_str(), answer.user.uid.as_str()), ("jane", "7"));
        assert_eq!(
            (answer.user.groups.as_slice(), answer.audiences.as_slice()),
            (&["dev".to_owned()][..], &[API.to_owned()][..])
        );
        assert_eq!(answer.user.extra["k"], ["v"]);
        for _ in 0..3 {
            ask("good").await.unwrap().unwrap();
            assert_eq!(ask("bad").await, Ok(None));
        }
        assert_eq!(service.asked("/review"), 2);
        assert_eq!(ask("vault").await, Ok(None));
        let vault = tokens.authenticate_token("vault", &["vault".into()]).await.unwrap().unwrap();
        assert_eq!(vault.audiences, ["vault"]);
        assert_eq!(ask("why").await, Err(AuthenticationError("because".into())));
    }

    #[tokio::test]
    async fn failures_are_errors_and_not_remembered() {
        let (service, tokens) = world(120).await;
        for _ in 0..2 {
            let error = tokens.authenticate_token("broken", &[]).await.unwrap_err();
            assert!(error.0.contains("the server answered 400"), "{error}");
        }
        assert_eq!(service.asked("/review"), 2);
        let (service, tokens) = world(0).await;
        for _ in 0..2 {
            tokens.authenticate_token("good", &[]).await.unwrap().unwrap();
        }
        assert_eq!(service.asked("/review"), 2);
    }
}
