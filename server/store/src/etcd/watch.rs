//! A watch that survives its connection: it goes on at the next endpoint, after the last revision it delivered.

use super::connection::{Connection, chain};
use super::{NUDGE, pb, range_end, range_start, revision};
use crate::{Batch, Event, Revision, StoreError, WatchStream};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Streaming;

/// Attempts without an answer in between, after which the watch ends with an error.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER: Duration = Duration::from_secs(5);

/// Notes the prefix as watched while it lives.
pub(super) struct Watched {
    all: Arc<Mutex<HashMap<Vec<u8>, usize>>>,
    prefix: Vec<u8>,
}

impl Watched {
    pub(super) fn new(all: Arc<Mutex<HashMap<Vec<u8>, usize>>>, prefix: Vec<u8>) -> Self {
        *all.lock().entry(prefix.clone()).or_default() += 1;
        Self { all, prefix }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.prefix);
            }
        }
    }
}

struct Watch {
    connection: Arc<Connection>,
    watched: Watched,
    /// Length of what our callers do not see of a key.
    hidden: usize,
    reached: Revision,
    link: Option<Link>,
    attempts: u32,
    ended: bool,
}

struct Link {
    responses: Streaming<pb::WatchResponse>,
    /// Kept: the watch ends with it.
    _requests: mpsc::Sender<pb::WatchRequest>,
    endpoint: usize,
}

/// Waits until etcd has confirmed the watch, so that an unreachable or compacted one is an error at once.
pub(super) async fn open(
    connection: Arc<Connection>,
    watched: Watched,
    hidden: usize,
    after: Revision,
) -> Result<WatchStream, StoreError> {
    let mut watch =
        Watch { connection, watched, hidden, reached: after, link: None, attempts: 0, ended: false };
    let link = watch.link().await?;
    watch.link = Some(link);
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        if watch.ended {
            return None;
        }
        let item = watch.next().await;
        watch.ended = item.is_err();
        Some((item, watch))
    });
    Ok(stream.boxed())
}

impl Watch {
    /// A confirmed watch after `reached`, at the first endpoint that gives one.
    async fn link(&mut self) -> Result<Link, StoreError> {
        loop {
            let endpoint = self.connection.current();
            let error = match tokio::time::timeout(ANSWER, self.try_link(endpoint)).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error @ StoreError::Compacted(_))) => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => StoreError::Unavailable("etcd does not confirm the watch".into()),
            };
            self.attempts += 1;
            if self.attempts >= ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(%error, attempt = self.attempts, "etcd watch failed, trying again");
            self.connection.skip(endpoint);
            tokio::time::sleep(PAUSE * self.attempts).await;
        }
    }

    async fn try_link(&self, endpoint: usize) -> Result<Link, StoreError> {
        let create = pb::WatchCreateRequest {
            key: range_start(&self.watched.prefix),
            range_end: range_end(&self.watched.prefix),
            start_revision: super::number(self.reached + 1),
            progress_notify: true,
            prev_kv: true,
        };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        let (requests, queue) = mpsc::channel(1);
        let failed = |e: tonic::Status| StoreError::Unavailable(format!("etcd watch: {}", chain(&e)));
        requests
            .try_send(pb::WatchRequest { request_union: Some(create) })
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
        let mut client = pb::watch_client::WatchClient::new(self.connection.watch_channel())
            .max_decoding_message_size(usize::MAX);
        let mut responses = client.watch(queue).await.map_err(failed)?.into_inner();
        let first = responses.message().await.map_err(failed)?;
        let first = first.ok_or_else(|| StoreError::Unavailable("etcd ended the watch".into()))?;
        self.refused(&first)?;
        Ok(Link { responses, _requests: requests, endpoint })
    }

    fn refused(&self, response: &pb::WatchResponse) -> Result<(), StoreError> {
        if response.compact_revision > 0 {
            return Err(StoreError::Compacted(self.reached));
        }
        if response.canceled {
            return Err(StoreError::Unavailable(format!(
                "etcd cancelled the watch: {}",
                response.cancel_reason
            )));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            let mut link = match self.link.take() {
                Some(link) => link,
                None => self.link().await?,
            };
            let response = match link.responses.message().await {
                Ok(Some(response)) => response,
                ended => {
                    let error = ended.err().map(|e| chain(&e));
                    tracing::info!(error, revision = self.reached, "etcd watch broken, going on elsewhere");
                    self.connection.skip(link.endpoint);
                    continue;
                }
            };
            match self.refused(&response) {
                Ok(()) => {}
                Err(error @ StoreError::Compacted(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(%error, "etcd watch cancelled, going on elsewhere");
                    self.attempts += 1;
                    if self.attempts >= ATTEMPTS {
                        return Err(error);
                    }
                    self.connection.skip(link.endpoint);
                    continue;
                }
            }
            self.link = Some(link);
            self.attempts = 0;
            // While catching up the header is ahead of the events; without events it is what we have got to.
            let reached = match response.events.last().and_then(|event| event.kv.as_ref()) {
                Some(kv) => revision(kv.mod_revision),
                None if response.created => continue,
                None => super::header(response.header.as_ref()),
            };
            if reached <= self.reached {
                continue;
            }
            let events = response.events.into_iter().filter_map(|event| self.event(event));
            let batch = Batch { revision: reached, events: events.collect() };
            self.reached = reached;
            return Ok(batch);
        }
    }

    fn event(&self, event: pb::Event) -> Option<Event> {
        let gone = event.r#type() == pb::event::EventType::Delete;
        let kv = event.kv?;
        let at = revision(kv.mod_revision);
        if at <= self.reached || kv.key.ends_with(NUDGE) {
            return None;
        }
        // A deletion tells only the key; when it was created, its last state tells.
        let created =
            if gone { event.prev_kv.as_ref().map_or(0, |kv| kv.create_revision) } else { kv.create_revision };
        let key: Bytes = kv.key.slice(self.hidden.min(kv.key.len())..);
        Some(Event {
            revision: at,
            key,
            value: (!gone).then_some(kv.value),
            create_revision: revision(created),
            prev_revision: event.prev_kv.as_ref().map_or(0, |kv| revision(kv.mod_revision)),
            prev: event.prev_kv.map(|kv| kv.value),
        })
    }
}
