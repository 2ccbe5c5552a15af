//! The tables, and everything that speaks SQL.
//!
//! * `log(revision, key, created, previous, written, expires, value)`: one row a revision. `value` NULL is a
//!   deletion; `previous` the row this one replaced, 0 for none; `written` and `expires` in Unix milliseconds, 0 for
//!   never. The newest row is never removed, so revisions are never reused.
//! * `current(key, revision)`: the live keys.
//! * `ttl(expires, revision)`: the live rows that expire.
//! * `meta(name, value)`: `compacted`: history at and below it is gone; `swept`: how far its rows were removed.

use super::snapshot::Record;
use crate::{Event, Expect, KeyValue, Op, Range, Revision, StoreError, Write, Written};
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// "Iron", so that `file` and a stray sqlite3 see whose it is.
const APPLICATION_ID: i64 = 0x4972_6f6e;
/// Events read at once when a watch catches up.
const SLICE: usize = 256;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS log(revision INTEGER PRIMARY KEY, key BLOB NOT NULL, created INTEGER NOT NULL,
    previous INTEGER NOT NULL, written INTEGER NOT NULL, expires INTEGER NOT NULL, value BLOB);
CREATE TABLE IF NOT EXISTS current(key BLOB PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ttl(expires INTEGER NOT NULL, revision INTEGER NOT NULL,
    PRIMARY KEY(expires, revision)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES('compacted', 0), ('swept', 0);
";

// Two steps and no join: SQLite plans a join on a bound key anew each time it runs.
const POINTER: &str = "SELECT revision FROM current WHERE key = ?1";
const ROW: &str = "SELECT created, expires, value FROM log WHERE revision = ?1";

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Unavailable("no space left on the store's disk".into()),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
                Self::Io(std::io::Error::other(error.to_string()))
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// SQLite's integers are signed; ours count up from zero and never reach the difference.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn uint(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}

fn maybe_bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    Ok(row.get_ref(column)?.as_blob_or_null()?.map(Bytes::copy_from_slice))
}

fn head(connection: &Connection) -> rusqlite::Result<Revision> {
    // An empty store is at 1, as etcd is: 0 has a meaning of its own to Kubernetes' clients.
    connection
        .prepare_cached("SELECT max(revision) FROM log")?
        .query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.map_or(1, |n| u64::try_from(n).unwrap_or(1))))
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| uint(row, 0))
}

pub(super) fn connect(path: &Path, cache_bytes: usize, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(24);
    connection.pragma_update(None, "cache_size", -int((cache_bytes / 1024).max(64) as u64))?;
    Ok(connection)
}

/// The writer's side.
pub(super) struct Db {
    connection: Connection,
    revision: Revision,
    compacted: Revision,
    swept: Revision,
    /// When the first key expires, in Unix milliseconds.
    next_expiry: Option<u64>,
    /// A revision, and when it was written.
    peeked: Option<(Revision, u64)>,
}

/// What one transaction did.
pub(super) struct Committed {
    pub outcomes: Vec<Result<Written, Option<KeyValue>>>,
    pub events: Vec<Event>,
    pub revision: Revision,
}

struct Live {
    kv: KeyValue,
    expires: u64,
}

impl Db {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = connect(path, cache_bytes, flags)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // FULL: a transaction is on the disk when commit returns.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
        let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        if application != APPLICATION_ID {
            if application != 0 {
                return Err(StoreError::Corrupt(format!("{} is another program's database", path.display())));
            }
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        connection.execute_batch(&format!("BEGIN IMMEDIATE;{SCHEMA}COMMIT;"))?;
        let mut db = Self {
            revision: head(&connection)?,
            compacted: meta(&connection, "compacted")?,
            swept: meta(&connection, "swept")?,
            next_expiry: None,
            peeked: None,
            connection,
        };
        db.next_expiry = db.first_expiry()?;
        Ok(db)
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.next_expiry
    }

