//! The one writer: takes what waits, commits it together, tells the watchers, answers.

use super::Options;
use super::checkpoint::Checkpointer;
use super::db::Db;
use super::hub::Hub;
use crate::{Event, Revision, StoreError, Write, Written};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Largest group of one commit.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 8 << 20;
/// Rows of history one commit removes at least, when there are that many; and one that has nothing else to do.
const SWEEP: usize = 64;
const SWEEP_IDLE: usize = 1024;
/// Clocks get adjusted: never trust a sleep longer than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Command {
    Write { write: Write, reply: Reply<Written>, _permit: OwnedSemaphorePermit },
    Compact { revision: Revision, reply: Reply<()>, _permit: OwnedSemaphorePermit },
}

pub(super) struct Writer {
    db: Db,
    queue: Receiver<Command>,
    hub: Arc<Hub>,
    history: u64,
    history_events: u64,
    checkpointer: Checkpointer,
    /// No expiry is tried before this, after one failed.
    expiry_paused_until: u64,
}

#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    replies: Vec<(Reply<Written>, OwnedSemaphorePermit)>,
    compactions: Vec<(Revision, Reply<()>)>,
    bytes: usize,
}

impl Group {
    fn add(&mut self, command: Command) {
        match command {
            Command::Write { write, reply, _permit } => {
                self.bytes += write.size();
                self.writes.push(write);
                self.replies.push((reply, _permit));
            }
            Command::Compact { revision, reply, .. } => self.compactions.push((revision, reply)),
        }
    }

    fn full(&self) -> bool {
        self.writes.len() >= GROUP || self.bytes >= GROUP_BYTES
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX >> 1))
}

impl Writer {
    pub(super) fn new(
        db: Db,
        checkpointer: Checkpointer,
        queue: Receiver<Command>,
        hub: Arc<Hub>,
        options: &Options,
    ) -> Self {
        Self {
            db,
            queue,
            hub,
            history: u64::try_from(options.history.as_millis()).unwrap_or(u64::MAX),
            history_events: options.history_events,
            checkpointer,
            expiry_paused_until: 0,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(group) = self.gather() {
            self.commit(group);
        }
    }

    /// Sleeps until there is something to do; `None` when nobody can ask any more.
    fn gather(&mut self) -> Option<Group> {
        let mut group = Group::default();
        match self.queue.try_recv() {
            Ok(command) => group.add(command),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {
                if self.db.sweeping() {
                    return Some(group);
                }
                match self.sleep() {
                    Ok(command) => group.add(command),
                    Err(RecvTimeoutError::Timeout) => return Some(group),
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        }
        self.take_waiting(&mut group);
        // Who is about to write on a busy processor comes along: a commit costs the same for one and for many. On an
        // idle one this returns at once.
        std::thread::yield_now();
        self.take_waiting(&mut group);
        Some(group)
    }

    fn take_waiting(&self, group: &mut Group) {
        while !group.full() {
            match self.queue.try_recv() {
                Ok(command) => group.add(command),
                Err(_) => break,
            }
        }
    }

    fn sleep(&self) -> Result<Command, RecvTimeoutError> {
        match self.db.next_expiry() {
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => {
                let wait = Duration::from_millis(at.max(self.expiry_paused_until).saturating_sub(now()));
                self.queue.recv_timeout(wait.min(LONGEST_SLEEP))
            }
        }
    }

    fn commit(&mut self, group: Group) {
        let now = now();
        let Group { mut writes, replies, compactions, .. } = group;
        for (revision, reply) in compactions {
            let _ = reply.send(self.db.compact(revision));
        }
        let asked = writes.len();
        let expiring = self.db.next_expiry().is_some_and(|at| at <= now) && now >= self.expiry_paused_until;
        let committed = (|| {
            if expiring {
                writes.extend(self.db.expired(now, GROUP)?);
            }
            let sweep = if writes.is_empty() { SWEEP_IDLE } else { SWEEP.max(2 * writes.len()) };
            let until = self.db.sweepable(sweep, now.saturating_sub(self.history), self.history_events)?;
            if writes.is_empty() && !self.db.sweeping() {
                return Ok(None);
            }
            self.db.commit(&writes, now, sweep, until).map(Some)
        })();
        match committed {
            Ok(None) => {}
            Ok(Some(committed)) => {
                let pages = |event: &Event| 3 + event.value.as_ref().map_or(0, |value| value.len() / 4096);
                let pages = committed.events.iter().map(pages).sum();
                if !committed.events.is_empty() {
                    self.hub.publish(committed.revision, committed.events);
                }
                self.hub.set_trouble(None);
                for ((reply, _permit), outcome) in replies.into_iter().zip(committed.outcomes) {
                    let _ = reply.send(outcome.map_err(|current| StoreError::Conflict { current }));
                }
                if self.checkpointer.wrote(pages) {
                    let moved = self
                        .db
                        .checkpoint()
                        .inspect_err(|error| tracing::warn!(%error, "store checkpoint failed"));
                    self.checkpointer.moved(moved.is_ok_and(|moved| moved.all));
                }
            }
            Err(error) => {
                tracing::error!(%error, writes = asked, "store commit failed");
                self.hub.set_trouble(Some(error.to_string()));
                if expiring || asked == 0 {
                    self.expiry_paused_until = now + u64::try_from(RETRY.as_millis()).unwrap_or(1000);
                }
                if asked == 0 && !expiring {
                    // Sweeping on nobody's behalf: not at once again.
                    std::thread::sleep(RETRY);
                }
                for (reply, _permit) in replies {
                    let _ = reply.send(Err(copy(&error)));
                }
            }
        }
    }
}

/// One failure, told to everyone in the group.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Io(error) => StoreError::Io(std::io::Error::new(error.kind(), error.to_string())),
        StoreError::Corrupt(what) => StoreError::Corrupt(what.clone()),
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        other => StoreError::Unavailable(other.to_string()),
    }
}
