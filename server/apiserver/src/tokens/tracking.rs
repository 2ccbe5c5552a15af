//! Which tokens of Secrets are still used (KEP-2799): the day is kept as a label of the Secret, the day since when it
//! is kept in a ConfigMap.

use crate::reader::{Reader, Writer, parse};
use chrono::Utc;
use kit::Shutdown;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;

pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Keeps the labels up to date until `stop`.
pub async fn run(
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    mut used: UnboundedReceiver<(String, String)>,
    stop: Shutdown,
) {
    announce(&*reader, &*writer).await;
    loop {
        let (namespace, name) = tokio::select! {
            next = used.recv() => match next {
                Some(next) => next,
                None => return,
            },
            () = stop.wait() => return,
        };
        mark(&*reader, &*writer, &namespace, &name).await;
    }
}

fn today() -> String {
    Utc::now().format("%Y-%m-%d").to_string()
}

/// The ConfigMap says since when uses are recorded; one that says so already is left alone.
async fn announce(reader: &dyn Reader, writer: &dyn Writer) {
    let known = reader.get("", "configmaps", NAMESPACE, NAME);
    let since = known.as_ref().map(|entry| parse(entry)["data"]["since"].clone());
    let readable = |v: &serde_json::Value| {
        v.as_str().is_some_and(|s| chrono::NaiveDate::parse_from_str(s, "%Y-%m-%d").is_ok())
    };
    let done = match (known, since) {
        (Some(_), Some(since)) if readable(&since) => return,
        (Some(entry), _) => {
            let mut map = parse(&entry);
            map["data"] = json!({"since": today()});
            writer.update("", "v1", "configmaps", map).await
        }
        (None, _) => {
            let metadata = json!({"namespace": NAMESPACE, "name": NAME});
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
                             "data": {"since": today()}});
            writer.create("", "v1", "configmaps", map).await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "the tracking of secrets' tokens was not announced");
    }
}

async fn mark(reader: &dyn Reader, writer: &dyn Writer, namespace: &str, name: &str) {
    let Some(entry) = reader.get("", "secrets", namespace, name) else { return };
    let mut secret = parse(&entry);
    let today = today();
    if secret["metadata"]["labels"][LAST_USED] == today.as_str() {
        return;
    }
    if !secret["metadata"]["labels"].is_object() {
        secret["metadata"]["labels"] = json!({});
    }
    secret["metadata"]["labels"][LAST_USED] = json!(today);
    // A lost race is made good by the token's next use.
    if let Err(error) = writer.update("", "v1", "secrets", secret).await {
        tracing::debug!(%error, namespace, name, "the use of a secret's token was not recorded");
    }
}