    fn first_expiry(&self) -> rusqlite::Result<Option<u64>> {
        let mut first = self.connection.prepare_cached("SELECT expires FROM ttl ORDER BY expires LIMIT 1")?;
        first.query_row([], |row| uint(row, 0)).optional()
    }

    /// Deletions of the keys whose time has come, at most `limit`.
    pub(super) fn expired(&self, now: u64, limit: usize) -> Result<Vec<Write>, StoreError> {
        let mut due = self.connection.prepare_cached(
            "SELECT l.key, l.revision FROM ttl t JOIN log l ON l.revision = t.revision
             WHERE t.expires <= ?1 ORDER BY t.expires, t.revision LIMIT ?2",
        )?;
        let due = due.query_map(params![int(now), int(limit as u64)], |row| {
            Ok(Write { key: bytes(row, 0)?, expect: Expect::Revision(uint(row, 1)?), op: Op::Delete })
        })?;
        Ok(due.collect::<Result<_, _>>()?)
    }

    /// Applies all of `writes` in one durable transaction, or nothing. A write whose expectation fails changes
    /// nothing and does not hinder the others. `sweep` rows of history at or below `until` are removed on the way.
    pub(super) fn commit(
        &mut self,
        writes: &[Write],
        now: u64,
        sweep: usize,
        until: Revision,
    ) -> Result<Committed, StoreError> {
        let mut events = Vec::with_capacity(writes.len());
        let mut outcomes = Vec::with_capacity(writes.len());
        let mut revision = self.revision;
        let mut ttl_changed = false;
        let transaction = Rollback::begin(&self.connection)?;
        for write in writes {
            let live = Self::live(&self.connection, &write.key)?;
            if !write.expect.holds(live.as_ref().map(|live| &live.kv)) {
                outcomes.push(Err(live.map(|live| live.kv)));
                continue;
            }
            let (value, ttl) = match &write.op {
                Op::Put { value, ttl } => (Some(value), *ttl),
                Op::Delete if live.is_none() => {
                    outcomes.push(Ok(Written { revision, prev: None }));
                    continue;
                }
                Op::Delete => (None, None),
            };
            revision += 1;
            let expires = ttl.map_or(0, |ttl| now + u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX >> 1));
            let created = live.as_ref().map_or(revision, |live| live.kv.create_revision);
            ttl_changed |= Self::put(
                &self.connection,
                &write.key,
                value,
                live.as_ref(),
                revision,
                created,
                now,
                expires,
            )?;
            let prev = live.map(|live| live.kv);
            events.push(Event {
                revision,
                key: write.key.clone(),
                value: value.cloned(),
                create_revision: created,
                prev: prev.as_ref().map(|kv| kv.value.clone()),
                prev_revision: prev.as_ref().map_or(0, |kv| kv.mod_revision),
            });
            outcomes.push(Ok(Written { revision, prev }));
        }
        let until = until.min(revision.saturating_sub(1));
        let swept = if sweep > 0 && until > self.swept {
            Self::sweep(&self.connection, self.swept, until.min(self.swept + sweep as u64))?
        } else {
            self.swept
        };
        let compacted = self.compacted.max(swept);
        transaction.commit()?;
        (self.revision, self.swept, self.compacted) = (revision, swept, compacted);
        if ttl_changed {
            // It is done: whatever fails from here on must not make it look undone. A wrong guess wakes us early.
            self.next_expiry = self.first_expiry().unwrap_or(Some(now));
        }
        Ok(Committed { outcomes, events, revision })
    }

    fn live(connection: &Connection, key: &Bytes) -> rusqlite::Result<Option<Live>> {
        let mut pointer = connection.prepare_cached(POINTER)?;
        let Some(revision) = pointer.query_row([&key[..]], |row| uint(row, 0)).optional()? else {
            return Ok(None);
        };
        let live = connection.prepare_cached(ROW)?.query_row([int(revision)], |row| {
            let kv = KeyValue {
                key: key.clone(),
                mod_revision: revision,
                create_revision: uint(row, 0)?,
                value: bytes(row, 2)?,
            };
            Ok(Live { kv, expires: uint(row, 1)? })
        })?;
        Ok(Some(live))
    }

    /// Tells whether the expiry index changed.
    fn put(
        connection: &Connection,
        key: &[u8],
        value: Option<&Bytes>,
        live: Option<&Live>,
        revision: Revision,
        created: Revision,
        now: u64,
        expires: u64,
    ) -> rusqlite::Result<bool> {
        let previous = live.map_or(0, |live| live.kv.mod_revision);
        connection.prepare_cached("INSERT INTO log VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
            int(revision),
            key,
            int(created),
            int(previous),
            int(now),
            int(expires),
            value.map(|value| &value[..])
        ])?;
        let mut current = connection.prepare_cached(match value {
            Some(_) => "INSERT OR REPLACE INTO current VALUES(?1, ?2)",
            None => "DELETE FROM current WHERE key = ?1 AND ?2",
        })?;
        current.execute(params![key, int(revision)])?;
        let expired = live.map_or(0, |live| live.expires);
        if expired != 0 {
            let mut forget =
                connection.prepare_cached("DELETE FROM ttl WHERE expires = ?1 AND revision = ?2")?;
            forget.execute(params![int(expired), int(previous)])?;
        }
        if expires != 0 {
            connection
                .prepare_cached("INSERT INTO ttl VALUES(?1, ?2)")?
                .execute(params![int(expires), int(revision)])?;
        }
        Ok(expired != 0 || expires != 0)
    }

    /// Removes the rows that the events in `(after, until]` replaced, and those events that are deletions.
    fn sweep(connection: &Connection, after: Revision, until: Revision) -> rusqlite::Result<Revision> {
        connection
            .prepare_cached(
                "DELETE FROM log WHERE revision IN
                 (SELECT previous FROM log WHERE revision > ?1 AND revision <= ?2 AND previous > 0)",
            )?
            .execute(params![int(after), int(until)])?;
        connection
            .prepare_cached("DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND value IS NULL")?
            .execute(params![int(after), int(until)])?;
        let mut note = connection.prepare_cached("UPDATE meta SET value = max(value, ?2) WHERE name = ?1")?;
        note.execute(params!["swept", int(until)])?;
        note.execute(params!["compacted", int(until)])?;
        Ok(until)
    }

    /// How far history may go: what was compacted on request, what is too old, what is too much.
    pub(super) fn sweepable(&mut self, chunk: usize, before: u64, keep: u64) -> Result<Revision, StoreError> {
        let requested = self.compacted;
        let crowded = self.revision.saturating_sub(keep);
        let chunk_end = self.swept + chunk as u64;
        if requested.max(crowded) >= chunk_end || requested > self.swept {
            return Ok(requested.max(crowded));
        }
        // Rows are in the order of their time: what lies behind one that is too young is too young as well.
        let known = self.peeked.is_some_and(|(revision, written)| {
            (self.swept + 1..=chunk_end).contains(&revision) && written >= before
        });
        if chunk_end > self.revision || known {
            return Ok(0);
        }
        let mut peek = self
            .connection
            .prepare_cached("SELECT written FROM log WHERE revision >= ?1 ORDER BY revision LIMIT 1")?;
        let written = peek.query_row([int(chunk_end)], |row| uint(row, 0)).optional()?;
        self.peeked = written.map(|written| (chunk_end, written));
        Ok(if written.is_some_and(|written| written < before) { chunk_end } else { 0 })
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        let revision = revision.min(self.revision);
        if revision > self.compacted {
            let mut note =
                self.connection.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'compacted'")?;
            note.execute([int(revision)])?;
            self.compacted = revision;
        }
        Ok(())
    }

    pub(super) fn sweeping(&self) -> bool {
        self.compacted.min(self.revision.saturating_sub(1)) > self.swept
    }

    /// Moves the write-ahead log into the database file, here and now.
    pub(super) fn checkpoint(&self) -> Result<Moved, StoreError> {
        checkpoint(&self.connection)
    }
}

