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

/// Moves the log into the database file while the writer goes on.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Pages in the log, about.
    pages: Arc<AtomicUsize>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, 0, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        let pages = Arc::new(AtomicUsize::new(0));
        let counted = pages.clone();
        let run = move || {
            while woken.recv().is_ok() {
                let before = counted.load(Ordering::Relaxed);
                match checkpoint(&connection) {
                    Ok(true) => forget(&counted, before),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "store checkpoint failed"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".into()).spawn(run)?;
        Ok(Self { wake: Some(wake), thread: Some(thread), pages })
    }

    /// The writer has itself moved the log, or tried to.
    pub(super) fn moved(&self, all: bool) {
        forget(&self.pages, if all { usize::MAX } else { 2 * CHECKPOINT });
    }

    /// After `pages` more; returns how many there are.
    pub(super) fn wrote(&self, pages: usize) -> usize {
        let all = self.pages.fetch_add(pages, Ordering::Relaxed) + pages;
        if all >= CHECKPOINT
            && let Some(wake) = &self.wake
        {
            // Full: it is about to run anyway.
            let _ = wake.try_send(());
        }
        all
    }
}

fn forget(pages: &AtomicUsize, some: usize) {
    let _ = pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_sub(some)));
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
