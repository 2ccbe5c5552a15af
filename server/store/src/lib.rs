//! Revisioned key-value store: compare-and-put, range, watch from a revision, compaction, expiry.
//!
//! Bytes only: no kinds, no JSON. Two engines answer the same [`Store`] trait and the same test suite:
//! [`embedded`] (default) and [`etcd`].
//!
//! Invariants: revisions are totally ordered and grow by one per successful write batch entry; an acknowledged
//! write survives kill -9 and power loss; watchers see every event exactly once, in revision order.

pub mod embedded;
pub mod etcd;

use async_trait::async_trait;
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;

/// The store's logical clock. 0 means "nothing yet".
pub type Revision = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

/// What a write expects to find; otherwise it fails with [`StoreError::Conflict`] and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    /// The key's `mod_revision`.
    Revision(Revision),
    Any,
}

impl Expect {
    /// Whether a key in this state may be written.
    pub fn holds(self, current: Option<&KeyValue>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Revision(revision) => current.is_some_and(|kv| kv.mod_revision == revision),
            Self::Any => true,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    /// `ttl`: the key expires by itself, with an ordinary delete event.
    Put {
        value: Bytes,
        ttl: Option<Duration>,
    },
    Delete,
}

#[derive(Clone, Debug)]
pub struct Write {
    pub key: Bytes,
    pub expect: Expect,
    pub op: Op,
}

impl Write {
    /// What counts against the request limit.
    pub fn size(&self) -> usize {
        let value = match &self.op {
            Op::Put { value, .. } => value.len(),
            Op::Delete => 0,
        };
        self.key.len() + value
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: Bytes,
    /// `None`: deleted (or expired).
    pub value: Option<Bytes>,
    /// Revision at which the key was created; equal to `revision` for a creation.
    pub create_revision: Revision,
    /// The value before this event, where there was one.
    pub prev: Option<Bytes>,
    /// Its revision; 0 where there was none.
    pub prev_revision: Revision,
}

/// One delivery: all events of one or more whole revisions.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Every event at or below this revision has been delivered.
    pub revision: Revision,
    pub events: Vec<Event>,
}

pub struct Range {
    /// The revision the range was read at.
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the data directory open.
    #[error(
        "the data directory {0} is in use by another process: stop that one first, or name another directory"
    )]
    Locked(PathBuf),
    /// Written by a newer version of this program.
    #[error(
        "the data directory {path} has format {found}, this version understands up to {supported}: run the newer version, or restore a backup"
    )]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    /// Neither empty nor ours.
    #[error("the data directory {path} is not a store's: it holds {found:?}; name an empty directory")]
    NotAStore { path: PathBuf, found: String },
    /// The expectation did not hold; carries what is there now.
    #[error("the key was changed by another writer")]
    Conflict { current: Option<KeyValue> },
    #[error("revision {0} has been compacted")]
    Compacted(Revision),
    #[error("the value is {size} bytes, more than the store's limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A layer above the engines (encryption) cannot make sense of a value; the text says of which and why.
    #[error("{0}")]
    Unreadable(String),
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    #[error("store i/o")]
    Io(#[from] std::io::Error),
}

pub type WatchStream = futures::stream::BoxStream<'static, Result<Batch, StoreError>>;

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Durable when it returns. Cancelling the future does not undo a write already queued.
    /// Returns the write's revision and, for deletes, what was there.
    async fn write(&self, write: Write) -> Result<Written, StoreError>;
    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision), StoreError>;
    /// All keys under `prefix`, ordered, at one revision. `limit` 0: all.
    async fn range(&self, prefix: &[u8], limit: usize) -> Result<Range, StoreError>;
    /// Events under `prefix` with revision > `after`; `Compacted` when that history is gone.
    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<WatchStream, StoreError>;
    /// The last events under `prefix`, of at most `limit` revisions before and with `until`, and the revision they
    /// follow on. `None` where history is not at hand for the asking: the caller then starts without.
    async fn recent(
        &self,
        _prefix: &[u8],
        _until: Revision,
        _limit: u64,
    ) -> Result<Option<(Revision, Vec<Event>)>, StoreError> {
        Ok(None)
    }
    /// The newest revision, agreed with the quorum where there is one.
    async fn revision(&self) -> Result<Revision, StoreError>;
    /// Forgets history at and below `revision`; current values stay.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
    /// Makes every watch report, by a batch, that it has reached the newest revision, even where all that happened
    /// since its last event was outside its prefix. Embedded watches always do; etcd's need asking.
    async fn nudge(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Cheap liveness probe for /readyz and /livez ("etcd" check).
    async fn health(&self) -> Result<(), StoreError>;
}

#[derive(Clone, Debug)]
pub struct Written {
    pub revision: Revision,
    /// The value before the write.
    pub prev: Option<KeyValue>,
}

/// The first key after all that start with `prefix`; `None` where there is no such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
