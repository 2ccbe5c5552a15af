//! From the writer to the watchers: committed batches, in order, bounded. The writer never waits here.

use super::db::Readers;
use crate::{Batch, Event, Revision, StoreError, WatchStream};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Batches one watcher may leave unread.
const BACKLOG: usize = 4096;

pub(super) struct Hub {
    state: Mutex<State>,
    revision: AtomicU64,
    backlog_bytes: usize,
}

struct State {
    subscribers: HashMap<u64, Subscriber>,
    next: u64,
    closed: bool,
    trouble: Option<String>,
}

struct Subscriber {
    batches: mpsc::Sender<Arc<Published>>,
    unread: Arc<AtomicUsize>,
}

struct Published {
    batch: Batch,
    bytes: usize,
}

pub(super) struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    batches: mpsc::Receiver<Arc<Published>>,
    unread: Arc<AtomicUsize>,
    /// Batches follow from here on.
    from: Revision,
}

impl Hub {
    pub(super) fn new(revision: Revision, backlog_bytes: usize) -> Self {
        let state = State { subscribers: HashMap::new(), next: 0, closed: false, trouble: None };
        Self { state: Mutex::new(state), revision: AtomicU64::new(revision), backlog_bytes }
    }

    /// The newest durable revision.
    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Why the last write failed, until one succeeds.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.state.lock().trouble = trouble;
    }

    pub(super) fn publish(&self, revision: Revision, events: Vec<Event>) {
        let bytes = events.iter().map(|e| e.key.len() + e.value.as_ref().map_or(0, |v| v.len()) + 128).sum();
        let mut state = self.state.lock();
        self.revision.store(revision, Ordering::Release);
        let published = Arc::new(Published { batch: Batch { revision, events }, bytes });
        state.subscribers.retain(|id, subscriber| {
            let unread = subscriber.unread.fetch_add(bytes, Ordering::AcqRel);
            let keep = (unread == 0 || unread + bytes <= self.backlog_bytes)
                && subscriber.batches.try_send(published.clone()).is_ok();
            if !keep {
                tracing::warn!(watcher = id, unread, "store watcher ended: too slow");
            }
            keep
        });
    }

    pub(super) fn subscribe(self: &Arc<Self>) -> Result<Subscription, StoreError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(StoreError::Unavailable("the store is shut down".into()));
        }
        let (sender, batches) = mpsc::channel(BACKLOG);
        let unread = Arc::new(AtomicUsize::new(0));
        let id = state.next;
        state.next += 1;
        state.subscribers.insert(id, Subscriber { batches: sender, unread: unread.clone() });
        Ok(Subscription { hub: self.clone(), id, batches, unread, from: self.revision() })
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.subscribers.clear();
    }
}

impl Subscription {
    async fn next(&mut self) -> Result<Arc<Published>, StoreError> {
        match self.batches.recv().await {
            Some(published) => {
                self.unread.fetch_sub(published.bytes, Ordering::AcqRel);
                Ok(published)
            }
            None if self.hub.state.lock().closed => {
                Err(StoreError::Unavailable("the store is shut down".into()))
            }
            None => Err(StoreError::Unavailable("this watch was too slow and has been ended".into())),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.state.lock().subscribers.remove(&self.id);
    }
}

struct Watch {
    live: Subscription,
    readers: Arc<Readers>,
    prefix: Vec<u8>,
    reached: Revision,
    failed: bool,
}

impl Watch {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        if self.reached < self.live.from {
            let (after, upto) = (self.reached, self.live.from);
            let read = Readers::run(self.readers.clone(), move |reader| reader.history(after, upto));
            let (mut events, reached) = read.await?;
            events.retain(|event| event.key.starts_with(&self.prefix));
            self.reached = reached;
            return Ok(Batch { revision: reached, events });
        }
        loop {
            let published = self.live.next().await?;
            let batch = &published.batch;
            // Not so only for a watch that was asked to start after the newest revision.
            if batch.revision > self.reached {
                let wanted = |e: &&Event| e.revision > self.reached && e.key.starts_with(&self.prefix);
                let events = batch.events.iter().filter(wanted).cloned().collect();
                self.reached = batch.revision;
                return Ok(Batch { revision: batch.revision, events });
            }
        }
    }
}

/// History from `after` up to where `live` starts, then `live`.
pub(super) fn stream(
    live: Subscription,
    readers: Arc<Readers>,
    prefix: Vec<u8>,
    after: Revision,
) -> WatchStream {
    let watch = Watch { live, readers, prefix, reached: after, failed: false };
    futures::stream::unfold(watch, |mut watch| async move {
        if watch.failed {
            return None;
        }
        let item = watch.next().await;
        watch.failed = item.is_err();
        Some((item, watch))
    })
    .boxed()
}
