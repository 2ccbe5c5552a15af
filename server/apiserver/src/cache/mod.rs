//! The watch cache: every stored object in its final encoding, ordered, with its history window.
//!
//! One watch on the whole store feeds one [`ResourceCache`] per group-resource. A snapshot is O(1)
//! (structure-sharing map); LIST, GET and WATCH are answered from here and nowhere else.
//!
//! Guarantees: a snapshot holds exactly the events of its resource up to its revision; a watcher gets each later
//! event once, in revision order; the cache's revision never goes backwards. When the store's history is lost
//! (compacted while disconnected) the cache reloads, and watchers are told `Expired` rather than given a gap.
//!
//! A writer that must read its own write waits for the write's revision with [`Cache::wait_for`]; a reader that
//! must see every acknowledged write asks [`Cache::fresh`] first.

mod codec;
mod entry;
mod feed;
mod key;
mod resource;
#[cfg(test)]
mod tests;
mod watcher;

pub use codec::{CodecError, encode_for_store, splice_revision, strip_revision};
pub use entry::{Entry, Event, Fields, FieldsOf, Kind, Metadata, Owner};
pub use key::{GroupResource, Parts, ROOT, storage_key};
pub use resource::{Match, ResourceCache, Snapshot, continue_key};
pub use watcher::{Filter, Watcher};

use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Store, StoreError};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// 410: the history asked for is no longer kept.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired { requested: u64, oldest: u64 },
    /// 504 with a retry: the cache did not reach that revision in time.
    #[error("too large resource version: {requested}, current: {current}")]
    TooLarge { requested: u64, current: u64 },
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
}

impl From<StoreError> for CacheError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Turns stored bytes into the stored form of [`encode_for_store`]; where encryption at rest is undone.
pub type Decode = Arc<dyn Fn(&[u8], Bytes) -> Result<Bytes, String> + Send + Sync>;

pub struct Options {
    /// Field-selector values of an object.
    pub fields: FieldsOf,
    /// `None`: the stored bytes are the stored form. Arguments are the storage key and the stored bytes.
    pub decode: Option<Decode>,
    pub window: WindowLimits,
    /// How many revisions of history to take over from the store at the start, so that watchers resume across a
    /// restart. Engines that do not have it at hand (etcd) start without.
    pub resume: u64,
}

impl Options {
    pub fn new(fields: FieldsOf) -> Self {
        Self { fields, decode: None, window: WindowLimits::default(), resume: 1000 }
    }
}

/// How much history one resource keeps, for resuming watchers and exact old reads.
#[derive(Clone, Copy, Debug)]
pub struct WindowLimits {
    pub events: usize,
    /// What a window may weigh, and what it may weigh at most: in between a third of what the objects themselves do.
    pub bytes: usize,
    pub most_bytes: usize,
    /// Older events are dropped, though never below `keep` of them.
    pub age: Duration,
    pub keep: usize,
    /// Never fewer than these, whatever they weigh.
    pub floor: usize,
    /// How far back exact reads reach, at least; zero: as far as the window does.
    pub exact: Duration,
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self {
            events: 16_384,
            bytes: 3 << 20,
            most_bytes: 64 << 20,
            age: Duration::from_secs(300),
            keep: 100,
            floor: 16,
            exact: Duration::from_secs(300),
        }
    }
}

/// How far the cache has got. Only ever grows.
pub(crate) struct Progress(watch::Sender<u64>);

impl Progress {
    fn revision(&self) -> u64 {
        *self.0.borrow()
    }

    fn advance(&self, to: u64) {
        self.0.send_if_modified(|at| {
            let moves = to > *at;
            *at = to.max(*at);
            moves
        });
    }

    async fn wait_for(&self, revision: u64, patience: Duration) -> Result<(), CacheError> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut at = self.0.subscribe();
        match tokio::time::timeout(patience, at.wait_for(|at| *at >= revision)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(CacheError::TooLarge { requested: revision, current: self.revision() }),
        }
    }
}

pub struct Cache {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    _feed: AbortOnDropHandle<()>,
}

struct Shared {
    resources: RwLock<HashMap<GroupResource, Arc<ResourceCache>>>,
    progress: Arc<Progress>,
    options: Options,
    /// What a resource first seen later starts its window at.
    loaded_at: std::sync::atomic::AtomicU64,
    /// Asks the feed to load everything again.
    again: tokio::sync::Notify,
}

impl Shared {
    fn resource(&self, resource: &GroupResource) -> Arc<ResourceCache> {
        if let Some(known) = self.resources.read().get(resource) {
            return known.clone();
        }
        let mut resources = self.resources.write();
        let fresh = || {
            Arc::new(ResourceCache::new(
                resource.clone(),
                self.options.fields.clone(),
                self.progress.clone(),
                self.options.window,
                self.loaded_at.load(std::sync::atomic::Ordering::Acquire),
            ))
        };
        resources.entry(resource.clone()).or_insert_with(fresh).clone()
    }
}

impl Cache {
    /// Loads everything and follows the store from there, until dropped. Fails when the store cannot be read.
    pub async fn start(store: Arc<dyn Store>, options: Options) -> Result<Arc<Self>, CacheError> {
        let shared = Arc::new(Shared {
            resources: RwLock::default(),
            progress: Arc::new(Progress(watch::Sender::new(0))),
            options,
            loaded_at: 0.into(),
            again: tokio::sync::Notify::new(),
        });
        feed::load(&shared, &*store).await?;
        feed::remember(&shared, &*store).await?;
        let follow = feed::follow(shared.clone(), store.clone());
        Ok(Arc::new(Self { shared, store, _feed: AbortOnDropHandle::new(tokio::spawn(follow)) }))
    }

    /// The cache of one resource; empty for one that has no objects. Worth keeping by the caller.
    pub fn resource(&self, resource: &GroupResource) -> Arc<ResourceCache> {
        self.shared.resource(resource)
    }

    /// The resources that have, or had, objects.
    pub fn resources(&self) -> Vec<Arc<ResourceCache>> {
        self.shared.resources.read().values().cloned().collect()
    }

    /// Every event at or below it is visible to readers.
    pub fn revision(&self) -> u64 {
        self.shared.progress.revision()
    }

    /// Waits until readers see everything up to `revision`: after a write, its own.
    pub async fn wait_for(&self, revision: u64, patience: Duration) -> Result<(), CacheError> {
        self.shared.progress.wait_for(revision, patience).await
    }

    /// Waits until readers see every write acknowledged before this call, by anyone; returns that revision.
    pub async fn fresh(&self, patience: Duration) -> Result<u64, CacheError> {
        let revision = self.store.revision().await?;
        if self.revision() < revision {
            // Where others write to the same store outside our keys, only the store can say we missed nothing.
            let nudge = patience.min(Duration::from_millis(20));
            if self.wait_for(revision, nudge).await.is_err() {
                self.store.nudge().await?;
                self.wait_for(revision, patience).await?;
            }
        }
        Ok(revision)
    }

    /// How many stored objects of all resources cannot be read.
    pub fn unreadable(&self) -> usize {
        self.shared.resources.read().values().map(|resource| resource.unreadable()).sum()
    }

    /// Has everything read again soon: what could not be read may have become readable.
    pub fn reload(&self) {
        self.shared.again.notify_one();
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}
