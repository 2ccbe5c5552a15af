//! A watch as lines.

use crate::requests::{JSON, get, request};
use anyhow::{Context, Result, bail};
use futures::io::{AsyncBufReadExt, Lines};
use futures::{AsyncBufRead, StreamExt};
use http::Method;
use kube::Client;
use serde_json::Value;
use std::pin::Pin;

/// An open watch.
pub struct Watch {
    client: Client,
    collection: String,
    path: String,
    lines: Lines<Pin<Box<dyn AsyncBufRead + Send>>>,
}

impl Watch {
    /// Watches the collection at `path` from now on: open, and registered with the server, when this returns.
    pub async fn from_now(client: &Client, path: &str) -> Result<Self> {
        let list = get(client, &format!("{path}?limit=1")).await?;
        let version =
            list["metadata"]["resourceVersion"].as_str().context("a list without resourceVersion")?;
        Self::open(client, path, version).await
    }

    /// Watches what there is and what comes.
    pub async fn with_present(client: &Client, path: &str) -> Result<Self> {
        Self::open(client, path, "0").await
    }

    async fn open(client: &Client, collection: &str, version: &str) -> Result<Self> {
        let path = format!("{collection}?watch=true&resourceVersion={version}");
        let stream = client.request_stream(request(Method::GET, &path, JSON, vec![])?).await;
        let stream: Pin<Box<dyn AsyncBufRead + Send>> =
            Box::pin(stream.with_context(|| format!("watch {path}"))?);
        let (client, collection) = (client.clone(), collection.to_owned());
        Ok(Self { client, collection, path, lines: stream.lines() })
    }

    /// The same watch from `version` on, as clients do when the server has ended one.
    pub async fn resume(&mut self, version: &str) -> Result<()> {
        *self = Self::open(&self.client, &self.collection, version).await?;
        Ok(())
    }

    /// The next event as the server wrote it; `None` when it has ended the watch.
    pub async fn line(&mut self) -> Result<Option<String>> {
        match self.lines.next().await {
            Some(line) => line.map(Some).with_context(|| format!("read {}", self.path)),
            None => Ok(None),
        }
    }

    /// The next event: its type and its object.
    pub async fn event(&mut self) -> Result<(String, Value)> {
        let Some(line) = self.line().await? else { bail!("the server ended {}", self.path) };
        let mut event: Value = serde_json::from_str(&line).with_context(|| format!("read {}", self.path))?;
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        if kind == "ERROR" {
            bail!("{}: {}", self.path, event["object"]);
        }
        Ok((kind, event["object"].take()))
    }
}

/// Whether an object has the condition Ready with status True.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_is_a_condition() {
        let with = |status: &str| {
            json!({"status": {"conditions": [{"type": "Other", "status": "True"},
            {"type": "Ready", "status": status}]}})
        };
        assert!(is_ready(&with("True")));
        assert!(!is_ready(&with("False")));
        assert!(!is_ready(&json!({})));
    }
}
