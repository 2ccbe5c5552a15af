//! Moving the write-ahead log into the database file beside the writer, so that no write waits for it.

use super::db::{checkpoint, connect};
use crate::StoreError;
use rusqlite::OpenFlags;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

/// Log pages worth moving into the database.
const CHECKPOINT: usize = 1000;
/// Log pages after which the writer itself stops to move them: 16 MiB, which is what the file keeps (`journal_size_limit`).
const FORCED: usize = 4000;

/// Moves the log into the database file while the writer goes on.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    pages: Arc<Pages>,
}

#[derive(Default)]
struct Pages {
    /// In the log and not in the database, about.
    waiting: AtomicUsize,
    /// In the log file at the last checkpoint, moved or not.
    log: AtomicUsize,
}

impl Pages {
    fn forget(&self, some: usize) {
        let less = |all: usize| Some(all.saturating_sub(some));
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Checkpointer {
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, 0, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        let pages = Arc::new(Pages::default());
        let counted = pages.clone();
        let run = move || {
            while woken.recv().is_ok() {
                let before = counted.waiting.load(Ordering::Relaxed);
                match checkpoint(&connection) {
                    Ok(moved) => {
                        if moved.all {
                            counted.forget(before);
                        }
                        counted.log.store(moved.log, Ordering::Relaxed);
                    }
                    Err(error) => tracing::warn!(%error, "store checkpoint failed"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".into()).spawn(run)?;
        Ok(Self { wake: Some(wake), thread: Some(thread), pages })
    }

    /// After `pages` more. Tells whether the writer must stop and move the log itself: because it outruns us, or because the log,
    /// which starts over only when a write finds all of it moved, would grow for as long as the load lasts.
    pub(super) fn wrote(&self, pages: usize) -> bool {
        let waiting = self.pages.waiting.fetch_add(pages, Ordering::Relaxed) + pages;
        if waiting >= CHECKPOINT
            && let Some(wake) = &self.wake
        {
            // Full: it is about to run anyway.
            let _ = wake.try_send(());
        }
        waiting.max(self.pages.log.load(Ordering::Relaxed)) >= FORCED
    }

    /// The writer has itself moved the log, or tried to. It does not try again before another checkpoint of ours.
    pub(super) fn moved(&self, all: bool) {
        self.pages.forget(if all { usize::MAX } else { 2 * CHECKPOINT });
        self.pages.log.store(0, Ordering::Relaxed);
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
