//! The embedded engine: one directory, one writer, SQLite's write-ahead log beneath.
//!
//! All writes go through one thread that takes whatever is waiting, applies it in one transaction and answers
//! after that transaction's one `fdatasync`. A lone write waits for nobody. Every write has its own revision, and
//! each revision is a row of the log; the current state is an index into that log, so a value is stored once and
//! resuming a watch is reading the log. History older than [`Options::history`] is swept by the writes themselves,
//! a few rows each: no background work, no long pauses.
//!
//! Directory layout (format 1): `LOCK` (flock), `STORE` (what this is, its format, the cluster id), `store.db`
//! and SQLite's `-wal` and `-shm` beside it. See [`db`] for the tables.
//!
//! A failed write (disk full, I/O error) is rolled back as a whole; the next one starts afresh.

mod checkpoint;
mod db;
mod directory;
mod hub;
pub mod snapshot;
mod writer;

use crate::{Event, KeyValue, Range, Revision, Store, StoreError, WatchStream, Write, Written};
use async_trait::async_trait;
use directory::Directory;
use hub::Hub;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use writer::Command;

#[derive(Clone, Debug)]
pub struct Options {
    /// How long events stay for watches to resume from.
    pub history: Duration,
    /// At most about this many, however young.
    pub history_events: u64,
    /// Largest key plus value.
    pub max_request: usize,
    /// Page cache of the writer; each reader has a quarter of it.
    pub cache_bytes: usize,
    /// What one watcher may leave unread before it is ended.
    pub watch_backlog_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history: Duration::from_secs(300),
            history_events: 100_000,
            max_request: 1536 << 10,
            cache_bytes: 1 << 20,
            watch_backlog_bytes: 32 << 20,
        }
    }
}

/// Writes waiting for the writer; more wait outside, in order.
const QUEUE: usize = 4096;

/// Opens the store in `dir`, which is made if need be. Blocks for the time of a few disk operations.
pub fn open(dir: &Path, options: Options) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(Embedded::open(dir, options)?))
}

pub struct Embedded {
    options: Options,
    cluster_id: String,
    queue: Arc<Semaphore>,
    commands: Option<std::sync::mpsc::Sender<Command>>,
    writer: Option<std::thread::JoinHandle<()>>,
    hub: Arc<Hub>,
    readers: Arc<db::Readers>,
    // Last: unlocked when all else is closed.
    _directory: Directory,
}

impl Embedded {
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let directory = Directory::open(dir)?;
        let db = db::Db::open(&directory.database(), options.cache_bytes)?;
        let checkpointer = checkpoint::Checkpointer::start(&directory.database())?;
        let hub = Arc::new(Hub::new(db.revision(), options.watch_backlog_bytes));
        let (commands, queue) = std::sync::mpsc::channel();
        let writer = writer::Writer::new(db, checkpointer, queue, hub.clone(), &options);
        let writer = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run())?;
        Ok(Self {
            queue: Arc::new(Semaphore::new(QUEUE)),
            commands: Some(commands),
            writer: Some(writer),
            hub,
            readers: Arc::new(db::Readers::new(directory.database(), options.cache_bytes / 4)),
            cluster_id: directory.cluster_id().to_owned(),
            options,
            _directory: directory,
        })
    }

    /// Made when the directory was; the same for ever.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(OwnedSemaphorePermit, oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Unavailable("the store is shut down".into());
        let permit = self.queue.clone().acquire_owned().await.map_err(|_| stopped())?;
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(stopped)?;
        commands.send(command(permit, reply)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut db::Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        db::Readers::run(self.readers.clone(), read).await
    }
}

#[async_trait]
impl Store for Embedded {
    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let size = write.size();
        if size > self.options.max_request {
            return Err(StoreError::TooLarge { size, limit: self.options.max_request });
        }
        self.ask(|permit, reply| Command::Write { write, reply, _permit: permit }).await
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let key = key.to_vec();
        self.read(move |reader| reader.get(&key)).await
    }

    async fn range(&self, prefix: &[u8], limit: usize) -> Result<Range, StoreError> {
        let prefix = prefix.to_vec();
        self.read(move |reader| reader.range(&prefix, limit)).await
    }

    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<WatchStream, StoreError> {
        // First subscribe, then read history up to where the subscription starts: no gap, no overlap.
        let live = self.hub.subscribe()?;
        let compacted = self.read(|reader| reader.compacted()).await?;
        if after < compacted {
            return Err(StoreError::Compacted(after));
        }
        Ok(hub::stream(live, self.readers.clone(), prefix.to_vec(), after))
    }

    async fn recent(
        &self,
        prefix: &[u8],
        until: Revision,
        limit: u64,
    ) -> Result<Option<(Revision, Vec<Event>)>, StoreError> {
        let prefix = prefix.to_vec();
        let read = move |reader: &mut db::Reader| {
            let start = reader.compacted()?.max(until.saturating_sub(limit));
            let (mut recent, mut reached) = (Vec::new(), start);
            while reached < until {
                let (events, next) = reader.history(reached, until)?;
                recent.extend(events.into_iter().filter(|event| event.key.starts_with(&prefix)));
                reached = next;
            }
            Ok(Some((start, recent)))
        };
        match self.read(read).await {
            // Compacted while being read: then there is none.
            Err(StoreError::Compacted(_)) => Ok(None),
            other => other,
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.hub.revision())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|permit, reply| Command::Compact { revision, reply, _permit: permit }).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        if self.writer.as_ref().is_none_or(std::thread::JoinHandle::is_finished) {
            return Err(StoreError::Unavailable("the store's writer has stopped".into()));
        }
        match self.hub.trouble() {
            None => Ok(()),
            Some(trouble) => Err(StoreError::Unavailable(trouble)),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("store writer panicked");
        }
        self.hub.close();
        self.readers.close();
    }
}