/// What one checkpoint did.
#[derive(Clone, Copy)]
pub(super) struct Moved {
    /// Everything that the log held when the checkpoint began is in the database file. If that is still everything, the next
    /// write starts the log over.
    pub(super) all: bool,
    /// Pages in the log file since it was last started over.
    pub(super) log: usize,
}

pub(super) fn checkpoint(connection: &Connection) -> Result<Moved, StoreError> {
    Ok(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (busy, log, moved): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Moved { all: busy == 0 && log == moved, log: usize::try_from(log).unwrap_or(0) })
    })?)
}

/// A transaction that is undone unless committed.
struct Rollback<'a>(Option<&'a Connection>);

impl<'a> Rollback<'a> {
    fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self(Some(connection)))
    }

    fn commit(mut self) -> rusqlite::Result<()> {
        if let Some(connection) = self.0 {
            connection.prepare_cached("COMMIT")?.execute([])?;
            self.0 = None;
        }
        Ok(())
    }
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        // Some errors (a full disk) have rolled back already.
        if let Some(connection) = self.0
            && !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "store rollback failed");
        }
    }
}

/// Every live key of the database at one revision: first `None`, then each one, until `each` returns false. Returns the
/// revision. Opens a connection of its own and holds up nobody.
pub(super) fn each_live(
    path: &Path,
    mut each: impl FnMut(Revision, Option<Record>) -> bool,
) -> Result<Revision, StoreError> {
    let mut connection = connect(path, 1 << 20, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let snapshot = connection.transaction()?;
    let application: i64 = snapshot.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION_ID {
        return Err(StoreError::Corrupt(format!("{} is another program's database", path.display())));
    }
    let revision = head(&snapshot)?;
    if !each(revision, None) {
        return Ok(revision);
    }
    let mut rows = snapshot.prepare(
        "SELECT c.key, l.value, l.revision, l.created, l.expires FROM current c
         LEFT JOIN log l ON l.revision = c.revision ORDER BY c.key",
    )?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?.to_vec();
        let Some(value) = row.get_ref(1)?.as_blob_or_null().map_err(rusqlite::Error::from)? else {
            return Err(StoreError::Corrupt("a live key has no row in the log".into()));
        };
        let record = Record {
            key,
            value: value.to_vec(),
            modified: uint(row, 2)?,
            created: uint(row, 3)?,
            expires: uint(row, 4)?,
        };
        if !each(revision, Some(record)) {
            break;
        }
    }
    Ok(revision)
}

