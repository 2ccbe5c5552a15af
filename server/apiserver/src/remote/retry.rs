//! Asking a webhook again when its failure may pass, as upstream's `webhook.WithExponentialBackoff`.

use super::kubeconfig::Service;
use super::{Answer, RemoteError};
use bytes::Bytes;
use serde_json::Value;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub factor: f64,
    pub steps: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), factor: 1.5, steps: 5 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("{url}: the server answered {code}: {body}")]
    Refused { url: String, code: u16, body: String },
    #[error("{url}: the answer is no review: {reason}")]
    Answer { url: String, reason: String },
}

/// Sends a review and returns the one that comes back. 500, 504 and 429 are tried again; `within` bounds it all.
pub async fn post(
    service: &Service,
    review: &Value,
    backoff: Backoff,
    within: Duration,
) -> Result<Value, WebhookError> {
    let url = &service.url;
    let body = Bytes::from(review.to_string());
    let deadline = tokio::time::Instant::now() + within;
    let mut wait = backoff.first;
    let mut step = 1;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let answer = service.remote.post_json(url, body.clone(), left).await?;
        if (200..300).contains(&answer.code) {
            return read(url, &answer, review);
        }
        let may_pass = matches!(answer.code, 429 | 500 | 504);
        if !may_pass || step >= backoff.steps || left <= wait {
            let body = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            return Err(WebhookError::Refused { url: url.clone(), code: answer.code, body });
        }
        tokio::time::sleep(wait).await;
        wait = wait.mul_f64(backoff.factor);
        step += 1;
    }
}

fn read(url: &str, answer: &Answer, asked: &Value) -> Result<Value, WebhookError> {
    let bad = |reason: String| WebhookError::Answer { url: url.into(), reason };
    let review: Value = serde_json::from_slice(&answer.body).map_err(|e| bad(e.to_string()))?;
    for member in ["apiVersion", "kind"] {
        if review[member] != asked[member] {
            return Err(bad(format!("{member} is {}, expected {}", review[member], asked[member])));
        }
    }
    Ok(review)
}
