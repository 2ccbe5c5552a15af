//! A watch: one JSON event a line, each waited for a bounded time.

use crate::http::Call;
use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Events of one response.
pub struct Watch {
    what: String,
    body: hyper::body::Incoming,
    buffer: BytesMut,
}

impl Call {
    /// Sends and expects a stream of events.
    pub async fn watch(self) -> Result<Watch> {
        let (what, response) = self.open().await?;
        let code = response.status().as_u16();
        if code != 200 {
            let body = response.into_body().collect().await?.to_bytes();
            bail!("{what}: {code} {}", String::from_utf8_lossy(&body));
        }
        Ok(Watch { what, body: response.into_body(), buffer: BytesMut::new() })
    }
}

impl Watch {
    /// The next event; none when the stream has ended.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line)
                    .map(Some)
                    .with_context(|| format!("{}: {line:?}", self.what));
            }
            let frame = tokio::time::timeout(LIMIT, self.body.frame()).await;
            match frame.with_context(|| format!("{}: no event", self.what))? {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// The next event that is no bookmark, as its type and its object.
    pub async fn event(&mut self) -> Result<(String, Value)> {
        loop {
            let mut event = self.next().await?.with_context(|| format!("{} has ended", self.what))?;
            if event["type"] != "BOOKMARK" {
                let object = event["object"].take();
                return Ok((event["type"].as_str().unwrap_or_default().to_owned(), object));
            }
        }
    }

    /// The next event is of this type, about this object.
    pub async fn expect(&mut self, kind: &str, name: &str) -> Result<Value> {
        let (said, object) = self.event().await?;
        ensure!(
            said == kind && object["metadata"]["name"] == name,
            "{}: {kind} {name} was due: {said} {object}",
            self.what
        );
        Ok(object)
    }
}