/// Fills a new database with live keys, in one transaction.
pub(super) struct Filler(Connection);

impl Filler {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let db = Db::open(path, 4 << 20)?;
        db.connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Self(db.connection))
    }

    pub(super) fn put(&mut self, r: &Record) -> Result<(), StoreError> {
        let log = "INSERT INTO log VALUES(?1, ?2, ?3, 0, 0, ?4, ?5)";
        self.0.prepare_cached(log)?.execute(params![
            int(r.modified),
            r.key,
            int(r.created),
            int(r.expires),
            r.value
        ])?;
        self.0
            .prepare_cached("INSERT INTO current VALUES(?1, ?2)")?
            .execute(params![r.key, int(r.modified)])?;
        if r.expires != 0 {
            self.0
                .prepare_cached("INSERT INTO ttl VALUES(?1, ?2)")?
                .execute(params![int(r.expires), int(r.modified)])?;
        }
        Ok(())
    }

    /// Commits; the store then stands at `revision`, with no history before it. The row that marks it is a deletion of
    /// the empty key, which nobody has.
    pub(super) fn finish(self, revision: Revision) -> Result<(), StoreError> {
        self.0.execute("INSERT OR IGNORE INTO log VALUES(?1, x'', ?1, 0, 0, 0, NULL)", [int(revision)])?;
        self.0.execute("UPDATE meta SET value = ?1", [int(revision)])?;
        self.0.execute_batch("COMMIT")?;
        // Everything into the one file; the log beside it goes with the connection.
        self.0.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

/// Read-only connections, made as needed; two are kept.
pub(super) struct Readers {
    path: PathBuf,
    cache_bytes: usize,
    idle: Mutex<Option<Vec<Reader>>>,
}

pub(super) struct Reader(Connection);

impl Readers {
    pub(super) fn new(path: PathBuf, cache_bytes: usize) -> Self {
        Self { path, cache_bytes, idle: Mutex::new(Some(Vec::new())) }
    }

    pub(super) fn close(&self) {
        *self.idle.lock() = None;
    }

    /// Runs `read` where it may block.
    pub(super) async fn run<T: Send + 'static>(
        readers: Arc<Self>,
        read: impl FnOnce(&mut Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let job = move || {
            let stopped = || StoreError::Unavailable("the store is shut down".into());
            let kept = readers.idle.lock().as_mut().ok_or_else(stopped)?.pop();
            let mut reader = match kept {
                Some(reader) => reader,
                None => {
                    Reader(connect(&readers.path, readers.cache_bytes, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
                }
            };
            let result = read(&mut reader);
            if let Some(idle) = readers.idle.lock().as_mut()
                && idle.len() < 2
                && result.is_ok()
            {
                idle.push(reader);
            }
            result
        };
        tokio::task::spawn_blocking(job).await.unwrap_or_else(|e| Err(StoreError::Unavailable(e.to_string())))
    }
}

impl Reader {
    pub(super) fn get(&mut self, key: &[u8]) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let snapshot = self.0.transaction()?;
        let revision = head(&snapshot)?;
        let live = Db::live(&snapshot, &Bytes::copy_from_slice(key))?;
        Ok((live.map(|live| live.kv), revision))
    }

    pub(super) fn range(&mut self, prefix: &[u8], limit: usize) -> Result<Range, StoreError> {
        let snapshot = self.0.transaction()?;
        let revision = head(&snapshot)?;
        let end = crate::prefix_end(prefix);
        let mut rows = snapshot.prepare_cached(
            "SELECT c.key, l.revision, l.created, l.value FROM current c JOIN log l ON l.revision = c.revision
             WHERE c.key >= ?1 AND (?2 IS NULL OR c.key < ?2) ORDER BY c.key LIMIT ?3",
        )?;
        let limit = if limit == 0 { -1 } else { int(limit as u64) };
        let kvs = rows
            .query_map(params![prefix, end, limit], |row| {
                Ok(KeyValue {
                    key: bytes(row, 0)?,
                    mod_revision: uint(row, 1)?,
                    create_revision: uint(row, 2)?,
                    value: bytes(row, 3)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Range { revision, kvs })
    }

    pub(super) fn compacted(&mut self) -> Result<Revision, StoreError> {
        Ok(meta(&self.0, "compacted")?)
    }

    /// The next events in `(after, upto]`, and the revision they reach to.
    pub(super) fn history(
        &mut self,
        after: Revision,
        upto: Revision,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        let snapshot = self.0.transaction()?;
        if after < meta(&snapshot, "compacted")? {
            return Err(StoreError::Compacted(after));
        }
        let mut rows = snapshot.prepare_cached(
            "SELECT l.revision, l.key, l.created, l.value, (SELECT p.value FROM log p WHERE p.revision = l.previous),
             l.previous FROM log l WHERE l.revision > ?1 AND l.revision <= ?2 ORDER BY l.revision LIMIT ?3",
        )?;
        let events = rows
            .query_map(params![int(after), int(upto), int(SLICE as u64)], |row| {
                Ok(Event {
                    revision: uint(row, 0)?,
                    key: bytes(row, 1)?,
                    create_revision: uint(row, 2)?,
                    value: maybe_bytes(row, 3)?,
                    prev: maybe_bytes(row, 4)?,
                    prev_revision: uint(row, 5)?,
                })
            })?
            .collect::<Result<Vec<_>, _>>()?;
        let reached = if events.len() == SLICE { events.last().map_or(upto, |e| e.revision) } else { upto };
        Ok((events, reached))
    }
}
