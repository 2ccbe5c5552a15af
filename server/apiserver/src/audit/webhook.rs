//! The webhook backend: an EventList posted to a service, again and again for a while if it fails.

use super::event::Event;
use crate::remote::kubeconfig::{self, KubeconfigError};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Posts a body; an error is any answer but success.
pub type Post = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// How long one post may take (upstream's clients have no limit of their own; its servers' is a minute).
const WITHIN: Duration = Duration::from_secs(60);

/// The service that a kubeconfig file names.
pub fn service(kubeconfig: &Path) -> Result<Post, KubeconfigError> {
    let service = Arc::new(kubeconfig::load(kubeconfig)?);
    Ok(Arc::new(move |body| {
        let service = service.clone();
        Box::pin(async move {
            match service.remote.post_json(&service.url, body, WITHIN).await {
                Ok(answer) if (200..300).contains(&answer.code) => Ok(()),
                Ok(answer) => Err(format!("{}: the server answered {}", service.url, answer.code)),
                Err(error) => Err(error.to_string()),
            }
        })
    }))
}

/// Upstream's backoff: so many tries, each wait half as long again, spread by a fifth.
const TRIES: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;

pub(super) struct Webhook {
    pub post: Post,
    pub first_wait: Duration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventList<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: super::event::Empty,
    items: &'a [&'a Event],
}

impl Webhook {
    pub async fn send(&self, events: &[&Event]) -> Result<(), String> {
        let list = EventList {
            kind: "EventList",
            api_version: "audit.k8s.io/v1",
            metadata: super::event::Empty {},
            items: events,
        };
        let body = Bytes::from(serde_json::to_vec(&list).map_err(|e| e.to_string())?);
        let mut wait = self.first_wait;
        for _ in 1..TRIES {
            let Err(why) = (self.post)(body.clone()).await else { return Ok(()) };
            tracing::debug!(why, "the audit webhook failed; it is tried again");
            tokio::time::sleep(wait.mul_f64(1.0 + rand::random_range(0.0..JITTER))).await;
            wait = wait.mul_f64(FACTOR);
        }
        (self.post)(body).await
    }
}
